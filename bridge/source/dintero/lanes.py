"""Lanes: pages of slices on their way, one for each slice, each asked for as soon as the one before it is there.

Slices are read side by side, and none waits for another: what has come by now is one step, the rest stays on its way
into the next. So a slow answer holds up its own slice only, and the provider works while a step is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from bridge.errors import RequestRefused, SourceError
from bridge.source.dintero.slices import Shown, Slice


class Lanes:
    """Requests under way, by where their page begins. Used by one task, which calls `break_off` in the end."""

    def __init__(self, ask: Callable[[Slice], Coroutine[Any, Any, Shown]]) -> None:
        """`ask` for the next page of a slice; it may raise any `SourceError`."""
        self._ask = ask
        self._tasks: dict[int, asyncio.Task[Shown | SourceError]] = {}
        self._resting: dict[int, int] = {}

    async def pages(self, pieces: Sequence[Slice]) -> list[Shown | SourceError | None]:
        """The next pages of these slices, as far as they are there, in order; None where one is still on its way.

        Returns with the first page; with errors only when nothing else is under way or the provider refuses a request.
        Who failed is asked again when as many pages have come as there are slices, so that one that fails at once is
        not asked again and again while others take their time. Cancellation breaks everything off.
        """
        await self._end(self._tasks.keys() - {piece.since for piece in pieces})
        self._start(piece for piece in pieces if piece.since not in self._resting)
        if not self._tasks:
            self._resting.clear()
            self._start(pieces)
        found: dict[int, Shown | SourceError] = {}
        try:
            while self._tasks and not any(isinstance(one, (Shown, RequestRefused)) for one in found.values()):
                await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)
                for since in [since for since, task in self._tasks.items() if task.done()]:
                    found[since] = self._tasks.pop(since).result()
        except BaseException:
            await self.break_off()
            raise
        self._rest(found, len(pieces))
        return [found.get(piece.since) for piece in pieces]

    async def break_off(self) -> None:
        """Forget what is on its way; the requests are broken off. Idempotent."""
        self._resting.clear()
        await self._end(list(self._tasks))

    def _start(self, pieces: Iterable[Slice]) -> None:
        for piece in pieces:
            if piece.since not in self._tasks:
                self._tasks[piece.since] = asyncio.create_task(self._caught(piece), name="read a slice")

    def _rest(self, found: dict[int, Shown | SourceError], pages: int) -> None:
        came = sum(isinstance(one, Shown) for one in found.values())
        self._resting = {since: left - came for since, left in self._resting.items() if left > came}
        self._resting |= {since: pages for since, one in found.items() if isinstance(one, SourceError)}

    async def _end(self, begins: Iterable[int]) -> None:
        tasks = [self._tasks.pop(since) for since in begins]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()  # looked at: what nobody wants is no complaint

    async def _caught(self, piece: Slice) -> Shown | SourceError:
        """As a value: the others shall go on."""
        try:
            return await self._ask(piece)
        except SourceError as error:
            return error
