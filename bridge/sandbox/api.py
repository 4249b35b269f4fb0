"""The simulated Dintero API: one implementation, in process as a `Transport` and over HTTP by `bridge.sandbox.http`.

A request passes, in this order: the route on the raw path, the limit per minute, faults that replace the answer, the
shape of the ids in the path, the token, the account, the method, the scope, the endpoint, faults that spoil the answer.
Paths are relative to the base URL, whose path is `/v1` over HTTP.

The control routes of `bridge.sandbox.control` are answered here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from bridge.clock import Clock
from bridge.errors import RequestRefused
from bridge.sandbox.answer import Answer, header
from bridge.sandbox.control import CONTROL_PREFIX, Statistics, control, statistics
from bridge.sandbox.dintero.access import Access
from bridge.sandbox.dintero.answer import Call, refused
from bridge.sandbox.dintero.endpoints import ENDPOINTS, Route, route, well_formed
from bridge.sandbox.dintero.voice import VOICE
from bridge.sandbox.dispatch import Dispatch, deliver
from bridge.sandbox.faults import Faults
from bridge.sandbox.limit import RequestLimit
from bridge.sandbox.switches import Switches
from bridge.sandbox.world import World, live
from bridge.source.transport import Request, Response

BASE_PATH = "/v1"
CLIENT_ID = "sandbox"
CLIENT_SECRET = "sandbox-secret"


class SandboxApi:
    """The API over a world. Implements `Transport`; `send` waits through the clock, everything else is immediate."""

    base_path = BASE_PATH

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
        self._credentials = {"client_id": client_id, "client_secret": client_secret}
        self._faults = Faults(world.fault_rng, VOICE)
        self._limit = RequestLimit()
        self._dispatch = Dispatch(world)
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
        return await deliver(self.answer(request), request, self.clock)

    async def close(self) -> None:
        """Nothing to release."""

    def source(self, origin: str) -> Mapping[str, str]:
        """See `Served.source`."""
        keys = {"id": "acme", "provider": "dintero", "account": self.world.account, "base_url": origin + BASE_PATH}
        return {**keys, **self._credentials}

    async def live(self) -> None:
        """Let the world go on, for ever."""
        await live(self.world)

    # One exchange.

    def inside(self, path: str) -> str | None:
        """A path of a server as `answer` takes it; None when it is none of this API. Control routes stand outside."""
        if path.startswith(f"{BASE_PATH}/"):
            return path.removeprefix(BASE_PATH)
        return path if path.startswith(CONTROL_PREFIX) else None

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
        self._dispatch.dress(self._switches, endpoint, request, answer)
        return answer

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
        authorization = header(request, "authorization")
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
