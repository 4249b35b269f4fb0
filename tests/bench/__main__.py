"""Benchmark of the whole service against a plain loop, on this machine: `make bench`, or `make bench QUICK=1`.

    --quick      one population of 30,000, some four minutes; figures of less than 10 s each
    --json PATH  where the figures go as JSON
    --only WORD  some of: read, latency, restore, takeover, sources, slices, edges, commands
    --customers, --rounds  for a closer look

Starts an API process and, unless KAFKA_BOOTSTRAP_SERVERS names one, a Kafka; ends what it started.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from bridge.publish.settings import quiet_client_loggers
from bridge.sandbox.kafka import LocalKafka
from tests.bench.commands import Load, commands
from tests.bench.edges import Edges, many_edges
from tests.bench.figures import Bench, Cost, Figure, at_most
from tests.bench.machine import Provider, api_limit, provider
from tests.bench.slices import slices
from tests.bench.sources import Crowd, crowds
from tests.bench.table import show, write

RATES = (100.0, 1_000.0)
"""Changes per second."""


WIDTH = 150
"""Columns of the table where no terminal says how many there are."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One population. parts: see --only. sweep_s: of all rounds together.

    crowd: many sources, and edges: many memberships, whatever population.
    sliced: the population that is read in slices, and before that one page after the other at 100 ms each.
    load: of commands.
    """

    customers: int
    rounds: int
    parts: frozenset[str]
    sweep_s: float
    latency_s: float
    crowd: Crowd | None = None
    edges: Edges | None = None
    sliced: int = 0
    load: Load | None = None


ALL = frozenset({"read", "latency", "restore", "takeover", "sources", "slices", "edges", "commands"})

WITHOUT_KAFKA = frozenset({"edges"})

FULL = (
    Plan(
        100_000,
        3,
        ALL - {"restore"},
        12.0,
        12.0,
        Crowd(many=2_000, poll_s=30.0, large=250_000, rolling=2_000, rolling_poll_s=10.0),
        Edges(customers=1_000_000, tags=10_000, each=20),
        sliced=100_000,
        load=Load(accepted_s=20.0, timed=100, tagged=10_000),
    ),
    Plan(1_000_000, 1, frozenset({"read", "restore"}), 12.0, 0.0),
)
QUICK = (
    Plan(
        30_000,
        2,
        ALL,
        4.0,
        5.0,
        Crowd(many=200, poll_s=2.0, large=0, rolling=0, rolling_poll_s=0.0),
        Edges(customers=20_000, tags=1_000, each=20),
        sliced=10_000,
        load=Load(accepted_s=5.0, timed=20, tagged=3_000),
    ),
)


async def population(bench: Bench, plan: Plan) -> list[Figure]:
    """Everything that is measured with one population, with many sources, and with many memberships."""
    figures: list[Figure] = []
    if plan.parts - {"sources", "slices", "edges", "commands"}:
        figures += await one_source(bench, plan)
    if "slices" in plan.parts and plan.sliced:
        figures += await slices(bench, plan.sliced)
    if "sources" in plan.parts and plan.crowd is not None:
        figures += await crowds(bench, plan.crowd)
    if "edges" in plan.parts and plan.edges is not None:
        figures += await many_edges(bench, plan.edges)
    if "commands" in plan.parts and plan.load is not None:
        figures += await commands(bench, plan.load)
    return figures


async def one_source(bench: Bench, plan: Plan) -> list[Figure]:
    """Everything that is measured with one source."""
    async with provider(bench.folder, plan.customers) as api:
        pages_per_s = await api_limit(api)
        bench.say(f"the API alone: {pages_per_s:,.0f} pages/s, {pages_per_s * 100:,.0f} customers/s")
        limit = Figure(f"the API's own limit, {plan.customers:,} customers", "/s")
        limit.add(pages_per_s * 100)
        figures = [limit]
        if plan.parts & {"read", "restore"}:
            figures += await reads(bench, plan, api)
        if "latency" in plan.parts:
            figures += await latencies(bench, plan, api)
        if "takeover" in plan.parts:
            figures += await take_overs(bench, plan, api)
    return figures


async def reads(bench: Bench, plan: Plan, api: Provider) -> list[Figure]:
    """First full read, sweeps and, with the topics of the last round, restores."""
    n = f"{plan.customers:,}"
    rate = Figure(f"first full read, {n} customers", "/s", ">= 20,000", lambda value: value >= 20_000)
    cpu = Figure("  CPU per customer", "µs", "<= 50", lambda value: value <= 50)
    peak = Figure("  peak memory", "MiB", "< 250", lambda value: value < 250)
    sweep = Figure(f"sweep over unchanged, {n} customers", "/s", ">= 60,000", lambda value: value >= 60_000)
    sweep_cpu = Figure("  CPU per customer", "µs")
    empty = Figure(f"restore of {n} documents, empty disk", "s", "< 60", lambda value: value < 60)
    intact = Figure(f"restore of {n} documents, cache intact", "s", "< 3", lambda value: value < 3)
    for number in range(plan.rounds):
        before = await bench.plain_read(api)
        async with bench.bridge_topic() as topic:
            first, again = await bench.full_read(topic, api, plan.sweep_s / plan.rounds)
            after = await bench.plain_read(api)
            pairs = [(getattr(before, name), getattr(after, name)) for name in Cost._fields]
            for figure, value, pair in zip((rate, cpu, peak), first, pairs, strict=True):
                figure.add(value, pair)
            sweep.add(again.per_s, pairs[0])
            sweep_cpu.add(again.cpu_us, pairs[1])
            if "restore" in plan.parts and number == plan.rounds - 1:
                intact.add(await bench.restore(topic, api, empty=False))
                empty.add(await bench.restore(topic, api, empty=True))
    return [rate, cpu, peak, sweep, sweep_cpu, *([empty, intact] if empty.values else [])]


async def latencies(bench: Bench, plan: Plan, api: Provider) -> list[Figure]:
    """From a change to the topic, at both rates."""
    before = await bench.plain_latency(api, RATES, plan.latency_s)
    async with bench.bridge_topic() as topic:
        found = await bench.latency(topic, api, RATES, plan.latency_s)
    after = await bench.plain_latency(api, RATES, plan.latency_s)
    figures = []
    for number, rate in enumerate(RATES):
        name = f"{rate:,.0f} changes/s, to the topic"
        most_p50, most_p99 = (600, 1_200) if rate == 100 else (None, 1_500)
        p50 = at_most(f"{name}: p50", "ms", most_p50)
        p99 = at_most(f"{name}: p99", "ms", most_p99)
        cpu = Figure("  CPU per change", "µs")
        for figure, field in ((p50, "p50"), (p99, "p99"), (cpu, "cpu_us")):
            first, value, last = (getattr(part[number], field) for part in (before, found, after))
            figure.add(value, (first, last))
        figures += [p50, p99, cpu]
    return figures


async def take_overs(bench: Bench, plan: Plan, api: Provider) -> list[Figure]:
    """kill -9 with a second process at hand."""
    figure = at_most(f"take-over after kill -9, {plan.customers:,} customers", "s", 13)
    async with bench.bridge_topic() as topic:
        figure.add(await bench.take_over(topic, api))
    return [figure]


def across(figures: list[Figure]) -> list[Figure]:
    """What can only be said of two populations: how much more memory the larger one takes."""
    peaks = [figure for figure in figures if figure.unit == "MiB" and figure.plain]
    if len(peaks) < 2:
        return []
    growth = Figure("peak memory, largest to smallest population", "x", "<= 1.3", lambda value: value <= 1.3)
    growth.add(max(peaks[-1].values) / max(peaks[0].values))
    return [growth]


async def main(plans: tuple[Plan, ...], path: Path) -> None:
    """All figures, one table, one file."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:5.0f} s[/]  {text}", highlight=False)

    quiet_client_loggers()
    figures: list[Figure] = []
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bridge-bench-")))
        bootstrap = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "")
        if not bootstrap and any(plan.parts - WITHOUT_KAFKA for plan in plans):
            bootstrap = (await stack.enter_async_context(LocalKafka())).bootstrap_servers
        for plan in plans:
            figures += await population(Bench(bootstrap, folder, say), plan)
    figures += across(figures)
    show(console, figures)
    write(path, figures)
    console.print(f"\n{path}")


def arguments() -> tuple[tuple[Plan, ...], Path]:
    """Of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Benchmark against a plain loop.")
    parser.add_argument("--quick", action="store_true", help="one small population, some four minutes")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where the figures go")
    parser.add_argument("--only", nargs="+", choices=sorted(ALL), default=sorted(ALL), help="some parts")
    parser.add_argument("--customers", type=int, help="another population, for all that is asked for")
    parser.add_argument("--rounds", type=int, help="more or fewer")
    given = parser.parse_args()
    plans: tuple[Plan, ...] = QUICK if given.quick else FULL
    if given.customers:
        plans = (replace(plans[0], customers=given.customers, sliced=given.customers, parts=ALL),)
    only = frozenset(given.only)
    plans = tuple(replace(plan, parts=plan.parts & only, rounds=given.rounds or plan.rounds) for plan in plans)
    return plans, given.json


if __name__ == "__main__":
    if not Path("/proc/self/stat").exists():
        sys.exit("the benchmark counts CPU and memory in /proc, so it needs Linux")
    # Every process that was started is ended by a `finally`, which only an exception reaches.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    asyncio.run(main(*arguments()))
