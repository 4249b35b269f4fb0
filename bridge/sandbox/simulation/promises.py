"""Promises: what must hold of outcomes, pauses, held deletions and the progress topic. Each finding is one line."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple

import orjson

from bridge.commands.command import Kind
from bridge.commands.outcome import Outcome, Result
from bridge.detect.scan import DeleteLimit
from bridge.event.progress import Progress
from bridge.model import Collection, instant
from bridge.publish.topics import INBOX_SECONDS_MAX
from bridge.sandbox.simulation.process import Claim, Outside
from bridge.sandbox.simulation.provider import Loss
from bridge.sandbox.simulation.signals import Sent
from bridge.sandbox.simulation.told import Told, decided

STRIP_S = 1.0
"""Before its own deletion a tag is taken from its members, one step after the other."""


class Answered(NamedTuple):
    """A signal and when its outcome was committed, wall-clock seconds."""

    sent: Sent
    at: float


def outcomes(
    outside: Outside, sent: Sequence[Sent], answered: list[Answered], others: Container[str] = ()
) -> Iterator[str]:
    """Every signal has one outcome, whatever happened on its way. Fills `answered` with those that were obeyed.

    others: ids of what is no signal.
    """
    topics, broker = outside.topics, outside.broker
    moments = decided(outside)
    known = {one.id: one for one in sent}
    times: Counter[str] = Counter()
    for number in range(broker.partitions(topics.outcomes)):
        for entry in broker.read((topics.outcomes, number), 0):
            outcome = Outcome.model_validate(orjson.loads(entry.value or b""))
            if outcome.id in others:
                continue
            times[outcome.id] += 1
            if entry.writer is None:
                yield f"signals: the outcome of {outcome.id} is in no transaction"
                continue
            if outcome.id not in known:
                yield f"signals: {outcome.id} was answered and never sent"
                continue
            one, at = known[outcome.id], moments(entry)
            if (outcome.kind, outcome.source, outcome.collection) != (one.kind, one.source, one.collection):
                yield f"signals: {outcome.id} was answered as {outcome.kind} {outcome.source}/{outcome.collection}"
            if outcome.outcome is Result.APPLIED:
                answered.append(Answered(one, at))
            elif at - one.at < INBOX_SECONDS_MAX:
                yield f"signals: {outcome.id} was refused: {outcome.detail}"
    for one in sent:
        if times[one.id] != 1:
            yield f"signals: {one.id} ({one.kind}) has {times[one.id]} outcomes"


def pauses(source: str, answered: Sequence[Answered], told: Sequence[Told]) -> Iterator[str]:
    """Nothing of a collection is read while it is paused, whoever owns it meanwhile."""
    spans: dict[str, list[tuple[float, float]]] = {collection: [] for collection in Collection}
    since: dict[str, float] = {}
    for sent, at in sorted(answered, key=lambda one: one.sent.at):  # the order of the inbox
        if sent.source != source or sent.kind not in (Kind.PAUSE, Kind.RESUME):
            continue
        for collection in Collection if sent.collection is None else (sent.collection,):
            if sent.kind is Kind.PAUSE:
                since.setdefault(collection, at)
            elif (began := since.pop(collection, None)) is not None:
                spans[collection].append((began, sent.at))
    tags_gone = {
        one.event.uid: _detected(one)
        for one in told
        if one.event.collection == Collection.TAGS and one.event.verb == "deleted"
    }
    for one in told:
        seen = _detected(one)
        readers = [one.event.collection]
        if one.event.verb in ("tagged", "untagged"):
            # Who reads that a tag is gone takes it from its members first; or they lost it just before.
            gone = tags_gone.get(one.event.data["tag"]["uid"], float("inf"))
            stripped = one.event.verb == "untagged" and 0.0 <= gone - seen < STRIP_S
            readers = [Collection.MEMBERSHIPS, *([Collection.TAGS] if stripped else [])]
        if all(any(began < seen < ended for began, ended in spans[read]) for read in readers):
            yield f"paused: event {one.event.sequence} of {one.event.state_key} was detected at {seen:.3f} all the same"


def held(
    losses: Sequence[Loss],
    limit: DeleteLimit,
    answered: Sequence[Answered],
    told: Sequence[Told],
    *,
    silent: bool = False,
) -> Iterator[str]:
    """Of many that left at once only so few are told before a person has said so as any one reading may miss.

    told: of one source, in the order of its sequence. The limit is a share of those who are known when it is noticed.
    silent: not everybody who is known was told.
    """
    ever = {one.event.uid for one in told if one.event.collection == Collection.CUSTOMERS}
    for loss in losses:
        approved = [
            sent.at
            for sent, at in answered
            if sent.kind is Kind.APPROVE and sent.source == loss.source and at >= loss.at
        ]
        until = min(approved, default=float("inf"))
        early, known = 0, 0
        few = max(limit.documents, int(limit.share * loss.known))
        for one in told:
            if one.event.collection != Collection.CUSTOMERS:
                continue
            known += (one.event.before is None) - (one.event.after is None)
            if one.event.verb == "deleted" and one.event.uid in loss.uids and one.decided_at < until:
                few = few if early else max(few, int(limit.share * (known + 1)))
                early += 1
        lost = loss.uids if silent else loss.uids & ever
        if len(lost) <= 2 * few:
            continue  # two readings that overlap may each have seen a part that is small enough
        if early > few:
            yield (
                f"held: {early} of {len(lost)} customers of {loss.source} that left at once at {loss.at:.3f} "
                f"were told as deleted before anybody approved"
            )


def progress(outside: Outside, events: Sequence[Told], claims: list[Claim]) -> Iterator[str]:
    """The public watermarks: in a transaction each, never back, and with all events in mind. Adds them to `claims`."""
    topics, broker = outside.topics, outside.broker
    moments = decided(outside)
    published: dict[str, list[float]] = defaultdict(list)
    for told in sorted(events, key=lambda told: told.decided_at):
        published[told.event.source].append(told.decided_at)
    last: dict[bytes, float] = {}
    for entry in broker.read((topics.progress, 0), 0):
        said = Progress.model_validate(orjson.loads(entry.value or b""))
        until = instant(said.complete_until) / 1_000_000
        if entry.key != said.key:
            yield f"progress: the record of {said.key.decode()} has another key"
        if entry.writer is None:
            yield f"progress: {said.key.decode()} was told in no transaction"
            continue
        if until < last.get(said.key, until):
            yield f"progress: {said.key.decode()} went back to {said.complete_until}"
        last[said.key] = until
        count = bisect_right(published[said.source], moments(entry))
        if said.sequence != count:
            yield f"progress: {said.key.decode()} says that there are {said.sequence} events, and there are {count}"
        claims.append(Claim(said.source, said.collection, moments(entry), until))


def _detected(told: Told) -> float:
    """Wall-clock seconds."""
    return instant(told.event.data["detected_at"]) / 1_000_000
