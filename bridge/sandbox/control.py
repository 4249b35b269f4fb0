"""The sandbox's own routes, listed in `bridge.sandbox.api`: look behind the scenes and pull strings while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import orjson

from bridge.errors import BridgeError, RequestRefused
from bridge.model import Body
from bridge.sandbox.dintero.answer import Answer, refused
from bridge.source.transport import Request

if TYPE_CHECKING:
    from bridge.sandbox.api import SandboxApi

TRUTH_PAGE_MAX = 10_000
"""Entries of the truth log in one answer."""


def control(api: SandboxApi, request: Request) -> Answer:
    """Answer a request for a control route."""
    handle = _ROUTES.get((request.method, request.path))
    if handle is None:
        return refused(404, "no such control route")
    try:
        return Answer(body=orjson.dumps(handle(api, request)))
    except BridgeError as wrong:
        return refused(400, str(wrong))


def _truth(api: SandboxApi, request: Request) -> Any:
    query = dict(request.query)
    try:
        after, limit = int(query.get("after", "0")), int(query.get("limit", str(TRUTH_PAGE_MAX)))
    except ValueError:
        raise RequestRefused("after and limit must be numbers", status=400) from None
    return [entry.json() for entry in api.world.truth.after(after, max(0, min(limit, TRUTH_PAGE_MAX)))]


def _rates(api: SandboxApi, _request: Request) -> Any:
    return api.world.rates.model_dump()


def _set_rates(api: SandboxApi, request: Request) -> Any:
    api.world.rates = api.world.rates.changed(_object(request))
    return _rates(api, request)


def _switches(api: SandboxApi, _request: Request) -> Any:
    return api.switches.model_dump()


def _set_switches(api: SandboxApi, request: Request) -> Any:
    api.switches = api.switches.changed(_object(request))
    return _switches(api, request)


def _stats(api: SandboxApi, _request: Request) -> Any:
    return asdict(api.statistics())


def _mass_delete(api: SandboxApi, request: Request) -> Any:
    share = _object(request).get("share")
    if not isinstance(share, int | float) or not 0 <= share <= 1:
        raise RequestRefused("share must be a number from 0 to 1", status=400)
    return {"deleted": api.world.mass_delete(share)}


def _revoke_tokens(api: SandboxApi, _request: Request) -> Any:
    api.access.revoke_all()
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
_ROUTES: dict[tuple[str, str], Callable[[SandboxApi, Request], Any]] = {
    ("GET", "/sandbox/truth"): _truth,
    ("GET", "/sandbox/rates"): _rates,
    ("PUT", "/sandbox/rates"): _set_rates,
    ("GET", "/sandbox/switches"): _switches,
    ("PUT", "/sandbox/switches"): _set_switches,
    ("GET", "/sandbox/stats"): _stats,
    ("POST", "/sandbox/mass-delete"): _mass_delete,
    ("POST", "/sandbox/revoke-tokens"): _revoke_tokens,
}
