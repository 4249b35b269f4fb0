"""The limit of the simulated Dintero API: so many requests a minute, told in the headers that providers use, or not.

The minutes are those of the wall clock. What is beyond the limit is answered 429 before anything else is looked at.
"""

from __future__ import annotations

from bridge.sandbox.answer import Answer
from bridge.sandbox.dintero.answer import refused
from bridge.sandbox.faults import retry_after
from bridge.sandbox.switches import Switches

WINDOW_S = 60


class Window:
    """Counts within windows of the wall clock, one after the other."""

    def __init__(self) -> None:
        self._window = (0, 0)
        self.used = 0
        """In the window of the latest `count`."""

    def count(self, now: float, window_s: int) -> int:
        """One more; how many there were in this window, this one included."""
        window = (int(now) // window_s, window_s)
        if window != self._window:
            self._window, self.used = window, 0
        self.used += 1
        return self.used


def left_s(now: float, window_s: int) -> int:
    """Whole seconds until the next window, at least 1."""
    return window_s - int(now) % window_s


class RequestLimit:
    """Counts the requests of the current minute."""

    def __init__(self) -> None:
        self._window = Window()

    def before(self, switches: Switches, now: float) -> Answer | None:
        """Count a request; the answer when there are too many."""
        used = self._window.count(now, WINDOW_S)
        if not switches.limit_per_minute or used <= switches.limit_per_minute:
            return None
        answer = refused(429, "too many requests")
        retry_after(switches, now, answer, left_s(now, WINDOW_S))
        return answer

    def tell(self, switches: Switches, now: float, answer: Answer) -> None:
        """What is left, in the answer's headers."""
        if switches.limit_headers == "none" or not switches.limit_per_minute:
            return
        limit, reset_s = switches.limit_per_minute, left_s(now, WINDOW_S)
        left = max(0, limit - self._window.used)
        if switches.limit_headers == "draft":
            answer.headers["ratelimit"] = f"limit={limit}, remaining={left}, reset={reset_s}"
            answer.headers["ratelimit-policy"] = f"{limit};w={WINDOW_S}"
            return
        prefix = "x-ratelimit" if switches.limit_headers == "x" else "ratelimit"
        answer.headers[f"{prefix}-limit"] = str(limit)
        answer.headers[f"{prefix}-remaining"] = str(left)
        answer.headers[f"{prefix}-reset"] = str(int(now) + reset_s if prefix == "x-ratelimit" else reset_s)
