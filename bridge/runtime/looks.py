"""Looks: documents that somebody wants looked at at once, handed to the loop that reads their collection.

All that is seen of a collection is seen and written by one loop, one after the other, so no answer ever overtakes a
newer one. Whoever knows that something has changed (a command that has changed it) waits here for the loop to look.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

from bridge.errors import SourceError
from bridge.model import Cause, Document

Seen = TypeVar("Seen")


class Look(Generic[Seen]):
    """What is to be looked at, as far as it is known, and why. Made and answered once."""

    def __init__(self, known: Sequence[Document], cause: Cause) -> None:
        self.known = known
        self.cause = cause
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

    async def ask(self, known: Sequence[Document], cause: Cause) -> Seen:
        """Wait for what the loop sees. Raises any `SourceError`; cancelled, nobody looks in vain."""
        look: Look[Seen] = Look(known, cause)
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
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass
