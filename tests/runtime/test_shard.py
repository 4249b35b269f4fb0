"""One life of a shard: the order of its opening, what a failed commit leaves behind, the two stops."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from unittest.mock import patch

import orjson
import pytest

from bridge.errors import CommitUnknown, Fenced, PublishError, PublishFailed, StateLost
from bridge.model import Collection
from bridge.observability.metrics import TransactionResult
from bridge.publish.inbox import InboxRecord
from bridge.publish.statelog import StaleCache
from bridge.publish.transaction import record_bytes
from bridge.runtime import progress
from bridge.runtime.inbox import InboxDesk
from bridge.runtime.shard import EVENTS_SHOWN, INBOX_QUEUE_MAX, LINGER_S, RECORDS_AT_ONCE, Shard, ShardState
from bridge.source.feed import Page
from bridge.store.base import Store
from bridge.store.memory import MemoryStore
from bridge.store.record import encode_json, heartbeat_key, marker_key
from tests.runtime.shards import NUMBER, TOPICS, House
from tests.support.clock import VirtualClock, run_virtual


def broken(group: BaseExceptionGroup[BaseException]) -> BaseException:
    return group.exceptions[0]


def test_the_new_producer_fences_before_position_and_state_are_read() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        await house.live(1)
        assert house.kafka.calls[:6] == ["pause", "open", "committed", "restore", "seek 0", "resume"]
        assert house.kafka.calls[-1] == "close"
        assert house.kafka.offset == 0  # the first transaction says that this partition was written before
        house.kafka.calls.clear()
        house.kafka.offset = 7
        await house.live(1)
        assert house.kafka.calls[4] == "seek 7"

    run_virtual(main)


def test_everything_is_published_once_over_two_lives() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        await house.live(3)
        assert house.types("customers") == ["customer.snapshot.v1"] * 50
        assert house.types("tags") == ["tag.snapshot.v1"] * 8
        await house.live(30)
        assert len(house.kafka.events("customers")) == 50
        sequences = [orjson.loads(record.value or b"")["sequence"] for record in house.kafka.records if record.headers]
        assert sequences == list(range(1, 59))

    run_virtual(main)


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (PublishFailed("no"), TransactionResult.FAILED),
        (Fenced("other"), TransactionResult.FENCED),
        (CommitUnknown("?"), TransactionResult.UNKNOWN),
    ],
)
def test_a_commit_that_is_not_certain_leaves_the_store_and_ends_the_life(
    error: PublishError, result: TransactionResult
) -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        await house.live(3)
        position = house.store.position
        house.kafka.fail = lambda _: error
        house.world.create_tag("new")
        with pytest.raises(ExceptionGroup) as caught:
            await house.live(60)
        assert broken(caught.value) is error
        assert house.store.position == position
        assert house.kafka.calls[-1] == "abandon"
        house.kafka.fail = lambda _: None
        await house.live(10)
        assert house.types("tags")[8:] == ["tag.created.v1"]
        _, text = house.metrics.render()
        assert f'bridge_transactions_total{{result="{result}"}} 1.0' in text.decode()

    run_virtual(main)


def test_a_tainted_producer_is_replaced_although_its_commit_counts() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        house.kafka.tainted = True
        with pytest.raises(ExceptionGroup) as caught:
            await house.live(10)
        assert isinstance(broken(caught.value), PublishFailed)
        assert house.kafka.published == 1
        assert house.store.position > 0
        assert house.kafka.calls[-1] == "abandon"

    run_virtual(main)


def test_cancelled_in_the_middle_of_a_commit_it_asks_the_broker_nothing() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        house.kafka.stuck = True
        task = asyncio.get_running_loop().create_task(house.shard().serve())
        await asyncio.sleep(5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert house.kafka.calls[-1] == "abandon"
        assert house.store.position == 0

    run_virtual(main)


def test_a_drain_commits_what_is_pending() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, customers=1000)
        shard = await house.live(0.02)
        assert shard.state is ShardState.CLOSED
        assert len(house.kafka.events("customers")) == shard.readings["acme"][0].documents

    run_virtual(main)


@pytest.mark.parametrize("shards", [None, 8])
def test_a_state_that_contradicts_the_log_is_refused(shards: int | None) -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        house.kafka.offset = 12
        if shards is not None:
            house.store = MemoryStore()
            house.store.apply([(marker_key(NUMBER), encode_json({"shards": shards, "id": "x"}))], 1)
        with pytest.raises(ExceptionGroup) as caught:
            await house.live(5)
        error = broken(caught.value)
        assert isinstance(error, StateLost)
        assert ("was deleted, recreated" if shards is None else "shards = 8") in str(error)
        assert house.kafka.published == 0

    run_virtual(main)


def record(offset: int, value: bytes | None = b"{}") -> InboxRecord:
    return InboxRecord(NUMBER, offset, b"acme", value, (), 0)


def test_an_inbox_record_that_nobody_knows_is_kept_and_the_offset_moves_once() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        shard = house.shard()
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await asyncio.sleep(2)
            shard.deliver([record(0, b"poison"), record(1, None)])
            shard.deliver([record(1), record(0)])  # again, after a rebalance
            await asyncio.sleep(2)
            shard.drain()
        letters = house.kafka.events("deadletters")
        assert [letter.value for letter in letters] == [b"poison", b""]
        assert dict(letters[0].headers)["reason"] == b"malformed"
        assert house.kafka.offset == 2

    run_virtual(main)


def test_a_flood_in_the_inbox_pauses_its_partition_only_until_it_is_worked_off() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        shard = house.shard()
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await asyncio.sleep(2)
            house.kafka.calls.clear()
            shard.deliver([record(offset) for offset in range(INBOX_QUEUE_MAX // 2 + 1)])
            assert house.kafka.calls == ["pause"]
            await asyncio.sleep(2)
            assert "resume" in house.kafka.calls
            shard.drain()
        assert house.kafka.offset == INBOX_QUEUE_MAX // 2 + 1

    run_virtual(main)


def test_what_was_fetched_for_a_broken_life_is_not_taken_by_the_next_before_it_has_its_place() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        house.kafka.offset = 0
        house.store.apply([(marker_key(NUMBER), encode_json({"shards": 4, "id": "x"}))], 1)
        shard = house.shard()
        shard.deliver([record(5)])
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await asyncio.sleep(2)
            shard.deliver([record(offset) for offset in range(6)])
            await asyncio.sleep(2)
            shard.drain()
        assert house.kafka.offset == 6
        assert len(house.kafka.events("deadletters")) == 6

    run_virtual(main)


def test_a_rebalance_does_not_resume_a_partition_whose_queue_is_full() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        shard = house.shard()
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await asyncio.sleep(2)
            shard.deliver([record(offset) for offset in range(INBOX_QUEUE_MAX)])
            house.kafka.calls.clear()
            shard.reseek()
            assert house.kafka.calls == [f"seek {INBOX_QUEUE_MAX}"]
            await asyncio.sleep(2)
            assert house.kafka.calls[-1] == "resume"
            shard.drain()
        assert house.kafka.offset == INBOX_QUEUE_MAX

    run_virtual(main)


def test_a_dead_letter_of_a_giant_key_fits_into_its_topic() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        shard = house.shard()
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await asyncio.sleep(2)
            shard.deliver([InboxRecord(NUMBER, 0, b"\xff" * 1_048_000, b"", (), 0)])
            await asyncio.sleep(2)
            shard.drain()
        (letter,) = house.kafka.events("deadletters")
        assert record_bytes(letter) < 10_000

    run_virtual(main)


def test_a_store_that_cannot_be_restored_is_closed_each_time() -> None:
    class Counted(MemoryStore):
        closed = 0

        def close(self) -> None:
            Counted.closed += 1

    async def main(clock: VirtualClock) -> None:
        house = House(clock)

        async def stale(_: Store) -> None:
            raise StaleCache("not ours")

        ports = replace(house.shard()._ports, open_store=Counted, restore=stale)
        with pytest.raises(StaleCache):
            await Shard(NUMBER, [house.reader], ports, TOPICS, clock, house.metrics).serve()
        assert Counted.closed == 2

    run_virtual(main)


def test_a_surprise_in_one_feed_stops_neither_its_siblings_nor_the_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)

        async def surprise(*_: object) -> Page:
            raise KeyError("a name")

        monkeypatch.setattr(house.source.feeds[Collection.TAGS], "page", surprise)
        shard = await house.live(10)
        assert len(house.kafka.events("customers")) == 50
        (tags,) = [r for r in shard.readings["acme"] if r.collection is Collection.TAGS]
        said = tags.status.last_error or ""
        assert "unforeseen KeyError" in said
        assert "a name" not in said

    run_virtual(main)


def test_what_comes_while_the_last_commit_flies_is_committed_before_the_drain_ends() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        shard = house.shard()
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await asyncio.sleep(2.5)
            shard.deliver([record(0)])
            await asyncio.sleep(LINGER_S + 0.005)
            shard.deliver([record(1)])
            await asyncio.sleep(0.001)
            assert house.kafka.offset == 0
            shard.drain()
        assert house.kafka.offset == 2

    run_virtual(main)


def test_nothing_counts_as_proved_before_its_commit() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        house.kafka.stuck = True
        shard = house.shard()
        task = asyncio.get_running_loop().create_task(shard.serve())
        await asyncio.sleep(5)
        assert shard.caught_up == {}
        task.cancel()
        await asyncio.wait([task])

    run_virtual(main)


def test_a_poll_without_a_change_is_proved_when_the_group_has_confirmed_the_owner_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kafka is not asked about an empty transaction: a zombie would get away with it."""
    monkeypatch.setattr(progress, "PROGRESS_S", float("inf"))  # or that would be committed, and prove it

    async def main(clock: VirtualClock) -> None:
        house = House(clock, customers=3)
        shard = house.shard()
        task = asyncio.get_running_loop().create_task(shard.serve())
        await asyncio.sleep(10)
        house.kafka.confirmed_at = clock.monotonic()
        await asyncio.sleep(10)
        published, before = house.kafka.published, dict(shard.caught_up)
        await asyncio.sleep(30)
        assert house.kafka.published == published, "nothing changes"
        assert shard.caught_up == before, "nobody says that the shard is ours"
        house.kafka.confirmed_at = float("inf")
        await asyncio.sleep(10)
        assert min(shard.caught_up.values()) > max(before.values()) + 20
        house.kafka.confirmed_at = float("-inf")
        await asyncio.sleep(20)
        before = dict(shard.caught_up)
        house.world.create_tag("new")
        await asyncio.sleep(10)
        assert min(shard.caught_up.values()) > max(before.values()) + 10, "a commit proves it too"
        shard.drain()
        await task

    run_virtual(main)


