"""The same tests on the fake Kafka and on a real one: what each needs to be driven by them.

The fake is driven in virtual time, so its sessions and timeouts cost nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Protocol

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bridge.clock import Clock
from bridge.publish.inbox import Inbox
from bridge.publish.producer import KafkaProducer
from bridge.publish.reading import Message
from bridge.publish.settings import KafkaSettings
from bridge.publish.statelog import Restored, restore
from bridge.publish.topics import Topic, TopicPlan
from bridge.publish.transaction import Producer
from bridge.runtime.group import Member
from bridge.sandbox.broker.cluster import Broker
from bridge.sandbox.broker.inbox import FakeInbox
from bridge.sandbox.broker.link import Link, Power, Trouble
from bridge.sandbox.broker.producer import FakeProducer
from bridge.sandbox.broker.reader import fake_restore, message_of
from bridge.sandbox.virtual import VirtualClock, run_virtual
from bridge.store.base import Store
from tests.publish.benching import SHARDS, Bench, HeldCommit, bench_on

# The shortest session a default broker allows is 6 s; the one of the tests allows 1 s.
SESSION_S, HEARTBEAT_S, REBALANCE_S = 2.0, 0.2, 5.0


class Held(Protocol):
    """A producer that stops between its last acknowledgement and its commit."""

    reached: asyncio.Event
    go_on: asyncio.Event


class Rig(Protocol):
    """One Kafka with a bridge's topics."""

    plan: TopicPlan
    clock: Clock
    record_bytes_max: int

    def producer(self, shard: int = 0, *, record_bytes_max: int | None = None, timeout_s: float = 30.0) -> Producer: ...

    def hold(self, producer: Producer) -> Held: ...

    async def committed(self, *topics: str) -> list[Message]:
        """What a `read_committed` reader sees now."""
        ...

    async def settled(self, *topics: str) -> None:
        """Until no transaction is open in these."""
        ...

    async def send(self, partition: int, values: Sequence[bytes]) -> None:
        """Records into the inbox, as the receiver of webhooks writes them."""
        ...

    async def create(self, topic: str, limit: int) -> None:
        """A topic of one partition that takes records up to a limit; producers know it from now on."""
        ...

    def member(self) -> Member: ...

    async def die(self, member: Member) -> None:
        """The member is gone without a word."""
        ...

    async def restore(self, store: Store, shard: int, *, fenced: bool, ahead_s: float = 0.0) -> Restored: ...


class Ahead:
    """A clock that is ahead of another."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds

    def wall(self) -> float:
        return self._clock.wall() + self._seconds

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)


class RealRig:
    """Implements `Rig` on a real Kafka."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.plan = bench.plan
        self.clock: Clock = bench.clock
        self.record_bytes_max = bench.plan.record_bytes_max

    def producer(self, shard: int = 0, *, record_bytes_max: int | None = None, timeout_s: float = 30.0) -> Producer:
        settings = self._bench.settings.model_copy(update={"transaction_timeout_s": timeout_s})
        return self._bench.producer(shard, settings, record_bytes_max)

    def hold(self, producer: Producer) -> Held:
        assert isinstance(producer, KafkaProducer)
        return HeldCommit(producer)

    async def committed(self, *topics: str) -> list[Message]:
        return await self._bench.committed(*topics, settle=False)

    async def settled(self, *topics: str) -> None:
        await self._bench.settled(*topics)

    async def send(self, partition: int, values: Sequence[bytes]) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self._bench.settings.bootstrap_servers)
        await producer.start()
        for value in values:
            await producer.send_and_wait(self.plan.inbox, value, key=b"acme", partition=partition)
        await producer.stop()

    async def create(self, topic: str, limit: int) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bench.settings.bootstrap_servers)
        await admin.start()
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs={"max.message.bytes": str(limit)})])
        await admin.close()
        self._bench.cluster.partitions[topic] = 1

    def member(self) -> Member:
        return Inbox(self._brisk(), self.plan.inbox, self.plan.bridge, self.clock)

    async def die(self, member: Member) -> None:
        assert isinstance(member, Inbox)
        await member._cut()

    async def restore(self, store: Store, shard: int, *, fenced: bool, ahead_s: float = 0.0) -> Restored:
        clock = Ahead(self.clock, ahead_s)
        return await restore(self._bench.settings, self.plan.state, shard, store, clock, _silent, fenced=fenced)

    def _brisk(self) -> KafkaSettings:
        return self._bench.settings.model_copy(
            update={"session_timeout_s": SESSION_S, "heartbeat_s": HEARTBEAT_S, "rebalance_timeout_s": REBALANCE_S}
        )


