"""Dispatch: what every simulated API does with an answer once it is made, in process and for HTTP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from email.utils import formatdate
from hashlib import blake2b

from bridge.clock import Clock
from bridge.errors import RetryLater
from bridge.sandbox.answer import Answer, header
from bridge.sandbox.switches import FaultSwitches
from bridge.sandbox.world import World
from bridge.source.transport import Request, Response


class Dispatch:
    """Dresses answers with what is the same for all: date, entity tag, latency; and counts them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._requests: Counter[str] = Counter()
        self._date = (0, "")

    @property
    def requests(self) -> Mapping[str, int]:
        """Answers so far by endpoint and status, `customers 200`."""
        return dict(self._requests)

    def dress(self, switches: FaultSwitches, endpoint: str, request: Request, answer: Answer) -> None:
        """The answer as it leaves."""
        answer.delay_s += switches.latency_ms / 1000
        answer.headers["date"] = self._http_date()
        self._name(switches, request, answer)
        self._requests[f"{endpoint} {answer.status}"] += 1
        if request.method == "HEAD":
            answer.body = b""

    def _name(self, switches: FaultSwitches, request: Request, answer: Answer) -> None:
        """The ETag, and 304 for who has the very same already."""
        kind = switches.etag
        if kind == "none":
            return
        if kind == "honoured":
            name = blake2b(answer.body, digest_size=12).hexdigest()
        elif kind == "changing":
            name = f"{self._requests.total():x}"
        else:
            name = f"{self._world.truth.number:x}-{len(answer.body):x}"
        answer.headers["etag"] = f'W/"{name}"'
        known = [text.strip() for text in header(request, "if-none-match").split(",")]
        if kind == "honoured" and request.method == "GET" and answer.status == 200 and answer.headers["etag"] in known:
            answer.status, answer.body, answer.slow_s = 304, b"", 0.0

    def _http_date(self) -> str:
        second = int(self._world.clock.wall())
        if self._date[0] != second:
            self._date = (second, formatdate(second, usegmt=True))
        return self._date[1]


async def deliver(answer: Answer, request: Request, clock: Clock) -> Response:
    """In process, as `Transport.send` says. A cut answer, one past the deadline or one too large is `RetryLater`."""
    delay_s = answer.delay_s + answer.slow_s
    if delay_s > 0:
        await clock.sleep(min(delay_s, request.timeout_s))
    if delay_s > request.timeout_s:
        raise RetryLater(f"no complete answer within {request.timeout_s} s")
    if answer.cut:
        raise RetryLater("the connection broke in the middle of the answer")
    if len(answer.body) > request.body_bytes_max:
        raise RetryLater(f"the answer is larger than {request.body_bytes_max} bytes")
    return Response(answer.status, answer.headers, answer.body)
