"""Listing: one answer of a list, and a whole heap of rows that no filter can tell apart.

A list says in `Pagination-Total` how many rows match, which is the only thing that tells its end: a server may give
fewer rows than it is asked for, and shows no more than the first `OFFSET_MAX + limit`. Without that number nothing
could be called complete, so it has to be there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import orjson

from bridge.errors import Malformed, RetryLater
from bridge.source.api import Answer, ApiClient, Turns
from bridge.source.budget import Priority
from bridge.source.rebilly.boxes import SECOND
from bridge.source.rebilly.models import uid_of

OFFSET_MAX: Final = 1_000
"""Rows that can be skipped; what a server does above is anybody's guess, so it is never asked."""

LIMIT_MAX: Final = 1_000
"""Rows of a page; the server's own default is not known, so it is always asked for a number."""

Query = tuple[tuple[str, str], ...]


class Listing(NamedTuple):
    """rows: as they came (`Any`: each is checked by itself); one may come twice. shown: how many different ones. total:
    rows that match, no fewer than were shown."""

    rows: list[Any]
    shown: int
    total: int
    answer: Answer


class Place(NamedTuple):
    """What is asked of which list. endpoint: its name in metrics. path: encoded. limit: rows of a page."""

    endpoint: str
    path: str
    limit: int


def ceiling_of(answer: Answer) -> int:
    """No change that an answer shows can be later, in microseconds."""
    return int(answer.received_at * SECOND) if answer.date is None else answer.date + SECOND


async def ask(client: ApiClient, place: Place, query: Query, priority: Priority | Turns, offset: int = 0) -> Listing:
    """A page. Raises any `SourceError`."""
    paged = (*query, ("limit", str(place.limit)), *((("offset", str(offset)),) if offset else ()))
    answer = await client.get(place.endpoint, place.path, paged, priority=priority)
    if not isinstance(answer.value, list):
        raise Malformed(f"{place.endpoint} answered without a list")
    if answer.total is None:
        raise Malformed(f"{place.endpoint} does not say how many rows match (Pagination-Total)")
    shown = len(set(map(_sameness, answer.value)))
    return Listing(answer.value, shown, max(answer.total, shown), answer)


def rows_of(listing: Listing, uids: Sequence[str], endpoint: str) -> dict[str, Any]:
    """The rows by their ids, of a list that was asked for these only; who is not among them is not there.

    A filter may ignore capitals, and show others as well whose ids differ in nothing else. `Any` as in `Listing`.
    Raises `Malformed` when it has shown anybody else, or not all.
    """
    asked = {uid.casefold() for uid in uids}
    rows = {uid_of(row): row for row in listing.rows}
    if listing.shown < listing.total or any(uid is None or uid.casefold() not in asked for uid in rows):
        raise Malformed(f"{endpoint} does not obey the filter by id, so nobody can be called gone")
    return {uid: row for uid, row in rows.items() if uid is not None}


async def heap(
    client: ApiClient, place: Place, query: Query, orders: Sequence[str], priority: Priority
) -> list[Listing]:
    """All rows that match, in several orders until each was shown; a row may be shown many times.

    Raises `Malformed` when there are more than can be shown in these orders, or `RetryLater` when they moved meanwhile:
    a row that leaves makes all others behind it move up, so as many must have been seen as there ever were.
    """
    shown: list[Listing] = []
    seen: set[str | bytes] = set()
    totals: set[int] = set()
    for order in orders:
        offset = 0
        while offset <= OFFSET_MAX:
            page = await ask(client, place, (*query, ("sort", order)), priority, offset)
            shown.append(page)
            totals.add(page.total)
            seen.update(map(_sameness, page.rows))
            offset += page.shown
            if not page.rows or offset >= page.total:
                break
        if len(seen) >= max(totals):
            return shown
    if len(totals) > 1:
        raise RetryLater(f"{place.endpoint}: rows moved while they were read by offset")
    raise Malformed(
        f"{place.endpoint}: {shown[-1].total} rows have the same times, and only {len(seen)} of them can be reached"
    )


def _sameness(row: Any) -> str | bytes:
    """The same for the same row. `Any` as in `Listing`."""
    return uid_of(row) or orjson.dumps(row)
