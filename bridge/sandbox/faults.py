"""Faults of a simulated API: what may go wrong with one request, drawn from the world's seed.

`before` decides instead of the endpoint (nothing was done then), `after` spoils what the endpoint answered. Which
requests are hit depends on the seed and on the order in which requests arrive, on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from random import Random
from typing import NamedTuple

import orjson

from bridge.sandbox.answer import HTML, Answer
from bridge.sandbox.switches import FaultSwitches

RETRY_AFTER_DATE_S = 2.0
"""How far ahead of now the HTTP date of a 429 is."""
DUPLICATES_MAX = 3
"""Rows that come twice in a page with duplicates."""

LOGIN_PAGE = b"<!doctype html><html><head><title>Sign in</title></head><body><form></form></body></html>"
GATEWAY_PAGE = b"<html><head><title>502 Bad Gateway</title></head><body><center>nginx</center></body></html>"

BAD_SHAPES = (b"null", b'{"data":[]}', b'"ok"', b"{}", b"[null]", b'[{"id":')
"""Bodies that no list endpoint declares; the last is not even JSON."""


class Voice(NamedTuple):
    """How a provider speaks of what is wrong.

    refused: an error of this status that says so. bad_rows: ways in which one of its documents can break its schema;
    the page stays JSON.
    """

    refused: Callable[[int, str], Answer]
    bad_rows: tuple[Callable[[bytes], bytes], ...]


class Faults:
    """Draws the faults of each request."""

    def __init__(self, rng: Random, voice: Voice) -> None:
        self._rng = rng
        self._voice = voice

    def before(self, switches: FaultSwitches, endpoint: str, now: float) -> Answer | None:
        """The answer that takes the place of the real one, or None."""
        if not self._hits(switches, endpoint):
            return None
        if self._draw(switches.fault_429):
            answer = self._voice.refused(429, "too many requests")
            retry_after(switches, now, answer, RETRY_AFTER_DATE_S)
            return answer
        if self._draw(switches.fault_500):
            return self._voice.refused(500, "internal error")
        if self._draw(switches.fault_502_html):
            return Answer(502, GATEWAY_PAGE, headers={"content-type": HTML})
        if self._draw(switches.fault_200_html):
            return Answer(200, LOGIN_PAGE, headers={"content-type": HTML})
        return None

    def lost(self, switches: FaultSwitches, endpoint: str) -> bool:
        """Whether the connection breaks before a write is done; `after` may break it when it is."""
        return self._hits(switches, endpoint) and self._draw(switches.fault_cut / 2)

    def after(self, switches: FaultSwitches, endpoint: str, answer: Answer) -> None:
        """Spoil a good answer."""
        if not self._hits(switches, endpoint):
            return
        if answer.rows is not None and answer.status == 200:
            self._spoil_list(switches, answer, answer.rows)
        if self._draw(switches.fault_slow):
            answer.slow_s = switches.fault_slow_s
        if self._draw(switches.fault_cut):
            answer.cut = True

    def _spoil_list(self, switches: FaultSwitches, answer: Answer, rows: list[bytes]) -> None:
        if rows and self._draw(switches.duplicate_rows):
            for row in self._rng.choices(rows, k=self._rng.randint(1, DUPLICATES_MAX)):
                rows.insert(self._rng.randint(0, len(rows)), row)
        if rows and self._draw(switches.bad_row):
            at = self._rng.randrange(len(rows))
            rows[at] = self._rng.choice(self._voice.bad_rows)(rows[at])
        if self._draw(switches.empty_page):
            rows.clear()
        if self._draw(switches.bad_shape):
            answer.rows = None
            answer.body = self._rng.choice(BAD_SHAPES)

    def _hits(self, switches: FaultSwitches, endpoint: str) -> bool:
        return switches.fault_on in {"any", endpoint}

    def _draw(self, rate: float) -> bool:
        # No number is drawn for a fault that is off, so switching one on does not move the others.
        return rate > 0 and self._rng.random() < rate


def retry_after(switches: FaultSwitches, now: float, answer: Answer, ahead_s: float) -> None:
    """Add the hint of a 429, if any."""
    hint = switches.fault_429_retry_after
    if hint != "none":
        date = formatdate(now + ahead_s, usegmt=True)
        answer.headers["retry-after"] = date if hint == "date" else hint


def with_field(name: str, value: object) -> Callable[[bytes], bytes]:
    """A bad row: one with this value in a field."""
    return lambda row: orjson.dumps(orjson.loads(row) | {name: value})


def without_id(row: bytes) -> bytes:
    """A bad row: nobody's."""
    return orjson.dumps({name: value for name, value in orjson.loads(row).items() if name != "id"})
