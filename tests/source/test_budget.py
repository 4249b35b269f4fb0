"""RequestBudget: rate, priority, pauses, and nothing left behind by those who give up. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.source import budget as module
from bridge.source.budget import (
    BURST_S,
    HEAD_START_S,
    RATE_SHARE_MIN,
    RECOVERY_S,
    THROTTLE_FACTOR,
    Priority,
    RequestBudget,
)
from tests.support.clock import VirtualClock, run_virtual


async def drained(rate: float, clock: VirtualClock) -> RequestBudget:
    """A budget that has just given its burst away."""
    budget = RequestBudget(rate, clock)
    while budget.remaining() >= 1:
        await budget.acquire(Priority.POLL)
    return budget


def test_an_idle_source_saves_up_one_burst_and_no_more() -> None:
    async def main(clock: VirtualClock) -> None:
        budget = RequestBudget(10, clock)
        await clock.sleep(1000)
        assert budget.remaining() == 10 * BURST_S
        for _ in range(10):
            await budget.acquire(Priority.POLL)
        assert clock.monotonic() == 1000
        await budget.acquire(Priority.POLL)
        assert clock.monotonic() == pytest.approx(1000.1)

    run_virtual(main)


@pytest.mark.parametrize("rate", [0.2, 1, 7.3, 500])
def test_the_rate_is_kept_over_time(rate: float) -> None:
    async def main(clock: VirtualClock) -> None:
        budget = await drained(rate, clock)
        async with asyncio.TaskGroup() as group:
            for _ in range(100):
                group.create_task(budget.acquire(Priority.POLL))
        assert clock.monotonic() == pytest.approx(100 / rate, rel=0.05)

    run_virtual(main)


@pytest.mark.parametrize("rate", [0, -1, float("inf"), float("nan")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    async def main(clock: VirtualClock) -> None:
        with pytest.raises(ValueError, match="rate_per_s"):
            RequestBudget(rate, clock)

    run_virtual(main)


def test_higher_priority_first_then_first_come_first_served() -> None:
    async def main(clock: VirtualClock) -> None:
        budget = await drained(1, clock)
        served: list[str] = []

        async def ask(priority: Priority, name: str) -> None:
            await budget.acquire(priority)
            served.append(name)

        async with asyncio.TaskGroup() as group:
            for number in range(2):
                for priority in reversed(Priority):
                    group.create_task(ask(priority, f"{priority.name}{number}"))
        assert served == [f"{priority.name}{number}" for priority in Priority for number in range(2)]

    run_virtual(main)


def test_a_command_overtakes_what_already_waits() -> None:
    async def main(clock: VirtualClock) -> None:
        budget = await drained(1, clock)
        crowd = [asyncio.create_task(budget.acquire(Priority.SNAPSHOT)) for _ in range(20)]
        await clock.sleep(0.5)
        await budget.acquire(Priority.COMMAND)
        assert clock.monotonic() == pytest.approx(1, abs=0.01)
        for task in crowd:
            task.cancel()
        await asyncio.wait(crowd)

    run_virtual(main)


def test_the_lowest_class_is_served_although_a_higher_one_never_ends() -> None:
    async def main(clock: VirtualClock) -> None:
        budget = await drained(1, clock)

        async def flood() -> None:
            while True:
                await budget.acquire(Priority.POLL)

        floods = [asyncio.create_task(flood()) for _ in range(5)]
        await budget.acquire(Priority.SNAPSHOT)
        assert clock.monotonic() <= (Priority.SNAPSHOT - Priority.POLL) * HEAD_START_S + 10
        for task in floods:
            task.cancel()
        await asyncio.wait(floods)

    run_virtual(main)


def test_a_pause_holds_everybody_and_is_never_shortened() -> None:
    async def main(clock: VirtualClock) -> None:
        budget = RequestBudget(10, clock)
        assert budget.pause_until(60) == 60
        assert budget.pause_until(30) == 0
        assert budget.remaining() == 0
        await budget.acquire(Priority.COMMAND)
        assert clock.monotonic() >= 60

    run_virtual(main)


def test_a_pause_that_begins_while_somebody_waits_holds_that_one_too() -> None:
    async def main(clock: VirtualClock) -> None:
        budget = await drained(1, clock)
        waiting = asyncio.create_task(budget.acquire(Priority.POLL))
        await clock.sleep(0.5)
        budget.pause_until(100)
        await waiting
        assert clock.monotonic() >= 100

    run_virtual(main)


def test_the_end_of_a_pause_is_not_a_burst() -> None:
    async def main(clock: VirtualClock) -> None:
        budget = RequestBudget(10, clock)
        budget.throttled()
        budget.pause_until(60)
        begin = 60
        for _ in range(11):
            await budget.acquire(Priority.POLL)
        assert clock.monotonic() - begin >= 10 / 10

    run_virtual(main)


def test_being_throttled_slows_down_to_a_floor_and_recovers_slowly() -> None:
    async def main(clock: VirtualClock) -> None:
        budget = await drained(10, clock)
        for _ in range(50):
            budget.throttled()
        begin = clock.monotonic()
        for _ in range(2):
            await budget.acquire(Priority.POLL)
        waited = clock.monotonic() - begin
        assert 1 / (10 * RATE_SHARE_MIN) * 0.5 < waited < 2 / (10 * RATE_SHARE_MIN) * 1.1
        await clock.sleep(RECOVERY_S)
        while budget.remaining() >= 1:
            await budget.acquire(Priority.POLL)
        begin = clock.monotonic()
        for _ in range(10):
            await budget.acquire(Priority.POLL)
        assert clock.monotonic() - begin == pytest.approx(1, rel=0.1)

    run_virtual(main)


def test_the_present_rate_is_what_a_provider_lets_through() -> None:
    async def main(clock: VirtualClock) -> None:
        budget = RequestBudget(20, clock)
        assert budget.rate() == 20
        budget.told(300, 60.0)
        assert budget.rate() == 5
        budget.throttled()
        await clock.sleep(61)
        assert 20 * THROTTLE_FACTOR < budget.rate() < 20
        await clock.sleep(RECOVERY_S)
        assert budget.rate() == 20

    run_virtual(main)


def test_nobody_polls_the_clock_while_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: VirtualClock) -> None:
        sleeps = 0

        class Counting(VirtualClock):
            async def sleep(self, seconds: float) -> None:
                nonlocal sleeps
                sleeps += 1
                await super().sleep(seconds)

        budget = await drained(1, Counting())
        budget.pause_until(1000)
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(budget.acquire(Priority.POLL))
        assert sleeps <= 12

    run_virtual(main)


def test_more_callers_than_the_bound_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITERS_MAX", 3)

    async def main(clock: VirtualClock) -> None:
        budget = await drained(1, clock)
        results = await asyncio.gather(*(budget.acquire(Priority.POLL) for _ in range(5)), return_exceptions=True)
        assert sum(result is None for result in results) == 3

    run_virtual(main)


def test_whoever_is_cancelled_in_the_moment_of_being_served_gives_it_back() -> None:
    async def main(clock: VirtualClock) -> None:
        budget = RequestBudget(10, clock)
        budget.pause_until(60)

        async def drive() -> None:
            await budget.acquire(Priority.POLL)
            assert second.cancel()  # served by now, yet it has not run

        first = asyncio.create_task(drive())
        second = asyncio.create_task(budget.acquire(Priority.POLL))
        await asyncio.wait([first, second])
        assert second.cancelled()
        assert budget.remaining() == pytest.approx(9, abs=0.1)

    run_virtual(main)


CALLERS = st.lists(
    st.tuples(st.sampled_from(Priority), st.floats(0, 5), st.none() | st.floats(0, 10)), min_size=1, max_size=25
)


@settings(max_examples=150, deadline=None)
@given(CALLERS, st.sampled_from([0.5, 2.0, 10.0]), st.none() | st.floats(0, 8))
def test_those_who_give_up_leave_nothing_behind(
    callers: Sequence[tuple[Priority, float, float | None]], rate: float, pause: float | None
) -> None:
    """Each arrives, and some are cancelled while they wait, drive or have just been served."""

    async def main(clock: VirtualClock) -> None:
        budget = RequestBudget(rate, clock)
        served = 0

        async def caller(priority: Priority, at: float, patience: float | None) -> None:
            nonlocal served
            await clock.sleep(at)
            try:
                async with asyncio.timeout(patience):
                    await budget.acquire(priority)
            except TimeoutError:
                return
            served += 1

        async with asyncio.TaskGroup() as group:
            for each in callers:
                group.create_task(caller(*each))
            if pause is not None:
                group.create_task(clock.sleep(1)).add_done_callback(lambda _: budget.pause_until(pause))
        end = clock.monotonic()
        assert not budget._queue
        assert budget._driver is None
        assert served <= max(1, rate * BURST_S) + rate * end + 1e-6
        assert served >= sum(patience is None for _, _, patience in callers)
        await clock.sleep(max(0.0, (pause or 0) - end) + max(1, rate) / rate + 1)
        assert budget.remaining() == pytest.approx(max(1.0, rate * BURST_S))

    run_virtual(main)
