"""What the fake Kafka does beyond the contract: requests that are lost or late, compaction, the power of a process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import CommitUnknown, EnvironmentUnavailable, Fenced, PublishFailed
from bridge.publish.topics import TopicPlan
from bridge.publish.transaction import Record
from bridge.sandbox.broker.cluster import Broker
from bridge.sandbox.broker.link import Fate, Link, Planned, Power, PowerCut, Trouble
from bridge.sandbox.broker.log import PartitionLog, Writer
from bridge.sandbox.broker.producer import ADD, END, OFFSET, OPEN, PRODUCE, FakeProducer
from bridge.sandbox.broker.reader import fake_restore
from bridge.sandbox.virtual import VirtualClock, run_virtual
from bridge.store.memory import MemoryStore

DAY_S = 86_400.0


class Bench:
    """One broker, one way to it."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.plan = TopicPlan("t", 2)
        self.broker = Broker(clock, Random(1))
        self.cluster = self.broker.cluster(self.plan)
        self.trouble = Trouble()
        self.power = Power(clock)
        self.chance = Random(2)

    def link(self) -> Link:
        return Link(self.broker, self.clock, self.power, self.trouble, Random(self.chance.random()))

    async def opened(self) -> FakeProducer:
        producer = FakeProducer(
            self.link(),
            transactional_id="t-0",
            group_id="t",
            inbox=(self.plan.inbox, 0),
            partitions=self.cluster.partitions,
            record_bytes_max=self.cluster.record_bytes_max,
        )
        await producer.open()
        return producer

    def step(self, number: int) -> list[Record]:
        """The same value in two topics: a torn transaction shows in one only."""
        value = b"%d" % number
        return [Record(self.plan.tags, 0, b"acme/1", value), Record(self.plan.state, 0, b"acme/tags/1", value)]

    def values(self, topic: str) -> list[bytes | None]:
        return [entry.value for entry in self.broker.read((topic, 0), 0)]

    def plan_trouble(self, kind: str, fate: Fate, seconds: float = 0.0, left: int = 1) -> None:
        self.trouble.planned = Planned(kind, left, fate, seconds)


def in_virtual_time(case: Callable[[Bench], Awaitable[None]]) -> Callable[[], None]:
    def test() -> None:
        run_virtual(lambda clock: case(Bench(clock)))

    test.__name__, test.__doc__ = getattr(case, "__name__", "test"), case.__doc__
    return test


@pytest.mark.parametrize("kind", [ADD, PRODUCE, OFFSET, END])
@pytest.mark.parametrize("fate", [Fate.LOST, Fate.UNANSWERED, Fate.LATE])
def test_a_request_that_is_lost_is_repeated_and_has_its_effect_once(kind: str, fate: Fate) -> None:
    async def main(clock: VirtualClock) -> None:
        bench = Bench(clock)
        producer = await bench.opened()
        bench.plan_trouble(kind, fate, 0.02)
        receipt = await producer.publish(bench.step(1), 7)
        assert receipt.tainted == (kind != PRODUCE)
        await clock.sleep(5)
        assert bench.values(bench.plan.tags) == bench.values(bench.plan.state) == [b"1"]
        assert bench.broker.committed("t", (bench.plan.inbox, 0)) == 7

    run_virtual(main)


@in_virtual_time
async def test_a_late_copy_of_a_commit_ends_half_of_the_next_transaction_of_a_producer_that_goes_on(
    bench: Bench,
) -> None:
    """KAFKA-17754, as real Kafka has it for the requests that the client speaks."""
    producer = await bench.opened()
    bench.plan_trouble(END, Fate.LATE, 0.5)
    assert (await producer.publish(bench.step(1), None)).tainted
    producer._usable = True  # what nobody may do
    who = producer._own()
    await bench.clock.sleep(0.2)  # markers
    bench.broker.add(who, [(bench.plan.tags, 0), (bench.plan.state, 0)])
    bench.broker.produce(who, (bench.plan.tags, 0), 1, bench.step(2)[:1])
    await bench.clock.sleep(5)
    assert bench.values(bench.plan.tags) == [b"1", b"2"]
    assert bench.values(bench.plan.state) == [b"1"], "half of it"


@in_virtual_time
async def test_a_late_copy_of_a_commit_is_refused_when_the_producer_was_replaced(bench: Bench) -> None:
    producer = await bench.opened()
    bench.plan_trouble(END, Fate.LATE, 0.5)
    await producer.publish(bench.step(1), None)
    successor = await bench.opened()
    who = successor._own()
    bench.broker.add(who, [(bench.plan.tags, 0)])
    bench.broker.produce(who, (bench.plan.tags, 0), 0, bench.step(2)[:1])
    await bench.clock.sleep(5)
    assert bench.values(bench.plan.tags) == [b"1"]


