"""Time that jumps: a program that waits for nothing, or goes round in circles, is told so instead of hanging."""

from __future__ import annotations

import asyncio

import pytest

from bridge.sandbox import virtual
from bridge.sandbox.virtual import VirtualClock, run_virtual


def test_hours_pass_in_no_time() -> None:
    async def main(clock: VirtualClock) -> float:
        await asyncio.gather(*(clock.sleep(hours * 3600.0) for hours in range(5)))
        return clock.monotonic()

    assert run_virtual(main) == 4 * 3600.0


def test_who_waits_for_what_never_happens_is_told() -> None:
    async def main(clock: VirtualClock) -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="never happens"):
        run_virtual(main)


@pytest.mark.parametrize("seconds", [0.0, 1e-12])
def test_time_that_stands_still_is_told(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(virtual, "ROUNDS_MAX", 10_000)

    async def main(clock: VirtualClock) -> None:
        await clock.sleep(100.0)
        while True:
            await clock.sleep(seconds)

    with pytest.raises(RuntimeError, match="stands still"):
        run_virtual(main)
