"""Time as a port: every module that needs the time or waits for it gets a `Clock`.

Intervals use the monotonic clock (a stepped wall clock must not cause a burst or a stall), events use the wall clock.
The simulator and the tests pass a clock of their own; nothing in the bridge calls `time` directly.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol

WAIT_S_MIN: Final = 0.001
"""Of a wait for a moment that is computed: rounding of clocks must not turn its last bit into a busy loop."""


class Clock(Protocol):
    """What the bridge may know of time."""

    def wall(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never steps back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait; cancellation leaves nothing behind. Zero or less still yields once."""
        ...


class SystemClock:
    """The machine's clocks."""

    def wall(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))
