"""Queue: the commands of one source that are accepted and not answered yet, in the order of the inbox.

Accepting is writing into the state, in the transaction of the inbox offset; so a command is in the inbox or here, never
nowhere, and moves with the shard. How far its execution is, is a record of its own, because a command may be large.

What does not fit is refused, not left waiting in the inbox: behind it could be the `resume` that the others wait for,
and the commands of other sources are in the same partition.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any, NamedTuple

import orjson
from pydantic import ValidationError

from bridge.commands.command import MODELS, Kind, ProviderCommand, encode
from bridge.errors import StateLost
from bridge.model import key_of
from bridge.runtime.ledger import Ledger
from bridge.store.record import decode_json, encode_json

COMMANDS_MAX = 100_000
"""Accepted and not answered, per source; at ten requests per second the last of them would wait for hours."""

BYTES_MAX = 64 * 1024 * 1024
"""Of all of them together, per source: every new owner reads them once."""

COMMAND = "command"
"""Second part of a state key, `source/command/id`."""

DOING = "doing"
"""The same of how far the execution is, `source/doing/id`."""

ENVELOPE_BYTES_MAX = 1_024
"""What a record has beside a command, or its progress, in it."""

Progress = dict[str, Any]
"""How far a command is; only its kind understands it. `Any`: JSON."""


class ProgressTooLarge(Exception):
    """No topic takes the record that says how far a command is."""


class _Waiting(NamedTuple):
    """order: counts the accepted commands. size: bytes of its record."""

    order: int
    digest: str
    size: int


class CommandQueue:
    """Of one source during one opening of its shard. Synchronous but for `wait`."""

    def __init__(self, source: str, ledger: Ledger, record_bytes_max: int) -> None:
        """record_bytes_max: of the largest record that every topic takes."""
        self._source = source
        self._ledger = ledger
        self._record_bytes_max = record_bytes_max
        self._news = asyncio.Event()
        self._bytes = 0
        found: list[tuple[str, _Waiting]] = []
        prefix = key_of(source, COMMAND, "")
        for key in list(ledger.keys(prefix)):
            value = ledger.get(key)
            assert value is not None, "the key was just there"
            fields = decode_json(value)
            found.append((key[len(prefix) :], _Waiting(fields["order"], fields["digest"], len(value))))
        # The first one is found at once, however many before it are gone; in a dict their places are passed over.
        self._waiting = OrderedDict(sorted(found, key=lambda item: item[1].order))
        self._bytes = sum(waiting.size for waiting in self._waiting.values())
        self._order = max((waiting.order for waiting in self._waiting.values()), default=0)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether the next one does not fit."""
        return len(self._waiting) >= COMMANDS_MAX or self._bytes >= BYTES_MAX

    def digest(self, command: str) -> str | None:
        """Of the content of the accepted command with this id; None when there is none."""
        waiting = self._waiting.get(command)
        return None if waiting is None else waiting.digest

    def accept(self, command: ProviderCommand) -> None:
        """The last in the row."""
        assert command.id not in self._waiting, "accepted twice"
        self._order += 1
        digest = command.digest
        fields = {"order": self._order, "digest": digest, "command": orjson.Fragment(encode(command))}
        value = encode_json(fields)
        self._ledger.put(key_of(self._source, COMMAND, command.id), value)
        self._waiting[command.id] = _Waiting(self._order, digest, len(value))
        self._bytes += len(value)
        self.tell()

    def first(self) -> ProviderCommand | None:
        """The command whose turn it is. Raises `StateLost` for one that a newer release has accepted."""
        name = next(iter(self._waiting), None)
        if name is None:
            return None
        value = self._ledger.get(key_of(self._source, COMMAND, name))
        assert value is not None, "what waits is in the state"
        fields = decode_json(value)["command"]
        try:
            command = MODELS[Kind(fields["kind"])].model_validate(fields)
        except (ValidationError, ValueError, KeyError):
            raise StateLost("an accepted command is of another release; start the newer release again") from None
        assert isinstance(command, ProviderCommand), "only these are accepted"
        return command

    def progress(self, command: str) -> Progress | None:
        """How far it is; None before it has begun."""
        stored = self._ledger.get(key_of(self._source, DOING, command))
        return None if stored is None else decode_json(stored)

    def note(self, command: str, progress: Progress) -> None:
        """It is so far. Raises `ProgressTooLarge`; then it is as far as before."""
        assert command in self._waiting, "only what waits makes progress"
        value = encode_json(progress)
        if len(value) > self._record_bytes_max - ENVELOPE_BYTES_MAX:
            raise ProgressTooLarge
        self._ledger.put(key_of(self._source, DOING, command), value)

    def touch(self, command: str) -> None:
        """Write once more how far it is, if it has begun: a commit that only the owner of the shard can make."""
        key = key_of(self._source, DOING, command)
        stored = self._ledger.get(key)
        if stored is not None:
            self._ledger.put(key, stored)

    def drop(self, command: str) -> None:
        """It is answered."""
        self._bytes -= self._waiting.pop(command).size
        self._ledger.put(key_of(self._source, COMMAND, command), None)
        if self.progress(command) is not None:
            self._ledger.put(key_of(self._source, DOING, command), None)

    def tell(self) -> None:
        """Something is new: a command, or a signal that may let one go on."""
        self._news.set()

    async def wait(self, seconds: float | None) -> None:
        """Until something is new, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass
        self._news.clear()
