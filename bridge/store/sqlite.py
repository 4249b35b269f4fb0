"""SqliteStore: the default store, one file per shard.

Values and position change in one SQLite transaction, so the file is always a true prefix of the state partition: a
crash loses at most the newest part, which is read again from Kafka. Several batches share a transaction while they
follow one another closely, because a batch of random keys touches most pages of the index, and each transaction writes
each of them twice. The file names what it caches (`identity`); a file of another cluster, topic or shard, of another
layout, too old, or damaged is removed and built anew.

A key is found by 64 bits of its BLAKE2b, a fifth of the index that the keys themselves would take. Should two keys ever
share them (one in 40 million files of a million keys), the file counts as damaged; the next one has another salt.

A flipped bit on disk must never become an event: each value carries a CRC-32 that also knows its hash, the key must be
the one that its hash says, and the position has a CRC-32 too. What no single row can tell, a row that is not found any
more, `check` finds when the file is opened again.

On Linux nothing is forced to the disk; that would cost more than everything else a store does. What a process wrote
survives its death all the same, only the death of the machine can tear the file. So the identity holds the number of
the system start too, and after the next one the file is built anew from Kafka. Elsewhere see `store.file`.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from bridge.clock import Clock
from bridge.store.base import NO_FINGERPRINTS
from bridge.store.edge_index import Customer, EdgeIndex, last_row
from bridge.store.edges import NO_TAGS, customers_folder, folder_of, tags_of
from bridge.store.file import LAYOUT, SCHEMA, boot, connect, has_journal, remove
from bridge.store.seals import CacheDamaged, checked, crc_of, sealed, unsealed

IN_VALUES_MAX = 500
"""Keys per SELECT; far below SQLite's limit of 32,766 variables."""

CACHE_KIB = 24 * 1024
"""Page cache of one store, unless told otherwise: holds the index of a million keys."""

GROUP_RECORDS_MAX = 16_000
"""Records in one local transaction; what a crash at most leaves to be read again from Kafka."""

GROUP_S_MAX = 1.0
"""Seconds that one local transaction stays open while batches come in; the first one after that ends it. What comes
last before a pause stays in it meanwhile, and a crash would have it read again."""

LATELY_MAX = 20_000
"""Keys whose hash is kept at hand between look-up and change: more than are in a batch."""

_HASH_BYTES = 8

_WRONG_KEY = "a key is not the one that its hash says"

_PUT = (
    "INSERT INTO state VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (hash) DO UPDATE SET "
    "fingerprint = excluded.fingerprint, crc = excluded.crc, value = excluded.value WHERE key = excluded.key"
)


