"""The contract of `Producer`: a publish is one transaction, all of it or nothing; a new owner ends the old one's."""

from __future__ import annotations

import asyncio

import pytest

from bridge.errors import EnvironmentUnavailable, Fenced, PublishFailed
from bridge.publish.partitioner import partition_of
from bridge.publish.transaction import Producer, Record, record_bytes
from tests.contract.rigs import Rig, on_both


def step(rig: Rig, number: int, shard: int = 0) -> list[Record]:
    """An event and the state that goes with it."""
    value = f"{number}".encode()
    return [
        Record(rig.plan.customers, None, b"acme/%d" % number, value, [("ce_id", value)]),
        Record(rig.plan.state, shard, b"acme/customers/%d" % number, value),
    ]


async def opened(rig: Rig, shard: int = 0) -> Producer:
    producer = rig.producer(shard)
    await producer.open()
    return producer


async def values(rig: Rig, *topics: str) -> list[bytes | None]:
    await rig.settled(*topics)
    return [message.value for message in await rig.committed(*topics)]


@on_both
async def test_everything_of_a_step_is_there_after_the_receipt(rig: Rig) -> None:
    producer = await opened(rig)
    receipt = await producer.publish(step(rig, 1), 7)
    await rig.settled(rig.plan.customers, rig.plan.state)
    [event] = await rig.committed(rig.plan.customers)
    assert (event.key, event.value, event.headers) == (b"acme/1", b"1", (("ce_id", b"1"),))
    assert event.partition == partition_of(b"acme/1", 12)
    [state] = await rig.committed(rig.plan.state)
    assert (state.partition, state.value) == (0, b"1")
    assert not receipt.tainted
    assert receipt.offsets == {(rig.plan.customers, event.partition): 0, (rig.plan.state, 0): 0}
    await producer.close()


@on_both
async def test_a_transaction_ends_with_a_marker_that_takes_an_offset(rig: Rig) -> None:
    producer = await opened(rig)
    first = await producer.publish([Record(rig.plan.state, 2, b"%d" % number, b"v") for number in range(3)], None)
    second = await producer.publish([Record(rig.plan.state, 2, b"k", b"v")], None)
    assert first.offsets == {(rig.plan.state, 2): 2}
    assert second.offsets == {(rig.plan.state, 2): 4}


@on_both
async def test_nothing_shows_before_the_commit(rig: Rig) -> None:
    producer = await opened(rig)
    held = rig.hold(producer)
    publishing = asyncio.ensure_future(producer.publish(step(rig, 1), None))
    await held.reached.wait()
    assert await rig.committed(rig.plan.customers, rig.plan.state) == []
    held.go_on.set()
    await publishing
    assert await values(rig, rig.plan.customers, rig.plan.state) == [b"1", b"1"]


@on_both
async def test_an_open_transaction_holds_back_what_others_commit_behind_it(rig: Rig) -> None:
    first, second = await opened(rig, 0), await opened(rig, 1)
    held = rig.hold(first)
    publishing = asyncio.ensure_future(first.publish([Record(rig.plan.tags, 0, b"a", b"1")], None))
    await held.reached.wait()
    await second.publish([Record(rig.plan.tags, 0, b"b", b"2"), Record(rig.plan.state, 1, b"k", b"2")], None)
    await rig.settled(rig.plan.state)
    assert await rig.committed(rig.plan.tags) == []
    held.go_on.set()
    await publishing
    assert await values(rig, rig.plan.tags) == [b"1", b"2"]


@on_both
async def test_what_was_cancelled_before_the_commit_never_shows(rig: Rig) -> None:
    producer = await opened(rig)
    held = rig.hold(producer)
    publishing = asyncio.ensure_future(producer.publish(step(rig, 1), 7))
    await held.reached.wait()
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    await producer.abandon()
    successor = await opened(rig)
    await successor.publish(step(rig, 2), None)
    assert await values(rig, rig.plan.customers, rig.plan.state) == [b"2", b"2"]


@on_both
async def test_order_is_kept_over_many_batches_and_steps(rig: Rig) -> None:
    producer = await opened(rig)
    filling = b"x" * 50_000
    records = [Record(rig.plan.state, 2, b"big/%d" % number, filling) for number in range(60)]
    receipt = await producer.publish(records, None)
    for number in range(10):
        await producer.publish([Record(rig.plan.progress, 0, b"k", b"%d" % number)], number)
    await rig.settled(rig.plan.state, rig.plan.progress)
    big = await rig.committed(rig.plan.state)
    assert [message.key for message in big] == [record.key for record in records]
    assert receipt.offsets == {(rig.plan.state, 2): big[-1].offset}
    assert [m.value for m in await rig.committed(rig.plan.progress)] == [b"%d" % number for number in range(10)]


