"""One broker behind a proxy for all rules, and a line for each rule at the end of the run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bridge.publish.settings import Partitions
from tests.publish.benching import bench_on
from tests.publish.proxy import Proxy
from tests.rules.stage import SHARDS, Far, Stage


@pytest.fixture(scope="session")
def far() -> Iterator[Far]:
    """A broker of its own: it is paused, and calls itself by the port of a proxy that each test puts there."""
    far = Far.planned()
    asyncio.run(far.broker.start())
    yield far
    asyncio.run(far.broker.stop())


@pytest.fixture
async def stage(far: Far, bridge_name: str, tmp_path: Path) -> AsyncIterator[Stage]:
    async with Proxy(far.proxied, far.port) as proxy:
        bench = await bench_on(
            f"127.0.0.1:{far.proxied}", bridge_name, SHARDS, Partitions(customers=1, tags=1, users=1, outcomes=1)
        )
        async with Stage(far, proxy, bench, tmp_path) as stage:
            yield stage


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """`D01 title: holds; without the guard: what broke`, for the rules that were run."""
    told: dict[str, dict[str, str]] = {}
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, ()):
            properties = dict(getattr(report, "user_properties", ()))
            if "rule" not in properties or (report.when != "call" and outcome == "passed"):
                continue
            number, title, variant = properties["rule"]
            lines = told.setdefault(f"{number} {title}", {})
            lines[variant] = "FAILED" if outcome != "passed" else properties.get("harm", "holds")
    if not told:
        return
    terminalreporter.write_sep("-", "rules of the Kafka client")
    for name, lines in sorted(told.items()):
        guarded = lines.get("guarded", "not run")
        terminalreporter.write_line(f"{name}: {guarded}; without the guard: {lines.get('twin', 'not run')}")
