"""The filter language, against a model that is nothing but its description."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.model import iso
from bridge.sandbox.rebilly.filters import Field, admits, parse
from bridge.sandbox.rebilly.problems import Problem

FIELDS = {
    "name": Field("text", lambda row: row.get("name")),
    "at": Field("instant", lambda row: row.get("at")),
    "count": Field("number", lambda row: row.get("count")),
}

NAMES = st.text("abAB.", min_size=1, max_size=3)
INSTANTS = st.integers(0, 6).map(lambda second: iso(1_770_000_000_000_000 + second * 1_000_000))
COUNTS = st.integers(-2, 4)

ROWS = st.fixed_dictionaries(
    {},
    optional={"name": NAMES, "at": INSTANTS, "count": COUNTS},
)


class Wish:
    """A clause as a person means it: how it is written, and whether a value is meant."""

    def __init__(self, name: str, spans: list[tuple[Any, Any]], negated: bool) -> None:
        self.name, self.spans, self.negated = name, spans, negated

    @property
    def text(self) -> str:
        written = [str(low) if low == high else f"{_end(low)}..{_end(high)}" for low, high in self.spans]
        return f"{self.name}:{'!' if self.negated else ''}{','.join(written)}"

    def means(self, row: dict[str, Any]) -> bool:
        if self.name not in row:
            return self.negated
        value = row[self.name]
        if self.name == "name":
            return (value.lower() in {low.lower() for low, _ in self.spans}) is not self.negated
        # Instants of one form are in order as texts are.
        hit = any((low is None or low <= value) and (high is None or value <= high) for low, high in self.spans)
        return hit is not self.negated


def _end(value: object) -> str:
    return "" if value is None else str(value)


def _spans(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, Any]]:
    open_ended = st.one_of(st.tuples(values, st.none()), st.tuples(st.none(), values))
    return st.one_of(values.map(lambda value: (value, value)), st.tuples(values, values), open_ended)


WISHES = st.one_of(
    st.builds(Wish, st.just("name"), st.lists(NAMES.map(lambda n: (n, n)), min_size=1, max_size=3), st.booleans()),
    st.builds(Wish, st.just("at"), st.lists(_spans(INSTANTS), min_size=1, max_size=3), st.booleans()),
    st.builds(Wish, st.just("count"), st.lists(_spans(COUNTS), min_size=1, max_size=3), st.booleans()),
)


@given(st.lists(WISHES, min_size=1, max_size=3), st.lists(ROWS, max_size=6))
def test_a_filter_admits_what_it_describes(wishes: list[Wish], rows: list[dict[str, Any]]) -> None:
    clauses = parse(";".join(wish.text for wish in wishes), FIELDS)
    for row in rows:
        assert admits(clauses, row, FIELDS) is all(wish.means(row) for wish in wishes)


@given(st.text("namecout:!;,.@0T-", max_size=20) | st.text(max_size=20))
def test_any_text_is_a_filter_or_a_mistake_that_is_named(text: str) -> None:
    mistake: Problem | None = None
    try:
        parse(text, FIELDS)
    except Problem as no:
        mistake = no
    assert mistake is None or (mistake.status, [field for field, _ in mistake.invalid]) == (422, ["filter"])


@pytest.mark.parametrize(
    "text",
    [
        "name",
        "name:",
        "name:a,",
        "name:!",
        ":a",
        "colour:red",
        "at:yesterday",
        "at:2026-02-02",
        "at:..",
        "count:many",
        "count:1..few",
        "name:@list",
        "name:a;",
    ],
)
def test_a_mistake_is_an_error(text: str) -> None:
    with pytest.raises(Problem) as refusal:
        parse(text, FIELDS)
    assert refusal.value.status == 422


def test_no_filter_admits_everything() -> None:
    assert parse(None, FIELDS) == parse("", FIELDS) == []
    assert admits([], {"name": "a"}, FIELDS)
