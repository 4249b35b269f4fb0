"""The sandbox's own routes, the same for every provider: look behind the scenes and pull strings while it runs.

For tests, benchmarks and the demo; no credentials, no faults, not part of any provider:

    GET  /sandbox/truth?after=N&limit=M   entries of the truth log with a greater number, as objects
    GET  /sandbox/rates                   changes per minute by kind; PUT with {kind: rate} sets some of them
    GET  /sandbox/switches                all switches; PUT with {name: value} sets some of them
    GET  /sandbox/stats                   requests by endpoint and status, sizes of the population, truth number
    POST /sandbox/mass-delete             {"share": 0.3} deletes that share of the customers
    POST /sandbox/revoke-tokens           every token issued so far is refused from now on
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import orjson

from bridge.errors import BridgeError, RequestRefused
from bridge.model import Body
from bridge.sandbox.answer import Answer
from bridge.sandbox.population.customers import CONTACT
from bridge.sandbox.world import World
from bridge.source.transport import Request

CONTROL_PREFIX = "/sandbox/"
TRUTH_PAGE_MAX = 10_000
"""Entries of the truth log in one answer."""


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


class Controlled(Protocol):
    """What the control routes know of a simulated API."""

    @property
    def world(self) -> World:
        """Its population."""
        ...

    @property
    def requests(self) -> Mapping[str, int]:
        """Answers so far by endpoint and status."""
        ...

    def switch(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Set some switches; returns all of them. `Any`: what JSON brings. Raises `ConfigurationError`."""
        ...

    def revoke_tokens(self) -> None:
        """Every token issued so far is refused from now on."""
        ...


def statistics(api: Controlled) -> Statistics:
    """Counters and sizes."""
    world = api.world
    return Statistics(
        requests=api.requests,
        customers=len(world.customers),
        tombstones=len(world.customers.uids) - len(world.customers),
        contacts=world.customers.counts[CONTACT],
        tags=len(world.tags),
        memberships=sum(len(rows) for rows in world.customers.members.values()),
        users=len(world.staff.users),
        truth=world.truth.number,
        truth_dropped=world.truth.dropped,
    )


def control(api: Controlled, request: Request) -> Answer:
    """Answer a request for a control route."""
    handle = _ROUTES.get((request.method, request.path))
    if handle is None:
        return _refused(404, "no such control route")
    try:
        return Answer(body=orjson.dumps(handle(api, request)))
    except BridgeError as wrong:
        return _refused(400, str(wrong))


def _refused(status: int, message: str) -> Answer:
    return Answer(status, orjson.dumps({"error": {"message": message}}))


def _truth(api: Controlled, request: Request) -> Any:
    query = dict(request.query)
    try:
        after, limit = int(query.get("after", "0")), int(query.get("limit", str(TRUTH_PAGE_MAX)))
    except ValueError:
        raise RequestRefused("after and limit must be numbers", status=400) from None
    return [entry.json() for entry in api.world.truth.after(after, max(0, min(limit, TRUTH_PAGE_MAX)))]


def _rates(api: Controlled, _request: Request) -> Any:
    return api.world.rates.model_dump()


def _set_rates(api: Controlled, request: Request) -> Any:
    api.world.rates = api.world.rates.changed(_object(request))
    return _rates(api, request)


def _switches(api: Controlled, _request: Request) -> Any:
    return api.switch({})


def _set_switches(api: Controlled, request: Request) -> Any:
    return api.switch(_object(request))


def _stats(api: Controlled, _request: Request) -> Any:
    return asdict(statistics(api))


def _mass_delete(api: Controlled, request: Request) -> Any:
    share = _object(request).get("share")
    if not isinstance(share, int | float) or not 0 <= share <= 1:
        raise RequestRefused("share must be a number from 0 to 1", status=400)
    return {"deleted": api.world.mass_delete(share)}


def _revoke_tokens(api: Controlled, _request: Request) -> Any:
    api.revoke_tokens()
    return {}


def _object(request: Request) -> Body:
    try:
        body = orjson.loads(request.body or b"{}")
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise RequestRefused("the body must be a JSON object", status=400)
    return body


# `Any` as a result: whatever can be written as JSON.
_ROUTES: dict[tuple[str, str], Callable[[Controlled, Request], Any]] = {
    ("GET", "/sandbox/truth"): _truth,
    ("GET", "/sandbox/rates"): _rates,
    ("PUT", "/sandbox/rates"): _set_rates,
    ("GET", "/sandbox/switches"): _switches,
    ("PUT", "/sandbox/switches"): _set_switches,
    ("GET", "/sandbox/stats"): _stats,
    ("POST", "/sandbox/mass-delete"): _mass_delete,
    ("POST", "/sandbox/revoke-tokens"): _revoke_tokens,
}
