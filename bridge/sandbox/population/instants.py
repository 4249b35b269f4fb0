"""Server-side time stamps: microseconds since 1970, cut to the precision of the provider, never running backwards.

A real provider writes all its `updated_at` in one form; which one is a switch of the sandbox. Stamps are monotone
even when the clock behind them steps back, because the order of changes is what incremental readers rely on.
"""

from __future__ import annotations

from datetime import date
from functools import lru_cache
from typing import Literal

Precision = Literal["seconds", "milliseconds", "microseconds"]

STEP_US: dict[Precision, int] = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}
"""Microseconds between two neighbouring stamps."""

DAYS_CACHED = 4096
"""Rendered dates kept at hand, about eleven years: rendering is on the path of building a million customers."""

_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


def render(micros: int, precision: Precision) -> str:
    """ISO 8601 in UTC with `Z`, always with the fraction digits of the precision."""
    seconds, fraction = divmod(micros, 1_000_000)
    day, second = divmod(seconds, 86_400)
    text = f"{_day(day)}T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
    if precision == "seconds":
        return f"{text}Z"
    if precision == "milliseconds":
        return f"{text}.{fraction // 1000:03d}Z"
    return f"{text}.{fraction:06d}Z"


class Stamper:
    """Turns wall-clock seconds into stamps that never decrease."""

    def __init__(self, last: int = 0) -> None:
        """`last`: no stamp will be before this one."""
        self.last = last

    def stamp(self, wall_s: float, precision: Precision) -> int:
        """The instant of a change at `wall_s`, cut to the precision, or the latest stamp given when that is later."""
        step = STEP_US[precision]
        micros = int(wall_s * 1_000_000) // step * step
        if micros < self.last:
            # Rounded up: after a change to a coarser precision the latest stamp may lie between two steps.
            micros = -(-self.last // step) * step
        self.last = micros
        return micros


@lru_cache(maxsize=DAYS_CACHED)
def _day(day: int) -> str:
    return date.fromordinal(_EPOCH_ORDINAL + day).isoformat()