@in_virtual_time
async def test_a_commit_that_nobody_answers_is_unknown_and_may_still_count(bench: Bench) -> None:
    outcomes: set[tuple[bytes | None, ...]] = set()
    for number in range(12):
        producer = await bench.opened()
        await bench.clock.sleep(5)
        before = len(bench.values(bench.plan.tags))
        bench.plan_trouble(END, Fate.CUT, 60.0)
        with pytest.raises(CommitUnknown):
            await producer.publish(bench.step(number), None)
        bench.trouble.end()
        await bench.opened()
        after = bench.values(bench.plan.tags)[before:]
        assert after == bench.values(bench.plan.state)[before:]
        outcomes.add(tuple(b"x" for _ in after))
    assert outcomes == {(), (b"x",)}, "sometimes it did, sometimes it did not"


@in_virtual_time
async def test_without_a_way_nothing_was_committed_for_sure(bench: Bench) -> None:
    producer = await bench.opened()
    bench.trouble.down_until = bench.clock.monotonic() + 60
    with pytest.raises(PublishFailed):
        await producer.publish(bench.step(1), None)
    with pytest.raises(EnvironmentUnavailable):
        await bench.opened()


@in_virtual_time
async def test_a_late_opening_fences_the_owner_that_came_after(bench: Bench) -> None:
    bench.plan_trouble(OPEN, Fate.LATE, 3.0)
    owner = await bench.opened()
    await owner.publish(bench.step(1), None)
    await bench.clock.sleep(5)
    with pytest.raises(Fenced):
        await owner.publish(bench.step(2), None)


@in_virtual_time
async def test_the_power_goes_before_during_and_after_a_request(bench: Bench) -> None:
    seen: list[int] = []
    for number in (1, 2, 3):
        bench.power = Power(bench.clock, cut_at=(END, number))
        producer = await bench.opened()
        with pytest.raises(PowerCut):
            await producer.publish(bench.step(number), None)
        with pytest.raises(PowerCut):
            await producer.publish(bench.step(number), None) if producer._usable else await bench.opened()
        bench.power = Power(bench.clock)
        await bench.clock.sleep(5)
        await bench.opened()
        seen.append(len(bench.values(bench.plan.tags)))
    assert seen == [0, 1, 2], "it had not left; it was on its way; it was answered"


@in_virtual_time
async def test_a_frozen_process_sends_nothing(bench: Bench) -> None:
    producer = await bench.opened()
    bench.power.freeze(10.0)
    publishing = asyncio.ensure_future(producer.publish(bench.step(1), None))
    await bench.clock.sleep(9.0)
    assert bench.broker.log((bench.plan.tags, 0)).end == 0
    await publishing
    assert bench.clock.monotonic() >= 10.0


Writes = st.lists(st.tuples(st.sampled_from("abcd"), st.one_of(st.none(), st.sampled_from("123"))), max_size=30)


@settings(max_examples=60, deadline=None)
@given(writes=Writes, share=st.floats(0, 1), old=st.booleans())
def test_a_compacted_log_restores_to_the_same_state(
    writes: list[tuple[str, str | None]], share: float, old: bool
) -> None:
    async def main(clock: VirtualClock) -> None:
        bench = Bench(clock)
        wanted: dict[str, bytes] = {}
        producer = await bench.opened()
        for number, (key, value) in enumerate(writes):
            record = Record(bench.plan.state, 0, key.encode(), None if value is None else value.encode())
            if number % 5 == 4:  # the process dies, its successor aborts what it has left open
                await clock.sleep(5)
                who, at = producer._own(), (bench.plan.state, 0)
                bench.broker.add(who, [at])
                bench.broker.produce(who, at, producer._sequences.get(at, 0), [record])
                producer = await bench.opened()
                continue
            await producer.publish([record], None)
            wanted.pop(key, None)
            if value is not None:
                wanted[key] = value.encode()
        if old:
            await clock.sleep(8 * DAY_S)
        await bench.opened()
        log = bench.broker.log((bench.plan.state, 0))
        end, offsets = log.end, {entry.offset for entry in log.entries}
        bench.broker.compact(bench.plan.state, 7 * DAY_S, share)
        assert log.end == end
        assert {entry.offset for entry in log.entries} <= offsets
        store = MemoryStore()
        result = await fake_restore(
            bench.link(), Random(1), bench.plan.state, 0, store, clock, lambda *_: None, fenced=True
        )
        assert dict(store.scan("")) == wanted
        assert result.position == end

    run_virtual(main)


def test_a_batch_that_comes_twice_is_written_once() -> None:
    log = PartitionLog()
    writer = Writer(1, 0, 1)
    batch = [Record("t", 0, b"k", b"1"), Record("t", 0, b"k", b"2")]
    assert log.append(writer, 0, batch, 0) == log.append(writer, 0, batch, 0) == 0
    assert log.append(writer, 1, batch, 0) == 2
    assert log.end == 4
    assert log.stable_end == 0
    log.mark(writer, 0, commit=True)
    assert log.stable_end == log.end == 5
