"""A server that plays bytes: for what no HTTP server will do for you (cut bodies, lying lengths, endless heads).

    async with RawServer([[REQUEST, Send(b"HTTP/1.1 200 OK\r\n"), Wait(5), RESET]]) as server: ...

One script per connection, the last one for all further connections. What was received is in `server.heads`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType


@dataclass(frozen=True)
class Send:
    data: bytes
    times: int = 1


@dataclass(frozen=True)
class Wait:
    seconds: float


class Do(Enum):
    REQUEST = "read one request, body included"
    HALF_CLOSE = "send a FIN, go on reading"
    CLOSE = "close properly"
    RESET = "close with an RST"


REQUEST, HALF_CLOSE, CLOSE, RESET = Do
Script = Sequence[Send | Wait | Do]


def response(body: bytes, *headers: str, status: str = "200 OK", media: str = "application/json") -> Send:
    """A well-formed answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {media}", f"Content-Length: {len(body)}", *headers]
    return Send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


class RawServer:
    """Listens on a free port of 127.0.0.1 while the context is open."""

    def __init__(self, scripts: Sequence[Script], context: ssl.SSLContext | None = None) -> None:
        self._scripts = list(scripts)
        self._context = context
        self._tasks: set[asyncio.Task[None]] = set()
        self.heads: list[bytes] = []
        self.connections = 0
        self.asked = asyncio.Event()

    async def __aenter__(self) -> RawServer:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._context)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"http{'s' if self._context else ''}://127.0.0.1:{self.port}/v1"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        script = self._scripts[min(self.connections, len(self._scripts) - 1)]
        self.connections += 1
        try:
            for step in script:
                if not await self._play(step, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the test is over
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _play(self, step: Send | Wait | Do, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if isinstance(step, Send):
            for _ in range(step.times):
                writer.write(step.data)
                await writer.drain()
        elif isinstance(step, Wait):
            await asyncio.sleep(step.seconds)
        elif step is REQUEST:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            self.asked.set()
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    await reader.readexactly(int(line[15:]))
        elif step is HALF_CLOSE:
            writer.write_eof()
        elif step is RESET:
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        else:
            return False
        return True
