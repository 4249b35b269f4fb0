"""Schedule: when to ask again. Pure arithmetic on given times; one thin loop elsewhere sleeps."""

from __future__ import annotations

from typing import NamedTuple

RETRY_DELAY_S_FIRST = 0.5
"""After the first failure: most failures are one lost connection."""

RETRY_DELAY_S_MAX = 60.0
"""However long an outage lasts, recovery is seen within a minute."""

ACCESS_PROBE_S = 60.0
"""Between two attempts while a provider refuses the credentials: no hammering, yet nobody has to restart us."""


QUIET_FACTOR = 1.5
"""Of the time between two polls, after each that found nothing: from 1 s to 30 s in nine of them, 75 s in all."""


class Backoff(NamedTuple):
    """Exponential growth with a cap; a value, advanced by `failed`."""

    attempts: int = 0

    def failed(self) -> Backoff:
        """One more failure in a row."""
        return Backoff(self.attempts + 1)

    def delay_s(self, spread: float, hint_s: float | None = None) -> float:
        """Seconds to wait after the failures so far.

        spread: a number in [0, 1) that keeps many processes from asking in step; up to a quarter is added.
        hint_s: what the other side asked for; never less than that.
        """
        exponent = min(max(self.attempts - 1, 0), 32)
        delay = min(RETRY_DELAY_S_FIRST * 2.0**exponent, RETRY_DELAY_S_MAX)
        return max(delay, hint_s or 0.0) * (1.0 + 0.25 * spread)


class Pace(NamedTuple):
    """How often a feed is polled; a value, advanced after each poll by what that one found.

    Between `shortest_s` and `longest_s`; where they are equal nothing moves. Begins quick.
    """

    shortest_s: float
    longest_s: float
    interval_s: float

    @classmethod
    def between(cls, shortest_s: float, longest_s: float) -> Pace:
        """Before the first poll. A `longest_s` below the other is as good as none."""
        return cls(shortest_s, max(shortest_s, longest_s), shortest_s)

    def changed(self) -> Pace:
        """Something had changed: more may follow, so at once as often as allowed."""
        return self._replace(interval_s=self.shortest_s)

    def quiet(self) -> Pace:
        """Nothing had changed: step by step less often."""
        return self._replace(interval_s=min(self.interval_s * QUIET_FACTOR, self.longest_s))


def wait_s(started: float, interval_s: float, now: float) -> float:
    """Seconds until a reading that began at `started` is due again; 0 when it is late.

    A reading that took longer than its interval is followed by the next at once, never by a burst of missed ones.
    """
    return max(0.0, started + interval_s - now)
