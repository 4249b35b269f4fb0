"""Transactions: the coordinator. Who may write under a transactional id, what is open, what was decided.

    EMPTY ──► OPEN ──► COMMITTING ──► COMMITTED ──► OPEN …
               │
               └─────► ABORTING ────► ABORTED ────► OPEN …

A decision is final when it is made; the partitions learn of it one by one through their markers, each a little later.
Until all have it, the id answers CONCURRENT. A new producer of an id aborts what is open and raises the epoch, and so
does the timeout. An EndTxn carries nothing but producer and epoch (transaction version 1), so a copy of it that
arrives late ends whatever transaction of that epoch is open then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from bridge.sandbox.broker.log import Writer
from bridge.sandbox.broker.refusal import Refusal, Why

At = tuple[str, int]
"""Topic and partition."""


class Phase(StrEnum):
    """See the diagram."""

    EMPTY = "empty"
    OPEN = "open"
    COMMITTING = "committing"
    ABORTING = "aborting"
    COMMITTED = "committed"
    ABORTED = "aborted"


_ENDING = frozenset({Phase.COMMITTING, Phase.ABORTING})


class Identity(NamedTuple):
    """What a producer calls itself in each request."""

    transactional_id: str
    producer: int
    epoch: int


class Decision(NamedTuple):
    """One transaction that was ended."""

    transactional_id: str
    epoch: int
    transaction: int
    commit: bool
    at: float


@dataclass(slots=True)
class _Held:
    """One transactional id."""

    producer: int
    epoch: int = -1
    timeout_s: float = 60.0
    phase: Phase = Phase.EMPTY
    transaction: int = 0
    partitions: dict[At, None] = field(default_factory=dict)
    unmarked: int = 0


class Partitions(Protocol):
    """What the coordinator needs of the rest of the broker."""

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do something after so long."""
        ...

    def mark(self, at: At, writer: Writer, *, commit: bool) -> None:
        """Append a marker."""
        ...


class Transactions:
    """See the module. marker_delay_s: drawn for each marker."""

    def __init__(
        self,
        partitions: Partitions,
        now: Callable[[], float],
        marker_delay_s: Callable[[], float],
        tell: Callable[[str], None],
    ) -> None:
        self._partitions = partitions
        self._now = now
        self._marker_delay_s = marker_delay_s
        self._tell = tell
        self._ids: dict[str, _Held] = {}
        self._count = 0
        self.decisions: list[Decision] = []

    def init(self, transactional_id: str, timeout_s: float) -> Identity:
        """InitProducerId: fence whoever had the id. CONCURRENT until what was open is ended everywhere."""
        held = self._ids.setdefault(transactional_id, _Held(len(self._ids)))
        if held.phase is Phase.OPEN:
            self._fence(transactional_id, held, "a new producer")
        if held.phase in _ENDING:
            raise Refusal(Why.CONCURRENT)
        held.epoch += 1
        held.timeout_s = timeout_s
        held.phase = Phase.EMPTY
        self._tell(f"{transactional_id} has epoch {held.epoch}")
        return Identity(transactional_id, held.producer, held.epoch)

    def add(self, who: Identity, partitions: Iterable[At]) -> None:
        """AddPartitionsToTxn and AddOffsetsToTxn: what the transaction writes to. Opens one when none is open."""
        held = self._own(who)
        if held.phase in _ENDING:
            raise Refusal(Why.CONCURRENT)
        if held.phase is not Phase.OPEN:
            self._count += 1
            held.phase, held.transaction = Phase.OPEN, self._count
            held.partitions = {}
            number = held.transaction
            self._partitions.later(held.timeout_s, lambda: self._expire(who.transactional_id, number))
        held.partitions.update(dict.fromkeys(partitions))

    def writer(self, who: Identity, at: At) -> Writer:
        """The open transaction of this producer, if it may write there (KIP-890 has partitions ask)."""
        held = self._own(who)
        if held.phase is not Phase.OPEN or at not in held.partitions:
            raise Refusal(Why.INVALID_STATE)
        return Writer(who.producer, who.epoch, held.transaction)

    def end(self, who: Identity, *, commit: bool) -> None:
        """EndTxn. Decided when this returns, visible later."""
        held = self._own(who)
        done, doing = (Phase.COMMITTED, Phase.COMMITTING) if commit else (Phase.ABORTED, Phase.ABORTING)
        if held.phase is done:
            return  # a repeated request
        if held.phase is doing:
            raise Refusal(Why.CONCURRENT)
        if held.phase is not Phase.OPEN:
            raise Refusal(Why.INVALID_STATE)
        self._decide(who.transactional_id, held, commit=commit)

    def open_ids(self) -> Mapping[str, Phase]:
        """Phases by transactional id."""
        return {name: held.phase for name, held in self._ids.items()}

    def forget(self, transactional_id: str) -> None:
        """The id was idle for seven days: who still uses it is refused."""
        self._ids[transactional_id].epoch += 1
        self._ids[transactional_id].phase = Phase.EMPTY

    def _own(self, who: Identity) -> _Held:
        held = self._ids.get(who.transactional_id)
        if held is None or held.epoch != who.epoch:
            raise Refusal(Why.FENCED)
        return held

    def _fence(self, name: str, held: _Held, cause: str) -> None:
        self._tell(f"{name}: transaction {held.transaction} of epoch {held.epoch} is aborted by {cause}")
        held.epoch += 1
        self._decide(name, held, commit=False)

    def _expire(self, name: str, transaction: int) -> None:
        held = self._ids[name]
        if held.phase is Phase.OPEN and held.transaction == transaction:
            self._fence(name, held, "its timeout")

    def _decide(self, name: str, held: _Held, *, commit: bool) -> None:
        held.phase = Phase.COMMITTING if commit else Phase.ABORTING
        held.unmarked = len(held.partitions)
        self.decisions.append(Decision(name, held.epoch, held.transaction, commit, self._now()))
        writer = Writer(held.producer, held.epoch, held.transaction)

        def mark(at: At) -> None:
            self._partitions.mark(at, writer, commit=commit)
            held.unmarked -= 1
            if held.unmarked == 0:
                held.phase = Phase.COMMITTED if commit else Phase.ABORTED

        for at in held.partitions:
            self._partitions.later(self._marker_delay_s(), lambda at=at: mark(at))  # type: ignore[misc]
        if not held.partitions:
            held.phase = Phase.COMMITTED if commit else Phase.ABORTED
