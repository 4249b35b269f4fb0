"""A publish is one transaction: all of it or nothing, and never said to be what it is not."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import InvalidProducerIdMapping, KafkaError

from bridge.errors import EnvironmentUnavailable, Fenced, PublishFailed
from bridge.publish.partitioner import partition_of
from bridge.publish.transaction import Record, record_bytes
from tests.publish.benching import SETTLE_S, Bench, HeldCommit


def step(bench: Bench, number: int, shard: int = 0) -> list[Record]:
    """An event and the state that goes with it."""
    value = f"{number}".encode()
    return [
        Record(bench.plan.customers, None, b"acme/%d" % number, value, [("ce_id", value)]),
        Record(bench.plan.state, shard, b"acme/customers/%d" % number, value),
    ]


async def uncommitted(bench: Bench, topic: str) -> int:
    """How many records a reader finds that does not care about transactions."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bench.settings.bootstrap_servers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, number) for number in range(bench.cluster.partitions[topic])]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        count = 0
        async with asyncio.timeout(10):
            for at in partitions:
                while await consumer.position(at) < ends[at]:
                    fetched = await consumer.getmany(at, timeout_ms=50)
                    count += sum(len(records) for records in fetched.values())
        return count
    finally:
        await consumer.stop()


async def test_everything_of_a_step_is_there_after_the_receipt(bench: Bench) -> None:
    producer = await bench.opened()
    receipt = await producer.publish(step(bench, 1), 7)
    assert not receipt.tainted
    [event] = await bench.committed(bench.plan.customers)
    assert (event.key, event.value, event.headers) == (b"acme/1", b"1", (("ce_id", b"1"),))
    assert event.partition == partition_of(b"acme/1", 12)
    assert await bench.values(bench.plan.state) == [b"1"]


async def test_nothing_shows_before_the_commit(bench: Bench) -> None:
    producer = await bench.opened()
    held = HeldCommit(producer)
    publishing = asyncio.create_task(producer.publish(step(bench, 1), None))
    await held.reached.wait()
    assert await uncommitted(bench, bench.plan.customers) == 1, "it is in the log"
    assert await bench.values(bench.plan.customers, bench.plan.state, settle=False) == []
    held.go_on.set()
    await publishing
    assert await bench.values(bench.plan.customers, bench.plan.state) == [b"1", b"1"]


async def test_what_was_cancelled_before_the_commit_never_shows(bench: Bench) -> None:
    producer = await bench.opened()
    held = HeldCommit(producer)
    publishing = asyncio.create_task(producer.publish(step(bench, 1), 7))
    await held.reached.wait()
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    await producer.abandon()
    successor = await bench.opened()
    await successor.publish(step(bench, 2), None)
    assert await bench.values(bench.plan.customers, bench.plan.state) == [b"2", b"2"]


async def test_receipt_has_the_last_offset_of_each_partition_and_order_is_kept(bench: Bench) -> None:
    """More bytes for one partition than fit one batch, between records for another."""
    producer = await bench.opened()
    filling = b"x" * 50_000
    records = []
    for number in range(60):
        records.append(Record(bench.plan.state, 2, b"big/%d" % number, filling))
        records.append(Record(bench.plan.progress, 0, b"small", b"%d" % number))
    receipt = await producer.publish(records, None)
    big, small = await bench.committed(bench.plan.state), await bench.committed(bench.plan.progress)
    assert [message.key for message in big] == [b"big/%d" % number for number in range(60)]
    assert [message.value for message in small] == [b"%d" % number for number in range(60)]
    assert receipt.offsets == {
        (bench.plan.state, 2): big[-1].offset,
        (bench.plan.progress, 0): small[-1].offset,
    }


async def test_many_steps_with_one_producer(bench: Bench) -> None:
    producer = await bench.opened()
    for number in range(30):
        await producer.publish(step(bench, number), number)
    await producer.close()
    assert await bench.values(bench.plan.state) == [b"%d" % number for number in range(30)]


