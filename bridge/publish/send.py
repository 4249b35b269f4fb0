"""Send: appending to the inbox from anywhere, and waiting for the answer.

A record of the inbox is keyed by its source and lies in the partition of the shard that owns it. The producer waits
for every replica but is *not* idempotent: a record that is written twice does no harm, because its receiver knows it
again, while an idempotent producer of this library can be dead for ever after a broker has been away for long. It is
for one sender at a time or many; every call has a deadline of ours.

`Outcomes` notes the ends of the outcomes topic first, so that no answer can slip by between sending and looking.

Tasks: the library's sender and its metadata refresh belong to the client; `async with` ends them (see `wire`).
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from bridge.clock import Clock
from bridge.errors import EnvironmentUnavailable
from bridge.publish.partitioner import partition_of
from bridge.publish.reading import At, PartitionReader
from bridge.publish.settings import KafkaSettings, client_options, compression
from bridge.publish.wire import Wire, bootstrap, describe, stop_or_cut, unreachable


class InboxSender:
    """A producer for the length of one `async with`. Calls raise `EnvironmentUnavailable`."""

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        self._settings = settings
        self._topic = topic
        self._client: Any = AIOKafkaProducer(  # the library has no types
            **client_options(settings),
            acks="all",
            enable_idempotence=False,
            linger_ms=0,
            compression_type=compression(settings),
        )
        self._wire = Wire(self._client.client)

    async def __aenter__(self) -> Self:
        try:
            await bootstrap(self._settings, self._client.start())
        except BaseException:
            await self._cut()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop_or_cut(self._client.stop(), self._cut)

    async def send(self, source: str, value: bytes) -> tuple[int, int]:
        """Append; partition and offset, once every replica in sync has it.

        Raises when there is no answer in time: then it may be there or not. Cancelled: the same.
        """
        return await self.send_raw(source.encode(), value)

    async def send_raw(self, key: bytes, value: bytes, sent_ms: int | None = None) -> tuple[int, int]:
        """As `send`, whatever the key is. sent_ms: the record's time, in milliseconds since 1970; None: now."""
        try:
            async with asyncio.timeout(self._settings.answer_deadline_s):
                partitions = await self._client.partitions_for(self._topic)
                if not partitions:
                    raise EnvironmentUnavailable(f"topic {self._topic} does not exist at {self._settings.servers}")
                number = partition_of(key, len(partitions))
                written = await self._client.send_and_wait(self._topic, value, key, number, sent_ms)
        except TimeoutError:
            raise unreachable(self._settings, f"{self._topic} was not written in time, or nobody said so") from None
        except KafkaError as error:
            raise unreachable(self._settings, f"{self._topic} cannot be written: {describe(error)}") from error
        return written.partition, written.offset

    async def _cut(self) -> None:
        self._client._closed = True  # or its destructor complains that it was not stopped
        self._wire.seal()
        accumulator = self._client._message_accumulator
        queued = [batch for queue in accumulator._batches.values() for batch in queue]
        waiting = [*accumulator._pending_batches, *queued]
        accumulator.fail_all(EnvironmentUnavailable("the sender was cut off"))  # frees what waits for batches
        await self._wire.cut([self._client._sender.sender_task])
        for future in (future for batch in waiting for future in (batch.future, batch._drain_waiter)):
            if future.done() and not future.cancelled():
                future.exception()  # looked at, or the loop would report it as forgotten


class InboxDoor:
    """An `InboxSender` for a process that lives longer than Kafka: opened by the first record, again until it opens.

    Shared by all who send; `stop` closes it for good. Implements the supervisor's `Endpoint`.
    """

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        self._settings = settings
        self._topic = topic
        self._opening = asyncio.Lock()
        self._sender: InboxSender | None = None
        self._stopped = False

    async def start(self) -> None:
        """Nothing yet."""

    async def send(self, source: str, value: bytes) -> tuple[int, int]:
        """See `InboxSender.send`."""
        async with self._opening:
            if self._stopped:
                raise EnvironmentUnavailable("the process is stopping")
            if self._sender is None:
                sender = InboxSender(self._settings, self._topic)
                self._sender = await sender.__aenter__()
        return await self._sender.send(source, value)

    async def stop(self) -> None:
        """Bounded and idempotent; what is being sent fails."""
        self._stopped = True
        async with self._opening:
            sender, self._sender = self._sender, None
        if sender is not None:
            await sender.__aexit__()


class Outcomes:
    """The answers to one command, for the length of one `async with`. Calls raise `EnvironmentUnavailable`."""

    def __init__(self, settings: KafkaSettings, topic: str, clock: Clock) -> None:
        self._topic = topic
        self._reader = PartitionReader(settings, clock)

    async def __aenter__(self) -> Self:
        await self._reader.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._reader.__aexit__()

    async def note(self, command: str, *, from_beginning: bool) -> None:
        """Where to look for the answer; called before the command is sent.

        from_beginning: it may have been answered before, because somebody has sent it already.
        """
        key = command.encode()
        partitions = await self._reader.partitions([self._topic])
        at: list[At] = [partitions[partition_of(key, len(partitions))]]
        self._reader.assign(await (self._reader.begins(at) if from_beginning else self._reader.ends(at)))

    async def answer(self, command: str) -> bytes:
        """The value of the first outcome with this id; waits for it without an end of its own."""
        key = command.encode()
        async with aclosing(self._reader.chunks(None)) as chunks:
            async for chunk in chunks:
                for message in chunk:
                    if message.key == key and message.value is not None:
                        return message.value
        raise AssertionError("a reading without ends has none")
