"""SqliteStore: the default store, one file per shard.

Values and position change in one SQLite transaction, so the file is always a true prefix of the state partition: a
crash loses at most the newest part, which is read again from Kafka. The file names what it caches (`identity`); a
file of another cluster, topic or shard, of another layout, too old, or damaged is removed and built anew. Each value
carries a CRC-32, because a flipped bit on disk must never become an event.

Nothing is forced to the disk; that would cost more than everything else a store does. What a process wrote survives
its death all the same, only the death of the machine can tear the file. So the identity holds the number of the
system start too, and after the next one the file is built anew from Kafka.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bridge.clock import Clock
from bridge.store.base import NO_FINGERPRINTS

LAYOUT = "2"
"""Of the tables below; another one is thrown away, never migrated: it is a cache."""

IN_VALUES_MAX = 500
"""Keys per SELECT; far below SQLite's limit of 32,766 variables."""

CACHE_KIB = 16 * 1024
"""Page cache of one store. Bounds memory per shard, whatever the number of documents."""

WAL_PAGES_MAX = 4000
"""WAL pages before a checkpoint: about 16 MiB, so that a page that changes often is not copied each time."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Another one after each start of the system, where the system has it (Linux)."""

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE state (key TEXT PRIMARY KEY, fingerprint BLOB, crc INTEGER NOT NULL, value BLOB NOT NULL);
"""


class CacheDamaged(sqlite3.DatabaseError):
    """A cached value does not match its checksum; throw the file away and restore."""


class SqliteStore:
    """See the module and `store.base.Store`."""

    def __init__(self, connection: sqlite3.Connection, position: int, clock: Clock) -> None:
        self._db = connection
        self._position = position
        self._clock = clock

    @classmethod
    def open(cls, path: Path, identity: Mapping[str, str], clock: Clock, *, age_s_max: float) -> SqliteStore:
        """Open the file, or build it anew when it is missing or not to be believed.

        identity: what the file must be a cache of, e.g. cluster id, topic and shard.
        age_s_max: seconds since the last change after which tombstones may already have
            been compacted away, so that reading on from the position could miss a deletion.
        Raises `OSError` or `sqlite3.Error` when the folder cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        expected = {**identity, "layout": LAYOUT, "boot": _boot()}
        try:
            return cls._open_existing(path, expected, clock, age_s_max)
        except (sqlite3.DatabaseError, KeyError, ValueError):
            remove(path)
        db = _connect(path)
        try:
            db.executescript(_SCHEMA)
            rows = {**expected, "position": "0", "changed_at": str(clock.wall())}
            db.executemany("INSERT INTO meta VALUES (?, ?)", rows.items())
            db.commit()
        except BaseException:
            db.close()
            raise
        return cls(db, 0, clock)

    @classmethod
    def _open_existing(cls, path: Path, expected: Mapping[str, str], clock: Clock, age_s_max: float) -> SqliteStore:
        if not path.is_file() or path.is_symlink():
            raise KeyError(path.name)
        db = _connect(path)
        try:
            meta = dict(db.execute("SELECT name, value FROM meta"))
            if any(meta.get(name) != value for name, value in expected.items()):
                raise ValueError("a cache of something else")
            if float(meta["changed_at"]) < clock.wall() - age_s_max:
                raise ValueError("too old")
            return cls(db, int(meta["position"]), clock)
        except BaseException:
            db.close()
            raise

    @property
    def position(self) -> int:
        """Offset of the next record of the state partition that is not in here."""
        return self._position

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The values of those keys that exist. Raises `CacheDamaged`."""
        return {key: _checked(key, value, crc) for key, value, crc in self._select("key, value, crc", keys)}

    def fingerprints(self, keys: Sequence[str]) -> dict[str, bytes]:
        """See `Store.fingerprints`."""
        return {key: found for key, found in self._select("key, fingerprint", keys) if found is not None}

    def _select(self, columns: str, keys: Sequence[str]) -> Iterator[Any]:
        for start in range(0, len(keys), IN_VALUES_MAX):
            part = keys[start : start + IN_VALUES_MAX]
            marks = ",".join("?" * len(part))
            yield from self._db.execute(f"SELECT {columns} FROM state WHERE key IN ({marks})", part)

    def apply(
        self,
        records: Iterable[tuple[str, bytes | None]],
        position: int,
        fingerprints: Mapping[str, bytes] = NO_FINGERPRINTS,
    ) -> None:
        """See `Store.apply`. The last value of a key wins; one local transaction."""
        if position < self._position:
            raise ValueError(f"position moves back from {self._position} to {position}")
        latest = dict(records)
        put = [(k, fingerprints.get(k), zlib.crc32(v), v) for k, v in latest.items() if v is not None]
        known = [(found, k) for k, found in fingerprints.items() if k not in latest]
        drop = [(k,) for k, v in latest.items() if v is None]
        with self._db:
            self._db.executemany(
                "INSERT INTO state VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                "fingerprint = excluded.fingerprint, crc = excluded.crc, value = excluded.value",
                put,
            )
            self._db.executemany("UPDATE state SET fingerprint = ? WHERE key = ?", known)
            self._db.executemany("DELETE FROM state WHERE key = ?", drop)
            self._db.execute("UPDATE meta SET value = ? WHERE name = 'position'", (str(position),))
            self._db.execute(
                "UPDATE meta SET value = ? WHERE name = 'changed_at'",
                (str(self._clock.wall()),),
            )
        self._position = position

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Every key that begins with `prefix`, in key order (bytes of UTF-8)."""
        # The first string after every string with this prefix; no character follows the last code point.
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else chr(0x10FFFF)
        rows = self._db.execute(
            "SELECT key, value, crc FROM state WHERE key >= ? AND key < ? ORDER BY key",
            (prefix, end),
        )
        for key, value, crc in rows:
            yield key, _checked(key, value, crc)

    def close(self) -> None:
        """Release the file; idempotent."""
        self._db.close()


def remove(path: Path) -> None:
    """Throw a cache file away, its WAL included."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=5.0, isolation_level="IMMEDIATE", check_same_thread=False)
    try:
        if _boot():
            # Holds the pages that change, not those that are new, which nearly all are: half the bytes of a WAL.
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("PRAGMA journal_mode = PERSIST")
            db.execute("PRAGMA synchronous = OFF")
        else:
            # NORMAL never corrupts a file; a power cut may lose the newest transactions, which Kafka still has.
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        db.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES_MAX}")
    except BaseException:
        db.close()
        raise
    return db


def _boot() -> str:
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:  # not Linux
        return ""


def _checked(key: str, value: bytes, crc: int) -> bytes:
    if zlib.crc32(value) != crc:
        raise CacheDamaged(f"the cached value of {json.dumps(key)} is damaged")
    return value
