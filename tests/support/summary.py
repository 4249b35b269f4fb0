"""Summary: lines at the end of a run, of what tests recorded as properties; also when other processes ran them.

rule     `D01 title: holds; without the guard: what broke`
defect   `events outside the transaction: seed 1 of 40: I2 …`
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

OUTCOMES = ("passed", "failed", "error")

Properties = dict[str, object]


def tell(terminal: pytest.TerminalReporter) -> None:
    """Print them; nothing for what was not run."""
    for title, lines in (
        ("rules of the Kafka client", _rules(terminal)),
        ("deliberate defects in the simulator", _defects(terminal)),
    ):
        if lines:
            terminal.write_sep("-", title)
            for line in sorted(lines):
                terminal.write_line(line)


def _recorded(terminal: pytest.TerminalReporter, name: str) -> Iterator[tuple[str, Properties]]:
    """Outcome and properties of every test that recorded something of this name; of failures outside the call, too."""
    for outcome in OUTCOMES:
        for report in terminal.stats.get(outcome, ()):
            properties = dict(getattr(report, "user_properties", ()))
            if name in properties and (report.when == "call" or outcome != "passed"):
                yield outcome, properties


def _rules(terminal: pytest.TerminalReporter) -> list[str]:
    told: dict[str, Properties] = {}
    for outcome, properties in _recorded(terminal, "rule"):
        rule = properties["rule"]
        assert isinstance(rule, list | tuple), "number, title and variant"
        number, title, variant = rule
        lines = told.setdefault(f"{number} {title}", {})
        lines[variant] = "FAILED" if outcome != "passed" else properties.get("harm", "holds")
    return [
        f"{name}: {lines.get('guarded', 'not run')}; without the guard: {lines.get('twin', 'not run')}"
        for name, lines in told.items()
    ]


def _defects(terminal: pytest.TerminalReporter) -> list[str]:
    return [str(properties["defect"]) for _, properties in _recorded(terminal, "defect")]
