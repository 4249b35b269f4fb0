"""ApiClient: authorised, budgeted, classified requests to one source. What feeds and commands call.

`Exchange` is one request: it waits for the source's budget, sends, reports to the observer, and turns every status
but 2xx into the error that says what to do. A 429 pauses **all** requests of the source until the provider's hint has
passed, or for an own, growing wait when it gave none; what an answer says of the provider's limit sets the pace.
`ApiClient` adds the credentials: a refused token is dropped, fetched once and the request repeated once. Neither
retries anything else; that is decided above.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

import orjson

from bridge.clock import Clock
from bridge.errors import AnswerTooLarge, RetryLater
from bridge.source.allowance import Allowance
from bridge.source.answer import (
    IF_NONE_MATCH,
    RETRY_AFTER_S_MAX,
    allowed,
    etag,
    failure,
    parse,
    retry_after,
    server_date,
    total_count,
    unchanged,
)
from bridge.source.budget import Priority, RequestBudget
from bridge.source.transport import Request, Response, Transport

THROTTLE_S_FIRST = 1.0
"""Own wait after a 429 without a hint; doubles with each further one."""

JITTER_SHARE = 0.1
"""Up to this share is added to a pause, so that several clients do not come back in step."""


class RequestObserver(Protocol):
    """Counts what is sent; called synchronously, must not raise. `endpoint` is a template's name, never a path."""

    def request(self, endpoint: str, status: int | None, seconds: float) -> None:
        """One request ended; `status` is None when no complete answer came."""
        ...

    def throttled(self, seconds: float) -> None:
        """The source is held for so much longer."""
        ...

    def budget_remaining(self, value: float) -> None:
        """Requests that could be sent now without waiting."""
        ...


class Credentials(Protocol):
    """What goes into one header of a source's requests, and into which."""

    @property
    def header(self) -> str:
        """The header's name."""
        ...

    async def authorization(self) -> str:
        """The header's value; may fetch a token. Raises any `SourceError`; cancellation leaves nothing behind."""
        ...

    def refused(self, authorization: str) -> None:
        """The provider answered 401 to this value; the next call to `authorization` must not return it again."""
        ...


class Answer(NamedTuple):
    """One successful answer.

    value: the JSON; `Any` because the endpoint's model checks it. date: the server's time in microseconds, if given.
    asked_at: wall-clock seconds when the request was sent. received_at: when the answer was complete.
    size: bytes of the body. etag: the provider's name for this state. unchanged: nothing has changed since the ETag
    that the request named; there is no value then.
    total: the rows that match, on all pages together, if it was asked for and given.
    """

    value: Any
    date: int | None
    asked_at: float
    received_at: float
    size: int = 0
    etag: str | None = None
    unchanged: bool = False
    total: int | None = None


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Bounds of one source's requests."""

    request_timeout_s: float = 60.0
    body_bytes_max: int = 32 * 1024 * 1024


class Turns:
    """Requests that may be sent one right behind the other, because each has had its turn already.

    For a write that stands on what was read before it: nothing waits in between. Made by `ApiClient.turns`.
    """

    def __init__(self, budget: RequestBudget) -> None:
        self._budget = budget
        self.left = 0

    def take(self) -> None:
        """One more is sent. Raises `RetryLater` when the provider wants a pause now: what was read would be old."""
        if self._budget.paused:
            raise RetryLater("the provider wants a pause; nothing was changed")
        assert self.left > 0, "more requests than turns"
        self.left -= 1


class Exchange:
    """Single requests of one source; shared by its client and its credentials."""

    def __init__(
        self,
        transport: Transport,
        budget: RequestBudget,
        clock: Clock,
        observer: RequestObserver,
        spread: Callable[[], float] = random.random,
    ) -> None:
        """`spread`: a number in [0, 1) for jitter."""
        self._transport = transport
        self._budget = budget
        self._clock = clock
        self._observer = observer
        self._spread = spread
        self._collecting = asyncio.Lock()
        self._refusals = 0
        self._refused_at = float("-inf")

    async def send(self, endpoint: str, request: Request, priority: Priority | Turns) -> tuple[Response, float]:
        """A 2xx answer and the wall-clock moment of the request; every other status raises."""
        await self.turn(priority)
        response, asked_at = await self.attempt(endpoint, request)
        self.check(endpoint, response)
        return response, asked_at

    def check(self, endpoint: str, response: Response) -> None:
        """Raise what the status demands; nothing for 2xx."""
        error = failure(response, endpoint, self._clock.wall())
        if error is not None:
            raise error

    def rate(self) -> float:
        """See `RequestBudget.rate`."""
        return self._budget.rate()

    @asynccontextmanager
    async def turns(self, count: int, priority: Priority) -> AsyncIterator[Turns]:
        """Wait until so many requests may be sent; those that are not sent are given back.

        One collects its turns at a time: if many did, all of theirs would come at once.
        """
        turns = Turns(self._budget)
        try:
            async with self._collecting:
                while turns.left < count:
                    await self._budget.acquire(priority)
                    turns.left += 1
            yield turns
        finally:
            self._budget.give_back(turns.left)

    async def turn(self, priority: Priority | Turns) -> bool:
        """Wait until one request may be sent, which may take minutes; whether that took any time."""
        if isinstance(priority, Turns):
            priority.take()
            return False
        before = self._clock.monotonic()
        await self._budget.acquire(priority)
        self._observer.budget_remaining(self._budget.remaining())
        return self._clock.monotonic() > before

    async def attempt(self, endpoint: str, request: Request) -> tuple[Response, float]:
        """An answer with any status, and the wall-clock moment of the request, whose turn it is."""
        asked_at, started = self._clock.wall(), self._clock.monotonic()
        status: int | None = None
        try:
            response = await self._transport.send(request)
            status = response.status
        except RetryLater as error:
            kind = AnswerTooLarge if isinstance(error, AnswerTooLarge) else RetryLater
            raise kind(f"{endpoint}: {error}", delay_s=error.delay_s) from None
        finally:
            self._observer.request(endpoint, status, self._clock.monotonic() - started)
        allowance = allowed(response, self._clock.wall())
        if response.status == 429:
            self._hold(response, started, allowance)
        elif allowance is not None:
            self._observer.throttled(self._budget.told(*allowance))
        if response.status < 400:
            self._refusals = 0
        return response, asked_at

    def _hold(self, response: Response, started: float, allowance: Allowance | None) -> None:
        """Pause the source. Of requests that were under way together only the first makes the own wait grow.

        Who gives no hint but says when its limit begins anew has given one; of both the hint counts.
        """
        now = self._clock.monotonic()
        if started >= self._refused_at:
            self._refusals += 1
            self._refused_at = now
            self._budget.throttled()
        hint = retry_after(response, self._clock.wall())
        if hint is None and allowance is not None and allowance.remaining == 0:
            hint = min(allowance.reset_s, RETRY_AFTER_S_MAX)
        own = THROTTLE_S_FIRST * 2.0 ** min(self._refusals - 1, 16)
        wait = min(own, RETRY_AFTER_S_MAX) if hint is None else hint
        longer = self._budget.pause_until(now + wait * (1.0 + JITTER_SHARE * self._spread()))
        self._observer.throttled(longer)
        self._observer.budget_remaining(0.0)


