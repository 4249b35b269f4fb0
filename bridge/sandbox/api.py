"""The simulated Dintero API: one implementation, in process as a `Transport` and over HTTP by `bridge.sandbox.http`.

A request passes, in this order: the route on the raw path, the limit per minute, faults that replace the answer, the
shape of the ids in the path, the token, the account, the method, the scope, the endpoint, faults that spoil the answer.
Paths are relative to the base URL, whose path is `/v1` over HTTP.

Control routes, for tests, benchmarks and the demo; no token, no faults, not part of the provider:

    GET  /sandbox/truth?after=N&limit=M   entries of the truth log with a greater number, as objects
    GET  /sandbox/rates                   changes per minute by kind; PUT with {kind: rate} sets some of them
    GET  /sandbox/switches                all switches; PUT with {name: value} sets some of them
    GET  /sandbox/stats                   requests by endpoint and status, sizes of the population, truth number
    POST /sandbox/mass-delete             {"share": 0.3} deletes that share of the customers
    POST /sandbox/revoke-tokens           every token issued so far is refused from now on
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from hashlib import blake2b
from random import Random

from bridge.clock import Clock
from bridge.errors import RequestRefused, RetryLater
from bridge.sandbox.control import control
from bridge.sandbox.dintero.access import Access
from bridge.sandbox.dintero.answer import Answer, Call, refused
from bridge.sandbox.dintero.endpoints import ENDPOINTS, Route, route, well_formed
from bridge.sandbox.faults import Faults
from bridge.sandbox.limit import RequestLimit
from bridge.sandbox.population.customers import CONTACT
from bridge.sandbox.switches import Switches
from bridge.sandbox.world import World
from bridge.source.transport import Request, Response

BASE_PATH = "/v1"
CLIENT_ID = "sandbox"
CLIENT_SECRET = "sandbox-secret"
CONTROL_PREFIX = "/sandbox/"


@dataclass(frozen=True, slots=True)
class Statistics:
    """Since the start. requests: by endpoint and status, `customers 200`."""

    requests: Mapping[str, int]
    customers: int
    tombstones: int
    contacts: int
    tags: int
    memberships: int
    users: int
    truth: int
    truth_dropped: int


class SandboxApi:
    """The API over a world. Implements `Transport`; `send` waits through the clock, everything else is immediate."""

    def __init__(
        self,
        world: World,
        switches: Switches,
        clock: Clock,
        *,
        client_id: str = CLIENT_ID,
        client_secret: str = CLIENT_SECRET,
    ) -> None:
        self.world = world
        self.clock = clock
        self.access = Access(client_id, client_secret, clock, Random(f"{world.seed}/tokens"))
        self._faults = Faults(world.fault_rng)
        self._limit = RequestLimit()
        self._requests: Counter[str] = Counter()
        self._date = (0, "")
        self.switches = switches

    @property
    def switches(self) -> Switches:
        """May be set at any time; the next request sees it."""
        return self._switches

    @switches.setter
    def switches(self, switches: Switches) -> None:
        self._switches = switches
        self.world.rules = switches.rules()

    # Transport.

    async def send(self, request: Request) -> Response:
        """As `Transport` says. A cut answer, one past the deadline or one too large is `RetryLater`."""
        answer = self.answer(request)
        delay_s = answer.delay_s + answer.slow_s
        if delay_s > 0:
            await self.clock.sleep(min(delay_s, request.timeout_s))
        if delay_s > request.timeout_s:
            raise RetryLater(f"no complete answer within {request.timeout_s} s")
        if answer.cut:
            raise RetryLater("the connection broke in the middle of the answer")
        if len(answer.body) > request.body_bytes_max:
            raise RetryLater(f"the answer is larger than {request.body_bytes_max} bytes")
        return Response(answer.status, answer.headers, answer.body)

    async def close(self) -> None:
        """Nothing to release."""

    # One exchange.

    def answer(self, request: Request) -> Answer:
        """What the server says to a request and how it will deliver it; the world has changed when this returns."""
        if request.path.startswith(CONTROL_PREFIX):
            return control(self, request)
        endpoint = "unknown"
        try:
            there = route(request.path)
            if there is None:
                raise RequestRefused("no such route", status=404)
            endpoint = there.endpoint
            answer = self._serve(request, there)
        except RequestRefused as no:
            answer = refused(no.status, str(no))
        answer.seal()
        self._limit.tell(self._switches, self.world.clock.wall(), answer)
        answer.delay_s += self._switches.latency_ms / 1000
        answer.headers["date"] = self._http_date()
        self._name(request, answer)
        self._requests[f"{endpoint} {answer.status}"] += 1
        if request.method == "HEAD":
            answer.body = b""
        return answer

    def _name(self, request: Request, answer: Answer) -> None:
        """The ETag, and 304 for who has the very same already."""
        kind = self._switches.etag
        if kind == "none":
            return
        if kind == "honoured":
            name = blake2b(answer.body, digest_size=12).hexdigest()
        elif kind == "changing":
            name = f"{self._requests.total():x}"
        else:
            name = f"{self.world.truth.number:x}-{len(answer.body):x}"
        answer.headers["etag"] = f'W/"{name}"'
        known = [text.strip() for text in _header(request, "if-none-match").split(",")]
        if kind == "honoured" and request.method == "GET" and answer.status == 200 and answer.headers["etag"] in known:
            answer.status, answer.body, answer.slow_s = 304, b"", 0.0

    def statistics(self) -> Statistics:
        """Counters and sizes."""
        customers = self.world.customers
        return Statistics(
            requests=dict(self._requests),
            customers=len(customers),
            tombstones=len(customers.uids) - len(customers),
            contacts=customers.counts[CONTACT],
            tags=len(self.world.tags),
            memberships=sum(len(rows) for rows in customers.members.values()),
            users=len(self.world.staff.users),
            truth=self.world.truth.number,
            truth_dropped=self.world.truth.dropped,
        )

    def _serve(self, request: Request, there: Route) -> Answer:
        switches = self._switches
        now = self.world.clock.wall()
        instead = self._limit.before(switches, now) or self._faults.before(switches, there.endpoint, now)
        if instead is not None:
            return instead
        if request.method not in {"GET", "HEAD"} and self._faults.lost(switches, there.endpoint):
            return Answer(cut=True)
        answer = self._handle(request, there)
        if there.endpoint == "tags" and request.method == "GET" and switches.empty_tag_list_once:
            answer.rows = []
            self.switches = switches.changed({"empty_tag_list_once": False})
        self._faults.after(switches, there.endpoint, answer)
        return answer

    def _handle(self, request: Request, there: Route) -> Answer:
        if not well_formed(there):
            raise RequestRefused("an id in the path is not valid", status=400)
        call = Call(self.world, self._switches, there.argument, request.query, request.body)
        authorization = _header(request, "authorization")
        if there.endpoint == "token":
            if request.method != "POST":
                raise RequestRefused("method not allowed", status=405)
            if there.account != self.world.account:
                raise RequestRefused("no such account", status=403)
            return self.access.issue(call, authorization)
        self.access.check(authorization, self._switches.token_revoke_after)
        if there.account != self.world.account:
            raise RequestRefused("the token has no grant for this account", status=403)
        endpoint = ENDPOINTS[there.endpoint].get(request.method)
        if endpoint is None:
            raise RequestRefused("method not allowed", status=405)
        if endpoint.scopes.isdisjoint(self._switches.scopes.replace(" ", "").split(",")):
            raise RequestRefused("the client lacks the scope for this call", status=403)
        return endpoint.handle(call)

    def _http_date(self) -> str:
        second = int(self.world.clock.wall())
        if self._date[0] != second:
            self._date = (second, formatdate(second, usegmt=True))
        return self._date[1]


def _header(request: Request, name: str) -> str:
    return next((value for key, value in request.headers.items() if key.lower() == name), "")
