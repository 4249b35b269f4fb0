"""RequestBudget: how fast one source may be asked, shared by everything that asks it.

A token bucket with a bounded burst. Who has to wait is served by `Priority`, first come first served within one. The
lowest is not starved for ever: a class only has a head start of `HEAD_START_S` over the class below it, so a request
that waits long enough goes before newer ones of every class. `pause_until` holds all requests (a provider said 429).
Being throttled also lowers the rate, which recovers over `RECOVERY_S`; a provider that tells what is left of its limit
(`told`) is asked so that this lasts until the limit begins anew.

There is no task behind it. Of the requests that wait, one (the driver) sleeps until the next token is there and hands
tokens out; when it is served or cancelled the next one drives. Cancelling a waiter gives back what it was granted and
leaves nothing behind. This is the one place below `runtime` that sleeps, through the clock.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import heapify, heappop, heappush

from bridge.clock import WAIT_S_MIN, Clock
from bridge.errors import RetryLater

HEAD_START_S = 30.0
"""Of a class over the next lower one; the lowest of six waits at most 150 s behind newer requests of the highest."""

BURST_S = 1.0
"""Tokens that an idle source saves up, in seconds of its rate; providers count per second at the finest."""

RECOVERY_S = 600.0
"""From nothing back to the full rate; slower than providers' usual windows of one minute."""

THROTTLE_FACTOR = 0.7
"""What a throttled source keeps of its rate, each time."""

RATE_SHARE_MIN = 0.05
"""Never slower than this share of the configured rate: it must still notice that the provider has recovered."""

PAUSE_S_MAX = 300.0
"""Of a provider that says nothing is left: who means an hour says so again, and a wrong one costs five minutes."""

WAITERS_MAX = 10_000
"""More callers than this is an error elsewhere; they are sent away instead of queued."""


class Priority(IntEnum):
    """Who goes first; a lower number is served earlier."""

    COMMAND = 0
    HINT = 1
    POLL = 2
    MEMBERSHIP = 3
    SWEEP = 4
    SNAPSHOT = 5


@dataclass(order=True, slots=True)
class _Waiter:
    """Ordered by the moment it would have arrived in the highest class, then by arrival."""

    due: float
    number: int
    wake: asyncio.Event = field(default_factory=asyncio.Event, compare=False)
    granted: bool = field(default=False, compare=False)


