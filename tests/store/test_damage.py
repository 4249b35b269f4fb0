"""A damaged cache is noticed and never believed (P05), and one I/O error ends the object that met it (P04, P07)."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.clock import SystemClock
from bridge.store.edges import tags_of
from bridge.store.file import PAGE_BYTES
from bridge.store.record import StateRecord, encode_record
from bridge.store.seals import CacheDamaged
from bridge.store.sqlite import SqliteStore

IDENTITY = {"cluster": "c", "topic": "bridge.state", "shard": "3"}
POSITION = 471_100_000_007
T = TypeVar("T")
CHANCE = Random(1)
TAGS = [f"tag-{number:02}" for number in range(40)]


def value_of(number: int) -> bytes:
    tags = sorted(CHANCE.sample(TAGS, 10))
    return encode_record(StateRecord({"uid": f"{number:04}", "email": CHANCE.randbytes(30).hex(), "tags": tags}, 1, 1))


ROWS = {f"acme/customers/{number:04}": value_of(number) for number in range(400)}
FINGERPRINTS = {key: CHANCE.randbytes(16) for key in ROWS}
CHANGED = {key: value_of(number) for number, key in enumerate(ROWS)}
MEMBERS = {
    tag: {key.removeprefix("acme/customers/") for key, value in ROWS.items() if tag in tags_of(key, value)}
    for tag in TAGS
}


def open_file(path: Path, **identity: str) -> SqliteStore:
    return SqliteStore.open(path, {**IDENTITY, **identity}, SystemClock(), age_s_max=3600.0)


def filled(path: Path) -> None:
    store = open_file(path)
    store.apply(ROWS.items(), POSITION, FINGERPRINTS)
    store.close()


def believed(path: Path) -> str:
    """Open the file and use everything in it; `fresh` or `refused` unless all of it is what was written."""
    store = open_file(path)
    try:
        if store.position == 0:
            assert (store.get_many(list(ROWS)), store.member_tags("acme")) == ({}, [])
            return "fresh"
        assert store.position == POSITION
        store.check()
        uses = [used(lambda: store.get_many(list(ROWS))), used(lambda: dict(store.scan("")))]
        fingerprints = used(lambda: store.fingerprints(list(ROWS)), FINGERPRINTS)
        tags = used(lambda: sorted(store.member_tags("acme")))
        counts = {tag: used(partial(store.members_count, "acme", tag)) for tag in TAGS}
        members = {tag: used(partial(members_of, store, tag)) for tag in TAGS}
        keys = used(lambda: store.keys_after("acme/customers/", 0, len(ROWS) + 1)[0])
    except sqlite3.Error:
        return "refused"
    finally:
        store.close()
    assert all(found == ROWS for found in uses if found is not None)
    assert tags in (None, TAGS)
    assert all(found in (None, len(MEMBERS[tag])) for tag, found in counts.items())
    assert all(found in (None, MEMBERS[tag]) for tag, found in members.items())
    assert keys is None or sorted(keys) == list(ROWS)
    uses += [tags, *counts.values(), *members.values(), keys]
    # One that is damaged is of no row, so the row is looked into.
    assert all(FINGERPRINTS[key] == value or value not in FINGERPRINTS.values() for key, value in fingerprints.items())
    return "true" if all(found is not None for found in uses) else "refused"


def members_of(store: SqliteStore, tag: str) -> set[str]:
    return set(store.members("acme", tag))


def used(use: Callable[[], T], otherwise: T | None = None) -> Any:
    """Each use has to notice by itself what is wrong with what it uses."""
    try:
        return use()
    except sqlite3.Error:
        return otherwise


with TemporaryDirectory() as _folder:
    filled(Path(_folder) / "c")
    WHOLE = (Path(_folder) / "c").read_bytes()
    JOURNAL = {path.name: path.read_bytes() for path in Path(_folder).iterdir() if path.name != "c"}
BITS = len(WHOLE) * 8
PAGE = PAGE_BYTES


def belief(data: bytes) -> str:
    """What comes of a file with these bytes."""
    with TemporaryDirectory() as folder:
        for name, journal in JOURNAL.items():
            (Path(folder) / name).write_bytes(journal)
        (Path(folder) / "c").write_bytes(data)
        return believed(Path(folder) / "c")


def test_a_whole_file_is_believed() -> None:
    assert belief(WHOLE) == "true"


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(0, BITS - 1), min_size=1, max_size=20))
def test_flipped_bits_are_noticed_wherever_they_are(bits: list[int]) -> None:
    data = bytearray(WHOLE)
    for bit in bits:
        data[bit // 8] ^= 1 << bit % 8
    belief(bytes(data))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE state SET value = CAST(value AS TEXT)",
        "UPDATE state SET key = CAST(key AS BLOB)",
        "UPDATE folders SET name = CAST(name AS BLOB)",
        "UPDATE meta SET value = CAST(value AS BLOB) WHERE name = 'position'",
        "UPDATE meta SET value = CAST(value AS BLOB) WHERE name = 'salt'",
        "UPDATE meta SET value = CAST(value AS BLOB) WHERE name = 'changed_at'",
    ],
)
def test_a_text_that_became_a_blob_is_noticed_and_so_is_the_reverse(change: str) -> None:
    """One bit of SQLite's type code; its own check finds nothing wrong with either."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "c"
        filled(path)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = PERSIST")
            db.execute(change)
        assert believed(path) in ("fresh", "refused")


