"""Work: the execution of one accepted command, piece by piece, and what it stands on.

A piece that raises is begun again. What must not be forgotten between two pieces is noted, and the executor begins the
next one only when that is committed: so only an owner that the group still vouches for has an effect, and a crash
repeats one piece at most. The first piece notes that the command has begun, and changes nothing yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from bridge.clock import Clock
from bridge.commands.outcome import Others, Result
from bridge.errors import NotYet, RetryLater
from bridge.model import Cause, Collection, Document, Fate, Path
from bridge.runtime.commands.queue import CommandQueue, Progress
from bridge.runtime.control import control_key
from bridge.runtime.joins import Found
from bridge.runtime.ledger import Ledger
from bridge.runtime.memberships.bulletin import Bulletin
from bridge.runtime.memberships.loop import Memberships
from bridge.runtime.reading import Reading
from bridge.runtime.step import SourceStep
from bridge.source.commanding import Commander, TagsSeen

LOOK_S_MAX = 300.0
"""A loop that does not come to look within five minutes is in trouble of its own; it is not waited for."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command has ended; see `Outcome`."""

    result: Result
    detail: str
    count: int | None = None
    others: Sequence[Others] = ()


class Work(Protocol):
    """One command. Called by the executor alone, one call at a time."""

    async def go_on(self, urgent: bool) -> Ended | None:
        """Do the next piece; None when there is more. Raises any `SourceError`; then it is called again, later.

        urgent: ask the provider before everything else. Cancellation leaves what is noted, and open whether the
        provider has done the piece.
        """
        ...

    def give_up(self, said: str) -> Ended | None:
        """The piece has failed for as long as anybody waits; None when there is another one without it."""
        ...


@dataclass(frozen=True, slots=True)
class Site:
    """What the commands of one source are executed on, during one opening of its shard."""

    source: str
    step: SourceStep
    ledger: Ledger
    bulletin: Bulletin
    queue: CommandQueue
    readings: Mapping[Collection, Reading]
    memberships: Memberships | None
    commander: Commander
    clock: Clock

    def known(self, collection: Collection, uids: Sequence[str]) -> dict[str, Document]:
        """The documents of these uids, as far as there are any.

        Raises `NotYet` when one is missing and the collection has not been read since the shard was opened.
        """
        found = {document.uid: document for document in self.step.known(collection, uids)}
        if len(found) < len(uids):
            self.await_reading(collection)
        return found

    def await_reading(self, *collections: Collection) -> None:
        """Raises `NotYet` before they have been read since the shard was opened."""
        for collection in collections:
            if collection not in self.bulletin.read:
                raise NotYet(f"{collection} have not been read yet")

    def tags_named(self, name: str) -> list[str]:
        """Uids of the tags of this name; of the one whose uid it is, if there is one.

        Raises `NotYet` before tags have been read since the shard was opened.
        """
        if self.known(Collection.TAGS, [name]):
            return [name]
        tags = self.step.known(Collection.TAGS, self.step.known_uids(Collection.TAGS))
        names = {tag.uid: str(tag.body.get("name")) for tag in tags}
        found = [uid for uid, own in names.items() if own == name]
        if not found and self.commander.ways.names_ignore_case:
            found = [uid for uid, own in names.items() if own.casefold() == name.casefold()]
        return found

    async def matching(self, field: str, values: Sequence[str], customers: int) -> Found:
        """The customers who have the first of these values in this field; see `Joins.find`.

        Raises `NotYet` when nobody has one and customers have not been read since the shard was opened.
        """
        found = await self.step.joins.find(field, values, customers)
        if not found.uids.keys() | found.crowded >= set(values[: found.values]):
            self.await_reading(Collection.CUSTOMERS)
        return found

    def paused(self, collection: Collection) -> bool:
        """Whether the provider is to be asked nothing about it."""
        return self.ledger.get(control_key(self.source, collection)) is not None

    def note(self, command: str, progress: Progress) -> None:
        """It is so far; committed before the next piece begins."""
        self.queue.note(command, progress)

    async def look(self, collection: Collection, known: Sequence[Document], ref: str) -> Mapping[str, Fate]:
        """See `Reading.look`."""
        try:
            async with asyncio.timeout(LOOK_S_MAX):
                return await self.readings[collection].look(known, Cause(Path.COMMAND, ref))
        except TimeoutError:
            raise RetryLater(f"nobody has looked at {collection} in time") from None

    async def tags(self, customers: Sequence[Document], cause: Cause, *, urgent: bool) -> TagsSeen:
        """The tags that these customers have now; published, where memberships are read.

        cause: why edges have moved that no command is known to have moved.
        """
        reading = self.readings.get(Collection.CUSTOMERS)
        if self.memberships is not None:
            self.await_reading(Collection.CUSTOMERS, Collection.TAGS)  # or nobody looks
        try:
            async with asyncio.timeout(LOOK_S_MAX):
                if self.memberships is not None:
                    return await self.memberships.look(customers, cause)
                if reading is not None and reading.tells_tags:
                    return await reading.look_at_tags(customers, cause)
        except TimeoutError:
            raise RetryLater("nobody has looked at memberships in time") from None
        return await self.commander.tags(customers, urgent=urgent)

    @property
    def reads_memberships(self) -> bool:
        """Whether somebody is there who looks at them."""
        reading = self.readings.get(Collection.CUSTOMERS)
        return self.memberships is not None or (reading is not None and reading.tells_tags)
