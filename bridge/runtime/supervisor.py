"""Supervisor: the task tree of one process, from start to stop.

    run ── probes (HTTP)
        └─ serve ── life: topics → inbox → assignment ── owners ── shards ── readings, committer, inbox, tick

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
from bridge.errors import BridgeError, ConfigurationError
from bridge.observability.logs import get_logger
from bridge.publish.inbox import Inbox
from bridge.publish.topics import Cluster
from bridge.runtime.assignment import Assignment
from bridge.runtime.schedule import Backoff
from bridge.runtime.tasks import first_leaf

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
    inbox, assignment: built anew for each life.
    """

    prepare: Callable[[], Awaitable[Cluster]]
    inbox: Callable[[], Inbox]
    assignment: Callable[[Inbox, Cluster], Assignment]


class Supervisor:
    """One process. Used once."""

    def __init__(self, ports: LifePorts, endpoints: list[Endpoint], clock: Clock, *, grace_s: float) -> None:
        self._ports = ports
        self._endpoints = endpoints
        self._clock = clock
        self._grace_s = grace_s
        self._stop = asyncio.Event()
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
                await self._stop.wait()
                log.info("stopping", grace_s=self._grace_s)
                if self.assignment is not None:
                    self.assignment.drain()
                    await asyncio.wait([serving], timeout=self._grace_s)
                serving.cancel()
        except BaseExceptionGroup as error:
            raise first_leaf(error) from None
        finally:
            for endpoint in self._endpoints:
                await endpoint.stop()
        log.info("stopped")

    async def _serve_for_ever(self) -> None:
        backoff = Backoff()
        while not self._stop.is_set():
            began = self._clock.monotonic()
            try:
                await self._life()
                return
            except ConfigurationError:
                raise
            except Exception as error:  # the one place where the unforeseen is survived: it is told, and tried again
                if self._clock.monotonic() - began > backoff.delay_s(0.0) * 2:
                    backoff = Backoff()
                backoff = backoff.failed()
                delay = backoff.delay_s(random.random())
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
            await self._clock.sleep(delay)

    async def _life(self) -> None:
        cluster = await self._ports.prepare()
        inbox = self._ports.inbox()
        try:
            await inbox.start()
            self.assignment = self._ports.assignment(inbox, cluster)
            self.trouble = None
            log.info("joined the group")
            await self.assignment.run()
        finally:
            self.assignment = None
            await inbox.stop()
