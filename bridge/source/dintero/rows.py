"""Rows: one page of the customer list, mapped, and what its rows tell about their order. Pure functions.

A page that holds contacts also holds the customers they are contacts for, wherever those belong in the order. Such
linked rows are documents like all others but are never used to page on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import orjson

from bridge import __version__
from bridge.errors import Malformed
from bridge.model import Document, Gone, Reject
from bridge.source.api import Answer
from bridge.source.dintero import models
from bridge.source.dintero.cursor import SECOND, STEP_BACK
from bridge.source.feed import Familiar

ENDPOINT = "customers.list"

FINGERPRINT_BYTES = 16
"""128 bits: that a changed row has the fingerprint of the old one is less likely than any other fault."""

_RELEASE = __version__.encode()


@dataclass(frozen=True, slots=True)
class Rows:
    """One page, mapped. times: believable change times in the page's order, without linked customers.

    latest: the greatest believable change time of all rows. moments: believable change times by uid, linked customers
    included. familiar, fingerprints: see `Page`.
    """

    documents: Sequence[Document]
    gone: Sequence[Gone]
    rejects: Sequence[Reject]
    times: Sequence[int]
    latest: int | None
    moments: Mapping[str, int]
    familiar: Sequence[str]
    fingerprints: Mapping[str, bytes]


def list_of(answer: Answer) -> list[Any]:
    """The rows; `Any` because each is checked by itself."""
    if not isinstance(answer.value, list):
        raise Malformed(f"{ENDPOINT} answered without a list")
    return answer.value


def mapped_rows(rows: list[Any], answer: Answer, limit: int, familiar: Familiar | None = None) -> Rows:
    """Every row of a page that was asked for with `limit`."""
    documents: list[Document] = []
    fingerprints = {} if familiar is None else _fingerprints(rows)
    recognised = familiar(fingerprints) if familiar is not None and fingerprints else frozenset[str]()
    gone: list[Gone] = []
    rejects: list[Reject] = []
    times: list[int] = []
    moments: dict[str, int] = {}
    # A row dated later than the server's own second is wrong; it is a document, but neither order nor position.
    ceiling = int(answer.received_at * SECOND) if answer.date is None else answer.date + SECOND
    linked = linked_ids(rows)
    latest: int | None = None
    for number, row in enumerate(rows):
        moment: int | None
        if recognised and isinstance(row, dict) and row.get("id") in recognised:
            moment = models.change_time(row)
        elif isinstance(result := models.customer(row, ENDPOINT), Document):
            moment = result.version or None
            if result.version > ceiling:
                result = result._replace(version=0)
                fingerprints.pop(result.uid, None)  # once its time is believable, it has to be taken note of
            documents.append(result)
        elif isinstance(result, Gone):
            moment = result.at or None
            gone.append(result if result.at <= ceiling else result._replace(at=0))
        else:
            moment = models.change_time(row)
            rejects.append(result)
        if moment is None or moment > ceiling:
            continue
        latest = moment if latest is None or moment > latest else latest
        uid = row.get("id")
        if isinstance(uid, str):
            moments[uid] = moment
        if number < limit and not (linked and row.get("customer_id") in linked):
            times.append(moment)
    return Rows(documents, gone, rejects, times, latest, moments, tuple(recognised), fingerprints)


def paged_on(since: int, rows: list[Any], mapped: Rows) -> int | None:
    """The change time of the last row of a page of changes since `since`, when the next page can be asked for by it.

    None when the rows do not ascend, or when they are all of the instant that was asked for.
    """
    own = [moment for moment in mapped.times if moment >= since]
    # A row that is shown twice may be out of its place, and make a descending page look ascending.
    ascending = all(earlier <= later for earlier, later in pairwise(own)) and not repeats(rows)
    return own[-1] if own and ascending and own[-1] - STEP_BACK > since else None


def matching(since: int, rows: list[Any], mapped: Rows, limit: int) -> int:
    """How many customers of a page of changes are there in their own right, not only because a contact of theirs is."""
    linked, found = linked_ids(rows), set[str]()
    for number, row in enumerate(rows):
        if isinstance(row, dict) and isinstance(row.get("id"), str):
            name = row.get("customer_id")
            own = number < limit and not (isinstance(name, str) and name in linked)
            if own or mapped.moments.get(row["id"], -1) >= since:
                found.add(row["id"])
    return len(found)


def _fingerprints(rows: list[Any]) -> dict[str, bytes]:
    """By uid; not of rows that come twice, for which of the two counts is to be seen."""
    found: dict[str, bytes] = {}
    twice: set[str] = set()
    for row in rows:
        uid = row.get("id") if isinstance(row, dict) else None
        if isinstance(uid, str):
            if uid in found:
                twice.add(uid)
            # The release is in it, because another one may make something else of the same row.
            found[uid] = blake2b(orjson.dumps(row), digest_size=FINGERPRINT_BYTES, key=_RELEASE).digest()
    for uid in twice:
        del found[uid]
    return found


def linked_ids(rows: list[Any]) -> frozenset[str]:
    """customer_ids of those that are on the page because a contact of theirs is, or could be."""
    found: set[str] = set()
    for row in rows:
        if isinstance(row, dict) and row.get("type") == "contact" and isinstance(row.get("contact_for"), list):
            ids = [link.get("customer_id") for link in row["contact_for"] if isinstance(link, dict)]
            found.update(name for name in ids if isinstance(name, str))
    return frozenset(found)


def repeats(rows: list[Any]) -> bool:
    """Whether a row is shown twice, other than as a customer that a contact is linked to."""
    linked = linked_ids(rows)
    ids = [
        row.get("id")
        for row in rows
        if isinstance(row, dict) and not (isinstance(row.get("customer_id"), str) and row["customer_id"] in linked)
    ]
    return len({uid for uid in ids if isinstance(uid, str)}) < len(ids)
