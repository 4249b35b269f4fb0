"""The lives of one shard that reads one source whose customers say which tags they have, and what they told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from bridge.commands.command import Kind
from bridge.commands.outcome import Result
from bridge.event.envelope import EventBuilder
from bridge.model import Collection
from bridge.observability.families import Vocabulary
from bridge.observability.metrics import Metrics
from bridge.runtime.glances import GlancePlan
from bridge.runtime.reader import SourceReader
from bridge.runtime.reading import Reading, ReadingPlan
from bridge.runtime.shard import Shard, ShardPorts
from bridge.source.provider import Source
from bridge.store.record import decode_record
from bridge.verify.event import decode
from tests.runtime.shards import NUMBER, TOPICS, Kafka, KeptStore, MemoryInbox, MemoryProducer
from tests.support.clock import VirtualClock


class Told(NamedTuple):
    """One committed event. tag: the name, of an edge."""

    verb: str
    uid: str
    path: str
    tag: str | None
    data: dict[str, Any]


class Lives:
    """See the module."""

    def __init__(
        self, clock: VirtualClock, source: Source, *, glance_s: float, sweep_s: float = 900.0, silent: bool = False
    ) -> None:
        self.clock = clock
        self.kafka = Kafka()
        self.store = KeptStore()
        nothing: frozenset[str] = frozenset()
        words = Vocabulary(
            frozenset({"acme"}), nothing, nothing, nothing, frozenset(map(str, Kind)), frozenset(map(str, Result))
        )
        self.metrics = Metrics(clock, words, "0")
        assert source.glances is not None
        self.reader = SourceReader(
            account=source.account,
            builder=EventBuilder(source.account),
            feeds=list(source.feeds.values()),
            plans=dict.fromkeys(source.feeds, ReadingPlan(5.0, sweep_s)),
            silent_snapshot=silent,
            clock=clock,
            metrics=self.metrics,
            spread=lambda: 0.0,
            glances=GlancePlan(source.glances, glance_s),
            commander=source.commander,
        )
        self.seen = 0

    def shard(self) -> Shard:
        async def restore(_: object) -> None:
            self.kafka.calls.append("restore")

        ports = ShardPorts(
            inbox=MemoryInbox(self.kafka),
            producer=lambda: MemoryProducer(self.kafka),
            open_store=lambda: self.store,
            discard_store=lambda: None,
            restore=restore,
        )
        return Shard(NUMBER, [self.reader], ports, TOPICS, self.clock, self.metrics)

    async def live(self, seconds: float, *, killed: bool = False) -> Shard:
        """One life, that is drained or killed after so long."""
        shard = self.shard()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(shard.serve())
            await asyncio.wait([task], timeout=seconds)
            if killed:
                task.cancel()
            else:
                shard.drain()
        return shard

    @asynccontextmanager
    async def living(self) -> AsyncIterator[Reading]:
        """A life that has read everything once; its reading of customers."""
        shard = self.shard()
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await asyncio.sleep(3)
            [reading] = [loop for loop in shard.readings["acme"] if loop.collection is Collection.CUSTOMERS]
            assert isinstance(reading, Reading)
            yield reading
            shard.drain()

    def news(self, *topics: str) -> list[Told]:
        """Committed events since the last time; each is checked as a consumer would."""
        found = []
        for record in self.kafka.records[self.seen :]:
            if record.topic in {f"b.{topic}" for topic in topics or ("customers", "tags")}:
                event = decode(_Read(record.key, record.value, tuple(record.headers)))
                tag = event.data.get("tag")
                path = event.data["cause"]["path"]
                found.append(Told(event.verb, event.uid, path, tag and tag["name"], event.data))
        self.seen = len(self.kafka.records)
        return found

    def bodies(self, collection: Collection) -> dict[str, dict[str, Any]]:
        """The documents of the committed state, by uid."""
        rows = self.store.scan(f"acme/{collection}/")
        documents = {key.rpartition("/")[2]: decode_record(value).document for key, value in rows}
        return {uid: body for uid, body in documents.items() if body is not None}

    def edges(self) -> set[tuple[str, str]]:
        """As the committed state has them."""
        customers = self.bodies(Collection.CUSTOMERS)
        return {(uid, tag) for uid, body in customers.items() for tag in body.get("tags", ())}


def folded(events: list[Told]) -> tuple[dict[str, Any], set[tuple[str, str]]]:
    """What all events of a source add up to, documents by key and edges; every step is checked. `Any`: JSON."""
    documents: dict[str, Any] = {}
    edges: Counter[tuple[str, str]] = Counter()
    for event in events:
        key = event.data["key"]
        assert documents.get(key) == event.data["before"]
        documents[key] = event.data["after"]
        if event.verb in ("tagged", "untagged"):
            edges[event.uid, event.data["tag"]["uid"]] += 1 if event.verb == "tagged" else -1
        elif event.verb in ("deleted", "merged"):
            for tag in (event.data["before"] or {}).get("tags", ()):
                edges[event.uid, tag] -= 1
    assert set(edges.values()) <= {0, 1}
    assert [event.data["sequence"] for event in events] == list(range(1, len(events) + 1))
    return {key: body for key, body in documents.items() if body}, {edge for edge, count in edges.items() if count}


class _Read(NamedTuple):
    key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
