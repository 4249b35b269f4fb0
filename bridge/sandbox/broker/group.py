"""Group: the members that share the partitions of one topic, rebalanced eagerly as the client library does it.

    STABLE ──(somebody joins, leaves or falls silent)──► JOINING ──(all have joined, or the time is up)──► STABLE

While joining, every heartbeat is answered REBALANCING; members that do not join again in time are dropped. Each
assignment has a generation. A member that is not heard of for its session timeout is dropped. Committed offsets are
the partitions' own and know nothing of members (OffsetFetch and TxnOffsetCommit of the old protocol do not ask).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from bridge.sandbox.broker.refusal import Refusal, Why

Later = Callable[[float, Callable[[], None]], None]


class Assigned(NamedTuple):
    """What a member gets."""

    generation: int
    partitions: tuple[int, ...]


@dataclass(slots=True)
class _Member:
    name: str
    session_s: float
    rebalance_s: float
    deadline: float
    joined: bool
    assigned: tuple[int, ...] = ()


class Group:
    """See the module. partitions: of the topic that is shared."""

    def __init__(self, partitions: int, now: Callable[[], float], later: Later, tell: Callable[[str], None]) -> None:
        self._partitions = partitions
        self._now = now
        self._later = later
        self._tell = tell
        self._members: dict[str, _Member] = {}
        self._born = 0
        self._joining = False
        self._round = 0
        self.generation = 0

    def join(self, member: str | None, session_s: float, rebalance_s: float) -> str:
        """JoinGroup; the answer with the assignment is `assigned`. None: a new member."""
        known = self._members.get(member) if member is not None else None
        if known is None:
            if member is not None:
                raise Refusal(Why.UNKNOWN_MEMBER)
            self._born += 1
            known = _Member(f"member-{self._born}", session_s, rebalance_s, 0.0, joined=True)
            self._members[known.name] = known
            self._rebalance(f"{known.name} joins")
        known.joined = True
        self._heard(known)
        self._complete_if_all()
        return known.name

    def assigned(self, member: str) -> Assigned | None:
        """The assignment of a member that has joined; None while others are waited for.

        REBALANCING when the next round has begun meanwhile: join again.
        """
        known = self._known(member)
        self._heard(known)  # a member that waits for the others is not silent
        if self._joining and not known.joined:
            raise Refusal(Why.REBALANCING)
        return None if self._joining else Assigned(self.generation, known.assigned)

    def heartbeat(self, member: str, generation: int) -> None:
        """Refused when the member has to join again."""
        known = self._known(member)
        self._heard(known)
        if self._joining or generation != self.generation:
            raise Refusal(Why.REBALANCING)

    def leave(self, member: str) -> None:
        """LeaveGroup."""
        if member in self._members:
            self._drop(member, "leaves")

    def owner(self, partition: int) -> str | None:
        """The member that a stable group has given the partition to."""
        return next((member.name for member in self._members.values() if partition in member.assigned), None)

    def _known(self, member: str) -> _Member:
        known = self._members.get(member)
        if known is None:
            raise Refusal(Why.UNKNOWN_MEMBER)
        return known

    def _heard(self, member: _Member) -> None:
        member.deadline = self._now() + member.session_s
        self._later(member.session_s, lambda: self._expire(member))

    def _expire(self, member: _Member) -> None:
        if self._members.get(member.name) is member and member.deadline <= self._now():
            self._drop(member.name, "was silent for its session")

    def _drop(self, member: str, why: str) -> None:
        del self._members[member]
        self._rebalance(f"{member} {why}")
        self._complete_if_all()

    def _rebalance(self, cause: str) -> None:
        if self._joining:
            return
        self._tell(f"rebalance: {cause}")
        self._joining = True
        self._round += 1
        number = self._round
        for member in self._members.values():
            member.joined = False
        patience = max((member.rebalance_s for member in self._members.values()), default=0.0)
        self._later(patience, lambda: self._give_up(number))

    def _give_up(self, number: int) -> None:
        """Whoever has not joined again by now is out."""
        if self._joining and self._round == number:
            for name in [member.name for member in self._members.values() if not member.joined]:
                self._tell(f"{name} did not join again in time")
                del self._members[name]
            self._complete()

    def _complete_if_all(self) -> None:
        if self._joining and all(member.joined for member in self._members.values()):
            self._complete()

    def _complete(self) -> None:
        self._joining = False
        self.generation += 1
        names = sorted(self._members)
        for member in self._members.values():
            member.assigned = ()
        for partition in range(self._partitions if names else 0):
            member = self._members[names[partition % len(names)]]
            member.assigned = (*member.assigned, partition)
        shares = ", ".join(f"{name}: {list(self._members[name].assigned)}" for name in names)
        self._tell(f"generation {self.generation}: {shares or 'nobody'}")
