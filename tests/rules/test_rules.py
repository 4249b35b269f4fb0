"""Every rule holds with its guard, and does harm without it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.rules import environment, group, ownership, topics, transactions
from tests.rules.rule import RULES, Harm, Rule
from tests.rules.stage import Stage

MODULES = (environment, group, ownership, topics, transactions)

SCENARIO_S = 120.0
"""The longest takes a tenth of it."""

CASES = [
    pytest.param(rule, variant, id=f"{rule.id}-{rule.title}-{variant}")
    for _, rule in sorted(RULES.items())
    for variant in ("guarded", "twin")
]


def test_none_of_the_eighteen_is_missing() -> None:
    assert sorted(RULES) == [f"D{number:02}" for number in range(1, 19)]
    assert {rule.scenario.__module__ for rule in RULES.values()} == {module.__name__ for module in MODULES}


@pytest.mark.kafka
@pytest.mark.parametrize(("rule", "variant"), CASES)
async def test_rule(rule: Rule, variant: str, stage: Stage, record_property: Callable[[str, object], None]) -> None:
    record_property("rule", (rule.id, rule.title, variant))
    async with asyncio.timeout(SCENARIO_S):
        if variant == "guarded":
            await rule.scenario(stage)
            return
        with rule.twin(), pytest.raises(Harm, match=rule.harm) as caught:
            await rule.scenario(stage)
    record_property("harm", str(caught.value))
