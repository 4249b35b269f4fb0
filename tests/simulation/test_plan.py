"""A seed may draw everything that a client has to survive: no switch of the provider is forgotten."""

from __future__ import annotations

from typing import Literal, get_args, get_origin

from bridge.sandbox.simulation.plan import ACTIONS, draw
from bridge.sandbox.switches import Switches

PLANS = [draw(seed) for seed in range(400)]

ELSEWHERE = {
    "scopes": "taken away and given back by the happening `no right`",
    "empty_tag_list_once": "set by the happening of its name",
    "head_users": "the bridge asks for no HEAD of customers",
}
"""Switches that no plan draws, and why."""

NEVER = {
    ("fault_on", "tag"): "an endpoint for writing, which nothing here calls",
    ("fault_on", "rename"): "as `tag`",
}
"""Values that no plan draws, and why."""


def drawn(name: str) -> set[object]:
    """Every value of a switch in some plan."""
    found = {plan.switches[name] for plan in PLANS if name in plan.switches}
    found |= {plan.lie[name] for plan in PLANS if name in plan.lie}
    return found | {plan.faults[name] for plan in PLANS if name in plan.faults}


def test_every_switch_is_drawn_or_has_a_reason_not_to_be() -> None:
    for name, switch in Switches.model_fields.items():
        values = drawn(name)
        assert (name in ELSEWHERE) != bool(values), name
        if name in ELSEWHERE:
            continue
        if get_origin(switch.annotation) is Literal:
            values = values | {switch.default}  # drawn or left as it is
            left_out = {value for value in get_args(switch.annotation) if value not in values}
            assert left_out == {value for named, value in NEVER if named == name}, name
        else:
            assert values - {switch.default}, f"{name} is only drawn as it is anyway"


def test_there_is_no_reason_for_a_switch_that_is_gone() -> None:
    assert ELSEWHERE.keys() <= Switches.model_fields.keys()
    assert {name for name, _ in NEVER} <= Switches.model_fields.keys()


def test_every_happening_can_happen() -> None:
    weighed = {name for plan in PLANS for name, weight in plan.weights.items() if weight > 0}
    assert weighed == set(ACTIONS)
    assert PLANS[0].weights.keys() == set(ACTIONS)


def test_what_a_source_is_told_fits_the_provider() -> None:
    """Whether a cursor is an id or a customer_id has to be set; nobody can see it."""
    assert all(plan.cursor_kind == plan.switches["cursor_kind"] for plan in PLANS)


def test_only_what_nobody_could_know_is_kept_from_the_exact_seeds() -> None:
    exact = [plan for plan in PLANS if not plan.blind]
    assert len(exact) > len(PLANS) / 2
    for plan in exact:
        assert Switches().changed(plan.switches).rename_bumps_updated_at
        assert not plan.lie
        assert plan.faults.keys().isdisjoint({"bad_row", "bad_shape"})
        assert "empty_page" not in plan.faults


def test_every_circumstance_is_drawn() -> None:
    for name in ("processes", "shards", "customers", "tags", "disk", "silent", "epilogue", "blind", "delete_limit"):
        assert len({getattr(plan, name) for plan in PLANS}) > 1, name
