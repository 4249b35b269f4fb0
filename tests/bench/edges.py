"""Edges: a store with many memberships, in a process of its own, so that its memory is that of the store.

No Kafka and no provider: the records that a restore or the steps would apply are made here, in the same portions, with
tags chosen evenly, which is the worst case for the index. Only the store's own time counts, not that of making records.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import NamedTuple

from bridge.clock import SystemClock
from bridge.publish.statelog import APPLY_RECORDS_MAX
from bridge.store.record import StateRecord, encode_record
from bridge.store.sqlite import SqliteStore
from tests.bench.figures import Bench, Figure
from tests.bench.machine import Child

SOURCE = "acme"

FILL = "x" * 700
"""Makes a record as large as that of a usual customer, without its tags."""

MOVED = 1_000
"""Edges that one bulk job adds."""

LOOKS = 50
"""Tags whose members are read."""

BUILD_S_MAX = 3_600.0


@dataclass(frozen=True, slots=True)
class Edges:
    """How many: customers, tags, and tags of each customer."""

    customers: int
    tags: int
    each: int

    @property
    def count(self) -> int:
        """All edges."""
        return self.customers * self.each


class Found(NamedTuple):
    """What the process measured; seconds."""

    build: float
    cpu: float
    longest: float
    file_mib: float
    members: float
    counts: float
    keys: float
    move: float


async def many_edges(bench: Bench, edges: Edges) -> list[Figure]:
    """A first build, as after the loss of a disk, and what is asked of it then."""
    name = f"{edges.count:,} edges, {edges.tags:,} tags"
    rate = Figure(f"build of {name}: edges", "/s", ">= 100,000", lambda value: value >= 100_000)
    cpu = Figure("  CPU per edge, records included", "µs", "<= 10", lambda value: value <= 10)
    longest = Figure("  longest call", "ms")
    size = Figure("  file", "MiB")
    peak = Figure("  peak memory", "MiB", "< 1,536", lambda value: value < 1_536)
    members = Figure(f"  members of a tag, {edges.count // edges.tags:,}", "ms")
    counts = Figure("  count of a tag", "µs")
    keys = Figure("  keys of all customers, per key", "µs")
    move = Figure(f"  {MOVED:,} customers get a tag", "ms")
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        output = Path(folder) / "edges.log"
        shape = (str(edges.customers), str(edges.tags), str(edges.each))
        child = Child("edges", output, "tests.bench.edges", folder, *shape)
        try:
            deadline = time.monotonic() + BUILD_S_MAX
            while child.running:
                assert time.monotonic() < deadline, "the build does not end"
                await asyncio.sleep(0.1)
        finally:
            child.kill()
        found = Found(*json.loads(child.said().splitlines()[-1]))
    rate.add(edges.count / found.build)
    cpu.add(found.cpu / edges.count * 1e6)
    longest.add(found.longest * 1e3)
    size.add(found.file_mib)
    peak.add(child.peak_mib)
    members.add(found.members * 1e3)
    counts.add(found.counts * 1e6)
    keys.add(found.keys * 1e6)
    move.add(found.move * 1e3)
    bench.say(f"{name}: {rate.values[0]:,.0f} /s, peak {child.peak_mib:,.0f} MiB, file {found.file_mib:,.0f} MiB")
    return [rate, cpu, longest, size, peak, members, counts, keys, move]


def measured(path: Path, edges: Edges) -> Found:
    """Everything, in this process."""
    chance = Random(1)
    tags = [f"{chance.getrandbits(128):032x}" for _ in range(edges.tags)]
    store = SqliteStore.open(path, {}, SystemClock(), age_s_max=3600.0)
    build = cpu = longest = 0.0
    position = 0
    for records in _portions(chance, tags, edges):
        position += len(records)
        began, cpu_began = time.perf_counter(), time.process_time()
        store.apply(records, position)
        took = time.perf_counter() - began
        build, longest, cpu = build + took, max(longest, took), cpu + time.process_time() - cpu_began
    began, cpu_began = time.perf_counter(), time.process_time()
    store.close()
    build, cpu = build + time.perf_counter() - began, cpu + time.process_time() - cpu_began
    file_mib = path.stat().st_size / 1024 / 1024
    store = SqliteStore.open(path, {}, SystemClock(), age_s_max=3600.0)
    assert store.position == edges.customers, "it was built anew"
    looked = tags[:LOOKS]
    members = []
    for tag in looked:
        began = time.perf_counter()
        count = sum(1 for _ in store.members(SOURCE, tag))
        members.append(time.perf_counter() - began)
        assert count == store.members_count(SOURCE, tag)
    began = time.perf_counter()
    for tag in looked:
        store.members_count(SOURCE, tag)
    counts = (time.perf_counter() - began) / len(looked)
    keys, spent = _all_keys(store)
    assert len(keys) == edges.customers
    moved = _move(store, chance.sample(keys, MOVED))
    return Found(build, cpu, longest, file_mib, median(members), counts, spent / len(keys), moved)


def _all_keys(store: SqliteStore) -> tuple[list[str], float]:
    keys: list[str] = []
    after: int | None = 0
    began = time.perf_counter()
    while after is not None:
        piece, after = store.keys_after(f"{SOURCE}/customers/", after, 1_000)
        keys += piece
    return keys, time.perf_counter() - began


def _move(store: SqliteStore, keys: list[str]) -> float:
    """A tag that is new is given to these customers."""
    records = []
    for key, value in store.get_many(keys).items():
        document = json.loads(value)["document"]
        tagged = {**document, "tags": [*document["tags"], "zzz"]}
        records.append((key, encode_record(StateRecord(tagged, 1, 1))))
    began = time.perf_counter()
    store.apply(records, store.position)
    assert store.members_count(SOURCE, "zzz") == len(keys)
    store.close()
    return time.perf_counter() - began


def _portions(chance: Random, tags: list[str], edges: Edges) -> Iterator[list[tuple[str, bytes]]]:
    for start in range(0, edges.customers, APPLY_RECORDS_MAX):
        portion = []
        for _ in range(min(APPLY_RECORDS_MAX, edges.customers - start)):
            uid = f"{chance.getrandbits(128):032x}"
            body = {"uid": uid, "extra": {"fill": FILL}, "tags": sorted(chance.sample(tags, edges.each))}
            portion.append((f"{SOURCE}/customers/{uid}", encode_record(StateRecord(body, 1, 1))))
        yield portion


if __name__ == "__main__":
    print(json.dumps(measured(Path(sys.argv[1]) / "cache.sqlite", Edges(*map(int, sys.argv[2:])))))
