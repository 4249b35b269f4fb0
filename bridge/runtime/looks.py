"""Looks: documents that somebody wants looked at at once, handed to the loop that reads their collection.

All that is seen of a collection is seen and written by one loop, one after the other, so no answer ever overtakes a
newer one. Whoever knows that something has changed (a command that has changed it) waits here for the loop to look.

A provider's lists may be late: for a while they show what was true before the look. What they date as older is left
out in any case; `Doubts` says whose rows have to be read once more when they date the same and say something else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from bridge.clock import WAIT_S_MIN, Clock
from bridge.errors import SourceError
from bridge.model import Cause, Document

LATE_S = 60.0
"""How late lists may be; as with `poll_overlap`, some seconds are usual."""

DOUBTS_MAX = 20_000
"""Documents that were looked at within that time; two of the largest commands. Of more the oldest are believed."""

Seen = TypeVar("Seen")


class Look(Generic[Seen]):
    """What is to be looked at, as far as it is known, and why. Made and answered once.

    tags: only which tags these customers say they have.
    """

    def __init__(self, known: Sequence[Document], cause: Cause, *, tags: bool = False) -> None:
        self.known = known
        self.cause = cause
        self.tags = tags
        self._answer: asyncio.Future[Seen] = asyncio.get_running_loop().create_future()

    @property
    def open(self) -> bool:
        """Whether somebody waits for it."""
        return not self._answer.done()

    def answer(self, seen: Seen) -> None:
        """This was seen, and is in the ledger."""
        if self.open:
            self._answer.set_result(seen)

    def fail(self, error: SourceError) -> None:
        """The provider did not show it."""
        if self.open:
            self._answer.set_exception(error)

    async def wait(self) -> Seen:
        """What was seen; raises what `fail` was told."""
        return await self._answer


class Looks(Generic[Seen]):
    """Of one loop, which looks one after the other."""

    def __init__(self) -> None:
        self._waiting: deque[Look[Seen]] = deque()
        self._news = asyncio.Event()

    async def ask(self, known: Sequence[Document], cause: Cause, *, tags: bool = False) -> Seen:
        """Wait for what the loop sees. Raises any `SourceError`; cancelled, nobody looks in vain."""
        look: Look[Seen] = Look(known, cause, tags=tags)
        self._waiting.append(look)
        self._news.set()
        return await look.wait()

    def first(self) -> Look[Seen] | None:
        """The one that has waited longest. It stays the first until it is answered, or given up."""
        while self._waiting and not self._waiting[0].open:
            self._waiting.popleft()
        return self._waiting[0] if self._waiting else None

    async def wait(self, seconds: float) -> None:
        """Until there is one, at most so long."""
        self._news.clear()
        if self.first() is not None:
            return
        try:
            async with asyncio.timeout(max(WAIT_S_MIN, seconds)):
                await self._news.wait()
        except TimeoutError:
            pass


class Doubts:
    """Of one loop during one opening. At first of everything: nobody knows what the life before has looked at."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._all_until = clock.monotonic() + LATE_S
        self._until: dict[str, float] = {}

    def note(self, uids: Iterable[str]) -> None:
        """These were looked at just now."""
        now = self._clock.monotonic()
        for uid in uids:
            self._until.pop(uid, None)
            self._until[uid] = now + LATE_S
        while self._until and (len(self._until) > DOUBTS_MAX or next(iter(self._until.values())) <= now):
            del self._until[next(iter(self._until))]

    def of(self, uids: Iterable[str]) -> set[str]:
        """Those of which a list may still show what was true before."""
        now = self._clock.monotonic()
        if now < self._all_until:
            return set(uids)
        return {uid for uid in uids if self._until.get(uid, now) > now} if self._until else set()