class FakeRig:
    """Implements `Rig` on the fake."""

    def __init__(self, clock: VirtualClock) -> None:
        self.plan = TopicPlan("t", SHARDS)
        self.clock: Clock = clock
        self.broker = Broker(clock, Random(1))
        self._cluster = self.broker.cluster(self.plan)
        self.record_bytes_max = self._cluster.record_bytes_max

    def link(self, trouble: Trouble | None = None) -> Link:
        return Link(self.broker, self.clock, Power(self.clock), trouble or Trouble(), Random(2))

    def producer(self, shard: int = 0, *, record_bytes_max: int | None = None, timeout_s: float = 30.0) -> Producer:
        return FakeProducer(
            self.link(),
            transactional_id=f"{self.plan.bridge}-{shard}",
            group_id=self.plan.bridge,
            inbox=(self.plan.inbox, shard),
            partitions=self._cluster.partitions,
            record_bytes_max=record_bytes_max or self.record_bytes_max,
            transaction_timeout_s=timeout_s,
        )

    def hold(self, producer: Producer) -> Held:
        assert isinstance(producer, FakeProducer)
        return FakeHeld(producer)

    async def committed(self, *topics: str) -> list[Message]:
        return [
            message_of((topic, number), entry)
            for topic in topics
            for number in range(self.broker.partitions(topic))
            for entry in self.broker.read((topic, number), 0)
        ]

    async def settled(self, *topics: str) -> None:
        logs = [self.broker.log((topic, number)) for topic in topics for number in range(self.broker.partitions(topic))]
        while any(log.stable_end != log.end for log in logs):
            await self.clock.sleep(0.01)
            self.broker.catch_up()

    async def send(self, partition: int, values: Sequence[bytes]) -> None:
        for value in values:
            self.broker.send(self.plan.inbox, partition, b"acme", value)

    async def create(self, topic: str, limit: int) -> None:
        self.broker.create([Topic(topic, 1, {"max.message.bytes": str(limit)}, fixed=False)])
        self._cluster.partitions[topic] = 1

    def member(self) -> Member:
        return FakeInbox(
            self.link(),
            self.plan.inbox,
            self.plan.bridge,
            self.clock,
            session_s=SESSION_S,
            heartbeat_s=HEARTBEAT_S,
            rebalance_s=REBALANCE_S,
        )

    async def die(self, member: Member) -> None:
        assert isinstance(member, FakeInbox)
        member._link.power.cut()

    async def restore(self, store: Store, shard: int, *, fenced: bool, ahead_s: float = 0.0) -> Restored:
        clock = Ahead(self.clock, ahead_s)
        return await fake_restore(self.link(), Random(3), self.plan.state, shard, store, clock, _silent, fenced=fenced)


class FakeHeld:
    """See `Held`."""

    def __init__(self, producer: FakeProducer) -> None:
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        commit = producer._commit

        async def held() -> None:
            self.reached.set()
            await self.go_on.wait()
            await commit()

        producer._commit = held  # type: ignore[method-assign]  # there is no other way to see that moment


Case = Callable[[Rig], Awaitable[None]]


def on_both(case: Case) -> Callable[[pytest.FixtureRequest, str], None]:
    """A case as a test of both: `test_x[fake]` and `test_x[real]`."""

    def test(request: pytest.FixtureRequest, kind: str) -> None:
        if kind == "fake":
            run_virtual(lambda clock: case(FakeRig(clock)))
            return
        servers, name = request.getfixturevalue("bootstrap_servers"), request.getfixturevalue("bridge_name")

        async def real() -> None:
            bench = await bench_on(servers, name)
            try:
                await case(RealRig(bench))
            finally:
                await bench.close()

        asyncio.run(real())

    test.__name__, test.__doc__ = getattr(case, "__name__", "test"), case.__doc__
    both = pytest.mark.parametrize("kind", ["fake", pytest.param("real", marks=pytest.mark.kafka)])
    return both(test)


def _silent(_done: int, _total: int) -> None:
    """Tells nobody."""