ONE = "WHERE id = (SELECT max(id) FROM tags)"


@pytest.mark.parametrize(
    ("change", "hurt"),
    [
        ("UPDATE state SET key = 'acme/customers/0041' WHERE key = 'acme/customers/0042'", "values"),
        (f"UPDATE tags SET members = members + 1 {ONE}", "counts"),
        (f"UPDATE tags SET members = 0 {ONE}", "tags"),
        (f"UPDATE tags SET members = CAST(members AS BLOB) {ONE}", "counts"),
        (f"UPDATE tags SET digest = -digest {ONE}", "members"),
        (f"UPDATE tags SET crc = crc + 1 {ONE}", "tags"),
        (f"UPDATE tags SET id = 99 {ONE}", "tags"),
        ("DELETE FROM edges WHERE tag = 7 AND customer = (SELECT max(customer) FROM edges WHERE tag = 7)", "members"),
        ("INSERT OR IGNORE INTO edges SELECT 7, id FROM state LIMIT 399", "members"),
        ("UPDATE OR REPLACE edges SET customer = customer + 400 WHERE tag = 7", "members"),
        ("UPDATE OR REPLACE edges SET customer = 401 - customer WHERE tag = 7", "members"),
        ("UPDATE state SET id = CASE id WHEN 1 THEN 500 ELSE 1 END WHERE id < 3", "members"),
    ],
)
def test_each_look_at_members_notices_what_is_wrong_with_what_it_looks_at(change: str, hurt: str) -> None:
    """Nothing here is found by SQLite's own check: all of it fits together, but is not what was written."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "c"
        filled(path)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = PERSIST")
            db.execute(change)
        assert believed(path) == "refused"
        store = open_file(path)
        store.check()
        looks: dict[str, Callable[[], object]] = {
            "values": lambda: store.get_many(list(ROWS)),
            "tags": lambda: store.member_tags("acme"),
            "counts": lambda: [store.members_count("acme", tag) for tag in TAGS],
            "members": lambda: [members_of(store, tag) for tag in TAGS],
        }
        with pytest.raises(sqlite3.Error):
            looks[hurt]()
        store.close()


@pytest.mark.parametrize(
    "change", ["DELETE FROM edges", "INSERT OR IGNORE INTO edges SELECT tags.id, state.id FROM tags, state"]
)
def test_edges_that_do_not_fit_what_changes_are_noticed(tmp_path: Path, change: str) -> None:
    filled(tmp_path / "c")
    with closing(sqlite3.connect(tmp_path / "c", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = PERSIST")
        db.execute(change)
    store = open_file(tmp_path / "c")
    store.apply([(key, CHANGED[key]) for key in ROWS], POSITION)
    with pytest.raises(CacheDamaged):
        store._commit()
    store.close()


def where(text: bytes) -> int:
    """Bit of the middle of the only or last place of a text."""
    return (WHOLE.rindex(text) + len(text) // 2) * 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"acme/customers/0042", "refused"),
        (ROWS["acme/customers/0042"], "refused"),
        (str(POSITION).encode(), "fresh"),
        (b"SQLite format", "fresh"),
        (IDENTITY["topic"].encode(), "fresh"),
    ],
)
def test_each_part_of_the_file_is_guarded(text: bytes, expected: str) -> None:
    data = bytearray(WHOLE)
    data[where(text) // 8] ^= 1
    assert belief(bytes(data)) == expected


@settings(deadline=None, max_examples=60)
@given(st.integers(0, len(WHOLE) - 1))
@example(0)
@example(PAGE)
def test_a_truncated_file_is_never_believed(size: int) -> None:
    assert belief(WHOLE[:size]) != "true"


def test_a_page_in_the_place_of_another_is_noticed() -> None:
    pages = [WHOLE[start : start + PAGE] for start in range(0, len(WHOLE), PAGE)]
    for place in range(1, len(pages)):
        torn = [*pages]
        torn[place] = pages[place % (len(pages) - 1) + 1]
        assert belief(b"".join(torn)) != "true", place


def test_a_file_whose_journal_was_taken_away_is_not_believed(tmp_path: Path) -> None:
    filled(tmp_path / "c")
    assert believed(tmp_path / "c") == "true"
    for name in JOURNAL:
        os.truncate(tmp_path / name, 0)
    assert believed(tmp_path / "c") == "fresh"
    filled(tmp_path / "c")
    for name in JOURNAL:
        (tmp_path / name).unlink()
    assert believed(tmp_path / "c") == "fresh"


@pytest.mark.parametrize("other", [{"shard": "4"}, {"topic": "x.state"}, {"cluster": "d"}])
def test_the_file_of_another_shard_is_not_believed(tmp_path: Path, other: dict[str, str]) -> None:
    filled(tmp_path / "c")
    assert open_file(tmp_path / "c", **other).position == 0


@pytest.mark.parametrize("layout", ["1", "4", "999"])
def test_the_file_of_another_release_is_built_anew(tmp_path: Path, layout: str) -> None:
    filled(tmp_path / "c")
    db = sqlite3.connect(tmp_path / "c")
    with db:
        db.execute("UPDATE meta SET value = ? WHERE name = 'layout'", (layout,))
    db.close()
    store = open_file(tmp_path / "c")
    assert (store.position, store.get_many(list(ROWS))) == (0, {})
    store.apply(ROWS.items(), POSITION)
    store.close()
    assert open_file(tmp_path / "c").position == POSITION


def test_a_process_that_dies_in_the_middle_of_a_batch_leaves_the_batch_before(tmp_path: Path) -> None:
    filled(tmp_path / "c")
    killed = os.fork()
    if not killed:
        store = open_file(tmp_path / "c")
        store._db.execute("PRAGMA cache_size = 5")  # half of the batch is on disk before its end
        store._db.set_trace_callback(lambda said: os.kill(os.getpid(), 9) if said.startswith("UPDATE meta") else None)
        store.apply([(key, b"new" * 300) for key in ROWS], POSITION + 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(killed, 0)[1]) == -9
    assert (tmp_path / "c").read_bytes() != WHOLE
    assert believed(tmp_path / "c") == "true"
