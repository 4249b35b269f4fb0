"""What only the file store has to survive; the contract of all stores is in `tests/contract/test_store.py`."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from bridge.clock import SystemClock
from bridge.store.sqlite import CacheDamaged, SqliteStore

IDENTITY = {"cluster": "c", "topic": "bridge.state", "shard": "3"}
DAY_S = 86_400.0


class ShiftedClock(SystemClock):
    """The machine's clock, some days ahead."""

    def __init__(self, days: float = 0.0) -> None:
        self.days = days

    def wall(self) -> float:
        return super().wall() + self.days * DAY_S


def open_file(path: Path, other: dict[str, str] | None = None, *, days: float = 0.0) -> SqliteStore:
    return SqliteStore.open(path, {**IDENTITY, **(other or {})}, ShiftedClock(days), age_s_max=3 * DAY_S)


def test_a_failing_batch_leaves_values_and_position_as_they_were(tmp_path: Path) -> None:
    store = open_file(tmp_path / "c")
    store.apply([("a", b"1")], 5)
    with pytest.raises(sqlite3.Error):
        store.apply([("a", b"2"), (object(), b"3")], 6)  # type: ignore[list-item]
    assert (store.get_many(["a", "b"]), store.position) == ({"a": b"1"}, 5)


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