class ApiClient:
    """Requests of one source with its credentials."""

    def __init__(
        self, exchange: Exchange, credentials: Credentials, clock: Clock, settings: ClientSettings | None = None
    ) -> None:
        self._exchange = exchange
        self._credentials = credentials
        self._clock = clock
        self._settings = settings or ClientSettings()

    async def get(
        self,
        endpoint: str,
        path: str,
        query: tuple[tuple[str, str], ...] = (),
        *,
        priority: Priority | Turns = Priority.POLL,
        unless: str | None = None,
    ) -> Answer:
        """GET and parse. `endpoint` names the template for metrics and messages, `path` is already encoded.

        unless: an ETag; if it still names the resource, the answer may be `unchanged`.

        Raises any `SourceError`. Cancellation closes the connection and gives back what was taken.
        """
        request = Request(
            "GET",
            path,
            query,
            {} if unless is None else {IF_NONE_MATCH: unless},
            timeout_s=self._settings.request_timeout_s,
            body_bytes_max=self._settings.body_bytes_max,
        )
        response, asked_at = await self.send(endpoint, request, priority)
        return self._answer(endpoint, request, response, asked_at)

    async def write(
        self,
        endpoint: str,
        method: Literal["POST", "PUT", "DELETE"],
        path: str,
        value: Any,
        *,
        priority: Priority | Turns,
    ) -> Answer:
        """Send JSON and parse the answer, if there is one. `Any`: the body is the endpoint's. Otherwise as `get`.

        After `RetryLater`, and after a cancellation, it may have had its effect or not.
        """
        request = Request(
            method,
            path,
            headers={"Content-Type": "application/json"},
            body=orjson.dumps(value),
            timeout_s=self._settings.request_timeout_s,
            body_bytes_max=self._settings.body_bytes_max,
        )
        response, asked_at = await self.send(endpoint, request, priority)
        return self._answer(endpoint, request, response, asked_at)

    def turns(self, count: int, priority: Priority) -> AbstractAsyncContextManager[Turns]:
        """Wait until so many requests may be sent one right behind the other; see `Turns`."""
        return self._exchange.turns(count, priority)

    async def send(self, endpoint: str, request: Request, priority: Priority | Turns) -> tuple[Response, float]:
        """Any request with credentials: a 2xx answer, or the 304 it asked for, and the moment of the request."""
        authorization = await self._credentials.authorization()  # first: who cannot log in needs no turn
        if await self._exchange.turn(priority):
            authorization = await self._credentials.authorization()  # the token may have died meanwhile
        response, asked_at = await self._exchange.attempt(endpoint, self._authorised(request, authorization))
        if response.status == 401:
            self._credentials.refused(authorization)
            authorization = await self._credentials.authorization()
            await self._exchange.turn(Priority.COMMAND)  # it has waited already, and must not wait until this one dies
            response, asked_at = await self._exchange.attempt(endpoint, self._authorised(request, authorization))
        if not unchanged(request, response):
            self._exchange.check(endpoint, response)
        return response, asked_at

    def _answer(self, endpoint: str, request: Request, response: Response, asked_at: float) -> Answer:
        same = unchanged(request, response)
        return Answer(
            None if same or response.status == 204 else parse(response, endpoint),
            server_date(response),
            asked_at,
            self._clock.wall(),
            len(response.body),
            etag(response),
            same,
            total_count(response),
        )

    def rate(self) -> float:
        """See `RequestBudget.rate`."""
        return self._exchange.rate()

    def _authorised(self, request: Request, authorization: str) -> Request:
        return replace(request, headers={**request.headers, self._credentials.header: authorization})
