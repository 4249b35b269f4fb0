"""Adaptive polling: quick while changes come, slow while none do, never beyond the bounds."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.model import Collection
from bridge.runtime.reading import ReadingPlan
from bridge.runtime.schedule import QUIET_FACTOR, Pace
from bridge.source.feed import Cursor, Familiar, Page, none_familiar
from tests.runtime.shards import House
from tests.support.clock import VirtualClock, run_virtual

SHORTEST_S, LONGEST_S = 1.0, 30.0


@given(st.floats(0.001, 1e5), st.floats(0, 1e5), st.lists(st.booleans(), max_size=60))
def test_the_pace_stays_within_its_bounds_and_answers_a_change_at_once(
    shortest: float, longest: float, changes: list[bool]
) -> None:
    pace = Pace.between(shortest, longest)
    assert pace.interval_s == shortest
    for changed in changes:
        before, pace = pace, pace.changed() if changed else pace.quiet()
        assert shortest <= pace.interval_s <= max(shortest, longest)
        assert pace.interval_s == shortest if changed else pace.interval_s >= before.interval_s


def test_a_single_value_never_moves() -> None:
    assert Pace.between(5.0, 0.0).quiet().quiet() == Pace.between(5.0, 5.0).changed()


class Watched:
    """A house whose polls of the customers are noted."""

    def __init__(self, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, longest_s: float = LONGEST_S) -> None:
        self.house = House(clock)
        plan = ReadingPlan(SHORTEST_S, poll_interval_s_max=longest_s)
        plans = dict.fromkeys((Collection.CUSTOMERS, Collection.TAGS), plan)
        self.house.reader = replace(self.house.reader, plans=plans)
        self.polls: list[float] = []
        feed = self.house.source.customers
        page = feed.page

        async def noted(cursor: Cursor | None, familiar: Familiar = none_familiar) -> Page:
            if cursor is not None and cursor["mode"] == "poll":
                self.polls.append(clock.monotonic())
            return await page(cursor, familiar)

        monkeypatch.setattr(feed, "page", noted)

    def edit(self) -> None:
        world = self.house.world
        name = f"Ada {self.house.clock.monotonic()}"
        world.update_customer(next(iter(world.customers.live_row_of)), {"first_name": name})

    @property
    def last_gap_s(self) -> float:
        return self.polls[-1] - self.polls[-2]


def test_a_quiet_source_settles_at_the_longest_interval_and_its_staleness_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(clock: VirtualClock) -> None:
        watched = Watched(clock, monkeypatch)
        shard = watched.house.shard()
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            stalest = 0.0
            for _ in range(600):
                await asyncio.sleep(0.5)
                stalest = max(stalest, watched.house.metrics.staleness("acme", Collection.CUSTOMERS) or 0.0)
            shard.drain()
        gaps = [later - earlier for earlier, later in pairwise(watched.polls)]
        assert gaps[-3:] == pytest.approx([LONGEST_S] * 3, abs=0.1)
        assert all(later <= QUIET_FACTOR * earlier + 0.1 for earlier, later in pairwise(gaps))
        assert LONGEST_S - 2 < stalest <= LONGEST_S + 1

    run_virtual(main)


def test_a_change_makes_it_quick_at_once_and_stays_so_while_more_come(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: VirtualClock) -> None:
        watched = Watched(clock, monkeypatch)
        shard = watched.house.shard()
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await asyncio.sleep(300)
            watched.edit()
            noticed = len(watched.polls)
            await asyncio.sleep(LONGEST_S + SHORTEST_S)
            sees_it, next_one = watched.polls[noticed : noticed + 2]
            assert next_one - sees_it == pytest.approx(SHORTEST_S, abs=0.1)
            watched.edit()
            await asyncio.sleep(LONGEST_S)
            for _ in range(30):
                watched.edit()
                await asyncio.sleep(SHORTEST_S)
            assert watched.last_gap_s <= SHORTEST_S * QUIET_FACTOR + 0.1
            shard.drain()
        assert len(watched.house.types("customers")[50:]) >= 20  # two edits between two polls are one

    run_virtual(main)


def test_a_new_life_begins_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: VirtualClock) -> None:
        watched = Watched(clock, monkeypatch)
        await watched.house.live(300)
        assert watched.last_gap_s == pytest.approx(LONGEST_S, abs=0.1)
        count = len(watched.polls)
        await watched.house.live(3)
        assert len(watched.polls) >= count + 2

    run_virtual(main)


def test_one_value_is_one_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: VirtualClock) -> None:
        watched = Watched(clock, monkeypatch, longest_s=0.0)
        await watched.house.live(100)
        gaps = [later - earlier for earlier, later in pairwise(watched.polls)]
        assert gaps == pytest.approx([SHORTEST_S] * len(gaps), abs=0.1)

    run_virtual(main)