class SqliteStore:
    """See the module and `store.base.Store`."""

    def __init__(self, connection: sqlite3.Connection, position: int, salt: bytes, clock: Clock) -> None:
        self._db = connection
        self._position = position
        self._salt = salt
        self._clock = clock
        self._folders: dict[str, int] = dict(connection.execute("SELECT name, id FROM folders"))
        if any(type(name) is not str for name in self._folders):
            raise CacheDamaged("a folder has no name")
        self._edges = EdgeIndex(connection, self._folders)
        self._last_row = last_row(connection)
        self._lately: dict[str, int] = {}  # hashes of keys that were asked for; most of them are put next
        self._grouped = 0
        self._group_since = 0.0
        self._interrupted = False

    @classmethod
    def open(
        cls,
        path: Path,
        identity: Mapping[str, str],
        clock: Clock,
        *,
        age_s_max: float,
        cache_kib: int = CACHE_KIB,
    ) -> SqliteStore:
        """Open the file, or build it anew when it is missing or not to be believed.

        identity: what the file must be a cache of, e.g. cluster id, topic and shard.
        age_s_max: seconds since the last change after which tombstones may already have
            been compacted away, so that reading on from the position could miss a deletion.
        cache_kib: memory for pages of the file.
        Raises `OSError` or `sqlite3.Error` when the folder cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        expected = {**identity, "layout": LAYOUT, "boot": boot()}
        try:
            return cls._open_existing(path, expected, clock, age_s_max, cache_kib)
        except (sqlite3.DatabaseError, KeyError, ValueError):
            remove(path)
        db = connect(path, cache_kib)
        try:
            db.executescript(SCHEMA)
            salt = secrets.token_bytes(_HASH_BYTES)
            rows = {
                **expected,
                "position": sealed("0"),
                "changed_at": sealed(str(clock.wall())),
                "salt": sealed(salt.hex()),
            }
            db.executemany("INSERT INTO meta VALUES (?, ?)", rows.items())
            return cls(db, 0, salt, clock)
        except BaseException:
            db.close()
            raise

    @classmethod
    def _open_existing(
        cls, path: Path, expected: Mapping[str, str], clock: Clock, age_s_max: float, cache_kib: int
    ) -> SqliteStore:
        if not path.is_file() or path.is_symlink():
            raise KeyError(path.name)
        if expected["boot"] and not has_journal(path):
            raise ValueError("a transaction may be half in it")
        db = connect(path, cache_kib)
        try:
            meta = dict(db.execute("SELECT name, value FROM meta"))
            if any(meta.get(name) != value for name, value in expected.items()):
                raise ValueError("a cache of something else")
            if float(unsealed(meta["changed_at"])) < clock.wall() - age_s_max:
                raise ValueError("too old")
            return cls(db, int(unsealed(meta["position"])), bytes.fromhex(unsealed(meta["salt"])), clock)
        except BaseException:
            db.close()
            raise

    @property
    def position(self) -> int:
        """Offset of the next record of the state partition that is not in here."""
        return self._position

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The values of those keys that exist. Raises `CacheDamaged`."""
        return {row[1]: checked(*row) for row in self._select("value, crc", keys)}

    def fingerprints(self, keys: Sequence[str]) -> dict[str, bytes]:
        """See `Store.fingerprints`."""
        return {key: found for _, key, found in self._select("fingerprint", keys) if found is not None}

    def _select(self, columns: str, keys: Sequence[str]) -> Iterator[Any]:
        """Hash, key and these columns of those that exist."""
        for start in range(0, len(keys), IN_VALUES_MAX):
            some = keys[start : start + IN_VALUES_MAX]
            part = list(map(self._hash, some))
            if len(self._lately) > LATELY_MAX:
                self._lately.clear()
            self._lately.update(zip(some, part, strict=True))
            asked = dict(zip(part, some, strict=True))
            marks = ",".join("?" * len(part))
            for row in self._db.execute(f"SELECT hash, key, {columns} FROM state WHERE hash IN ({marks})", part):
                if asked.get(row[0]) != row[1] and self._true(row[0], row[1]) not in some:
                    raise CacheDamaged(_WRONG_KEY)
                yield row

    def _hash(self, key: str) -> int:
        digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES, key=self._salt).digest()
        return int.from_bytes(digest, signed=True)

    def _hash_again(self, key: str) -> int:
        found = self._lately.pop(key, None)
        return self._hash(key) if found is None else found

    def apply(
        self,
        records: Iterable[tuple[str, bytes | None]],
        position: int,
        fingerprints: Mapping[str, bytes] = NO_FINGERPRINTS,
    ) -> None:
        """See `Store.apply`. The last value of a key wins."""
        if position < self._position:
            raise ValueError(f"position moves back from {self._position} to {position}")
        latest = dict(records)
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")
            self._group_since = self._clock.monotonic()
        try:
            self._write(latest, position, fingerprints)
            if self._edges.full:
                self._edges.flush()
            self._grouped += len(latest) + len(fingerprints)
            if self._grouped >= GROUP_RECORDS_MAX or self._clock.monotonic() >= self._group_since + GROUP_S_MAX:
                self._commit()
        except BaseException:
            self._db.rollback()
            self._edges.forget()
            raise
        self._position = position

    def _write(self, latest: Mapping[str, bytes | None], position: int, fingerprints: Mapping[str, bytes]) -> None:
        affected = self._edges.affected(latest)
        before = self._tags_before(affected)
        hash_of, number_of = self._hash_again, self._folder
        put = [
            (new, h := hash_of(k), number_of(k), k, fingerprints.get(k), crc_of(h, v), v)
            for new, (k, v) in enumerate(latest.items(), self._last_row + 1)
            if v is not None
        ]
        self._last_row += len(latest)
        known = [(found, hash_of(k), k) for k, found in fingerprints.items() if k not in latest]
        drop = [(hash_of(k), k) for k, v in latest.items() if v is None]
        if put and self._db.executemany(_PUT, put).rowcount != len(put):
            raise CacheDamaged("two keys share a hash")
        if known:
            self._db.executemany("UPDATE state SET fingerprint = ? WHERE hash = ? AND key = ?", known)
        if drop:
            self._db.executemany("DELETE FROM state WHERE hash = ? AND key = ?", drop)
        if affected:
            self._follow(affected, before, latest, {row[3]: row[0] for row in put})
        self._db.execute("UPDATE meta SET value = ? WHERE name = 'position'", (sealed(str(position)),))

    def _tags_before(self, keys: Sequence[str]) -> dict[str, tuple[int, tuple[str, ...]]]:
        """Row and tags of those customers that exist."""
        rows = self._select("value, crc, id", keys)
        return {key: (row, tags_of(key, checked(hashed, key, *rest))) for hashed, key, *rest, row in rows}

    def _follow(
        self,
        keys: Sequence[str],
        before: Mapping[str, tuple[int, tuple[str, ...]]],
        latest: Mapping[str, bytes | None],
        rows: Mapping[str, int],
    ) -> None:
        """Bring the edges of these customers in step with their values. rows: of those that are new, and others."""
        for key in keys:
            row, had = before.get(key) or (rows.get(key), NO_TAGS)
            if row is not None:  # None: it was not there and is not now
                customer = Customer(self._folder(key), row, self._hash(key))
                self._edges.follow(customer, had, tags_of(key, latest[key]))

    def _commit(self) -> None:
        self._edges.flush()
        self._db.execute("UPDATE meta SET value = ? WHERE name = 'changed_at'", (sealed(str(self._clock.wall())),))
        self._db.commit()
        self._grouped = 0

    def _folder(self, key: str) -> int:
        """The number of what is before the last part of the key."""
        name = folder_of(key)
        number = self._folders.get(name)
        if number is None:
            number = len(self._folders)
            self._db.execute("INSERT INTO folders VALUES (?, ?)", (number, name))
            self._folders[name] = number
        return number

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Every key that begins with `prefix`, unordered."""
        numbers = [n for name, n in self._folders.items() if name.startswith(prefix) or prefix.startswith(name)]
        for number in numbers:
            rows = self._db.execute("SELECT hash, key, value, crc FROM state WHERE folder = ?", (number,))
            for hashed, key, value, crc in rows:
                if self._true(hashed, key).startswith(prefix):
                    yield key, checked(hashed, key, value, crc)

    def keys_after(self, folder: str, after: int, limit: int) -> tuple[list[str], int | None]:
        """See `Store.keys_after`: an existing row keeps its number, and new ones come behind."""
        rows = self._db.execute(
            "SELECT hash, key, id FROM state WHERE folder = ? AND id > ? ORDER BY id LIMIT ?",
            (self._folders.get(folder, -1), after, limit),
        ).fetchall()
        return [self._true(hashed, key) for hashed, key, _ in rows], rows[-1][2] if len(rows) == limit else None

    def members(self, source: str, tag: str) -> Iterator[str]:
        """See `Store.members`. Raises `CacheDamaged`."""
        folder = customers_folder(source)
        number = self._folders.get(folder)
        if number is not None:
            for hashed, key in self._edges.members(number, tag):
                yield self._true(hashed, key)[len(folder) :]

    def members_count(self, source: str, tag: str) -> int:
        """See `Store.members_count`."""
        number = self._folders.get(customers_folder(source))
        return 0 if number is None else self._edges.count(number, tag)

    def member_tags(self, source: str) -> list[str]:
        """See `Store.member_tags`."""
        number = self._folders.get(customers_folder(source))
        return [] if number is None else self._edges.tags(number)

    def _true(self, hashed: int, key: Any) -> str:
        """The key, if it is the one that its hash says. `Any`: a flipped bit may have made it something else."""
        if type(key) is not str or self._hash(key) != hashed:
            raise CacheDamaged(_WRONG_KEY)
        return key

    def check(self) -> None:
        """Raise `CacheDamaged`, or another `sqlite3.DatabaseError`, when rows or their index do not fit together.

        Takes some seconds per million rows; may run in a thread while nobody else uses the store. Values are left to
        their checksums.
        """
        if self._interrupted:
            raise sqlite3.OperationalError("interrupted")
        (said,) = self._db.execute("PRAGMA integrity_check(1)").fetchone()
        if said != "ok":
            raise CacheDamaged(f"the cache is damaged: {said}")

    def interrupt(self) -> None:
        """End a `check` that runs in another thread, or is about to; it raises."""
        self._interrupted = True
        self._db.interrupt()

    def close(self) -> None:
        """Release the file; idempotent."""
        with contextlib.closing(self._db), contextlib.suppress(sqlite3.Error):
            # What cannot be kept any more is read again from Kafka. Closed already: nothing to keep.
            if self._db.in_transaction:
                self._commit()
