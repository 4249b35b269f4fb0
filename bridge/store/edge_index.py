"""EdgeIndex: the edges of `SqliteStore`, in its file and in the local transactions of the records that they come from.

One row per edge: the tag's number and the number of the customer's row, in this order, so that the members of a tag are
read one after the other. Customers are numbered as they come, so a first build adds to the end of each tag. Even so a
batch touches about as many pages as it has tags, which is why edges gather in memory, and go into the file sorted, when
the local transaction ends, when there are many, or when somebody asks for them.

What a flipped bit must not do: per tag there are the count of its edges and the exclusive or of its customers' 64-bit
hashes, sealed with a CRC-32. Members are compared with both before the first of them is told.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
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

PENDING_MAX = 200_000
"""Edges that gather in memory, some 25 MiB."""

NUMBERS_MAX = 100_000
"""Tags whose number is kept at hand."""

IDS_MAX = 500
"""Numbers per SELECT."""

_ROW_BITS = 40
_ROW_MASK = (1 << _ROW_BITS) - 1

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

    @property
    def crc(self) -> int:
        return zlib.crc32(repr(tuple(self)).encode())


class EdgeIndex:
    """See the module. `folder` is the number of the folder that a source's customers are in."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._folders: set[int] = {folder for (folder,) in connection.execute("SELECT DISTINCT folder FROM tags")}
        self._numbers: dict[tuple[int, str], int] = {}
        self._added: set[int] = set()
        self._removed: set[int] = set()
        self._counts: dict[int, int] = {}
        self._digests: dict[int, int] = {}

    @property
    def full(self) -> bool:
        """True when the edges that gathered should go into the file."""
        return len(self._added) + len(self._removed) >= PENDING_MAX

    def affected(self, records: Mapping[str, bytes | None], folders: Mapping[str, int]) -> list[str]:
        """Those whose edges may change: customers that come with tags, and all customers of a source that has edges.

        folders: their numbers. Nothing else is looked at, so a source without memberships pays for one search in each
        value.
        """
        mine = {name for name, number in folders.items() if number in self._folders} if self._folders else frozenset()
        return [
            key
            for key, value in records.items()
            if (value is not None and TAGS_MARK in value and is_customer(key)) or (mine and folder_of(key) in mine)
        ]

    def follow(self, customer: Customer, had: Sequence[str], has: Sequence[str]) -> None:
        """The customer had these tags, and has those now."""
        if had == has:
            return
        self._folders.add(customer.folder)
        before, after = set(had), set(has)
        for uid in had:
            if uid not in after:
                self._change(self._number(customer.folder, uid), customer, self._removed, self._added, -1)
        for uid in has:
            if uid not in before:
                self._change(self._number(customer.folder, uid), customer, self._added, self._removed, 1)

    def _change(self, tag: int, customer: Customer, into: set[int], instead: set[int], by: int) -> None:
        edge = tag << _ROW_BITS | customer.row
        if edge in instead:
            instead.remove(edge)
        else:
            into.add(edge)
        self._counts[tag] = self._counts.get(tag, 0) + by
        self._digests[tag] = self._digests.get(tag, 0) ^ customer.hash

    def flush(self) -> None:
        """Write what gathered; within the transaction that its records are in."""
        if not self._counts:
            return
        if self._removed:
            removed = self._db.executemany("DELETE FROM edges WHERE tag = ? AND customer = ?", _rows(self._removed))
            if removed.rowcount != len(self._removed):
                raise CacheDamaged("a membership is not in its index")
        try:
            self._db.executemany("INSERT INTO edges VALUES (?, ?)", _rows(self._added))
        except sqlite3.IntegrityError:
            raise CacheDamaged("a membership is in its index before it is there") from None
        self._seal()
        self.forget()

    def _seal(self) -> None:
        numbers = sorted(self._counts)
        rows = []
        for start in range(0, len(numbers), IDS_MAX):
            part = numbers[start : start + IDS_MAX]
            marks = ",".join("?" * len(part))
            for row in self._db.execute(f"{_TAG} id IN ({marks})", part):
                tag = _believed(row)
                changed = tag._replace(
                    members=tag.members + self._counts[tag.id], digest=tag.digest ^ self._digests[tag.id]
                )
                rows.append((changed.members, changed.digest, changed.crc, changed.id))
        sealed = self._db.executemany("UPDATE tags SET members = ?, digest = ?, crc = ? WHERE id = ?", rows)
        if sealed.rowcount != len(numbers):
            raise CacheDamaged("a tag is not in its index")

    def forget(self) -> None:
        """What gathered is written, or never happened."""
        self._added.clear()
        self._removed.clear()
        self._counts.clear()
        self._digests.clear()

    def count(self, folder: int, uid: str) -> int:
        """How many customers have the tag."""
        tag = self._tag(folder, uid)
        return 0 if tag is None else tag.members + self._counts.get(tag.id, 0)

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
        joined = "FROM edges CROSS JOIN state ON state.id = edges.customer WHERE edges.tag = ?"
        count = digest = 0
        for (hashed,) in self._db.execute(f"SELECT state.hash {joined}", (tag.id,)):
            count += 1
            digest ^= hashed
        if (count, digest) != (tag.members, tag.digest):
            raise CacheDamaged("the members of a tag are not those that were put into the cache")
        yield from self._db.execute(f"SELECT state.hash, state.key {joined}", (tag.id,))

    def _tag(self, folder: int, uid: str) -> _Tag | None:
        row = self._db.execute(f"{_TAG} folder = ? AND uid = ?", (folder, uid)).fetchone()
        return None if row is None else _believed(row)

    def _number(self, folder: int, uid: str) -> int:
        number = self._numbers.get((folder, uid))
        if number is None:
            tag = self._tag(folder, uid) or self._new_tag(folder, uid)
            if len(self._numbers) >= NUMBERS_MAX:
                self._numbers.clear()
            number = self._numbers[folder, uid] = tag.id
        return number

    def _new_tag(self, folder: int, uid: str) -> _Tag:
        (number,) = self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM tags").fetchone()
        tag = _Tag(number, folder, uid, 0, 0)
        self._db.execute("INSERT INTO tags VALUES (?, ?, ?, ?, ?, ?)", (*tag, tag.crc))
        return tag


def last_row(connection: sqlite3.Connection) -> int:
    """Number of the last row of `state`; the next ones have higher ones, never one that was used before."""
    (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM state").fetchone()
    if not 0 <= last <= _ROW_MASK // 2:
        raise CacheDamaged("a row has no such number")
    return int(last)


def _rows(edges: set[int]) -> Iterator[tuple[int, int]]:
    """In the order of the file."""
    return ((edge >> _ROW_BITS, edge & _ROW_MASK) for edge in sorted(edges))


def _believed(row: tuple[int, int, str, int, int, int]) -> _Tag:
    *fields, crc = row
    tag = _Tag._make(fields)
    if crc != tag.crc:
        raise CacheDamaged("what is known of a tag is damaged")
    return tag
