"""Ahead: the page behind the one that is being written, asked for meanwhile.

A list that is read page by page is otherwise read in turns: the provider waits while we write, we wait while it
answers. One page, and only one, is on its way; it is used if the reading goes on where it was expected to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from bridge.errors import SourceError
from bridge.source.feed import Cursor, Page

TURNS = 3
"""Of the event loop until a request has left that waits for nothing: the page's task, tasks of its own that ask side by
side, and one to spare. The page before is then worked on, and nothing leaves meanwhile."""


class Ahead:
    """At most one page on its way. Belongs to one task, which calls `stop` in the end."""

    def __init__(self) -> None:
        self._cursor: Cursor | None = None
        self._task: asyncio.Task[Page | SourceError] | None = None

    async def start(self, cursor: Cursor, page: Coroutine[Any, Any, Page]) -> None:
        """Ask for `page`, which begins at `cursor`; its requests have left when this returns."""
        assert self._task is None, "one page at a time"
        self._cursor = cursor
        self._task = asyncio.create_task(_caught(page), name="page ahead")
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def take(self, cursor: Cursor | None) -> Page | None:
        """The page that begins at `cursor`, when it is the one that was asked for. Raises what that page raised."""
        task = self._task
        if task is None:
            return None
        if cursor != self._cursor:
            await self.stop()
            return None
        await asyncio.wait([task])
        self._task = None
        found = task.result()
        if isinstance(found, SourceError):
            raise found
        return found

    async def stop(self) -> None:
        """Forget the page; its request is broken off. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # looked at: what nobody wants is no complaint


async def _caught(page: Coroutine[Any, Any, Page]) -> Page | SourceError:
    """As a value: a task that is forgotten may not complain about its error."""
    try:
        return await page
    except SourceError as error:
        return error
