"""Assignment: which shards this process owns, and one owner task for each.

The group consumer of the inbox says which partitions are ours; its callbacks only note it. Here, outside of any
callback, `run` compares that with the owner tasks: a new partition gets an owner, a lost one is drained with a
deadline (its successor fences it anyway), a kept one goes on untouched. An owner lives one shard after another: when
a life breaks it waits until the group has confirmed our membership *after* the break, so that a fenced zombie never
fences its successor back, and then opens the next.

Tasks: the poller (keeps the membership alive, always), one owner per partition, one releaser per lost partition.
All live in the task group of `run`; when `run` returns or raises none is left.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from bridge.clock import Clock
from bridge.errors import StateLost
from bridge.observability.logs import Throttle, get_logger
from bridge.observability.metrics import Metrics
from bridge.publish.inbox import InboxRecord
from bridge.runtime.group import Member
from bridge.runtime.parking import FORESEEN
from bridge.runtime.schedule import Backoff
from bridge.runtime.shard import Shard, ShardState
from bridge.runtime.tasks import TaskDied, first_leaf, outlived

RELEASE_S = 20.0
"""A lost shard may finish what it has this long; far below the group's rebalance timeout of 60 s."""

REFUSED_RETRY_S = 60.0
"""Between two looks at a state that contradicts the log; only a person can mend it."""

SILENCE_S_MAX = 10.0
"""Without a confirmed heartbeat for so long, Kafka counts as away: as long as the default session."""

POLL_S = 0.5
"""Longest wait of one inbox poll; the client must be polled well within its maximum interval."""

log = get_logger(__name__)


@dataclass(slots=True)
class Owner:
    """The owner task of one partition and what it is busy with."""

    partition: int
    shard: Shard | None = None
    task: asyncio.Task[None] | None = None
    releasing: bool = False
    last_error: str | None = None
    backoff: Backoff = field(default_factory=Backoff)


