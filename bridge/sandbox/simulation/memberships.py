"""Memberships: what must hold of the events and of the state about edges (tag, customer). Each finding is one line.

An event moves one edge, as it really moved, between the creation and the deletion of its customer and of its tag; no
other event touches `tags`; and what is said about the time up to which memberships are published is true.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import islice

from bridge.model import Body, Collection, key_of
from bridge.sandbox.simulation.told import Kept, Told
from bridge.sandbox.simulation.truth import Edge, History, Moment

MOVES = {"tagged": True, "untagged": False}
"""Verbs of events that move an edge, and whether it is there afterwards."""

FINDINGS_MAX = 3
"""Of one claim; the others say the same."""


def equal(source: str, history: History, state: Mapping[str, Kept]) -> Iterator[str]:
    """The edges of the state are the provider's, neither more nor less."""
    wanted = {edge for edge, moments in history.edges.items() if moments[-1].there}
    prefix = key_of(source, Collection.CUSTOMERS, "")
    found = {
        (tag, key.removeprefix(prefix)) for key, kept in state.items() if key.startswith(prefix) for tag in kept.tags
    }
    for tag, customer in sorted(wanted - found):
        yield f"provider: {source}/{customer} has the tag {tag}, and not in the state"
    for tag, customer in sorted(found - wanted):
        yield f"provider: {source}/{customer} has lost the tag {tag}, and still has it in the state"


class Walk:
    """One source's events in order of sequence. silent: first sights are kept without an event."""

    def __init__(self, moments: Mapping[Edge, list[Moment]], *, silent: bool = False) -> None:
        self._moments = moments
        self._silent = silent
        self._tags: set[str] = set()
        self._gone: set[str] = set()
        self._alive: set[str] = set()
        self._members: dict[str, set[str]] = defaultdict(set)
        self._places: dict[Edge, int] = defaultdict(int)

    def take(self, told: Told) -> Iterator[str]:
        """The next event; what is wrong about it."""
        event = told.event
        name = f"event {event.sequence} of {event.state_key} ({event.verb})"
        if event.collection == Collection.TAGS:
            yield from self._tag(told, name)
        elif event.collection != Collection.CUSTOMERS:
            return
        elif event.verb in MOVES:
            yield from self._move(told, name)
        else:
            yield from self._customer(told, name)

    def _tag(self, told: Told, name: str) -> Iterator[str]:
        uid = told.event.uid
        if told.event.after is not None:
            self._tags.add(uid)
            return
        self._tags.discard(uid)
        self._gone.add(uid)
        if left := self._members.pop(uid, None):
            yield f"edges: {name} comes before {len(left)} of its members are untagged"

    def _customer(self, told: Told, name: str) -> Iterator[str]:
        event = told.event
        before, after = _tags(event.before), _tags(event.after)
        if event.after is None:
            self._alive.discard(event.uid)
            for tag in before:
                self._members[tag].discard(event.uid)
            return
        self._alive.add(event.uid)
        if before != after:
            yield f"edges: {name} changes the tags from {before} to {after}"

    def _move(self, told: Told, name: str) -> Iterator[str]:
        event, there = told.event, MOVES[told.event.verb]
        tag = event.data.get("tag") or {}
        uid = tag.get("uid")
        if not isinstance(uid, str) or not isinstance(tag.get("name"), str):
            yield f"edges: {name} does not say which tag"
            return
        if event.data.get("changed") != ["/tags"]:
            yield f"edges: {name} says that {event.data.get('changed')} has changed"
        yield from self._alone(told, uid, name)
        known = uid in self._tags or (self._silent and uid not in self._gone)
        if there and not known:
            yield f"edges: {name} is about the tag {uid}, which the stream does not have"
        if not known and not there and uid not in self._gone:
            yield f"edges: {name} is about the tag {uid}, of which the stream has never heard"
        if not there and uid in self._gone and uid not in self._tags:
            yield f"edges: {name} comes after the deletion of its tag {uid}"
        if event.uid not in self._alive and not self._silent:
            yield f"edges: {name} is about a customer that the stream does not have"
        (self._members[uid].add if there else self._members[uid].discard)(event.uid)
        yield from self._explained(told, (uid, event.uid), name)

    def _alone(self, told: Told, uid: str, name: str) -> Iterator[str]:
        """One edge has moved, and nothing else."""
        event = told.event
        before, after = event.before or {}, event.after or {}
        was, now = _tags(before), _tags(after)
        moved = {uid} if MOVES[event.verb] else set[str]()
        if now != sorted(now) or len(set(now)) != len(now):
            yield f"edges: {name} shows tags that are not a sorted set"
        if (uid in was) == (uid in now) or set(now) != (set(was) - {uid}) | moved:
            yield f"edges: {name} changes the tags from {was} to {now}, which is not one edge"
        if _rest(before) != _rest(after):
            yield f"edges: {name} changes more than the tags"

    def _explained(self, told: Told, edge: Edge, name: str) -> Iterator[str]:
        there = MOVES[told.event.verb]
        moments = self._moments.get(edge, [])
        # Before its first moment an edge was not there; nobody may tell that as news.
        begin = self._places[edge]
        found = next((at for at in range(begin, len(moments)) if moments[at].there is there), None)
        if found is None:
            yield f"explained: {name} of the tag {edge[0]} tells what was not true any more, or never"
            return
        if moments[found].at > told.decided_at:
            yield f"explained: {name} of the tag {edge[0]} was told before it happened"
        self._places[edge] = found


class Published:
    """What the events told so far have made of the edges of one source."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._edges: set[Edge] = set()

    def take(self, told: Told) -> None:
        """The next event."""
        event = told.event
        if event.verb in MOVES:
            edge = (event.data["tag"]["uid"], event.uid)
            (self._edges.add if MOVES[event.verb] else self._edges.discard)(edge)
        elif event.after is None and event.collection == Collection.CUSTOMERS:
            self._edges -= {(tag, event.uid) for tag in _tags(event.before)}

    def overclaimed(self, until: float, at: float, *, departures: bool = True) -> Iterator[str]:
        """Edges that were not up to date at that moment, although everything until then was said to be published.

        departures: whether it is known at once that a customer is gone.
        """
        for edge in islice(self._late(until, at, departures), FINDINGS_MAX):
            yield (
                f"I7: the tag {edge[0]} of {edge[1]} was not up to date at {at:.3f}, although everything up to "
                f"{until:.3f} was said to be published"
            )

    def _late(self, until: float, at: float, departures: bool) -> Iterator[Edge]:
        for edge in self._history.edges:
            if not departures and self._history.gone((Collection.CUSTOMERS, edge[1]), at):
                continue
            if (edge in self._edges) not in self._history.between_of(edge, until, at):
                yield edge


def _tags(body: Body | None) -> list[str]:
    return [] if body is None else list(body.get("tags", ()))


def _rest(body: Body) -> Body:
    return {name: value for name, value in body.items() if name != "tags"}
