"""Every switch of the simulated provider, alone and mixed, while life goes on: nothing lost, doubled or false.

A switch is what the provider's documents leave open, or what may go wrong. `CASES` has cases for each; a new switch, or
a new value of one that has a list of them, fails here until it has one too. What a case lives through is in
`tests.runtime.towns`: the first reading, life with the switch thrown back and forth, calm. In the end the state is the
provider's, every event tells what was true, nothing is called deleted that is not, and a rename is one event and not a
customer that goes and another that comes.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any, Literal, get_args, get_origin

import pytest

from bridge.model import Collection
from bridge.sandbox.switches import Switches
from tests.runtime.towns import Case, live_through

FAULTS = {"fault_429": 0.1, "fault_500": 0.1, "fault_502_html": 0.1, "fault_200_html": 0.1, "fault_cut": 0.1}


def _stays(name: str, *values: Any, blind: bool = False, sweeps: int = 2, **others: Any) -> list[Case]:
    """What a provider may be like, for ever."""
    return [Case({name: value, **others}, blind=blind, sweeps=sweeps) for value in values]


LONG_LISTS = (Collection.CUSTOMERS, Collection.TAGS)


def _passes(name: str, *values: Any, blind: bool = False, requests_per_s: float = 50.0, **others: Any) -> list[Case]:
    """What may go wrong, and is mended in the end."""
    return [Case({name: value, **others}, passing=True, blind=blind, requests_per_s=requests_per_s) for value in values]


CASES: dict[str, list[Case]] = {
    "token_lifetime": _stays("token_lifetime", 1, 86_400, latency_ms=300),
    "token_revoke_after": _stays("token_revoke_after", 2.0, latency_ms=300),
    "scopes": _stays("scopes", "read:customers,read:accounts") + _passes("scopes", "", "admin:hooks"),
    "head_users": _stays("head_users", False),
    # A reading of a list that is shuffled for each page, or cannot be paged through, proves nothing while it is so.
    "list_order": _stays("list_order", "created_descending", "id")
    + _passes("list_order", "shuffled", blind=True, requests_per_s=8.0),
    "cursor_kind": _passes("cursor_kind", "customer_id", "ignored"),
    "since_bound": _stays("since_bound", "exclusive"),
    "since_order": _stays("since_order", "descending"),
    "since_with_cursor": _stays("since_with_cursor", "ignore_cursor", "ignore_since"),
    "tombstones_in_since": _stays("tombstones_in_since", "never", blind=True),
    # Any page may be cut short to make room for linked customers, so its reader cannot know where the changes end.
    "linked_users": _stays("linked_users", "inside_limit", blind=True),
    # Within the overlap of polls, and beyond it.
    "late_visibility_s": _stays("late_visibility_s", 7.0) + _stays("late_visibility_s", 25.0, blind=True, sweeps=4),
    "timestamp_precision": _stays("timestamp_precision", "milliseconds", "microseconds"),
    "tag_bumps_updated_at": _stays("tag_bumps_updated_at", True),
    "rename_bumps_updated_at": _stays("rename_bumps_updated_at", False, blind=True),
    "deleted_read": _stays("deleted_read", "tombstone"),
    "roles_without_expand": _stays("roles_without_expand", "absent"),
    "fault_on": [
        Case({"fault_on": endpoint, **FAULTS}, passing=True)
        for endpoint in ("token", "tags", "tag", "customers", "customer", "customer_tags", "rename", "management")
    ],
    "fault_429": _passes("fault_429", 0.5),
    "fault_429_retry_after": _passes(
        "fault_429_retry_after", "date", "2", "0", "-5", "soon", "9" * 5000, fault_429=0.1
    ),
    "fault_500": _passes("fault_500", 0.3),
    "fault_502_html": _passes("fault_502_html", 0.3),
    "fault_200_html": _passes("fault_200_html", 0.3),
    "fault_slow": _passes("fault_slow", 0.3),
    "fault_slow_s": _passes("fault_slow_s", 2.0, 70.0, fault_slow=0.2),
    "fault_cut": _passes("fault_cut", 0.3),
    # In the very first reading nobody can know that there are tags.
    "empty_tag_list_once": _passes("empty_tag_list_once", True, blind=True),
    # A provider that shows nothing twice in a row is believed, until it shows more. That happens to short lists, and to
    # a customer's own tags, with so many of them.
    "empty_page": [replace(case, collections=LONG_LISTS) for case in _passes("empty_page", 0.1, blind=True)],
    "duplicate_rows": _stays("duplicate_rows", 0.5),
    # A row that cannot be read may hide a change from polls.
    "bad_row": _passes("bad_row", 0.3, blind=True),
    # One of the shapes is a list of one row that cannot be read.
    "bad_shape": _passes("bad_shape", 0.3, blind=True),
    "etag": _stays("etag", "honoured", "changing", "none"),
    "limit_per_minute": _stays("limit_per_minute", 120),
    "limit_headers": _stays("limit_headers", "x", "ratelimit", "draft", limit_per_minute=120),
    "tombstones": _stays("tombstones", "never", blind=True),
    "latency_ms": _stays("latency_ms", 1500.0),
    "page_latency_ms": _stays("page_latency_ms", 3000.0),
}
"""At least one case for each switch, and each other value where they are listed."""

MIXES = 10
MIXED = 3
"""Switches of a mix; two of them alone would be the pairs, of which there are hundreds."""


def _mix(seed: int) -> Case:
    """Some switches at once, drawn from the seed."""
    chance = Random(f"{seed}/mix")
    drawn = [chance.choice(CASES[name]) for name in chance.sample(sorted(CASES), MIXED)]
    switches: dict[str, Any] = {}
    for case in drawn:
        switches |= case.switches
    return Case(
        switches,
        passing=any(case.passing for case in drawn),
        blind=any(case.blind for case in drawn),
        sweeps=max(case.sweeps for case in drawn),
        collections=[name for name in Collection if all(name in case.collections for case in drawn)],
        requests_per_s=min(case.requests_per_s for case in drawn),
    )


def _named(case: Case) -> str:
    return (
        "usual" if not case.switches else ",".join(f"{name}={str(value)[:20]}" for name, value in case.switches.items())
    )


def test_no_switch_and_no_value_is_forgotten() -> None:
    assert CASES.keys() == Switches.model_fields.keys()
    for name, switch in Switches.model_fields.items():
        tried = {case.switches[name] for case in CASES[name]}
        others = set(get_args(switch.annotation)) - {switch.default}
        if get_origin(switch.annotation) is Literal:
            assert tried == others, name
        else:
            assert tried - {switch.default}, f"{name} is only tried as it is anyway"


@pytest.mark.parametrize("case", [Case({}), *(case for cases in CASES.values() for case in cases)], ids=_named)
def test_a_switch_alone(case: Case) -> None:
    assert live_through(case) == []


@pytest.mark.parametrize("seed", range(MIXES))
def test_switches_mixed(seed: int) -> None:
    case = _mix(seed)
    assert live_through(case, seed) == [], _named(case)
