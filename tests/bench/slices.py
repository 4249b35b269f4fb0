"""Slices: the first full read of an API that takes its time for each page, one page after the other and side by side.

The provider is the sandbox over HTTP. The time is from the first request that it has answered to the last event in the
topic; how fast pages are worked on counts for both.
"""

from __future__ import annotations

import asyncio
import time

from tests.bench.figures import LATE_S, NEVER, Bench, Figure
from tests.bench.machine import SAMPLE_S, Provider, configured, sandbox, started

PAGE_MS = 100
LANES = 8
TIMES = 6.0
"""Sooner by this, at least, ..."""
TIMES_FROM = 100_000
"""... where the survey before and the counting after are no large part of it."""


async def slices(bench: Bench, customers: int) -> list[Figure]:
    """The walk, then the slices."""
    walk = Figure(f"first full read, {customers:,} customers, {PAGE_MS} ms a page, one by one", "s")
    side_by_side = Figure(f"  {LANES} side by side", "s")
    times = (
        Figure("  times as fast", "x", f">= {TIMES:g}", lambda value: value >= TIMES)
        if customers >= TIMES_FROM
        else Figure("  times as fast", "x")
    )
    switches = (f"page_latency_ms={PAGE_MS}", "timestamp_precision=milliseconds")
    options = [word for switch in switches for word in ("--switch", switch)]
    async with sandbox(bench.folder, customers, "--provider", "dintero", *options) as api:
        for lanes, figure in ((1, walk), (LANES, side_by_side)):
            figure.add(await _first_read(bench, api, lanes))
    times.add(walk.values[0] / side_by_side.values[0])
    bench.say(f"slices: {walk.values[0]:.1f} s, {side_by_side.values[0]:.1f} s: {times.values[0]:.1f} times as fast")
    return [walk, side_by_side, times]


async def _first_read(bench: Bench, api: Provider, lanes: int) -> float:
    """Seconds from the first answer to the last event."""
    source = {
        "id": "acme",
        "account": "T12345678",
        "collections": ["customers"],
        "request_budget": "10000/s",
        "poll_interval": NEVER,
        "sweep_interval": NEVER,
        "snapshot_parallelism": lanes,
    }
    async with bench.bridge_topic() as topic:
        before = _answered(api)
        child = started(configured(bench.folder, bench.bootstrap, topic.bridge, api.url, [source]))
        try:
            while await asyncio.to_thread(_answered, api) == before:
                assert child.running, child.said()
                await asyncio.sleep(SAMPLE_S)
            begin = time.time()
            end = await topic.settled(api.customers, lambda: child.said() if not child.running else None)
            await asyncio.sleep(LATE_S)
            records, keys = await topic.count()
            assert records == keys == api.customers, f"{records} events of {keys} customers"
            requests = _answered(api) - before
        finally:
            child.kill()
    bench.say(f"{lanes} lanes: {end - begin:.1f} s, {requests} requests, {child.peak_mib:.0f} MiB")
    return end - begin


def _answered(api: Provider) -> int:
    counted: dict[str, int] = api.get("/sandbox/stats")["requests"]
    return counted.get("customers 200", 0)
