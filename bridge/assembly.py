"""Assembly: builds the objects of one process from its configuration, top to bottom, and lets go of them.

The only place where parts meet that do not know each other: providers' metrics, topics and limits, caches on disk and
the shards that use them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bridge import __version__
from bridge.clock import Clock
from bridge.commands.command import Kind, Reason
from bridge.commands.outcome import Result
from bridge.commands.receiver import CommandReceiver
from bridge.config import Config, SourceSection
from bridge.event.catalog import CATALOG
from bridge.event.envelope import EventBuilder
from bridge.model import Account, Collection
from bridge.observability.families import Vocabulary
from bridge.observability.logs import get_logger
from bridge.observability.metrics import Metrics
from bridge.observability.probes import ProbeServer
from bridge.observability.status import ProcessStatus
from bridge.publish.inbox import Inbox
from bridge.publish.partitioner import partition_of
from bridge.publish.producer import KafkaProducer
from bridge.publish.send import InboxDoor
from bridge.publish.statelog import restore
from bridge.publish.topics import Cluster, TopicPlan, ensure, inspect
from bridge.publish.witness import check_events
from bridge.runtime.assignment import Assignment, OwnPartition
from bridge.runtime.glances import GlancePlan
from bridge.runtime.group import Member
from bridge.runtime.lag import watch_lag
from bridge.runtime.memberships.loop import MembershipSource
from bridge.runtime.memberships.rounds import RoundsPlan
from bridge.runtime.reader import SourceReader
from bridge.runtime.reading import ReadingPlan
from bridge.runtime.report import process_status, proved_until
from bridge.runtime.shard import Shard, ShardPorts
from bridge.runtime.supervisor import Endpoint, LifePorts, Supervisor
from bridge.runtime.tasks import first_leaf
from bridge.source import dintero, rebilly
from bridge.source.api import RequestObserver
from bridge.source.client import Connections, HttpTransport
from bridge.source.provider import Source
from bridge.store.base import Store
from bridge.store.file import remove
from bridge.store.folder import CacheFolder
from bridge.store.sqlite import CACHE_KIB, SqliteStore

CACHE_AGE_S_MAX = 3 * 86_400.0
"""A cache that has not moved for longer is not read on from; tombstones stay in the log for 7 days."""

CACHES_KIB_MAX = 32 * 1024
"""Memory for pages of all caches together: a process with many busy shards must not take many times that of one."""

ENDPOINTS = frozenset(
    {
        "token",
        "tags.list",
        "users.list",
        "customers.list",
        "customers.read",
        "customers.timeline",
        "customers.tags",
        "customers.rename",
        "customers.tags.set",
        "tags.customers",
        "members.list",
        "members.count",
    }
)
"""Templates of the calls that are made."""

DEADLETTER_REASONS = frozenset({"malformed", "too_large"}) | frozenset(Reason)

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Bridge:
    """One process, ready to run."""

    supervisor: Supervisor
    metrics: Metrics
    probes: ProbeServer
    connections: Connections
    readers: Mapping[int, Sequence[SourceReader]]
    folder: CacheFolder
    clock: Clock

    async def run(self) -> None:
        """Until stopped; see `Supervisor.run`. Connections and the cache folder are released at the end."""
        try:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(watch_lag(self.clock, self.metrics), name="loop lag")
                await self.supervisor.run()
                watching.cancel()
        except BaseExceptionGroup as error:
            raise first_leaf(error) from None
        finally:
            await self.connections.close()
            self.folder.release()

    def stop(self) -> None:
        """Soft stop."""
        self.supervisor.stop()

    def proved_until(self) -> float:
        """Wall-clock seconds up to which every configured collection is published; 0 before the first reading."""
        return proved_until(self.supervisor, self.readers)


def topic_plan(config: Config) -> TopicPlan:
    """The topics of a configuration."""
    return TopicPlan(config.bridge.name, config.bridge.shards, config.kafka.partitions)


def account_of(section: SourceSection) -> Account:
    """Where the source's events come from."""
    return Account(section.id, section.provider, section.account)


