"""The filter language of lists: `field:value`, joined with `;`.

    field:a,b       one of the values         field:!a,b      none of them
    field:a..b      from a to b, both included; `a..` at least, `..b` at most; numbers and instants only

Texts match as a whole, letter case ignored. Values have the type of their field. Nothing can be escaped, so a text
with a comma or semicolon cannot be asked for. A text that holds `..` is a text. Every mistake is a 422.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from bridge.model import Body, instant
from bridge.sandbox.rebilly.problems import Problem, invalid

Kind = Literal["text", "instant", "number"]


class Field(NamedTuple):
    """What can be filtered and sorted by. read: its value in a document, None when it has none. `Any`: by its kind."""

    kind: Kind
    read: Callable[[Body], Any]


class Span(NamedTuple):
    """From `low` to `high`, both included, None where it is open. `Any`: str, int or float, all of one kind."""

    low: Any
    high: Any

    def holds(self, value: Any) -> bool:
        """Whether the value lies in it."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


class Clause(NamedTuple):
    """One field and its spans; a single value is a span of itself."""

    name: str
    spans: tuple[Span, ...]
    negated: bool

    def admits(self, value: Any) -> bool:
        """Whether a value passes; nothing at all is none of the values. `Any`: by the kind of the field."""
        if value is None:
            return self.negated
        return any(span.holds(value) for span in self.spans) is not self.negated


def parse(text: str | None, fields: Mapping[str, Field]) -> list[Clause]:
    """The clauses of a filter, all of which must admit a row."""
    return [] if not text else [_clause(part, fields) for part in text.split(";")]


def admits(clauses: list[Clause], document: Body, fields: Mapping[str, Field]) -> bool:
    """Whether a document passes."""
    return all(clause.admits(value_of(fields[clause.name], document)) for clause in clauses)


def value_of(field: Field, document: Body) -> Any:
    """As it is compared: texts without letter case, instants in microseconds. `Any`: by the kind."""
    value = field.read(document)
    if value is None:
        return None
    if field.kind == "text":
        return str(value).lower()
    return instant(value) if field.kind == "instant" else value


def _clause(text: str, fields: Mapping[str, Field]) -> Clause:
    # Only the first colon separates: an instant has more of them.
    name, colon, values = text.partition(":")
    if not colon or not values:
        raise _wrong(f"{text!r} is not written field:value")
    field = fields.get(name)
    if field is None:
        raise _wrong(f"{name!r} cannot be filtered by")
    negated = values.startswith("!")
    if negated:
        values = values[1:]
    if values.startswith("@"):
        raise _wrong(f"there is no value list {values!r}")
    return Clause(name, tuple(_span(value, name, field.kind) for value in values.split(",")), negated)


def _span(text: str, name: str, kind: Kind) -> Span:
    if kind == "text":
        if not text:
            raise _wrong(f"a value of {name} is empty")
        return Span(text.lower(), text.lower())
    low, dots, high = text.partition("..")
    if not dots:
        value = _typed(text, name, kind)
        return Span(value, value)
    if not low and not high:
        raise _wrong(f"a range of {name} has no end")
    return Span(_typed(low, name, kind) if low else None, _typed(high, name, kind) if high else None)


def _typed(text: str, name: str, kind: Kind) -> float | int:
    try:
        return instant(text) if kind == "instant" else float(text)
    except ValueError:
        raise _wrong(f"{text!r} is no {'date-time' if kind == 'instant' else 'number'}, which {name} is") from None


def _wrong(message: str) -> Problem:
    return invalid("filter", message)
