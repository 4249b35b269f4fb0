"""FakeProducer: `Producer` over the fake broker, request by request as the real client sends them.

Like the real one: it repeats a request whose answer was lost and says so by a tainted receipt; every wait has a
deadline; after any error it can only be abandoned; a commit that was sent and not answered is unknown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from bridge.errors import CommitUnknown, EnvironmentUnavailable, Fenced, PublishFailed
from bridge.publish.partitioner import partition_of
from bridge.publish.settings import ANSWER_DEADLINE_S, COMMIT_DEADLINE_S, PRODUCE_DEADLINE_S, TRANSACTION_TIMEOUT_S
from bridge.publish.transaction import Receipt, Record, record_bytes
from bridge.sandbox.broker.link import Link
from bridge.sandbox.broker.refusal import Lost, Refusal, Why
from bridge.sandbox.broker.transactions import At, Identity

T = TypeVar("T")

RETRY_S = 0.1
"""Before a lost request is sent again."""

CONCURRENT_S = 0.02
"""Before a request is repeated that came while the transaction before was still being ended."""

OPEN, ADD, PRODUCE, OFFSET, END = "open", "add", "produce", "offset", "end"
"""Kinds of requests, as `Power.cut_at` names them."""


class FakeProducer:
    """Transactional producer of one shard. See `publish.transaction.Producer` for the contract."""

    def __init__(
        self,
        link: Link,
        *,
        transactional_id: str,
        group_id: str,
        inbox: At,
        partitions: Mapping[str, int],
        record_bytes_max: int,
        transaction_timeout_s: float = TRANSACTION_TIMEOUT_S,
    ) -> None:
        """partitions: how many each topic has. record_bytes_max: of the strictest topic."""
        self._link = link
        self._transactional_id = transactional_id
        self._group_id = group_id
        self._inbox = inbox
        self._partitions = dict(partitions)
        self._record_bytes_max = record_bytes_max
        self._timeout_s = transaction_timeout_s
        self._identity: Identity | None = None
        self._sequences: dict[At, int] = {}
        self._usable = False
        self._tainted = False
        self._end_sent = False
        self._end_lost = False

    async def open(self) -> None:
        """Fence every older producer of this shard. Raises `EnvironmentUnavailable`. Cancelled or failed: `abandon`."""
        assert self._identity is None, "a producer is opened once"
        for topic, count in self._partitions.items():
            found = self._link.broker.partitions(topic)
            if found < count:
                raise EnvironmentUnavailable(f"topic {topic} has {found} partitions, {count} are expected")
        try:
            async with asyncio.timeout(ANSWER_DEADLINE_S):
                broker, name = self._link.broker, self._transactional_id
                self._identity = await self._ask(OPEN, lambda: broker.init(name, self._timeout_s))
        except TimeoutError:
            raise EnvironmentUnavailable(f"Kafka did not open {self._transactional_id}") from None
        self._usable = True

    async def publish(self, records: Sequence[Record], inbox_offset: int | None) -> Receipt:
        """One transaction. Raises `Fenced`, `PublishFailed` or `CommitUnknown`; cancellation is as `CommitUnknown`."""
        assert self._usable, "a producer that failed or is tainted is never used again"
        assert records or inbox_offset is not None, "an empty transaction would prove nothing: Kafka is not asked"
        self._usable = False
        self._end_sent = self._end_lost = False
        batches = self._packed(records)
        offsets = await self._send(batches, inbox_offset)
        await self._commit()
        self._usable = not self._tainted
        return Receipt(offsets, self._tainted)

    async def close(self) -> None:
        """Clean close; nothing is in flight."""
        self._usable = False

    async def abandon(self) -> None:
        """Dirty close: what has left may still arrive."""
        self._usable = False

    def _packed(self, records: Sequence[Record]) -> dict[At, list[Record]]:
        packed: dict[At, list[Record]] = {}
        for record in records:
            if record_bytes(record) > self._record_bytes_max:
                raise PublishFailed(
                    f"a record for {record.topic} is above the limit of {self._record_bytes_max} bytes; nothing of "
                    "its transaction was sent"
                )
            count = self._partitions[record.topic]
            number = partition_of(record.key, count) if record.partition is None else record.partition
            packed.setdefault((record.topic, number), []).append(record)
        return packed

    async def _send(self, batches: Mapping[At, Sequence[Record]], inbox_offset: int | None) -> dict[At, int]:
        broker, who = self._link.broker, self._own()
        offsets: dict[At, int] = {}
        try:
            async with asyncio.timeout(PRODUCE_DEADLINE_S):
                if batches:
                    await self._ask(ADD, lambda: broker.add(who, batches))
                for at, records in batches.items():
                    sequence = self._sequences.get(at, 0)
                    self._sequences[at] = sequence + 1
                    base = await self._ask(PRODUCE, _produce(self._link, who, at, sequence, records))
                    offsets[at] = base + len(records) - 1
                if inbox_offset is not None:
                    await self._ask(ADD, lambda: broker.add_offsets(who, self._group_id))
                    await self._ask(
                        OFFSET, lambda: broker.commit_offset(who, self._group_id, self._inbox, inbox_offset)
                    )
        except TimeoutError:
            raise PublishFailed("Kafka did not take the records in time") from None
        except Refusal as refusal:
            raise self._failure(refusal) from None
        return offsets

    async def _commit(self) -> None:
        broker, who = self._link.broker, self._own()
        try:
            async with asyncio.timeout(COMMIT_DEADLINE_S):
                await self._ask(END, lambda: broker.end(who, commit=True))
        except TimeoutError:
            if not self._end_sent:
                raise PublishFailed("the commit could not be sent in time") from None
            raise CommitUnknown("Kafka did not answer the commit in time") from None
        except Refusal as refusal:
            failure = self._failure(refusal)
            if isinstance(failure, PublishFailed) and self._end_lost:
                raise CommitUnknown(f"the answer to the commit was lost, then: {refusal}") from None
            raise failure from None

    async def _ask(self, kind: str, request: Callable[[], T]) -> T:
        """Until there is an answer, as the library does by itself."""
        while True:
            try:
                return await self._link.call(kind, request, lambda: self._left(kind))
            except Lost:
                if kind not in (OPEN, PRODUCE):
                    self._tainted = True
                    self._end_lost = self._end_lost or kind == END
                await self._link.clock.sleep(RETRY_S)
            except Refusal as refusal:
                if refusal.why is not Why.CONCURRENT:
                    raise
                await self._link.clock.sleep(CONCURRENT_S)

    def _left(self, kind: str) -> None:
        self._end_sent = self._end_sent or kind == END

    def _failure(self, refusal: Refusal) -> Fenced | PublishFailed:
        said = f"{self._transactional_id}: {refusal}"
        return Fenced(said) if refusal.why is Why.FENCED else PublishFailed(said)

    def _own(self) -> Identity:
        assert self._identity is not None
        return self._identity


def _produce(link: Link, who: Identity, at: At, sequence: int, records: Sequence[Record]) -> Callable[[], int]:
    return lambda: link.broker.produce(who, at, sequence, records)
