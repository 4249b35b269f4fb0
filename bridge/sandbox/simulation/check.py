"""Check: what must hold when everything stands still, whatever happened before. Each finding is one line.

The invariants of `bridge verify` over the fake broker's topics, and what only a simulator can see: who wrote, what
was true at the provider at every moment, and what was promised about it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from random import Random
from typing import NamedTuple

import orjson

from bridge.detect.essence import essence
from bridge.model import Collection, instant, key_of
from bridge.sandbox.broker.link import Link, Power, Trouble
from bridge.sandbox.broker.log import Entry
from bridge.sandbox.broker.reader import fake_restore, message_of
from bridge.sandbox.simulation.process import Claim, Outside
from bridge.sandbox.simulation.truth import History, Key
from bridge.store.record import decode_record
from bridge.verify.checker import Checker, Place
from bridge.verify.event import SeenEvent, decode
from bridge.verify.reading import RestoreProbe
from bridge.verify.tables import document_digest

COLLECTIONS = (Collection.CUSTOMERS, Collection.TAGS)


class Told(NamedTuple):
    """An event as it was published. decided_at: wall-clock seconds of its commit; detected_at: what it says."""

    event: SeenEvent
    decided_at: float
    digest: int | None


async def check(outside: Outside, histories: Mapping[str, History], letters: Mapping[int, list[bytes]]) -> list[str]:
    """Every finding. letters: what was sent into each partition of the inbox, in order."""
    events = list(_events(outside))
    state = _state(outside)
    return [
        *await _verified(outside),
        *_writers(outside),
        *_duels(outside),
        *_equal(outside, histories, state),
        *_explained(outside, histories, events),
        *_advances(outside, events),
        *([] if outside.plan.blind else _claims(outside, histories, events)),
        *_letters(outside, letters),
        *outside.story.unforeseen,
    ]


async def _verified(outside: Outside) -> list[str]:
    """I1, I2, I3, I6: the same checker as `bridge verify`."""
    broker, topics = outside.broker, outside.topics
    checker = Checker(None, None)
    link = Link(broker, outside.clock, Power(outside.clock), Trouble(latency_s=0.0), Random(0))
    for shard in range(topics.shards):
        probe = RestoreProbe(checker)
        await fake_restore(link, Random(shard), topics.state, shard, probe, outside.clock, _silent)
    for shard in range(topics.shards):
        for entry in broker.read((topics.state, shard), 0):
            checker.state((entry.key or b"").decode(), entry.value)
    for topic in topics.event_topics:
        for number in range(broker.partitions(topic)):
            for entry in broker.read((topic, number), 0):
                message = message_of((topic, number), entry)
                checker.event(Place(topic, number, message.offset, message.timestamp_ms), message)
    pending = checker.pending()
    verdict = checker.verdict()
    found = [f"I{finding.invariant} {finding.kind}: {finding.text}" for finding in verdict.findings]
    return found + ([f"I2 pending: {pending}"] if any(pending) else [])


def _writers(outside: Outside) -> Iterator[str]:
    """I4: in a shard's partition every later commit is of the same or a later epoch, and nothing is left open."""
    topics = outside.topics
    for shard in range(topics.shards):
        log = outside.broker.log((topics.state, shard))
        if log.stable_end != log.end:
            yield f"I4: a transaction is still open in {topics.state}-{shard}"
        writers = [entry.writer for entry in log.entries if entry.committed and entry.writer is not None]
        for earlier, later in pairwise(writers):
            if later.epoch < earlier.epoch:
                yield f"I4: epoch {later.epoch} wrote {topics.state}-{shard} after epoch {earlier.epoch}"


def _duels(outside: Outside) -> Iterator[str]:
    """A zombie may fence its successor once, having slept over the news; then it asks the group before it opens."""
    foreign = Counter(opening[:3] for opening in outside.openings if not opening.owner)
    for (shard, life, generation), times in foreign.items():
        if times > 1:
            yield f"duel: {life} opened shard {shard} {times} times in generation {generation}, and did not own it"


def _equal(outside: Outside, histories: Mapping[str, History], state: Mapping[str, int]) -> Iterator[str]:
    """The state is what the provider has, neither more nor less."""
    wanted: dict[str, int] = {}
    for source, history in histories.items():
        for (collection, uid), versions in history.versions.items():
            if versions[-1].digest is not None:
                wanted[key_of(source, collection, uid)] = versions[-1].digest
    for key in sorted(wanted.keys() | state.keys()):
        if key not in state:
            yield f"provider: {key} is alive and not in the state"
        elif key not in wanted:
            yield f"provider: {key} is gone and still in the state"
        elif state[key] != wanted[key]:
            yield f"provider: {key} differs from the state"


def _explained(outside: Outside, histories: Mapping[str, History], events: list[Told]) -> Iterator[str]:
    """Each key's events go forward through what was true; `deleted` is said only of what was gone (I5)."""
    places: dict[tuple[str, Key], int] = defaultdict(int)
    for told in sorted(events, key=lambda told: (told.event.source, told.event.sequence)):
        event = told.event
        key = (Collection(event.collection), event.uid)
        name = f"event {event.sequence} of {event.state_key} ({event.verb})"
        versions = histories[event.source].versions.get(key, [])
        begin = places[event.source, key]
        found = next((at for at in range(begin, len(versions)) if versions[at].digest == told.digest), None)
        if found is None:
            if told.digest is None:
                yield f"I5: {name} tells a deletion that did not happen"
            else:
                yield f"explained: {name} shows what was not true any more, or never"
            continue
        if versions[found].at > told.decided_at:
            yield f"explained: {name} was told before it happened"
        places[event.source, key] = found


