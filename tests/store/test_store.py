"""What only the file store has to survive; the contract of all stores is in `tests/contract/test_store.py`."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest

from bridge.clock import SystemClock
from bridge.store.file import remove
from bridge.store.seals import CacheDamaged
from bridge.store.sqlite import GROUP_RECORDS_MAX, GROUP_S_MAX, SqliteStore

IDENTITY = {"cluster": "c", "topic": "bridge.state", "shard": "3"}
DAY_S = 86_400.0


class ShiftedClock(SystemClock):
    """The machine's clock, some days ahead."""

    def __init__(self, days: float = 0.0) -> None:
        self.days = days
        self.later_s = 0.0

    def monotonic(self) -> float:
        return self.later_s

    def wall(self) -> float:
        return super().wall() + self.days * DAY_S


def open_file(path: Path, other: dict[str, str] | None = None, *, days: float = 0.0) -> SqliteStore:
    return SqliteStore.open(path, {**IDENTITY, **(other or {})}, ShiftedClock(days), age_s_max=3 * DAY_S)


def on_disk(path: Path) -> dict[str, bytes]:
    """What is committed, as another process would find it: what a crash leaves."""
    copy = path.with_suffix(".copy")
    for suffix in ("", "-journal"):
        shutil.copy(path.with_name(path.name + suffix), copy.with_name(copy.name + suffix))
    with contextlib.closing(sqlite3.connect(copy)) as db:
        return dict(db.execute("SELECT key, value FROM state"))


def test_a_failing_batch_leaves_a_file_that_is_as_it_was_once(tmp_path: Path) -> None:
    store = open_file(tmp_path / "c")
    store.apply([("a", b"1")], 5)
    store.close()
    store = open_file(tmp_path / "c")
    store.apply([("a", b"2")], 6)
    store._db.execute("PRAGMA max_page_count = 20")
    with pytest.raises(sqlite3.Error, match="full"):
        store.apply([("a", b"3"), ("b", bytes(1_000_000))], 7)
    store.close()
    again = open_file(tmp_path / "c")
    assert (again.get_many(["a", "b"]), again.position) == ({"a": b"1"}, 5)


def test_batches_that_follow_closely_share_a_transaction_and_whoever_reads_sees_them(tmp_path: Path) -> None:
    store = open_file(tmp_path / "c")
    store.apply([("a", b"1")], 5)
    store.apply([("a", b"2"), ("b", b"1")], 6)
    assert (store.get_many(["a", "b"]), store.position) == ({"a": b"2", "b": b"1"}, 6)
    assert on_disk(tmp_path / "c") == {}, "lost by a crash, and read again from Kafka"
    store.apply([(f"k{number}", b"") for number in range(GROUP_RECORDS_MAX)], 7)
    found = on_disk(tmp_path / "c")
    assert (found["a"], len(found)) == (b"2", GROUP_RECORDS_MAX + 2)


def test_a_local_transaction_stays_open_for_a_second_at_most(tmp_path: Path) -> None:
    clock = ShiftedClock()
    store = SqliteStore.open(tmp_path / "c", IDENTITY, clock, age_s_max=3 * DAY_S)
    store.apply([("a", b"1")], 5)
    clock.later_s = GROUP_S_MAX
    store.apply([("b", b"1")], 6)
    assert on_disk(tmp_path / "c") == {"a": b"1", "b": b"1"}
    store.apply([("c", b"1")], 7)
    assert "c" not in on_disk(tmp_path / "c")
    store.close()
    assert "c" in on_disk(tmp_path / "c")


def test_two_keys_with_one_hash_are_noticed_and_the_next_file_has_another_salt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_file(tmp_path / "c")
    salt = store._salt
    monkeypatch.setattr(SqliteStore, "_hash", lambda self, key: 7 if self._salt == salt else hash(key))
    store.apply([("a", b"1")], 5)
    assert store.get_many(["a", "b"]) == {"a": b"1"}
    with pytest.raises(CacheDamaged):
        store.apply([("b", b"2")], 6)
    store.close()
    remove(tmp_path / "c")
    again = open_file(tmp_path / "c")
    again.apply([("a", b"1"), ("b", b"2")], 6)
    assert again.get_many(["a", "b"]) == {"a": b"1", "b": b"2"}


def test_the_file_survives_and_knows_its_position(tmp_path: Path) -> None:
    store = open_file(tmp_path / "c")
    store.apply([("a", b"1")], 5)
    store.close()
    again = open_file(tmp_path / "c")
    assert (again.position, again.get_many(["a"])) == (5, {"a": b"1"})


@pytest.mark.parametrize("other", [{"cluster": "d"}, {"topic": "x.state"}, {"shard": "4"}])
def test_a_cache_of_something_else_is_thrown_away(tmp_path: Path, other: dict[str, str]) -> None:
    store = open_file(tmp_path / "c")
    store.apply([("a", b"1")], 5)
    store.close()
    assert open_file(tmp_path / "c", other).position == 0


def test_a_cache_older_than_the_tombstones_is_thrown_away(tmp_path: Path) -> None:
    store = open_file(tmp_path / "c")
    store.apply([("a", b"1")], 5)
    store.close()
    assert open_file(tmp_path / "c", days=2.9).position == 5
    assert open_file(tmp_path / "c", days=3.1).position == 0


@pytest.mark.parametrize("damage", [b"", b"not a database at all" * 100])
def test_a_damaged_file_is_thrown_away(tmp_path: Path, damage: bytes) -> None:
    store = open_file(tmp_path / "c")
    store.apply([("a", b"1")], 5)
    store.close()
    (tmp_path / "c").write_bytes(damage)
    assert open_file(tmp_path / "c").position == 0


def test_a_flipped_bit_in_a_value_is_noticed(tmp_path: Path) -> None:
    store = open_file(tmp_path / "c")
    store.apply([("a", b"a value that is long enough to be found")], 5)
    store.close()
    data = (tmp_path / "c").read_bytes()
    assert data.count(b"long enough") == 1
    (tmp_path / "c").write_bytes(data.replace(b"long enough", b"long enougj"))
    again = open_file(tmp_path / "c")
    with pytest.raises(CacheDamaged):
        again.get_many(["a"])


def test_a_link_in_the_data_folder_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    (tmp_path / "c").symlink_to(target)
    open_file(tmp_path / "c").close()
    assert target.read_bytes() == b"precious"
