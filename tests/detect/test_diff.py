"""What counts as a change."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.detect.diff import detect
from bridge.detect.essence import essence
from bridge.detect.scan import DeleteLimit, Uids

SCALARS = st.booleans() | st.integers(-3, 3) | st.text(max_size=3)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=1)
)
BODIES = st.dictionaries(st.sampled_from(["uid", "email", "updated_at", "extra", "a/b", "c~d", "e"]), JSON, max_size=5)


def at(body: dict[str, Any], pointer: str) -> object:
    """The value behind a JSON Pointer, or a mark of absence."""
    value: Any = body
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(value, dict) or name not in value:
            return "absent"
        value = value[name]
    return repr(value)


def test_a_first_sight_and_a_deletion_are_changes_without_pointers() -> None:
    created = detect(None, {"uid": "1"})
    deleted = detect({"uid": "1"}, None)
    assert created is not None
    assert created.changed == ()
    assert deleted is not None
    assert deleted.changed == ()
    assert detect(None, None) is None


def test_what_changed_is_named_by_sorted_pointers_down_to_the_field() -> None:
    before = {"uid": "1", "company": {"name": "A", "www": "x"}, "addresses": [{"country": "NO"}], "a/b~": 1}
    after = {"uid": "1", "company": {"name": "B", "www": "x"}, "addresses": [{"country": "SE"}], "a/b~": 2}
    change = detect(before, after)
    assert change is not None
    assert change.changed == ("/addresses", "/a~1b~0", "/company/name")
    assert (change.before, change.after) == (before, after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"updated_at": "2026-01-01T00:00:00Z"}, {"updated_at": "2026-01-02T00:00:00Z"}),
        ({"email": "A@example.com"}, {"email": "a@EXAMPLE.com"}),
        ({"extra": {"customer_id_changes": [1], "x": 1}}, {"extra": {"x": 1}}),
        ({"extra": {"customer_id_changes": [1]}}, {}),
    ],
)
def test_volatile_fields_make_no_change(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert detect(before, after) is None
    assert detect(after, before) is None


def test_true_and_one_are_different_values_in_json() -> None:
    assert detect({"x": True}, {"x": 1}) is not None
    assert detect({"x": [{"y": 0}]}, {"x": [{"y": False}]}) is not None
    assert detect({"x": 1}, {"x": 1.0}) is None


@given(BODIES, BODIES)
def test_the_pointers_are_exactly_where_the_essences_differ(before: dict[str, Any], after: dict[str, Any]) -> None:
    change = detect(before, after)
    if change is None:
        assert repr(sorted(essence(before).items())) == repr(sorted(essence(after).items()))
    else:
        assert change.changed
        for pointer in change.changed:
            assert at(essence(before), pointer) != at(essence(after), pointer)


@given(BODIES)
def test_nothing_differs_from_itself_and_the_argument_stays_whole(body: dict[str, Any]) -> None:
    copy = {**body}
    assert detect(body, copy) is None
    essence(body)
    assert body == copy


def test_many_missing_at_once_are_held_and_few_are_not() -> None:
    limit = DeleteLimit(share=0.05, documents=50)
    assert not limit.holds(50, 60)
    assert limit.holds(51, 60)
    assert not limit.holds(51, 10_000)
    assert limit.holds(501, 10_000)


@given(st.sets(st.text(max_size=3)), st.sets(st.text(max_size=3)))
def test_many_uids_are_compared_piece_by_piece(known: set[str], seen: set[str]) -> None:
    missing = set().union(*Uids([*known, *known]).minus(Uids(seen)))
    assert {uid for uid in known if hash(uid) in missing} == known - seen
    assert set().union(*Uids(known).having(seen)) == known & seen
