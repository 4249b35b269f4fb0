"""Acting: what services of the company do while the demo is watched: send a rename, send a tag for many, be answered.

They do it as any service would, by records of the inbox; the answers are read from the outcomes, like any consumer.
Commands of mirrors are seen here, too: they are in the same inbox.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

import orjson

from bridge import assembly
from bridge.clock import Clock
from bridge.commands.command import Command, Kind, Rename, Tagging, encode, mirror_of
from bridge.config import Config
from bridge.model import iso
from bridge.publish.reading import Message, read_topics
from bridge.publish.send import InboxSender

PAUSE_S = 6.0
"""Between two commands of services, so that one can read what became of the last one."""

LINES = 5
"""Answers that are shown."""


class Answer(NamedTuple):
    """What became of one command. seconds: from its record in the inbox to the record of its outcome."""

    id: str
    kind: str
    source: str
    outcome: str
    detail: str
    seconds: float


class Desk:
    """Commands on their way, and the last answers. `watch` fills it."""

    def __init__(self) -> None:
        self.answers: deque[Answer] = deque(maxlen=LINES)
        self.mirrored = 0
        """Edges that mirrors have handed on."""
        self._sent_ms: dict[str, int] = {}
        self._early: dict[str, Message] = {}

    @property
    def open(self) -> int:
        """Commands without an answer."""
        return len(self._sent_ms)

    async def watch(self, config: Config, clock: Clock) -> None:
        """Follow the inbox and the outcomes, for ever."""
        plan = assembly.topic_plan(config)
        topics = [plan.inbox, plan.outcomes]
        async with aclosing(read_topics(config.kafka, topics, clock, follow=True)) as messages:
            async for message in messages:
                fields = orjson.loads(message.value or b"{}")
                if message.topic == plan.inbox:
                    self._sent(fields, message)
                else:
                    self._answered(fields, message)

    def _sent(self, command: dict[str, Any], message: Message) -> None:
        if mirror_of(command["id"]) is not None:
            self.mirrored += len(command["where"]["values"])
        if (answer := self._early.pop(command["id"], None)) is not None:
            self._note(orjson.loads(answer.value or b"{}"), answer.timestamp_ms - message.timestamp_ms)
        else:
            self._sent_ms[command["id"]] = message.timestamp_ms

    def _answered(self, outcome: dict[str, Any], message: Message) -> None:
        sent_ms = self._sent_ms.pop(outcome["id"], None)
        if sent_ms is None:  # of two topics nobody knows which is read first
            self._early[outcome["id"]] = message
        else:
            self._note(outcome, message.timestamp_ms - sent_ms)

    def _note(self, outcome: dict[str, Any], ms: int) -> None:
        said = {name: str(outcome[name]) for name in ("id", "kind", "source", "outcome", "detail")}
        self.answers.append(Answer(**said, seconds=ms / 1000))


class Services:
    """Rename a customer at one source, tag many at another, again and again."""

    def __init__(self, config: Config, clock: Clock, names: Callable[[], Sequence[str]], uids: Callable[[], list[str]]):
        """names: uids of customers that may be renamed. uids: those that may be tagged."""
        self._config = config
        self._clock = clock
        self._names = names
        self._uids = uids
        self._sent = 0

    async def act(self, rename_at: str, tag_at: str, tag: str, many: int) -> None:
        """For ever; ends by cancellation, between two commands or within one."""
        async with InboxSender(self._config.kafka, assembly.topic_plan(self._config).inbox) as sender:
            while True:
                self._sent += 1
                await self._send(sender, self._rename(rename_at))
                await asyncio.sleep(PAUSE_S / 2)
                await self._send(sender, self._tagging(tag_at, tag, many))
                await asyncio.sleep(PAUSE_S / 2)

    async def _send(self, sender: InboxSender, command: Command) -> None:
        await asyncio.shield(sender.send(command.source, encode(command)))

    def _rename(self, source: str) -> Rename:
        names = self._names()
        return Rename(
            id=f"demo-rename-{self._sent}",
            kind=Kind.RENAME,
            source=source,
            sent_at=self._now(),
            customer=names[self._sent * 7919 % len(names)],
            new_customer_id=f"renamed-{self._sent}",
        )

    def _tagging(self, source: str, tag: str, many: int) -> Tagging:
        uids = self._uids()
        begin = self._sent * many % max(1, len(uids))
        return Tagging(
            id=f"demo-tag-{self._sent}",
            kind=Kind.TAG if self._sent % 3 else Kind.UNTAG,
            source=source,
            sent_at=self._now(),
            tag=tag,
            customers=tuple(dict.fromkeys((uids[begin:] + uids[:begin])[:many])),
        )

    def _now(self) -> str:
        return iso(int(self._clock.wall() * 1_000_000))
