"""CommandReceiver: commands over HTTP, for who has no Kafka client.

    POST /sources/{source}/commands     Authorization: Bearer …     {"kind": "rename", "customer": …, …}

The body is what the inbox takes, without `source`; `id` and `sent_at` may be left out. 202 with the id once the inbox
has the command durably, so its outcome will be in the outcomes topic. 400 not a command, 401 no or a wrong token, 403
the token is for another source, 404 no such source, 413 too large, 503 Kafka did not take it in time: then it may have,
and who has given an id may send it again. Nothing else than an accepted command enters the inbox.

Signals are left to `bridge` and Kafka: a token that may rename customers need not be one that lets deletions go.
"""

from __future__ import annotations

import asyncio
import hmac
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from aiohttp import web
from pydantic import SecretStr

from bridge.clock import Clock
from bridge.commands.command import (
    MIRRORED,
    VALUE_BYTES_MAX,
    ProviderCommand,
    Reason,
    Refusal,
    command_of,
    encode,
    mirror_of,
)
from bridge.errors import EnvironmentUnavailable
from bridge.model import iso

RETRY_AFTER_S = 5
"""What a client is told while Kafka is away."""

APPEND_S_MAX = 8.0
"""Until the client is told that nobody knows whether the inbox has it; less than the server lets a request take."""

TOKEN_CHARS_MIN = 16
"""Of a token; shorter ones can be guessed."""

Append = Callable[[str, bytes], Awaitable[object]]
"""Puts a value on the inbox, keyed by the source; returns once it is there durably, or raises."""


class CommandReceiver:
    """The route, as a part of the process's HTTP server."""

    def __init__(self, tokens: Mapping[str, SecretStr], append: Append, clock: Clock) -> None:
        """`tokens` by source; a source without one takes no commands over HTTP."""
        self._tokens = {source: token.get_secret_value().encode() for source, token in tokens.items()}
        self._append = append
        self._clock = clock

    @property
    def routes(self) -> list[web.RouteDef]:
        """For the server; none where no source has a token."""
        return [web.post("/sources/{source}/commands", self._post)] if self._tokens else []

    async def _post(self, request: web.Request) -> web.Response:
        source = request.match_info["source"]
        refused = self._denied(source, request.headers.get("Authorization", ""))
        if refused is not None:
            return refused
        body = await _body(request)
        if body is None:
            return _error(413, f"a command has at most {VALUE_BYTES_MAX} bytes")
        command = self._command(source, body)
        if isinstance(command, Refusal):
            return _error(400, command.detail)
        value = encode(command)
        if len(value) > VALUE_BYTES_MAX:
            return _error(413, f"with what may be left out, the command has more than {VALUE_BYTES_MAX} bytes")
        try:
            async with asyncio.timeout(APPEND_S_MAX):
                await self._append(source, value)
        except (EnvironmentUnavailable, TimeoutError):
            said = "Kafka has not taken the command in time, or nobody said so; send it again with the same id"
            return _error(503, said, {"Retry-After": str(RETRY_AFTER_S)}, id=command.id)
        return web.json_response({"id": command.id}, status=202)

    def _denied(self, source: str, authorization: str) -> web.Response | None:
        scheme, _, token = authorization.partition(" ")
        given = token.strip().encode("utf-8", "surrogateescape")
        fits = {name for name, own in self._tokens.items() if hmac.compare_digest(own, given)}
        if scheme.lower() != "bearer" or not fits:
            return _error(401, "a bearer token is required", {"WWW-Authenticate": "Bearer"})
        if source in fits:
            return None
        # Who has a good token may know what there is; everybody else learns nothing.
        known = source in self._tokens
        return _error(403, "the token is for another source") if known else _error(404, "no such source")

    def _command(self, source: str, body: bytes) -> ProviderCommand | Refusal:
        try:
            fields = orjson.loads(body)
        except orjson.JSONDecodeError:
            return Refusal(Reason.MALFORMED, "the body is not JSON")
        if not isinstance(fields, dict):
            return Refusal(Reason.MALFORMED, "the body is not a JSON object")
        sent_at = iso(int(self._clock.wall() * 1_000_000))
        found = command_of(source.encode(), {"id": uuid.uuid4().hex, "sent_at": sent_at, "source": source, **fields})
        if isinstance(found, ProviderCommand) and mirror_of(found.id) is not None:
            return Refusal(Reason.MALFORMED, f"id: those that begin with {MIRRORED} are the bridge's own")
        if isinstance(found, Refusal | ProviderCommand):
            return found
        return Refusal(Reason.UNSUPPORTED, "signals are not taken over HTTP")


async def _body(request: web.Request) -> bytes | None:
    """None when it is too large; never holds more than the bound and one read."""
    if (request.content_length or 0) > VALUE_BYTES_MAX:
        return None
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > VALUE_BYTES_MAX:
            return None
    return bytes(body)


def _error(status: int, said: str, headers: Mapping[str, str] | None = None, **more: Any) -> web.Response:
    """`Any`: JSON."""
    return web.json_response({"error": said, **more}, status=status, headers=headers)
