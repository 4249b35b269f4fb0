"""A restored store is the fold of the log, whatever the log went through; and a cache of another log is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition

from bridge.errors import EnvironmentUnavailable, StateLost
from bridge.publish.producer import KafkaProducer
from bridge.publish.reading import read_topics
from bridge.publish.statelog import APPLY_RECORDS_MAX, Restored, StaleCache, restore
from bridge.publish.transaction import Record
from bridge.sandbox.kafka import LocalKafka
from bridge.store.base import NO_FINGERPRINTS, Store
from bridge.store.memory import MemoryStore
from bridge.store.record import marker_key
from tests.publish.benching import Bench, HeldCommit

SHARD = 1
DAY_S = 86_400.0


class Ahead:
    """A clock that runs some seconds ahead of the machine's."""

    def __init__(self, bench: Bench, seconds: float) -> None:
        self._clock = bench.clock
        self._seconds = seconds

    def wall(self) -> float:
        return self._clock.wall() + self._seconds

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)


def put(bench: Bench, **values: str | None) -> list[Record]:
    return [
        Record(bench.plan.state, SHARD, key.encode(), None if value is None else value.encode())
        for key, value in values.items()
    ]


async def restored(bench: Bench, store: Store, ahead_s: float = 0.0) -> Restored:
    """As by an owner: behind its fence every transaction before is decided, and waits for its markers at most."""
    clock, topic = Ahead(bench, ahead_s), bench.plan.state
    return await restore(bench.settings, topic, SHARD, store, clock, lambda done, total: None, fenced=True)


async def abort(bench: Bench, producer: KafkaProducer, records: Sequence[Record]) -> None:
    """Leaves the records in the log, aborted by the next producer of the shard."""
    held = HeldCommit(producer)
    publishing = asyncio.create_task(producer.publish(records, None))
    await held.reached.wait()
    publishing.cancel()
    await asyncio.wait([publishing])
    await producer.abandon()


def content(store: Store) -> dict[str, bytes]:
    return dict(store.scan(""))


async def test_an_empty_partition_is_an_empty_store(bench: Bench) -> None:
    store = MemoryStore()
    assert await restored(bench, store) == Restored(0, 0, 0, False)
    assert content(store) == {}


async def test_reads_documents_and_removals_in_order(bench: Bench) -> None:
    producer = await bench.opened(SHARD)
    await producer.publish(put(bench, a="1", b="1"), None)
    await producer.publish(put(bench, a="2", b=None, c="1"), None)
    store = MemoryStore()
    # Two and three records, each followed by a commit marker.
    assert await restored(bench, store) == Restored(5, 0, 7, False)
    assert content(store) == {"a": b"2", "c": b"1"}


async def test_reads_only_its_own_partition(bench: Bench) -> None:
    other = await bench.opened(SHARD + 1)
    await other.publish([Record(bench.plan.state, SHARD + 1, b"other", b"1")], None)
    store = MemoryStore()
    assert (await restored(bench, store)).records == 0


@pytest.mark.parametrize("last", ["committed", "aborted"])
async def test_aborted_records_are_not_there_and_nothing_waits_for_them(bench: Bench, last: str) -> None:
    producer = await bench.opened(SHARD)
    await producer.publish(put(bench, a="1"), None)
    for number in range(3):
        await abort(bench, producer, put(bench, a="aborted", b=f"{number}"))
        producer = await bench.opened(SHARD)
    if last == "committed":
        await producer.publish(put(bench, c="1"), None)
    store = MemoryStore()
    async with asyncio.timeout(5):
        await restored(bench, store)
    assert content(store) == ({"a": b"1", "c": b"1"} if last == "committed" else {"a": b"1"})


async def test_a_partition_of_nothing_but_aborted_records_ends(bench: Bench) -> None:
    await abort(bench, await bench.opened(SHARD), put(bench, a="1"))
    await bench.opened(SHARD)
    store = MemoryStore()
    async with asyncio.timeout(5):
        assert (await restored(bench, store)).records == 0
    assert store.position > 0


async def test_a_transaction_that_hangs_is_refused(bench: Bench) -> None:
    """Behind the shard's own fence nothing may be undecided; here somebody else's transaction is."""
    producer = await bench.opened(SHARD)
    await producer.publish(put(bench, a="1"), None)
    await bench.settled(bench.plan.state)
    stranger = await bench.opened(SHARD + 1)
    held = HeldCommit(stranger)
    publishing = asyncio.create_task(stranger.publish(put(bench, a="2"), None))
    await held.reached.wait()
    store = MemoryStore()
    with pytest.raises(StateLost, match=rf"hangs in {bench.plan.state}-{SHARD} at offset 2"):
        await restored(bench, store)
    assert content(store) == {}
    unfenced = await restore(bench.settings, bench.plan.state, SHARD, store, bench.clock, lambda done, total: None)
    assert unfenced == Restored(1, 0, 2, False), "somebody who only looks stops before it"
    held.go_on.set()
    await publishing
    assert (await restored(bench, store)).records == 1
    assert content(store) == {"a": b"2"}


