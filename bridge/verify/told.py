"""ToldReader: the members of tags at a provider whose customers say which tags they have.

Everybody is asked once, and the answers are kept by tag; after that only single customers are asked again.
"""

from __future__ import annotations

from bridge.model import Document
from bridge.source.feed import Cursor, Feed
from bridge.source.memberships import Glances, MemberPage, Place, Untold


class ToldReader:
    """Implements `MembershipReader`, for one comparison."""

    def __init__(self, feed: Feed, glances: Glances) -> None:
        """`feed` of the customers."""
        self._feed = feed
        self._glances = glances
        self._cursor: Cursor | None = None
        self._told: dict[str, frozenset[str]] = {}
        self._members: dict[str, list[str]] | None = None

    async def members(self, tag: str, place: Place | None) -> MemberPage:
        """See `MembershipReader.members`. A reading that fails goes on behind its last page."""
        if self._members is None:
            self._members = await self._ask()
        shown = self._members.get(tag, [])
        return MemberPage(shown=shown, doubtful=(), whole=True, following=None, total=len(shown), asked_at=0.0)

    async def count(self, tag: str) -> int | None:
        """See `MembershipReader.count`."""
        return None

    async def tags(self, known: Document, *, urgent: bool) -> frozenset[str] | Untold:
        """See `MembershipReader.tags`."""
        return await self._glances.tags(known, urgent=urgent)

    async def _ask(self) -> dict[str, list[str]]:
        while True:
            page = await self._feed.page(self._cursor)
            self._cursor = page.cursor
            self._told.update((uid, frozenset(told.tags)) for uid, told in page.tags.items())
            if not page.more:
                break
        members: dict[str, list[str]] = {}
        for uid, tags in self._told.items():
            for tag in tags:
                members.setdefault(tag, []).append(uid)
        return members
