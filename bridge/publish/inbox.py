"""Inbox: this process as a member of the group that consumes the inbox, and what that says about ownership.

Whoever owns a partition of the inbox owns the shard of that number. The library rebalances *eagerly*: any member
that joins or leaves takes every partition from everybody and hands all of them out again. For a partition that
stays here the client has forgotten everything after that: it is not paused, what was fetched is dropped, and its
position starts anew from the committed offset, which may lie before records that are already on their way into a
transaction. So at each new assignment every partition is paused at once, before anything can be fetched, and
`resume` has no effect until the owner has said by `seek` where to go on.

The callbacks of a rebalance only take notes: no heartbeat is sent while they run, and a slow one makes the group
believe that this member is dead. A shard goes on working during a rebalance; only the assignment that follows may
take it away, and even a shard that learns late is safe, because its successor's producer fences it.

Tasks: the library's coordinator, heartbeat and fetcher belong to the client; `stop` ends them (see `wire`). `poll`
must always be called, also while everything is paused: a member that does not poll is dropped after five minutes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any, NamedTuple, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import KafkaError
from aiokafka.protocol.group import HeartbeatRequest

from bridge.clock import Clock
from bridge.publish.settings import KafkaSettings, client_options, milliseconds
from bridge.publish.wire import Request, Response, Wire, bootstrap, cut_consumer, describe, stop_or_cut, unreachable

POLL_RECORDS_MAX = 500
"""One poll returns at most so many; what is more waits in the client, one fetch per partition."""

_OVERDUE_S = 1.0
"""A poll that is this much late waits for the end of a rebalance, and is ended."""

Result = TypeVar("Result")


class InboxRecord(NamedTuple):
    """One record of the inbox, as it is."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp_ms: int


