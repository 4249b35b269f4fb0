"""Lists: `limit`, `offset`, `sort`, `filter`, `q`, and the `Pagination-…` headers that say what there is in all.

The customers' list walks row numbers in an order the world keeps (by creation or by change) and reads only those
documents that a filter needs to see or that the page shows. All other lists are small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import orjson

from bridge.model import Body
from bridge.sandbox.answer import Answer
from bridge.sandbox.population.customers import Customers
from bridge.sandbox.rebilly import documents
from bridge.sandbox.rebilly.call import Call
from bridge.sandbox.rebilly.documents import CUSTOMER_FIELDS, CUSTOMER_SORTS
from bridge.sandbox.rebilly.filters import Clause, Field, Span, admits, parse, value_of
from bridge.sandbox.rebilly.problems import Problem, invalid

LIMIT_MAX = 1_000
OFFSET_MAX = 1_000
"""So the first 2000 rows of a list can be reached, and no more."""

T = TypeVar("T")
Sort = list[tuple[str, bool]]
"""Fields in order of weight, and whether each is descending."""


class Window(NamedTuple):
    """Which rows of a list a page shows; `limit` and `offset` as the headers tell them."""

    limit: int
    offset: int
    shown: slice


def list_rows(call: Call, rows: Sequence[Body], fields: Mapping[str, Field]) -> Answer:
    """A page of a small list that holds these objects; they can be sorted by whatever they can be filtered by."""
    window, clauses = _window(call), parse(call.first("filter"), fields)
    sort, asked = _sort(call, fields.keys()), (call.first("q") or "").lower()
    matching = [row for row in rows if admits(clauses, row, fields) and _mentions(row.values(), asked)]

    def key(name: str) -> Callable[[Body], Any]:
        return lambda row: _sortable(value_of(fields[name], row))

    return _page(
        window, [orjson.dumps(row) for row in _ordered(call, matching, sort, key)[window.shown]], len(matching)
    )


def list_customers(call: Call) -> Answer:
    """`GET /customers`."""
    window, clauses = _window(call), parse(call.first("filter"), CUSTOMER_FIELDS)
    sort, asked = _sort(call, CUSTOMER_SORTS), (call.first("q") or "").lower()
    walk, order = _walk(call.world.customers, clauses, sort)
    rows = [row for row in walk if _row_matches(call, row, clauses, asked)]
    if sort and not (len(sort) == 1 and sort[0][0] == order and call.switches.sort_ties == "reversed"):
        rows = _ordered(call, rows, sort, lambda name: _row_key(call, name))
    elif sort and sort[0][1]:
        rows.reverse()
    shown = [orjson.dumps(show(call, row)) for row in rows[window.shown]]
    answer = _page(window, shown, len(rows))
    answer.delay_s = call.switches.page_latency_ms / 1000
    return answer


def show(call: Call, row: int) -> Body:
    """A customer as the request wants it."""
    register = call.world.register
    tags, document = register.tags_of(row), register.document(row)
    if call.switches.tags_order == "shuffled":
        call.office.chance.shuffle(tags)
    shown = documents.customer(document, tags, call.view, call.names("fields"))
    if expand := call.names("expand"):
        shown["_embedded"] = documents.embedded(document, expand, call.view)
    return shown


# Parameters.


def _window(call: Call) -> Window:
    limit = _whole(call, "limit", call.switches.default_limit, LIMIT_MAX)
    offset = _whole(call, "offset", 0, None)
    if offset > OFFSET_MAX:
        above = call.switches.offset_above_1000
        if above in {"422", "400"}:
            raise Problem(int(above), "the offset is too great", [("offset", f"must be 0 to {OFFSET_MAX}")])
        if above == "empty":
            return Window(limit, offset, slice(0, 0))
        offset = OFFSET_MAX
    return Window(limit, offset, slice(offset, offset + limit))


def _whole(call: Call, name: str, default: int, most: int | None) -> int:
    text = call.first(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9) or (most is not None and int(text) > most):
        raise invalid(name, f"must be a whole number from 0 to {most or OFFSET_MAX}")
    return int(text)


def _sort(call: Call, known: Iterable[str]) -> Sort:
    names = call.names("sort") or []
    sort = [(name.removeprefix("-"), name.startswith("-")) for name in names]
    if unknown := [name for name, _ in sort if name not in set(known)]:
        raise invalid("sort", f"cannot be sorted by {', '.join(unknown)}")
    return sort


# Rows.


def _ordered(call: Call, rows: list[T], sort: Sort, key: Callable[[str], Callable[[T], Any]]) -> list[T]:
    """The rows in this order; the switch decides about those that are alike. `Any`: what can be compared."""
    ties = call.switches.sort_ties
    if ties == "shuffled":
        rows = call.office.chance.sample(rows, len(rows))
    if ties == "reversed" and sort and sort[0][1]:
        rows = rows[::-1]
    for name, descending in reversed(sort):
        rows = sorted(rows, key=key(name), reverse=descending)
    return rows


def _sortable(value: Any) -> tuple[bool, Any]:
    """Nothing comes before everything. `Any`: by the kind of the field."""
    return (value is not None, 0 if value is None else value)


def _walk(customers: Customers, clauses: Sequence[Clause], sort: Sort) -> tuple[Iterable[int], str]:
    """The living, at least those that the clauses admit, in order of one of their instants; and which that is."""
    spans: dict[str, Span] = {c.name: c.spans[0] for c in clauses if not c.negated and len(c.spans) == 1}
    by_change = "updatedTime" in spans or (bool(sort) and sort[0][0] == "updatedTime" and "createdTime" not in spans)
    if by_change:
        span = spans.get("updatedTime", Span(None, None))
        rows = customers.changed_since(span.low or 0, until=span.high, exclusive=False, descending=False)
    else:
        span = spans.get("createdTime", Span(None, None))
        rows = customers.created_between(span.low, span.high)
    return (row for row in rows if customers.alive(row)), "updatedTime" if by_change else "createdTime"


def _row_matches(call: Call, row: int, clauses: Sequence[Clause], asked: str) -> bool:
    customers = call.world.customers
    document: Body | None = None
    for clause in clauses:
        if clause.name == "updatedTime":
            value: Any = customers.stamps[row]
        elif clause.name == "createdTime":
            value = customers.created[row]
        elif clause.name == "id":
            value = customers.uids[row].lower()
        else:
            document = document or call.world.register.document(row)
            value = value_of(CUSTOMER_FIELDS[clause.name], document)
        if not clause.admits(value):
            return False
    if not asked:
        return True
    document = document or call.world.register.document(row)
    contact = documents.contact(document) or {}
    return _mentions([document["id"], document.get("email"), *contact.values()], asked)


def _row_key(call: Call, name: str) -> Callable[[int], Any]:
    customers = call.world.customers
    if name == "updatedTime":
        return customers.stamps.__getitem__
    if name == "createdTime":
        return customers.created.__getitem__
    return lambda row: _sortable(value_of(CUSTOMER_FIELDS[name], call.world.register.document(row)))


def _mentions(values: Iterable[Any], asked: str) -> bool:
    """Whether a text among the values holds the words. `Any`: JSON values."""
    return not asked or any(isinstance(value, str) and asked in value.lower() for value in values)


def _page(window: Window, rows: list[bytes], total: int) -> Answer:
    answer = Answer(rows=rows)
    answer.headers["pagination-total"] = str(total)
    answer.headers["pagination-limit"] = str(window.limit)
    answer.headers["pagination-offset"] = str(window.offset)
    return answer
