"""A line for each deliberate defect at the end of the run: after how many seeds it was noticed, and by what."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """`events outside the transaction: seed 1 of 40: I2 …`, for the defects that were tried."""
    told = [
        properties["defect"]
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, ())
        if "defect" in (properties := dict(getattr(report, "user_properties", ()))) and report.when == "call"
    ]
    if not told:
        return
    terminalreporter.write_sep("-", "deliberate defects in the simulator")
    for line in sorted(told):
        terminalreporter.write_line(str(line))
