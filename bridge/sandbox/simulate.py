"""Simulate: a whole bridge from one seed, in virtual time, through every trouble we know; then the reckoning.

    python -m bridge.sandbox.simulate --seeds 10000        all cores, stops at the first seed that fails
    python -m bridge.sandbox.simulate --first 4711         one seed, with its story

The seed decides the population, the provider's switches and faults, how many processes there are and what happens to
them and to their way to the broker. At the end the faults stop, the world stands still and the bridge has bounded
time to catch up; then everything is compared with what was true. A seed always does the same, so one that fails is a
test for ever.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from bridge.sandbox.simulation.plan import Plan, draw
from bridge.sandbox.simulation.story import Story
from bridge.sandbox.simulation.town import build
from bridge.sandbox.virtual import VirtualClock, run_virtual

CHUNK = 8
"""Seeds a worker takes at a time."""

STORY_LINES = 400
"""The end of a failed seed's story that is printed."""

Defect = Callable[[], AbstractContextManager[None]]
"""Breaks the code while it is entered; for tests of the simulator."""


@dataclass(frozen=True, slots=True)
class Report:
    """One seed. findings: what is wrong, empty when nothing is. digest: of the story."""

    plan: Plan
    findings: list[str]
    digest: str
    story: list[str] = field(repr=False)
    figures: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.findings

    def text(self, lines_max: int = STORY_LINES) -> str:
        """For people: plan, end of the story, findings."""
        return "\n".join(
            [
                f"seed {self.plan.seed}: {self.plan}",
                *self.story[-lines_max:],
                *(f"BROKEN  {finding}" for finding in self.findings[:20]),
                f"seed {self.plan.seed}: {len(self.findings)} findings, digest {self.digest}",
            ]
        )


def simulate(seed: int, defect: Defect | None = None) -> Report:
    """Live through one seed."""

    async def main(clock: VirtualClock) -> Report:
        plan = draw(seed)
        story = Story(clock)
        with tempfile.TemporaryDirectory() if plan.disk == "sqlite" else nullcontext() as folder, story.hearing_logs():
            async with asyncio.TaskGroup() as group:
                town = build(plan, clock, story, group, Path(folder) if folder else None)
                findings = await town.live()
        decisions = town.outside.broker.transactions.decisions
        figures = {
            "committed": sum(decision.commit for decision in decisions),
            "aborted": sum(not decision.commit for decision in decisions),
            "changes": sum(api.world.truth.number for api in town.outside.apis.values()),
            **town.happenings.happened,
        }
        return Report(plan, findings, story.digest, list(story.lines), figures)

    with (defect or nullcontext)():
        return run_virtual(main)


def failures(first: int, count: int) -> Iterator[tuple[int, Report | None]]:
    """Seeds that were done, on all cores, with the first report of each piece that is not ok."""
    pieces = [range(at, min(at + CHUNK, first + count)) for at in range(first, first + count, CHUNK)]
    # Fresh processes: a fork of one that has threads may hang.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        try:
            for piece, report in zip(pieces, pool.map(_piece, pieces), strict=True):
                yield len(piece), report
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _piece(seeds: range) -> Report | None:
    for seed in seeds:
        try:
            report = simulate(seed)
        except Exception as error:
            error.add_note(f"in seed {seed}")
            raise
        if not report.ok:
            return report
    return None


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bridge.sandbox.simulate", description="simulate the bridge")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    options = parser.parse_args()
    if options.seeds == 1:
        report = simulate(options.first)
        print(report.text(lines_max=10_000))
        return 0 if report.ok else 1
    began, done = time.perf_counter(), 0
    for count, broken in failures(options.first, options.seeds):
        if broken is not None:
            print(broken.text())
            return 1
        done += count
        if sys.stdout.isatty() or done >= options.seeds:
            rate = done / (time.perf_counter() - began)
            print(f"{done} of {options.seeds} seeds ok, {rate:.1f} seeds/s on {os.cpu_count()} cores", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
