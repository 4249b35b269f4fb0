"""Access tokens: issued against client id and secret, checked on every other call.

Lifetimes are counted on the monotonic clock, so that a provider whose wall clock jumps does not log everybody out.
"""

from __future__ import annotations

import re
from base64 import b64decode, urlsafe_b64encode
from binascii import Error as BadBase64
from random import Random

from bridge.clock import Clock
from bridge.errors import RequestRefused
from bridge.sandbox.answer import Answer
from bridge.sandbox.dintero.answer import Call, found

TOKENS_MAX = 1_000
"""Tokens remembered; the oldest is forgotten, that is refused, first."""

AUDIENCE = re.compile(r"https?://[^/]+(?:/[^/]+)*/accounts/(?P<account>[^/]+)")


class Access:
    """Tokens of one API client."""

    def __init__(self, client_id: str, client_secret: str, clock: Clock, rng: Random) -> None:
        self._credentials = f"{client_id}:{client_secret}".encode()
        self._clock = clock
        self._rng = rng
        self._issued: dict[str, tuple[float, float]] = {}

    def issue(self, call: Call, authorization: str) -> Answer:
        """`POST /accounts/{oid}/auth/token`."""
        scheme, _, credentials = authorization.partition(" ")
        if scheme.lower() != "basic" or _decoded(credentials) != self._credentials:
            raise RequestRefused("client id or secret is wrong", status=401)
        body = call.json()
        if not isinstance(body, dict) or body.get("grant_type", "client_credentials") != "client_credentials":
            raise RequestRefused("grant_type must be client_credentials", status=400)
        audience = body.get("audience")
        granted = AUDIENCE.fullmatch(audience) if isinstance(audience, str) else None
        if granted is None:
            raise RequestRefused("audience is required", status=400)
        if granted["account"] != call.world.account:
            raise RequestRefused("the client has no grant for this audience", status=403)
        lifetime = call.switches.token_lifetime
        return found({"access_token": self._new(lifetime), "token_type": "Bearer", "expires_in": lifetime})

    def check(self, authorization: str, revoke_after_s: float) -> None:
        """Raise a 401 unless the header holds a token that is still good."""
        scheme, _, token = authorization.partition(" ")
        times = self._issued.get(token) if scheme.lower() == "bearer" else None
        if times is None:
            raise RequestRefused("access forbidden", status=401)
        issued_at, lifetime_s = times
        age_s = self._clock.monotonic() - issued_at
        if age_s >= lifetime_s or 0 < revoke_after_s <= age_s:
            del self._issued[token]
            raise RequestRefused("access forbidden", status=401)

    def revoke_all(self) -> None:
        """No token issued so far is good any more."""
        self._issued.clear()

    def _new(self, lifetime_s: float) -> str:
        # Three parts, as a JWT has, and opaque all the same.
        parts = (self._rng.randbytes(length) for length in (27, 96, 32))
        token = ".".join(urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
        self._issued[token] = (self._clock.monotonic(), lifetime_s)
        if len(self._issued) > TOKENS_MAX:
            del self._issued[next(iter(self._issued))]
        return token


def _decoded(credentials: str) -> bytes | None:
    try:
        return b64decode(credentials, validate=True)
    except (BadBase64, ValueError):
        return None