class Inbox:
    """Consumer of the inbox in its group. One task polls; the other methods may be called from any task."""

    def __init__(self, settings: KafkaSettings, topic: str, group: str, clock: Clock) -> None:
        self._settings = settings
        self._topic = topic
        self._clock = clock
        self._assigned: frozenset[int] = frozenset()
        self._generation = 0
        self._rebalancing = True
        self._placed: set[int] = set()
        self._changed = asyncio.Event()
        self._heartbeats = _Heartbeats(clock)
        self._consumer: Any = AIOKafkaConsumer(
            **client_options(settings),
            group_id=group,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            session_timeout_ms=milliseconds(settings.session_timeout_s),
            heartbeat_interval_ms=milliseconds(settings.heartbeat_s),
            rebalance_timeout_ms=milliseconds(settings.rebalance_timeout_s),
        )
        self._wire = Wire(self._consumer._client, self._heartbeats)

    async def start(self) -> None:
        """Connect and begin to join; the first assignment comes later. Raises `EnvironmentUnavailable`."""
        try:
            await bootstrap(self._settings, self._consumer.start())
        except BaseException:
            await self._cut()
            raise
        self._consumer.subscribe([self._topic], listener=_Listener(self))

    async def stop(self) -> None:
        """Leave the group, so that others take over at once; bounded, dirty when Kafka does not answer."""
        await stop_or_cut(self._consumer.stop(), self._cut)

    def assignment(self) -> frozenset[int]:
        """The partitions of the last assignment; they stay valid while the next one is being made."""
        return self._assigned

    @property
    def generation(self) -> int:
        """Counts assignments, also those that change nothing; after each every partition has to be placed again."""
        return self._generation

    @property
    def confirmed_at(self) -> float:
        """When the last heartbeat was sent that the group answered well (`Clock.monotonic`); -inf before the first."""
        return self._heartbeats.confirmed

    @property
    def rebalancing(self) -> bool:
        """Whether the next assignment is being made (or the first one has not come yet)."""
        return self._rebalancing

    async def wait_changed(self) -> None:
        """Until there is a new assignment, or one is being made, since this was last called. For one task."""
        await self._changed.wait()
        self._changed.clear()

    async def poll(self, timeout_s: float) -> list[InboxRecord]:
        """Records of the partitions that are not paused; empty after `timeout_s`, and during a rebalance.

        Raises `EnvironmentUnavailable` when the client is broken: stop it, build a new one. Cancelled, nothing is lost.
        """
        try:
            async with asyncio.timeout(timeout_s + _OVERDUE_S):
                fetched = await self._consumer.getmany(timeout_ms=milliseconds(timeout_s), max_records=POLL_RECORDS_MAX)
        except TimeoutError:
            return []
        except KafkaError as error:
            raise unreachable(self._settings, f"the inbox consumer ended: {describe(error)}") from error
        finally:
            # The library counts calls that are under way to know whether it is used, and forgets those that fail.
            self._consumer._subscription._fetch_count = 0
        return [
            InboxRecord(record.partition, record.offset, record.key, record.value, record.headers, record.timestamp)
            for records in fetched.values()
            for record in records
        ]

    def pause(self, partition: int) -> None:
        """Deliver nothing of it; without effect when it is not ours (any more)."""
        if self._holds(partition):
            self._consumer.pause(TopicPartition(self._topic, partition))

    def seek(self, partition: int, offset: int) -> bool:
        """Go on from here; False when it is not ours (any more)."""
        if not self._holds(partition):
            return False
        self._consumer.seek(TopicPartition(self._topic, partition), offset)
        self._placed.add(partition)
        return True

    def resume(self, partition: int) -> bool:
        """Deliver again; False when it is not ours, or not placed by `seek` since the last assignment."""
        if not self._holds(partition) or partition not in self._placed:
            return False
        self._consumer.resume(TopicPartition(self._topic, partition))
        return True

    async def committed(self, partition: int) -> int | None:
        """The committed offset, asked of Kafka each time; None when there is none.

        Final once the shard's producer is open: the former owner's transaction is decided then, and it can begin no
        other. Before that, and in what the library reads at an assignment, it may be too old.
        """
        at = TopicPartition(self._topic, partition)
        offset: int | None = await self._ask(self._consumer.committed(at), "the committed offset of the inbox")
        return offset

    async def begin_offset(self, partition: int) -> int:
        """The oldest offset that still exists."""
        at = TopicPartition(self._topic, partition)
        offsets = await self._ask(self._consumer.beginning_offsets([at]), "the beginning of the inbox")
        return int(offsets[at])

    async def wait_membership_confirmed(self, partition: int, after: float) -> bool:
        """Until the group has confirmed that we are a member, in answer to a heartbeat sent after that moment.

        after: of `Clock.monotonic`. True when the partition is ours in the generation that was confirmed, False when
        it is not. A fenced owner asks this before it opens again: else it and its successor fence each other for ever.
        """
        while True:
            await self._heartbeats.wait_after(after)
            if not self._rebalancing:
                return partition in self._assigned
            after = self._clock.monotonic()  # what was confirmed is being redistributed: ask the next generation

    def _holds(self, partition: int) -> bool:
        """Ours for us and for the library, which changes its mind a moment before it tells."""
        at = TopicPartition(self._topic, partition)
        return partition in self._assigned and at in self._consumer.assignment()

    async def _ask(self, call: Coroutine[Any, Any, Result], what: str) -> Result:
        try:
            async with asyncio.timeout(self._settings.answer_deadline_s):
                return await call
        except TimeoutError:
            raise unreachable(self._settings, f"it does not tell {what}") from None
        except KafkaError as error:
            raise unreachable(self._settings, f"it does not tell {what}: {describe(error)}") from error

    async def _cut(self) -> None:
        await cut_consumer(self._consumer, self._wire)

    def _revoked(self) -> None:
        self._rebalancing = True
        self._placed.clear()
        self._changed.set()

    def _reassigned(self, partitions: Collection[Any]) -> None:
        self._consumer.pause(*partitions)
        self._placed.clear()
        self._assigned = frozenset(at.partition for at in partitions)
        self._generation += 1
        self._rebalancing = False
        self._changed.set()


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # the library has no types
    """Takes notes; neither waits nor raises, the library would swallow it."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    def on_partitions_revoked(self, _revoked: Collection[Any]) -> None:
        self._inbox._revoked()

    def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        self._inbox._reassigned(assigned)


class _Heartbeats:
    """Observer: when the last heartbeat was sent that the group answered with "you are a member"."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sent_at = 0.0
        self.confirmed = float("-inf")
        self._waiters: set[asyncio.Event] = set()

    async def wait_after(self, moment: float) -> None:
        """Until a heartbeat that was sent after the moment has been answered well."""
        beat = asyncio.Event()
        self._waiters.add(beat)
        try:
            while self.confirmed <= moment:
                await beat.wait()
                beat.clear()
        finally:
            self._waiters.discard(beat)

    def sent(self, request: Request) -> None:
        if isinstance(request, HeartbeatRequest):
            self._sent_at = self._clock.monotonic()  # one at a time: the library waits for each answer

    def answered(self, request: Request, response: Response) -> None:
        if isinstance(request, HeartbeatRequest) and response.error_code == 0:
            self.confirmed = self._sent_at
            for beat in self._waiters:
                beat.set()

    def lost(self, request: Request) -> None:
        pass
