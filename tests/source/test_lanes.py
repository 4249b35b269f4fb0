"""Pages of slices come in any order, none waits for another, and nothing of them stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from bridge.errors import RequestRefused, RetryLater, SourceError
from bridge.model import Path, iso
from bridge.runtime.ahead import Ahead
from bridge.source.dintero.lanes import Lanes
from bridge.source.dintero.rows import Rows
from bridge.source.dintero.slices import Shown, Slice
from bridge.source.transport import Request, Response
from tests.source.providing import query_of
from tests.source.test_slices import LANES, Watched, load, reading
from tests.support.clock import VirtualClock, run_virtual

PIECES = [Slice(since, since + 10, 100, since) for since in (0, 10, 20)]


class Provider:
    """Answers for each slice after its time, or with its error."""

    def __init__(self, clock: VirtualClock, **takes_s: float) -> None:
        self.clock = clock
        self.takes_s = {int(name.removeprefix("at_")): seconds for name, seconds in takes_s.items()}
        self.errors: dict[int, Exception] = {}
        self.asked: list[int] = []
        self.broken_off: list[int] = []

    async def page(self, piece: Slice) -> Shown:
        self.asked.append(piece.since)
        try:
            await self.clock.sleep(self.takes_s.get(piece.since, 1.0))
        except asyncio.CancelledError:
            self.broken_off.append(piece.since)
            raise
        if piece.since in self.errors:
            raise self.errors[piece.since]
        return Shown([], Rows((), (), (), (), None, {}, (), {}), 100, None, None, 0.0, float(piece.since))


def came(pages: Sequence[Shown | SourceError | None]) -> list[bool]:
    return [isinstance(page, Shown) for page in pages]


def test_a_slow_answer_holds_up_its_own_slice_only() -> None:
    async def main(clock: VirtualClock) -> None:
        provider = Provider(clock, at_10=5.0)
        lanes = Lanes(provider.page)
        assert came(await lanes.pages(PIECES)) == [True, False, True]
        for second in (2, 3, 4):
            assert came(await lanes.pages(PIECES)) == [True, False, True]
            assert clock.monotonic() == pytest.approx(second)
        assert sorted(provider.asked) == [0] * 4 + [10] + [20] * 4
        assert came(await lanes.pages(PIECES)) == [True, True, True]

    run_virtual(main)


def test_who_fails_at_once_is_asked_again_only_after_a_round_of_the_others() -> None:
    async def main(clock: VirtualClock) -> None:
        provider = Provider(clock, at_0=0.0)
        provider.errors[0] = RetryLater("no")
        lanes = Lanes(provider.page)
        for _ in range(6):
            pages = await lanes.pages(PIECES)
            assert came(pages) == [False, True, True]
        assert provider.asked.count(0) == 2  # beside twelve pages of the others
        assert provider.asked.count(10) == 6

    run_virtual(main)


def test_errors_are_told_when_there_is_nothing_else() -> None:
    async def main(clock: VirtualClock) -> None:
        provider = Provider(clock, at_20=2.0)
        provider.errors = {piece.since: RetryLater("no") for piece in PIECES}
        lanes = Lanes(provider.page)
        for _ in range(2):
            pages = await lanes.pages(PIECES)
            assert all(isinstance(page, RetryLater) for page in pages)
        assert sorted(provider.asked) == [0, 0, 10, 10, 20, 20]

    run_virtual(main)


def test_a_refusal_is_told_at_once() -> None:
    async def main(clock: VirtualClock) -> None:
        provider = Provider(clock, at_10=0.5)
        provider.errors[10] = RequestRefused("no", status=400)
        pages = await Lanes(provider.page).pages(PIECES)
        assert isinstance(pages[1], RequestRefused)
        assert clock.monotonic() == pytest.approx(0.5)

    run_virtual(main)


def test_what_nobody_wants_any_more_is_broken_off() -> None:
    async def main(clock: VirtualClock) -> None:
        provider = Provider(clock, at_10=5.0, at_20=5.0)
        lanes = Lanes(provider.page)
        await lanes.pages(PIECES)
        await lanes.pages(PIECES[:2])
        assert provider.broken_off == [20]
        await lanes.break_off()
        await lanes.break_off()
        assert provider.broken_off == [20, 10]

    run_virtual(main)


def test_who_is_cancelled_leaves_nothing_behind() -> None:
    async def main(clock: VirtualClock) -> None:
        provider = Provider(clock)
        lanes = Lanes(provider.page)
        waiting = asyncio.create_task(lanes.pages(PIECES))
        await clock.sleep(0.5)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert sorted(provider.broken_off) == [0, 10, 20]

    run_virtual(main)


def test_a_defect_of_ours_is_told_and_leaves_nothing_behind() -> None:
    async def main(clock: VirtualClock) -> None:
        provider = Provider(clock, at_0=0.5)
        provider.errors[0] = ZeroDivisionError()
        with pytest.raises(ZeroDivisionError):
            await Lanes(provider.page).pages(PIECES)
        assert sorted(provider.broken_off) == [10, 20]

    run_virtual(main)


@reading
async def test_all_requests_have_left_before_the_page_before_is_worked_on(clock: VirtualClock) -> None:
    provider = Watched(clock, 400, page_latency_ms=100)
    mirror, ahead = provider.mirror(), Ahead()
    while not (mirror.pages and load(mirror).position is not None):
        await mirror.step()
    assert mirror.cursor is not None
    assert provider.busy == 0
    await ahead.start(mirror.cursor, mirror.feed.page(mirror.cursor))
    assert provider.busy == LANES
    await ahead.stop()
    assert provider.busy == 0


@reading
async def test_requests_of_a_reading_that_ends_or_begins_anew_are_broken_off(clock: VirtualClock) -> None:
    provider = Watched(clock, 400)
    mirror, send, slow = provider.mirror(), provider.api.send, True
    for _ in range(3):
        await mirror.step()

    async def all_but_the_first_are_slow(request: Request) -> Response:
        if slow and query_of(request).get("since_datetime") != first:
            await clock.sleep(100)
        return await send(request)

    provider.api.send = all_but_the_first_are_slow  # type: ignore[method-assign]
    first = iso(load(mirror).slices[0].since)
    await mirror.step()
    assert provider.busy == LANES - 1
    await mirror.feed.break_off()
    assert provider.busy == 0
    first = iso(load(mirror).slices[0].since)
    await mirror.step()
    assert provider.busy == LANES - 1
    mirror.cursor, slow = None, False
    await mirror.step()
    assert provider.busy == 0


@reading
async def test_a_page_tells_only_of_its_own_slice(clock: VirtualClock) -> None:
    """A slice whose answer is old, and which overruns its end, must not undo what the next one has shown since."""
    provider = Watched(clock, 400)
    mirror = provider.mirror()
    await mirror.step()
    while load(mirror).slices:
        page = await mirror.step()
        assert page.path is Path.SNAPSHOT
    told = [document.uid for page in mirror.pages for document in page.documents]
    assert len(set(told)) == 400
    assert len(told) <= 400 + len(provider.queries)  # the last of a page may be the first of the next