class RequestBudget:
    """Used by one source, on one loop."""

    def __init__(self, rate_per_s: float, clock: Clock) -> None:
        if not 0 < rate_per_s < float("inf"):
            raise ValueError("rate_per_s must be positive")
        self._rate_full = rate_per_s
        self._burst = max(1.0, rate_per_s * BURST_S)
        self._clock = clock
        now = clock.monotonic()
        self._tokens = self._burst
        self._filled_at = now
        self._paused_until = now
        self._share = 1.0
        self._share_at = now
        self._told_rate = rate_per_s
        self._told_until = now
        self._queue: list[_Waiter] = []
        self._arrivals = 0
        self._driver: _Waiter | None = None

    async def acquire(self, priority: Priority) -> None:
        """Wait for one request's turn. Cancellation leaves the budget as if nobody had asked."""
        now = self._clock.monotonic()
        if not self._queue and self._driver is None and self._take(now):
            return
        if len(self._queue) >= WAITERS_MAX:
            raise RetryLater("too many requests are waiting for the source's budget")
        self._arrivals += 1
        waiter = _Waiter(now + priority * HEAD_START_S, self._arrivals)
        heappush(self._queue, waiter)
        served = False
        try:
            while not waiter.granted:
                if self._driver is None:
                    await self._drive(waiter)
                else:
                    await waiter.wake.wait()
                    waiter.wake.clear()
            served = True
        finally:
            self._leave(waiter, served)

    def give_back(self, count: int) -> None:
        """So many turns were not needed."""
        self._fill(self._clock.monotonic())
        self._tokens = min(self._burst, self._tokens + count)
        if self._queue and self._driver is None:
            self._queue[0].wake.set()

    @property
    def paused(self) -> bool:
        """Whether the provider wants no request now."""
        return self._clock.monotonic() < self._paused_until

    def pause_until(self, monotonic: float) -> float:
        """No request before this moment; never shortens a pause. Seconds by which the pause grew."""
        begin = max(self._paused_until, self._clock.monotonic())
        self._paused_until = max(self._paused_until, monotonic)
        return max(0.0, self._paused_until - begin)

    def throttled(self) -> None:
        """The provider said that it was asked too fast: go on slower."""
        now = self._clock.monotonic()
        self._fill(now)
        self._tokens = min(self._tokens, 1.0)
        self._share = max(RATE_SHARE_MIN, self._share_now(now) * THROTTLE_FACTOR)
        self._share_at = now

    def told(self, remaining: int, reset_s: float) -> float:
        """The provider allows so many requests in the next `reset_s` seconds, which are more than 0.

        Spread over that time, yet never below the least share, nor above the configured rate; nothing left: a pause.
        What was told before is forgotten. Seconds by which the pause grew.
        """
        assert remaining >= 0, "fewer than none cannot be left"
        assert reset_s > 0, "a limit that has begun anew says nothing"
        now = self._clock.monotonic()
        self._fill(now)
        self._told_rate = max(self._rate_full * RATE_SHARE_MIN, remaining / reset_s)
        self._told_until = now + reset_s
        self._tokens = min(self._tokens, max(1.0, remaining))
        return self.pause_until(now + min(reset_s, PAUSE_S_MAX)) if remaining == 0 else 0.0

    def remaining(self) -> float:
        """Requests that could be sent now without waiting."""
        now = self._clock.monotonic()
        if now < self._paused_until:
            return 0.0
        self._fill(now)
        return self._tokens

    def rate(self) -> float:
        """Requests per second that are let through at present, pauses aside; never more than the configured rate."""
        return self._rate(self._clock.monotonic())

    async def _drive(self, waiter: _Waiter) -> None:
        """Hand out tokens until `waiter` has its own."""
        self._driver = waiter
        try:
            while True:
                now = self._clock.monotonic()
                while self._queue and self._take(now):
                    served = heappop(self._queue)
                    served.granted = True
                    served.wake.set()
                if waiter.granted:
                    return
                await self._clock.sleep(self._wait_s(now))
        finally:
            self._driver = None

    def _leave(self, waiter: _Waiter, served: bool) -> None:
        if not served:
            if waiter.granted:
                self._tokens = min(self._burst, self._tokens + 1.0)
            else:
                self._queue.remove(waiter)
                heapify(self._queue)
        if self._queue and self._driver is None:
            self._queue[0].wake.set()

    def _take(self, now: float) -> bool:
        if now < self._paused_until:
            return False
        self._fill(now)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def _fill(self, now: float) -> None:
        """Nothing is saved up during a pause: its end must not be a burst."""
        since = max(self._filled_at, min(self._paused_until, now))
        slow = max(0.0, min(self._told_until, now) - since)
        rate = self._rate_full * self._share_now(now)
        grown = slow * min(rate, self._told_rate) + (now - since - slow) * rate
        self._tokens = min(self._burst, self._tokens + grown)
        self._filled_at = now

    def _rate(self, now: float) -> float:
        rate = self._rate_full * self._share_now(now)
        return min(rate, self._told_rate) if now < self._told_until else rate

    def _share_now(self, now: float) -> float:
        return min(1.0, self._share + (now - self._share_at) / RECOVERY_S)

    def _wait_s(self, now: float) -> float:
        missing = max(0.0, 1.0 - self._tokens) / self._rate(now)
        if self._told_until > now:  # what was told may end before, and the wait with it
            missing = min(missing, max(WAIT_S_MIN, self._told_until - now))
        return max(WAIT_S_MIN, self._paused_until - now, missing)
