"""Sources: many small ones and a few large ones in one process, and two processes that are restarted in turn.

Each source is an account of its own, and all accounts show the same customers (`provider`). Fairness and gaps come
from the requests that the API saw; what the topic holds is counted as ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.figures import LATE_S, Bench, Figure
from tests.bench.machine import Child, Provider, configured, owned_sources, provider, started, wait_until
from tests.bench.topic import Topic
from tests.support.processes import command, get

READ_S_MAX = 600.0
"""For the first reading of everything."""

PROBE_S = 0.5
"""Between two looks at /ready while everything is read."""

EDITS = 1.0
"""Changes per second at the provider, each of which every source shows."""

SMALL = 100
"""Customers of a small source."""

MANY = 1_000
"""Sources from which on memory per source says something about a source."""

FIRST_ACCOUNT = 20_000_000


@dataclass(frozen=True, slots=True)
class Crowd:
    """How many sources, and for how long. poll: interval between polls while nothing happens, in seconds.

    large: customers of each of the four large sources. rolling: sources of the two processes. 0: not measured.
    """

    many: int
    poll_s: float
    large: int
    rolling: int
    rolling_poll_s: float


async def crowds(bench: Bench, crowd: Crowd) -> list[Figure]:
    """Everything that is measured with more than one source."""
    figures = []
    async with provider(bench.folder, SMALL) as api:
        figures += await many_small(bench, api, crowd)
        if crowd.rolling:
            figures += await rolling_restart(bench, api, crowd)
    if crowd.large:
        async with provider(bench.folder, crowd.large) as api:
            figures += await four_large(bench, api)
    return figures


async def many_small(bench: Bench, api: Provider, crowd: Crowd) -> list[Figure]:
    """One process: the first reading of all, then quiet."""
    count = crowd.many
    async with bench.bridge_topic() as topic:
        alone = await _settled_alone(bench, api, topic)
    api.forget_visits()
    seconds = Figure(f"first full read of {count:,} sources with {SMALL} customers each", "s")
    rate = Figure("  customers per second", "/s")
    unfair = Figure("  last source to the middle one", "x", "<= 2", lambda value: value <= 2)
    answer = Figure("  slowest /ready meanwhile", "ms")
    peak = Figure("  peak memory", "MiB")
    gap = Figure(f"{count:,} quiet sources, poll {crowd.poll_s:.0f} s: longest gap", "s")
    gaps = Figure("  longest gap to the middle one", "x", "<= 2", lambda value: value <= 2)
    cpu = Figure("  CPU, share of a core", "%")
    # Buffers that are the same however many there are would count for a hundred KiB of each of a few.
    memory = (
        Figure("  memory per source", "KiB", "< 100", lambda value: value < 100)
        if count >= MANY
        else Figure("  memory per source", "KiB")
    )
    async with bench.bridge_topic() as topic:
        child = _start(bench, api, topic, count, poll_interval=f"{crowd.poll_s:g}s")
        try:
            slowest = await _all_read(child, api, count)
            visits = api.visits().values()
            begin = min(visit["begin"] for visit in visits)
            waits = [visit["end"] - begin for visit in visits]
            end = await topic.settled(count * SMALL)
            records, keys = await topic.count()
            assert records == keys == count * SMALL, f"{records} events of {keys} customers"
            seconds.add(end - begin)
            rate.add(records / (end - begin))
            unfair.add(max(waits) / median(waits))
            answer.add(slowest * 1e3)
            peak.add(child.peak_mib)
            await _quiet(api, child, crowd.poll_s, (gap, gaps, cpu))
            memory.add((child.rss_mib - alone) * 1024 / (count - 1))
            child.terminate()
        finally:
            child.kill()
    bench.say(f"{count:,} sources: read in {seconds.values[0]:.1f} s, {memory.values[0]:.0f} KiB each")
    return [seconds, rate, unfair, answer, peak, gap, gaps, cpu, memory]


async def _quiet(api: Provider, child: Child, poll_s: float, figures: tuple[Figure, Figure, Figure]) -> None:
    api.begin_anew()
    begin = time.time()
    while time.time() < begin + 2.5 * poll_s or any(visit["polls"] < 2 for visit in api.visits().values()):
        assert time.time() < begin + 10 * poll_s + 30.0, "a source is not polled any more"
        await asyncio.sleep(PROBE_S)
    found = [visit["gap"] for visit in api.visits().values()]
    gap, gaps, cpu = figures
    gap.add(max(found))
    gaps.add(max(found) / median(found))
    cpu.add(child.cpu_s(begin, end := time.time()) / (end - begin) * 100)


async def four_large(bench: Bench, api: Provider) -> list[Figure]:
    """One process, four sources that take long."""
    count, each = 4, api.customers
    rate = Figure(f"first full read of {count} sources with {each:,} customers each", "/s")
    cpu = Figure("  CPU per customer", "µs")
    peak = Figure("  peak memory", "MiB")
    unfair = Figure("  last source to the first one", "x", "<= 2", lambda value: value <= 2)
    async with bench.bridge_topic() as topic:
        child = _start(bench, api, topic, count, poll_interval="1d", collections=["customers"])
        try:
            await _all_read(child, api, count)
            visits = api.visits().values()
            begin = min(visit["begin"] for visit in visits)
            end = await topic.settled(count * each)
            records, keys = await topic.count()
            assert records == keys == count * each, f"{records} events of {keys} customers"
            rate.add(records / (end - begin))
            cpu.add(child.cpu_s(begin, end) / records * 1e6)
            peak.add(child.peak_mib)
            waits = [visit["end"] - begin for visit in visits]
            unfair.add(max(waits) / min(waits))
        finally:
            child.kill()
    bench.say(f"{count} x {each:,}: {rate.values[0]:,.0f} /s, last to first {unfair.values[0]:.2f}")
    return [rate, cpu, peak, unfair]


async def rolling_restart(bench: Bench, api: Provider, crowd: Crowd) -> list[Figure]:
    """Two processes under changes, stopped and started again one after the other; then the proof."""
    count, poll_s = crowd.rolling, crowd.rolling_poll_s
    gap = Figure(f"rolling restart, {count:,} sources, poll {poll_s:.0f} s: longest without a poll", "s")
    middle = Figure("  of the middle source", "s")
    async with bench.bridge_topic() as topic:
        paths = [_configured(bench, api, topic, count, label, poll_interval=f"{poll_s:g}s") for label in "ab"]
        api.forget_visits()
        children = [started(path) for path in paths]
        try:
            await _all_read(children[0], api, count)
            await topic.settled(count * SMALL)
            await _shared(children, count)
            api.begin_anew()
            api.edits(EDITS)
            for number, path in enumerate(paths):
                await asyncio.sleep(2 * poll_s)
                children[number].terminate()
                children[number] = started(path)
                await _shared(children, count)
            await asyncio.sleep(2 * poll_s)
            found = [visit["gap"] for visit in api.visits().values()]
            assert len(found) == count, f"{len(found)} of {count} sources"
            gap.add(max(found))
            middle.add(median(found))
            api.edits(0)
            await _all_equal(topic, count, poll_s)
            result = await asyncio.to_thread(command, "verify", "-c", str(paths[0]), timeout_s=READ_S_MAX)
            assert result.returncode == 0, result.stdout + result.stderr
        finally:
            api.edits(0)
            for child in children:
                child.kill()
    bench.say(f"rolling restart: at most {gap.values[0]:.1f} s without a poll; nothing lost, nothing twice")
    return [gap, middle]


async def _shared(children: list[Child], count: int) -> None:
    """Until each process reads a part of the sources and all are read."""
    await wait_until(
        lambda: all(parts := [owned_sources(child) for child in children]) and sum(parts) == count,
        120.0,
        "both processes to share the sources",
    )


async def _all_equal(topic: Topic, count: int, poll_s: float) -> None:
    """Until every source has published the same last state of every customer, as all see the same."""
    await asyncio.sleep(2 * poll_s + LATE_S)
    seen: dict[bytes, set[int]] = {}
    latest = await topic.latest()
    for key, digest in latest.items():
        seen.setdefault(key.partition(b"/")[2], set()).add(digest)
    different = [uid.decode() for uid, digests in seen.items() if len(digests) > 1]
    assert len(latest) == count * SMALL, f"{len(latest)} customers in the topic"
    assert not different, f"{len(different)} customers differ between sources, {different[:3]}"


async def _settled_alone(bench: Bench, api: Provider, topic: Topic) -> float:
    """MiB of a process with one small source."""
    child = _start(bench, api, topic, 1, poll_interval="1s")
    try:
        await _all_read(child, api, 1)
        await asyncio.sleep(LATE_S)
        return child.rss_mib
    finally:
        child.kill()


async def _all_read(child: Child, api: Provider, count: int) -> float:
    """Until every source has been read once; the longest time in seconds that /ready took meanwhile."""
    slowest, began = 0.0, time.monotonic()
    while True:
        assert child.running, child.said()
        assert time.monotonic() - began < READ_S_MAX, child.said()
        asked = time.monotonic()
        status, _ = await asyncio.to_thread(get, f"{child.url}/ready", READ_S_MAX)
        slowest = max(slowest, time.monotonic() - asked if status else 0.0)
        visits = api.visits()
        if len(visits) == count and all(visit["end"] for visit in visits.values()):
            return slowest
        await asyncio.sleep(PROBE_S)


def _start(bench: Bench, api: Provider, topic: Topic, count: int, **keys: Any) -> Child:
    return started(_configured(bench, api, topic, count, "a", **keys))


def _configured(bench: Bench, api: Provider, topic: Topic, count: int, label: str, **keys: Any) -> Path:
    """`Any`: keys of every source."""

    def sections() -> Iterator[dict[str, Any]]:
        for number in range(count):
            account = f"T{FIRST_ACCOUNT + number}"
            yield {"id": f"source-{number}", "account": account, "request_budget": "1000/s", **keys}

    return configured(bench.folder, bench.bootstrap, topic.bridge, api.url, sections(), label)
