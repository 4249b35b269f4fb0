"""One life of a shard: the order of its opening, what a failed commit leaves behind, the two stops."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from bridge.errors import CommitUnknown, Fenced, PublishError, PublishFailed, StateLost
from bridge.observability.metrics import TransactionResult
from bridge.publish.inbox import InboxRecord
from bridge.runtime.shard import INBOX_QUEUE_MAX, ShardState
from bridge.store.memory import MemoryStore
from bridge.store.record import encode_json, marker_key
from tests.runtime.shards import NUMBER, House
from tests.support.clock import VirtualClock, run_virtual


def broken(group: BaseExceptionGroup[BaseException]) -> BaseException:
    return group.exceptions[0]


def test_the_new_producer_fences_before_position_and_state_are_read() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        await house.live(1)
        assert house.kafka.calls[:5] == ["open", "committed", "restore", "seek 0", "resume"]
        assert house.kafka.calls[-1] == "close"
        assert house.kafka.offset == 0  # the first transaction says that this partition was written before
        house.kafka.calls.clear()
        house.kafka.offset = 7
        await house.live(1)
        assert house.kafka.calls[3] == "seek 7"

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
        assert dict(letters[0].headers)["reason"] == b"unknown_kind"
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
