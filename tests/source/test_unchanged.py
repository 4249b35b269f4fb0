"""Conditional requests for whole lists: they spare bytes, and never a change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from bridge.errors import RequestRefused, RetryLater
from bridge.model import Collection, Document, Gone, Path
from bridge.source import conditional
from bridge.source.conditional import REST_READINGS, TRIES
from bridge.source.dintero import whole
from bridge.source.feed import ETAG, Cursor, Feed, without_etag
from bridge.source.transport import Request, Response
from tests.source.providing import Provider, answer, source_over
from tests.source.rows import tag_row, uid_of
from tests.support.clock import VirtualClock, run_virtual

MANY = 60
"""Tags; more bytes than is too little to be worth it."""


@dataclass
class Shop:
    """A provider of tags. names: whether its ETag follows the content, stands still, moves each time, or is absent."""

    names: str = "content"
    honours: bool = True
    rows: list[dict[str, Any]] = field(default_factory=lambda: [tag_row(id=uid_of(n)) for n in range(MANY)])
    asked: list[str | None] = field(default_factory=list)

    def __call__(self, request: Request) -> Response:
        known = request.headers.get("If-None-Match")
        self.asked.append(known)
        body = orjson.dumps(self.rows)
        names = {"content": str(hash(body)), "still": "same", "moving": str(len(self.asked))}
        if self.names not in names:
            return answer(body)
        etag = f'W/"{names[self.names]}"'
        if self.honours and known == etag:
            return Response(304, {"etag": etag}, b"")
        return answer(body, etag=etag)


def tags_of(shop: Any, clock: VirtualClock) -> Feed:
    return source_over(Provider(shop), clock).feeds[Collection.TAGS]


async def read(feed: Feed, cursor: Cursor | None, times: int) -> Cursor:
    for _ in range(times):
        cursor = (await feed.page(cursor)).cursor
    assert cursor is not None
    return cursor


def test_a_list_that_is_unchanged_is_a_page_that_is_complete_and_proves_no_absence() -> None:
    async def main(clock: VirtualClock) -> None:
        feed = tags_of(Shop(), clock)
        first = await feed.page(None)
        assert len(first.documents) == MANY
        await clock.sleep(5)
        page = await feed.page(first.cursor)
        assert (page.documents, page.gone, page.rejects, page.whole, page.more) == ((), (), (), False, False)
        assert (page.path, page.cursor, page.caught_up_to) == (Path.POLL, first.cursor, clock.wall())
        assert orjson.loads(orjson.dumps(page.cursor)) == page.cursor

    run_virtual(main)


def test_a_change_is_shown_as_ever_and_the_next_page_asks_for_what_came_after_it() -> None:
    async def main(clock: VirtualClock) -> None:
        shop = Shop()
        feed = tags_of(shop, clock)
        cursor = await read(feed, None, 2)
        shop.rows[3] = tag_row(id=uid_of(3), tag="New")
        page = await feed.page(cursor)
        assert page.whole
        assert page.documents[3].body["name"] == "New"
        assert page.cursor != cursor
        assert (await feed.page(page.cursor)).documents == ()
        # What was read but is not in the cursor, because its commit was lost, is shown again.
        assert (await feed.page(cursor)).whole

    run_virtual(main)


@pytest.mark.parametrize(("names", "honours"), [("content", False), ("moving", True)])
def test_a_provider_that_never_says_unchanged_is_soon_asked_plainly_and_its_cursor_stands_still(
    names: str, honours: bool
) -> None:
    async def main(clock: VirtualClock) -> None:
        shop = Shop(names, honours)
        feed = tags_of(shop, clock)
        cursor = await read(feed, None, 1 + TRIES)
        assert [known is not None for known in shop.asked] == [False] + [True] * TRIES
        assert cursor == {"mode": "list"}
        shop.asked.clear()
        for _ in range(REST_READINGS - 1):
            cursor = await read(feed, cursor, 1)
            assert cursor == {"mode": "list"}
        assert set(shop.asked) == {None}
        await read(feed, cursor, 2)
        assert shop.asked[-1] is not None

    run_virtual(main)


@pytest.mark.parametrize(
    "etag", [None, "unquoted", 'W/"two words"', 'W/"\x7f"', 'W/"' + "x" * 300 + '"', 'W/"é"', '""']
)
def test_an_etag_that_is_none_or_cannot_be_sent_back_is_left_alone(etag: str | None) -> None:
    async def main(clock: VirtualClock) -> None:
        asked: list[str | None] = []

        def play(request: Request) -> Response:
            asked.append(request.headers.get("If-None-Match"))
            plain = answer(Shop().rows)
            return plain if etag is None else Response(200, {**plain.headers, "etag": etag}, plain.body)

        assert await read(tags_of(play, clock), None, 3) == {"mode": "list"}
        assert asked == [None, None, None]

    run_virtual(main)


def test_a_small_list_is_not_worth_the_trouble() -> None:
    async def main(clock: VirtualClock) -> None:
        shop = Shop(rows=[tag_row()])
        assert await read(tags_of(shop, clock), None, 3) == {"mode": "list"}
        assert shop.asked == [None, None, None]

    run_virtual(main)


def test_a_new_process_looks_for_itself_once() -> None:
    async def main(clock: VirtualClock) -> None:
        shop = Shop()
        cursor = await read(tags_of(shop, clock), None, 2)
        feed = tags_of(shop, clock)
        assert (await feed.page(cursor)).whole
        assert not (await feed.page(cursor)).whole

    run_virtual(main)


def test_what_another_release_or_another_account_left_behind_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: VirtualClock) -> None:
        shop = Shop()
        cursor = await read(tags_of(shop, clock), None, 2)
        monkeypatch.setattr(whole, "__version__", "0.0.0")
        feed = tags_of(shop, clock)
        await feed.page(None)  # it has measured, and would ask
        assert (await feed.page(cursor)).whole

    run_virtual(main)


def test_a_sweep_shows_everything_and_is_over_with_one_page() -> None:
    async def main(clock: VirtualClock) -> None:
        shop = Shop("still")
        feed = tags_of(shop, clock)
        cursor = await read(feed, None, 2)
        shop.rows[3] = tag_row(id=uid_of(3), tag="New")
        assert not (await feed.page(cursor)).documents  # the ETag lies
        begin = feed.sweep(cursor)
        assert begin is not None
        page = await feed.page(begin)
        assert (page.path, page.whole, page.complete, page.more) == (Path.SWEEP, True, True, False)
        assert page.documents[3].body["name"] == "New"
        # ... and who was caught at it is not asked conditionally again.
        shop.asked.clear()
        assert await read(feed, cursor, 3 * REST_READINGS) == {"mode": "list"}
        assert set(shop.asked) == {None}

    run_virtual(main)


def test_polls_that_show_everything_need_no_sweep() -> None:
    async def main(clock: VirtualClock) -> None:
        feed = tags_of(Shop("none"), clock)
        assert feed.sweep(await read(feed, None, 2)) is None

    run_virtual(main)


def test_another_order_under_the_same_name_is_no_lie() -> None:
    async def main(clock: VirtualClock) -> None:
        shop = Shop("still")
        feed = tags_of(shop, clock)
        cursor = await read(feed, None, 2)
        shop.rows.reverse()
        await feed.page({"mode": "sweep"})
        assert not (await feed.page(cursor)).whole

    run_virtual(main)


def test_confirming_reads_ask_without_condition() -> None:
    async def main(clock: VirtualClock) -> None:
        shop = Shop()
        feed = tags_of(shop, clock)
        cursor = await read(feed, None, 2)
        shop.asked.clear()
        found = await feed.fetch([Document(uid_of(1), {}, 0), Document(uid_of(MANY), {}, 0)])
        assert shop.asked == [None]
        assert [isinstance(answer, Gone) for answer in found.values()] == [False, True]
        await feed.page(cursor)

    run_virtual(main)


def test_a_list_with_a_row_that_could_be_anything_is_not_referred_to() -> None:
    async def main(clock: VirtualClock) -> None:
        shop = Shop()
        del shop.rows[3]["id"]
        assert await read(tags_of(shop, clock), None, 3) == {"mode": "list"}
        assert shop.asked == [None, None, None]

    run_virtual(main)


@pytest.mark.parametrize(("status", "error"), [(400, RequestRefused), (412, RequestRefused), (500, RetryLater)])
def test_a_provider_that_chokes_on_the_condition_is_read_without_it(status: int, error: type[Exception]) -> None:
    async def main(clock: VirtualClock) -> None:
        shop = Shop()

        def play(request: Request) -> Response:
            return answer({}, status) if "If-None-Match" in request.headers else shop(request)

        feed = tags_of(play, clock)
        cursor = await read(feed, None, 1)
        with pytest.raises(error):
            await feed.page(cursor)
        assert (await feed.page(cursor)).whole

    run_virtual(main)


def test_unchanged_that_nobody_asked_for_is_an_error() -> None:
    async def main(clock: VirtualClock) -> None:
        feed = tags_of(lambda _: Response(304, {"etag": 'W/"a"'}, b""), clock)
        for cursor in (None, {"mode": "list"}, {"mode": "sweep"}):
            with pytest.raises(RequestRefused):
                await feed.page(cursor)

    run_virtual(main)


def test_the_condition_outlives_a_new_login() -> None:
    async def main(clock: VirtualClock) -> None:
        shop = Shop()
        refused: list[Request] = []

        def play(request: Request) -> Response:
            if "If-None-Match" in request.headers and not refused:
                refused.append(request)
                return answer({}, 401)
            return shop(request)

        feed = tags_of(play, clock)
        page = await feed.page(await read(feed, None, 1))
        assert (page.whole, page.caught_up_to) == (False, clock.wall())

    run_virtual(main)


def test_a_cursor_without_its_etag_is_the_same_position() -> None:
    cursor = {"mode": "list", ETAG: {"name": "x"}, "@sweep": {"at": 1.0}}
    assert without_etag(cursor) == {"mode": "list", "@sweep": {"at": 1.0}}
    assert ETAG in cursor
    plain: Cursor = {"mode": "list"}
    assert without_etag(plain) is plain
    assert len(orjson.dumps(Shop().rows)) > conditional.SAVED_BYTES_MIN
