"""The file of a `SqliteStore`: its tables, how it is opened, and what is known of it from outside.

Nothing is forced to the disk where the system says which start it is (Linux): then the file is not believed after the
next one, see `store.sqlite`.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from bridge.store.edge_index import EDGES_SCHEMA

LAYOUT = "5"
"""Of the tables below; another one is thrown away, never migrated: it is a cache."""

PAGE_BYTES = 16 * 1024
"""Of the file. A record is one to two KiB, and many in a page cost a third less than SQLite's 4096 bytes."""

WAL_PAGES_MAX = 1000
"""WAL pages before a checkpoint: about 16 MiB, so that a page that changes often is not copied each time."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Another one after each start of the system, where the system has it (Linux)."""

SCHEMA = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE folders (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE state (
    id INTEGER PRIMARY KEY,
    hash INTEGER NOT NULL,
    folder INTEGER NOT NULL,
    key TEXT NOT NULL,
    fingerprint BLOB,
    crc INTEGER NOT NULL,
    value BLOB NOT NULL
);
CREATE UNIQUE INDEX by_hash ON state (hash);
CREATE INDEX by_folder ON state (folder);
{EDGES_SCHEMA}
"""


def remove(path: Path) -> None:
    """Throw a cache file away, with its journal or WAL."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def has_journal(path: Path) -> bool:
    """It stays there for good, so if it is away somebody took it, and with it what a crash would have to undo."""
    journal = path.with_name(path.name + "-journal")
    return journal.is_file() and journal.stat().st_size > 0


def connect(path: Path, cache_kib: int) -> sqlite3.Connection:
    """Open the file, or create it without tables. cache_kib: memory for its pages."""
    db = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    try:
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # of a file that is new
        if boot():
            # Holds the pages that change, not those that are new, which nearly all are: half the bytes of a WAL.
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("PRAGMA journal_mode = PERSIST")
            db.execute("PRAGMA synchronous = OFF")
        else:
            # NORMAL never corrupts a file; a power cut may lose the newest transactions, which Kafka still has.
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA cache_size = -{cache_kib}")
        db.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES_MAX}")
    except BaseException:
        db.close()
        raise
    return db


def boot() -> str:
    """Which start of the system this is; empty where it does not say."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:  # not Linux
        return ""
