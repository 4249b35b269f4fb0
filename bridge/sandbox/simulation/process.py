"""Process: one simulated process of a bridge: the real supervisor, assignment and shards over fake ports.

Built as `bridge.assembly` builds it. What is outside of the process hangs on its `Power`: when that is cut, no call
gets out any more and the tasks are ended, and what stays is the disk and what was on its way.

Tasks: one, which runs the supervisor; owned by the simulation's task group.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from bridge.clock import Clock
from bridge.errors import EnvironmentUnavailable
from bridge.event.envelope import EventBuilder
from bridge.model import Collection, Document
from bridge.observability.families import Vocabulary
from bridge.observability.metrics import Metrics
from bridge.publish.partitioner import partition_of
from bridge.publish.settings import ANSWER_DEADLINE_S
from bridge.publish.topics import Cluster, TopicPlan
from bridge.publish.transaction import Producer
from bridge.runtime.assignment import Assignment, OwnPartition
from bridge.runtime.membership import Member
from bridge.runtime.reading import ReadingPlan, SourceReader
from bridge.runtime.shard import Shard, ShardPorts
from bridge.runtime.supervisor import LifePorts, Supervisor
from bridge.sandbox.api import CLIENT_ID, CLIENT_SECRET, SandboxApi
from bridge.sandbox.broker.cluster import Broker
from bridge.sandbox.broker.inbox import FakeInbox
from bridge.sandbox.broker.link import Link, Power, PowerCut, Trouble
from bridge.sandbox.broker.producer import FakeProducer
from bridge.sandbox.broker.reader import fake_restore
from bridge.sandbox.broker.refusal import Lost
from bridge.sandbox.simulation.plan import Plan
from bridge.sandbox.simulation.story import Story, teller
from bridge.sandbox.world import World
from bridge.source import dintero
from bridge.source.feed import Cursor, Familiar, Feed, Page, none_familiar
from bridge.source.transport import Request, Response
from bridge.store.base import NO_FINGERPRINTS, Store
from bridge.store.memory import MemoryStore
from bridge.store.sqlite import SqliteStore, remove

GRACE_S = 30.0
CACHE_AGE_S_MAX = 3 * 86_400.0

API, STORE = "api", "store"
"""Kinds of calls, as `Power.cut_at` names them, beside those of the fake broker's clients."""


class Claim(NamedTuple):
    """A watermark: at this moment a process said that everything up to `until` is published. Wall-clock seconds."""

    source: str
    collection: Collection
    at: float
    until: float


class Opening(NamedTuple):
    """A shard's producer was opened. life: of which process. generation, owner: as the group saw it at that moment."""

    shard: int
    life: str
    generation: int
    owner: bool


@dataclass(slots=True)
class Outside:
    """What all processes share."""

    plan: Plan
    topics: TopicPlan
    broker: Broker
    apis: Mapping[str, SandboxApi]
    clock: Clock
    story: Story
    claims: list[Claim] = field(default_factory=list)
    openings: list[Opening] = field(default_factory=list)