@on_both
async def test_an_empty_step_is_a_mistake_of_ours(rig: Rig) -> None:
    producer = await opened(rig)
    with pytest.raises(AssertionError):
        await producer.publish([], None)


@on_both
async def test_a_refused_batch_fails_the_whole_step_and_the_producer(rig: Rig) -> None:
    strict = f"{rig.plan.bridge}.strict"
    await rig.create(strict, 1000)
    producer = await opened(rig)
    with pytest.raises(PublishFailed):
        await producer.publish([*step(rig, 1), Record(strict, 0, b"k", b"x" * 2000)], 7)
    with pytest.raises(AssertionError):
        await producer.publish(step(rig, 2), None)
    await producer.abandon()
    await (await opened(rig)).publish(step(rig, 3), None)
    assert await values(rig, rig.plan.customers, rig.plan.state, strict) == [b"3", b"3"]


@on_both
async def test_a_record_above_the_limit_is_refused_and_the_largest_passes(rig: Rig) -> None:
    empty = record_bytes(Record(rig.plan.state, 0, b"k", b""))
    largest = Record(rig.plan.state, 0, b"k", b"x" * (rig.record_bytes_max - empty))
    producer = await opened(rig)
    await producer.publish([largest], None)
    with pytest.raises(PublishFailed, match="above the limit"):
        await producer.publish([*step(rig, 1), largest._replace(value=b"x" * rig.record_bytes_max)], None)
    assert len(await values(rig, rig.plan.state)) == 1
    assert await values(rig, rig.plan.customers) == []


@on_both
async def test_an_idle_zombie_is_fenced(rig: Rig) -> None:
    zombie = await opened(rig)
    await zombie.publish(step(rig, 1), None)
    owner = await opened(rig)
    with pytest.raises(Fenced):
        await zombie.publish(step(rig, 2), 9)
    await owner.publish(step(rig, 3), None)
    assert await values(rig, rig.plan.state) == [b"1", b"3"]


@on_both
async def test_a_zombie_with_nothing_but_an_offset_is_fenced(rig: Rig) -> None:
    zombie = await opened(rig)
    await opened(rig)
    with pytest.raises(Fenced):
        await zombie.publish([], 9)


@on_both
async def test_a_zombie_at_its_commit_is_fenced(rig: Rig) -> None:
    zombie = await opened(rig)
    held = rig.hold(zombie)
    publishing = asyncio.ensure_future(zombie.publish(step(rig, 1), 9))
    await held.reached.wait()
    owner = await opened(rig)
    held.go_on.set()
    with pytest.raises(Fenced):
        await publishing
    await owner.publish(step(rig, 2), None)
    assert await values(rig, rig.plan.customers, rig.plan.state) == [b"2", b"2"]


@on_both
async def test_shards_do_not_fence_each_other(rig: Rig) -> None:
    first, second = await opened(rig, 0), await opened(rig, 1)
    await first.publish(step(rig, 1, shard=0), 1)
    await second.publish(step(rig, 2, shard=1), 1)
    await first.publish(step(rig, 3, shard=0), 2)
    assert set(await values(rig, rig.plan.customers)) == {b"1", b"2", b"3"}


@on_both
async def test_an_own_transaction_that_is_too_slow_is_fenced(rig: Rig) -> None:
    """A broker looks for expired transactions now and then; the one of the tests every second."""
    producer = rig.producer(timeout_s=1.0)
    await producer.open()
    held = rig.hold(producer)
    publishing = asyncio.ensure_future(producer.publish(step(rig, 1), None))
    await held.reached.wait()
    await rig.clock.sleep(4.0)  # real time on the real one: its clock decides
    held.go_on.set()
    with pytest.raises(Fenced):
        await publishing
    assert await values(rig, rig.plan.customers, rig.plan.state) == []


@on_both
async def test_a_topic_that_is_not_there_is_noticed_at_open(rig: Rig) -> None:
    known = rig.producer()
    known._partitions[f"{rig.plan.bridge}.nowhere"] = 1  # type: ignore[attr-defined]  # both keep a copy of the map
    with pytest.raises(EnvironmentUnavailable, match=r"nowhere has 0 partitions, 1 are expected"):
        await known.open()
    await known.abandon()
