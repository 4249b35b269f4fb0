"""The customer list: every parameter of it and how they act together.

Filters are joined with AND and look at the document as it is shown (a tombstone has six fields, so only `search` by
customer_id can match one). A page costs one walk over row numbers and a join of stored bytes; only text filters parse
documents. Contacts are hidden unless `type` is `contact` or `any`, and bring the customers they are contacts for.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice

from bridge.errors import RequestRefused
from bridge.model import instant
from bridge.sandbox.answer import Answer
from bridge.sandbox.dintero.answer import Call
from bridge.sandbox.dintero.filters import Filter, filters_of
from bridge.sandbox.population.customers import CONTACT, DELETED, TYPES, UNSEEN, Customers

LIMIT_MAX = 100
LIMIT_DEFAULT = 10


@dataclass(frozen=True, slots=True)
class Query:
    """The parameters, checked. kinds: which kinds of rows match. after: the row of the cursor."""

    kinds: frozenset[int]
    limit: int
    total: bool
    since: int | None
    after: int | None
    tag: str | None
    filters: tuple[Filter, ...]

    @property
    def plain(self) -> bool:
        """Whether the counts per kind say how many rows match."""
        return not self.filters and self.tag is None and self.since is None


def list_customers(call: Call) -> Answer:
    """`GET /customers/users`."""
    customers = call.world.customers
    query = _parse(call)
    late = customers.settle(call.world.clock.wall())
    rows = list(islice(_matching(call, query, query.after, late=late), query.limit))
    answer = Answer()
    if query.total:
        answer.headers["total-count"] = str(_count(call, query, late=late))
    rows = _with_linked(call, query, rows)
    if late:
        shown = (customers.shown(row) for row in rows)
        answer.rows = [state.body for state in shown if state.kind != UNSEEN]
    else:
        answer.rows = [customers.bodies[row] for row in rows]
    answer.delay_s = call.switches.page_latency_ms / 1000
    return answer


def exists(call: Call) -> Answer:
    """`HEAD /customers/users`: is there a customer with this e-mail or phone number?"""
    if not call.switches.head_users:
        raise RequestRefused("not enabled for this account", status=405)
    filters = filters_of(call, ("email", "phone_number"))
    if not filters:
        raise RequestRefused("email or phone_number is required", status=400)
    bodies = call.world.customers.bodies
    rows = call.world.customers.live_row_of.values()
    if not any(all(test(bodies[row]) for test in filters) for row in rows):
        raise RequestRefused("no such customer", status=404)
    return Answer()


# Parameters.


def _parse(call: Call) -> Query:
    text = call.first("limit")
    limit = str(LIMIT_DEFAULT) if text is None else text
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 3 and 1 <= int(limit) <= LIMIT_MAX):
        raise RequestRefused(f"limit must be 1 to {LIMIT_MAX}", status=400)
    since, after = _cursors(call)
    kinds = _kinds(call.first("type"))
    hidden = call.switches.tombstones == "never" or (since is not None and call.switches.tombstones_in_since == "never")
    if call.flag("include_deleted") and not hidden:
        kinds = _with_deleted(kinds, call.first("type"))
    return Query(kinds, int(limit), call.flag("total"), since, after, call.first("tag_id"), filters_of(call))


def _cursors(call: Call) -> tuple[int | None, int | None]:
    since_text, after_text = call.first("since_datetime"), call.first("starting_after")
    if since_text is not None and after_text is not None:
        if call.switches.since_with_cursor == "error":
            raise RequestRefused("since_datetime cannot be combined with starting_after", status=400)
        if call.switches.since_with_cursor == "ignore_cursor":
            after_text = None
        else:
            since_text = None
    try:
        since = None if since_text is None else instant(since_text)
    except ValueError:
        raise RequestRefused("since_datetime must be a date-time", status=400) from None
    return since, None if after_text is None else _cursor_row(call, after_text)


def _cursor_row(call: Call, text: str) -> int | None:
    customers, kind = call.world.customers, call.switches.cursor_kind
    if kind == "ignored":
        return None
    if kind == "id":
        row = customers.row_of.get(text)
    else:
        row = customers.live_row_of.get(text, customers.dead_row_of.get(text))
    if row is None:
        raise RequestRefused("starting_after is unknown", status=400)
    return row


def _kinds(kind: str | None) -> frozenset[int]:
    if kind is None:
        return frozenset(range(len(TYPES))) - {CONTACT}
    if kind == "any":
        return frozenset(range(len(TYPES)))
    if kind not in TYPES:
        raise RequestRefused(f"type must be any or one of {', '.join(TYPES)}", status=400)
    return frozenset({TYPES.index(kind)})


def _with_deleted(kinds: frozenset[int], kind: str | None) -> frozenset[int]:
    # A tombstone has no type: it cannot match a certain one.
    return kinds | {DELETED} if kind in {None, "any"} else kinds


# Rows.


def _walk(call: Call, query: Query, after: int | None) -> Iterator[int]:
    customers, switches = call.world.customers, call.switches
    if query.since is not None:
        exclusive, descending = switches.since_bound == "exclusive", switches.since_order == "descending"
        rows = customers.changed_since(query.since, exclusive=exclusive, descending=descending)
        return rows if query.tag is None else (row for row in rows if query.tag in customers.tags[row])
    base = customers.order if query.tag is None else customers.members.get(query.tag, array("q"))
    if switches.list_order == "created":
        first = 0 if after is None else customers.position(base, after)
        return (base[i] for i in range(first, len(base)))
    if switches.list_order == "created_descending":
        last = len(base) if after is None else customers.position(base, after)
        return (base[i] for i in range(last - 1, -1, -1) if base[i] != after)
    if switches.list_order == "id":
        rows_by_id = sorted(base, key=customers.uids.__getitem__)
        first = 0
        if after is not None:
            first = bisect_right(rows_by_id, customers.uids[after], key=customers.uids.__getitem__)
        return islice(rows_by_id, first, None)
    mixed = list(base)
    call.world.fault_rng.shuffle(mixed)
    return iter(mixed if after is None else mixed[mixed.index(after) + 1 :] if after in mixed else [])


def _matching(call: Call, query: Query, after: int | None, *, late: bool) -> Iterator[int]:
    customers, walk = call.world.customers, _walk(call, query, after)
    if not late and not query.filters:
        kinds, wanted = customers.kinds, query.kinds
        return (row for row in walk if kinds[row] in wanted)
    return (row for row in walk if _matches(customers, query, row))


def _matches(customers: Customers, query: Query, row: int) -> bool:
    shown = customers.shown(row)
    return shown.kind in query.kinds and all(test(shown.body) for test in query.filters)


def _count(call: Call, query: Query, *, late: bool) -> int:
    customers = call.world.customers
    if query.plain and not late:
        return sum(customers.counts[kind] for kind in query.kinds)
    if query.tag is not None and not query.filters and query.since is None and len(query.kinds) >= len(TYPES):
        return len(customers.members.get(query.tag, ()))
    return sum(1 for _ in _matching(call, query, None, late=late))


def _with_linked(call: Call, query: Query, rows: list[int]) -> list[int]:
    """The page's rows, then the customers whom its contacts are contacts for, as far as they are not in it already."""
    customers = call.world.customers
    if not any(row in customers.links for row in rows):
        return rows
    if call.switches.linked_users == "appended":
        return rows + _linked(customers, rows)
    while rows and len(rows) + len(_linked(customers, rows)) > query.limit and len(rows) > 1:
        rows = rows[:-1]
    return (rows + _linked(customers, rows))[: query.limit]


def _linked(customers: Customers, rows: list[int]) -> list[int]:
    seen = set(rows)
    links = chain.from_iterable(customers.links.get(row, ()) for row in rows)
    linked = dict.fromkeys(customers.live_row_of.get(customer_id) for customer_id in links)
    return [row for row in linked if row is not None and row not in seen]
