"""The tree of a process: a stop ends within the grace, whatever hangs."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from bridge.errors import EnvironmentUnavailable
from bridge.publish.inbox import Inbox
from bridge.publish.topics import Cluster
from bridge.runtime.assignment import Assignment
from bridge.runtime.supervisor import HARD_STOP_S, TOPICS_WATCH_S, LifePorts, Supervisor
from tests.support.clock import VirtualClock, run_virtual

GRACE_S = 20.0


class Group:
    """An inbox whose dirty close takes as long as it may."""

    async def start(self) -> None: ...

    async def stop(self) -> None:
        await asyncio.sleep(HARD_STOP_S - 1)


class Work:
    """An assignment that hangs, or breaks when it is drained."""

    def __init__(self, *, breaks: bool) -> None:
        self._draining = asyncio.Event()
        self._breaks = breaks

    async def run(self) -> None:
        await self._draining.wait()
        if self._breaks:
            raise EnvironmentUnavailable("gone")
        await asyncio.sleep(1e9)

    def drain(self) -> None:
        self._draining.set()


async def stopped_after(clock: VirtualClock, *, breaks: bool) -> float:
    async def prepare() -> Cluster:
        return cast(Cluster, None)

    def assignment(*_: Any) -> Assignment:
        return cast(Assignment, Work(breaks=breaks))

    ports = LifePorts(prepare, prepare, lambda: cast(Inbox, Group()), assignment)
    supervisor = Supervisor(ports, [], clock, grace_s=GRACE_S)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(supervisor.run())
        await asyncio.sleep(5)
        began = clock.monotonic()
        supervisor.stop()
        await running
    return clock.monotonic() - began


def test_a_drain_that_hangs_ends_within_the_grace_with_its_dirty_close() -> None:
    async def main(clock: VirtualClock) -> None:
        assert await stopped_after(clock, breaks=False) <= GRACE_S

    run_virtual(main)


def test_a_life_that_breaks_while_it_stops_is_not_waited_for() -> None:
    async def main(clock: VirtualClock) -> None:
        assert await stopped_after(clock, breaks=True) <= HARD_STOP_S

    run_virtual(main)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (Cluster("c", {"b.state": 4}, 1000, []), "b.inbox"),
        (Cluster("c", {"b.state": 4, "b.inbox": 5}, 1000, []), "b.inbox"),
        (Cluster("d", {"b.state": 4, "b.inbox": 4}, 1000, []), "cluster c, now d"),
        (Cluster("c", {"b.state": 4, "b.inbox": 4}, 999, []), "max.message.bytes, now 999"),
        (Cluster("c", {"b.state": 4, "b.inbox": 4}, 1001, []), None),
    ],
)
def test_topics_that_change_under_a_life_end_it_and_are_looked_at_again(now: Cluster, said: str | None) -> None:
    lives = 0
    trouble: list[str | None] = []

    async def main(clock: VirtualClock) -> None:
        async def prepare() -> Cluster:
            nonlocal lives
            lives += 1
            trouble.append(supervisor.trouble)
            return Cluster("c", {"b.state": 4, "b.inbox": 4}, 1000, [])

        async def inspect() -> Cluster:
            return now

        def assignment(*_: Any) -> Assignment:
            return cast(Assignment, Work(breaks=False))

        ports = LifePorts(prepare, inspect, lambda: cast(Inbox, Group()), assignment)
        supervisor = Supervisor(ports, [], clock, grace_s=GRACE_S)
        async with asyncio.TaskGroup() as group:
            group.create_task(supervisor.run())
            await asyncio.sleep(TOPICS_WATCH_S + HARD_STOP_S + 1)
            supervisor.stop()

    run_virtual(main)
    assert lives == (1 if said is None else 2)
    assert said is None or said in (trouble[1] or "")
