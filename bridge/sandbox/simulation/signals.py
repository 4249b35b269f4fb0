"""Signals: what people ask of the bridge through the inbox while everything happens, and what they must be answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

import orjson

from bridge.commands.command import Kind, Signal, encode
from bridge.model import Collection, iso
from bridge.publish.partitioner import partition_of
from bridge.sandbox.simulation.process import Outside

_KINDS = (Kind.RESYNC, Kind.RESYNC, Kind.PAUSE, Kind.RESUME, Kind.APPROVE)

AGAIN = 0.3
"""Share of signals that somebody has sent before, or somebody else."""


@dataclass(slots=True)
class Signals:
    """Sends them. sent: the first sending of each id."""

    outside: Outside
    chance: Random
    sent: list[Signal] = field(default_factory=list)

    def send(self) -> str:
        """Any signal to anybody, now and then one that was sent before."""
        if self.sent and self.chance.random() < AGAIN:
            signal = self.chance.choice(self.sent)
            if self.chance.random() < 0.5:
                signal = signal.model_copy(update={"sent_at": self._now()})
            self._append(signal)
            return f"{signal.id} again"
        collection = self.chance.choice((None, Collection.CUSTOMERS, Collection.TAGS))
        return self._new(self.chance.choice(_KINDS), self.chance.choice(list(self.outside.apis)), collection)

    def resume_all(self) -> None:
        """Nothing stays paused."""
        for source in self.outside.apis:
            if any(signal.kind is Kind.PAUSE for signal in self.sent):
                self._new(Kind.RESUME, source, None)

    def partitions(self) -> set[int]:
        """Of the inbox, to which something was sent."""
        return {self._partition(signal) for signal in self.sent}

    def _new(self, kind: Kind, source: str, collection: Collection | None) -> str:
        number = len(self.sent)
        signal = Signal(id=f"signal-{number}", kind=kind, source=source, collection=collection, sent_at=self._now())
        self.sent.append(signal)
        self._append(signal)
        return f"{signal.id}: {kind} {source} {collection or ''}"

    def _append(self, signal: Signal) -> None:
        topic = self.outside.topics.inbox
        self.outside.broker.send(topic, self._partition(signal), signal.source.encode(), encode(signal))

    def _partition(self, signal: Signal) -> int:
        return partition_of(signal.source.encode(), self.outside.plan.shards)

    def _now(self) -> str:
        return iso(int(self.outside.clock.wall() * 1_000_000))


def check_signals(outside: Outside, sent: Sequence[Signal]) -> Iterator[str]:
    """Each id has exactly one outcome, which tells what was asked; nobody else has one."""
    broker, topic = outside.broker, outside.topics.outcomes
    answers: Counter[str] = Counter()
    told: dict[str, tuple[str, str, str | None]] = {}
    for number in range(broker.partitions(topic)):
        for entry in broker.read((topic, number), 0):
            outcome = orjson.loads(entry.value or b"")
            name = (entry.key or b"").decode()
            answers[name] += 1
            told[name] = (outcome["kind"], outcome["source"], outcome["collection"])
    for signal in sent:
        count = answers.pop(signal.id, 0)
        if count != 1:
            yield f"signals: {signal.id} ({signal.kind} {signal.source}) was answered {count} times"
        elif told[signal.id] != (signal.kind, signal.source, signal.collection):
            yield f"signals: {signal.id} was answered as {told[signal.id]}"
    for name in answers:
        yield f"signals: {name} was answered and never asked"
