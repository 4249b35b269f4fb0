"""Signals: what people ask of the bridge through its inbox in a simulation, some of it twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from bridge.commands.command import SIGNALS, Signal, SignalKind, encode
from bridge.model import Collection, iso
from bridge.publish.partitioner import partition_of
from bridge.sandbox.simulation.plan import Plan
from bridge.sandbox.simulation.process import Outside

TWICE = 0.3
"""Share of signals that are sent again, then or later."""


class Sent(NamedTuple):
    """A signal on its way; at: wall-clock seconds. The same id again is the same signal."""

    id: str
    kind: SignalKind
    source: str
    collection: Collection | None
    at: float


@dataclass(slots=True)
class Signals:
    """See the module. sent: each of them once."""

    plan: Plan
    outside: Outside
    chance: Random
    sent: list[Sent] = field(default_factory=list)

    def actions(self) -> dict[str, Callable[[], str | None]]:
        """By name, as in the plan."""
        return {kind.value: self._some(kind) for kind in SIGNALS} | {"signal again": self._again}

    def partitions(self) -> set[int]:
        """Of the inbox, in which there are any."""
        return {self._partition(sent.source) for sent in self.sent}

    def for_all(self, kinds: Sequence[SignalKind]) -> None:
        """Of every source and all its collections."""
        for source in self.plan.collections:
            for kind in kinds:
                self._send(kind, source, None)

    def _some(self, kind: SignalKind) -> Callable[[], str]:
        def act() -> str:
            source = self.chance.choice(list(self.plan.collections))
            collection = self.chance.choice((None, *self.plan.collections[source]))
            return self._send(kind, source, collection)

        return act

    def _again(self) -> str | None:
        if not self.sent:
            return None
        sent = self.chance.choice(self.sent)
        self._put(sent)
        return sent.id

    def _send(self, kind: SignalKind, source: str, collection: Collection | None) -> str:
        sent = Sent(f"signal-{len(self.sent)}", kind, source, collection, self.outside.clock.wall())
        self.sent.append(sent)
        self._put(sent)
        if self.chance.random() < TWICE:
            self._put(sent)
        return f"{sent.id} to {source}/{collection or '*'}"

    def _put(self, sent: Sent) -> None:
        # Again as the sender would repeat it: with the moment of now.
        now = iso(int(self.outside.clock.wall() * 1_000_000))
        signal = Signal(id=sent.id, kind=sent.kind, source=sent.source, collection=sent.collection, sent_at=now)
        partition = self._partition(sent.source)
        self.outside.broker.send(self.outside.topics.inbox, partition, sent.source.encode(), encode(signal))

    def _partition(self, source: str) -> int:
        return partition_of(source.encode(), self.plan.shards)
