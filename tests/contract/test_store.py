"""The contract of `Store`, held by every implementation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.clock import SystemClock
from bridge.sandbox.broker.link import Power
from bridge.sandbox.simulation.ports import PoweredStore
from bridge.store.base import Store
from bridge.store.memory import MemoryStore
from bridge.store.sqlite import IN_VALUES_MAX, SqliteStore

Build = Callable[[], Store]


@pytest.fixture(params=["memory", "sqlite", "simulated"])
def build(request: pytest.FixtureRequest, tmp_path: Path) -> Build:
    match request.param:
        case "memory":
            return MemoryStore
        case "simulated":
            return lambda: PoweredStore(MemoryStore(), Power(SystemClock()))
    path, identity = tmp_path / "cache.sqlite", {"cluster": "c", "topic": "bridge.state", "shard": "3"}
    return lambda: SqliteStore.open(path, identity, SystemClock(), age_s_max=3 * 86_400.0)


def test_a_new_store_is_empty_and_at_the_beginning(build: Build) -> None:
    store = build()
    assert store.position == 0
    assert store.get_many(["a"]) == {}
    assert list(store.scan("")) == []
    store.close()
    store.close()


def test_what_was_applied_is_read_and_the_last_of_a_batch_wins(build: Build) -> None:
    store = build()
    store.apply([("s/a/1", b"one"), ("s/a/2", b"two"), ("s/a/1", b"uno"), ("s/b/3", b"x"), ("s/b/3", None)], 7)
    assert store.position == 7
    assert store.get_many(["s/a/1", "s/a/2", "s/b/3", "nobody"]) == {"s/a/1": b"uno", "s/a/2": b"two"}
    store.apply([("s/a/1", None)], 7)
    assert store.get_many(["s/a/1"]) == {}
    store.close()


def test_a_scan_keeps_to_its_prefix(build: Build) -> None:
    store = build()
    keys = ["a/tags/2", "a/tags/1", "a/tagsx/1", "a/tag", "ab/tags/1", "a/tags/ø"]
    store.apply([(key, key.encode()) for key in keys], 1)
    assert sorted(key for key, _ in store.scan("a/tags/")) == ["a/tags/1", "a/tags/2", "a/tags/ø"]
    assert sorted(key for key, _ in store.scan("a/ta")) == sorted(key for key in keys if key.startswith("a/ta"))
    assert sorted(key for key, _ in store.scan("")) == sorted(keys)
    store.close()


def test_more_keys_than_one_statement_takes(build: Build) -> None:
    store = build()
    keys = [f"k{number}" for number in range(IN_VALUES_MAX * 2 + 1)]
    store.apply([(key, b"v") for key in keys], 1)
    assert len(store.get_many(keys)) == len(keys)
    store.close()


def test_the_position_never_moves_back_and_nothing_is_applied_then(build: Build) -> None:
    store = build()
    store.apply([("a", b"1")], 5)
    with pytest.raises(ValueError, match="moves back"):
        store.apply([("a", b"2")], 4)
    assert store.get_many(["a"]) == {"a": b"1"}
    store.close()


def test_the_position_alone_may_move(build: Build) -> None:
    store = build()
    store.apply([("a", b"1")], 5)
    store.apply([], 9)
    assert (store.position, store.get_many(["a"])) == (9, {"a": b"1"})
    store.close()


def test_keys_and_values_are_carried_unchanged(build: Build) -> None:
    store = build()
    odd = {"s/c/%2F..": b"", "s/c/\u0000": b"\x00\xff", "s/c/\U0001f642": b"x" * 70_000, "s/c/' OR 1": b"1"}
    store.apply(odd.items(), 1)
    assert store.get_many(list(odd)) == odd
    assert dict(store.scan("s/c/")) == odd
    store.close()


def test_a_fingerprint_belongs_to_the_value_it_came_with(build: Build) -> None:
    store = build()
    store.apply([("s/a/1", b"one"), ("s/a/2", b"two")], 1, {"s/a/1": b"p1"})
    assert store.fingerprints(["s/a/1", "s/a/2", "nobody"]) == {"s/a/1": b"p1"}
    store.apply([], 1, {"s/a/2": b"p2", "nobody": b"p"})
    assert store.fingerprints(["s/a/1", "s/a/2", "nobody"]) == {"s/a/1": b"p1", "s/a/2": b"p2"}
    assert store.get_many(["nobody"]) == {}
    store.apply([("s/a/1", b"uno"), ("s/a/2", None)], 2)
    assert store.fingerprints(["s/a/1", "s/a/2"]) == {}
    store.apply([("s/a/2", b"two")], 3)
    assert store.fingerprints(["s/a/2"]) == {}
    store.close()
