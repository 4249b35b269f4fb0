"""The limit of the simulated API: so many requests a minute, told in the headers that providers use, or not at all.

The minutes are those of the wall clock. What is beyond the limit is answered 429 before anything else is looked at.
"""

from __future__ import annotations

from bridge.sandbox.dintero.answer import Answer, refused
from bridge.sandbox.faults import retry_after
from bridge.sandbox.switches import Switches

WINDOW_S = 60


class RequestLimit:
    """Counts the requests of the current minute."""

    def __init__(self) -> None:
        self._minute = 0
        self._used = 0

    def before(self, switches: Switches, now: float) -> Answer | None:
        """Count a request; the answer when there are too many."""
        minute = int(now) // WINDOW_S
        if minute != self._minute:
            self._minute, self._used = minute, 0
        self._used += 1
        if not switches.limit_per_minute or self._used <= switches.limit_per_minute:
            return None
        answer = refused(429, "too many requests")
        retry_after(switches, now, answer, self._left_s(now))
        return answer

    def tell(self, switches: Switches, now: float, answer: Answer) -> None:
        """What is left, in the answer's headers."""
        if switches.limit_headers == "none" or not switches.limit_per_minute:
            return
        limit, reset_s = switches.limit_per_minute, self._left_s(now)
        left = max(0, limit - self._used)
        if switches.limit_headers == "draft":
            answer.headers["ratelimit"] = f"limit={limit}, remaining={left}, reset={reset_s}"
            answer.headers["ratelimit-policy"] = f"{limit};w={WINDOW_S}"
            return
        prefix = "x-ratelimit" if switches.limit_headers == "x" else "ratelimit"
        answer.headers[f"{prefix}-limit"] = str(limit)
        answer.headers[f"{prefix}-remaining"] = str(left)
        answer.headers[f"{prefix}-reset"] = str(int(now) + reset_s if prefix == "x-ratelimit" else reset_s)

    def _left_s(self, now: float) -> int:
        """Whole seconds until the next minute, at least 1."""
        return WINDOW_S - int(now) % WINDOW_S
