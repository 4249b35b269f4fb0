"""Mirrors: a customer who gets or loses a tag in one source gets or loses a tag in another one.

The rule's command goes into the inbox in the very transaction of the event that it follows, keyed by the other source,
whose owner executes it like any command: the edge is told if and only if it is mirrored, once, and in order. Nobody
needs to know who owns the other source, or whether it runs now.

Loops cannot arise: an edge that a mirror has written has that mirror's command as its cause, whoever sees it first
(see `awaited`), and is not mirrored again. What the first reading shows has not moved, so it is not mirrored either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from bridge.clock import Clock
from bridge.commands.command import Kind, Tagging, Where, encode
from bridge.detect.edges import EdgeMove
from bridge.event.envelope import TagName
from bridge.model import Body, Cause, Path, iso
from bridge.publish.topics import TopicPlan
from bridge.publish.transaction import Record
from bridge.runtime.joins import value_of
from bridge.runtime.ledger import Ledger

COMMANDS: Final = "mirror."
"""How the ids of mirrors' commands begin; then come the mirror, the sequence of the first event, and the source."""

SOURCE_CHARS_MAX: Final = 40
"""Of the source in an id: what tells a mirror's commands apart from those that it had with another source."""

EDGES_MAX: Final = 1_000
"""In one command: what the largest provider takes in one call."""

VALUE_CHARS_MAX: Final = 255
"""A longer value is nobody's name, and is not looked for."""


class MirrorRule(NamedTuple):
    """tag, target_tag: name or uid. field, target_field: of the customers' documents, what is equal on both sides."""

    name: str
    source: str
    tag: str
    target: str
    target_tag: str
    field: str
    target_field: str


class _Move(NamedTuple):
    rule: MirrorRule
    joined: bool
    customer: str
    value: str
    sequence: int


class Mirrors:
    """Of one source, whose edges they follow, during one opening of its shard. Synchronous."""

    def __init__(self, rules: Sequence[MirrorRule], ledger: Ledger, topics: TopicPlan, clock: Clock) -> None:
        self._rules = rules
        self._ledger = ledger
        self._topics = topics
        self._clock = clock
        self._moves: list[_Move] = []

    def moved(self, move: EdgeMove, body: Body, tag: TagName, cause: Cause, sequence: int) -> None:
        """An edge has moved. body: of the customer. sequence: of the event."""
        if cause.path is Path.SNAPSHOT or mirror_of(cause.ref) is not None:
            return
        for rule in self._rules:
            if rule.tag in (tag.uid, tag.name):
                value = value_of(body, rule.field) or ""
                value = value if len(value) <= VALUE_CHARS_MAX else ""
                self._moves.append(_Move(rule, move.joined, move.customer, value, sequence))

    def send(self) -> None:
        """Write the commands for what has moved, in its order."""
        moves, self._moves = self._moves, []
        at = 0
        while at < len(moves):
            rule, joined, *_ = moves[at]
            end = at
            while end < len(moves) and end - at < EDGES_MAX and moves[end][:2] == (rule, joined):
                end += 1
            self._send(moves[at:end])
            at = end

    def _send(self, moves: Sequence[_Move]) -> None:
        rule, joined, _, _, sequence = moves[0]
        command = Tagging(
            id=f"{COMMANDS}{rule.name}.{sequence}.{rule.source[:SOURCE_CHARS_MAX]}",
            kind=Kind.TAG if joined else Kind.UNTAG,
            source=rule.target,
            sent_at=iso(int(self._clock.wall() * 1_000_000)),
            tag_name=rule.target_tag,
            where=Where(
                field=rule.target_field,
                values=tuple(move.value for move in moves),
                names=tuple(move.customer for move in moves),
            ),
        )
        self._ledger.write(Record(self._topics.inbox, None, rule.target.encode(), encode(command)))
        self._ledger.open.mirrored[rule.name] = self._ledger.open.mirrored.get(rule.name, 0) + len(moves)


def mirror_of(command: str | None) -> str | None:
    """The mirror that a command with this id is of; None when it is of none."""
    return command[len(COMMANDS) :].partition(".")[0] if command and command.startswith(COMMANDS) else None
