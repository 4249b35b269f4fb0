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

from bridge.model import Collection
from bridge.sandbox.simulate import simulate
from bridge.sandbox.simulation.plan import Plan, draw
from tests.simulation import defects, defects_of_commands, defects_of_memberships, defects_of_reading

DEFECTS = defects.DEFECTS
MODULES = (defects, defects_of_reading, defects_of_memberships, defects_of_commands)
"""Each lists its defects in the same table when it is imported."""


class Hunt(NamedTuple):
    """seeds: tried at most. where: which of them are worth it."""

    seeds: int
    where: Callable[[Plan], bool] = lambda _: True


def commits_in_trouble(plan: Plan) -> bool:
    return plan.weights["trouble at a call"] >= 4 and plan.rates.per_second() > 0


def commits_of_few_in_trouble(plan: Plan) -> bool:
    """Such a seed costs little."""
    return commits_in_trouble(plan) and plan.customers <= 12 and len(plan.collections) == 1


def slow_commits_of_few_in_trouble(plan: Plan) -> bool:
    return commits_of_few_in_trouble(plan) and plan.latency_s == 0.2


def one_trouble_after_the_other(plan: Plan) -> bool:
    """Of few customers, so that such a seed costs little."""
    return plan.pause_s == 1.0 and plan.customers <= 12


def sleeping_owners(plan: Plan) -> bool:
    """With most processes for most shards, few customers, and no memberships: they cost time and change nothing."""
    read = {collection for collections in plan.collections.values() for collection in collections}
    much = plan.weights["freeze"] >= 3 and plan.processes == 3 and plan.shards == 3
    return much and plan.customers <= 3 and Collection.MEMBERSHIPS not in read


def changing_owners(plan: Plan) -> bool:
    return plan.weights["start"] >= 4


def changes_show_late(plan: Plan) -> bool:
    return plan.switches["late_visibility_s"] != 0.0 and not plan.blind and plan.rates.per_second() > 0


def signals(plan: Plan) -> bool:
    return plan.weights["signal again"] > 0.3


def many_leave(plan: Plan) -> bool:
    return plan.weights["many deleted"] > 0.5 and plan.customers >= 12 and plan.delete_limit.documents < 10


def many_are_held_at_a_restart(plan: Plan) -> bool:
    """And nobody lets them go before it, and nothing delays that they are noticed."""
    restarts = plan.weights["kill"] + plan.weights["stop"] > 2
    return (
        many_leave(plan) and restarts and plan.weights["approve"] < 0.1 and plan.request_rate >= 5 and not plan.faults
    )


def changing_lists(plan: Plan) -> bool:
    return plan.switches["etag"] == "honoured" and plan.weights["trouble at a call"] > 1


def sliced(plan: Plan) -> bool:
    return plan.snapshot_parallelism > 1 and plan.customers > 4 * plan.page_limit and plan.rates.per_second() > 0.2


def members(plan: Plan) -> bool:
    """Who they are is asked tag by tag."""
    asked = [
        source
        for source, names in plan.collections.items()
        if Collection.MEMBERSHIPS in names and plan.providers[source] == "dintero"
    ]
    return plan.customers >= 12 and bool(asked)


def members_move(plan: Plan) -> bool:
    return members(plan) and not plan.blind and plan.tags > 0 and plan.rates.tag > 5 and plan.rates.untag > 5


def many_members_move(plan: Plan) -> bool:
    """Of one source: another one costs as much and moves other members."""
    return members_move(plan) and len(plan.collections) == 1 and plan.rates.tag > 15 and plan.rates.untag > 15


def many_members_are_read_often(plan: Plan) -> bool:
    often = members(plan) and plan.customers == 30 and plan.rates.tag > 5 and plan.request_rate > 5
    return often and not plan.blind and len(plan.collections) == 1


def members_are_hidden(plan: Plan) -> bool:
    return (
        members(plan) and plan.weights["list lies"] > 0.5 and not plan.blind and plan.request_rate > 5 and plan.tags > 0
    )


def tagged_by_order(plan: Plan) -> bool:
    return "dintero" in plan.providers.values() and plan.weights["tag some"] > 0.3 and plan.tags > 1


