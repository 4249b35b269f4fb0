"""Supervisor: the task tree of one process, from start to stop.

    run ── probes (HTTP)
        └─ serve ── life: topics → inbox ── assignment ── owners ── shards ── readings, committer, inbox, tick
                                        └── watch (topics)

A *life* ends when Kafka is out of reach or something unforeseen happens; after a back-off the next one begins, so a
process never dies of an outage and `/ready` says what it waits for. Only a wrong configuration ends the process.
Soft stop (`stop`) drains the shards within the grace and returns; a hard stop is cancellation: the log decides about
what was in flight.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from bridge.clock import Clock
from bridge.errors import BridgeError, ConfigurationError, EnvironmentUnavailable
from bridge.observability.logs import get_logger
from bridge.publish.topics import Cluster
from bridge.runtime.assignment import Assignment
from bridge.runtime.group import Member
from bridge.runtime.schedule import Backoff
from bridge.runtime.tasks import first_leaf, outlived

HARD_STOP_S = 8.0
"""Part of the grace: what a dirty close of the shards, the group and the endpoints takes while Kafka is away."""

TOPICS_WATCH_S = 15.0
"""Between two looks at the topics: the client says nothing when one is deleted, it only finds nothing more."""

STALLED_S = 180.0
"""Without a turn of the loops for so long something is stuck: all they wait for has deadlines that add up to less."""

log = get_logger(__name__)


class Endpoint(Protocol):
    """Something that listens while the process lives."""

    async def start(self) -> None:
        """Raises `EnvironmentUnavailable` when the address cannot be had."""
        ...

    async def stop(self) -> None:
        """Bounded and idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class LifePorts:
    """What a life is made of.

    prepare: topics exist and fit, else `EnvironmentUnavailable` (tried again) or `ConfigurationError` (fatal).
    inspect: the same topics now, without changing any; a life whose topics changed under it ends.
    inbox, assignment: built anew for each life. spread: a number in [0, 1) that keeps processes from asking in step.
    """

    prepare: Callable[[], Awaitable[Cluster]]
    inspect: Callable[[], Awaitable[Cluster]]
    inbox: Callable[[], Member]
    assignment: Callable[[Member, Cluster], Assignment]
    spread: Callable[[], float] = random.random


class Supervisor:
    """One process. Used once."""

    def __init__(self, ports: LifePorts, endpoints: list[Endpoint], clock: Clock, *, grace_s: float) -> None:
        self._ports = ports
        self._endpoints = endpoints
        self._clock = clock
        self._grace_s = grace_s
        self._stop = asyncio.Event()
        self._turned_at = clock.monotonic()
        self.assignment: Assignment | None = None
        self.trouble: str | None = "starting"

    def stop(self) -> None:
        """Soft stop; `run` returns within the grace. Idempotent."""
        self._stop.set()

    async def run(self) -> None:
        """Serve until stopped. Raises `ConfigurationError`, or `EnvironmentUnavailable` for an address in use."""
        for endpoint in self._endpoints:
            await endpoint.start()
        try:
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(self._serve_for_ever(), name="serve")
                stopping = group.create_task(self._told_to_stop(), name="stop")
                await outlived(stopping, serving)
                log.info("stopping", grace_s=self._grace_s)
                if self.assignment is not None:
                    self.assignment.drain()
                    soft_s = max(self._grace_s - HARD_STOP_S, self._grace_s / 4)
                    await asyncio.wait([serving], timeout=soft_s)
                serving.cancel()
        except BaseExceptionGroup as error:
            raise first_leaf(error) from None
        finally:
            for endpoint in self._endpoints:
                await endpoint.stop()
        log.info("stopped")

    @property
    def live(self) -> bool:
        """False when the loops make no progress, so that only a restart helps.

        Outages do not count, however long: then the loops try again and again. An event loop that stands still
        answers no probe at all.
        """
        turned_at = self._turned_at
        if self.assignment is not None:
            turned_at = max(turned_at, self.assignment.turned_at)
        return self._clock.monotonic() - turned_at <= STALLED_S

    async def _told_to_stop(self) -> None:
        await self._stop.wait()

    async def _serve_for_ever(self) -> None:
        backoff = Backoff()
        while not self._stop.is_set():
            began = self._turned_at = self._clock.monotonic()
            try:
                await self._life()
                return
            except ConfigurationError:
                raise
            except Exception as error:  # the one place where the unforeseen is survived: it is told, and tried again
                if self._clock.monotonic() - began > backoff.delay_s(0.0) * 2:
                    backoff = Backoff()
                backoff = backoff.failed()
                delay = backoff.delay_s(self._ports.spread())
                expected = isinstance(error, BridgeError)
                self.trouble = str(error) if expected else f"unforeseen {type(error).__name__}"
                log.log(
                    30 if expected else 40,
                    "the bridge cannot run; trying again",
                    cause=type(error).__name__,
                    detail=str(error),
                    next_try_s=round(delay, 1),
                    exc_info=None if expected else error,
                )
            self._turned_at = self._clock.monotonic()
            if not self._stop.is_set():
                await self._clock.sleep(delay)

    async def _life(self) -> None:
        cluster = await self._ports.prepare()
        inbox = self._ports.inbox()
        try:
            await inbox.start()
            self.assignment = self._ports.assignment(inbox, cluster)
            self.trouble = None
            log.info("joined the group")
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._watch_topics(cluster), name="watch topics")
                working = group.create_task(self.assignment.run(), name="life")
                await outlived(working, watching)
                watching.cancel()
        except BaseExceptionGroup as error:
            raise first_leaf(error) from None
        finally:
            self._turned_at = self._clock.monotonic()
            self.assignment = None
            await inbox.stop()

    async def _watch_topics(self, before: Cluster) -> None:
        """End the life when a topic is gone, was cut anew, or takes smaller records than those that are built."""
        while True:
            await self._clock.sleep(TOPICS_WATCH_S)
            try:
                now = await self._ports.inspect()
            except EnvironmentUnavailable:
                continue  # Kafka is away: everybody notices, and nothing can be said about topics
            changed = sorted(name for name in before.partitions if now.partitions.get(name) != before.partitions[name])
            if now.id != before.id:
                changed.append(f"cluster {before.id}, now {now.id}")
            if now.record_bytes_max < before.record_bytes_max:
                changed.append(f"max.message.bytes, now {now.record_bytes_max}")
            if changed:
                raise EnvironmentUnavailable(
                    f"changed in Kafka while running: {', '.join(changed)}; `bridge topics` compares them all"
                )
