"""What the tests of the source share: a provider that plays answers, an observer that counts, a client over both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from email.utils import formatdate
from inspect import isawaitable
from typing import Any

import orjson

from bridge.clock import Clock
from bridge.source.dintero import DinteroSettings, DinteroSource, build
from bridge.source.transport import Request, Response

ACCOUNT = "T12345678"
USERS = f"/accounts/{ACCOUNT}/customers/users"
TAGS = f"/accounts/{ACCOUNT}/customers/tags"
TOKEN = f"/accounts/{ACCOUNT}/auth/token"
SECRET = "canary-secret-7f3a"

Play = Callable[[Request], Response | Awaitable[Response]]


def answer(value: Any, status: int = 200, **headers: str) -> Response:
    """JSON, or raw bytes as they are; header names with underscores. `Any`: whatever a provider may say."""
    body = value if isinstance(value, bytes) else orjson.dumps(value)
    names = {name.replace("_", "-"): text for name, text in headers.items()}
    return Response(status, {"content-type": "application/json; charset=utf-8", **names}, body)


def dated(value: Any, wall: float, **headers: str) -> Response:
    """With the server's `Date`."""
    return answer(value, 200, date=formatdate(wall, usegmt=True), **headers)


class Provider:
    """A `Transport` that answers API calls from `play` and logins from `login`."""

    def __init__(self, play: Play | None = None, login: Play | None = None) -> None:
        self.play: Play = play or (lambda request: answer([]))
        self.login: Play = login or self.token
        self.requests: list[Request] = []
        self.logins: list[Request] = []
        self.closed = 0

    def token(self, request: Request) -> Response:
        return answer({"access_token": f"canary-token-{len(self.logins)}", "token_type": "Bearer", "expires_in": 14400})

    async def send(self, request: Request) -> Response:
        login = request.path.endswith("/auth/token")
        (self.logins if login else self.requests).append(request)
        result = (self.login if login else self.play)(request)
        return await result if isawaitable(result) else result

    async def close(self) -> None:
        self.closed += 1


class Observer:
    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int | None]] = Counter()
        self.throttled_s = 0.0
        self.remaining: list[float] = []

    def request(self, endpoint: str, status: int | None, seconds: float) -> None:
        assert seconds >= 0
        self.requests[endpoint, status] += 1

    def throttled(self, seconds: float) -> None:
        self.throttled_s += seconds

    def budget_remaining(self, value: float) -> None:
        self.remaining.append(value)


def source_over(provider: Any, clock: Clock, observer: Observer | None = None, **settings: Any) -> DinteroSource:
    """A source without jitter; `Any`: a transport, and fields of the settings."""
    fields = {"source": "acme", "account": ACCOUNT, "client_id": "client-1", "client_secret": SECRET, **settings}
    return build(DinteroSettings(**fields), provider, clock, observer or Observer(), spread=lambda: 0.0)


def query_of(request: Request) -> Mapping[str, str]:
    return dict(request.query)