async def test_goes_on_where_the_cache_is(bench: Bench) -> None:
    producer = await bench.opened(SHARD)
    receipt = await producer.publish(put(bench, a="1"), None)
    store = MemoryStore()
    # As after a commit: the store is behind the marker of its own transaction.
    store.apply([("a", b"1")], receipt.offsets[bench.plan.state, SHARD] + 1)
    assert (await restored(bench, store)).records == 0
    await producer.publish(put(bench, b="1"), None)
    assert (await restored(bench, store)).records == 1
    assert content(store) == {"a": b"1", "b": b"1"}


async def test_large_states_come_in_chunks_with_progress(bench: Bench) -> None:
    producer = await bench.opened(SHARD)
    count = 2 * APPLY_RECORDS_MAX + 10
    for first in range(0, count, 1000):
        numbers = range(first, min(first + 1000, count))
        await producer.publish(put(bench, **{f"k{number}": "x" * 500 for number in numbers}), None)
    told: list[tuple[int, int]] = []
    applied: list[int] = []

    class Counting(MemoryStore):
        def apply(self, records, position, fingerprints=NO_FINGERPRINTS):  # type: ignore[no-untyped-def]
            rows = list(records)
            applied.append(len(rows))
            super().apply(rows, position)

    store = Counting()
    clock = bench.clock
    await bench.settled(bench.plan.state)
    result = await restore(
        bench.settings, bench.plan.state, SHARD, store, clock, lambda done, total: told.append((done, total))
    )
    assert result.records == count
    assert max(applied) <= APPLY_RECORDS_MAX
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] == store.position


async def test_foreign_records_are_counted_and_left_out(bench: Bench) -> None:
    producer = await bench.opened(SHARD)
    await producer.publish([Record(bench.plan.state, SHARD, b"\xff\xfe", b"1"), *put(bench, a="1")], None)
    store = MemoryStore()
    assert await restored(bench, store) == Restored(1, 1, 3, False)
    assert content(store) == {"a": b"1"}


async def test_tells_whether_the_partition_was_marked(bench: Bench) -> None:
    producer = await bench.opened(SHARD)
    await producer.publish(put(bench, **{marker_key(SHARD): "{}"}), None)
    store = MemoryStore()
    assert (await restored(bench, store)).marker
    assert (await restored(bench, store)).marker, "also when it came with the cache"


async def test_a_cache_ahead_of_the_log_is_refused(bench: Bench) -> None:
    producer = await bench.opened(SHARD)
    await producer.publish(put(bench, a="1"), None)
    store = MemoryStore()
    store.apply([("old", b"1")], 3)  # the log ends at 2
    with pytest.raises(StaleCache, match="recreated or truncated"):
        await restored(bench, store)


async def test_a_cache_before_the_log_is_refused(bench: Bench) -> None:
    """With a topic that may be cut off; Kafka refuses it for one that is only compacted."""
    topic, clock = bench.plan.inbox, bench.clock
    producer = await bench.opened(SHARD)
    for number in range(5):
        await producer.publish([Record(topic, SHARD, b"a", b"%d" % number)], None)
    admin = AIOKafkaAdminClient(bootstrap_servers=bench.settings.bootstrap_servers)
    await admin.start()
    await admin.delete_records({TopicPartition(topic, SHARD): RecordsToDelete(4)})
    await admin.close()
    await bench.settled(topic)
    store = MemoryStore()
    store.apply([("a", b"0")], 1)
    with pytest.raises(StaleCache, match="recreated or truncated"):
        await restore(bench.settings, topic, SHARD, store, clock, lambda done, total: None)
    fresh = MemoryStore()
    await restore(bench.settings, topic, SHARD, fresh, clock, lambda done, total: None)
    assert content(fresh) == {"a": b"4"}


async def test_a_cache_that_is_older_than_the_tombstones_is_refused(bench: Bench) -> None:
    producer = await bench.opened(SHARD)
    await producer.publish(put(bench, a="1"), None)
    store = MemoryStore()
    await restored(bench, store)
    await producer.publish(put(bench, a=None), None)
    with pytest.raises(StaleCache, match="7 days"):
        await restored(bench, store, ahead_s=8 * DAY_S)
    assert (await restored(bench, store, ahead_s=6 * DAY_S)).records == 1
    await restored(bench, store, ahead_s=30 * DAY_S)  # it has seen everything: age does not matter


