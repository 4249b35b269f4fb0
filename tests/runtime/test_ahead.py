"""One page is asked for while the one before is written; nobody is told its error twice, nothing of it stays behind."""

from __future__ import annotations

import asyncio

import pytest

from bridge.errors import RetryLater
from bridge.model import Path
from bridge.runtime.ahead import Ahead
from bridge.source.feed import Cursor, Page


class Provider:
    """Answers when it is allowed to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[int] = []
        self.broken_off = 0
        self.open = asyncio.Event()
        self._error = error

    async def page(self, number: int) -> Page:
        self.asked.append(number)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.broken_off += 1
            raise
        if self._error is not None:
            raise self._error
        return Page(documents=(), cursor=at(number + 1), more=True, path=Path.SNAPSHOT)


def at(number: int) -> Cursor:
    return {"page": number}


async def test_the_request_has_left_before_the_page_is_wanted() -> None:
    ahead, provider = Ahead(), Provider()
    await ahead.start(at(2), provider.page(2))
    assert provider.asked == [2]
    provider.open.set()
    page = await ahead.take(at(2))
    assert page is not None
    assert page.cursor == at(3)
    assert await ahead.take(at(3)) is None


async def test_another_position_forgets_it_and_breaks_its_request_off() -> None:
    ahead, provider = Ahead(), Provider()
    await ahead.start(at(2), provider.page(2))
    assert await ahead.take(None) is None
    assert provider.broken_off == 1
    await ahead.start(at(1), provider.page(1))
    await ahead.stop()
    await ahead.stop()
    assert provider.broken_off == 2


async def test_its_error_is_raised_once_and_where_it_is_wanted() -> None:
    ahead, provider = Ahead(), Provider(RetryLater("busy"))
    provider.open.set()
    await ahead.start(at(2), provider.page(2))
    await asyncio.sleep(0)
    with pytest.raises(RetryLater):
        await ahead.take(at(2))
    assert await ahead.take(at(2)) is None


async def test_an_error_that_nobody_wants_any_more_is_no_complaint() -> None:
    """`filterwarnings = error` would make one of it."""
    ahead, provider = Ahead(), Provider(RetryLater("busy"))
    provider.open.set()
    await ahead.start(at(2), provider.page(2))
    await asyncio.sleep(0)
    await ahead.stop()


async def test_who_waits_for_it_may_be_cancelled() -> None:
    ahead, provider = Ahead(), Provider()
    await ahead.start(at(2), provider.page(2))
    waiting = asyncio.create_task(ahead.take(at(2)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await ahead.stop()
    assert provider.broken_off == 1
