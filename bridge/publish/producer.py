"""KafkaProducer: a shard's transactions on a real Kafka, with the client library's pitfalls closed off.

The library commits happily with a refused batch inside, is broken for good after one failed batch, repeats a
transaction request whose answer was lost without a word, and can wait for ever in every call. Hence: every batch is
awaited before the commit; every wait has a deadline of ours; one object is one attempt, and after any error,
cancellation included, it can only be abandoned; a request that may still arrive late makes the receipt *tainted*,
because a delayed copy of a commit would commit half of a later transaction of the same producer (KAFKA-17754, all
clients that speak transaction version 1). Opening the next producer fences everything an earlier one left behind, and
decides what Kafka forgot to decide (see `hanging`). Until then no other transaction may touch the same partitions, so
after a connection broke no transaction is begun: the broker may have died over the markers of the one before.

Tasks: the library's sender and its metadata refresh belong to the client; `abandon` ends them (see `wire`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.conn import CloseReason
from aiokafka.errors import (
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    KafkaError,
    ProducerFenced,
    TransactionalIdAuthorizationFailed,
)
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    TxnOffsetCommitRequest,
)

from bridge.clock import Clock
from bridge.errors import CommitUnknown, EnvironmentUnavailable, Fenced, PublishError, PublishFailed
from bridge.observability.logs import get_logger
from bridge.publish.batches import BATCH_BYTES_MAX, Batches, last_offsets, pack, rounds
from bridge.publish.hanging import Past
from bridge.publish.hanging import describe as describe_hanging
from bridge.publish.metadata import partition_counts
from bridge.publish.settings import KafkaSettings, client_options, compression, milliseconds
from bridge.publish.transaction import Receipt, Record
from bridge.publish.wire import Client, Request, Response, Wire, bootstrap, describe, stop_or_cut, unreachable

_TRANSACTION_REQUESTS = (
    AddPartitionsToTxnRequest,
    AddOffsetsToTxnRequest,
    TxnOffsetCommitRequest,
    EndTxnRequest,
)

_FENCING = (ProducerFenced, InvalidProducerEpoch, InvalidProducerIdMapping)
"""A newer owner, our transaction's timeout, or an id that was idle for seven days: the exception does not tell."""


log = get_logger(__name__)


