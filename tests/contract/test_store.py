"""The contract of `Store`, held by every implementation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.clock import SystemClock
from bridge.sandbox.broker.link import Power
from bridge.sandbox.simulation.ports import PoweredStore
from bridge.store.base import Store
from bridge.store.guard import GuardedStore
from bridge.store.memory import MemoryStore
from bridge.store.record import StateRecord, encode_record
from bridge.store.sqlite import IN_VALUES_MAX, SqliteStore

Build = Callable[[], Store]


@pytest.fixture(params=["memory", "sqlite", "simulated", "guarded"])
def build(request: pytest.FixtureRequest, tmp_path: Path) -> Build:
    match request.param:
        case "memory":
            return MemoryStore
        case "guarded":
            return lambda: GuardedStore(MemoryStore())
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


def customer(*tags: str, **fields: object) -> bytes:
    """The state record of a customer with these tags."""
    body = {"uid": "u", **fields} | ({"tags": sorted(tags)} if tags else {})
    return encode_record(StateRecord(body, 1, 1))


def index_of(store: Store, source: str) -> dict[str, list[str]]:
    """What the store says of the members of each tag that has some."""
    found = {tag: sorted(store.members(source, tag)) for tag in store.member_tags(source)}
    assert {tag: store.members_count(source, tag) for tag in found} == {tag: len(uids) for tag, uids in found.items()}
    assert len(found) == len(store.member_tags(source))
    return found


def test_the_members_of_a_tag_are_the_customers_whose_document_has_it(build: Build) -> None:
    store = build()
    store.apply([("s/customers/1", customer("vip", "new")), ("s/customers/2", customer("vip")), ("x", b"1")], 1)
    assert index_of(store, "s") == {"vip": ["1", "2"], "new": ["1"]}
    store.apply([("s/customers/1", customer("new")), ("s/customers/2", None), ("s/customers/3", customer("new"))], 2)
    assert index_of(store, "s") == {"new": ["1", "3"]}
    store.apply([("s/customers/2", customer("vip")), ("s/customers/1", customer())], 3)
    assert index_of(store, "s") == {"new": ["3"], "vip": ["2"]}
    assert (list(store.members("s", "no such")), store.members_count("s", "no such")) == ([], 0)
    store.close()


@pytest.mark.parametrize("looks", [True, False])
def test_a_tag_may_be_given_taken_and_given_again(build: Build, looks: bool) -> None:
    store = build()
    for position, (tags, expected) in enumerate(
        [(("a", "b"), 1), (("b",), 0), (("a",), 1), ((), 0), (None, 0), (("a",), 1), (None, 0), (("a", "b"), 1)]
    ):
        store.apply([("s/customers/1", None if tags is None else customer(*tags))], position)
        if looks:
            assert store.members_count("s", "a") == expected
    assert index_of(store, "s") == {"a": ["1"], "b": ["1"]}
    store.apply([("s/customers/1", customer("a"))], 20)
    store.apply([("s/customers/1", customer("a", "b"))], 21)
    assert index_of(store, "s") == {"a": ["1"], "b": ["1"]}
    store.close()


def test_each_source_has_its_own_members(build: Build) -> None:
    store = build()
    store.apply([("a/customers/1", customer("t")), ("ab/customers/1/t/u", customer("t", "a/t")), ("a/c/1", b"")], 1)
    assert index_of(store, "a") == {"t": ["1"]}
    assert index_of(store, "ab") == {"t": ["1/t/u"], "a/t": ["1/t/u"]}
    assert index_of(store, "b") == {}
    store.close()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("s/tags/1", customer("t")),
        ("s/users/1", customer("t")),
        ("s/cursors/customers", customer("t")),
        ("s/refused/customers/1", customer("t")),
        ("s/customers", customer("t")),
        ("s/customers/1", customer(attributes={"tags": ["t"]})),
        ("s/customers/1", encode_record(StateRecord(None, 0, 0))),
        ("s/customers/1", b'{"tags":["t"]}'),
        ("s/customers/1", b'["tags":["t"]'),
        ("s/customers/1", b'[{"tags":["t"]}]'),
        ("s/customers/1", b'{"document":{"tags":[1,null,["t"]]}}'),
        ("s/customers/1", customer(first_name='"tags":["t"]')),
    ],
)
def test_only_the_tags_of_a_customers_document_are_memberships(build: Build, key: str, value: bytes) -> None:
    store = build()
    store.apply([(key, value)], 1)
    assert index_of(store, "s") == {}
    store.apply([(key, None)], 2)
    store.close()


CHANGES = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from(["s", "z"]),
            st.sampled_from("123456"),
            st.none() | st.frozensets(st.sampled_from("abcde"), max_size=4),
        ),
        max_size=8,
    ),
    max_size=12,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CHANGES, st.sets(st.integers(0, 11)), st.booleans())
def test_whatever_is_applied_the_index_is_what_the_values_say(
    build: Build, changes: list[list[tuple[str, str, frozenset[str] | None]]], looks: set[int], reopen: bool
) -> None:
    store = build()
    known: dict[str, dict[str, frozenset[str]]] = {"s": {}, "z": {}}
    # Whatever an earlier example has left.
    store.apply([(key, None) for key, _ in store.scan("")], store.position)
    for number, batch in enumerate(changes):
        records = [(f"{s}/customers/{uid}", None if tags is None else customer(*tags)) for s, uid, tags in batch]
        store.apply(records, store.position + 1)
        for source, uid, tags in batch:
            known[source].pop(uid, None)
            if tags is not None:
                known[source][uid] = tags
        if number in looks or number == len(changes) - 1:
            if reopen and isinstance(store, SqliteStore):
                store.close()
                store = build()
            for source, customers in known.items():
                said = {
                    tag: sorted(uid for uid, tags in customers.items() if tag in tags)
                    for tag in {tag for tags in customers.values() for tag in tags}
                }
                assert index_of(store, source) == said
    store.close()


def test_keys_come_in_pieces(build: Build) -> None:
    store = build()
    keys = {f"s/customers/{number}" for number in range(25)}
    store.apply([(key, b"v") for key in [*keys, "s/customersx/1", "s/tags/1", "t/customers/1"]], 1)
    found: list[str] = []
    after: int | None = 0
    while after is not None:
        piece, after = store.keys_after("s/customers/", after, 10)
        assert len(piece) <= 10
        found += piece
    assert sorted(found) == sorted(keys)
    assert store.keys_after("nobody/customers/", 0, 10) == ([], None)
    store.close()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sets(st.integers(0, 30)),
    st.integers(1, 7),
    st.lists(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=6), max_size=12),
)
def test_a_key_that_is_there_all_the_time_is_in_exactly_one_piece(
    build: Build, first: set[int], limit: int, changes: list[list[tuple[int, bool]]]
) -> None:
    store = build()
    store.apply([(key, None) for key, _ in store.scan("")], store.position)
    store.apply([(f"s/customers/{number}", b"1") for number in first], store.position)
    always, ever = set(first), set(first)
    found: list[str] = []
    after: int | None = 0
    coming = iter(changes)
    while after is not None:
        piece, after = store.keys_after("s/customers/", after, limit)
        found += piece
        for number, stays in next(coming, []):
            store.apply([(f"s/customers/{number}", b"2" if stays else None)], store.position + 1)
            if not stays:
                always.discard(number)
            ever.add(number)
    assert {number for number in always if found.count(f"s/customers/{number}") != 1} == set()
    assert {int(key.removeprefix("s/customers/")) for key in found} <= ever
    store.close()


def test_a_key_that_comes_new_comes_behind_where_the_pieces_are(build: Build) -> None:
    store = build()
    store.apply([(f"s/customers/{number}", b"1") for number in range(4)], 1)
    _, after = store.keys_after("s/customers/", 0, 4)
    assert after is not None
    store.apply([(f"s/customers/{number}", None) for number in range(4)], 2)
    store.apply([("s/customers/new", b"1")], 3)
    assert store.keys_after("s/customers/", after, 4) == (["s/customers/new"], None)
    store.close()