def build_source(
    section: SourceSection, clock: Clock, observer: RequestObserver, connections: Connections | None = None
) -> Source:
    """The provider's side of one source. The caller closes it, and the connections that it shares with others."""
    if section.provider == rebilly.PROVIDER:
        rebilly_settings = section.rebilly()
        transport = HttpTransport(rebilly_settings.base_url, connections)
        return rebilly.build(rebilly_settings, transport, clock, observer)
    settings = section.dintero()
    return dintero.build(settings, HttpTransport(settings.base_url, connections), clock, observer)


def build_reader(config: Config, section: SourceSection, source: Source, clock: Clock) -> SourceReader:
    """What `run` would read of one source and how it would publish it, outside of any process that does."""
    return _reader(config, section, source, clock, Metrics(clock, _vocabulary(config), __version__))


def build(config: Config, clock: Clock) -> Bridge:
    """Everything of one process. Raises `EnvironmentUnavailable` when the data folder cannot be used."""
    metrics = Metrics(clock, _vocabulary(config), __version__)
    plan = topic_plan(config)
    connections = Connections()
    readers: dict[int, list[SourceReader]] = {}
    for section in config.sources:
        source = build_source(section, clock, SourceMetrics(section.id, metrics), connections)
        shard = partition_of(section.id.encode(), plan.shards)
        readers.setdefault(shard, []).append(_reader(config, section, source, clock, metrics))
    folder = CacheFolder.claim(config.bridge.data_dir, config.bridge.name)

    async def prepare() -> Cluster:
        return await ensure(config.kafka, plan, config.kafka.create_topics)

    async def inspected() -> Cluster:
        return await inspect(config.kafka, plan)

    def inbox() -> Inbox:
        return Inbox(config.kafka, plan.inbox, plan.bridge, clock)

    def assignment(inbox: Member, cluster: Cluster) -> Assignment:
        cache_kib = min(CACHE_KIB, CACHES_KIB_MAX // max(1, len(readers)))
        parts = ShardParts(config, plan.sized(cluster), cluster, folder.path, cache_kib, clock, metrics)
        return Assignment(
            inbox,
            lambda number: parts.shard(number, inbox, readers.get(number, ())),
            lambda number: remove(parts.cache(number)),
            clock,
            metrics,
        )

    def status() -> ProcessStatus:
        return process_status(supervisor, readers, plan.shards, metrics)

    door = InboxDoor(config.kafka, plan.inbox)
    receiver = CommandReceiver(config.command_tokens, door.send, clock)
    probes = ProbeServer(config.http.listen, metrics, status, receiver.routes)
    endpoints: list[Endpoint] = [probes, door]
    ports = LifePorts(prepare, inspected, inbox, assignment)
    supervisor = Supervisor(ports, endpoints, clock, grace_s=config.bridge.shutdown_grace)
    return Bridge(supervisor, metrics, probes, connections, readers, folder, clock)


@dataclass(frozen=True, slots=True)
class ShardParts:
    """What the shards of one life have in common; builds one at a time."""

    config: Config
    topics: TopicPlan
    cluster: Cluster
    folder: Path
    cache_kib: int
    clock: Clock
    metrics: Metrics

    def cache(self, number: int) -> Path:
        """The file that caches a shard's state."""
        return self.folder / f"shard-{number}.sqlite"

    def shard(self, number: int, inbox: Member, readers: Sequence[SourceReader]) -> Shard:
        """A new life of a shard."""
        identity = {"cluster": self.cluster.id, "topic": self.topics.state, "shard": str(number)}

        def producer() -> KafkaProducer:
            return KafkaProducer(
                self.config.kafka,
                transactional_id=f"{self.topics.bridge}-{number}",
                group_id=self.topics.bridge,
                inbox_topic=self.topics.inbox,
                shard=number,
                partitions=self.cluster.partitions,
                record_bytes_max=self.topics.record_bytes_max,
                clock=self.clock,
            )

        def open_store() -> Store:
            return SqliteStore.open(
                self.cache(number), identity, self.clock, age_s_max=CACHE_AGE_S_MAX, cache_kib=self.cache_kib
            )

        async def restored(store: Store) -> None:
            if isinstance(store, SqliteStore) and store.position > 0:
                await _sound(store)
            progress = RestoreProgress(number, self.clock)
            await restore(self.config.kafka, self.topics.state, number, store, self.clock, progress, fenced=True)
            names = [reader.account.source for reader in readers]
            await check_events(self.config.kafka, self.topics, names, store, self.clock)

        ports = ShardPorts(
            inbox=OwnPartition(inbox, number),
            producer=producer,
            open_store=open_store,
            discard_store=lambda: remove(self.cache(number)),
            restore=restored,
        )
        return Shard(number, readers, ports, self.topics, self.clock, self.metrics)


async def _sound(store: SqliteStore) -> None:
    """Look through a file that was left by an earlier life; in a thread, it may take seconds."""
    looking = asyncio.ensure_future(asyncio.to_thread(store.check))
    try:
        await asyncio.shield(looking)
    except asyncio.CancelledError:
        store.interrupt()
        while not looking.done():  # a second cancellation changes nothing: the store may be closed only behind it
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([looking])
        if not looking.cancelled():
            looking.exception()  # looked at, or the loop would report it as forgotten
        raise


class RestoreProgress:
    """Log lines for a restore that takes long; nothing for one that does not."""

    INTERVAL_S = 5.0

    def __init__(self, shard: int, clock: Clock) -> None:
        self._shard = shard
        self._clock = clock
        self._due = clock.monotonic() + self.INTERVAL_S

    def __call__(self, done: int, total: int) -> None:
        if self._clock.monotonic() >= self._due:
            self._due += self.INTERVAL_S
            log.info("restoring", shard=self._shard, done=done, total=total)


@dataclass(frozen=True, slots=True)
class SourceMetrics:
    """What the client of one source tells, as metrics. Implements `RequestObserver`."""

    source: str
    metrics: Metrics

    def request(self, endpoint: str, status: int | None, seconds: float) -> None:
        """One exchange ended."""
        self.metrics.api_request(self.source, endpoint, status, seconds)

    def throttled(self, seconds: float) -> None:
        """The source is held for so much longer."""
        self.metrics.api_throttled(self.source, seconds)

    def budget_remaining(self, value: float) -> None:
        """Requests that could be sent now."""
        self.metrics.api_budget(self.source, value)


def _reader(config: Config, section: SourceSection, source: Source, clock: Clock, metrics: Metrics) -> SourceReader:
    limit = section.delete_limit.limit()
    plans = {
        name: ReadingPlan(
            section.poll_interval_s(name),
            section.sweep_interval,
            limit,
            poll_interval_s_max=section.poll_interval_s_max(name),
        )
        for name in section.collections
    }
    memberships = glances = None
    if Collection.MEMBERSHIPS in section.collections:
        poll_interval_s = section.poll_interval_s(Collection.MEMBERSHIPS)
        if source.memberships is not None:
            rounds = RoundsPlan(poll_interval_s, section.sweep_interval, section.request_budget)
            memberships = MembershipSource(source.memberships, rounds)
        elif source.glances is not None:
            glances = GlancePlan(source.glances, poll_interval_s)
    return SourceReader(
        account=account_of(section),
        builder=EventBuilder(account_of(section), config.bridge.content_mode),
        feeds=[source.feeds[name] for name in section.collections if name in source.feeds],
        plans=plans,
        silent_snapshot=section.snapshot == "silent",
        clock=clock,
        metrics=metrics,
        memberships=memberships,
        glances=glances,
        commander=source.commander,
        mirrors=[mirror.rule() for mirror in config.mirrors if mirror.from_[0] == section.id],
    )


def _vocabulary(config: Config) -> Vocabulary:
    return Vocabulary(
        sources=frozenset(section.id for section in config.sources),
        endpoints=ENDPOINTS,
        event_types=frozenset(kind.type for kind in CATALOG),
        reasons=frozenset(map(str, DEADLETTER_REASONS)),
        kinds=frozenset(map(str, Kind)),
        outcomes=frozenset(map(str, Result)),
        mirrors=frozenset(mirror.name for mirror in config.mirrors),
    )
