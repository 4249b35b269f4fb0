"""The contract of a restore: the store becomes the fold of the log, and a cache of another log is refused."""

from __future__ import annotations

import asyncio

import pytest

from bridge.errors import StateLost
from bridge.publish.statelog import Restored, StaleCache
from bridge.publish.transaction import Producer, Record
from bridge.store.base import Store
from bridge.store.memory import MemoryStore
from bridge.store.record import marker_key
from tests.contract.rigs import Rig, on_both

SHARD = 1
DAY_S = 86_400.0


def put(rig: Rig, **values: str | None) -> list[Record]:
    return [
        Record(rig.plan.state, SHARD, key.encode(), None if value is None else value.encode())
        for key, value in values.items()
    ]


def content(store: Store) -> dict[str, bytes]:
    return dict(store.scan(""))


async def opened(rig: Rig, shard: int = SHARD) -> Producer:
    producer = rig.producer(shard)
    await producer.open()
    return producer


async def abort(rig: Rig, producer: Producer, records: list[Record]) -> None:
    """Leaves the records in the log, aborted by the next producer of the shard."""
    held = rig.hold(producer)
    publishing = asyncio.ensure_future(producer.publish(records, None))
    await held.reached.wait()
    publishing.cancel()
    await asyncio.wait([publishing])
    await producer.abandon()


async def restored(rig: Rig, store: Store, ahead_s: float = 0.0) -> Restored:
    return await rig.restore(store, SHARD, fenced=True, ahead_s=ahead_s)


@on_both
async def test_an_empty_partition_is_an_empty_store(rig: Rig) -> None:
    store = MemoryStore()
    assert await restored(rig, store) == Restored(0, 0, 0, False)
    assert content(store) == {}


@on_both
async def test_documents_and_removals_in_order_of_one_partition_only(rig: Rig) -> None:
    producer = await opened(rig)
    await producer.publish(put(rig, a="1", b="1"), None)
    await producer.publish(put(rig, a="2", b=None, c="1"), None)
    other = await opened(rig, SHARD + 1)
    await other.publish([Record(rig.plan.state, SHARD + 1, b"other", b"1")], None)
    store = MemoryStore()
    # Two and three records, each followed by a commit marker.
    assert await restored(rig, store) == Restored(5, 0, 7, False)
    assert content(store) == {"a": b"2", "c": b"1"}


@on_both
async def test_aborted_records_are_not_there_and_nothing_waits_for_them(rig: Rig) -> None:
    producer = await opened(rig)
    await producer.publish(put(rig, a="1"), None)
    for number in range(3):
        await abort(rig, producer, put(rig, a="aborted", b=f"{number}"))
        producer = await opened(rig)
    store = MemoryStore()
    async with asyncio.timeout(10):
        assert (await restored(rig, store)).records == 1
    assert content(store) == {"a": b"1"}


@on_both
async def test_a_partition_of_nothing_but_aborted_records_ends(rig: Rig) -> None:
    await abort(rig, await opened(rig), put(rig, a="1"))
    await opened(rig)
    store = MemoryStore()
    async with asyncio.timeout(10):
        assert (await restored(rig, store)).records == 0
    assert store.position > 0


@on_both
async def test_a_transaction_that_is_still_open_is_refused_by_an_owner_and_ends_what_others_read(rig: Rig) -> None:
    producer = await opened(rig)
    await producer.publish(put(rig, a="1"), None)
    await rig.settled(rig.plan.state)
    stranger = await opened(rig, SHARD + 1)
    held = rig.hold(stranger)
    publishing = asyncio.ensure_future(stranger.publish(put(rig, a="2"), None))
    await held.reached.wait()
    store = MemoryStore()
    with pytest.raises(StateLost, match="hangs"):
        await restored(rig, store)
    assert content(store) == {}
    assert await rig.restore(store, SHARD, fenced=False) == Restored(1, 0, 2, False)
    held.go_on.set()
    await publishing
    assert (await restored(rig, store)).records == 1
    assert content(store) == {"a": b"2"}


@on_both
async def test_goes_on_where_the_cache_is(rig: Rig) -> None:
    producer = await opened(rig)
    receipt = await producer.publish(put(rig, a="1"), None)
    store = MemoryStore()
    # As after a commit: the store is behind the marker of its own transaction.
    store.apply([("a", b"1")], receipt.offsets[rig.plan.state, SHARD] + 1)
    assert (await restored(rig, store)).records == 0
    await producer.publish(put(rig, b="1"), None)
    assert (await restored(rig, store)).records == 1
    assert content(store) == {"a": b"1", "b": b"1"}


@on_both
async def test_foreign_records_are_counted_and_left_out(rig: Rig) -> None:
    producer = await opened(rig)
    await producer.publish([Record(rig.plan.state, SHARD, b"\xff\xfe", b"1"), *put(rig, a="1")], None)
    store = MemoryStore()
    assert await restored(rig, store) == Restored(1, 1, 3, False)
    assert content(store) == {"a": b"1"}


@on_both
async def test_tells_whether_the_partition_was_marked(rig: Rig) -> None:
    producer = await opened(rig)
    await producer.publish(put(rig, **{marker_key(SHARD): "{}"}), None)
    store = MemoryStore()
    assert (await restored(rig, store)).marker
    assert (await restored(rig, store)).marker, "also when it came with the cache"


@on_both
async def test_a_cache_ahead_of_the_log_is_refused(rig: Rig) -> None:
    producer = await opened(rig)
    await producer.publish(put(rig, a="1"), None)
    store = MemoryStore()
    store.apply([("old", b"1")], 3)  # the log ends at 2
    with pytest.raises(StaleCache, match="recreated or truncated"):
        await restored(rig, store)


@on_both
async def test_a_cache_that_is_older_than_the_tombstones_is_refused(rig: Rig) -> None:
    producer = await opened(rig)
    await producer.publish(put(rig, a="1"), None)
    store = MemoryStore()
    await restored(rig, store)
    await producer.publish(put(rig, a=None), None)
    with pytest.raises(StaleCache, match="7 days"):
        await restored(rig, store, ahead_s=8 * DAY_S)
    assert (await restored(rig, store, ahead_s=6 * DAY_S)).records == 1
    await restored(rig, store, ahead_s=30 * DAY_S)  # it has seen everything: age does not matter


@on_both
async def test_a_cache_of_a_recreated_topic_is_refused_by_its_marker(rig: Rig) -> None:
    producer = await opened(rig)
    await producer.publish(put(rig, **{marker_key(SHARD): '{"id": 2}'}, a="1", b="1", c="1"), None)
    store = MemoryStore()
    store.apply([(marker_key(SHARD), b'{"id": 1}'), ("a", b"old")], 3)
    with pytest.raises(StaleCache, match="marker"):
        await restored(rig, store)
    same = MemoryStore()
    same.apply([(marker_key(SHARD), b'{"id": 2}'), ("a", b"1")], 2)
    assert (await restored(rig, same)).records == 2
