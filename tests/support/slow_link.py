"""A slow way to a broker: every byte later, and not more of them per second than the link takes."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

CHUNK_BYTES = 16 * 1024


class SlowLink:
    """Listens on `port` of this machine for the broker on `target`. Each direction of each connection is a link."""

    def __init__(self, port: int, target: int) -> None:
        self._port = port
        self._target = target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.delay_s = 0.0
        self.bytes_per_s = float("inf")
        self.passed_bytes = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.sleep(0)  # sockets are closed by callbacks of the loop

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._target)
            try:
                async with asyncio.TaskGroup() as pumps:
                    pumps.create_task(self._pump(reader, other_writer))
                    pumps.create_task(self._pump(other_reader, writer))
            finally:
                other_writer.transport.abort()
        except* (OSError, EOFError):
            pass  # either side went away
        except* asyncio.CancelledError:
            pass  # the link is closed
        finally:
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What is read waits its time in a queue; the queue is bounded, so that a sender feels the link."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

        async def take() -> None:
            while data := await reader.read(CHUNK_BYTES):
                await queue.put((loop.time() + self.delay_s, data))
            raise EOFError

        async def give() -> None:
            while True:
                due, data = await queue.get()
                await asyncio.sleep(max(0.0, due - loop.time()) + len(data) / self.bytes_per_s)
                writer.write(data)
                await writer.drain()
                self.passed_bytes += len(data)

        async with asyncio.TaskGroup() as group:
            group.create_task(take())
            group.create_task(give())
