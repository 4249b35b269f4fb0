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

import orjson

from bridge.clock import Clock
from bridge.commands.command import MIRRORED, VALUE_BYTES_MAX, Kind, Tagging, Where, encode, mirror_of
from bridge.commands.outcome import UIDS_LISTED_MAX
from bridge.detect.edges import EdgeMove
from bridge.event.envelope import TagName
from bridge.model import Body, Cause, Path, iso
from bridge.publish.topics import TopicPlan
from bridge.publish.transaction import Record
from bridge.runtime.commands.queue import ENVELOPE_BYTES_MAX
from bridge.runtime.joins import value_of
from bridge.runtime.ledger import Ledger

SOURCE_CHARS_MAX: Final = 40
"""Of the source in an id: what tells a mirror's commands apart from those that it had with another source."""

EDGES_MAX: Final = UIDS_LISTED_MAX
"""In one command: as many as its outcome can list."""

FRAME_BYTES_MAX: Final = 2_048
"""Of a command without its values and names."""

VALUE_CHARS_MAX: Final = 255
"""A longer value is nobody's name, and is not looked for."""


class MirrorRule(NamedTuple):
    """tag, target_tag: name or uid. field, target_field: of the customers' documents, what is equal on both sides.

    ignore_case: whether tags of the source whose names differ in nothing but capitals are one tag.
    """

    name: str
    source: str
    tag: str
    target: str
    target_tag: str
    field: str
    target_field: str
    ignore_case: bool = False

    def follows(self, tag: TagName) -> bool:
        """Whether this is the tag."""
        if self.ignore_case:
            return self.tag == tag.uid or self.tag.casefold() == tag.name.casefold()
        return self.tag in tag


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
            if rule.follows(tag):
                value = value_of(body, rule.field) or ""
                value = value if len(value) <= VALUE_CHARS_MAX else ""
                self._moves.append(_Move(rule, move.joined, move.customer, value, sequence))

    def send(self) -> None:
        """Write the commands for what has moved; to each tag in the order in which it did."""
        by_target: dict[tuple[str, str], list[_Move]] = {}
        for move in self._moves:
            by_target.setdefault((move.rule.target, move.rule.target_tag), []).append(move)
        self._moves = []
        for moves in by_target.values():
            at = 0
            while at < len(moves):
                end = self._end(moves, at)
                self._send(moves[at:end])
                at = end

    def _end(self, moves: Sequence[_Move], at: int) -> int:
        """Behind the last one that goes into a command with this one."""
        left = min(VALUE_BYTES_MAX, self._topics.record_bytes_max - ENVELOPE_BYTES_MAX) - FRAME_BYTES_MAX
        for end, move in enumerate(moves[at : at + EDGES_MAX], at):
            left -= len(orjson.dumps((move.value, move.customer)))
            if end > at and (left < 0 or move[:2] != moves[at][:2]):
                return end
        return min(len(moves), at + EDGES_MAX)

    def _send(self, moves: Sequence[_Move]) -> None:
        rule, joined, _, _, sequence = moves[0]
        command = Tagging(
            id=f"{MIRRORED}{rule.name}.{sequence}.{rule.source[:SOURCE_CHARS_MAX]}",
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
