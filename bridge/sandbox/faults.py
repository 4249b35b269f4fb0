"""Faults of the simulated API: what may go wrong with one request, drawn from the world's seed.

`before` decides instead of the endpoint (nothing was done then), `after` spoils what the endpoint answered. Which
requests are hit depends on the seed and on the order in which requests arrive, on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from random import Random

import orjson

from bridge.sandbox.dintero.answer import HTML, Answer, refused
from bridge.sandbox.switches import Switches

RETRY_AFTER_DATE_S = 2.0
"""How far ahead of now the HTTP date of a 429 is."""
DUPLICATES_MAX = 3
"""Rows that come twice in a page with duplicates."""

LOGIN_PAGE = b"<!doctype html><html><head><title>Sign in</title></head><body><form></form></body></html>"
GATEWAY_PAGE = b"<html><head><title>502 Bad Gateway</title></head><body><center>nginx</center></body></html>"

BAD_SHAPES = (b"null", b'{"data":[]}', b'"ok"', b"{}", b"[null]", b'[{"id":')
"""Bodies that no list endpoint declares; the last is not even JSON."""


class Faults:
    """Draws the faults of each request."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def before(self, switches: Switches, endpoint: str, now: float) -> Answer | None:
        """The answer that takes the place of the real one, or None."""
        if not self._hits(switches, endpoint):
            return None
        if self._draw(switches.fault_429):
            answer = refused(429, "too many requests")
            retry_after(switches, now, answer, RETRY_AFTER_DATE_S)
            return answer
        if self._draw(switches.fault_500):
            return refused(500, "internal error")
        if self._draw(switches.fault_502_html):
            return Answer(502, GATEWAY_PAGE, headers={"content-type": HTML})
        if self._draw(switches.fault_200_html):
            return Answer(200, LOGIN_PAGE, headers={"content-type": HTML})
        return None

    def lost(self, switches: Switches, endpoint: str) -> bool:
        """Whether the connection breaks before a write is done; `after` may break it when it is."""
        return self._hits(switches, endpoint) and self._draw(switches.fault_cut / 2)

    def after(self, switches: Switches, endpoint: str, answer: Answer) -> None:
        """Spoil a good answer."""
        if not self._hits(switches, endpoint):
            return
        if answer.rows is not None and answer.status == 200:
            self._spoil_list(switches, answer, answer.rows)
        if self._draw(switches.fault_slow):
            answer.slow_s = switches.fault_slow_s
        if self._draw(switches.fault_cut):
            answer.cut = True

    def _spoil_list(self, switches: Switches, answer: Answer, rows: list[bytes]) -> None:
        if rows and self._draw(switches.duplicate_rows):
            for row in self._rng.choices(rows, k=self._rng.randint(1, DUPLICATES_MAX)):
                rows.insert(self._rng.randint(0, len(rows)), row)
        if rows and self._draw(switches.bad_row):
            at = self._rng.randrange(len(rows))
            rows[at] = self._rng.choice(_BAD_ROWS)(rows[at])
        if self._draw(switches.empty_page):
            rows.clear()
        if self._draw(switches.bad_shape):
            answer.rows = None
            answer.body = self._rng.choice(BAD_SHAPES)

    def _hits(self, switches: Switches, endpoint: str) -> bool:
        return switches.fault_on in {"any", endpoint}

    def _draw(self, rate: float) -> bool:
        # No number is drawn for a fault that is off, so switching one on does not move the others.
        return rate > 0 and self._rng.random() < rate


def retry_after(switches: Switches, now: float, answer: Answer, ahead_s: float) -> None:
    """Add the hint of a 429, if any."""
    hint = switches.fault_429_retry_after
    if hint != "none":
        date = formatdate(now + ahead_s, usegmt=True)
        answer.headers["retry-after"] = date if hint == "date" else hint


def _with(name: str, value: object) -> Callable[[bytes], bytes]:
    return lambda row: orjson.dumps(orjson.loads(row) | {name: value})


def _without_id(row: bytes) -> bytes:
    return orjson.dumps({name: value for name, value in orjson.loads(row).items() if name != "id"})


def _with_a_bad_part(row: bytes) -> bytes:
    """Of customers and tags the metadata, which users do not have."""
    document = orjson.loads(row)
    bad: dict[str, object] = {"metadata": ["a", "list"]} if {"customer_id", "tag"} & document.keys() else {"email": 17}
    return orjson.dumps(document | bad)


_BAD_ROWS: tuple[Callable[[bytes], bytes], ...] = (
    _without_id,
    _with("id", 17),
    _with("id", "not a uuid / at all"),
    _with("updated_at", "yesterday"),
    _with("created_at", 1_700_000_000),
    _with_a_bad_part,
    lambda _row: b'"a string"',
    lambda _row: b"null",
)
"""Ways in which a document can break its schema; the page stays JSON."""
