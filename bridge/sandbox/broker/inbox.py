"""FakeInbox: a member of the fake group, with the surface of `publish.inbox.Inbox`.

Like the client library: it joins again whenever a heartbeat says that the group is being rebalanced, forgets every
position then, and goes on with its last assignment until it has the next. Its one task stands for the library's
coordinator and heartbeat; it belongs to this object, and `stop` ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from bridge.clock import Clock
from bridge.errors import EnvironmentUnavailable
from bridge.publish.inbox import POLL_RECORDS_MAX, InboxRecord
from bridge.publish.settings import ANSWER_DEADLINE_S, HEARTBEAT_S, REBALANCE_TIMEOUT_S, SESSION_TIMEOUT_S
from bridge.sandbox.broker.group import Assigned, Group
from bridge.sandbox.broker.link import Link, PowerCut
from bridge.sandbox.broker.refusal import Lost, Refusal, Why

T = TypeVar("T")

RETRY_S = 0.1
JOINING_S = 0.1
"""Between two looks whether the others have joined."""

JOIN, HEARTBEAT, COMMITTED = "join", "heartbeat", "committed"
"""Kinds of requests, as `Power.cut_at` names them."""


class FakeInbox:
    """See the module. Implements `runtime.membership.Member`."""

    def __init__(
        self,
        link: Link,
        topic: str,
        group: str,
        clock: Clock,
        *,
        session_s: float = SESSION_TIMEOUT_S,
        heartbeat_s: float = HEARTBEAT_S,
        rebalance_s: float = REBALANCE_TIMEOUT_S,
    ) -> None:
        self._link = link
        self._topic = topic
        self._group_id = group
        self._clock = clock
        self._session_s = session_s
        self._heartbeat_s = heartbeat_s
        self._rebalance_s = rebalance_s
        self._member: str | None = None
        self._assigned: frozenset[int] = frozenset()
        self._generation = 0
        self._rebalancing = True
        self._positions: dict[int, int] = {}
        self._paused: set[int] = set()
        self._changed = asyncio.Event()
        self._confirmed = float("-inf")
        self._beat = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str | None:
        """As the group calls us; None while we are not in it."""
        return self._member

    async def start(self) -> None:
        """Connect and begin to join; the first assignment comes later. Raises `EnvironmentUnavailable`."""
        await self._ask(JOIN, lambda: None)
        self._task = asyncio.get_running_loop().create_task(self._belong(), name="fake inbox coordinates")

    async def stop(self) -> None:
        """Leave the group if it can be told; bounded."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        member, self._member = self._member, None
        if member is not None and self._link.power.alive:
            with suppress(Lost, Refusal):
                await self._link.call(JOIN, lambda: self._group().leave(member))

    def assignment(self) -> frozenset[int]:
        """See `Membership`."""
        return self._assigned

    @property
    def generation(self) -> int:
        """See `Membership`."""
        return self._generation

    @property
    def confirmed_at(self) -> float:
        """See `Membership`."""
        return self._confirmed

    @property
    def rebalancing(self) -> bool:
        """See `Membership`."""
        return self._rebalancing

    async def wait_changed(self) -> None:
        """See `Membership`."""
        await self._changed.wait()
        self._changed.clear()

    async def wait_membership_confirmed(self, partition: int, after: float) -> bool:
        """See `Membership`."""
        while True:
            while self._confirmed <= after:
                await self._beat.wait()
            if not self._rebalancing:
                return partition in self._assigned
            after = self._clock.monotonic()

    async def poll(self, timeout_s: float) -> list[InboxRecord]:
        """See `Member`."""
        await self._link.power.awake()
        if not self._link.power.alive:
            raise PowerCut
        found = self._fetched()
        if not found:
            await self._clock.sleep(timeout_s)
            found = self._fetched()
        return found

    def pause(self, partition: int) -> None:
        """See `Positions`."""
        if partition in self._assigned:
            self._paused.add(partition)

    def seek(self, partition: int, offset: int) -> bool:
        """See `Positions`."""
        if partition not in self._assigned or self._rebalancing:
            return False
        self._positions[partition] = offset
        return True

    def resume(self, partition: int) -> bool:
        """See `Positions`."""
        if partition not in self._assigned or partition not in self._positions:
            return False
        self._paused.discard(partition)
        return True

    async def committed(self, partition: int) -> int | None:
        """See `Positions`."""
        broker, at = self._link.broker, (self._topic, partition)
        return await self._ask(COMMITTED, lambda: broker.committed(self._group_id, at))

    async def begin_offset(self, partition: int) -> int:
        """See `Positions`."""
        return await self._ask(COMMITTED, lambda: self._link.broker.log((self._topic, partition)).begin)

    def _fetched(self) -> list[InboxRecord]:
        """From the positions on, at most `POLL_RECORDS_MAX`; nothing while the broker cannot be reached."""
        found: list[InboxRecord] = []
        if self._rebalancing or not self._link.reachable:
            return found
        for partition in sorted(self._positions.keys() - self._paused):
            for entry in self._link.broker.read((self._topic, partition), self._positions[partition]):
                if len(found) == POLL_RECORDS_MAX:
                    return found
                found.append(
                    InboxRecord(partition, entry.offset, entry.key, entry.value, entry.headers, entry.timestamp_ms)
                )
                self._positions[partition] = entry.offset + 1
        return found

    async def _belong(self) -> None:
        """Join, beat, join again, until cancelled."""
        try:
            while True:
                assigned = await self._joined()
                if assigned is not None:
                    self._reassigned(assigned)
                    await self._beat_while_stable(assigned.generation)
                self._revoked()
        except PowerCut:
            pass  # whoever cut the power ends the rest of the process too

    async def _joined(self) -> Assigned | None:
        """The next assignment; None when we have to begin again."""
        group, session_s, rebalance_s = self._group, self._session_s, self._rebalance_s
        try:
            member = await self._link.call(JOIN, lambda: group().join(self._member, session_s, rebalance_s))
            self._member = member
            while True:
                assigned = group().assigned(member) if self._link.reachable else None
                if assigned is not None:
                    return assigned
                await self._clock.sleep(JOINING_S)
        except Lost:
            await self._clock.sleep(RETRY_S)
        except Refusal as refusal:
            self._forget_if_unknown(refusal)
        return None

    async def _beat_while_stable(self, generation: int) -> None:
        member = self._member
        assert member is not None
        while True:
            await self._clock.sleep(self._heartbeat_s)
            sent_at = self._clock.monotonic()
            try:
                await self._link.call(HEARTBEAT, lambda: self._group().heartbeat(member, generation))
            except Lost:
                continue
            except Refusal as refusal:
                self._forget_if_unknown(refusal)
                return
            self._confirmed = sent_at
            self._beat.set()
            self._beat.clear()

    def _forget_if_unknown(self, refusal: Refusal) -> None:
        if refusal.why is Why.UNKNOWN_MEMBER:
            self._member = None

    def _revoked(self) -> None:
        self._rebalancing = True
        self._positions.clear()
        self._changed.set()

    def _reassigned(self, assigned: Assigned) -> None:
        self._positions.clear()
        self._assigned = frozenset(assigned.partitions)
        self._paused = set(self._assigned)
        self._generation += 1
        self._rebalancing = False
        self._changed.set()

    def _group(self) -> Group:
        return self._link.broker.group(self._group_id, self._topic)

    async def _ask(self, kind: str, request: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(ANSWER_DEADLINE_S):
                while True:
                    try:
                        return await self._link.call(kind, request)
                    except Lost:
                        await self._clock.sleep(RETRY_S)
        except TimeoutError:
            raise EnvironmentUnavailable(f"the fake Kafka does not answer: {kind}") from None
