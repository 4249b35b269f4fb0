"""Obedience: what must hold of commands. Each finding is one line.

Each has exactly one outcome, and it says what has happened at the provider; nothing else was done there in their name;
and a mirror has sent exactly what the events say, in their order. Merges are here as well: who was merged into whom.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import orjson

from bridge.commands.command import Kind, ProviderCommand, Refusal, Rename, Tagging, mirror_of, parse
from bridge.commands.outcome import UIDS_LISTED_MAX, Outcome, Result
from bridge.model import Collection
from bridge.publish.topics import INBOX_SECONDS_MAX
from bridge.runtime.mirrors import MirrorRule
from bridge.sandbox.simulation.orders import Order, Watch
from bridge.sandbox.simulation.process import Outside
from bridge.sandbox.simulation.told import Told, decided
from bridge.sandbox.simulation.truth import History

CUT_S = 1.0
"""Time stamps of a provider may be cut to seconds."""


class Answered(NamedTuple):
    """A command and its outcome; sent_at, at: wall-clock seconds."""

    command: ProviderCommand
    sent_at: float
    outcome: Outcome
    at: float


def mirrored(outside: Outside) -> list[Order]:
    """Commands that mirrors have sent, as the inbox has them, committed; in the order of each partition."""
    topics, broker = outside.topics, outside.broker
    moments = decided(outside)
    found = []
    for number in range(topics.shards):
        for entry in broker.read((topics.inbox, number), 0):
            command = parse(entry.key, entry.value)
            if not isinstance(command, Refusal) and isinstance(command, Tagging) and mirror_of(command.id) is not None:
                found.append(Order(command, moments(entry)))
    return found


def outcomes(outside: Outside, sent: Sequence[Order], answered: list[Answered]) -> Iterator[str]:
    """Every command has one outcome, whatever happened on its way. Fills `answered`."""
    topics, broker = outside.topics, outside.broker
    moments = decided(outside)
    known = {order.command.id: order for order in sent}
    times: Counter[str] = Counter()
    for number in range(broker.partitions(topics.outcomes)):
        for entry in broker.read((topics.outcomes, number), 0):
            outcome = Outcome.model_validate(orjson.loads(entry.value or b""))
            order = known.get(outcome.id)
            if order is None:
                continue  # of a signal
            times[outcome.id] += 1
            if entry.writer is None:
                yield f"orders: the outcome of {outcome.id} is in no transaction"
                continue
            answered.append(Answered(order.command, order.at, outcome, moments(entry)))
    for name, order in known.items():
        if times[name] != 1:
            yield f"orders: {name} ({order.command.kind}) has {times[name]} outcomes"


def kept(source: str, answered: Sequence[Answered], history: History, late_s: float) -> Iterator[str]:
    """What an outcome says was so, at some moment between the command and its outcome."""
    for one in answered:
        command, outcome = one.command, one.outcome
        if command.source != source:
            continue
        begin = one.sent_at - CUT_S - late_s
        if outcome.outcome is Result.EXPIRED and one.at < min(command.expires_at, one.sent_at + INBOX_SECONDS_MAX):
            yield f"orders: {command.id} was told as expired before its time was over"
        if isinstance(command, Rename) and outcome.outcome is Result.APPLIED:
            names = history.names.get(command.customer or "", [])
            spans = zip(names, [*names[1:], (float("inf"), "")], strict=True)
            if not any(
                name == command.new_customer_id and at <= one.at and until >= begin for (at, name), (until, _) in spans
            ):
                yield f"orders: {command.id} was applied, and {command.customer} never had the name"
        if isinstance(command, Tagging) and command.customers is not None and command.tag is not None:
            others = {uid for other in outcome.others for uid in other.uids}
            all_listed = all(other.count <= UIDS_LISTED_MAX for other in outcome.others)
            if outcome.outcome not in (Result.APPLIED, Result.PARTLY, Result.UNCONFIRMED) or not all_listed:
                continue
            for uid in dict.fromkeys(command.customers):
                there = command.kind is Kind.TAG
                if uid not in others and there not in history.between_of((command.tag, uid), begin, one.at):
                    yield f"orders: {command.id} was {outcome.outcome}, and {uid} was never seen so"


def nothing_else(source: str, watch: Watch, sent: Sequence[Order]) -> Iterator[str]:
    """Calls of the bridge have changed what commands are about, and nothing else.

    But for what nobody can help: where all tags of a customer can only be set at once, and without condition, somebody
    else's change right before it is undone.
    """
    wanted: set[tuple[str, str, str]] = set()
    by_mirrors: set[str] = set()
    names: set[tuple[str, str]] = set()
    for order in sent:
        command = order.command
        if command.source != source:
            continue
        if isinstance(command, Rename):
            names.add((command.customer or "", command.new_customer_id))
        elif isinstance(command, Tagging):
            verb = "tagged" if command.kind is Kind.TAG else "untagged"
            if command.where is not None:
                by_mirrors.add(verb)
            wanted |= {(verb, command.tag or "", uid) for uid in command.customers or ()}
    for truth, known in watch.written:
        if truth.kind in ("tagged", "untagged"):
            tag = truth.detail["tag"]
            bidden = (truth.kind, tag, truth.uid) in wanted or truth.kind in by_mirrors
            if not bidden and known >= _moved(watch, truth.uid, tag, truth.number):
                yield f"orders: {truth.uid} of {source} was {truth.kind} {tag}, and nobody had asked for it"
        elif truth.kind == "renamed" and (truth.uid, truth.detail["to"]) not in names:
            yield f"orders: {truth.uid} of {source} was renamed, and nobody had asked for it"


def _moved(watch: Watch, uid: str, tag: str, before: int) -> int:
    """Number of the last change of this edge before another one; 0 when it was so from the beginning."""
    entries = watch.truth
    return max(
        (
            entry.number
            for entry in entries
            if entry.number < before
            and entry.uid == uid
            and entry.kind in ("tagged", "untagged")
            and entry.detail["tag"] == tag
        ),
        default=0,
    )


def followed(rules: Sequence[MirrorRule], events: Sequence[Told], sent: Sequence[Order]) -> Iterator[str]:
    """Each edge that moved by itself was handed on once, in order; nothing else was.

    events: in the order of their sequence. sent: `mirrored`.
    """
    for rule in rules:
        wanted = [
            (told.event.verb == "tagged", told.event.uid)
            for told in events
            if told.event.source == rule.source
            and told.event.verb in ("tagged", "untagged")
            and told.event.data["tag"]["uid"] == rule.tag
            and told.event.data["cause"]["path"] != "snapshot"
            and mirror_of(told.event.data["cause"].get("ref")) is None
        ]
        found = [
            (order.command.kind is Kind.TAG, name)
            for order in sent
            if isinstance(order.command, Tagging) and mirror_of(order.command.id) == rule.name
            for name in (order.command.where.names if order.command.where else None) or ()
        ]
        if wanted != found:
            at = next((at for at, (one, other) in enumerate(zip(wanted, found, strict=False)) if one != other), None)
            place = min(len(wanted), len(found)) if at is None else at
            yield (
                f"mirror: {rule.name} has handed on {len(found)} edges and {len(wanted)} have moved; they differ from "
                f"number {place} on"
            )


def merges(source: str, history: History, told: Sequence[Told], *, always: bool) -> Iterator[str]:
    """Who was merged is told as merged into the survivor, or as deleted where the provider does not say so (`always`:
    it always does)."""
    for one in told:
        event = one.event
        if event.collection != Collection.CUSTOMERS or event.verb not in ("merged", "deleted"):
            continue
        survivors = _survivors(history, event.uid)
        if event.verb == "merged":
            if event.data.get("into") not in survivors:
                yield f"merges: {event.uid} of {source} is told as merged into somebody else"
        elif survivors and always and _there(history, survivors[-1]):
            yield f"merges: {event.uid} of {source} was merged, and is told as deleted"


def _survivors(history: History, uid: str) -> list[str]:
    found: list[str] = []
    while (into := history.merged.get(uid)) is not None and into not in found:
        found.append(into)
        uid = into
    return found


def _there(history: History, uid: str) -> bool:
    versions = history.versions.get((Collection.CUSTOMERS, uid), [])
    return bool(versions) and versions[-1].digest is not None


def unanswered(outside: Outside, sent: Sequence[Order]) -> list[str]:
    """Ids of those that have no outcome yet."""
    topics, broker = outside.topics, outside.broker
    done = {
        (entry.key or b"").decode()
        for number in range(broker.partitions(topics.outcomes))
        for entry in broker.read((topics.outcomes, number), 0)
    }
    return [order.command.id for order in sent if order.command.id not in done]