class Disk:
    """What survives a process: a cache per shard, in memory or in a folder."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._kept: dict[int, MemoryStore] = {}

    def open(self, shard: int, power: Power, clock: Clock) -> Store:
        """The cache of a shard, as it was left."""
        if self._folder is None:
            return PoweredStore(self._kept.setdefault(shard, KeptStore()), power)
        identity = {"shard": str(shard)}
        return PoweredStore(SqliteStore.open(self._path(shard), identity, clock, age_s_max=CACHE_AGE_S_MAX), power)

    def discard(self, shard: int) -> None:
        """Forget one cache."""
        self._kept.pop(shard, None)
        if self._folder is not None:
            remove(self._path(shard))

    def lose(self) -> None:
        """Forget all of them."""
        self._kept.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, shard: int) -> Path:
        assert self._folder is not None
        return self._folder / f"shard-{shard}.sqlite"


class KeptStore(MemoryStore):
    """Like a file: what was applied survives a close."""

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class PoweredStore:
    """A store that stops when its process does. Implements `Store`."""

    store: Store
    power: Power

    @property
    def position(self) -> int:
        """See `Store.position`."""
        return self.store.position

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """See `Store.get_many`."""
        return self.store.get_many(keys)

    def fingerprints(self, keys: Sequence[str]) -> dict[str, bytes]:
        """See `Store.fingerprints`."""
        return self.store.fingerprints(keys)

    def apply(
        self,
        records: Iterable[tuple[str, bytes | None]],
        position: int,
        fingerprints: Mapping[str, bytes] = NO_FINGERPRINTS,
    ) -> None:
        """See `Store.apply`. The power may go before and behind it, not in between: it is all or nothing."""
        self.power.step(STORE)
        self.store.apply(records, position, fingerprints)
        self.power.step(STORE)

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """See `Store.scan`."""
        return self.store.scan(prefix)

    def close(self) -> None:
        """See `Store.close`."""
        self.store.close()


@dataclass(frozen=True, slots=True)
class ProcessClock:
    """The time as a process has it: it stands still while the process is frozen or dead. Implements `Clock`."""

    clock: Clock
    power: Power

    def wall(self) -> float:
        """See `Clock.wall`."""
        return self.clock.wall()

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return self.clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        await self.clock.sleep(seconds)
        await self.power.awake()
        if not self.power.alive:
            raise PowerCut


@dataclass(frozen=True, slots=True)
class ApiPort:
    """A provider in process; the world has gone on by the time it is asked. Implements `Transport`."""

    api: SandboxApi
    power: Power

    async def send(self, request: Request) -> Response:
        """See `Transport.send`."""
        self.power.step(API)
        await self.power.awake()
        self.api.world.advance(self.api.clock.wall())
        response = await self.api.send(request)
        await self.power.awake()
        self.power.step(API)
        return response

    async def close(self) -> None:
        """See `Transport.close`."""


class ShiftingFeed:
    """A feed whose pages sometimes show rows again as an earlier page has shown them. Implements `Feed`.

    As lists do while their rows shift, and replicas that lag. Only rows of what is still there: an old row of what is
    gone would be believed, and rightly.
    """

    def __init__(self, feed: Feed, alive: Callable[[str], bool], share: float, chance: Random) -> None:
        self._feed = feed
        self._alive = alive
        self._share = share
        self._chance = chance
        self._earlier: list[Document] = []
        self._newest: dict[str, Document] = {}

    @property
    def collection(self) -> Collection:
        """See `Feed.collection`."""
        return self._feed.collection

    async def page(self, cursor: Cursor | None, familiar: Familiar = none_familiar) -> Page:
        """See `Feed.page`."""
        page = await self._feed.page(cursor, familiar)
        self._newest.update({document.uid: document for document in page.documents})
        again: list[Document] = []
        if page.documents and self._share > 0 and self._chance.random() < self._share:
            again = [document for document in self._earlier if self._is_old(document)]
        if page.documents:
            self._earlier = list(page.documents)
        return replace(page, documents=[*page.documents, *again]) if again else page

    def sweep(self, cursor: Cursor) -> Cursor | None:
        """See `Feed.sweep`."""
        return self._feed.sweep(cursor)

    async def fetch(self, known: Sequence[Document]) -> Mapping[str, Document | None]:
        """See `Feed.fetch`."""
        return await self._feed.fetch(known)

    def _is_old(self, document: Document) -> bool:
        """Of what is there, and to be told from the newest copy: of two with one time stamp nobody knows the older."""
        newest = self._newest[document.uid]
        return self._alive(document.uid) and (document.version < newest.version or document.body == newest.body)


class ToldProducer(FakeProducer):
    """A producer whose opening is written down."""

    def __init__(self, told: Callable[[], None], link: Link, **options: Any) -> None:
        """`Any`: those of `FakeProducer`."""
        super().__init__(link, **options)
        self._told = told

    async def open(self) -> None:
        """See `Producer.open`."""
        await super().open()
        self._told()


class ToldMetrics(Metrics):
    """Metrics whose watermarks are also written down."""

    def __init__(self, outside: Outside, clock: Clock) -> None:
        sources = frozenset(outside.apis)
        super().__init__(clock, Vocabulary(sources, frozenset(), frozenset(), frozenset()), "0")
        self._outside = outside

    def caught_up(self, source: str, collection: Collection, wall_seconds: float) -> None:
        """See `Metrics.caught_up`."""
        super().caught_up(source, collection, wall_seconds)
        self._outside.claims.append(Claim(source, collection, self._outside.clock.wall(), wall_seconds))


class Process:
    """One life of a process, from start to end. name: the same for all lives on the same disk."""

    def __init__(self, name: str, life: int, disk: Disk, trouble: Trouble, outside: Outside) -> None:
        self.name = name
        self._life = f"{name}/{life}"
        self._outside = outside
        self._disk = disk
        chance = Random(f"{outside.plan.seed}/{name}/{life}")
        self.power = Power(outside.clock, died=self._ended)
        self._clock = ProcessClock(outside.clock, self.power)
        self._chance = chance
        self._link = Link(outside.broker, self._clock, self.power, trouble, Random(chance.random()))
        self._metrics = ToldMetrics(outside, self._clock)
        self._task: asyncio.Task[None] | None = None
        self._readers = self._build_readers()
        ports = LifePorts(self._prepare, self._prepare, self._inbox, self._assignment, chance.random)
        self.supervisor = Supervisor(ports, [], self._clock, grace_s=GRACE_S)

    async def live(self) -> None:
        """Until stopped or dead."""
        teller.set(self.name)
        self._outside.story.tell("starts")
        self._task = asyncio.current_task()
        try:
            await self.supervisor.run()
            self._outside.story.tell("has stopped")
        except PowerCut:
            pass
        except asyncio.CancelledError:
            self._outside.story.tell("is gone")
        finally:
            self.power.alive = False

    def cancel(self) -> None:
        """The hard stop."""
        if self._task is not None:
            self._task.cancel()

    def _ended(self) -> None:
        self._outside.story.tell(f"{self.name} is killed")
        if self._task is not None:
            # Not now: whoever is at work right now may be that task itself.
            asyncio.get_running_loop().call_soon(self._task.cancel)

    async def _prepare(self) -> Cluster:
        try:
            async with asyncio.timeout(ANSWER_DEADLINE_S):
                return await self._link.call("admin", lambda: self._outside.broker.cluster(self._outside.topics))
        except (TimeoutError, Lost):
            raise EnvironmentUnavailable("the fake Kafka cannot be asked for its topics") from None

    def _inbox(self) -> FakeInbox:
        return FakeInbox(self._link, self._outside.topics.inbox, self._outside.topics.bridge, self._clock)

    def _assignment(self, inbox: Member, cluster: Cluster) -> Assignment:
        return Assignment(
            inbox,
            lambda number: self._shard(number, inbox, cluster),
            self._disk.discard,
            self._clock,
            self._metrics,
            self._chance.random,
        )

    def _shard(self, number: int, inbox: Member, cluster: Cluster) -> Shard:
        topics = self._outside.topics.sized(cluster)

        def opened() -> None:
            group = self._outside.broker.group(topics.bridge, topics.inbox)
            owner = isinstance(inbox, FakeInbox) and inbox.name is not None and group.owner(number) == inbox.name
            self._outside.openings.append(Opening(number, self._life, group.generation, owner))

        def producer() -> Producer:
            return ToldProducer(
                opened,
                self._link,
                transactional_id=f"{topics.bridge}-{number}",
                group_id=topics.bridge,
                inbox=(topics.inbox, number),
                partitions=cluster.partitions,
                record_bytes_max=topics.record_bytes_max,
            )

        async def restore(store: Store) -> None:
            await fake_restore(self._link, self._chance, topics.state, number, store, self._clock, _silent, fenced=True)

        ports = ShardPorts(
            inbox=OwnPartition(inbox, number),
            producer=producer,
            open_store=lambda: self._disk.open(number, self.power, self._clock),
            discard_store=lambda: self._disk.discard(number),
            restore=restore,
            new_id=lambda: f"{self._chance.getrandbits(128):032x}",
        )
        return Shard(number, self._readers.get(number, ()), ports, topics, self._clock, self._metrics)

    def _build_readers(self) -> dict[int, list[SourceReader]]:
        readers: dict[int, list[SourceReader]] = {}
        for name, api in self._outside.apis.items():
            shard = partition_of(name.encode(), self._outside.plan.shards)
            readers.setdefault(shard, []).append(self._reader(name, api))
        return readers

    def _reader(self, name: str, api: SandboxApi) -> SourceReader:
        plan = self._outside.plan
        settings = dintero.DinteroSettings.model_validate(
            {
                "source": name,
                "account": api.world.account,
                "client_id": CLIENT_ID,
                "client_secret": CLIENT_SECRET,
                "request_rate": plan.request_rate,
                "page_limit": plan.page_limit,
            }
        )
        port = ApiPort(api, self.power)
        source = dintero.build(settings, port, self._clock, _Unobserved(), self._chance.random)
        return SourceReader(
            account=source.account,
            builder=EventBuilder(source.account),
            feeds=[
                ShiftingFeed(feed, partial(_alive, api.world, collection), plan.old_rows, self._chance)
                for collection, feed in source.feeds.items()
            ],
            plans={collection: ReadingPlan(plan.poll_interval_s) for collection in source.feeds},
            silent_snapshot=False,
            clock=self._clock,
            metrics=self._metrics,
            spread=self._chance.random,
        )


def _alive(world: World, collection: Collection, uid: str) -> bool:
    if collection is Collection.TAGS:
        return uid in world.tags
    return world.customers.alive(world.customers.row_of[uid])


class _Unobserved:
    """Counts nothing. Implements `RequestObserver`."""

    def request(self, endpoint: str, status: int | None, seconds: float) -> None:
        """See `RequestObserver`."""

    def throttled(self, seconds: float) -> None:
        """See `RequestObserver`."""

    def budget_remaining(self, value: float) -> None:
        """See `RequestObserver`."""


def _silent(_done: int, _total: int) -> None:
    """Tells nobody."""
