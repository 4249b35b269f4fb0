"""Access: a secret key that is good for ever, or a bearer token that is not."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hmac import compare_digest
from random import Random

from bridge.clock import Clock
from bridge.sandbox.answer import header
from bridge.sandbox.rebilly.problems import Problem
from bridge.source.transport import Request

TOKENS_MAX = 1_000
"""Tokens remembered; the oldest is forgotten, that is refused, first."""


class Access:
    """Of one organization. Lifetimes are counted on the monotonic clock."""

    def __init__(self, api_key: str, clock: Clock, rng: Random) -> None:
        self._api_key = api_key.encode()
        self._clock = clock
        self._rng = rng
        self._issued: dict[str, float] = {}

    def check(self, request: Request, lifetime_s: float) -> None:
        """401 unless the request brings the key or a token that is still good; the key counts where there are both."""
        if key := header(request, "reb-apikey"):
            if compare_digest(key.encode(), self._api_key):
                return
            raise Problem(401, "the key is not known")
        scheme, _, token = header(request, "authorization").partition(" ")
        issued_at = self._issued.get(token) if scheme.lower() == "bearer" else None
        if issued_at is None or self._clock.monotonic() - issued_at >= lifetime_s:
            raise Problem(401, "neither a key nor a token that is good")

    def new_token(self) -> str:
        """Three parts, as a JWT has, and opaque all the same. How one gets a token is beyond the API."""
        token = ".".join(urlsafe_b64encode(self._rng.randbytes(n)).rstrip(b"=").decode() for n in (27, 96, 32))
        self._issued[token] = self._clock.monotonic()
        if len(self._issued) > TOKENS_MAX:
            del self._issued[next(iter(self._issued))]
        return token

    def revoke_all(self) -> None:
        """No token issued so far is good any more."""
        self._issued.clear()
