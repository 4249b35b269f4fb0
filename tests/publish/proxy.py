"""A proxy in front of a broker that knows where requests begin and end, and mistreats one of a chosen kind."""

from __future__ import annotations

import asyncio
from enum import Enum
from types import TracebackType
from typing import Self

PRODUCE = 0
LIST_OFFSETS = 2
INIT_PRODUCER_ID = 22
ADD_PARTITIONS = 24
ADD_OFFSETS = 25
END_TXN = 26
TXN_OFFSET_COMMIT = 28


class Fate(Enum):
    HELD = "held back, the connection is reset; `release` lets it arrive later"
    LOST = "never arrives, the connection is reset"
    UNANSWERED = "arrives, the connection is reset instead of an answer"
    DOUBLED = "arrives twice, once more on another connection"
    MUTED = "arrives, and its answer never comes; the connection stays"
    SWALLOWED = "never arrives, so it has no answer; the connection stays"


class Proxy:
    """Listens on `port` of this machine for the broker on `target`."""

    def __init__(self, port: int, target: int) -> None:
        self._port = port
        self._target = target
        self._fates: dict[int, Fate] = {}
        self._held: list[bytes] = []
        self._server: asyncio.Server | None = None
        self._closed = False
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.struck = asyncio.Event()
        self.delays_s: dict[int, float] = {}
        """How long requests of a kind, and all behind them, are under way."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._closed = True
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()  # which ends the tasks in order
        if self._connections:
            await asyncio.wait(self._connections)
        await asyncio.sleep(0)  # sockets are closed by callbacks of the loop

    def strike(self, api: int, fate: Fate) -> None:
        """Do this to the next request of that kind."""
        self._fates[api] = fate
        self.struck.clear()

    async def release(self) -> None:
        """What was held back arrives at last; returns when the broker has answered it."""
        while self._held:
            await self._deliver(self._held.pop())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        try:
            broker_reader, broker_writer = await asyncio.open_connection("127.0.0.1", self._target)
            if self._closed:  # meanwhile; nobody else would end this one
                broker_writer.transport.abort()
                return
            self._writers |= {writer, broker_writer}
            try:
                fates: dict[bytes, Fate] = {}
                async with asyncio.TaskGroup() as pumps:
                    pumps.create_task(self._requests(reader, broker_writer, fates))
                    pumps.create_task(self._answers(broker_reader, writer, fates))
            finally:
                broker_writer.transport.abort()
                self._writers -= {writer, broker_writer}
        except* (OSError, EOFError, _Reset):
            pass  # either side went away, or was made to
        finally:
            writer.transport.abort()

    async def _requests(
        self, reader: asyncio.StreamReader, broker: asyncio.StreamWriter, fates: dict[bytes, Fate]
    ) -> None:
        while True:
            frame = await _frame(reader)
            api = int.from_bytes(frame[4:6], "big")
            if api in self.delays_s:
                await asyncio.sleep(self.delays_s[api])
            fate = self._fates.pop(api, None)
            if fate is not None:
                self.struck.set()
            match fate:
                case Fate.HELD:
                    self._held.append(frame)
                    raise _Reset
                case Fate.LOST:
                    raise _Reset
                case Fate.SWALLOWED:
                    continue
                case Fate.UNANSWERED | Fate.MUTED:
                    fates[frame[8:12]] = fate
                case Fate.DOUBLED:
                    await self._deliver(frame)
                case None:
                    pass
            broker.write(frame)
            await broker.drain()

    async def _answers(
        self, broker: asyncio.StreamReader, writer: asyncio.StreamWriter, fates: dict[bytes, Fate]
    ) -> None:
        while True:
            frame = await _frame(broker)
            fate = fates.pop(frame[4:8], None)
            if fate is Fate.UNANSWERED:
                raise _Reset
            if fate is Fate.MUTED:
                continue
            writer.write(frame)
            await writer.drain()

    async def _deliver(self, frame: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._target)
        writer.write(frame)
        await _frame(reader)
        writer.transport.abort()


class _Reset(Exception):
    """Ends a connection on purpose."""


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """Size and payload; a request's payload begins with its kind (2), version (2) and correlation id (4)."""
    size = await reader.readexactly(4)
    return size + await reader.readexactly(int.from_bytes(size, "big"))
