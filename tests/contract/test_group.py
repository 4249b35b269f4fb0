"""The contract of `Member`: the group says who owns what, and nothing is delivered before its owner says from where."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from bridge.publish.inbox import InboxRecord
from bridge.publish.transaction import Producer
from bridge.runtime.group import Member
from tests.contract.rigs import SESSION_S, Rig, on_both
from tests.publish.benching import SHARDS

ALL = frozenset(range(SHARDS))


@asynccontextmanager
async def member(rig: Rig) -> AsyncIterator[Member]:
    """A started member of the group, polled all the time; what it delivers is thrown away."""
    inbox = rig.member()
    await inbox.start()

    async def poll() -> None:
        while True:
            await inbox.poll(0.1)

    polling = asyncio.ensure_future(poll())
    try:
        yield inbox
    finally:
        polling.cancel()
        await asyncio.wait([polling])
        await inbox.stop()


@asynccontextmanager
async def alone(rig: Rig) -> AsyncIterator[Member]:
    """Alone in its group, assigned, polled by nobody but the test."""
    inbox = rig.member()
    await inbox.start()
    try:
        await until(lambda: inbox.assignment() == ALL, inbox)
        yield inbox
    finally:
        await inbox.stop()


async def until(condition: Callable[[], bool], inbox: Member, timeout_s: float = 15.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await inbox.wait_changed()


async def drained(inbox: Member) -> list[InboxRecord]:
    found: list[InboxRecord] = []
    while records := await inbox.poll(0.5):
        found += records
    return found


async def opened(rig: Rig, shard: int) -> Producer:
    producer = rig.producer(shard)
    await producer.open()
    return producer


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


@on_both
async def test_a_new_member_knows_nothing_until_it_is_assigned(rig: Rig) -> None:
    inbox = rig.member()
    assert (inbox.assignment(), inbox.generation, inbox.rebalancing) == (frozenset(), 0, True)
    assert inbox.confirmed_at == float("-inf")
    await inbox.start()
    await until(lambda: inbox.assignment() == ALL, inbox)
    assert inbox.generation > 0
    assert not inbox.rebalancing
    await inbox.stop()


@on_both
async def test_delivers_nothing_before_the_owner_says_where(rig: Rig) -> None:
    async with alone(rig) as inbox:
        await rig.send(2, numbered(3))
        assert await drained(inbox) == []
        assert not inbox.resume(2), "not placed yet"
        assert await drained(inbox) == []
        assert inbox.seek(2, 1)
        assert await drained(inbox) == [], "placed, still paused"
        assert inbox.resume(2)
        found = [(record.partition, record.offset, record.value) for record in await drained(inbox)]
        assert found == [(2, 1, b"1"), (2, 2, b"2")]


@on_both
async def test_pauses_and_goes_on_without_loss(rig: Rig) -> None:
    async with alone(rig) as inbox:
        await rig.send(0, numbered(700))
        inbox.seek(0, 0)
        inbox.resume(0)
        found: list[InboxRecord] = []
        while not found:
            found = await inbox.poll(0.5)
        assert len(found) <= 500, "one poll is bounded"
        inbox.pause(0)
        assert await drained(inbox) == []
        inbox.resume(0)
        found += await drained(inbox)
        assert [record.offset for record in found] == list(range(700))


@on_both
async def test_the_committed_offset_is_none_until_there_is_one_and_final_behind_the_fence(rig: Rig) -> None:
    async with alone(rig) as inbox:
        assert await inbox.committed(1) is None
        assert await inbox.begin_offset(1) == 0
        for number in range(1, 6):
            await (await opened(rig, 1)).publish([], number)
            await opened(rig, 1)
            assert await inbox.committed(1) == number
        assert await inbox.committed(0) is None


@on_both
async def test_the_offset_of_a_transaction_that_never_ends_does_not_count(rig: Rig) -> None:
    async with alone(rig) as inbox:
        await (await opened(rig, 3)).publish([], 3)
        old = await opened(rig, 3)
        held = rig.hold(old)
        late = asyncio.ensure_future(old.publish([], 9))
        await held.reached.wait()
        assert await inbox.committed(3) == 3
        await opened(rig, 3)
        held.go_on.set()
        await asyncio.wait([late])
        assert late.exception() is not None
        assert await inbox.committed(3) == 3


@on_both
async def test_members_share_and_inherit(rig: Rig) -> None:
    async with member(rig) as first:
        await until(lambda: first.assignment() == ALL, first)
        async with member(rig) as second:
            await until(lambda: len(second.assignment()) == 2, second)
            await until(lambda: len(first.assignment()) == 2, first)
            assert first.assignment() | second.assignment() == ALL
        began = rig.clock.monotonic()
        await until(lambda: first.assignment() == ALL, first)
        assert rig.clock.monotonic() - began < 1.5, "a member that leaves in order says so"


@on_both
async def test_a_member_that_dies_is_missed_after_its_session(rig: Rig) -> None:
    async with member(rig) as first:
        await until(lambda: first.assignment() == ALL, first)
        second = rig.member()
        await second.start()
        await until(lambda: len(second.assignment()) == 2, second)
        await until(lambda: len(first.assignment()) == 2 and not first.rebalancing, first)
        await rig.die(second)
        began = rig.clock.monotonic()
        await until(lambda: first.assignment() == ALL, first)
        assert SESSION_S * 0.5 < rig.clock.monotonic() - began < SESSION_S + 4.0
        await second.stop()


@on_both
async def test_a_rebalance_forgets_positions_and_pauses_everything(rig: Rig) -> None:
    await rig.send(0, numbered(10))
    async with alone(rig) as inbox:
        inbox.seek(0, 0)
        inbox.resume(0)
        assert len(await drained(inbox)) == 10
        generation = inbox.generation

        async def join_and_leave() -> None:
            async with member(rig) as other:
                await until(lambda: len(other.assignment()) == 2, other)

        other = asyncio.ensure_future(join_and_leave())
        while not other.done() or inbox.rebalancing or inbox.generation < generation + 2:
            assert await inbox.poll(0.1) == []
        await other
        assert inbox.assignment() == ALL
        assert not inbox.resume(0)
        assert await drained(inbox) == []
        inbox.seek(0, 8)
        inbox.resume(0)
        assert [record.offset for record in await drained(inbox)] == [8, 9]


@on_both
async def test_what_is_not_ours_is_left_alone(rig: Rig) -> None:
    async with member(rig) as first:
        await until(lambda: first.assignment() == ALL, first)
        async with member(rig) as second:
            await until(lambda: len(second.assignment()) == 2, second)
            foreign = min(ALL - second.assignment())
            assert not second.seek(foreign, 0)
            assert not second.resume(foreign)
            second.pause(foreign)


@on_both
async def test_only_a_later_heartbeat_confirms_and_only_what_is_ours(rig: Rig) -> None:
    async with member(rig) as first:
        await until(lambda: first.assignment() == ALL, first)
        asked = rig.clock.monotonic()
        async with asyncio.timeout(5):
            assert await first.wait_membership_confirmed(0, asked)
        assert first.confirmed_at > asked
        async with member(rig) as second:
            await until(lambda: len(second.assignment()) == 2, second)
            async with asyncio.timeout(10):
                assert not await first.wait_membership_confirmed(min(second.assignment()), rig.clock.monotonic())
                assert await first.wait_membership_confirmed(min(first.assignment()), rig.clock.monotonic())


@on_both
async def test_a_standby_has_an_assignment_too(rig: Rig) -> None:
    """More members than partitions: the last ones get nothing, and know it."""
    async with AsyncExitStack() as stack:
        inboxes = [await stack.enter_async_context(member(rig)) for _ in range(SHARDS + 1)]
        async with asyncio.timeout(20):
            while not all(inbox.generation for inbox in inboxes) or shares(inboxes) != [0, 1, 1, 1, 1]:
                await rig.clock.sleep(0.05)


def shares(inboxes: list[Member]) -> list[int]:
    return sorted(len(inbox.assignment()) for inbox in inboxes)
