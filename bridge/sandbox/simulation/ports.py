"""Ports: what a simulated process stands on: disk, clock, provider, and a few that also write down what they are told.

Everything that reaches out of the process hangs on its `Power`. Its way to Kafka is in `bridge.sandbox.broker`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from bridge.clock import Clock
from bridge.model import Collection, Document, Fate
from bridge.observability.families import Vocabulary
from bridge.observability.metrics import Metrics
from bridge.sandbox.broker.link import Link, Power, PowerCut
from bridge.sandbox.broker.producer import FakeProducer
from bridge.sandbox.simulation.vendors import Api, Vendor
from bridge.source.feed import Cursor, Familiar, Feed, Page, none_familiar
from bridge.source.transport import Request, Response
from bridge.store.base import NO_FINGERPRINTS, Store
from bridge.store.file import remove
from bridge.store.memory import MemoryStore
from bridge.store.sqlite import SqliteStore

CACHE_AGE_S_MAX = 3 * 86_400.0

_JSON = {"content-type": "application/json; charset=utf-8"}

API, STORE = "api", "store"
"""Kinds of calls, as `Power.cut_at` names them, beside those of the fake broker's clients."""


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

    def keys_after(self, folder: str, after: int, limit: int) -> tuple[list[str], int | None]:
        """See `Store.keys_after`."""
        return self.store.keys_after(folder, after, limit)

    def members(self, source: str, tag: str) -> Iterator[str]:
        """See `Store.members`."""
        return self.store.members(source, tag)

    def members_count(self, source: str, tag: str) -> int:
        """See `Store.members_count`."""
        return self.store.members_count(source, tag)

    def member_tags(self, source: str) -> list[str]:
        """See `Store.member_tags`."""
        return self.store.member_tags(source)

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


@dataclass(slots=True)
class Lies:
    """What one provider does that no switch of it does.

    hidden: by tag, how many of the next lists of its members are empty; until then nobody is counted either. Lists of
    contacts alone are not meant. forbidden: endpoints that answer 403.
    """

    hidden: dict[str, int] = field(default_factory=dict)
    forbidden: set[str] = field(default_factory=set)

    def answer(self, endpoint: str | None, request: Request) -> Response | None:
        """Instead of the provider's own. endpoint: where the request leads, None where no right is needed."""
        if endpoint is None:
            return None
        if endpoint in self.forbidden:
            return Response(403, _JSON, b'{"error":{"message":"forbidden"}}')
        asked = dict(request.query)
        tag = asked.get("tag_id", "")
        if tag in self.hidden and asked.get("type") != "contact":
            if "type" not in asked:
                self.hidden[tag] -= 1
            if not self.hidden[tag]:
                del self.hidden[tag]
            return Response(200, {**_JSON, "total-count": "0"}, b"[]")
        return None


@dataclass(frozen=True, slots=True)
class ApiPort:
    """A provider in process; the world has gone on by the time it is asked. Implements `Transport`."""

    api: Api
    power: Power
    lies: Lies
    vendor: Vendor

    async def send(self, request: Request) -> Response:
        """See `Transport.send`."""
        self.power.step(API)
        await self.power.awake()
        self.api.world.advance(self.api.clock.wall())
        instead = self.lies.answer(self.vendor.endpoint(self.api, request), request)
        response = instead or await self.api.send(request)
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

    async def break_off(self) -> None:
        """See `Feed.break_off`."""
        await self._feed.break_off()

    async def fetch(self, known: Sequence[Document]) -> Mapping[str, Fate]:
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
    """Metrics whose watermarks are also told to somebody: source, collection, until when."""

    def __init__(self, sources: Iterable[str], told: Callable[[str, Collection, float], None], clock: Clock) -> None:
        super().__init__(clock, Vocabulary(frozenset(sources), frozenset(), frozenset(), frozenset()), "0")
        self._told = told

    def caught_up(self, source: str, collection: Collection, wall_seconds: float) -> None:
        """See `Metrics.caught_up`."""
        super().caught_up(source, collection, wall_seconds)
        self._told(source, collection, wall_seconds)
