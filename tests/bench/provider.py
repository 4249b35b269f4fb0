"""The provider of the benchmark, a process of its own: the sandbox's API with the list of customers rendered before.

A page of the list is bytes in a dict, so one core serves many times what any reader takes and the figures are the
readers' own. Whatever else is asked (tokens, changes since an instant, control routes) goes to the sandbox. The pages
are thrown away at the first change of the world, so that the list never lies.

Every other account (`T` and 8 digits) shows the same customers and tags: to a bridge they are different sources.

    GET /bench/walks     complete readings of the list, as seen from here: begin, end (wall clock), rows
    GET /bench/cursors   the values of `starting_after` of all pages but the first
    GET /bench/visits    how each other account was asked; POST begins to count gaps anew, with
                         ?forget everything
"""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import time
from dataclasses import dataclass
from typing import cast
from urllib.parse import parse_qsl

import orjson
import uvloop

from bridge.clock import SystemClock
from bridge.sandbox.api import BASE_PATH, SandboxApi
from bridge.sandbox.dintero.answer import Call
from bridge.sandbox.dintero.listing import list_customers
from bridge.sandbox.population.register import Rules
from bridge.sandbox.switches import Switches
from bridge.sandbox.world import Rates, World, live
from bridge.source.transport import Request

ACCOUNT = "T12345678"
LIST = f"/accounts/{ACCOUNT}/customers/users"
PAGE_LIMIT = 100
TAGS = 20
SEED = 1

_ACCOUNT = re.compile(rb"/accounts/(T\d{8})/")
_LIST_LINE = f"GET {BASE_PATH}{LIST}?".encode()
_AFTER = b"starting_after="


class Pages:
    """The list, rendered, by the id after which a page begins; and who walked through it when."""

    def __init__(self, api: SandboxApi) -> None:
        self._api = api
        customers = api.world.customers
        self.cursors = [customers.uids[row] for row in customers.order[PAGE_LIMIT - 1 :: PAGE_LIMIT]]
        self._bodies = {after.encode(): self._render(after) for after in ("", *self.cursors)}
        self._truth = api.world.truth.number
        self.walks: list[dict[str, float]] = []

    def get(self, line: bytes, *, walking: bool = True) -> bytes | None:
        """The page that this request line asks for, when it is a page of the list as it was in the beginning."""
        if not line.startswith(_LIST_LINE) or b"since_datetime=" in line or b"limit=100" not in line:
            return None
        after = line.partition(_AFTER)[2][:36] if _AFTER in line else b""
        if self._api.world.truth.number != self._truth:
            self._bodies.clear()
        body, rows = self._bodies.get(after) or self._render(after.decode())
        if not walking:
            return body
        if not after:
            self.walks.append({"begin": time.time(), "end": 0.0, "rows": 0})
        walk = self.walks[-1] if self.walks else {"end": 1.0}
        if not walk["end"]:
            walk["rows"] += rows
            walk["end"] = 0.0 if rows else time.time()
        return body

    def _render(self, after: str) -> tuple[bytes, int]:
        query = [("type", "any"), ("limit", str(PAGE_LIMIT)), *([("starting_after", after)] if after else [])]
        answer = list_customers(Call(self._api.world, self._api.switches, "", query, None))
        rows = len(answer.rows or ())
        answer.seal()
        return answer.body, rows


@dataclass(slots=True)
class Visit:
    """How one account was asked for its customers. Moments are wall-clock seconds, 0 while there is none.

    begin: the first page. end: the first poll, so everything had been read. gap: longest time between two polls.
    """

    begin: float = 0.0
    end: float = 0.0
    pages: int = 0
    polls: int = 0
    last: float = 0.0
    gap: float = 0.0