async def test_only_an_inbox_offset_is_a_step_too(bench: Bench) -> None:
    producer = await bench.opened(shard=1)
    assert (await producer.publish([], 42)).offsets == {}
    admin = AIOKafkaAdminClient(bootstrap_servers=bench.settings.bootstrap_servers)
    await admin.start()
    try:
        async with asyncio.timeout(SETTLE_S):  # Kafka answers a commit before its markers are in the log
            while not (offsets := await admin.list_consumer_group_offsets(bench.plan.bridge)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        await admin.close()
    assert offsets[TopicPartition(bench.plan.inbox, 1)].offset == 42


async def test_an_empty_step_is_a_mistake_of_ours(bench: Bench) -> None:
    producer = await bench.opened()
    with pytest.raises(AssertionError):
        await producer.publish([], None)


async def test_a_record_above_the_limit_is_refused_before_anything_is_sent(bench: Bench) -> None:
    record = Record(bench.plan.state, 0, b"k", b"x" * 3000, [("header", b"y" * 100)])
    producer = await bench.opened(record_bytes_max=record_bytes(record))
    await producer.publish([record], None)
    with pytest.raises(PublishFailed, match=rf"bytes for {bench.plan.state} is above the limit"):
        await producer.publish([*step(bench, 1), record._replace(value=b"x" * 3100)], None)
    assert await uncommitted(bench, bench.plan.customers) == 0


async def test_headers_count_for_the_limit(bench: Bench) -> None:
    producer = await bench.opened(record_bytes_max=10_000)
    with pytest.raises(PublishFailed, match="above the limit"):
        await producer.publish([Record(bench.plan.state, 0, b"k", b"v", [("header", b"y" * 10_000)])], None)
    producer = await bench.opened(record_bytes_max=10_000)
    many = [(f"h{number}", b"") for number in range(2_000)]
    with pytest.raises(PublishFailed, match="above the limit"):
        await producer.publish([Record(bench.plan.state, 0, b"k", b"v", many)], None)


async def test_the_largest_record_of_the_cluster_passes(bench: Bench) -> None:
    """Kafka measures whole batches, so the batch around the record has to fit as well."""
    empty = record_bytes(Record(bench.plan.state, 0, b"k", b""))
    record = Record(bench.plan.state, 0, b"k", b"x" * (bench.plan.record_bytes_max - empty))
    producer = await bench.opened()
    await producer.publish([record, record], None)
    assert len(await bench.values(bench.plan.state)) == 2


async def test_compressed_batches_read_the_same(bench: Bench) -> None:
    producer = await bench.opened(settings=bench.settings.model_copy(update={"compression_type": "gzip"}))
    records = [Record(bench.plan.state, 0, b"k%d" % number, b"x" * 10_000) for number in range(300)]
    receipt = await producer.publish(records, None)
    found = await bench.committed(bench.plan.state)
    assert [message.key for message in found] == [record.key for record in records]
    assert receipt.offsets[bench.plan.state, 0] == found[-1].offset


async def test_an_idle_zombie_is_fenced(bench: Bench) -> None:
    zombie = await bench.opened()
    await zombie.publish(step(bench, 1), None)
    owner = await bench.opened()
    with pytest.raises(Fenced):
        await zombie.publish(step(bench, 2), 9)
    await owner.publish(step(bench, 3), None)
    assert await bench.values(bench.plan.state) == [b"1", b"3"]


async def test_a_zombie_with_nothing_but_an_offset_is_fenced(bench: Bench) -> None:
    zombie = await bench.opened()
    await bench.opened()
    with pytest.raises(Fenced):
        await zombie.publish([], 9)


async def test_a_zombie_at_its_commit_is_fenced(bench: Bench) -> None:
    zombie = await bench.opened()
    held = HeldCommit(zombie)
    publishing = asyncio.create_task(zombie.publish(step(bench, 1), 9))
    await held.reached.wait()
    owner = await bench.opened()
    held.go_on.set()
    with pytest.raises(Fenced):
        await publishing
    await owner.publish(step(bench, 2), None)
    assert await bench.values(bench.plan.customers, bench.plan.state) == [b"2", b"2"]


async def test_shards_do_not_fence_each_other(bench: Bench) -> None:
    first, second = await bench.opened(shard=0), await bench.opened(shard=1)
    await first.publish(step(bench, 1, shard=0), 1)
    await second.publish(step(bench, 2, shard=1), 1)
    await first.publish(step(bench, 3, shard=0), 2)
    assert set(await bench.values(bench.plan.customers)) == {b"1", b"2", b"3"}


async def test_an_own_transaction_that_is_too_slow_is_fenced(bench: Bench) -> None:
    """The broker looks for expired transactions every second here, every ten by default."""
    hasty = bench.settings.model_copy(update={"transaction_timeout_s": 1.0})
    producer = await bench.opened(settings=hasty)
    held = HeldCommit(producer)
    publishing = asyncio.create_task(producer.publish(step(bench, 1), None))
    await held.reached.wait()
    await asyncio.sleep(4.0)  # real time: the broker's clock decides
    held.go_on.set()
    with pytest.raises(Fenced):
        await publishing
    assert await bench.values(bench.plan.customers, bench.plan.state) == []


async def test_an_expired_id_counts_as_fenced(bench: Bench) -> None:
    """After seven idle days the library raises a plain error around the one that tells."""
    producer = await bench.opened()
    wrapped = KafkaError("Unexpected error during batch delivery")
    wrapped.__cause__ = InvalidProducerIdMapping()
    assert isinstance(producer._failure(wrapped), Fenced)
    assert isinstance(producer._failure(KafkaError("Unexpected error during batch delivery")), PublishFailed)


async def test_a_topic_that_is_not_there_is_noticed_at_open(bench: Bench) -> None:
    bench.cluster.partitions[f"{bench.plan.bridge}.nowhere"] = 1
    with pytest.raises(EnvironmentUnavailable, match=r"nowhere has 0 partitions, 1 are expected"):
        await bench.opened()
