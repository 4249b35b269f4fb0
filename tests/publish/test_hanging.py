"""A transaction whose markers Kafka forgot ends as it was meant when the shard's next producer opens.

The broker of these tests does not ask its coordinator whether a transaction may write to a partition, so a client
can write to partitions that the coordinator does not know of. That leaves behind exactly what skipped markers leave:
a transaction that is complete, and partitions that have never heard of its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddOffsetsToTxnResponse_v0,
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse_v0,
)

from bridge.errors import PublishFailed, StateLost
from bridge.publish.hanging import DescribeProducersRequest, DescribeTransactionsRequest, _java_hash
from bridge.publish.producer import KafkaProducer
from bridge.publish.statelog import restore
from bridge.publish.transaction import Record
from bridge.sandbox.kafka import KafkaSettings as BrokerSettings
from bridge.sandbox.kafka import LocalKafka
from bridge.store.memory import MemoryStore
from tests.publish.benching import Bench, HeldCommit, bench_on

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def trusting() -> Iterator[LocalKafka]:
    broker = LocalKafka(BrokerSettings(heap_mib=256, properties={"transaction.partition.verification.enable": "false"}))
    asyncio.run(broker.start())
    yield broker
    asyncio.run(broker.stop())


@pytest.fixture
async def bench(trusting: LocalKafka, bridge_name: str) -> AsyncIterator[Bench]:
    bench = await bench_on(trusting.bootstrap_servers, bridge_name)
    # As in a life of the bridge, the group is there before the first producer; and with it the topic of its offsets.
    async with AIOKafkaConsumer(bootstrap_servers=trusting.bootstrap_servers, group_id=bridge_name) as consumer:
        await consumer.committed(TopicPartition(bench.plan.inbox, 0))
    yield bench
    await bench.close()


def step(bench: Bench, number: int) -> list[Record]:
    value = f"{number}".encode()
    return [
        Record(bench.plan.customers, 0, b"acme/1", value),
        Record(bench.plan.tags, 0, b"acme/1", value),
        Record(bench.plan.state, 0, b"acme/customers/1", value),
    ]


async def seen(bench: Bench, *, settle: bool = True) -> list[list[bytes | None]]:
    topics = (bench.plan.customers, bench.plan.tags, bench.plan.state)
    return [list(await bench.values(topic, settle=settle)) for topic in topics]


def thrice(*values: bytes) -> list[list[bytes]]:
    return [list(values)] * 3


async def inbox_offset(bench: Bench) -> int | None:
    at = TopicPartition(bench.plan.inbox, 0)
    servers = bench.settings.bootstrap_servers
    async with AIOKafkaConsumer(bootstrap_servers=servers, group_id=bench.plan.bridge) as consumer:
        offset: int | None = await consumer.committed(at)
        return offset


def forget(bench: Bench, producer: KafkaProducer, *topics: str, offsets: bool = False) -> None:
    """From here on the coordinator does not learn that the producer writes to these topics."""
    client: Any = producer._client.client
    send = client.send

    async def forgetful(node: Any, request: Any, **options: Any) -> Any:
        if isinstance(request, AddPartitionsToTxnRequest):
            known = [(topic, numbers) for topic, numbers in request._topics if topic not in topics]
            # Something has to be there, or there would be no transaction.
            known = known or [(bench.plan.deadletters, [0])]
            asked = AddPartitionsToTxnRequest(
                request._transactional_id, request._producer_id, request._producer_epoch, known
            )
            answer = await send(node, asked, **options)
            codes = {code for _, numbers in answer.errors for _, code in numbers}
            told = [(topic, [(number, max(codes)) for number in numbers]) for topic, numbers in request._topics]
            return AddPartitionsToTxnResponse_v0(0, told)
        if offsets and isinstance(request, AddOffsetsToTxnRequest):
            return AddOffsetsToTxnResponse_v0(0, 0)
        return await send(node, request, **options)

    client.send = forgetful


async def left_hanging(bench: Bench, *topics: str, commit: bool, offsets: bool = False) -> None:
    """A first transaction that is whole, and a second of which these topics do not learn how it ended."""
    producer = await bench.opened()
    await producer.publish(step(bench, 1), 1)
    forget(bench, producer, *topics, offsets=offsets)
    if commit:
        await producer.publish(step(bench, 2), 2)
    else:
        held = HeldCommit(producer)
        publishing = asyncio.create_task(producer.publish(step(bench, 2), 2))
        await held.reached.wait()
        publishing.cancel()
        await asyncio.wait([publishing])
    await producer.abandon()


async def fence(bench: Bench) -> None:
    """What a process does that dies right after its fence: Kafka forgets how the transaction before has ended."""
    name = f"{bench.plan.bridge}-0"
    async with AIOKafkaProducer(bootstrap_servers=bench.settings.bootstrap_servers, transactional_id=name):
        pass


@pytest.mark.parametrize("code", [14, 16, None], ids=["loading", "moved", "unanswered"])
async def test_nobody_is_fenced_before_the_coordinator_can_say_how_the_last_one_ended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    """A broker that has just come back may not know it yet, and know it when the fence arrives."""
    await left_hanging(bench, bench.plan.state, commit=True)
    send = AIOKafkaClient.send
    put_off: list[Any] = []

    async def not_yet(self: Any, node: Any, request: Any, **options: Any) -> Any:
        answer = await send(self, node, request, **options)
        if isinstance(request, DescribeTransactionsRequest) and len(put_off) < 2:
            put_off.append(answer)
            if code is None:
                raise KafkaConnectionError("the broker is just going")
            answer.transaction_states = [
                (code, name, "", 0, 0, 0, 0, [], {}) for _, name, *_ in answer.transaction_states
            ]
        return answer

    monkeypatch.setattr(AIOKafkaClient, "send", not_yet)
    await bench.opened()
    assert len(put_off) == 2
    assert await seen(bench) == thrice(b"1", b"2")


@pytest.mark.parametrize("commit", [True, False], ids=["committed", "aborted"])
@pytest.mark.parametrize("where", ["everywhere", "state", "events", "offsets"])
async def test_it_ends_as_it_was_meant(bench: Bench, where: str, commit: bool) -> None:
    events = [bench.plan.customers, bench.plan.tags]
    topics = {"everywhere": [*events, bench.plan.state], "state": [bench.plan.state], "events": events, "offsets": []}
    await left_hanging(bench, *topics[where], commit=commit, offsets=where in ("everywhere", "offsets"))
    successor = await bench.opened()
    values = [b"1", b"2"] if commit else [b"1"]
    assert await seen(bench) == thrice(*values)
    assert await inbox_offset(bench) == len(values)
    await successor.publish(step(bench, 3), 3)
    assert await seen(bench) == thrice(*values, b"3")
    assert await inbox_offset(bench) == 3
    store = MemoryStore()
    await restore(bench.settings, bench.plan.state, 0, store, bench.clock, lambda *_: None, fenced=True)
    assert dict(store.scan("")) == {"acme/customers/1": b"3"}


async def test_without_that_it_would_hang_for_ever(bench: Bench) -> None:
    """That the tests above test something: the fence alone does not decide it."""
    await left_hanging(bench, bench.plan.customers, bench.plan.tags, bench.plan.state, commit=True)
    await fence(bench)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            await bench.settled(bench.plan.state)
    assert await seen(bench, settle=False) == thrice(b"1")


async def test_what_others_have_open_in_the_same_partition_stays_open(bench: Bench) -> None:
    other = await bench.opened(1)
    held = HeldCommit(other)
    publishing = asyncio.create_task(other.publish([Record(bench.plan.customers, 0, b"other", b"other")], None))
    await held.reached.wait()
    await left_hanging(bench, bench.plan.customers, bench.plan.state, commit=True)
    await bench.opened()
    assert await bench.values(bench.plan.state) == [b"1", b"2"]
    assert await bench.values(bench.plan.customers, settle=False) == []
    held.go_on.set()
    await publishing
    assert sorted(map(str, await bench.values(bench.plan.customers))) == ["b'1'", "b'2'", "b'other'"]


async def test_when_kafka_has_forgotten_how_it_ended_a_person_decides(bench: Bench) -> None:
    await left_hanging(bench, bench.plan.customers, bench.plan.state, commit=True)
    await fence(bench)
    for _ in range(2):
        with pytest.raises(StateLost, match=rf"{bench.plan.customers}-0 from offset 2.*kafka-transactions"):
            await bench.opened()
    assert await seen(bench, settle=False) == [[b"1"], [b"1", b"2"], [b"1"]]


@pytest.mark.parametrize("request_class", [DescribeTransactionsRequest, DescribeProducersRequest])
async def test_a_broker_that_cannot_be_asked_is_taken_as_it_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, request_class: Any
) -> None:
    monkeypatch.setattr(request_class, "API_KEY", 999)
    producer = await bench.opened()
    await producer.publish(step(bench, 1), 1)
    await producer.close()
    await (await bench.opened()).publish(step(bench, 2), 2)
    assert await seen(bench) == thrice(b"1", b"2")


async def test_opening_in_peace_writes_nothing(bench: Bench) -> None:
    producer = await bench.opened()
    await producer.publish(step(bench, 1), 1)
    await bench.settled(bench.plan.state)
    raw = AIOKafkaConsumer(bootstrap_servers=bench.settings.bootstrap_servers)
    async with raw:
        partitions = [TopicPartition(bench.plan.state, 0), TopicPartition(bench.plan.customers, 0)]
        before = await raw.end_offsets(partitions)
        for _ in range(3):
            await bench.opened()
        assert await raw.end_offsets(partitions) == before


async def test_no_transaction_begins_after_a_connection_broke(bench: Bench) -> None:
    """Its abort would undo the one before, if that hangs in the same partition."""
    producer = await bench.opened()
    await producer.publish(step(bench, 1), 1)
    for connection in list(producer._client.client._conns.values()):
        connection._writer.transport.abort()
    await asyncio.sleep(0.1)
    with pytest.raises(PublishFailed, match="connection"):
        await producer.publish(step(bench, 2), 2)
    await producer.abandon()
    await (await bench.opened()).publish(step(bench, 3), 3)
    assert await seen(bench) == thrice(b"1", b"3")


def test_the_group_s_partition_is_the_one_java_would_choose() -> None:
    assert _java_hash("") == 0
    assert _java_hash("hello") == 99162322
    assert _java_hash("consumer-group") == 1738392088  # in Java with a minus
    assert _java_hash("polygenelubricants") == 0  # Integer.MIN_VALUE, without its sign
