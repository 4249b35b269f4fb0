"""Shard: one inbox partition with the sources that hash to it: open, run, drain or break.

    WAITING ──► OPENING ──► RESTORING ──► RUNNING ──► DRAINING ──► CLOSED
                   │            │            │            │           ▲
                   └────────────┴────────────┴────────────┴───────────┘   any error: dirty close

`serve` is one life. Its order is what makes the shard exactly once: the new producer fences the old owner *before*
the inbox position and the state are read, so neither can still move. Then run side by side, in one task group:
a loop per collection, the commands of each source, the committer (the only caller of `Producer.publish`), the inbox,
and the tick. A failed or unanswered commit ends the life; everything pending is dropped with the ledger and detected
again by the next life.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from bridge.clock import Clock
from bridge.errors import Fenced, PublishFailed, StateLost
from bridge.model import Collection, Path
from bridge.observability.logs import get_logger
from bridge.observability.metrics import Metrics, TransactionResult
from bridge.observability.status import EventLine
from bridge.publish.inbox import InboxRecord
from bridge.publish.statelog import StaleCache
from bridge.publish.topics import TopicPlan
from bridge.publish.transaction import Producer, Receipt, Record
from bridge.runtime.answers import Answers
from bridge.runtime.inbox import InboxDesk
from bridge.runtime.ledger import Batch, Ledger
from bridge.runtime.loop import SourceLoop
from bridge.runtime.progress import ProgressBook, last_written
from bridge.runtime.reader import SourceReader
from bridge.runtime.tasks import first_leaf, outlived
from bridge.store.base import Store
from bridge.store.guard import GuardedStore
from bridge.store.record import decode_json, encode_json, heartbeat_key, marker_key

LINGER_S = 0.005
"""From the first change to the commit: pages that arrive meanwhile join the transaction, nobody notices the wait."""

PATIENCE_S = 0.25
"""The same while everything is read for the first time: a commit costs as much for one page as for forty."""

RECORDS_AT_ONCE = 16
"""Of the inbox, before others of the event loop get their turn; a few milliseconds."""

EVENTS_SHOWN = 30
"""Of the last ones, on the status page."""

TICK_S = 1.0
"""How often state that is not urgent (a cursor that moved without a change) is committed."""

HEARTBEAT_S = 6 * 3600.0
"""A quiet partition is never compacted; one record per quarter of `max.compaction.lag.ms` (1 day) keeps it moving."""

INBOX_QUEUE_MAX = 1_000
"""Inbox records waiting in memory per shard; the partition is paused above half of it."""

log = get_logger(__name__)


class ShardState(StrEnum):
    """See the diagram in the module's docstring."""

    WAITING = "waiting"
    OPENING = "opening"
    RESTORING = "restoring"
    RUNNING = "running"
    DRAINING = "draining"
    CLOSED = "closed"


_LEGAL: dict[ShardState, frozenset[ShardState]] = {
    ShardState.WAITING: frozenset({ShardState.OPENING, ShardState.CLOSED}),
    ShardState.OPENING: frozenset({ShardState.RESTORING, ShardState.CLOSED}),
    ShardState.RESTORING: frozenset({ShardState.RUNNING, ShardState.CLOSED}),
    ShardState.RUNNING: frozenset({ShardState.DRAINING, ShardState.CLOSED}),
    ShardState.DRAINING: frozenset({ShardState.CLOSED}),
    ShardState.CLOSED: frozenset(),
}


_RESULTS: dict[type[BaseException], TransactionResult] = {
    PublishFailed: TransactionResult.FAILED,
    Fenced: TransactionResult.FENCED,
}


class InboxPartition(Protocol):
    """A shard's own partition of the inbox; everything else of the inbox belongs to the assignment."""

    async def committed(self) -> int | None:
        """The committed offset, asked afresh; None when there is none."""
        ...

    async def beginning(self) -> int:
        """The oldest offset that still exists."""
        ...

    def seek(self, offset: int) -> None:
        """Read on from here."""
        ...

    def pause(self) -> None:
        """Deliver nothing."""
        ...

    def resume(self) -> None:
        """Deliver again."""
        ...

    def confirmed_at(self) -> float:
        """When the group was last asked whether it is ours and said so (`Clock.monotonic`); -inf while it does not."""
        ...


