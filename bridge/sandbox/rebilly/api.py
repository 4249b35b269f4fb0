"""The simulated Rebilly API: one implementation, in process as a `Transport` and over HTTP by `bridge.sandbox.http`.

A request passes, in this order: the route on the raw path, the rate limit, faults that replace the answer, the key or
token, the method, the permission, the endpoint, faults that spoil the answer. What asynchronous calls have left to be
done until now is done before anything is answered. Paths are relative to the organization, over HTTP
`/organizations/{organizationId}`.

The control routes of `bridge.sandbox.control` are answered here too, below the organization, and one more, because the
real API does not say how one gets a bearer token: `POST /sandbox/token` gives one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from random import Random
from typing import Any
from urllib.parse import quote

import orjson

from bridge.clock import Clock
from bridge.errors import RequestRefused
from bridge.sandbox.answer import Answer, header
from bridge.sandbox.control import CONTROL_PREFIX, Statistics, control, statistics
from bridge.sandbox.dispatch import Dispatch, deliver
from bridge.sandbox.faults import Faults
from bridge.sandbox.rebilly.access import Access
from bridge.sandbox.rebilly.call import Call, Office
from bridge.sandbox.rebilly.deliveries import PostOffice, carry
from bridge.sandbox.rebilly.documents import ORIGIN, View
from bridge.sandbox.rebilly.endpoints import ENDPOINTS, Route, route
from bridge.sandbox.rebilly.hooks import Hooks
from bridge.sandbox.rebilly.jobs import Jobs
from bridge.sandbox.rebilly.limit import READS, WriteLimit, hint_retry
from bridge.sandbox.rebilly.problems import VOICE, Problem, dress_error, of_world
from bridge.sandbox.rebilly.rules import RuleBook
from bridge.sandbox.rebilly.switches import RebillySwitches
from bridge.sandbox.rebilly.timeline import Timeline
from bridge.sandbox.world import World, live
from bridge.source.client import HttpTransport
from bridge.source.transport import Request, Response, Transport

ORGANIZATION = "org_sandbox"
API_KEY = "sandbox-key"
TOKEN = f"{CONTROL_PREFIX}token"

FAULT_RETRY_S = 2.0
"""How far ahead a 429 that is a fault, not a limit, puts the next request."""


ORGANIZATIONS = "/organizations/"


class RebillyApi:
    """The API over a world in Rebilly's dialect, whose `account` is the organization. Implements `Transport`."""

    def __init__(self, world: World, switches: RebillySwitches, clock: Clock, *, api_key: str = API_KEY) -> None:
        self.world = world
        self.clock = clock
        self.base_path = f"{ORGANIZATIONS}{quote(world.account, safe='')}"
        self.access = Access(api_key, clock, Random(f"{world.seed}/tokens"))
        self._api_key = api_key
        chance = Random(f"{world.seed}/rebilly")
        hooks = Hooks(world.register)
        self.post = PostOffice(world, hooks, chance)
        self._rules = RuleBook(world, hooks)
        self._office = Office(world, Jobs(world, chance), hooks, self.post, Timeline(world), chance)
        self._faults = Faults(world.fault_rng, VOICE)
        self._limit = WriteLimit()
        self._dispatch = Dispatch(world)
        self.switches = switches

    @property
    def switches(self) -> RebillySwitches:
        """May be set at any time; the next request sees it."""
        return self._switches

    @switches.setter
    def switches(self, switches: RebillySwitches) -> None:
        self._switches = switches
        self.world.rules = switches.rules()

    # Transport.

    async def send(self, request: Request) -> Response:
        """As `Transport` says. A cut answer, one past the deadline or one too large is `RetryLater`."""
        return await deliver(self.answer(request), request, self.clock)

    async def close(self) -> None:
        """Nothing to release."""

    # One exchange.

    def inside(self, path: str) -> str | None:
        """A path of a server as `answer` takes it, which refuses those of other organizations; None for others."""
        if not path.startswith(ORGANIZATIONS):
            return None
        return path.removeprefix(self.base_path) if path.startswith(f"{self.base_path}/") else path

    def answer(self, request: Request) -> Answer:
        """What the server says to a request and how it will deliver it; the world has changed when this returns."""
        self._go_on()
        if request.path == TOKEN and request.method == "POST":
            grant = {"access_token": self.access.new_token(), "expires_in": self._switches.token_lifetime}
            return Answer(body=orjson.dumps(grant))
        if request.path.startswith(CONTROL_PREFIX):
            return control(self, request)
        endpoint = "unknown"
        try:
            if request.path.startswith(ORGANIZATIONS):
                raise Problem(403, "the key has no right to this organization")
            there = route(request.path)
            if there is None:
                raise Problem(404, "no such route")
            endpoint = there.endpoint
            answer = self._serve(request, there)
        except Problem as no:
            answer = no.answer()
        self._office.timeline.read("direct-api")
        self.look()
        answer.seal()
        self._limit.tell(self._switches, request.method, answer)
        dress_error(answer, self._switches.error_media_type)
        self._dispatch.dress(self._switches, endpoint, request, answer)
        return answer

    # What happens by itself.

    def look(self) -> None:
        """What has happened since it looked before: let the rules and the post office see it."""
        self._office.timeline.read("app")
        self._rules.apply(self._switches)
        self._office.timeline.read("rebilly")
        self.post.read(self._switches, self._view(""))

    def source(self, origin: str) -> Mapping[str, str]:
        """See `Served.source`; the path of the organization is no part of the `base_url`."""
        keys = {"id": "billing", "provider": "rebilly", "account": self.world.account, "base_url": origin}
        return {**keys, "api_key": self._api_key}

    async def live(self, connect: Callable[[str], Transport] = HttpTransport) -> None:
        """Let the world go on and send webhooks, for ever. connect: to an origin."""
        async with asyncio.TaskGroup() as group:
            group.create_task(live(self.world))
            group.create_task(carry(self.post, lambda: self._switches, self.look, self.clock, connect))

    # How an answer is found.

    def _go_on(self) -> None:
        """What was put off until now, and who did what since the latest request."""
        self._office.timeline.read("app")
        self.world.settle()
        self._office.timeline.read("rebilly")

    def _serve(self, request: Request, there: Route) -> Answer:
        switches, now = self._switches, self.world.clock.wall()
        if (refusal := self._limit.before(switches, request.method, now)) is not None:
            return refusal
        if (instead := self._faults.before(switches, there.endpoint, now)) is not None:
            if instead.status == 429:
                hint_retry(switches, now, instead, FAULT_RETRY_S)
            return instead
        if request.method not in READS and self._faults.lost(switches, there.endpoint):
            return Answer(cut=True)
        try:
            answer = self._handle(request, there)
        except RequestRefused as no:
            raise of_world(no) from no
        if there.endpoint == "tags" and request.method == "GET" and switches.empty_tag_list_once:
            answer.rows = []
            self.switches = switches.changed({"empty_tag_list_once": False})
        self._faults.after(switches, there.endpoint, answer)
        return answer

    def _handle(self, request: Request, there: Route) -> Answer:
        switches = self._switches
        self.access.check(request, switches.token_lifetime)
        endpoint = ENDPOINTS[there.endpoint].get(request.method)
        if endpoint is None:
            raise Problem(405, "method not allowed")
        if endpoint.permission not in switches.permissions.replace(" ", "").split(","):
            raise Problem(403, "the key lacks the permission for this call")
        view = self._view(header(request, "host"))
        return endpoint.handle(Call(self._office, switches, view, there.arguments, request.query, request.body))

    def _view(self, host: str) -> View:
        """`host`: whom the request was sent to, empty in process."""
        origin = f"http://{host}" if host else ORIGIN
        return View(self.world.account, origin + self.base_path, self._switches.timestamp_zone)

    # What the control routes use.

    @property
    def requests(self) -> Mapping[str, int]:
        """See `Controlled`."""
        return self._dispatch.requests

    def switch(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Controlled`."""
        self.switches = self._switches.changed(values)
        return self._switches.model_dump()

    def revoke_tokens(self) -> None:
        """See `Controlled`."""
        self.access.revoke_all()

    def statistics(self) -> Statistics:
        """Counters and sizes."""
        return statistics(self)
