"""Transport: one HTTP exchange as a value in, a value out. The client ends here; the sandbox begins here.

Implementations: `client.HttpTransport` (aiohttp) and the sandbox API in process. A transport knows no retries, no
tokens and no budget; it keeps the deadline and the size bound that the request names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Request:
    """One request to the configured origin. Its `repr` shows the method only: the rest may be secret or personal.

    path: begins with `/`, already percent-encoded, relative to the base URL.
    query: pairs in order; a name may repeat. Not encoded.
    body: raw bytes or None; `headers` says what they are.
    timeout_s: deadline of the whole exchange in seconds, connect to last byte.
    body_bytes_max: the answer's decoded body may not be larger.
    """

    method: str
    path: str = field(repr=False)
    query: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    timeout_s: float = 30.0
    body_bytes_max: int = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Response:
    """One complete answer; header names are lower case, a repeated header keeps its last value."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Transport(Protocol):
    """Sends one request. Used concurrently by every feed of a source."""

    async def send(self, request: Request) -> Response:
        """The complete answer, whatever its status (redirects are not followed).

        Raises `RetryLater` when there is none: refused, reset, cut, slower than the deadline; `AnswerTooLarge` when it
        is larger than the bound.
        Cancellation closes the connection.
        """
        ...

    async def close(self) -> None:
        """Release connections; idempotent."""
        ...
