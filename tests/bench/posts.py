"""Posts: an HTTP client that costs a fraction of what it asks for, so that it is not what is measured.

HTTP/1.1 with connections that stay open, one request at a time on each; answers have a Content-Length. Nothing else.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Self
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class _Connection(asyncio.Protocol):
    """One of them. lost: the other side has closed it."""

    def __init__(self) -> None:
        self.lost = False
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, end, body = self._read.partition(b"\r\n\r\n")
        length = _LENGTH.search(head) if end else None
        if length is not None and len(body) >= int(length[1]) and self._answer is not None:
            self._read = b""
            if not self._answer.done():
                self._answer.set_result((int(head[9:12]), body))

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("closed before the answer"))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body. Raises OSError."""
        assert self._transport is not None, "connected"
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Posts:
    """To one server, for the length of one `async with`."""

    def __init__(self, url: str, headers: Mapping[str, str], connections_max: int) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname or "", parts.port or 80
        lines = {"Host": parts.netloc, **headers}
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._free = asyncio.Semaphore(connections_max)
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._all:
            connection.close()

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer. Raises OSError."""
        request = f"POST {path} HTTP/1.1\r\n{self._headers}Content-Length: {len(body)}\r\n\r\n".encode() + body
        async with self._free:
            connection = await self._connection()
            answer = await connection.ask(request)
            self._idle.append(connection)
            return answer

    async def _connection(self) -> _Connection:
        while self._idle:
            if not (connection := self._idle.pop()).lost:
                return connection
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, *self._address)
        self._all.add(connection)
        return connection
