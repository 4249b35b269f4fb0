"""The inbox group decides who owns what; its consumer never delivers from a place that the owner has not named."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiokafka.protocol.group import HeartbeatRequest, HeartbeatResponse_v0

from bridge.errors import EnvironmentUnavailable, Fenced
from bridge.publish.inbox import Inbox, InboxRecord, _Heartbeats
from bridge.publish.settings import KafkaSettings
from bridge.publish.transaction import Record
from bridge.sandbox.kafka import LocalKafka
from tests.publish.benching import SHARDS, Bench, HeldCommit

ALL = frozenset(range(SHARDS))

# The shortest session a default broker allows is 6 s; the one of the tests allows 1 s.
BRISK = {"session_timeout_s": 2.0, "heartbeat_s": 0.2, "rebalance_timeout_s": 5.0, "answer_deadline_s": 5.0}


def brisk(bench: Bench) -> KafkaSettings:
    return bench.settings.model_copy(update=BRISK)


@asynccontextmanager
async def member(bench: Bench, settings: KafkaSettings | None = None) -> AsyncIterator[Inbox]:
    """A started member of the group, polled all the time; what it delivers is thrown away."""
    inbox = Inbox(settings or brisk(bench), bench.plan.inbox, bench.plan.bridge, bench.clock)
    await inbox.start()

    async def poll() -> None:
        while True:
            await inbox.poll(0.1)

    polling = asyncio.create_task(poll())
    try:
        yield inbox
    finally:
        polling.cancel()
        await asyncio.wait([polling])
        await inbox.stop()


async def until(condition: Callable[[], bool], inbox: Inbox, timeout_s: float = 15.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await inbox.wait_changed()


async def fill(bench: Bench, partition: int, count: int) -> None:
    producer = await bench.opened(shard=partition)
    records = [Record(bench.plan.inbox, partition, b"acme", b"%d" % number) for number in range(count)]
    await producer.publish(records, None)
    await producer.close()


async def drained(inbox: Inbox, quiet_s: float = 0.5) -> list[InboxRecord]:
    found: list[InboxRecord] = []
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        records = await inbox.poll(quiet_s)
        if not records:
            break
        found += records
    return found


@pytest.fixture
async def inbox(bench: Bench) -> AsyncIterator[Inbox]:
    """Alone in its group, assigned, not polled by anybody but the test."""
    inbox = Inbox(brisk(bench), bench.plan.inbox, bench.plan.bridge, bench.clock)
    await inbox.start()
    await until(lambda: inbox.assignment() == ALL, inbox)
    yield inbox
    await inbox.stop()


async def test_delivers_nothing_before_the_owner_says_where(bench: Bench, inbox: Inbox) -> None:
    await fill(bench, 2, 3)
    assert await drained(inbox) == []
    assert not inbox.resume(2), "not placed yet"
    assert await drained(inbox) == []
    assert inbox.seek(2, 1)
    assert await drained(inbox) == [], "placed, still paused"
    assert inbox.resume(2)
    assert [(record.partition, record.offset, record.value) for record in await drained(inbox)] == [
        (2, 1, b"1"),
        (2, 2, b"2"),
    ]


async def test_pauses_and_goes_on_without_loss(bench: Bench, inbox: Inbox) -> None:
    await fill(bench, 0, 1200)
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
    assert [record.offset for record in found] == list(range(1200))


async def test_committed_offset_is_none_until_there_is_one(bench: Bench, inbox: Inbox) -> None:
    assert await inbox.committed(1) is None
    await (await bench.opened(shard=1)).publish([], 17)
    await bench.opened(shard=1)
    assert await inbox.committed(1) == 17
    assert await inbox.begin_offset(1) == 0


async def test_committed_offset_is_final_behind_the_fence(bench: Bench, inbox: Inbox) -> None:
    """The old owner commits between our assignment and our fence; what the assignment saw is too old by then."""
    for number in range(20):
        old = await bench.opened(shard=3)
        await old.publish([], 2 * number)
        # Kafka has answered, and the offset may still be the one before: an owner must not look yet.
        held = HeldCommit(old)
        late = asyncio.create_task(old.publish([Record(bench.plan.tags, 0, b"k", b"v")], 2 * number + 1))
        await held.reached.wait()
        assert await inbox.committed(3) == 2 * number, "the transaction before is marked, this one is pending"
        await bench.opened(shard=3)
        assert await inbox.committed(3) == 2 * number
        held.go_on.set()
        with pytest.raises(Fenced):
            await late
        assert await inbox.committed(3) == 2 * number


async def test_committed_offset_of_an_answered_commit_is_there_behind_the_fence(bench: Bench, inbox: Inbox) -> None:
    for number in range(1, 31):
        await (await bench.opened(shard=0)).publish([], number)
        await bench.opened(shard=0)
        assert await inbox.committed(0) == number


async def test_a_heartbeat_counts_from_when_it_was_sent() -> None:
    """One that was under way when the owner was fenced may have been answered before the group changed its mind."""

    class Hand:
        now = 0.0

        def wall(self) -> float:
            return self.now

        def monotonic(self) -> float:
            return self.now

        async def sleep(self, seconds: float) -> None:
            raise NotImplementedError

    clock = Hand()
    heartbeats = _Heartbeats(clock)
    request = HeartbeatRequest("group", 1, "member")
    well, refused = HeartbeatResponse_v0(error_code=0), HeartbeatResponse_v0(error_code=27)

    def beat(sent: float, answered: float, response: object) -> None:
        clock.now = sent
        heartbeats.sent(request)
        clock.now = answered
        heartbeats.answered(request, response)

    waiting = asyncio.create_task(heartbeats.wait_after(2.0))
    for sent, answered, response in ((1.0, 3.0, well), (4.0, 5.0, refused), (2.0, 6.0, well)):
        beat(sent, answered, response)
        await asyncio.sleep(0)
        assert not waiting.done()
    beat(7.0, 8.0, well)
    await waiting


async def test_only_a_later_heartbeat_confirms_the_membership(own_kafka: LocalKafka, own_bench: Bench) -> None:
    # The broker must not drop the member while it is paused.
    settings = own_bench.settings.model_copy(update=BRISK | {"session_timeout_s": 10.0})
    async with member(own_bench, settings) as inbox:
        await until(lambda: inbox.assignment() == ALL, inbox)
        clock = own_bench.clock
        async with asyncio.timeout(2):
            assert await inbox.wait_membership_confirmed(0, clock.monotonic())
        own_kafka.pause()
        confirmation = asyncio.create_task(inbox.wait_membership_confirmed(0, clock.monotonic()))
        await asyncio.sleep(1.0)  # five heartbeats long; real time, because the broker has to miss them
        assert not confirmation.done()
        own_kafka.resume()
        async with asyncio.timeout(10):
            assert await confirmation


async def test_a_partition_that_went_to_another_is_not_confirmed(bench: Bench) -> None:
    async with member(bench) as first:
        await until(lambda: first.assignment() == ALL, first)
        async with member(bench) as second:
            await until(lambda: len(second.assignment()) == 2, second)
            [lost, *_] = second.assignment()
            async with asyncio.timeout(10):
                assert not await first.wait_membership_confirmed(lost, bench.clock.monotonic())
                [kept, *_] = first.assignment()
                assert await first.wait_membership_confirmed(kept, bench.clock.monotonic())


async def test_paused_partitions_keep_the_membership(bench: Bench) -> None:
    async with member(bench) as inbox:
        await until(lambda: inbox.assignment() == ALL, inbox)
        generation = inbox.generation
        await asyncio.sleep(2 * BRISK["session_timeout_s"])  # real time: the broker's session
        assert inbox.generation == generation
        async with asyncio.timeout(2):
            assert await inbox.wait_membership_confirmed(0, bench.clock.monotonic())


async def test_members_share_and_inherit(bench: Bench) -> None:
    async with member(bench) as first:
        await until(lambda: first.assignment() == ALL, first)
        async with member(bench) as second:
            await until(lambda: len(second.assignment()) == 2, second)
            await until(lambda: len(first.assignment()) == 2, first)
            assert first.assignment() | second.assignment() == ALL
        started = time.monotonic()
        await until(lambda: first.assignment() == ALL, first)
        assert time.monotonic() - started < 1.5, "a member that leaves in order says so"


async def test_a_rebalance_stops_delivery_until_the_owner_places_again(bench: Bench) -> None:
    """The library forgets the pause and starts at the committed offset; both would deliver records twice."""
    await fill(bench, 0, 10)
    async with member(bench) as first:
        await until(lambda: first.assignment() == ALL, first)
        generation = first.generation
        async with member(bench) as second:
            await until(lambda: len(second.assignment()) == 2, second)
            await until(lambda: first.generation > generation and not first.rebalancing, first)
    # One that reads itself, joined and left by another: partition 0 has stayed with one of them or moved.
    inbox = Inbox(brisk(bench), bench.plan.inbox, bench.plan.bridge, bench.clock)
    await inbox.start()
    await until(lambda: inbox.assignment() == ALL, inbox)
    try:
        inbox.seek(0, 0)
        inbox.resume(0)
        assert len(await drained(inbox)) == 10
        generation = inbox.generation
        other = asyncio.create_task(_join_and_leave(bench))
        while not other.done() or inbox.rebalancing or inbox.generation < generation + 2:
            assert await inbox.poll(0.1) == []
        await other
        assert inbox.assignment() == ALL
        assert not inbox.resume(0)
        assert await drained(inbox) == []
        inbox.seek(0, 8)
        inbox.resume(0)
        assert [record.offset for record in await drained(inbox)] == [8, 9]
    finally:
        await inbox.stop()


async def _join_and_leave(bench: Bench) -> None:
    async with member(bench) as other:
        await until(lambda: len(other.assignment()) == 2, other)


async def test_what_is_not_ours_is_left_alone(bench: Bench) -> None:
    async with member(bench) as first:
        await until(lambda: first.assignment() == ALL, first)
        async with member(bench) as second:
            await until(lambda: len(second.assignment()) == 2, second)
            [foreign, *_] = first.assignment() - second.assignment() or ALL - second.assignment()
            assert not second.seek(foreign, 0)
            assert not second.resume(foreign)
            second.pause(foreign)


async def test_a_standby_has_an_assignment_too(bench: Bench) -> None:
    """More members than partitions: the last ones get nothing, and know it."""
    inboxes = [Inbox(brisk(bench), bench.plan.inbox, bench.plan.bridge, bench.clock) for _ in range(SHARDS + 1)]
    async with asyncio.TaskGroup() as group:
        for inbox in inboxes:
            await inbox.start()

        async def poll(inbox: Inbox) -> None:
            while True:
                await inbox.poll(0.1)

        polls = [group.create_task(poll(inbox)) for inbox in inboxes]
        async with asyncio.timeout(20):
            while sorted(len(inbox.assignment()) for inbox in inboxes) != [0, 1, 1, 1, 1]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        for polling in polls:
            polling.cancel()
    for inbox in inboxes:
        await inbox.stop()


async def test_polling_during_a_broken_rebalance_returns(own_kafka: LocalKafka, own_bench: Bench) -> None:
    """The library would wait for the next assignment without end."""
    async with member(own_bench) as first:
        await until(lambda: first.assignment() == ALL, first)
    inbox = Inbox(brisk(own_bench), own_bench.plan.inbox, own_bench.plan.bridge, own_bench.clock)
    await inbox.start()
    own_kafka.pause()
    async with asyncio.timeout(3):
        assert await inbox.poll(0.2) == []
    own_kafka.resume()
    await until(lambda: inbox.assignment() == ALL, inbox)
    await inbox.stop()


@pytest.mark.parametrize("moment", ["before the first assignment", "assigned"])
async def test_stopping_is_bounded_while_the_broker_is_away(
    own_kafka: LocalKafka, own_bench: Bench, moment: str
) -> None:
    before = asyncio.all_tasks()
    inbox = Inbox(brisk(own_bench), own_bench.plan.inbox, own_bench.plan.bridge, own_bench.clock)
    await inbox.start()
    if moment == "assigned":
        await until(lambda: inbox.assignment() == ALL, inbox)
    own_kafka.pause()
    started = time.monotonic()
    await inbox.stop()
    assert time.monotonic() - started < 7.0
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    own_kafka.resume()


async def test_survives_a_broker_that_restarts(own_kafka: LocalKafka, own_bench: Bench) -> None:
    async with member(own_bench, own_bench.settings.model_copy(update=BRISK | {"answer_deadline_s": 20.0})) as inbox:
        await until(lambda: inbox.assignment() == ALL, inbox)
        own_kafka.kill()
        await own_kafka.start()
        async with asyncio.timeout(20):
            assert await inbox.wait_membership_confirmed(0, own_bench.clock.monotonic())
        assert inbox.assignment() == ALL


async def test_a_consumer_that_cannot_join_says_so(bench: Bench) -> None:
    """Here a session shorter than the broker allows; a right that is missing looks the same."""
    settings = bench.settings.model_copy(update={"session_timeout_s": 0.5, "heartbeat_s": 0.1})
    inbox = Inbox(settings, bench.plan.inbox, bench.plan.bridge, bench.clock)
    await inbox.start()
    with pytest.raises(EnvironmentUnavailable, match="InvalidSessionTimeout"):
        await inbox.poll(10.0)
    await inbox.stop()


async def test_a_broker_that_is_not_there_fails_the_start(bench: Bench) -> None:
    settings = bench.settings.model_copy(update={"bootstrap_servers": ["127.0.0.1:1"]})
    before = asyncio.all_tasks()
    with pytest.raises(EnvironmentUnavailable, match="nothing listens"):
        await Inbox(settings, "t", "g", bench.clock).start()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_a_poll_that_is_cancelled_loses_nothing(bench: Bench, inbox: Inbox) -> None:
    await fill(bench, 0, 50)
    inbox.seek(0, 0)
    inbox.resume(0)
    found: list[InboxRecord] = []
    for delay_s in (0.0, 0.001, 0.01, 0.05):
        poll = asyncio.create_task(inbox.poll(1.0))
        await asyncio.sleep(delay_s)
        if poll.cancel():
            await asyncio.wait([poll])
        if not poll.cancelled():
            found += poll.result()
    found += await drained(inbox)
    assert [record.offset for record in found] == list(range(50))
