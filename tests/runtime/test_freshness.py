"""How late a membership is told: the formula, the README's table of it, and the sandbox against both."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from bridge.model import instant
from bridge.runtime.memberships.freshness import Freshness, Load, seen_within
from bridge.runtime.memberships.rounds import RoundsPlan
from tests.runtime.members import Club
from tests.support.clock import VirtualClock, run_virtual

README = Path(__file__).parents[2] / "README.md"
ROW = re.compile(
    r"^\| ([\d,]+) \| ([\d,]+) \| (\d+)/s \| (\w+) \| (\w+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE
)
SECONDS = {"s": 1, "min": 60, "m": 60, "h": 3600}


class Row(NamedTuple):
    load: Load
    plan: RoundsPlan
    one: str
    all: str
    uncounted: str


def rows() -> list[Row]:
    found = []
    for tags, members, rate, poll, sweep, *said in ROW.findall(README.read_text("utf-8")):
        plan = RoundsPlan(seconds(poll), seconds(sweep), float(rate))
        found.append(Row(Load(int(tags.replace(",", "")), int(members.replace(",", ""))), plan, *said))
    return found


def seconds(text: str) -> float:
    match = re.fullmatch(r"([\d.]+)([a-z]+)", text)
    assert match
    return float(match[1]) * SECONDS[match[2]]


def words(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"


def one_of(load: Load) -> Load:
    return Load(1, -(-load.members // load.tags))


def test_the_readme_says_what_the_formula_says() -> None:
    assert len(rows()) >= 4
    for row in rows():
        single, everything = (
            seen_within(row.plan, row.load, one_of(row.load)),
            seen_within(row.plan, row.load, row.load),
        )
        assert (row.one, row.all, row.uncounted) == (
            words(single.counted),
            words(everything.counted),
            words(single.uncounted),
        )


def test_more_budget_is_never_later_and_more_members_never_sooner() -> None:
    plan, load = RoundsPlan(30, 21_600, 10), Load(100, 100_000)
    base = seen_within(plan, load, load)
    richer = seen_within(RoundsPlan(30, 21_600, 20), load, load)
    larger = seen_within(plan, Load(200, 200_000), load)
    assert all(quick <= slow for quick, slow in zip(richer, base, strict=True))
    assert all(slow >= quick for slow, quick in zip(larger, base, strict=True))


@pytest.mark.parametrize(
    ("tags", "rate", "poll_s", "sweep_s"), [(20, 4.0, 10.0, 900.0), (6, 20.0, 5.0, 300.0), (40, 3.0, 5.0, 200.0)]
)
@pytest.mark.parametrize("wide", [False, True], ids=["one tag", "all tags"])
def test_no_change_is_told_later_than_the_formula_says(
    tags: int, rate: float, poll_s: float, sweep_s: float, wide: bool
) -> None:
    async def main(clock: VirtualClock) -> None:
        club = Club(clock, 400, tags, poll_s=poll_s, sweep_s=sweep_s, rate=rate)
        plan = RoundsPlan(poll_s, sweep_s, rate)
        load = Load(tags, len(club.true) + 2 * tags)
        bound = seen_within(plan, load, load if wide else one_of(load))
        await club.live(6 * load.requests / rate)
        moved_at: dict[tuple[str, tuple[str, str]], tuple[float, float]] = {}
        pauses = [bound.counted + 7.3, bound.counted + bound.uncounted + 11.1]
        moves = []
        at = 5.0
        for turn in range(6):
            chosen = list(club.world.tags) if wide else [list(club.world.tags)[turn % tags]]
            for tag in chosen:
                moves.append((at, lambda tag=tag, turn=turn: shift(club, clock, tag, turn, bound, moved_at)))
            at += pauses[turn % 2]
        await club.tell(at, *moves)
        club.check()
        told = {(event.verb, event.edge): instant(event.at) / 1e6 for event in club.told}
        assert moved_at
        for edge, (at, within) in moved_at.items():
            assert told[edge] - at <= within, f"{edge} took {told[edge] - at:.1f} of {within:.1f} s"

    run_virtual(main)


def shift(
    club: Club,
    clock: VirtualClock,
    tag: str,
    turn: int,
    bound: Freshness,
    moved_at: dict[tuple[str, tuple[str, str]], tuple[float, float]],
) -> None:
    """In even turns somebody gets the tag; in odd ones somebody gets it and somebody loses it."""
    world = club.world
    customers = world.customers
    fresh = [row for row in range(len(customers.uids)) if not was_moved(moved_at, tag, customers.uids[row])]
    outside = next(row for row in fresh if tag not in customers.tags[row])
    inside = next((row for row in fresh if tag in customers.tags[row]), None) if turn % 2 else None
    within = bound.counted if inside is None else bound.uncounted
    world.set_customer_tags(customers.customer_ids[outside], [*customers.tags[outside], tag])
    moved_at["tagged", (tag, customers.uids[outside])] = (clock.wall(), within)
    if inside is not None:
        world.set_customer_tags(customers.customer_ids[inside], [t for t in customers.tags[inside] if t != tag])
        moved_at["untagged", (tag, customers.uids[inside])] = (clock.wall(), within)


def was_moved(moved_at: dict[tuple[str, tuple[str, str]], tuple[float, float]], tag: str, uid: str) -> bool:
    return any(edge == (tag, uid) for _, edge in moved_at)