class Accounts:
    """All accounts but the sandbox's own: their requests become requests for that one."""

    def __init__(self) -> None:
        self.visits: dict[str, Visit] = {}
        self.token: tuple[int, bytes] | None = None

    def note(self, account: str, line: bytes) -> None:
        """Count a request for a page of customers."""
        if b"/customers/users?" not in line:
            return
        visit, now = self.visits.setdefault(account, Visit(begin=time.time())), time.time()
        if b"since_datetime=" not in line:
            visit.pages += 1
            return
        visit.end = visit.end or now
        visit.gap = max(visit.gap, now - visit.last) if visit.last else 0.0
        visit.polls += 1
        visit.last = now

    def begin_anew(self) -> None:
        """Forget polls and gaps, but not when everything was read."""
        for visit in self.visits.values():
            visit.polls, visit.last, visit.gap = 0, 0.0, 0.0


class Connection(asyncio.Protocol):
    """One keep-alive connection. As much HTTP as the readers speak."""

    def __init__(self, api: SandboxApi, pages: Pages, accounts: Accounts) -> None:
        self._api = api
        self._pages = pages
        self._accounts = accounts
        self._data = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (head := self._data.find(b"\r\n\r\n")) >= 0:
            line, _, rest = self._data[:head].partition(b"\r\n")
            headers = dict(_header(field) for field in rest.split(b"\r\n")) if rest else {}
            end = head + 4 + int(headers.get("content-length", "0"))
            if len(self._data) < end:
                return
            body, self._data = self._data[head + 4 : end], self._data[end:]
            self._respond(line, headers, body)

    def _respond(self, line: bytes, headers: dict[str, str], body: bytes) -> None:
        assert self._transport is not None
        account = _ACCOUNT.search(line)
        if account is not None and account[1] != ACCOUNT.encode():
            status, content = self._same_as_own(account[1], line, headers, body)
        else:
            status, content = 200, self._pages.get(line) or b""
            if not content:
                status, content = self._other(line.decode("ascii"), headers, body)
        self._transport.writelines((_head(status, len(content), int(time.time())), content))

    def _same_as_own(self, account: bytes, line: bytes, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        own, accounts = ACCOUNT.encode(), self._accounts
        accounts.note(account.decode(), line)
        line = line.replace(account, own)
        if b"/auth/token" in line:
            # One token for all: the sandbox forgets those that are more than a thousand.
            if accounts.token is None:
                accounts.token = self._other(line.decode("ascii"), headers, body.replace(account, own))
            return accounts.token
        content = self._pages.get(line, walking=False)
        return (200, content) if content else self._other(line.decode("ascii"), headers, body)

    def _other(self, line: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        method, target, _ = line.split(" ")
        path, _, query = target.partition("?")
        if path == "/bench/walks":
            return 200, orjson.dumps(self._pages.walks)
        if path == "/bench/cursors":
            return 200, orjson.dumps(self._pages.cursors)
        if path == "/bench/visits":
            if query == "forget":
                self._accounts.visits.clear()
            elif method == "POST":
                self._accounts.begin_anew()
            return 200, orjson.dumps(self._accounts.visits)
        pairs = tuple(parse_qsl(query, keep_blank_values=True))
        answer = self._api.answer(Request(method, path.removeprefix(BASE_PATH), pairs, headers, body or None))
        return answer.status, answer.body


def _header(field: bytes) -> tuple[str, str]:
    name, _, value = field.decode("latin-1").partition(":")
    return name.strip().lower(), value.strip()


_heads: dict[tuple[int, int, int], bytes] = {}


def _head(status: int, length: int, second: int) -> bytes:
    found = _heads.get((status, length, second))
    if found is None:
        if len(_heads) > 1_000:
            _heads.clear()
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(second))
        found = _heads[status, length, second] = (
            f"HTTP/1.1 {status} OK\r\ncontent-type: application/json\r\ndate: {date}\r\n"
            f"content-length: {length}\r\n\r\n"
        ).encode()
    return found


async def main(port: int, customers: int) -> None:
    """Serve until killed."""
    clock = SystemClock()
    world = World(SEED, customers, TAGS, Rates(), clock, ACCOUNT, rules=Rules(precision="milliseconds"))
    api = SandboxApi(world, Switches(timestamp_precision="milliseconds"), clock)
    pages = Pages(api)
    accounts = Accounts()
    # A collection that visits a million rows takes a second, in which nothing is served.
    gc.freeze()
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Connection(api, pages, accounts), "127.0.0.1", port)
    print("ready", flush=True)
    await live(world)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
