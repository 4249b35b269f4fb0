"""The simulator notices every safeguard that is taken out; otherwise its silence would mean nothing.

The table says how many seeds are tried at most. Seeds move whenever the code takes one step more or less, so the
numbers are several times what is needed today; rare ones look only at seeds that have much of what they need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import pytest

from bridge.sandbox.simulate import simulate
from bridge.sandbox.simulation.plan import Plan, draw
from tests.simulation.defects import DEFECTS


class Hunt(NamedTuple):
    """seeds: tried at most. where: which of them are worth it."""

    seeds: int
    where: Callable[[Plan], bool] = lambda _: True


def commits_in_trouble(plan: Plan) -> bool:
    return plan.weights["trouble at a call"] >= 4 and plan.rates.per_second() > 0


def sleeping_owners(plan: Plan) -> bool:
    return plan.weights["freeze"] >= 3


def changing_owners(plan: Plan) -> bool:
    return plan.weights["start"] >= 4


def changes_show_late(plan: Plan) -> bool:
    return plan.switches["late_visibility_s"] != 0.0 and not plan.blind and plan.rates.per_second() > 0


def signals(plan: Plan) -> bool:
    return plan.weights["signal"] > 0


HUNTS = {
    "events outside the transaction": Hunt(40),
    "confirming read skipped": Hunt(100),
    "step past a tie": Hunt(60),
    "overlap dropped": Hunt(150, changes_show_late),
    "stale page published": Hunt(200, lambda plan: plan.old_rows > 0),
    "sequence reused after a failed commit": Hunt(20),
    "sequence counted in memory": Hunt(60),
    "store applied before the commit": Hunt(40),
    "watermark too early": Hunt(60),
    "cursor not in the transaction": Hunt(40),
    "inbox offset not committed": Hunt(40),
    "fence after the restore": Hunt(300, changing_owners),
    "unknown commit assumed failed": Hunt(400, commits_in_trouble),
    "unknown commit assumed done": Hunt(400, commits_in_trouble),
    "membership confirmation skipped": Hunt(1200, sleeping_owners),
    "marker check removed": Hunt(100, lambda plan: plan.epilogue),
    "taint ignored": Hunt(400, commits_in_trouble),
    "restore skipped when there is a cache": Hunt(40),
    "inbox read from where the client was": Hunt(20),
    "sweep over at its first page": Hunt(100, lambda plan: plan.blind),
    "every known row is familiar": Hunt(20),
    "fingerprint kept of what was not committed": Hunt(60),
    "done command not remembered": Hunt(60, signals),
    "progress written for what is not read": Hunt(100),
}


def hunt(name: str) -> tuple[int, str] | None:
    """How many seeds it took and what was found; None when the defect stayed unnoticed."""
    tried = 0
    seed = 0
    while tried < HUNTS[name].seeds:
        if HUNTS[name].where(draw(seed)):
            tried += 1
            report = simulate(seed, DEFECTS[name])
            if not report.ok:
                return tried, report.findings[0]
        seed += 1
    return None


@pytest.fixture(scope="module")
def hunts() -> Iterator[dict[str, Future[tuple[int, str] | None]]]:
    """All of them, side by side on the cores."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        yield {name: pool.submit(hunt, name) for name in HUNTS}


def test_the_table_is_complete() -> None:
    assert HUNTS.keys() == DEFECTS.keys()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", HUNTS)
def test_is_noticed(
    name: str, hunts: dict[str, Future[tuple[int, str] | None]], record_property: Callable[[str, object], None]
) -> None:
    found = hunts[name].result()
    most = HUNTS[name].seeds
    record_property("defect", f"{name}: " + (f"seed {found[0]} of {most}: {found[1]}" if found else "NOT NOTICED"))
    assert found is not None, f"{name}: {most} seeds and nothing was found"
