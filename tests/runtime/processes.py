"""A whole process over the ports of `shards.House`: supervisor, assignment, one shard; a group that always agrees."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from bridge.model import Collection
from bridge.publish.inbox import Inbox, InboxRecord
from bridge.publish.topics import Cluster
from bridge.runtime.assignment import Assignment
from bridge.runtime.reading import SWEEP_INTERVAL_S, ReadingPlan
from bridge.runtime.shard import Shard
from bridge.runtime.supervisor import LifePorts, Supervisor
from tests.runtime.shards import NUMBER, House
from tests.support.clock import VirtualClock


class Group:
    """A group that gives us one partition."""

    generation = 1
    rebalancing = False
    confirmed_at = float("inf")
    leaving_s = 0.0

    async def start(self) -> None: ...

    async def stop(self) -> None:
        await asyncio.sleep(self.leaving_s)

    def assignment(self) -> frozenset[int]:
        return frozenset({NUMBER})

    async def wait_changed(self) -> None:
        await asyncio.sleep(1e9)

    async def poll(self, timeout_s: float) -> list[InboxRecord]:
        await asyncio.sleep(timeout_s)
        return []

    async def wait_membership_confirmed(self, partition: int, after: float) -> bool:
        return True


class Process:
    """A supervisor over a real assignment and real shards. lives: when each began, and why the one before had ended."""

    def __init__(self, clock: VirtualClock, *, sweep_interval_s: float = SWEEP_INTERVAL_S, customers: int = 50) -> None:
        self.house = House(clock, customers)
        plans = dict.fromkeys((Collection.CUSTOMERS, Collection.TAGS), ReadingPlan(5.0, sweep_interval_s))
        self.house.reader = replace(self.house.reader, plans=plans)
        self.lives: list[tuple[float, str]] = []
        self.hangs = False
        self.build_shard: Callable[[], Shard] = self.house.shard
        ports = LifePorts(self._prepare, self._inspect, self._group, self._assignment, lambda: 0.0)
        self.supervisor = Supervisor(ports, [], clock, grace_s=20.0)

    def _group(self) -> Inbox:
        self.group = Group()
        return cast(Inbox, self.group)

    async def _prepare(self) -> Cluster:
        if self.hangs:
            await asyncio.sleep(1e9)
        self.lives.append((self.house.clock.monotonic(), self.supervisor.trouble or ""))
        return await self._inspect()

    async def _inspect(self) -> Cluster:
        return Cluster("c", {}, 1_000_000, [])

    def _assignment(self, inbox: Any, _cluster: Cluster) -> Assignment:
        return Assignment(
            inbox, lambda _: self.build_shard(), lambda _: None, self.house.clock, self.house.metrics, lambda: 0.0
        )
