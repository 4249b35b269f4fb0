"""Bulletin: what the loops of one source tell each other during one opening of its shard.

The readings of customers and tags write it, the loop of the memberships reads it. Nothing of it is kept: what gets lost
with a life costs time only, because every tag is read anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bridge.model import Collection, Path
from bridge.runtime.step import StepResult

HINTS_MAX = 1_000
"""Customers that just changed and are to be looked at soon; beyond it the oldest are left to the reading of tags."""


class Bulletin:
    """Of one source; belongs to one loop of asyncio."""

    def __init__(self) -> None:
        self.read: dict[Collection, float] = {}
        """Wall-clock seconds at which the last reading began that has come to its end: who was there is known."""
        self.caught_up: dict[Collection, float] = {}
        """The same, when everything that follows from it is in the ledger, deletions too."""
        self.glances: list[tuple[float, float]] = []
        """The same of glances that have shown every edge: when one began, and when it had come to its end. The first
        one that nothing was made of yet, and the last; or glances that are quicker than tags would never be proved."""
        self.wants_glances = False
        """Whether memberships are to be read."""
        self._hints: dict[str, None] = {}
        self._tags_moved = True
        self._news = asyncio.Event()

    def ended(self, collection: Collection, moment: float) -> None:
        """A reading that began at `moment` has shown everything."""
        self.read[collection] = moment
        self._news.set()

    def proved(self, collection: Collection, moment: float) -> None:
        """Everything up to `moment` is in the ledger."""
        self.caught_up[collection] = moment
        self._news.set()

    def glanced(self, began: float, ended: float) -> None:
        """All customers have said which tags they have."""
        self.glances = [*self.glances[:1], (began, ended)]
        self._news.set()

    def absorbed(self, collection: Collection, path: Path, result: StepResult) -> None:
        """A page is in the ledger. Customers that came with the first reading of all are no news."""
        if collection is Collection.TAGS and (result.events or path is Path.SNAPSHOT):
            self.tags_moved()
        elif collection is Collection.CUSTOMERS and path is not Path.SNAPSHOT and result.touched:
            self.hint(result.touched)

    def tags_moved(self) -> None:
        """Some came or went, or all are to be looked at as if they had."""
        self._tags_moved = True
        self._news.set()

    def wake(self) -> None:
        """Something else is new for the loop of the memberships."""
        self._news.set()

    def hint(self, uids: Sequence[str]) -> None:
        """These customers may have moved tags."""
        for uid in uids[-HINTS_MAX:]:
            self._hints.pop(uid, None)
            self._hints[uid] = None
        while len(self._hints) > HINTS_MAX:
            del self._hints[next(iter(self._hints))]
        self._news.set()

    def take_tags_moved(self) -> bool:
        """Whether that was said since the last time."""
        moved, self._tags_moved = self._tags_moved, False
        return moved

    def take_hint(self) -> str | None:
        """The customer that has waited longest."""
        uid = next(iter(self._hints), None)
        if uid is not None:
            del self._hints[uid]
        return uid

    @property
    def hinted(self) -> bool:
        """Whether a customer is to be looked at."""
        return bool(self._hints)

    async def wait(self, seconds: float) -> None:
        """Until something new is said, at most so long."""
        self._news.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass
