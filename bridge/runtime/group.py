"""Group: what the runtime needs of the inbox and of the group that shares it.

The runtime builds on these protocols and not on `publish.inbox.Inbox`, so that the simulator can put a group of its
own below it. Everything is called from one event loop; calls that wait say what they raise.
"""

from __future__ import annotations

from typing import Protocol

from bridge.publish.inbox import InboxRecord


class Positions(Protocol):
    """Where in each partition the process reads. Called by the shard that owns the partition."""

    async def committed(self, partition: int) -> int | None:
        """The committed offset, asked of Kafka each time; None when there is none. `EnvironmentUnavailable`.

        Final once the shard's producer is open.
        """
        ...

    async def begin_offset(self, partition: int) -> int:
        """The oldest offset that still exists. `EnvironmentUnavailable`."""
        ...

    def seek(self, partition: int, offset: int) -> bool:
        """Go on from here; False when the partition is not ours (any more)."""
        ...

    def pause(self, partition: int) -> None:
        """Deliver nothing of it; without effect when it is not ours."""
        ...

    def resume(self, partition: int) -> bool:
        """Deliver again; False when it is not ours, or not placed by `seek` since the last assignment."""
        ...


class Membership(Protocol):
    """What the group says about us. Called by the assignment and its owner tasks."""

    @property
    def generation(self) -> int:
        """Counts assignments, also those that change nothing; 0 before the first."""
        ...

    @property
    def rebalancing(self) -> bool:
        """Whether the next assignment is being made, or the first one has not come yet."""
        ...

    @property
    def confirmed_at(self) -> float:
        """When the last heartbeat was sent that the group answered well (`Clock.monotonic`); -inf before the first."""
        ...

    def assignment(self) -> frozenset[int]:
        """The partitions of the last assignment; they stay valid while the next one is being made."""
        ...

    async def wait_changed(self) -> None:
        """Until there is a new assignment, or one is being made, since this was last called. For one task."""
        ...

    async def wait_membership_confirmed(self, partition: int, after: float) -> bool:
        """Until a heartbeat that was sent after that moment was answered well; whether the partition is ours then."""
        ...


class Member(Positions, Membership, Protocol):
    """This process in the group, for one life. Called by the supervisor; `poll` by one task of the assignment."""

    async def start(self) -> None:
        """Connect and begin to join; the first assignment comes later. Raises `EnvironmentUnavailable`."""
        ...

    async def poll(self, timeout_s: float) -> list[InboxRecord]:
        """Records of the partitions that are not paused; empty after `timeout_s`, and during a rebalance.

        Must always be called. Raises `EnvironmentUnavailable` when the client is broken. Cancelled, nothing is lost.
        """
        ...

    async def stop(self) -> None:
        """Leave the group, so that others take over at once; bounded."""
        ...
