"""Three nodes, of which one or two go away: what was answered stays, what was not is known not to be (K05, K06)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from bridge.errors import CommitUnknown, EnvironmentUnavailable, Fenced, PublishError, PublishFailed
from bridge.publish.hanging import _java_hash as java_hash
from bridge.publish.producer import KafkaProducer
from bridge.publish.settings import KafkaSettings
from bridge.publish.topics import TopicPlan, ensure
from bridge.publish.transaction import Record
from bridge.sandbox.kafka import LocalKafka
from tests.publish.benching import Bench, HeldCommit
from tests.support.cluster import Cluster

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

TRIES_MAX = 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        asyncio.run(cluster.start())
        yield cluster
    finally:
        asyncio.run(cluster.stop())


@pytest.fixture
async def bench(cluster: Cluster, bridge_name: str) -> AsyncIterator[Bench]:
    settings = KafkaSettings(
        bootstrap_servers=cluster.servers, produce_deadline_s=4.0, commit_deadline_s=4.0, answer_deadline_s=20.0
    )
    plan = TopicPlan(bridge_name, 2)
    bench = Bench(settings, plan, await ensure(settings, plan, create=True))
    yield bench
    await bench.close()
    await cluster.whole()


def step(bench: Bench, number: int) -> list[Record]:
    """The same value in a state partition and in an event topic: a torn transaction shows in one only."""
    value = b"%d" % number
    return [
        Record(bench.plan.customers, None, b"acme/%d" % number, value),
        Record(bench.plan.state, 0, b"acme/customers/%d" % number, value),
    ]


async def whole(bench: Bench) -> list[bytes]:
    """What is committed, having checked that no transaction is half there."""
    events = [value or b"" for value in await bench.values(bench.plan.customers)]
    states = [value or b"" for value in await bench.values(bench.plan.state)]
    assert sorted(events) == sorted(states)
    return states


async def opened(bench: Bench) -> KafkaProducer:
    """As the runtime does: tried again while a coordinator moves."""
    for _ in range(TRIES_MAX):
        try:
            return await bench.opened()
        except (EnvironmentUnavailable, Fenced):
            await asyncio.sleep(0.5)
    raise AssertionError("no producer could be opened")


class Owner:
    """Publishes as a shard does: after an error a new producer, and what the log does not have once more."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.acknowledged: list[int] = []
        self.errors: list[PublishError] = []
        self._producer: KafkaProducer | None = None

    async def publish(self, number: int) -> None:
        value = b"%d" % number
        for _ in range(TRIES_MAX):
            if self._producer is None:
                self._producer = await opened(self.bench)
                if self.errors and value in await whole(self.bench):
                    break
            try:
                receipt = await self._producer.publish(step(self.bench, number), number)
            except PublishError as error:
                self.errors.append(error)
                await self._producer.abandon()
                self._producer = None
                continue
            if receipt.tainted:
                await self._producer.abandon()
                self._producer = None
            break
        else:
            raise AssertionError(f"step {number} could not be published: {self.errors}")
        self.acknowledged.append(number)


async def coordinator(bench: Bench, cluster: Cluster, topic: str, name: str) -> LocalKafka:
    """The node that coordinates a transactional id, or a group."""
    return await asyncio.to_thread(cluster.leader, topic, java_hash(name) % 3)


@pytest.mark.parametrize("role", ["leader of the state", "transaction coordinator", "group coordinator"])
async def test_a_node_that_dies_in_the_middle_of_a_transaction_loses_and_doubles_nothing(
    cluster: Cluster, bench: Bench, role: str
) -> None:
    owner = Owner(bench)
    for number in range(3):
        await owner.publish(number)
    match role:
        case "leader of the state":
            node = await asyncio.to_thread(cluster.leader, bench.plan.state, 0)
        case "transaction coordinator":
            node = await coordinator(bench, cluster, "__transaction_state", f"{bench.plan.bridge}-0")
        case _:
            node = await coordinator(bench, cluster, "__consumer_offsets", bench.plan.bridge)
    assert owner._producer is not None
    held = HeldCommit(owner._producer)
    publishing = asyncio.create_task(owner.publish(3))
    await held.reached.wait()
    node.kill()
    held.go_on.set()
    await publishing
    for number in range(4, 8):
        await owner.publish(number)
    assert owner.acknowledged == list(range(8))
    assert await whole(bench) == [b"%d" % number for number in range(8)]


async def test_too_few_replicas_fail_the_step_in_time_and_it_comes_back_by_itself(
    cluster: Cluster, bench: Bench
) -> None:
    """Two of three nodes are frozen in turn until one replica is left, which must not take anything alone."""
    owner = Owner(bench)
    await owner.publish(1)
    leader = await asyncio.to_thread(cluster.leader, bench.plan.state, 0)
    others = [node for node in cluster.nodes.values() if node is not leader]
    producer = await opened(bench)
    for node in others:
        node.pause()
    try:
        async with asyncio.timeout(bench.settings.produce_deadline_s + bench.settings.commit_deadline_s + 5.0):
            with pytest.raises((PublishFailed, CommitUnknown)):
                await producer.publish(step(bench, 2), 2)
    finally:
        for node in others:
            node.resume()
    await producer.abandon()
    owner = Owner(bench)
    owner.errors.append(PublishFailed())
    for number in (2, 3):
        await owner.publish(number)
    assert await whole(bench) == [b"1", b"2", b"3"]