@dataclass(frozen=True, slots=True)
class ShardPorts:
    """What a shard stands on.

    restore: brings the store up to the last stable offset of its state partition; raises `StaleCache` when the
    store belongs to another log. discard: throws the cache file away. new_id: a text that is never given twice.
    """

    inbox: InboxPartition
    producer: Callable[[], Producer]
    open_store: Callable[[], Store]
    discard_store: Callable[[], None]
    restore: Callable[[Store], Awaitable[None]]
    new_id: Callable[[], str] = lambda: uuid.uuid4().hex


class Shard:
    """One life of a shard; build a new one for the next."""

    def __init__(
        self,
        number: int,
        sources: Sequence[SourceReader],
        ports: ShardPorts,
        topics: TopicPlan,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self.number = number
        self.readings: dict[str, Sequence[SourceLoop]] = {}
        self.caught_up: dict[tuple[str, Collection], float] = {}
        self.last_events: deque[EventLine] = deque(maxlen=EVENTS_SHOWN)
        self._sources = sources
        self._ports = ports
        self._topics = topics
        self._clock = clock
        self._metrics = metrics
        self._state = ShardState.WAITING
        self._queue: asyncio.Queue[InboxRecord] = asyncio.Queue(INBOX_QUEUE_MAX)
        self._next_offset = 0
        self._unproved: dict[tuple[str, Collection], tuple[float, float]] = {}  # caught up to, known at
        self._drain = asyncio.Event()

    @property
    def state(self) -> ShardState:
        """Where in its life the shard is."""
        return self._state

    def drain(self) -> None:
        """Soft stop: finish what is in the ledger, then `serve` returns. Idempotent."""
        self._drain.set()

    async def serve(self) -> None:
        """Live until drained (returns) or broken (raises a `PublishError`, `OSError` or `sqlite3.Error`).

        Cancellation is the hard stop: the transaction in flight, if any, is left to the log to decide.
        """
        producer = self._ports.producer()
        clean = False
        try:
            async with AsyncExitStack() as stack:
                ledger = await self._open(producer, stack)
                await self._run(producer, ledger)
            clean = True
        except BaseExceptionGroup as group:
            raise first_leaf(group) from None
        finally:
            self._state = ShardState.CLOSED
            self._metrics.disown(*(source.account.source for source in self._sources))
            await (producer.close() if clean else producer.abandon())

    def deliver(self, records: Sequence[InboxRecord]) -> None:
        """Take records of the inbox partition; what was taken before (after a rebalance) is ignored."""
        if self._state is not ShardState.RUNNING:
            return  # fetched for the life before; this one has not said yet where to go on, and will ask again
        for record in records:
            if record.offset >= self._next_offset:
                self._queue.put_nowait(record)
                self._next_offset = record.offset + 1
        if self._queue.qsize() > INBOX_QUEUE_MAX // 2:
            self._ports.inbox.pause()

    def reseek(self) -> None:
        """After a rebalance that left the partition here: the client forgot where it was, the shard did not."""
        if self._state is ShardState.RUNNING:
            self._ports.inbox.seek(self._next_offset)
            if self._queue.qsize() <= INBOX_QUEUE_MAX // 2:  # else `_consume_inbox` resumes when there is room
                self._ports.inbox.resume()

    async def _open(self, producer: Producer, stack: AsyncExitStack) -> Ledger:
        self._enter(ShardState.OPENING)
        self._ports.inbox.pause()  # after a life that broke it still delivers
        await producer.open()
        committed = await self._ports.inbox.committed()
        self._enter(ShardState.RESTORING)
        started = self._clock.monotonic()
        store = await self._restored_store()
        stack.callback(store.close)
        self._metrics.restored(self._clock.monotonic() - started)
        ledger = Ledger(GuardedStore(store))
        self._next_offset = await self._ports.inbox.beginning() if committed is None else committed
        self._check_marker(ledger, committed)
        self._ports.inbox.seek(self._next_offset)
        return ledger

    async def _restored_store(self) -> Store:
        try:
            return await self._restored(self._ports.open_store())
        except StaleCache:
            log.warning("the cache belongs to another log; restoring from the beginning", shard=self.number)
            self._ports.discard_store()
            return await self._restored(self._ports.open_store())

    async def _restored(self, store: Store) -> Store:
        try:
            await self._ports.restore(store)
        except BaseException:
            store.close()
            raise
        return store

    def _check_marker(self, ledger: Ledger, committed: int | None) -> None:
        """A state partition without marker is new; unless its inbox position says that it was written before."""
        stored = ledger.get(marker_key(self.number))
        if stored is None:
            if committed is not None:
                raise StateLost(
                    f"partition {self.number} of {self._topics.state} is empty although its inbox position "
                    f"({committed}) says that it was written before: the topic was deleted, recreated or truncated. "
                    "Restore it from a backup, or choose another bridge.name to begin anew"
                )
            ledger.put(
                marker_key(self.number), encode_json({"shards": self._topics.shards, "id": self._ports.new_id()})
            )
            ledger.open.inbox_offset = self._next_offset
            ledger.wake()
            return
        shards = decode_json(stored).get("shards")
        if shards != self._topics.shards:
            raise StateLost(
                f"{self._topics.state} was written with shards = {shards}, this process has {self._topics.shards}: "
                "bridge.shards is fixed once created"
            )

    async def _run(self, producer: Producer, ledger: Ledger) -> None:
        answers = Answers(ledger, self._topics, self._clock)
        openings = {source.account.source: source.open(ledger, self._topics, answers) for source in self._sources}
        self.readings = {source: opening.loops for source, opening in openings.items()}
        for source, readings in self.readings.items():
            self._metrics.own(source, [reading.collection for reading in readings])
            for reading in readings:
                self._metrics.store_documents(source, reading.collection, reading.documents)
                until = last_written(ledger, source, reading.collection)
                if until:  # else the start of the process stands for it
                    self._metrics.caught_up(source, reading.collection, until / 1_000_000)
        self._enter(ShardState.RUNNING)
        self._ports.inbox.resume()
        async with asyncio.TaskGroup() as group:
            workers = [
                group.create_task(reading.run(), name=f"shard-{self.number} reads {source}")
                for source, readings in self.readings.items()
                for reading in readings
            ]
            executors = {source: opening.executor for source, opening in openings.items() if opening.executor}
            workers += [
                group.create_task(executor.run(), name=f"shard-{self.number} commands of {source}")
                for source, executor in executors.items()
            ]
            desk = InboxDesk(self.readings, executors, ledger, answers, self._topics, self._clock)
            book = ProgressBook(ledger, self._topics, self._clock)
            workers.append(group.create_task(self._consume_inbox(ledger, desk), name=f"shard-{self.number} inbox"))
            workers.append(group.create_task(self._tick(ledger, desk), name=f"shard-{self.number} tick"))
            committing = self._commit_for_ever(producer, ledger, book)
            committer = group.create_task(committing, name=f"shard-{self.number} commits")
            told = group.create_task(self._told_to_drain(), name=f"shard-{self.number} drain")
            await outlived(told, *workers, committer)
            self._enter(ShardState.DRAINING)
            self._ports.inbox.pause()
            for worker in workers:
                worker.cancel()
            await asyncio.wait(workers)
            ledger.wake()
            await outlived(committer)

    async def _told_to_drain(self) -> None:
        await self._drain.wait()

    async def _commit_for_ever(self, producer: Producer, ledger: Ledger, book: ProgressBook) -> None:
        """Commit whatever is open each time somebody asks; after the drain once more, then return."""
        while True:
            await ledger.wait_wake()
            draining = self._state is ShardState.DRAINING
            if not draining:
                await self._linger(ledger)
            await self._commit(producer, ledger, book)
            if draining:
                return

    async def _linger(self, ledger: Ledger) -> None:
        await self._clock.sleep(LINGER_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await ledger.wait_hurry()

    async def _commit(self, producer: Producer, ledger: Ledger, book: ProgressBook) -> None:
        batch = ledger.take()
        book.note(batch)
        if not batch.empty or book.due:
            book.write(batch)
        if batch.empty:
            ledger.settle(None)
            self._observe_nothing(batch)
            return
        started = self._clock.monotonic()
        try:
            receipt = await producer.publish(self._records(batch), batch.inbox_offset)
        except BaseException as error:
            result = _RESULTS.get(type(error), TransactionResult.UNKNOWN)
            self._metrics.transaction(result, self._clock.monotonic() - started)
            raise
        ledger.settle(self._state_position(batch, receipt))
        self._metrics.transaction(TransactionResult.COMMITTED, self._clock.monotonic() - started)
        self._observe(batch)
        if receipt.tainted:
            raise PublishFailed("a transaction request was repeated by the client; its producer is replaced")

    def _records(self, batch: Batch) -> list[Record]:
        state = (Record(self._topics.state, self.number, key.encode(), value) for key, value in batch.state.items())
        return [*batch.records, *state]

    def _state_position(self, batch: Batch, receipt: Receipt) -> int | None:
        if not batch.state:
            return None
        return receipt.offsets[self._topics.state, self.number] + 1

    def _observe(self, batch: Batch) -> None:
        now = self._clock.wall()
        for event, moments in batch.events.items():
            self._metrics.published(event.source, event.type.type, len(moments))
            if event.path is Path.SNAPSHOT:
                continue  # what the first reading shows is no change, so its age says nothing about us
            for changed_at in moments:
                latency = now - changed_at / 1_000_000
                self._metrics.change_latency(event.source, event.collection, event.path, latency)
        last = [*itertools.islice(_lines(reversed(batch.records), now), EVENTS_SHOWN)]
        self.last_events.extend(reversed(last))
        for reason in batch.deadletters:
            self._metrics.deadletter(reason)
        for answer in batch.answers:
            self._metrics.command(*answer)
        for mirror, count in batch.mirrored.items():
            self._metrics.mirrored(mirror, count)
        for mirror, count in batch.unmatched.items():
            self._metrics.unmatched(mirror, count)
        for (source, collection), documents in batch.documents.items():
            self._metrics.store_documents(source, collection, documents)
        read_before = {read: moment for read, (moment, _) in self._unproved.items()}
        for read, moment in {**read_before, **batch.caught_up}.items():
            self._prove(read, moment)

    def _observe_nothing(self, batch: Batch) -> None:
        """Kafka has not been asked, so a fenced owner would not know that it is one: the group has to vouch for us.

        It does so with every heartbeat; what was read before the last one is proved, the rest a moment later.
        """
        confirmed_at = self._ports.inbox.confirmed_at()
        for read, (moment, known_at) in list(self._unproved.items()):
            if known_at < confirmed_at:
                self._prove(read, moment)
        now = self._clock.monotonic()
        for read, moment in batch.caught_up.items():
            self._unproved[read] = (moment, now)

    def _prove(self, read: tuple[str, Collection], moment: float) -> None:
        self._unproved.pop(read, None)
        self.caught_up[read] = moment
        self._metrics.caught_up(*read, moment)

    async def _consume_inbox(self, ledger: Ledger, desk: InboxDesk) -> None:
        for number in itertools.count(1):
            record = await self._queue.get()
            await ledger.wait_room()
            desk.take(record)
            if number % RECORDS_AT_ONCE == 0:
                await asyncio.sleep(0)  # none of the above waits while there are more
            if self._queue.qsize() <= INBOX_QUEUE_MAX // 4:
                self._ports.inbox.resume()

    async def _tick(self, ledger: Ledger, desk: InboxDesk) -> None:
        """Commit what is not urgent, forget what is old, and keep the state partition moving."""
        key = heartbeat_key(self.number)
        while True:
            stored = ledger.get(key)
            last = decode_json(stored)["at"] if stored else 0.0
            if abs(self._clock.wall() - last) >= HEARTBEAT_S:  # a clock that was ahead left one in the future
                ledger.put(key, encode_json({"at": self._clock.wall()}))
            desk.prune()
            ledger.wake()
            await self._clock.sleep(TICK_S)

    def _enter(self, state: ShardState) -> None:
        if state not in _LEGAL[self._state]:
            raise RuntimeError(f"shard {self.number} may not go from {self._state} to {state}")
        self._state = state


def _lines(records: Iterable[Record], at: float) -> Iterator[EventLine]:
    """What of these are events."""
    for record in records:
        headers = dict(record.headers)
        if "ce_sequence" in headers:
            source = record.key.decode().partition("/")[0]
            yield EventLine(at, source, headers["ce_type"].decode(), int(headers["ce_sequence"]))
