"""Deliberate defects of commands, mirrors, and of reading customers who say which tags they have."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

from bridge.model import Document, Fate, Gone, Merged, key_of
from bridge.publish.transaction import Receipt, Record
from bridge.runtime import mirrors
from bridge.runtime.commands.queue import COMMAND, DOING, CommandQueue
from bridge.sandbox.broker.producer import FakeProducer
from bridge.source.budget import Priority
from bridge.source.commanding import TagAnswer
from bridge.source.dintero.commands import DinteroCommander
from bridge.source.rebilly import customers
from bridge.source.rebilly.lookup import Lookup
from tests.simulation.defects import defect

LATE_S = 2.0
"""After its outcome a command is forgotten."""


@defect
def tag_set_overwritten() -> Iterator[None]:
    """Which other tags a customer has is not looked at before its tags are set."""
    set_tag = DinteroCommander._set_tag

    async def careless(
        self: DinteroCommander, known: Document, tag: str, present: bool, priority: Priority
    ) -> TagAnswer:
        memberships = self._memberships

        async def only_this(path: str, priority: Priority) -> frozenset[str]:
            return await memberships.tags_at(path, priority) & {tag}

        blind = DinteroCommander.__new__(DinteroCommander)
        vars(blind).update(vars(self), _memberships=cast(Any, SimpleNamespace(tags_at=only_this)))
        return await set_tag(blind, known, tag, present, priority)

    with patch.object(DinteroCommander, "_set_tag", careless):
        yield


@defect
def outcome_twice() -> Iterator[None]:
    """A command is forgotten some time after its outcome was committed, not with it."""

    def late(self: CommandQueue, command: str) -> None:
        self._bytes -= self._waiting.pop(command).size
        ledger = self._ledger

        def forget() -> None:
            for kind in (COMMAND, DOING):
                ledger.put(key_of(self._source, kind, command), None)

        asyncio.get_running_loop().call_later(LATE_S, forget)

    with patch.object(CommandQueue, "drop", late):
        yield


@defect
def mirror_follows_a_mirror() -> Iterator[None]:
    """An edge that a mirror has written is mirrored like any other."""
    with patch.object(mirrors, "mirror_of", lambda _: None):
        yield


@defect
def mirror_outside_the_transaction() -> Iterator[None]:
    """A mirror's commands are sent at once, by themselves."""
    publish = FakeProducer.publish

    async def torn(self: FakeProducer, records: Sequence[Record], inbox_offset: int | None) -> Receipt:
        broker = self._link.broker
        commands = [record for record in records if record.topic.endswith(".inbox")]
        for at, batch in self._packed(commands).items():
            for record in batch:
                broker.log(at).append_plain(record, int(broker.clock.wall() * 1000))
        return await publish(self, [record for record in records if record not in commands], inbox_offset)

    with patch.object(FakeProducer, "publish", torn):
        yield


@defect
def window_overflow_ignored() -> Iterator[None]:
    """What a page of a window shows is everything in it."""
    with patch.object(customers, "left", lambda *_: ()):
        yield


@defect
def merge_taken_as_deletion() -> Iterator[None]:
    """Who is not there any more is gone, wherever it went."""
    fetch = Lookup.fetch

    async def simple(self: Lookup, known: Sequence[Document]) -> Mapping[str, Fate]:
        found = await fetch(self, known)
        return {uid: Gone(uid, 0) if isinstance(fate, Merged) else fate for uid, fate in found.items()}

    with patch.object(Lookup, "fetch", simple):
        yield