def _claims(outside: Outside, histories: Mapping[str, History], events: list[Told]) -> Iterator[str]:
    """I7: when a process said that everything up to a moment is published, it was."""
    late_s = {source: api.switches.late_visibility_s for source, api in outside.apis.items()}
    folded: dict[tuple[str, Key], int | None] = {}
    ordered = sorted(events, key=lambda told: (told.decided_at, told.event.source, told.event.sequence))
    at = 0
    broken: Counter[tuple[str, Collection]] = Counter()
    published = [line.claim for line in _progress(outside)]
    for claim in sorted([*outside.claims, *published], key=lambda claim: claim.at):
        while at < len(ordered) and ordered[at].decided_at <= claim.at:
            event = ordered[at].event
            folded[event.source, (Collection(event.collection), event.uid)] = ordered[at].digest
            at += 1
        for finding in _claim(claim, histories[claim.source], folded, late_s[claim.source]):
            broken[claim.source, claim.collection] += 1
            if broken[claim.source, claim.collection] <= 3:
                yield finding


def _claim(
    claim: Claim, history: History, folded: Mapping[tuple[str, Key], int | None], late_s: float
) -> Iterator[str]:
    for key in history.versions:
        if key[0] is claim.collection:
            true = history.between(key, claim.until - late_s, claim.at)
            if folded.get((claim.source, key)) not in true:
                yield (
                    f"I7: {claim.source}/{key[0]}/{key[1]} was not up to date at {claim.at:.3f}, although everything "
                    f"up to {claim.until:.3f} was said to be published"
                )


class ProgressLine(NamedTuple):
    """A record of the progress topic. claim: what it says, at the moment of its commit."""

    claim: Claim
    sequence: int


def _progress(outside: Outside) -> Iterator[ProgressLine]:
    moment_of = _moments(outside)
    for entry in outside.broker.read((outside.topics.progress, 0), 0):
        value = orjson.loads(entry.value or b"")
        until = instant(value["complete_until"]) / 1_000_000
        claim = Claim(value["source"], Collection(value["collection"]), moment_of(entry), until)
        yield ProgressLine(claim, value["sequence"])


def _advances(outside: Outside, events: list[Told]) -> Iterator[str]:
    """What the progress topic says never goes back, and knows every event that was published until then."""
    last: dict[tuple[str, Collection], float] = {}
    moments: dict[str, list[float]] = defaultdict(list)
    for told in sorted(events, key=lambda told: told.decided_at):
        moments[told.event.source].append(told.decided_at)
    for claim, sequence in _progress(outside):
        name = f"progress: {claim.source}/{claim.collection} at {claim.at:.3f}"
        if claim.until <= last.get((claim.source, claim.collection), 0.0):
            yield f"{name} went back to {claim.until:.3f}"
        last[claim.source, claim.collection] = claim.until
        told_by_then = bisect_right(moments[claim.source], claim.at)
        if sequence != told_by_then:
            yield f"{name} says that there are {sequence} events, and there are {told_by_then}"


def _letters(outside: Outside, letters: Mapping[int, list[bytes]]) -> Iterator[str]:
    """Every inbox record has had its effect once, and those of a partition in order."""
    topics, broker = outside.topics, outside.broker
    answered = Counter(entry.value or b"" for entry in broker.read((topics.deadletters, 0), 0))
    for partition, sent in sorted(letters.items()):
        for letter in sent:
            if answered[letter] != 1:
                yield f"inbox: {letter.decode()} of partition {partition} had {answered[letter]} effects"


def _events(outside: Outside) -> Iterator[Told]:
    broker = outside.broker
    moment_of = _moments(outside)
    for topic in outside.topics.event_topics:
        for number in range(broker.partitions(topic)):
            for entry in broker.read((topic, number), 0):
                event = decode(message_of((topic, number), entry))
                digest = None if event.after is None else document_digest(essence(event.after))
                yield Told(event, moment_of(entry), digest)


def _moments(outside: Outside) -> Callable[[Entry], float]:
    """When a record was decided, in wall-clock seconds; as far as it belongs to a transaction."""
    decisions = outside.broker.transactions.decisions
    moments = {decision.transaction: decision.at for decision in decisions if decision.commit}
    base = outside.clock.wall() - outside.clock.monotonic()
    return lambda entry: entry.timestamp_ms / 1000 if entry.writer is None else base + moments[entry.writer.transaction]


def _state(outside: Outside) -> dict[str, int]:
    """Digests of the documents that the state topic holds."""
    found: dict[str, int] = {}
    for shard in range(outside.topics.shards):
        for entry in outside.broker.read((outside.topics.state, shard), 0):
            key = (entry.key or b"").decode()
            if key.count("/") < 2 or key.split("/")[1] not in COLLECTIONS:
                continue
            document = None if entry.value is None else decode_record(entry.value).document
            if document is None:
                found.pop(key, None)
            else:
                found[key] = document_digest(essence(document))
    return found


def _silent(_done: int, _total: int) -> None:
    """Tells nobody."""
