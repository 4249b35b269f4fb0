"""Rules D1 to D18: what the Kafka client or the broker does and the bridge must not rely on, each proved twice.

A rule is a scenario against a real Kafka and a *twin*: our own code with the guard of that rule taken out. The scenario
passes with the guard. In the twin it has to end in `Harm`, in the words that the rule expects: that is what the rule
prevents, seen to happen. Any other failure of a twin is a failure of the test, so a patch that merely breaks something
proves nothing. The modules beside this one list their rules by `rule`; `test_rules` runs them all, and the summary of
the test run prints one line for each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tests.rules.stage import Stage

Scenario = Callable[[Stage], Awaitable[None]]
Twin = Callable[[], AbstractContextManager[None]]


class Harm(AssertionError):
    """What a rule prevents has happened. The message says what, in one line."""


@dataclass(frozen=True, slots=True)
class Rule:
    """twin: takes the guard out while it is entered. harm: a regular expression of what must be seen then."""

    id: str
    title: str
    scenario: Scenario
    twin: Twin
    harm: str


RULES: dict[str, Rule] = {}


def rule(identity: str, title: str, *, twin: Twin, harm: str) -> Callable[[Scenario], Scenario]:
    """List a scenario as the proof of a rule."""

    def listed(scenario: Scenario) -> Scenario:
        assert identity not in RULES, f"{identity} is there twice"
        RULES[identity] = Rule(identity, title, scenario, twin, harm)
        return scenario

    return listed
