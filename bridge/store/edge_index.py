"""EdgeIndex: the edges of `SqliteStore`, in its file and in the local transactions of the records that they come from.

One row per edge: the tag's number and the number of the customer's row, in this order, so that the members of a tag are
read one after the other. Customers are numbered as they come, so a first build adds to the end of each tag. Even so a
batch touches about as many pages as it has tags, which is why edges gather in memory, and go into the file sorted, when
the local transaction ends, when there are many, or when somebody asks for them.

What a flipped bit must not do: per tag there are the count of its edges and the exclusive or of its customers' 64-bit
hashes, sealed with a CRC-32. Whoever has read the members of a tag to their end knows that they were these.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from bridge.store.edges import TAGS_MARK, folder_of, is_customer
from bridge.store.seals import CacheDamaged

EDGES_SCHEMA = """
CREATE TABLE tags (
    id INTEGER PRIMARY KEY,
    folder INTEGER NOT NULL,
    uid TEXT NOT NULL,
    members INTEGER NOT NULL,
    digest INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    UNIQUE (folder, uid)
);
CREATE TABLE edges (tag INTEGER NOT NULL, customer INTEGER NOT NULL, PRIMARY KEY (tag, customer)) WITHOUT ROWID;
"""

PENDING_MAX = 100_000
"""Edges that gather in memory, some 12 MiB. More would save little, and to write them makes the longest call."""

NUMBERS_MAX = 100_000
"""Tags whose number is kept at hand."""

IDS_MAX = 500
"""Numbers per SELECT."""

_ROW_BITS = 40
_ROW_MASK = (1 << _ROW_BITS) - 1

_MEMBERS = (
    "SELECT state.hash, state.key FROM edges CROSS JOIN state ON state.id = edges.customer WHERE edges.tag = ? "
    "ORDER BY edges.customer"
)
_TAG = "SELECT id, folder, uid, members, digest, crc FROM tags WHERE "


class Customer(NamedTuple):
    """Where it is: numbers of its folder and its row, and the hash of its key."""

    folder: int
    row: int
    hash: int


class _Tag(NamedTuple):
    """A row of `tags` that was believed."""

    id: int
    folder: int
    uid: str
    members: int
    digest: int


class EdgeIndex:
    """See the module. `folder` is the number of the folder that a source's customers are in."""

    def __init__(self, connection: sqlite3.Connection, folders: Mapping[str, int]) -> None:
        """`folders`: the numbers of all, now and later."""
        self._db = connection
        self._all_folders = folders
        self._folders: set[int] = {folder for (folder,) in connection.execute("SELECT DISTINCT folder FROM tags")}
        self._names = self._names_now()
        self._numbers: dict[int, dict[str, int]] = {}  # by folder and uid, shifted to where an edge has them
        self._kept = 0
        self._added: set[int] = set()
        self._removed: set[int] = set()
        self._hashes: dict[int, int] = {}  # of the customers in both, by row

    @property
    def full(self) -> bool:
        """True when the edges that gathered should go into the file."""
        return len(self._added) + len(self._removed) >= PENDING_MAX

    def _names_now(self) -> set[str]:
        return {name for name, number in self._all_folders.items() if number in self._folders}

    def affected(self, records: Mapping[str, bytes | None]) -> list[str]:
        """Those whose edges may change: customers that come with tags, and all customers of a source that has edges.

        Nothing else is looked at, so where there are no memberships they cost one search in each value.
        """
        mine = self._names
        return [
            key
            for key, value in records.items()
            if (value is not None and TAGS_MARK in value and is_customer(key)) or (mine and folder_of(key) in mine)
        ]

    def follow(self, customer: Customer, had: Sequence[str], has: Sequence[str]) -> None:
        """The customer had these tags, and has those now."""
        if had == has:
            return
        if customer.folder not in self._folders:
            self._folders.add(customer.folder)
            self._names = self._names_now()
        self._hashes[customer.row] = customer.hash
        before, after = set(had), set(has)
        gone = self._edges(customer, [uid for uid in had if uid not in after])
        come = self._edges(customer, [uid for uid in has if uid not in before])
        # What comes and goes before it was written never was; no edge does the same thing twice.
        self._removed.update(gone - self._added)
        self._added -= gone
        self._added.update(come - self._removed)
        self._removed -= come

    def _edges(self, customer: Customer, uids: Sequence[str]) -> set[int]:
        numbers = self._numbers.setdefault(customer.folder, {})
        new = [uid for uid in uids if uid not in numbers]
        if new:
            self._kept += len(new)
            if self._kept > NUMBERS_MAX:
                self._kept = len(uids)
                self._numbers = {customer.folder: (numbers := {uid: numbers[uid] for uid in uids if uid in numbers})}
            numbers.update((uid, self._number(customer.folder, uid) << _ROW_BITS) for uid in new)
        row = customer.row
        return {numbers[uid] + row for uid in uids}

    def flush(self) -> None:
        """Write what gathered; within the transaction that its records are in."""
        if not self._hashes:
            return
        changes: dict[int, tuple[int, int]] = {}
        removed, added = self._sorted(self._removed, -1, changes), self._sorted(self._added, 1, changes)
        if removed:
            deleted = self._db.executemany("DELETE FROM edges WHERE tag = ? AND customer = ?", removed)
            if deleted.rowcount != len(removed):
                raise CacheDamaged("a membership is not in its index")
        try:
            self._db.executemany("INSERT INTO edges VALUES (?, ?)", added)
        except sqlite3.IntegrityError:
            raise CacheDamaged("a membership is in its index before it is there") from None
        self._seal(changes)
        self.forget()

    def _sorted(self, edges: set[int], by: int, changes: dict[int, tuple[int, int]]) -> list[tuple[int, int]]:
        """Tag and row of each, in the order of the file; `changes` takes how the tags' counts and digests change."""
        hashes = self._hashes
        rows = []
        for tag, group in groupby(sorted(edges), key=_tag_of):
            count, digest = changes.get(tag, (0, 0))
            for edge in group:
                row = edge & _ROW_MASK
                rows.append((tag, row))
                count += by
                digest ^= hashes[row]
            changes[tag] = count, digest
        return rows

    def _seal(self, changes: Mapping[int, tuple[int, int]]) -> None:
        numbers = sorted(changes)
        rows = []
        for start in range(0, len(numbers), IDS_MAX):
            part = numbers[start : start + IDS_MAX]
            marks = ",".join("?" * len(part))
            for row in self._db.execute(f"{_TAG} id IN ({marks})", part):
                number, folder, uid, members, digest = _believed(row)
                more, other = changes[number]
                members, digest = members + more, digest ^ other
                rows.append((members, digest, _seal_of(number, folder, uid, members, digest), number))
        sealed = self._db.executemany("UPDATE tags SET members = ?, digest = ?, crc = ? WHERE id = ?", rows)
        if rows and sealed.rowcount != len(numbers):
            raise CacheDamaged("a tag is not in its index")

    def forget(self) -> None:
        """What gathered is written, or never happened."""
        self._added.clear()
        self._removed.clear()
        self._hashes.clear()

    def count(self, folder: int, uid: str) -> int:
        """How many customers have the tag."""
        self.flush()
        tag = self._tag(folder, uid)
        return 0 if tag is None else tag.members

    def tags(self, folder: int) -> list[str]:
        """Those that somebody has."""
        self.flush()
        return [tag.uid for row in self._db.execute(f"{_TAG} folder = ?", (folder,)) if (tag := _believed(row)).members]

    def members(self, folder: int, uid: str) -> Iterator[tuple[int, str]]:
        """Hash and key of each customer that has the tag; the caller compares the two."""
        self.flush()
        tag = self._tag(folder, uid)
        if tag is None:
            return
        count = digest = 0
        for row in self._db.execute(_MEMBERS, (tag.id,)):
            if type(row[0]) is not int:
                break  # then the count is wrong
            yield row
            count += 1
            digest ^= row[0]
        if (count, digest) != (tag.members, tag.digest):
            raise CacheDamaged("the members of a tag are not those that were put into the cache")

    def _tag(self, folder: int, uid: str) -> _Tag | None:
        row = self._db.execute(f"{_TAG} folder = ? AND uid = ?", (folder, uid)).fetchone()
        return None if row is None else _believed(row)

    def _number(self, folder: int, uid: str) -> int:
        tag = self._tag(folder, uid)
        return self._new_tag(folder, uid) if tag is None else tag.id

    def _new_tag(self, folder: int, uid: str) -> int:
        (number,) = self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM tags").fetchone()
        row = (number, folder, uid, 0, 0)
        self._db.execute("INSERT INTO tags VALUES (?, ?, ?, ?, ?, ?)", (*row, _seal_of(*row)))
        return int(number)


def last_row(connection: sqlite3.Connection) -> int:
    """Number of the last row of `state`; the next ones have higher ones, never one that was used before."""
    (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM state").fetchone()
    if not 0 <= last <= _ROW_MASK // 2:
        raise CacheDamaged("a row has no such number")
    return int(last)


def _tag_of(edge: int) -> int:
    return edge >> _ROW_BITS


def _seal_of(*fields: object) -> int:
    """Of the fields of a row of `tags`. `repr` tells their types too: a flipped bit changes those as well."""
    return zlib.crc32(repr(fields).encode())


def _believed(row: tuple[int, int, str, int, int, int]) -> _Tag:
    if _seal_of(*row[:5]) != row[5]:
        raise CacheDamaged("what is known of a tag is damaged")
    return _Tag(*row[:5])
