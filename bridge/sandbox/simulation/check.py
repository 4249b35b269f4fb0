"""Check: what must hold when everything stands still, whatever happened before. Each finding is one line.

The invariants of `bridge verify` over the fake broker's topics, and what only a simulator can see: who wrote, what
was true at the provider at every moment, and what was promised about it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import nextafter
from random import Random
from types import MappingProxyType
from typing import NamedTuple

from bridge.model import Collection, key_of
from bridge.sandbox.api import SandboxApi
from bridge.sandbox.broker.link import Link, Power, Trouble
from bridge.sandbox.broker.log import Entry
from bridge.sandbox.broker.reader import fake_restore, message_of
from bridge.sandbox.simulation import memberships, obedience, promises
from bridge.sandbox.simulation.orders import Order, Watch
from bridge.sandbox.simulation.process import Claim, Outside
from bridge.sandbox.simulation.provider import Loss
from bridge.sandbox.simulation.signals import Sent
from bridge.sandbox.simulation.told import Kept, Told, events_of, state_of
from bridge.sandbox.simulation.truth import History, Key
from bridge.sandbox.simulation.vendors import VENDORS, late_s
from bridge.verify.checker import Checker, Place
from bridge.verify.reading import RestoreProbe

FINDINGS_MAX = 3
"""About the claims of one collection; the others say the same."""


class Done(NamedTuple):
    """What was done to the bridge. letters: what is no command, by partition of the inbox, in order."""

    letters: Mapping[int, list[bytes]]
    signals: Sequence[Sent] = ()
    losses: Sequence[Loss] = ()
    orders: Sequence[Order] = ()
    watches: Mapping[str, Watch] = MappingProxyType({})


async def check(outside: Outside, histories: Mapping[str, History], done: Done) -> list[str]:
    """Every finding."""
    events = sorted(events_of(outside), key=lambda told: (told.event.source, told.event.sequence))
    state = state_of(outside)
    findings = [*await _verified(outside), *_writers(outside), *_duels(outside)]
    obeyed: list[promises.Answered] = []
    said = list(outside.claims)
    orders = [*done.orders, *obedience.mirrored(outside)]
    answered: list[obedience.Answered] = []
    findings += promises.outcomes(outside, done.signals, obeyed, {order.command.id for order in orders})
    findings += obedience.outcomes(outside, orders, answered)
    findings += obedience.followed(outside.mirrors, events, obedience.mirrored(outside))
    findings += promises.progress(outside, events, said)
    for source, history in histories.items():
        read = outside.plan.collections[source]
        told = [one for one in events if one.event.source == source]
        losses = [loss for loss in done.losses if loss.source == source]
        findings += equal(source, read, history, state)
        findings += explained(read, history, told, silent=outside.plan.silent)
        findings += promises.pauses(source, obeyed, told)
        findings += promises.held(losses, outside.plan.delete_limit, obeyed, told, silent=outside.plan.silent)
        vendor, api = VENDORS[outside.plan.providers[source]], outside.apis[source]
        findings += obedience.kept(source, answered, history, late_s(api))
        if source in done.watches:
            findings += obedience.nothing_else(source, done.watches[source], orders)
        tells_merges = not isinstance(api, SandboxApi) and api.switches.merged_read != "404"
        findings += obedience.merges(source, history, told, always=tells_merges)
        if not outside.plan.blind and not outside.plan.silent:
            mine = [claim for claim in said if claim.source == source]
            findings += claims(mine, history, told, late_s(api), departures=vendor.tells_departures)
    return [*findings, *_letters(outside, done.letters), *outside.story.unforeseen]


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


def equal(source: str, read: Sequence[Collection], history: History, state: Mapping[str, Kept]) -> Iterator[str]:
    """The state is what the provider has, neither more nor less. read: the collections that the bridge reads."""
    wanted = {
        key_of(source, collection, uid): versions[-1].digest
        for (collection, uid), versions in history.versions.items()
        if versions[-1].digest is not None and collection in read
    }
    found = {key for key in state if key.startswith(f"{source}/")}
    for key in sorted(wanted.keys() | found):
        if key not in state:
            yield f"provider: {key} is alive and not in the state"
        elif key not in wanted:
            yield f"provider: {key} is gone and still in the state"
        elif state[key].digest != wanted[key]:
            yield f"provider: {key} differs from the state"
    if Collection.MEMBERSHIPS in read:
        yield from memberships.equal(source, history, state)


def explained(
    read: Sequence[Collection], history: History, events: Sequence[Told], *, silent: bool = False
) -> Iterator[str]:
    """Each key's events go forward through what was true; `deleted` is said only of what was gone (I5).

    events: of one source, by sequence. silent: first sights are kept without an event.
    """
    places: dict[Key, int] = defaultdict(int)
    edges = memberships.Walk(history.edges if Collection.MEMBERSHIPS in read else {}, silent=silent)
    for told in events:
        event = told.event
        name = f"event {event.sequence} of {event.state_key} ({event.verb})"
        if event.collection not in read:
            yield f"explained: {name} is of a collection that is not read"
            continue
        key = (Collection(event.collection), event.uid)
        yield from edges.take(told)
        yield from _named(told, name)
        versions = history.versions.get(key, [])
        begin = places[key]
        found = next((at for at in range(begin, len(versions)) if versions[at].digest == told.digest), None)
        if found is None:
            if told.digest is None:
                yield f"I5: {name} tells a deletion that did not happen"
            else:
                yield f"explained: {name} shows what was not true any more, or never"
            continue
        if versions[found].at > told.decided_at:
            yield f"explained: {name} was told before it happened"
        places[key] = found


def _named(told: Told, name: str) -> Iterator[str]:
    """A customer with another customer_id is told as renamed, and as nothing else."""
    event = told.event
    if event.collection != Collection.CUSTOMERS or event.before is None or event.after is None:
        return
    names = (event.before.get("customer_id"), event.after.get("customer_id"))
    if (names[0] != names[1]) is not (event.verb == "renamed"):
        yield f"renamed: {name} is about {names[0]} and {names[1]}"
    elif event.verb == "renamed" and (event.data.get("from"), event.data.get("to")) != names:
        yield f"renamed: {name} says another customer_id than its documents"


def claims(
    said: Sequence[Claim], history: History, events: Sequence[Told], late_s: float, *, departures: bool = True
) -> Iterator[str]:
    """I7: when a process said that everything up to a moment is published, it was.

    said, events: of one source. late_s: of the provider's lists. departures: whether polls see that somebody is gone.
    """
    folded: dict[Key, int | None] = {}
    edges = memberships.Published(history)
    ordered = sorted(events, key=lambda told: (told.decided_at, told.event.sequence))
    at = 0
    broken: Counter[Collection] = Counter()
    for claim in sorted(said, key=lambda claim: claim.at):
        while at < len(ordered) and ordered[at].decided_at <= claim.at:
            event = ordered[at].event
            folded[Collection(event.collection), event.uid] = ordered[at].digest
            edges.take(ordered[at])
            at += 1
        # What happens at that very moment may come behind the answer that was given then.
        until = nextafter(claim.until - late_s, 0.0)
        wrong = _late(claim, until, history, folded, departures=departures)
        late_edges = edges.overclaimed(until, claim.at, departures=departures)
        for finding in late_edges if claim.collection is Collection.MEMBERSHIPS else wrong:
            broken[claim.collection] += 1
            if broken[claim.collection] <= FINDINGS_MAX:
                yield finding


def _late(
    claim: Claim, until: float, history: History, folded: Mapping[Key, int | None], *, departures: bool
) -> Iterator[str]:
    for key in history.versions:
        if not departures and history.gone(key, claim.at):
            continue
        if key[0] is claim.collection and folded.get(key) not in history.between(key, until, claim.at):
            yield (
                f"I7: {claim.source}/{key[0]}/{key[1]} was not up to date at {claim.at:.3f}, although everything "
                f"up to {claim.until:.3f} was said to be published"
            )


def _letters(outside: Outside, letters: Mapping[int, list[bytes]]) -> Iterator[str]:
    """Every inbox record has had its effect once, and those of a partition in order."""
    topics, broker = outside.topics, outside.broker
    answered = Counter(
        entry.value or b""
        for entry in broker.read((topics.deadletters, 0), 0)
        if _header(entry, "reason") == b"malformed"
    )
    for partition, sent in sorted(letters.items()):
        for letter in sent:
            if answered[letter] != 1:
                yield f"inbox: {letter.decode()} of partition {partition} had {answered[letter]} effects"


def _header(entry: Entry, name: str) -> bytes | None:
    return dict(entry.headers).get(name)


def _silent(_done: int, _total: int) -> None:
    """Tells nobody."""
