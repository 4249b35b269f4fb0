"""Told: what the bridge has published, read back from the fake broker: events, and what the state holds of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from bridge.model import Collection, split_key
from bridge.sandbox.broker.log import Entry
from bridge.sandbox.broker.reader import message_of
from bridge.sandbox.simulation.process import Outside
from bridge.sandbox.simulation.truth import digest_of
from bridge.store.record import decode_record
from bridge.verify.event import SeenEvent, decode

COLLECTIONS = (Collection.CUSTOMERS, Collection.TAGS, Collection.USERS)
"""Those that have documents of their own."""


class Told(NamedTuple):
    """An event as it was published. decided_at: wall-clock seconds of its commit. digest: of `after`."""

    event: SeenEvent
    decided_at: float
    digest: int | None


class Kept(NamedTuple):
    """A document of the state. tags: of a customer."""

    digest: int
    tags: frozenset[str]


def events_of(outside: Outside) -> Iterator[Told]:
    """Every event, topic by topic."""
    broker = outside.broker
    moment = decided(outside)
    for topic in outside.topics.event_topics:
        for number in range(broker.partitions(topic)):
            for entry in broker.read((topic, number), 0):
                event = decode(message_of((topic, number), entry))
                digest = None if event.after is None else digest_of(event.after)
                yield Told(event, moment(entry), digest)


def decided(outside: Outside) -> Callable[[Entry], float]:
    """When an entry was committed, wall-clock seconds; of one without a transaction, when it was written."""
    decisions = outside.broker.transactions.decisions
    moments: dict[int, float] = {}
    base = outside.clock.wall() - outside.clock.monotonic()

    def moment(entry: Entry) -> float:
        if entry.writer is None:
            return entry.timestamp_ms / 1000
        if entry.writer.transaction not in moments:  # reading lets happen what is due, so there may be more by now
            moments.update((decision.transaction, decision.at) for decision in decisions if decision.commit)
        return base + moments[entry.writer.transaction]

    return moment


def state_of(outside: Outside) -> dict[str, Kept]:
    """The documents of the state topic by key."""
    found: dict[str, Kept] = {}
    for shard in range(outside.topics.shards):
        for entry in outside.broker.read((outside.topics.state, shard), 0):
            key = (entry.key or b"").decode()
            if key.count("/") < 2 or split_key(key)[1] not in COLLECTIONS:
                continue
            document = None if entry.value is None else decode_record(entry.value).document
            if document is None:
                found.pop(key, None)
            else:
                found[key] = Kept(digest_of(document), frozenset(document.get("tags", ())))
    return found
