"""An organization at Rebilly as its document describes it, as far as a reader can see; in memory, made for tests.

What the document leaves open is a field of `Ways`. Whatever the bridge may never ask (an offset above 1,000, a limit it
did not give) fails the test at once.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from typing import Any
from urllib.parse import unquote

import orjson

from bridge.model import instant, iso
from bridge.source.rebilly import RebillySettings, RebillySource, build
from bridge.source.transport import Request, Response
from tests.source.providing import Observer
from tests.support.clock import WALL_START, VirtualClock

ACCOUNT = "org_1"
KEY = "canary-key-93be"
CUSTOMERS = f"/organizations/{ACCOUNT}/customers"
TAGS = f"/organizations/{ACCOUNT}/tags"
SECOND = 1_000_000
START = int(WALL_START) * SECOND

Row = dict[str, Any]
"""As the provider has it, with times in microseconds."""


@dataclass
class Ways:
    """What the document leaves open.

    limit_max: rows of a page at most. reach: rows that can be skipped. sorts: whether `sort` is obeyed; else rows come
    as they were created, every other one from the end. shuffles: rows that may come in any order come in another one
    each time. precision: of times that are shown; they are kept in microseconds.
    merged: what a merged customer's id answers. dates: whether answers have a `Date`, and how wrong it is in seconds.
    tells_merges: whether timelines say who was merged. repeats: whether the last row of each list comes twice.
    """

    limit_max: int = 1000
    reach: int = 1000
    sorts: bool = True
    shuffles: bool = True
    precision: str = "seconds"
    merged: str = "404"
    date_skew_s: float | None = 0.0
    tells_merges: bool = True
    repeats: bool = False


@dataclass
class Organization:
    """Implements `Transport`. before: called before each list is answered, for what happens between two pages."""

    clock: VirtualClock
    ways: Ways = field(default_factory=Ways)
    customers: dict[str, Row] = field(default_factory=dict)
    tags: dict[str, Row] = field(default_factory=dict)
    merges: dict[str, str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    answers: list[Callable[[Request], Response | None]] = field(default_factory=list)
    before: Callable[[], None] = lambda: None
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    closed: int = 0

    # What happens to it.

    def now(self) -> int:
        return int(self.clock.wall() * SECOND)

    def create(self, uid: str, at: int | None = None, **fields: Any) -> Row:
        moment = self.now() if at is None else at
        row = {"id": uid, "revision": 1, "createdTime": moment, "updatedTime": moment, "tags": [], **fields}
        self.customers[uid] = row
        return row

    def edit(self, uid: str, at: int | None = None, **fields: Any) -> None:
        row = self.customers[uid]
        row.update(fields, updatedTime=self.now() if at is None else at, revision=row["revision"] + 1)

    def tag(self, uid: str, *tags: str, moves: bool = False) -> None:
        self.customers[uid]["tags"] = list(tags)
        if moves:
            self.edit(uid)

    def add_tag(self, uid: str, name: str, kind: str = "customer", at: int | None = None) -> None:
        moment = self.now() if at is None else at
        self.tags[uid] = {"id": uid, "name": name, "type": kind, "createdTime": moment, "updatedTime": moment}

    def merge(self, uid: str, into: str) -> None:
        gone = self.customers.pop(uid)
        self.merges[uid] = into
        self.edit(into)
        self.customers[into]["tags"] = list(dict.fromkeys([*self.customers[into]["tags"], *gone["tags"]]))

    # What it answers.

    async def send(self, request: Request) -> Response:
        self.requests.append(request)
        for play in self.answers:
            if (played := play(request)) is not None:
                return played
        if request.headers.get("REB-APIKEY") != KEY or "Authorization" in request.headers:
            return self._answer({"status": 401, "title": "Unauthorized"}, 401)
        assert request.method == "GET"
        query = dict(request.query)
        if request.path in (CUSTOMERS, TAGS):
            self.before()
            shown = self._customer if request.path == CUSTOMERS else self._tag
            rows = self.customers if request.path == CUSTOMERS else self.tags
            return self._list([(row, shown(row)) for row in rows.values()], query)
        uid, _, rest = unquote(request.path.removeprefix(CUSTOMERS + "/")).partition("/")
        if rest == "timeline":
            return self._list([(message, message) for message in self._timeline(uid)], query)
        return self._read(uid)

    async def close(self) -> None:
        self.closed += 1

    def source(self, **settings: Any) -> RebillySource:
        fields = {"source": "acme", "account": ACCOUNT, "api_key": KEY, "request_rate": 10_000, **settings}
        return build(RebillySettings(**fields), self, self.clock, Observer(), spread=lambda: 0.0)

    def queries(self, path: str = CUSTOMERS) -> list[dict[str, str]]:
        return [dict(request.query) for request in self.requests if request.path == path]

    def reads(self, request: Request, rows: Mapping[str, Row]) -> Response | None:
        """Single customers as in these rows, whatever lists show; None for another request."""
        uid = unquote(request.path.removeprefix(CUSTOMERS + "/"))
        return self._answer(self._customer(rows[uid])) if uid in rows else None

    def _read(self, uid: str) -> Response:
        if uid in self.customers:
            return self._answer(self._customer(self.customers[uid]))
        survivor = self.merges.get(uid)
        if survivor is not None and self.ways.merged == "301":
            return self._answer({}, 301, location=f"https://api.rebilly.com{CUSTOMERS}/{survivor}")
        if survivor is not None and self.ways.merged == "survivor" and survivor in self.customers:
            return self._answer(self._customer(self.customers[survivor]))
        return self._answer({"status": 404, "type": "about:blank"}, 404)

    def _timeline(self, uid: str) -> Iterator[Row]:
        for number, (gone, into) in enumerate(self.merges.items()):
            if into == uid and self.ways.tells_merges:
                yield {
                    "id": str(number),
                    "type": "customer-merged",
                    "message": "merged",
                    "extraData": {"duplicate": {"id": gone}},
                }

    def _list(self, rows: list[tuple[Row, Row]], query: dict[str, str]) -> Response:
        limit, offset = int(query["limit"]), int(query.get("offset", 0))
        assert 0 <= limit <= 1000
        assert 0 <= offset <= self.ways.reach, "what is above is anybody's guess"
        found = [pair for pair in rows if _matches(pair[0], query.get("filter", ""))]
        if not self.ways.sorts:
            found = [pair for two in zip(found, reversed(found), strict=True) for pair in two][: len(found)]
        elif self.ways.shuffles:
            self.chance.shuffle(found)
        for name in query.get("sort", "").split(",") if self.ways.sorts else []:
            found.sort(key=partial(_order, name.removeprefix("-")), reverse=name.startswith("-"))
        limit = min(limit, self.ways.limit_max)
        shown = [pair[1] for pair in found[offset : offset + limit]]
        if self.ways.repeats:
            shown += shown[-1:]
        if "fields" in query:
            wanted = {"id", *query["fields"].split(",")}
            shown = [{name: value for name, value in row.items() if name in wanted} for row in shown]
        totals = {"pagination-total": len(found), "pagination-limit": limit, "pagination-offset": offset}
        return self._answer(shown, 200, **{name: str(number) for name, number in totals.items()})

    def _customer(self, row: Row) -> Row:
        tags = [self._tag(self.tags[uid]) if uid in self.tags else {"id": uid, "name": uid} for uid in row["tags"]]
        if self.ways.shuffles:
            self.chance.shuffle(tags)
        return self._timed({**row, "tags": tags, "_links": [{"rel": "self", "href": f"https://x/{row['id']}"}]})

    def _tag(self, row: Row) -> Row:
        return self._timed({**row, "_links": []})

    def _timed(self, row: Row) -> Row:
        return row | {name: self.shown(row[name]) for name in ("createdTime", "updatedTime")}

    def shown(self, moment: int) -> str:
        if self.ways.precision == "seconds":
            return iso(moment // SECOND * SECOND)
        if self.ways.precision == "offset":
            return iso(moment // SECOND * SECOND).replace("Z", "+00:00")
        return iso(moment)

    def _answer(self, value: Any, status: int = 200, **headers: str) -> Response:
        if self.ways.date_skew_s is not None:
            headers["date"] = formatdate(int(self.clock.wall() + self.ways.date_skew_s), usegmt=True)
        return Response(status, {"content-type": "application/json", **headers}, orjson.dumps(value))


def _order(name: str, pair: tuple[Row, Row]) -> tuple[bool, Any]:
    value = pair[0].get(name)
    return (value is not None, 0 if value is None else value)


def _matches(row: Row, text: str) -> bool:
    return all(_matches_term(row, *term.split(":", 1)) for term in text.split(";") if term)


def _matches_term(row: Row, name: str, wanted: str) -> bool:
    assert name in ("id", "email", "createdTime", "updatedTime", "type", "name"), name
    value = row.get(name)
    if name.endswith("Time"):
        assert re.fullmatch(r"[0-9TZ:.-]*\.\.[0-9TZ:.-]*", wanted), wanted
        assert isinstance(value, int)
        low, high = wanted.split("..")
        return (not low or value >= instant(low)) and (not high or value <= instant(high))
    return str(value).lower() in wanted.lower().split(",")
