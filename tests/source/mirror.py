"""A reader of a feed of customers: what it knows after the pages it has read."""

from __future__ import annotations

from bridge.model import Document, Fate
from bridge.source.feed import Cursor, Feed, Page
from tests.support.clock import VirtualClock

PAGES_MAX = 500
"""No reading in these tests needs more; a reading that does never ends."""


class Mirror:
    """What a reader of the feed knows: documents by uid, as the step above would keep them."""

    def __init__(self, feed: Feed, clock: VirtualClock) -> None:
        self.feed = feed
        self.clock = clock
        self.cursor: Cursor | None = None
        self.documents: dict[str, Document] = {}
        self.pages: list[Page] = []

    async def step(self) -> Page:
        page = await self.feed.page(self.cursor)
        suspects = [self.documents[gone.uid] for gone in page.gone if gone.uid in self.documents]
        confirmed: dict[str, Fate] = {}
        while left := [document for document in suspects if document.uid not in confirmed]:
            confirmed |= await self.feed.fetch(left)  # some may be lacking each time
        there = [found for found in confirmed.values() if isinstance(found, Document)]
        for document in (*page.documents, *there):
            known = self.documents.get(document.uid)
            if known is None or not document.version or document.version >= known.version:
                self.documents[document.uid] = document
        for uid, found in confirmed.items():
            if not isinstance(found, Document):
                del self.documents[uid]
        assert page.caught_up_to is None or not page.more
        self.cursor = page.cursor
        self.pages.append(page)
        return page

    async def read(self) -> Page:
        """Until nothing more is to be read at once."""
        for _ in range(PAGES_MAX):
            page = await self.step()
            if not page.more:
                return page
        raise AssertionError("the reading does not end")

    async def settle(self, interval_s: float = 5.0) -> Page:
        """Poll until the feed says that it has caught up."""
        for _ in range(100):
            page = await self.read()
            if page.caught_up_to is not None:
                return page
            await self.clock.sleep(interval_s)
        raise AssertionError("the feed does not catch up")
