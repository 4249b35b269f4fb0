"""Token: OAuth client credentials of one source as `Credentials`.

One fetch at a time; whoever needs a token meanwhile waits for that fetch and shares its result, a failure included. A
token is renewed after `RENEW_AT` of its lifetime, counted on the monotonic clock from before the request. Failures
are remembered for a growing while, during which nobody asks the token endpoint: an outage or a wrong secret must not
become a storm of logins.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from bridge.clock import Clock
from bridge.errors import AccessDenied, Malformed, RequestRefused, RetryLater, SourceError
from bridge.source.answer import parse
from bridge.source.api import Exchange
from bridge.source.budget import Priority
from bridge.source.transport import Request

ENDPOINT = "token"
"""Name in metrics and messages."""

RENEW_AT = 0.9
"""Share of the lifetime after which a token is fetched anew, so that none expires on its way."""

LIFETIME_S_MIN = 1.0
LIFETIME_S_MAX = 86_400.0
LIFETIME_S_UNKNOWN = 300.0
"""When the provider does not say, or says nonsense; a token that dies earlier shows as a 401."""

RETRY_S_FIRST = 1.0
RETRY_S_MAX = 60.0
"""Between two attempts while the token endpoint fails."""

_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/=]{1,16384}", re.ASCII)
"""What a bearer token may consist of (RFC 6750); anything else could split a header."""


class OAuthToken:
    """Implements `Credentials`; used concurrently by everything that asks the source."""

    def __init__(self, exchange: Exchange, request: Callable[[], Request], clock: Clock) -> None:
        """`request`: makes the login request, with its secret, at the moment it is sent."""
        self._exchange = exchange
        self._request = request
        self._clock = clock
        self._lock = asyncio.Lock()
        self._header: str | None = None
        self._fetched = 0
        self._renew_at = 0.0
        self._error: SourceError | None = None
        self._failures = 0
        self._retry_at = 0.0

    @property
    def header(self) -> str:
        """See `Credentials.header`."""
        return "Authorization"

    async def authorization(self) -> str:
        """See `Credentials.authorization`."""
        if (header := self._current()) is not None:
            return header
        fetched = self._fetched
        async with self._lock:
            if (header := self._current()) is not None:
                return header
            # However short its life: a token that came while we waited for it is ours too.
            if self._header is not None and self._fetched != fetched:
                return self._header
            self._raise_remembered()
            return await self._fetch()

    def refused(self, authorization: str) -> None:
        """See `Credentials.refused`. A token that was replaced meanwhile is not dropped."""
        if authorization == self._header:
            self._header = None

    def __repr__(self) -> str:
        return "OAuthToken(***)"

    def _current(self) -> str | None:
        return self._header if self._clock.monotonic() < self._renew_at else None

    def _raise_remembered(self) -> None:
        wait = self._retry_at - self._clock.monotonic()
        if self._error is None or wait <= 0:
            return
        if isinstance(self._error, AccessDenied):
            raise AccessDenied(str(self._error))
        raise RetryLater(str(self._error), delay_s=wait)

    async def _fetch(self) -> str:
        started = self._clock.monotonic()
        try:
            response, _ = await self._exchange.send(ENDPOINT, self._request(), Priority.COMMAND)
            token, lifetime_s = _read(parse(response, ENDPOINT))
        except RequestRefused as error:
            raise self._remember(AccessDenied(f"{error}; the login is refused, check account and client id")) from None
        except SourceError as error:
            raise self._remember(error) from None
        self._error, self._failures = None, 0
        self._renew_at = started + RENEW_AT * lifetime_s
        self._fetched += 1
        self._header = f"Bearer {token}"
        return self._header

    def _remember(self, error: SourceError) -> SourceError:
        self._failures += 1
        wait = min(RETRY_S_FIRST * 2.0 ** min(self._failures - 1, 16), RETRY_S_MAX)
        self._retry_at = self._clock.monotonic() + max(wait, getattr(error, "delay_s", None) or 0.0)
        self._error = error
        return error


def _read(value: Any) -> tuple[str, float]:
    """Token and lifetime in seconds; `Any`: the provider's JSON."""
    token = value.get("access_token") if isinstance(value, dict) else None
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise Malformed("token answered without a usable access_token")
    given = value.get("expires_in")
    if not isinstance(given, int | float) or not given > 0:
        return token, LIFETIME_S_UNKNOWN
    return token, min(max(float(given), LIFETIME_S_MIN), LIFETIME_S_MAX)
