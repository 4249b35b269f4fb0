"""Rules about the group: its callbacks must be quick, its members dynamic, or two own one shard, or nobody does."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from unittest.mock import patch

from aiokafka import AIOKafkaConsumer

from bridge.publish import inbox as inbox_module
from bridge.publish.inbox import Inbox, _Listener
from bridge.runtime import assignment
from tests.publish.benching import HeldCommit
from tests.rules.rule import Harm, rule
from tests.rules.stage import SHARDS, Process, Stage

RESTORE_S = 6.0
"""Twice the session."""

REBALANCE_S, DRAIN_S = 1.5, 3.0
"""A drain that is twice as long as the group waits for a member."""

WATCH_S = 10.0
"""A group is settled after one rebalance, which takes a heartbeat or two."""


def owned_twice(first: Inbox, second: Inbox) -> frozenset[int]:
    """Shards that both believe to own for good. During a rebalance the former owner knows that it is one."""
    if first.rebalancing or second.rebalancing:
        return frozenset()
    return first.assignment() & second.assignment()


@asynccontextmanager
async def watching(first: Inbox, second: Inbox) -> AsyncIterator[set[int]]:
    """Shards that were owned twice for longer than it takes to hear of a rebalance."""
    seen: set[int] = set()

    async def watch() -> None:
        before: frozenset[int] = frozenset()
        while True:
            now = owned_twice(first, second)
            seen.update(before & now)
            before = now
            await asyncio.sleep(1.0)  # several heartbeats

    task = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.wait([task])


# -- D7 ----------------------------------------------------------------------------------------------------------


@contextmanager
def restore_inside_the_callback() -> Iterator[None]:
    """The natural place: the callback returns when what was assigned is ready."""
    noted = _Listener.on_partitions_assigned

    async def slow(self: _Listener, assigned: Collection[Any]) -> None:
        noted(self, assigned)
        await asyncio.sleep(RESTORE_S if assigned else 0.0)

    with patch.object(_Listener, "on_partitions_assigned", slow):
        yield


@rule(
    "D07",
    "a restore that takes longer than the session",
    twin=restore_inside_the_callback,
    harm="both processes own",
)
async def slow_restore(stage: Stage) -> None:
    """No heartbeat is sent while a callback of the client runs."""
    first = await stage.process(restore_s=RESTORE_S)
    await stage.until(lambda: len(first.inbox.assignment()) == SHARDS, "the first has all shards")
    second = await stage.process(restore_s=RESTORE_S)
    async with watching(first.inbox, second.inbox) as seen:
        await stage.until(lambda: bool(seen) or serve_all(first, second), "every shard is served")
    if seen:
        raise Harm(f"both processes own shards {sorted(seen)}: the group dropped the one that was restoring")


def serve_all(*processes: Process) -> bool:
    return all(any(process.serving(number) for process in processes) for number in range(SHARDS))


# -- D8 ----------------------------------------------------------------------------------------------------------


@contextmanager
def drain_inside_the_callback() -> Iterator[None]:
    """The natural place: the callback returns when what was revoked is drained."""
    noted = _Listener.on_partitions_revoked

    async def slow(self: _Listener, revoked: Collection[Any]) -> None:
        noted(self, revoked)
        await asyncio.sleep(DRAIN_S if revoked else 0.0)

    with patch.object(_Listener, "on_partitions_revoked", slow):
        yield


@rule(
    "D08",
    "a drain that takes longer than the group waits",
    twin=drain_inside_the_callback,
    harm="not settled",
)
async def slow_drain(stage: Stage) -> None:
    """The shard that is lost hangs in a commit. It is cut off, and the group did not wait for it."""
    held: dict[int, asyncio.Future[HeldCommit]] = {
        number: asyncio.get_running_loop().create_future() for number in range(SHARDS)
    }
    with patch.object(assignment, "RELEASE_S", DRAIN_S):
        first = await stage.process(rebalance_timeout_s=REBALANCE_S, prepare=lambda process: process.hold.update(held))
        for number in range(SHARDS):
            await (await held[number]).reached.wait()
        second = await stage.process(rebalance_timeout_s=REBALANCE_S)
        settled = await settles(first.inbox, second.inbox)
        if not settled:
            made = first.inbox.generation + second.inbox.generation
            raise Harm(f"the group has not settled after {WATCH_S:.0f} s and {made} assignments")
        await stage.until(lambda: all(second.serving(number) for number in second.inbox.assignment()), "taken over")
        await stage.until(lambda: first.assignment.owners.keys() == first.inbox.assignment(), "the lost one is cut off")


async def settles(first: Inbox, second: Inbox) -> bool:
    """Whether each has its half, for longer than the group waits for a member."""
    deadline = time.monotonic() + WATCH_S
    since = None
    while (now := time.monotonic()) < deadline:
        since = (since or now) if shared(first, second) else None
        if since is not None and now - since > REBALANCE_S:
            return True
        await asyncio.sleep(0.02)
    return False


# -- D17 ---------------------------------------------------------------------------------------------------------


@contextmanager
def static_membership() -> Iterator[None]:
    """Every process with the identity from its configuration, which two of them share."""
    static = functools.partial(AIOKafkaConsumer, group_instance_id="bridge-1")
    with patch.object(inbox_module, "AIOKafkaConsumer", static):
        yield


@rule(
    "D17",
    "two processes with one configuration",
    twin=static_membership,
    harm="both processes own",
)
async def one_configuration(stage: Stage) -> None:
    """With `group_instance_id` in it the group takes them for one member, and neither is told."""
    first = await stage.process()
    await stage.until(lambda: len(first.inbox.assignment()) == SHARDS, "the first has all shards")
    second = await stage.process()
    async with watching(first.inbox, second.inbox) as seen:
        await stage.until(lambda: bool(seen) or shared(first.inbox, second.inbox), "each has its half")
    if seen:
        raise Harm(f"both processes own shards {sorted(seen)}, without an error")


def shared(first: Inbox, second: Inbox) -> bool:
    """Whether each has its half, and knows it."""
    halves = len(first.assignment()) == len(second.assignment()) == SHARDS // 2
    return halves and not first.rebalancing and not second.rebalancing and not owned_twice(first, second)