def commands_to_changing_owners(plan: Plan) -> bool:
    """Of all that happens, each is a good part."""
    weights, all_of_it = plan.weights, sum(plan.weights.values())
    commands = weights["tag some"] + weights["refresh some"] + weights["rename one"]
    owners = weights["start"] + weights["stop"] + weights["kill"] + weights["cancel"]
    return commands > 0.15 * all_of_it and owners > 0.2 * all_of_it


def mirrored(plan: Plan) -> bool:
    return plan.mirrored and plan.tags > 0 and plan.customers >= 12


def rebilly(plan: Plan) -> bool:
    return "rebilly" in plan.providers.values() and plan.customers >= 12


def told_merges(plan: Plan) -> bool:
    return rebilly(plan) and plan.rebilly_switches["merged_read"] != "404" and plan.weights["two are one"] > 0.3


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
    "unknown commit assumed failed": Hunt(
        200, lambda plan: commits_in_trouble(plan) and one_trouble_after_the_other(plan)
    ),
    "unknown commit assumed done": Hunt(200, commits_of_few_in_trouble),
    "membership confirmation skipped": Hunt(600, sleeping_owners),
    "marker check removed": Hunt(100, lambda plan: plan.epilogue),
    "taint ignored": Hunt(400, slow_commits_of_few_in_trouble),
    "restore skipped when there is a cache": Hunt(40),
    "inbox read from where the client was": Hunt(20),
    "sweep over at its first page": Hunt(100, lambda plan: plan.blind),
    "every known row is familiar": Hunt(20),
    "fingerprint kept of what was not committed": Hunt(60),
    "done command not remembered": Hunt(60, signals),
    "progress written for what is not read": Hunt(100),
    "deletion limit ignored": Hunt(40, many_leave),
    "held deletions forgotten at a restart": Hunt(60, many_are_held_at_a_restart),
    "suspects of an unfinished reading decided": Hunt(60, lambda plan: many_leave(plan) and plan.page_limit < 5),
    "absence from part of a sweep believed": Hunt(60, lambda plan: plan.blind and plan.customers >= 12),
    "rename taken for delete and create": Hunt(20),
    "etag kept of a list that was not committed": Hunt(
        120, lambda plan: changing_lists(plan) and one_trouble_after_the_other(plan)
    ),
    "rows that move while slices are read lost": Hunt(100, lambda plan: sliced(plan) and not plan.faults),
    "order of slices not checked": Hunt(60, lambda plan: sliced(plan) and plan.switches["since_order"] == "descending"),
    "pause forgotten at a restart": Hunt(60, lambda plan: plan.weights["pause"] > 0.5),
    "progress outside the transaction": Hunt(20),
    "untag lost on tag deletion": Hunt(40, lambda plan: members(plan) and plan.weights["tag deleted"] > 0.3),
    "tag deleted before its edges": Hunt(40, lambda plan: members(plan) and plan.weights["tag deleted"] > 0.3),
    "untag not confirmed": Hunt(60, members_are_hidden),
    "doubtful member believed": Hunt(100, many_members_are_read_often),
    "tags read under an id that has changed hands": Hunt(
        120, lambda plan: members(plan) and plan.weights["ids change hands"] >= 3
    ),
    "probe believed": Hunt(80, many_members_move),
    "watermark of memberships ahead of an unread tag": Hunt(60, members),
    "stale page of members overtakes": Hunt(60, members_move),
    "edges lost when a customer is updated": Hunt(20, members),
    "tag set overwritten": Hunt(40, tagged_by_order),
    "outcome twice": Hunt(60, commands_to_changing_owners),
    "mirror follows a mirror": Hunt(40, mirrored),
    "mirror outside the transaction": Hunt(100, mirrored),
    "window overflow ignored": Hunt(40, lambda plan: rebilly(plan) and plan.rebilly_page_limit < 12),
    "merge taken as deletion": Hunt(40, told_merges),
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
    assert all(any(name.replace(" ", "_") in vars(module) for module in MODULES) for name in HUNTS)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", HUNTS)
def test_is_noticed(
    name: str, hunts: dict[str, Future[tuple[int, str] | None]], record_property: Callable[[str, object], None]
) -> None:
    found = hunts[name].result()
    most = HUNTS[name].seeds
    record_property("defect", f"{name}: " + (f"seed {found[0]} of {most}: {found[1]}" if found else "NOT NOTICED"))
    assert found is not None, f"{name}: {most} seeds and nothing was found"
