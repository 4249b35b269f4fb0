"""Allowance: what a provider says is left of its limit, read from an answer's headers. Pure.

`Exchange` looks at every answer and tells the budget, so that a source slows down before it is refused. Three forms are
usual, and each of them is met with small differences:

- `X-RateLimit-Remaining` and `X-RateLimit-Reset`, the latter in seconds or as Unix time
- `RateLimit-Remaining` and `RateLimit-Reset`, the same without the prefix, in seconds
- one `RateLimit` header, `limit=100, remaining=50, reset=30`, or in its later form one item per limit,
  `"minute";r=50;t=30, "day";r=4000;t=7200`; with `RateLimit-Policy` (`100;w=60`) beside it

Whatever is not a plain number within its bounds is as good as absent: a wrong header must not stop a source.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

REMAINING_MAX = 10**9
"""Requests; more than that is no limit."""

RESET_S_MAX = 86_400.0
"""No usual limit counts for longer than a day; a larger number is Unix time or nonsense."""

UNIX_S_MIN = 10**9
"""From here on a number is a moment and no length of time; 2001."""

UNIX_MS_MIN = 10**12
"""From here on that moment is in milliseconds."""

HEADER_CHARS_MAX = 512
"""An honest header is a tenth of this."""

_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?", re.ASCII)
_FIELD = re.compile(r"\s*([a-z]{1,16})\s*=\s*\"?([0-9.]{1,24})\"?\s*", re.ASCII | re.IGNORECASE)
_PREFIXES = ("ratelimit", "x-ratelimit", "x-rate-limit")

TELLING = frozenset({"ratelimit", *(f"{prefix}-remaining" for prefix in _PREFIXES)})
"""Without any of these an answer says nothing of a limit."""


class Allowance(NamedTuple):
    """So many requests until so many seconds from now. `reset_s` is above 0 and bounded."""

    remaining: int
    reset_s: float


def allowance(headers: Mapping[str, str], now: float) -> Allowance | None:
    """The tightest limit that the headers tell; None when they tell none.

    headers: names in lower case. now: wall-clock seconds, of the server where it says.
    """
    if TELLING.isdisjoint(headers):
        return None
    window = _window(_text(headers, "ratelimit-policy"))
    told = [*_combined(_text(headers, "ratelimit"), window, now)]
    for prefix in _PREFIXES:
        remaining = _text(headers, f"{prefix}-remaining")
        told += _pair(remaining, _text(headers, f"{prefix}-reset"), window, now)
    return min(told, key=lambda each: each.remaining / each.reset_s, default=None)


def _combined(text: str, window: str, now: float) -> Iterator[Allowance]:
    """One header for everything: either its fields, or items with parameters."""
    if ";" not in text:
        fields = _fields(text.split(","))
        yield from _pair(fields.get("remaining", ""), fields.get("reset", ""), window, now)
        return
    for item in text.split(","):
        fields = _fields(item.split(";"))
        yield from _pair(fields.get("r", ""), fields.get("t", ""), window, now)


def _fields(parts: list[str]) -> dict[str, str]:
    matches = [_FIELD.fullmatch(part) for part in parts]
    return {match[1].lower(): match[2] for match in matches if match is not None}


def _window(policy: str) -> str:
    """Seconds of the only policy, for who names no reset; with several nobody knows which is meant."""
    return "" if "," in policy else _fields(policy.split(";")).get("w", "")


def _pair(remaining: str, reset: str, window: str, now: float) -> Iterator[Allowance]:
    left, until = _number(remaining), _number(reset or window)
    if left is None or until is None or left > REMAINING_MAX:
        return
    if until >= UNIX_MS_MIN:
        until /= 1000
    if until >= UNIX_S_MIN:
        until -= now
    if 0 < until <= RESET_S_MAX:
        yield Allowance(int(left), until)


def _number(text: str) -> float | None:
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def _text(headers: Mapping[str, str], name: str) -> str:
    text = headers.get(name, "")
    return text if len(text) <= HEADER_CHARS_MAX else ""
