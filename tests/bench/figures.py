"""Figures: what is measured, and how.

Each round runs plain loop, bridge, plain loop, so that what the machine does meanwhile hits both alike. The two plain
loops are also the control: their ratio shows how far two equal things are apart in this run. Everything is counted in
the topic (`topic`), timed by the requests that the API saw (`provider`) and by /proc (`machine`); the bridge is asked
nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, quantiles
from typing import NamedTuple

from tests.bench.machine import Child, Provider, bridge, owns_source, plain, wait_until
from tests.bench.topic import Arrival, Topic

NEVER = "1d"
"""Of a poll or a sweep that must not come while something else is measured."""

SWEEP = "1s"
"""Of polls and sweeps where sweeps are measured, so that they follow one another."""

OUTAGE_EDITS = 20.0
"""Changes per second while processes are stopped and killed: the first one after that ends the clock."""

WARM_S = 4.0
"""From a new rate of changes until latencies count: a few polls."""

SETTLE_S = 5.0
"""Two processes that start together hand the shards to and fro."""

LATE_S = 4.0
"""Changes of the last moment may still arrive."""


@dataclass(slots=True)
class Figure:
    """One line of the table. ratios: bridge to plain; controls: one plain loop to the other."""

    name: str
    unit: str
    target: str = ""
    met: Callable[[float], bool] | None = None
    values: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    controls: list[float] = field(default_factory=list)

    def add(self, value: float, plain: tuple[float, float] | None = None) -> None:
        """One round."""
        self.values.append(value)
        if plain is not None:
            self.plain += plain
            self.ratios.append(value / mean(plain))
            self.controls.append(plain[1] / plain[0])


def at_most(name: str, unit: str, most: float | None) -> Figure:
    """One that shall be less; None: nobody says how much."""
    return Figure(name, unit, f"< {most:,g}", lambda value: value < most) if most else Figure(name, unit)


class Cost(NamedTuple):
    """Of reading customers: how many per second, microseconds of CPU for each, most memory in MiB."""

    per_s: float
    cpu_us: float
    peak_mib: float


class Latency(NamedTuple):
    """Milliseconds from a change to a reader of the topic; how many changes; CPU of the process, microseconds each."""

    p50: float
    p99: float
    changes: int
    cpu_us: float


@dataclass(frozen=True, slots=True)
class Bench:
    """Where everything happens. say: told what goes on."""

    bootstrap: str
    folder: Path
    say: Callable[[str], None]

    @contextlib.asynccontextmanager
    async def plain_topic(self) -> AsyncIterator[Topic]:
        """A topic for one plain loop."""
        topic = Topic(self.bootstrap, f"bench-plain-{uuid.uuid4().hex[:8]}")
        await topic.create()
        try:
            yield topic
        finally:
            await topic.delete()

    @contextlib.asynccontextmanager
    async def bridge_topic(self) -> AsyncIterator[Topic]:
        """The topics of one bridge; its files go with them."""
        topic = Topic(self.bootstrap, f"bench-{uuid.uuid4().hex[:8]}.customers")
        await topic.create_bridge()
        try:
            yield topic
        finally:
            await topic.delete()
            for path in self.folder.glob(f"{topic.bridge}-data-*"):
                shutil.rmtree(path)

    def bridge(self, topic: Topic, api: Provider, label: str = "a", poll: str = NEVER, sweep: str = NEVER) -> Child:
        """A bridge that reads this API."""
        source = {"poll_interval": poll, "sweep_interval": sweep}
        return bridge(self.folder, self.bootstrap, topic.bridge, api.url, source, label)

    # The first full read, and sweeps over what is known.

    async def plain_read(self, api: Provider) -> Cost:
        """One plain loop reads everything."""
        async with self.plain_topic() as topic:
            child = plain(self.folder, "read", self.bootstrap, topic.name, api.url)
            try:
                return await self._read(child, topic, api)
            finally:
                child.kill()

    async def full_read(self, topic: Topic, api: Provider, sweep_s: float) -> tuple[Cost, Cost]:
        """One bridge reads everything, and then again, at least once and for `sweep_s`."""
        child = self.bridge(topic, api, poll=SWEEP, sweep=SWEEP)
        try:
            first = await self._read(child, topic, api)
            sweeps = await self._sweeps(child, api, sweep_s)
            records, _ = await topic.count()
            assert records == api.customers, f"{records} events after sweeps over {api.customers} customers"
            child.terminate()
        finally:
            child.kill()
        return first, sweeps

    async def _read(self, child: Child, topic: Topic, api: Provider) -> Cost:
        before = len(api.walks())
        end = await topic.settled(api.customers, lambda: child.said() if not child.running else None)
        walk = api.walks()[before]
        records, keys = await topic.count()
        # A plain loop sends those twice that a page shows because of their links; so do several real ones.
        assert keys == api.customers, f"{keys} of {api.customers} customers in {topic.name}"
        assert child.name == "plain" or records == keys, f"{records} events of {keys} customers"
        cost = Cost(
            api.customers / (end - walk["begin"]),
            child.cpu_s(walk["begin"], end) / api.customers * 1e6,
            child.peak_mib,
        )
        self.say(f"{child.name:>7}: {cost.per_s:>9,.0f} /s {cost.cpu_us:6.1f} µs {cost.peak_mib:5.0f} MiB")
        return cost

    async def _sweeps(self, child: Child, api: Provider, seconds: float) -> Cost:
        """After the sweep that may still share its time with the end of the first read."""
        first = len(api.walks()) + 1

        def complete() -> list[dict[str, float]]:
            return [walk for walk in api.walks()[first:] if walk["end"]]

        def enough() -> bool:
            return bool(walks := complete()) and sum(walk["end"] - walk["begin"] for walk in walks) >= seconds

        while not enough():
            assert child.running, child.said()
            await asyncio.sleep(0.25)
        walks = complete()
        elapsed = sum(walk["end"] - walk["begin"] for walk in walks)
        rows = sum(walk["rows"] for walk in walks)
        cpu = sum(child.cpu_s(walk["begin"], walk["end"]) for walk in walks)
        cost = Cost(rows / elapsed, cpu / rows * 1e6, child.peak_mib)
        self.say(
            f"  sweep: {cost.per_s:>9,.0f} /s {cost.cpu_us:6.1f} µs {cost.peak_mib:5.0f} MiB ({len(walks)} sweeps)"
        )
        return cost

    # From a change to the topic.

    async def plain_latency(self, api: Provider, rates: Sequence[float], seconds: float) -> list[Latency]:
        """Of a plain loop that asks every second."""
        async with self.plain_topic() as topic:
            child = plain(self.folder, "poll", self.bootstrap, topic.name, api.url)
            try:
                return [await self._latency(child, topic, api, rate, seconds) for rate in rates]
            finally:
                child.kill()

    async def latency(self, topic: Topic, api: Provider, rates: Sequence[float], seconds: float) -> list[Latency]:
        """Of a bridge that polls every second and has read everything before."""
        child = self.bridge(topic, api, poll="1s")
        try:
            await topic.settled(api.customers)
            return [await self._latency(child, topic, api, rate, seconds) for rate in rates]
        finally:
            child.kill()

    async def _latency(self, child: Child, topic: Topic, api: Provider, rate: float, seconds: float) -> Latency:
        found: list[Arrival] = []
        reading = asyncio.create_task(topic.arrivals(found))
        api.edits(rate)
        try:
            await asyncio.sleep(WARM_S)
            begin = time.time()
            await asyncio.sleep(seconds)
            end = time.time()
            await asyncio.sleep(LATE_S)
        finally:
            api.edits(0)
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
        first = {(arrival.key, arrival.changed_at): arrival.seen_at for arrival in reversed(found)}
        times = [(seen - changed) * 1e3 for (_, changed), seen in first.items() if begin <= changed < end]
        assert len(times) >= 0.7 * rate * seconds, f"{len(times)} changes of {rate * seconds:.0f}; {child.said()}"
        cut = quantiles(times, n=100)
        latency = Latency(cut[49], cut[98], len(times), child.cpu_s(begin, end) / len(times) * 1e6)
        self.say(f"{child.name:>7}: {rate:5.0f} changes/s, p50 {latency.p50:5.0f} ms, p99 {latency.p99:5.0f} ms")
        return latency

    # Starting again, and taking over.

    async def restore(self, topic: Topic, api: Provider, *, empty: bool) -> float:
        """Seconds from the start of a stopped bridge to the first event of a change it had missed."""
        if empty:
            for path in self.folder.glob(f"{topic.bridge}-data-*"):
                shutil.rmtree(path)
        api.edits(OUTAGE_EDITS)
        child = self.bridge(topic, api, poll="1s")
        try:
            seconds = await topic.grown(300.0) - child.began
            child.terminate()
        finally:
            child.kill()
            api.edits(0)
        self.say(
            f"restore, {'empty disk' if empty else 'cache intact'}: {seconds:.1f} s, peak {child.peak_mib:.0f} MiB"
        )
        return seconds

    async def take_over(self, topic: Topic, api: Provider) -> float:
        """Seconds without events when the owner is killed and another process, without any cache, stands by."""
        both = [self.bridge(topic, api, label, poll="1s") for label in "ab"]
        try:
            await topic.settled(api.customers)
            await asyncio.sleep(SETTLE_S)
            await wait_until(lambda: any(map(owns_source, both)), 30.0, "an owner")
            victim, heir = sorted(both, key=owns_source, reverse=True)
            api.edits(OUTAGE_EDITS)
            await topic.grown(30.0)
            victim.kill()
            killed = time.time()
            await asyncio.sleep(0.5)  # what it had committed is counted before
            seconds = await topic.grown(120.0) - killed
            assert heir.running, heir.said()
        finally:
            api.edits(0)
            for child in both:
                child.kill()
        self.say(f"take-over: {seconds:.1f} s after kill -9")
        return seconds
