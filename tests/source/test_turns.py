"""Turns: requests that follow each other at once, and still no more than the budget allows."""

from __future__ import annotations

import asyncio

import pytest

from bridge.errors import RetryLater
from bridge.source.api import Exchange
from bridge.source.budget import Priority, RequestBudget
from bridge.source.transport import Request
from tests.source.providing import Observer, Provider
from tests.support.clock import VirtualClock, run_virtual

ASK = Request("GET", "/x")


def exchange(clock: VirtualClock, budget: RequestBudget) -> Exchange:
    return Exchange(Provider(), budget, clock, Observer(), lambda: 0.0)


def test_nothing_waits_between_requests_that_had_their_turns() -> None:
    async def main(clock: VirtualClock) -> None:
        own = exchange(clock, RequestBudget(1.0, clock))
        async with own.turns(3, Priority.COMMAND) as turns:
            assert clock.monotonic() == pytest.approx(2.0)
            others = asyncio.create_task(own.send("x", ASK, Priority.COMMAND))
            for _ in range(3):
                await own.send("x", ASK, turns)
            assert clock.monotonic() == pytest.approx(2.0)
        await others
        assert clock.monotonic() == pytest.approx(3.0)

    run_virtual(main)


def test_turns_that_were_not_needed_are_given_back_to_who_waits() -> None:
    async def main(clock: VirtualClock) -> None:
        own = exchange(clock, RequestBudget(2.0, clock))
        async with own.turns(2, Priority.COMMAND):
            waiting = asyncio.create_task(own.send("x", ASK, Priority.SWEEP))
            await asyncio.sleep(0.1)
            assert not waiting.done()
        await waiting
        begin = clock.monotonic()
        assert begin <= 0.5
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), own.turns(4, Priority.COMMAND):
                raise AssertionError("there are not so many")
        await own.send("x", ASK, Priority.SWEEP)
        assert clock.monotonic() == pytest.approx(begin + 0.3)

    run_virtual(main)


def test_nothing_is_sent_once_the_provider_wants_a_pause() -> None:
    async def main(clock: VirtualClock) -> None:
        budget = RequestBudget(10.0, clock)
        own = exchange(clock, budget)
        async with own.turns(2, Priority.COMMAND) as turns:
            await own.send("x", ASK, turns)
            budget.pause_until(clock.monotonic() + 30)
            with pytest.raises(RetryLater, match="nothing was changed"):
                await own.send("x", ASK, turns)

    run_virtual(main)


def test_many_that_collect_turns_do_not_all_ask_at_once() -> None:
    async def main(clock: VirtualClock) -> None:
        own = exchange(clock, RequestBudget(1.0, clock))
        sent: list[float] = []

        async def one() -> None:
            async with own.turns(4, Priority.COMMAND) as turns:
                for _ in range(4):
                    await own.send("x", ASK, turns)
                    sent.append(clock.monotonic())

        await asyncio.gather(*(one() for _ in range(8)))
        assert max(sum(at <= other < at + 8.0 for other in sent) for at in sent) <= 8 + 4
        assert clock.monotonic() == pytest.approx(31.0)

    run_virtual(main)
