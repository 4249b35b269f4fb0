"""Plan: what one seed decides beforehand. Weights differ from seed to seed, many are zero: so rare combinations occur.

Most seeds draw only such switches under which polling alone can see every change. In the others (`blind`) a provider
hides some changes from polls, sweeps come often, and only the end is compared with the truth: until a sweep has found
it, nobody can know what was hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from bridge.sandbox.population.life import Rates

ACTIONS = (
    "kill",
    "kill at a call",
    "stop",
    "cancel",
    "freeze",
    "start",
    "lose disk",
    "bad way",
    "trouble at a call",
    "good way",
    "no way",
    "broker away",
    "provider faults",
    "provider well",
    "compact",
    "letter",
    "burst",
    "empty tag list",
    "a week off",
)
"""What may happen; see `fate`."""

_ALWAYS = {"start": 1.0, "letter": 0.7, "good way": 0.3, "provider well": 0.3, "trouble at a call": 0.3}
"""Without these a seed would only break things."""

_RARE = {"a week off": 0.03}

_FOCI: tuple[dict[str, float], ...] = (
    {},
    # Commits whose outcome nobody is told, in the middle of much to tell.
    {"trouble at a call": 4.0, "burst": 3.0, "kill at a call": 1.0},
    # Owners that sleep over the end of their ownership.
    {"freeze": 3.0, "burst": 2.0, "letter": 2.0, "bad way": 1.0},
    # Ownership that goes round.
    {"start": 4.0, "stop": 1.0, "cancel": 1.0, "kill": 1.0, "letter": 3.0, "burst": 1.0, "lose disk": 0.3},
)
"""What a seed may have more of than of all the rest."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One seed's circumstances.

    duration_s: of the time in which things happen. pause_s: on average between two of them. weights: of `ACTIONS`.
    page_limit: rows of a page of customers. disk: `memory` (a store that outlives its process) or `sqlite`.
    slow_markers: share of commit markers that come late. latency_s: of a request to Kafka. old_rows: share of pages
    that also show rows as an earlier page has shown them. epilogue: the state topic is lost in the end. blind: see the
    module.
    """

    seed: int
    processes: int
    shards: int
    sources: int
    customers: int
    tags: int
    rates: Rates
    switches: dict[str, object]
    faults: dict[str, float]
    page_limit: int
    poll_interval_s: float
    request_rate: float
    duration_s: float
    pause_s: float
    weights: dict[str, float]
    disk: str
    slow_markers: float
    latency_s: float
    old_rows: float
    epilogue: bool
    sweep_interval_s: float
    blind: bool


def draw(seed: int) -> Plan:
    """The plan of a seed."""
    chance = Random(f"{seed}/plan")
    weights = {name: 0.0 if chance.random() < 0.5 else chance.random() for name in ACTIONS}
    weights |= {name: max(weights[name], least) for name, least in _ALWAYS.items()}
    weights |= {name: weights[name] * share for name, share in _RARE.items()}
    focus = chance.choice(_FOCI)
    blind = chance.random() < 0.25
    weights |= {name: weights[name] + weight for name, weight in focus.items()}
    return Plan(
        seed=seed,
        processes=chance.choice((2, 3)) if focus.keys() & {"freeze", "stop"} else chance.choice((1, 1, 2, 3)),
        shards=chance.choice((1, 1, 2, 3)),
        sources=chance.choice((1, 1, 2)),
        customers=chance.choice((0, 3, 12, 30)),
        tags=chance.choice((0, 2, 6)),
        rates=_rates(chance),
        switches=_switches(chance) | (_blind(chance) if blind else {}),
        faults={name: chance.random() * 0.3 for name in _FAULTS[: None if blind else -1] if chance.random() < 0.4},
        page_limit=chance.choice((2, 4, 6, 10, 100)),
        poll_interval_s=chance.choice((1.0, 3.0, 5.0)),
        request_rate=chance.choice((5.0, 20.0, 1000.0)),
        duration_s=chance.uniform(20.0, 150.0),
        pause_s=chance.choice((1.0, 3.0, 8.0)),
        weights=weights,
        disk="sqlite" if chance.random() < 0.1 else "memory",
        slow_markers=chance.choice((0.0, 0.02, 0.5)),
        latency_s=chance.choice((0.001, 0.02, 0.2)),
        old_rows=chance.choice((0.0, 0.0, 0.2)),
        epilogue=chance.random() < 0.1,
        sweep_interval_s=chance.choice((20.0, 60.0)) if blind else chance.choice((20.0, 6 * 3600.0)),
        blind=blind,
    )


_FAULTS = (
    "fault_429",
    "fault_500",
    "fault_502_html",
    "fault_200_html",
    "fault_slow",
    "fault_cut",
    "duplicate_rows",
    "bad_row",
)
"""Faults of the provider after which the same page, read again, is whole; but for the last one, which may hide a change
from polls. Not `empty_page`: a provider that shows nothing twice in a row is believed."""


def _rates(chance: Random) -> Rates:
    """Changes per minute, together about what a few polls see."""
    speed = chance.choice((2.0, 10.0, 60.0))
    # The simulated bridges do not read users.
    names = [name for name in Rates.model_fields if not name.startswith("user_")]
    values = {name: chance.random() * speed if chance.random() < 0.7 else 0.0 for name in names}
    values["tag_delete"] = min(values["tag_delete"], values["tag_create"])
    values["delete"] = min(values["delete"], values["sign_up"] + 0.5)
    return Rates().changed(values)


def _blind(chance: Random) -> dict[str, object]:
    """What hides changes from polls."""
    hiding: dict[str, object] = {
        "late_visibility_s": 25.0,
        "tombstones_in_since": "never",
        "rename_bumps_updated_at": False,
        # Any page may be cut short to make room, so its reader cannot know where the list ends.
        "linked_users": "inside_limit",
    }
    return {name: value for name, value in hiding.items() if chance.random() < 0.5}


def _switches(chance: Random) -> dict[str, object]:
    return {
        "timestamp_precision": chance.choice(("seconds", "seconds", "milliseconds", "microseconds")),
        "since_bound": chance.choice(("inclusive", "exclusive")),
        "since_order": chance.choice(("ascending", "ascending", "ascending", "descending")),
        # Not shuffled: a sweep can miss rows of such a list.
        "list_order": chance.choice(("created", "created", "id")),
        # Less than the overlap of polls (10 s): what shows up later is for the sweep.
        "late_visibility_s": chance.choice((0.0, 0.0, 2.0, 7.0)),
        "tag_bumps_updated_at": chance.random() < 0.3,
        "deleted_read": chance.choice(("404", "tombstone")),
        "token_lifetime": chance.choice((14_400, 60, 5)),
        "latency_ms": chance.choice((0.0, 20.0, 300.0)),
        "fault_429_retry_after": chance.choice(("none", "1", "date", "0", "soon")),
        "fault_slow_s": chance.choice((2.0, 70.0)),
        "fault_on": chance.choice(("any", "any", "customers", "customer", "tags", "token")),
    }
