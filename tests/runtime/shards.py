"""A shard on ports that a test can watch and break: a producer in memory, an inbox partition, a provider in process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bridge.commands.command import Kind
from bridge.commands.outcome import Result
from bridge.errors import PublishError
from bridge.event.envelope import EventBuilder
from bridge.model import Account, Collection
from bridge.observability.families import Vocabulary
from bridge.observability.metrics import Metrics
from bridge.publish.topics import TopicPlan
from bridge.publish.transaction import Receipt, Record
from bridge.runtime.reader import SourceReader
from bridge.runtime.reading import ReadingPlan
from bridge.runtime.shard import Shard, ShardPorts
from bridge.sandbox.api import SandboxApi
from bridge.sandbox.population.life import Rates
from bridge.sandbox.switches import Switches
from bridge.sandbox.world import World
from bridge.source import dintero
from bridge.store.base import Store
from bridge.store.memory import MemoryStore
from tests.support.clock import VirtualClock

TOPICS = TopicPlan("b", 4)
NUMBER = 2


@dataclass
class Kafka:
    """What is committed, and every call in order."""

    calls: list[str] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    offset: int | None = None
    state_end: int = 0
    fail: Callable[[int], PublishError | None] = lambda _: None
    tainted: bool = False
    stuck: bool = False
    published: int = 0
    confirmed_at: float = float("inf")

    def events(self, topic: str) -> list[Record]:
        return [record for record in self.records if record.topic == f"b.{topic}"]


class MemoryProducer:
    """Implements `Producer` over `Kafka`."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka

    async def open(self) -> None:
        self._kafka.calls.append("open")

    async def publish(self, records: Sequence[Record], inbox_offset: int | None) -> Receipt:
        kafka = self._kafka
        kafka.published += 1
        await asyncio.sleep(0.01)
        if kafka.stuck:
            await asyncio.sleep(1e9)
        error = kafka.fail(kafka.published)
        if error is not None:
            raise error
        kafka.records += records
        kafka.offset = inbox_offset if inbox_offset is not None else kafka.offset
        kafka.state_end += len([record for record in records if record.topic == TOPICS.state]) + 1
        return Receipt({(TOPICS.state, NUMBER): kafka.state_end - 2}, kafka.tainted)

    async def close(self) -> None:
        self._kafka.calls.append("close")

    async def abandon(self) -> None:
        self._kafka.calls.append("abandon")


class MemoryInbox:
    """Implements `InboxPartition`."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka

    async def committed(self) -> int | None:
        self._kafka.calls.append("committed")
        return self._kafka.offset

    async def beginning(self) -> int:
        return 0

    def seek(self, offset: int) -> None:
        self._kafka.calls.append(f"seek {offset}")

    def pause(self) -> None:
        self._kafka.calls.append("pause")

    def resume(self) -> None:
        self._kafka.calls.append("resume")

    def confirmed_at(self) -> float:
        return self._kafka.confirmed_at


class KeptStore(MemoryStore):
    """Like a file: what was applied survives a close."""

    def close(self) -> None:
        pass


class House:
    """One provider, one Kafka, and the lives of one shard between them."""

    def __init__(self, clock: VirtualClock, customers: int = 50, tags: int = 8, **switches: str | int) -> None:
        """Of the switches one is the reader's: `lanes`, pages of the first reading that are asked side by side."""
        lanes = int(switches.pop("lanes", 4))
        self.clock = clock
        self.kafka = Kafka()
        self.store: Store = KeptStore()
        self.world = World(1, customers, tags, Rates(), clock)
        self.api = SandboxApi(self.world, Switches.parse([f"{k}={v}" for k, v in switches.items()]), clock)
        account = Account("acme", "dintero", "T12345678")
        nothing: frozenset[str] = frozenset()
        words = Vocabulary(
            frozenset({"acme", "billing"}),
            nothing,
            nothing,
            nothing,
            frozenset(map(str, Kind)),
            frozenset(map(str, Result)),
            frozenset({"there", "back"}),
        )
        self.metrics = Metrics(clock, words, "0")
        settings = dintero.DinteroSettings(
            source="acme",
            account="T12345678",
            client_id="sandbox",
            client_secret="sandbox-secret",
            request_rate=1000,
            snapshot_parallelism=lanes,
        )
        self.source = dintero.build(settings, self.api, clock, _Silent(), lambda: 0.0)
        self.reader = SourceReader(
            account=account,
            builder=EventBuilder(account),
            feeds=list(self.source.feeds.values()),
            plans={name: ReadingPlan(5.0) for name in (Collection.CUSTOMERS, Collection.TAGS)},
            silent_snapshot=False,
            clock=clock,
            metrics=self.metrics,
            commander=self.source.commander,
        )
        self.readers: list[SourceReader] = []  # instead of `reader`, where a test needs several

    def shard(self) -> Shard:
        async def restore(_: Store) -> None:
            self.kafka.calls.append("restore")

        ports = ShardPorts(
            inbox=MemoryInbox(self.kafka),
            producer=lambda: MemoryProducer(self.kafka),
            open_store=lambda: self.store,
            discard_store=lambda: None,
            restore=restore,
        )
        return Shard(NUMBER, self.readers or [self.reader], ports, TOPICS, self.clock, self.metrics)

    async def live(self, seconds: float) -> Shard:
        """One life that is drained after so long; raises what breaks it."""
        shard = self.shard()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(shard.serve())
            await asyncio.wait([task], timeout=seconds)
            shard.drain()
        return shard

    def types(self, topic: str) -> list[str]:
        """Of the committed events of a topic, in order."""
        return [dict(r.headers)["ce_type"].decode().removeprefix("bridge.") for r in self.kafka.events(topic)]


class _Silent:
    def request(self, endpoint: str, status: int | None, seconds: float) -> None: ...

    def throttled(self, seconds: float) -> None: ...

    def budget_remaining(self, value: float) -> None: ...