def test_a_quiet_state_partition_gets_a_heartbeat_also_after_a_clock_was_ahead() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        house.store.apply([(heartbeat_key(NUMBER), encode_json({"at": clock.wall() + 1e8}))], 1)
        await house.live(3)
        assert heartbeat_key(NUMBER).encode() in {record.key for record in house.kafka.events("state")}

    run_virtual(main)


def test_the_status_page_has_the_last_events_and_nothing_of_what_they_say() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, 50, 3)
        shard = await house.live(10)
        last = [record for record in house.kafka.records if record.topic in ("b.customers", "b.tags")][-EVENTS_SHOWN:]
        assert len(shard.last_events) == EVENTS_SHOWN
        assert [(event.source, event.type, event.sequence) for event in shard.last_events] == [
            ("acme", dict(record.headers)["ce_type"].decode(), int(dict(record.headers)["ce_sequence"]))
            for record in last
        ]

    run_virtual(main)


def test_many_records_of_the_inbox_leave_others_their_turn() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, 5, 1)
        shard = house.shard()
        turns, taken = [0], list[int]()
        take = InboxDesk.take

        def taking(self: InboxDesk, record: InboxRecord) -> None:
            taken.append(turns[0])
            take(self, record)

        async def others() -> None:
            while True:
                turns[0] += 1
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await asyncio.sleep(5)
            with patch.object(InboxDesk, "take", taking):
                busy = group.create_task(others())
                shard.deliver(
                    [InboxRecord(NUMBER, offset, b"acme", b"no JSON", (), 0) for offset in range(RECORDS_AT_ONCE * 6)]
                )
                for _ in range(200):
                    await asyncio.sleep(0)
                busy.cancel()
            shard.drain()
        assert len(taken) == RECORDS_AT_ONCE * 6
        assert len(set(taken)) >= 6

    run_virtual(main)
