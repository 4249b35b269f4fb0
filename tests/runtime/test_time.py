"""Clocks that jump, drift and stand still (P11): intervals are those of the monotonic clock, nothing is made up for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest

from bridge.model import Collection
from bridge.source.transport import Request, Response
from tests.runtime.processes import Process
from tests.support.clock import VirtualClock, run_virtual

POLL_S = 5.0
HOUR_S = 3600.0


class Asked:
    """When the provider was asked for what, by the loop's clock."""

    def __init__(self, process: Process) -> None:
        self._clock = process.house.clock
        self._send = process.house.api.send
        self.moments: list[tuple[float, str]] = []
        process.house.api.send = self._noted  # type: ignore[method-assign]

    async def _noted(self, request: Request) -> Response:
        self.moments.append((self._clock.monotonic(), request.path))
        return await self._send(request)

    def within(self, begin: float, end: float, path: str = "customers") -> int:
        """How often in that time."""
        return sum(begin <= moment < end and path in asked for moment, asked in self.moments)


async def lived(clock: VirtualClock, body: Callable[[Process, Asked], Awaitable[None]]) -> None:
    process = Process(clock)
    asked = Asked(process)
    running = asyncio.get_running_loop().create_task(process.supervisor.run())
    await asyncio.sleep(31)
    await body(process, asked)
    process.supervisor.stop()
    await running
    assert len(process.lives) == 1
    assert process.house.kafka.calls.count("open") == 1


def changed_at(process: Process, topic: str) -> list[str]:
    return [orjson.loads(record.value or b"")["changed_at"] for record in process.house.kafka.events(topic)]


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S, 10 * 365 * 86_400.0])
def test_a_wall_clock_that_jumps_neither_bursts_nor_stalls_the_polls(jump_s: float) -> None:
    async def body(process: Process, asked: Asked) -> None:
        clock, house = process.house.clock, process.house
        before = asked.within(clock.monotonic() - 30, clock.monotonic())
        clock.step(jump_s)
        jumped_at = clock.monotonic()
        await asyncio.sleep(60)
        assert before >= 5
        assert before / 2 <= asked.within(jumped_at, jumped_at + 30) <= before * 2  # 720 polls would be an hour's
        assert asked.within(jumped_at, jumped_at + POLL_S) <= before
        house.world.create_tag("new")
        await asyncio.sleep(2 * POLL_S)
        assert house.types("tags") == ["tag.snapshot.v1"] * 8 + ["tag.created.v1"]
        assert house.types("customers") == ["customer.snapshot.v1"] * 50
        staleness = house.metrics.staleness("acme", Collection.CUSTOMERS)
        assert staleness is not None
        assert staleness <= 2 * POLL_S

    run_virtual(lambda clock: lived(clock, body))


def test_a_machine_that_slept_for_eight_hours_asks_once_and_not_six_thousand_times() -> None:
    async def body(process: Process, asked: Asked) -> None:
        clock = process.house.clock
        loop: Any = asyncio.get_running_loop()
        loop._jumping.now += 8 * HOUR_S
        woke_at = clock.monotonic()
        process.house.world.create_tag("meanwhile")
        await asyncio.sleep(4 * POLL_S)
        before = asked.within(woke_at - 8 * HOUR_S - 4 * POLL_S, woke_at - 8 * HOUR_S)
        assert asked.within(woke_at, woke_at + 1.0) <= before
        assert asked.within(woke_at, woke_at + 4 * POLL_S) <= 2 * before
        assert process.house.types("tags")[-1] == "tag.created.v1"
        assert process.supervisor.trouble is None
        assert process.supervisor.live

    run_virtual(lambda clock: lived(clock, body))


class Drifting(VirtualClock):
    """Its wall clock gains (or loses) a tenth."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    def wall(self) -> float:
        return super().wall() + self._share * self.monotonic()


@pytest.mark.parametrize("share", [0.1, -0.1])
def test_a_wall_clock_that_drifts_changes_no_interval_and_no_event(share: float) -> None:
    async def body(process: Process, asked: Asked) -> None:
        clock, house = process.house.clock, process.house
        began = clock.monotonic()
        usual = asked.within(began - 30, began) * 20
        before = changed_at(process, "customers")
        await asyncio.sleep(600)
        assert 0.9 * usual <= asked.within(began, began + 600) <= 1.1 * usual
        assert changed_at(process, "customers") == before
        assert house.types("customers") == ["customer.snapshot.v1"] * 50

    run_virtual(lambda _: lived(Drifting(share), body))