async def test_a_cache_of_a_recreated_topic_is_refused_by_its_marker(bench: Bench) -> None:
    """Offsets alone cannot tell when the new log has grown past the old one."""
    producer = await bench.opened(SHARD)
    await producer.publish(put(bench, **{marker_key(SHARD): '{"id": 2}'}, a="1", b="1", c="1"), None)
    store = MemoryStore()
    store.apply([(marker_key(SHARD), b'{"id": 1}'), ("a", b"old")], 3)
    with pytest.raises(StaleCache, match="marker"):
        await restored(bench, store)
    same = MemoryStore()
    same.apply([(marker_key(SHARD), b'{"id": 2}'), ("a", b"1")], 2)
    assert (await restored(bench, same)).records == 2


async def test_a_broker_that_goes_away_ends_the_restore(own_kafka: LocalKafka, own_bench: Bench) -> None:
    producer = await own_bench.opened(SHARD)
    await producer.publish(put(own_bench, a="1"), None)
    own_kafka.pause()
    settings = own_bench.settings.model_copy(update={"answer_deadline_s": 1.0})
    try:
        with pytest.raises(EnvironmentUnavailable):
            await restore(settings, own_bench.plan.state, SHARD, MemoryStore(), own_bench.clock, lambda *_: None)
    finally:
        own_kafka.resume()


async def test_a_cancelled_restore_leaves_no_task(bench: Bench) -> None:
    producer = await bench.opened(SHARD)
    await producer.publish(put(bench, a="1"), None)
    await bench.settled(bench.plan.state)
    before = asyncio.all_tasks()
    for delay_s in (0.0, 0.002, 0.005, 0.01, 0.02):
        task = asyncio.create_task(restored(bench, MemoryStore()))
        await asyncio.sleep(delay_s)
        task.cancel()
        await asyncio.wait([task])
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


# -- reading topics ----------------------------------------------------------------------------------------------


async def test_reads_topics_to_their_end_in_order_per_partition(bench: Bench) -> None:
    producer = await bench.opened()
    records = [Record(bench.plan.customers, None, b"k%d" % (number % 7), b"%d" % number) for number in range(100)]
    await producer.publish(records, None)
    messages = await bench.committed(bench.plan.customers, bench.plan.tags)
    assert sorted(int(message.value or b"") for message in messages) == list(range(100))
    by_key: dict[bytes | None, list[int]] = {}
    for message in messages:
        by_key.setdefault(message.key, []).append(int(message.value or b""))
    assert all(numbers == sorted(numbers) for numbers in by_key.values())


async def test_reads_from_a_time_on(bench: Bench) -> None:
    producer = await bench.opened()
    await producer.publish([Record(bench.plan.tags, 0, b"k", b"before")], None)
    await asyncio.sleep(0.01)
    moment = int(bench.clock.wall() * 1000)
    await asyncio.sleep(0.01)
    await producer.publish([Record(bench.plan.tags, 0, b"k", b"after")], None)
    await bench.settled(bench.plan.tags)
    found = [
        message.value async for message in read_topics(bench.settings, [bench.plan.tags], bench.clock, since=moment)
    ]
    assert found == [b"after"]
    later = int(bench.clock.wall() * 1000) + 1000
    assert not [1 async for _ in read_topics(bench.settings, [bench.plan.tags], bench.clock, since=later)]


async def test_follows_from_now_on_for_ever(bench: Bench) -> None:
    producer = await bench.opened()
    await producer.publish([Record(bench.plan.tags, 0, b"k", b"before")], None)
    messages = read_topics(bench.settings, [bench.plan.tags], bench.clock, since="latest", follow=True)
    first = asyncio.ensure_future(anext(messages))
    await asyncio.sleep(0.3)
    await producer.publish([Record(bench.plan.tags, 1, b"k", b"after")], None)
    assert (await asyncio.wait_for(first, 5)).value == b"after"
    await producer.publish([Record(bench.plan.tags, 2, b"k", b"later")], None)
    assert (await asyncio.wait_for(anext(messages), 5)).value == b"later"
    await messages.aclose()


async def test_reading_ends_before_a_transaction_that_is_still_open(bench: Bench) -> None:
    producer = await bench.opened()
    await producer.publish([Record(bench.plan.tags, 0, b"k", b"1")], None)
    await bench.settled(bench.plan.tags)
    held = HeldCommit(producer)
    publishing = asyncio.create_task(producer.publish([Record(bench.plan.tags, 0, b"k", b"2")], None))
    await held.reached.wait()
    async with asyncio.timeout(5):
        assert await bench.values(bench.plan.tags, settle=False) == [b"1"]
    held.go_on.set()
    await publishing
    assert await bench.values(bench.plan.tags) == [b"1", b"2"]


async def test_a_missing_topic_is_named(bench: Bench) -> None:
    with pytest.raises(EnvironmentUnavailable, match="nowhere does not exist"):
        await anext(read_topics(bench.settings, ["nowhere"], bench.clock))
