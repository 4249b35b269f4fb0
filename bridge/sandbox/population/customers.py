"""The columns that hold the customers, and the orders in which they can be walked.

One entry per customer that ever existed; the row number is the handle. Documents are kept as the bytes the API
answers with, so a page is a join and a million customers fit into little memory (no object per customer that the
garbage collector would have to visit). Deleted customers stay as tombstones.

Three orders are maintained: creation (created_at, id), change (a log of (stamp, row), stale entries skipped by the
reader) and creation again per tag. Late visibility is kept here too: `shown` is what lists may show of a row now.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import NamedTuple

TYPES = ("customer", "company", "contact", "employee", "other")
CONTACT = TYPES.index("contact")
DELETED = len(TYPES)
"""Kind of a tombstone, which has no type."""
UNSEEN = DELETED + 1
"""Kind of a customer whose creation is not visible yet."""

LOG_SLACK = 1024
"""Stale entries the change log may hold beyond one per customer before it is rebuilt."""


class Shown(NamedTuple):
    """One state of a row: what a list shows."""

    body: bytes
    kind: int
    stamp: int


class Customers:
    """Rows by number. Written by the world only; it alone sees that a change is stamped and recorded."""

    def __init__(self) -> None:
        self.uids: list[str] = []
        self.customer_ids: list[str] = []
        self.bodies: list[bytes] = []
        self.kinds = bytearray()
        self.created = array("q")
        self.stamps = array("q")
        """`updated_at`, for tombstones `deleted_at`, in microseconds."""
        self.tags: list[tuple[str, ...]] = []
        self.row_of: dict[str, int] = {}
        self.live_row_of: dict[str, int] = {}
        """By customer_id; the living only, because a dead one's id may be taken again."""
        self.dead_row_of: dict[str, int] = {}
        self.links: dict[int, tuple[str, ...]] = {}
        """For contacts: the customer_ids they are contacts for."""
        self.counts = [0] * (DELETED + 1)
        """Rows per kind."""
        self.order = array("q")
        self.members: dict[str, array[int]] = {}
        self._log_stamps = array("q")
        self._log_rows = array("q")
        self._late: dict[int, list[tuple[Shown, float]]] = {}

    def __len__(self) -> int:
        """Customers alive."""
        return len(self.live_row_of)

    def alive(self, row: int) -> bool:
        """Not a tombstone."""
        return self.kinds[row] != DELETED

    # Writing.

    def append(
        self, uid: str, customer_id: str, kind: int, body: bytes, created: int, *, stamp: int | None = None
    ) -> int:
        """A new customer; returns its row. With `stamp` the change log is left to `sort_log`, for bulk loads."""
        row = len(self.uids)
        self.uids.append(uid)
        self.customer_ids.append(customer_id)
        self.bodies.append(body)
        self.kinds.append(kind)
        self.created.append(created)
        self.stamps.append(created if stamp is None else stamp)
        self.tags.append(())
        self.row_of[uid] = self.live_row_of[customer_id] = row
        self.counts[kind] += 1
        self._insert(self.order, row)
        if stamp is None:
            self._log(row, created)
        return row

    def sort_log(self) -> None:
        """Build the change log anew from the rows."""
        rows = sorted(range(len(self.uids)), key=self.uids.__getitem__)
        rows.sort(key=self.stamps.__getitem__)
        self._log_rows = array("q", rows)
        self._log_stamps = array("q", map(self.stamps.__getitem__, rows))

    def replace(self, row: int, body: bytes, kind: int, stamp: int) -> None:
        """The row's document, type and change time; `stamp` as before when the change does not count as one."""
        self.counts[self.kinds[row]] -= 1
        self.counts[kind] += 1
        self.bodies[row] = body
        self.kinds[row] = kind
        if stamp != self.stamps[row]:
            self.stamps[row] = stamp
            self._log(row, stamp)

    def rename(self, row: int, customer_id: str) -> None:
        """The old customer_id is free at once."""
        del self.live_row_of[self.customer_ids[row]]
        self.customer_ids[row] = customer_id
        self.live_row_of[customer_id] = row

    def bury(self, row: int, tombstone: bytes, stamp: int) -> None:
        """Leave only the tombstone; memberships and links vanish."""
        for tag in self.tags[row]:
            self._remove(self.members[tag], row)
        self.tags[row] = ()
        self.links.pop(row, None)
        del self.live_row_of[self.customer_ids[row]]
        self.dead_row_of[self.customer_ids[row]] = row
        self.replace(row, tombstone, DELETED, stamp)

    def set_tags(self, row: int, tags: tuple[str, ...]) -> None:
        """Replace the row's memberships, in both directions."""
        before = self.tags[row]
        for tag in before:
            if tag not in tags:
                self._remove(self.members[tag], row)
        for tag in tags:
            if tag not in before:
                self._insert(self.members[tag], row)
        self.tags[row] = tags

    def drop_tag(self, row: int, tag: str) -> None:
        """One membership less, on the customer's side only: the tag itself is about to go."""
        self.tags[row] = tuple(other for other in self.tags[row] if other != tag)

    # Late visibility.

    def hold_back(self, row: int, until: float, *, unseen: bool = False) -> None:
        """Before a change: lists go on showing the present state (or nothing) until wall-clock second `until`."""
        kind = UNSEEN if unseen else self.kinds[row]
        state = Shown(self.bodies[row], kind, self.stamps[row])
        self._late.setdefault(row, []).append((state, until))

    def settle(self, now: float) -> bool:
        """Forget states whose time has come; whether any row is still held back."""
        if self._late:
            left = {row: [held for held in states if held[1] > now] for row, states in self._late.items()}
            self._late = {row: states for row, states in left.items() if states}
        return bool(self._late)

    def shown(self, row: int) -> Shown:
        """What lists may show of a row; `settle` first."""
        held = self._late.get(row)
        if held:
            return held[0][0]
        return Shown(self.bodies[row], self.kinds[row], self.stamps[row])

    # Walking.

    def position(self, rows: array[int], row: int) -> int:
        """Where the walk goes on after `row` in rows that are in order of creation."""
        return bisect_right(rows, self.creation(row), key=self.creation)

    def creation(self, row: int) -> tuple[int, str]:
        """Sort key: created_at, then id."""
        return self.created[row], self.uids[row]

    def created_between(self, low: int | None, high: int | None) -> Iterator[int]:
        """Rows in order of (created, id), both ends included, None where it is open."""
        first = 0 if low is None else bisect_left(self.order, low, key=self.created.__getitem__)
        last = len(self.order) if high is None else bisect_right(self.order, high, key=self.created.__getitem__)
        return (self.order[i] for i in range(first, last))

    def changed_since(
        self, since: int, *, exclusive: bool, descending: bool, until: int | None = None
    ) -> Iterator[int]:
        """Rows in order of (stamp, id) from `since` on; each row once, at the stamp that is shown of it now.

        until: the last instant that counts, None for all.
        """
        stamps, rows = self._log_stamps, self._log_rows
        first = bisect_right(stamps, since) if exclusive else bisect_left(stamps, since)
        span = range(first, len(stamps) if until is None else bisect_right(stamps, until))
        for i in reversed(span) if descending else span:
            row = rows[i]
            if stamps[i] == (self.shown(row).stamp if self._late else self.stamps[row]):
                yield row

    def _log(self, row: int, stamp: int) -> None:
        rows, stamps = self._log_rows, self._log_stamps
        if len(stamps) > 2 * len(self.uids) + LOG_SLACK and not self._late:
            self.sort_log()  # the row already carries its new stamp
            return
        first = bisect_left(stamps, stamp)
        assert first == len(stamps) or stamps[-1] == stamp, "stamps never decrease"
        at = bisect_left(rows, self.uids[row], lo=first, key=self.uids.__getitem__)
        stamps.append(stamp)
        rows.insert(at, row)

    def _insert(self, rows: array[int], row: int) -> None:
        if not rows or self.creation(rows[-1]) < self.creation(row):
            rows.append(row)
        else:
            rows.insert(self.position(rows, row), row)

    def _remove(self, rows: array[int], row: int) -> None:
        at = self.position(rows, row) - 1
        assert rows[at] == row, "a membership is known in both directions"
        rows.pop(at)