class Assignment:
    """See the module. Used once."""

    def __init__(
        self,
        inbox: Member,
        build_shard: Callable[[int], Shard],
        discard_cache: Callable[[int], None],
        clock: Clock,
        metrics: Metrics,
        spread: Callable[[], float] = random.random,
    ) -> None:
        """`spread`: a number in [0, 1) that keeps shards from coming back in step."""
        self._inbox = inbox
        self._build_shard = build_shard
        self._discard_cache = discard_cache
        self._clock = clock
        self._metrics = metrics
        self._spread = spread
        self._began = clock.monotonic()
        self._throttle = Throttle(SILENCE_S_MAX, clock)
        self._draining = asyncio.Event()
        self._wanted: frozenset[int] = frozenset()
        self.owners: dict[int, Owner] = {}
        self.turned_at = self._began
        """When the poller last came round (`Clock.monotonic`)."""

    @property
    def joined(self) -> bool:
        """True once the group has said which shards are ours, be it none."""
        return self._inbox.generation > 0

    @property
    def silent_s(self) -> float:
        """Seconds since the group last confirmed our membership; Kafka is away when it is more than a few."""
        return self._clock.monotonic() - max(self._inbox.confirmed_at, self._began)

    def drain(self) -> None:
        """Soft stop: release every shard, then `run` returns. Idempotent."""
        self._draining.set()

    async def run(self) -> None:
        """Own what the group gives us until drained. Raises `EnvironmentUnavailable` when the group is lost."""
        try:
            async with asyncio.TaskGroup() as group:
                poller = group.create_task(self._poll_for_ever(), name="inbox poller")
                reconciler = group.create_task(self._reconcile_for_ever(group), name="assignment")
                told = group.create_task(self._told_to_drain(), name="assignment drain")
                await outlived(told, poller, reconciler)
                reconciler.cancel()
                for owner in list(self.owners.values()):
                    self._release(group, owner)
                tasks = [owner.task for owner in self.owners.values() if owner.task is not None]
                if tasks:
                    await asyncio.wait(tasks)
                poller.cancel()
        except BaseExceptionGroup as error:
            raise first_leaf(error) from None

    async def _told_to_drain(self) -> None:
        await self._draining.wait()

    async def _poll_for_ever(self) -> None:
        while True:
            self.turned_at = self._clock.monotonic()
            self._watch_owners()
            by_partition: dict[int, list[InboxRecord]] = {}
            for record in await self._inbox.poll(POLL_S):
                by_partition.setdefault(record.partition, []).append(record)
            for partition, records in by_partition.items():
                owner = self.owners.get(partition)
                if owner is not None and owner.shard is not None:
                    owner.shard.deliver(records)
            self._watch_silence()

    def _watch_owners(self) -> None:
        """An owner ends when it is released and never before; whoever reads its shard would wait for ever."""
        for owner in self.owners.values():
            if owner.task is not None and owner.task.done() and not owner.releasing:
                raise TaskDied(f"the task '{owner.task.get_name()}' has ended")

    def _watch_silence(self) -> None:
        """The library repairs its connections without a word to us; the lack of heartbeats is what shows."""
        if self.silent_s > SILENCE_S_MAX:
            if self._throttle.admit("silence") is not None:
                log.warning("Kafka does not answer", silent_s=round(self.silent_s, 1))
        elif self._throttle.over("silence"):
            log.info("Kafka answers again")

    async def _reconcile_for_ever(self, group: asyncio.TaskGroup) -> None:
        while True:
            self._reconcile(group, self._inbox.assignment())
            await self._inbox.wait_changed()

    def _reconcile(self, group: asyncio.TaskGroup, wanted: frozenset[int]) -> None:
        for partition, owner in list(self.owners.items()):
            if partition not in wanted:
                self._release(group, owner)
        for partition in sorted(wanted):
            previous = self.owners.get(partition)
            if previous is None or previous.releasing:
                owner = Owner(partition)
                before = previous.task if previous is not None else None
                owner.task = group.create_task(self._own(owner, before), name=f"owner of shard {partition}")
                self.owners[partition] = owner
            elif previous.shard is not None and not self._inbox.rebalancing:
                previous.shard.reseek()
        if wanted != self._wanted:
            self._wanted = wanted
            log.info("shards assigned", shards=sorted(wanted))
        self._count()

    def _release(self, group: asyncio.TaskGroup, owner: Owner) -> None:
        if not owner.releasing and owner.task is not None:
            owner.releasing = True
            group.create_task(self._released(owner, owner.task), name=f"release of shard {owner.partition}")

    async def _released(self, owner: Owner, task: asyncio.Task[None]) -> None:
        """Drain, then cancel: a shard that is not running has nothing to finish."""
        if owner.shard is not None and owner.shard.state is ShardState.RUNNING:
            owner.shard.drain()
            await asyncio.wait([task], timeout=RELEASE_S)
        task.cancel()
        await asyncio.wait([task])
        if self.owners.get(owner.partition) is owner:
            del self.owners[owner.partition]
        self._count()

    async def _own(self, owner: Owner, previous: asyncio.Task[None] | None) -> None:
        if previous is not None:
            await asyncio.wait([previous])
        while not owner.releasing:
            owner.shard = self._build_shard(owner.partition)
            began = self._clock.monotonic()
            try:
                await owner.shard.serve()
                return
            except Exception as error:  # whatever breaks one shard, the others of the process go on
                failed_at = self._clock.monotonic()
                delay = self._broken(owner, error, lived_s=failed_at - began)
            if owner.releasing:
                return  # also when a cancellation met the error: the task group of the shard let the error win
            self._count()
            while not await self._inbox.wait_membership_confirmed(owner.partition, failed_at):
                failed_at = self._clock.monotonic()  # not ours now; it may come back before we are released
            await self._clock.sleep(delay)

    def _broken(self, owner: Owner, error: Exception, *, lived_s: float) -> float:
        """Note why a life ended; seconds until the next may begin."""
        expected = isinstance(error, FORESEEN)
        owner.last_error = str(error) if expected else f"unforeseen {type(error).__name__}"
        # A life that worked for a while was not one of a row of failures.
        owner.backoff = (Backoff() if lived_s > REFUSED_RETRY_S else owner.backoff).failed()
        if isinstance(error, sqlite3.Error | OSError):
            with suppress(OSError):  # a disk that cannot even forget fails again when the cache is opened
                self._discard_cache(owner.partition)
        refused = isinstance(error, StateLost)
        delay = REFUSED_RETRY_S if refused else owner.backoff.delay_s(self._spread())
        log.log(
            40 if refused or not expected else 30,
            "the shard refuses to run" if refused else "the shard is opened again",
            shard=owner.partition,
            cause=type(error).__name__,
            detail=owner.last_error,
            next_try_s=round(delay, 1),
            exc_info=None if expected else error,
        )
        return delay

    def _count(self) -> None:
        self._metrics.shards_owned(len(self.owners))


@dataclass(frozen=True, slots=True)
class OwnPartition:
    """One partition of the inbox, as its shard sees it. Implements `shard.InboxPartition`."""

    inbox: Member
    number: int

    async def committed(self) -> int | None:
        """See `InboxPartition`."""
        return await self.inbox.committed(self.number)

    async def beginning(self) -> int:
        """See `InboxPartition`."""
        return await self.inbox.begin_offset(self.number)

    def seek(self, offset: int) -> None:
        """See `InboxPartition`."""
        self.inbox.seek(self.number, offset)

    def pause(self) -> None:
        """See `InboxPartition`."""
        self.inbox.pause(self.number)

    def resume(self) -> None:
        """See `InboxPartition`."""
        self.inbox.resume(self.number)

    def confirmed_at(self) -> float:
        """See `InboxPartition`."""
        ours = not self.inbox.rebalancing and self.number in self.inbox.assignment()
        return self.inbox.confirmed_at if ours else float("-inf")
