"""A seed may draw everything that a client has to survive: no switch of the provider is forgotten."""

from __future__ import annotations

from typing import Literal, get_args, get_origin

from bridge.sandbox.rebilly.switches import RebillySwitches
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


ELSEWHERE_AT_REBILLY = {
    "permissions": "as `scopes`",
    "empty_tag_list_once": "set by the happening of its name",
    "token_lifetime": "the bridge uses a key",
    "default_limit": "the bridge always says how many",
    "tagging_fires_customer_updated": "about webhooks",
    "webhook_payload": "about webhooks",
    "webhook_delivery": "about webhooks",
    "webhook_auth": "about webhooks",
    "page_latency_ms": "no page of Rebilly takes longer than another answer",
}
NEVER_AT_REBILLY = {
    ("rate_limit_retry_after", "far"): "in a day: nobody waits for the end of such a story",
    ("fault_on", "tag"): "an endpoint that nothing here calls",
    ("fault_on", "membership"): "as `tag`",
    ("fault_on", "webhooks"): "as `tag`",
    ("fault_on", "webhook"): "as `tag`",
}


def test_every_switch_of_rebilly_is_drawn_or_has_a_reason_not_to_be() -> None:
    plans = [plan for plan in PLANS if "rebilly" in plan.providers.values()]
    assert 50 < len(plans) < 250
    drawn_at_all = {name for plan in plans for name in (*plan.rebilly_switches, *plan.faults)}
    assert RebillySwitches.model_fields.keys() - drawn_at_all == ELSEWHERE_AT_REBILLY.keys()
    for name, switch in RebillySwitches.model_fields.items():
        if name in ELSEWHERE_AT_REBILLY or get_origin(switch.annotation) is not Literal:
            continue
        values = {plan.rebilly_switches[name] for plan in plans} | {switch.default}
        left_out = {value for value in get_args(switch.annotation) if value not in values}
        assert left_out == {value for named, value in NEVER_AT_REBILLY if named == name}, name


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
