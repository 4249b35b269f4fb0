"""Owners of shards: what breaks one shard stays with it, and letting go never waits for a group that is silent."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, cast

from bridge.errors import CommitUnknown
from bridge.observability.families import Vocabulary
from bridge.observability.metrics import Metrics
from bridge.publish.inbox import Inbox, InboxRecord
from bridge.runtime.assignment import Assignment
from bridge.runtime.shard import Shard, ShardState
from tests.support.clock import VirtualClock, run_virtual


class Group:
    """As much of `Inbox` as an assignment uses."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.mine = frozenset({0, 1})
        self.generation = 1
        self.rebalancing = False
        self.silent = False
        self.asked: list[tuple[int, float]] = []
        self.changed = asyncio.Event()

    @property
    def confirmed_at(self) -> float:
        return self.clock.monotonic()

    def assignment(self) -> frozenset[int]:
        return self.mine

    async def wait_changed(self) -> None:
        await self.changed.wait()
        self.changed.clear()

    async def poll(self, timeout_s: float) -> list[InboxRecord]:
        await asyncio.sleep(timeout_s)
        return []

    async def wait_membership_confirmed(self, partition: int, after: float) -> bool:
        self.asked.append((partition, after))
        await asyncio.sleep(1e9 if self.silent else 1.0)
        return partition in self.mine


class Fake:
    """A shard whose life is a function."""

    def __init__(self, life: Callable[[Fake], Any]) -> None:
        self.state = ShardState.RUNNING
        self.draining = asyncio.Event()
        self._life = life

    async def serve(self) -> None:
        await self._life(self)

    def drain(self) -> None:
        self.draining.set()

    def reseek(self) -> None: ...


def assignment(group: Group, life: Callable[[int], Callable[[Fake], Any]]) -> Assignment:
    metrics = Metrics(group.clock, Vocabulary(frozenset(), frozenset(), frozenset(), frozenset()), "0")
    return Assignment(cast(Inbox, group), lambda n: cast(Shard, Fake(life(n))), lambda _: None, group.clock, metrics)


async def healthy(shard: Fake) -> None:
    await shard.draining.wait()


def test_a_surprise_in_one_shard_leaves_the_others_alone_and_is_tried_again_as_a_confirmed_member() -> None:
    lives: list[int] = []

    async def surprise(_: Fake) -> None:
        await asyncio.sleep(3)
        raise KeyError("a name")

    async def main(clock: VirtualClock) -> None:
        group = Group(clock)

        def life(number: int) -> Callable[[Fake], Any]:
            lives.append(number)
            return surprise if lives == [0] else healthy

        own = assignment(group, life)
        async with asyncio.TaskGroup() as tasks:
            began = clock.monotonic()
            running = tasks.create_task(own.run())
            await asyncio.sleep(10)
            assert group.asked[0][1] >= began + 3  # what was confirmed before the break proves nothing
            assert lives == [0, 1, 0]
            assert [partition for partition, _ in group.asked] == [0]
            assert own.owners[0].last_error == "unforeseen KeyError"
            own.drain()
            await asyncio.wait([running], timeout=1)
            assert running.done()

    run_virtual(main)


def test_a_shard_that_breaks_while_it_is_let_go_waits_for_nobody() -> None:
    async def breaks(shard: Fake) -> None:
        await shard.draining.wait()
        raise CommitUnknown("?")

    async def main(clock: VirtualClock) -> None:
        group = Group(clock)
        group.silent = True
        own = assignment(group, lambda _: breaks)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(own.run())
            await asyncio.sleep(1)
            own.drain()
            await asyncio.wait([running], timeout=1)
            assert running.done()

    run_virtual(main)


def test_an_error_that_meets_the_cancellation_does_not_keep_the_owner_alive() -> None:
    async def stubborn(_: Fake) -> None:
        try:
            await asyncio.sleep(1e9)
        except asyncio.CancelledError:
            raise CommitUnknown("?") from None

    async def main(clock: VirtualClock) -> None:
        group = Group(clock)
        own = assignment(group, lambda _: stubborn)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(own.run())
            await asyncio.sleep(1)
            group.mine = frozenset({1})
            group.changed.set()
            await asyncio.sleep(60)
            assert set(own.owners) == {1}
            own.drain()
            await running

    run_virtual(main)


def test_a_cache_that_failed_is_thrown_away_and_a_disk_that_cannot_even_do_that_ends_nothing() -> None:
    lives: list[int] = []
    discarded: list[int] = []

    async def broken(_: Fake) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    def discard(number: int) -> None:
        discarded.append(number)
        raise OSError("read-only")

    async def main(clock: VirtualClock) -> None:
        group = Group(clock)

        def life(number: int) -> Callable[[Fake], Any]:
            lives.append(number)
            return broken if lives == [0] else healthy

        own = assignment(group, life)
        own._discard_cache = discard
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(own.run())
            await asyncio.sleep(10)
            assert (lives, discarded) == ([0, 1, 0], [0])
            own.drain()

    run_virtual(main)