class KafkaProducer:
    """Transactional producer of one shard. See `transaction.Producer` for the contract."""

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        transactional_id: str,
        group_id: str,
        inbox_topic: str,
        shard: int,
        partitions: Mapping[str, int],
        record_bytes_max: int,
        clock: Clock,
    ) -> None:
        """partitions: how many each topic has that a record may go to. record_bytes_max: of the strictest topic."""
        self._settings = settings
        self._transactional_id = transactional_id
        self._group_id = group_id
        self._inbox = TopicPartition(inbox_topic, shard)
        self._partitions = dict(partitions)
        self._record_bytes_max = record_bytes_max
        self._clock = clock
        self._requests = _TransactionRequests()
        self._client: Any = None  # AIOKafkaProducer; the library has no types
        self._wire: Wire | None = None
        self._usable = False

    async def open(self) -> None:
        """Fence every older producer of this shard; behind it nothing of them is undecided, as far as Kafka tells.

        Raises `EnvironmentUnavailable`, `Fenced`, or `StateLost` for a transaction that hangs and whose end is not
        known. Cancelled or failed: `abandon`.
        """
        assert self._client is None, "a producer is opened once"
        past = await self._fence()
        await self._know_partitions()
        if await self._ended_hanging(past):
            await self.abandon()
            past = await self._fence()
            await self._know_partitions()
            if await self._ended_hanging(past):
                raise EnvironmentUnavailable(f"a transaction of {self._transactional_id} hangs again and again")
        self._requests.broken = False  # nothing of ours was under way that could have suffered
        self._usable = True

    async def _fence(self) -> Past:
        self._requests = _TransactionRequests()
        self._client = AIOKafkaProducer(
            **client_options(self._settings),
            transactional_id=self._transactional_id,
            transaction_timeout_ms=milliseconds(self._settings.transaction_timeout_s),
            acks="all",
            compression_type=compression(self._settings),
            max_batch_size=min(BATCH_BYTES_MAX, self._record_bytes_max),
        )
        self._wire = Wire(self._client.client, self._requests)
        self._requests.listen(self._client.client)
        past = Past(self._client, self._transactional_id, self._group_id)
        try:
            await bootstrap(self._settings, self._client.start())
        except EnvironmentUnavailable as error:
            if not isinstance(error.__cause__, TransactionalIdAuthorizationFailed):
                raise
            raise EnvironmentUnavailable(
                f"Kafka does not let this user write with transactional id {self._transactional_id}; grant Write and "
                "Describe on it"
            ) from error
        return past

    async def _ended_hanging(self, past: Past) -> bool:
        """Whether there was something; then this client has had its one transaction."""
        try:
            async with asyncio.timeout(self._settings.answer_deadline_s):
                hanging = await past.hanging(self._partitions)
                if not hanging.starts:
                    return False
                log.warning(
                    "Kafka lost the end of a transaction", shard=self._inbox.partition, where=describe_hanging(hanging)
                )
                await past.end(hanging)
                return True
        except TimeoutError:
            raise unreachable(
                self._settings, "it does not tell whether a transaction hangs, or does not end it"
            ) from None

    async def publish(self, records: Sequence[Record], inbox_offset: int | None) -> Receipt:
        """One transaction. Raises `Fenced`, `PublishFailed` or `CommitUnknown`; cancellation is as `CommitUnknown`."""
        assert self._usable, "a producer that failed or is tainted is never used again"
        assert records or inbox_offset is not None, "an empty transaction would prove nothing: Kafka is not asked"
        self._usable = False
        if self._requests.broken:
            raise PublishFailed("a connection to Kafka broke; what became of the last transaction is seen by the next")
        self._requests.begin()
        timestamp_ms = int(self._clock.wall() * 1000)
        batches = pack(records, self._partitions, self._record_bytes_max, timestamp_ms, self._client.create_batch)
        offsets = await self._send(batches, inbox_offset)
        await self._commit()
        tainted = self._requests.tainted or self._requests.broken
        self._usable = not tainted
        return Receipt(offsets, tainted)

    async def close(self) -> None:
        """Clean close, bounded; nothing may be in flight."""
        self._usable = False
        if self._client is not None:
            await stop_or_cut(self._client.stop(), self.abandon)

    async def abandon(self) -> None:
        """Dirty close within two seconds, whatever Kafka does; idempotent."""
        self._usable = False
        if self._client is None or self._wire is None:
            return
        client = self._client
        client._closed = True  # or its destructor complains that it was not stopped
        self._wire.seal()
        # Frees what waits for batches. It could go on to commit, if the wire were not sealed.
        accumulator = client._message_accumulator
        queued = [batch for queue in accumulator._batches.values() for batch in queue]
        waiting = [*accumulator._pending_batches, *queued]
        accumulator.fail_all(PublishFailed("the producer was abandoned"))
        await self._wire.cut([client._sender.sender_task])
        for batch in waiting:
            _looked_at(batch.future)
            _looked_at(batch._drain_waiter)
        _looked_at(self._transaction_end())

    async def _know_partitions(self) -> None:
        """Every partition that will be written to is known before the first record, so sending never looks it up."""
        found = await partition_counts(self._client.client, self._settings, self._partitions, self._clock)
        lacking = [
            f"topic {topic} has {found[topic]} partitions, {count} are expected"
            for topic, count in self._partitions.items()
            if found[topic] < count
        ]
        if lacking:
            raise EnvironmentUnavailable(
                f"{'; '.join(lacking)}. Was it deleted or recreated? `bridge topics` compares them all"
            )

    async def _send(self, batches: Sequence[Batches], inbox_offset: int | None) -> dict[tuple[str, int], int]:
        """Begin, send, and wait for every answer. Raises before anything is committed, so surely nothing is."""
        client = self._client
        futures: list[asyncio.Future[Any]] = []
        try:
            async with asyncio.timeout(self._settings.produce_deadline_s) as scope:
                self._requests.on_broken = partial(self._broke, scope)
                await client.begin_transaction()
                order = list(rounds(batches))
                for at, builder in order:
                    futures.append(await client.send_batch(builder, at.topic, partition=at.partition))
                await self._acknowledged(futures)
                if inbox_offset is not None:
                    # Not beside the records: a broker asks the coordinator whether a transaction may write to it
                    # (KIP-890), and refuses one of two that ask at the same time, which costs a back-off of 100 ms.
                    await client.send_offsets_to_transaction({self._inbox: inbox_offset}, self._group_id)
                return last_offsets(order, futures)
        except TimeoutError:
            if self._requests.broken and not self._requests.joined:
                raise PublishFailed("a connection to Kafka broke before the transaction began") from None
            deadline = self._settings.produce_deadline_s
            raise PublishFailed(f"Kafka did not take the records within {deadline:.0f} s") from None
        except (KafkaError, AssertionError, TypeError) as error:
            # Assertions and type errors are how the library reports a fatal state and a topic that went away.
            raise self._failure(error) from error
        finally:
            self._requests.on_broken = None
            for future in futures:
                future.add_done_callback(_looked_at)

    def _broke(self, scope: asyncio.Timeout) -> None:
        """A connection broke, and Kafka has not taken anything of this transaction: it must not any more."""
        assert self._wire is not None
        self._wire.seal()
        scope.reschedule(asyncio.get_running_loop().time())

    async def _acknowledged(self, futures: Sequence[asyncio.Future[Any]]) -> None:
        """Every batch, or the first error: of a batch, or of the transaction, which need not fail the batches."""
        end = self._transaction_end()
        pending = set(futures)
        while pending:
            done, _ = await asyncio.wait({*pending, end}, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                future.result()
            if end in done:
                raise PublishFailed("the transaction ended while it was being written")
            pending -= done

    async def _commit(self) -> None:
        """Raises `CommitUnknown` unless Kafka's answer, or its never having been asked, says otherwise."""
        assert self._wire is not None
        try:
            async with asyncio.timeout(self._settings.commit_deadline_s):
                await self._client.commit_transaction()
        except TimeoutError:
            # From here on no commit can leave any more, so if none has left, none will.
            self._wire.seal()
            if not self._requests.end_sent:
                raise PublishFailed("the commit could not be sent in time") from None
            deadline = self._settings.commit_deadline_s
            raise CommitUnknown(f"Kafka did not answer the commit within {deadline:.0f} s") from None
        except (KafkaError, AssertionError) as error:
            failure = self._failure(error)
            if isinstance(failure, PublishFailed) and self._requests.end_lost:
                raise CommitUnknown(f"the answer to the commit was lost, then: {describe(error)}") from error
            raise failure from error

    def _failure(self, error: BaseException) -> PublishError:
        """What an error of the library means; the causes count too, it wraps some of them in a plain KafkaError."""
        chain = [error]
        sender = self._client._sender.sender_task
        if sender is not None and sender.done() and not sender.cancelled() and sender.exception():
            chain.append(sender.exception())
        for link in chain:
            if isinstance(link, _FENCING):
                return Fenced(f"shard {self._inbox.partition}: {describe(link)}")
            if link.__cause__ is not None:
                chain.append(link.__cause__)
        return PublishFailed(f"shard {self._inbox.partition}: {describe(chain[-1])}")

    def _transaction_end(self) -> Any:
        """The library's future of the transaction: it fails at once when the transaction becomes impossible."""
        return self._client._txn_manager.wait_for_transaction_end()


class _TransactionRequests:
    """Observer: what happened to the requests that extend and end transactions, and to the connections.

    tainted: one of them was lost, ever. end_sent, end_lost: of the commit of the current transaction. joined: Kafka
    has taken something of the current transaction, so the one before is complete. broken: a connection broke.
    on_broken: called when one breaks before that.
    """

    def __init__(self) -> None:
        self.tainted = False
        self.end_sent = False
        self.end_lost = False
        self.joined = False
        self.broken = False
        self.on_broken: Callable[[], None] | None = None

    def listen(self, client: Client) -> None:
        """Hear of connections that break; before the client opens the first."""
        refresh = client._on_connection_closed

        def closed(connection: Any, reason: Any) -> None:
            if reason not in (CloseReason.IDLE_DROP, CloseReason.SHUTDOWN):
                self.broken = True
                if self.on_broken is not None and not self.joined:
                    self.on_broken()
            refresh(connection, reason)

        client._on_connection_closed = closed

    def begin(self) -> None:
        self.end_sent = self.end_lost = self.joined = False

    def sent(self, request: Request) -> None:
        if isinstance(request, EndTxnRequest):
            self.end_sent = True

    def answered(self, request: Request, response: Response) -> None:
        if isinstance(request, AddOffsetsToTxnRequest):
            self.joined |= response.error_code == 0
        elif isinstance(request, AddPartitionsToTxnRequest):
            self.joined |= all(error == 0 for _, partitions in response.errors for _, error in partitions)

    def lost(self, request: Request) -> None:
        if isinstance(request, _TRANSACTION_REQUESTS):
            self.tainted = True
            self.end_lost = self.end_lost or isinstance(request, EndTxnRequest)


def _looked_at(future: asyncio.Future[Any] | None) -> None:
    """Its error is known from elsewhere; the loop need not report it as forgotten."""
    if future is not None and future.done() and not future.cancelled():
        future.exception()
