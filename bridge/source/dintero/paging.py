"""Paging: from one page of a list to the next by `starting_after`, and whether a page came before. Pure.

The server may ignore the cursor, or lead in a circle; either would keep a walk going for ever. Every page is compared
with the one before it and with one mark of the past that moves at powers of two, which meets every circle (Brent's
method), so a walk of any length needs no more memory than that.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final, NamedTuple, Protocol

from bridge.errors import Malformed
from bridge.source.dintero.models import is_tombstone
from bridge.source.dintero.rows import linked_ids

CURSOR_REFUSED: Final = frozenset({400, 404, 410, 422})
"""What a server may answer to an id it does not know."""


class Walked(Protocol):
    """Where a walk is. after: id after which the page at hand began. digest: of the ids of the page before.

    pages: how many came before. mark: an `after` of the past.
    """

    @property
    def after(self) -> str | None: ...
    @property
    def digest(self) -> str | None: ...
    @property
    def pages(self) -> int: ...
    @property
    def mark(self) -> str | None: ...


class Onward(NamedTuple):
    """The same behind the page at hand."""

    after: str
    digest: str
    pages: int
    mark: str | None

    def repeats_last(self, walked: Walked) -> bool:
        """The page at hand is the one before it once more."""
        return self.after == walked.after or self.digest == walked.digest

    def repeats(self, walked: Walked) -> bool:
        """The page at hand came before."""
        return self.repeats_last(walked) or self.after == walked.mark


def onward(walked: Walked, rows: list[Any], limit: int, kind: str, endpoint: str) -> Onward:
    """Behind a page that is not empty. limit: rows that were asked for. kind: the field that `starting_after` takes.

    Raises `Malformed` when no row has one. `Any`: the provider's JSON.
    """
    after = last_id(rows, limit, kind)
    if after is None:
        raise Malformed(f"{endpoint}: no row of the page has a {kind}, so there is no next page to ask for")
    ids = "\n".join(str(row.get("id")) if isinstance(row, dict) else "" for row in rows)
    digest = blake2b(ids.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    pages = walked.pages + 1
    return Onward(after, digest, pages, after if pages & (pages - 1) == 0 else walked.mark)


def ignored(endpoint: str) -> Malformed:
    """What is to be said of a server that shows a full page again and again."""
    return Malformed(f"{endpoint}: the provider ignores the cursor, pages repeat; check cursor_kind")


def last_id(rows: list[Any], limit: int, kind: str) -> str | None:
    """Of the last row that is on the page in its own right; by a name that may have changed hands, of one that lives.

    Behind the name of a tombstone the provider shows what is behind whoever has it now.
    """
    linked = linked_ids(rows)
    head = [row for row in rows[:limit] if isinstance(row, dict)]
    own = [row for row in head if not (isinstance(row.get("customer_id"), str) and row["customer_id"] in linked)]
    living = [] if kind == "id" else [row for row in own if not is_tombstone(row)]
    for row in (*reversed(living), *reversed(own), *reversed(head)):
        value = row.get(kind)
        if isinstance(value, str) and value:
            return value
    return None
