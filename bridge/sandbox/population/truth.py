"""The truth log: what really happened in the simulated world, one entry per change, in order.

Checkers replay it over the initial state or compare it with published events. It records facts, not documents as
some API shows them: under late visibility an entry is here before any list shows the change.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from bridge.model import Body, Collection

TRUTH_ENTRIES_MAX = 1_000_000
"""Entries kept by default; a long soak must not fill the memory. The oldest go first and are counted."""


class Truth(NamedTuple):
    """One change.

    number: 1, 2, 3 ... without gaps, over all collections.
    at: wall-clock seconds of the change, not cut to the provider's precision.
    kind: created, updated, renamed, deleted, merged, tagged, untagged for customers; created, updated, deleted
        otherwise.
    uid: the provider's `id`; for tagged and untagged that of the customer.
    detail: what the change was, enough to replay it.
        created: `document`, the whole object.
        updated: `changed`, top-level field to new value, None for a field that is gone; `updated_at` among them, and
            `revision` where customers have one.
        renamed: `from`, `to`, and `changed` as above.
        deleted: `document`, the tombstone (customers), empty otherwise. A deleted customer has no memberships any
            more; there is no entry for each of them. A deleted tag is preceded by one `untagged` per membership, or
            followed, where the provider takes its time.
        merged: `document` as above, `into` (id of the survivor), `was` (the object before) and its `tags`, as objects.
            What it does to the survivor follows: one `updated`, and a `tagged` for each tag it gets.
        tagged, untagged: `tag` (id) and `name`; `updated_at` and `revision` when the provider moves one of them.
    """

    number: int
    at: float
    kind: str
    collection: Collection
    uid: str
    detail: Body

    def json(self) -> dict[str, Any]:
        """As an object with the field names above; `Any` because JSON is recursive."""
        return self._asdict()


class TruthLog:
    """Append-only and bounded."""

    def __init__(self, entries_max: int = TRUTH_ENTRIES_MAX) -> None:
        if entries_max < 1:
            raise ValueError("entries_max must be at least 1")
        self._entries: deque[Truth] = deque(maxlen=entries_max)
        self.number = 0
        """The number of the latest entry, 0 before the first."""

    @property
    def dropped(self) -> int:
        """How many entries are gone because the log was full."""
        return self.number - len(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Truth]:
        return iter(self._entries)

    def append(self, at: float, kind: str, collection: Collection, uid: str, detail: Body) -> Truth:
        """Record one change and return it."""
        self.number += 1
        entry = Truth(self.number, at, kind, collection, uid, detail)
        self._entries.append(entry)
        return entry

    def after(self, number: int, limit: int | None = None) -> list[Truth]:
        """Entries with a greater number, oldest first, at most `limit`. Cheap for a reader that keeps up."""
        # Counted from the right end: a deque reaches its ends at once and its middle slowly.
        newer = min(self.number - number, len(self._entries))
        entries = list(islice(reversed(self._entries), max(0, newer)))
        entries.reverse()
        return entries if limit is None else entries[:limit]


def replay(documents: dict[str, Body], memberships: set[tuple[str, str]], log: Iterable[Truth]) -> None:
    """Apply entries of the truth log, in place, to objects by id and to (tag id, customer id) pairs.

    `documents` holds customers, tombstones, tags and users alike.
    """
    for entry in log:
        _, _, kind, _, uid, detail = entry
        if kind == "created":
            documents[uid] = dict(detail["document"])
        elif kind in {"updated", "renamed"}:
            documents[uid] |= detail["changed"]
            documents[uid] = {name: value for name, value in documents[uid].items() if value is not None}
        elif kind in {"deleted", "merged"}:
            # Of a customer only: a tag that is gone may be shown for a while.
            memberships -= {edge for edge in memberships if edge[1] == uid}
            documents.pop(uid, None)
            if "document" in detail:
                documents[uid] = dict(detail["document"])
        else:
            edge = (detail["tag"], uid)
            (memberships.add if kind == "tagged" else memberships.discard)(edge)
            documents[uid] |= {name: detail[name] for name in ("updated_at", "revision") if name in detail}
