"""TagsFeed: the whole list each time, and no deletion without a second list."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.errors import Malformed, RetryLater
from bridge.model import Collection, Document, Gone, Path
from bridge.source.feed import Feed
from tests.source.providing import TAGS, Provider, answer, source_over
from tests.source.rows import tag_row, uid_of
from tests.support.clock import VirtualClock, run_virtual


def tags_of(provider: Any, clock: VirtualClock) -> Feed:
    return source_over(provider, clock).feeds[Collection.TAGS]


def known(*numbers: int) -> list[Document]:
    return [Document(uid_of(number), {"uid": uid_of(number), "name": "VIP"}, 0) for number in numbers]


def test_the_whole_list_is_one_page_and_the_cursor_stands_still() -> None:
    async def main(clock: VirtualClock) -> None:
        provider = Provider(
            lambda request: answer([tag_row(id=uid_of(1)), tag_row(id=uid_of(2), deleted_at="2026-01-01T00:00:00Z")])
        )
        feed = tags_of(provider, clock)
        first = await feed.page(None)
        again = await feed.page(first.cursor)
        assert (first.path, again.path) == (Path.SNAPSHOT, Path.POLL)
        assert again.cursor == first.cursor
        for page in (first, again):
            assert page.whole
            assert not page.more
            assert page.caught_up_to == clock.wall()
            assert [document.uid for document in page.documents] == [uid_of(1)]
            assert [gone.uid for gone in page.gone] == [uid_of(2)]
        assert {request.path for request in provider.requests} == {TAGS}
        assert provider.requests[0].query == ()

    run_virtual(main)


def test_a_row_without_an_id_makes_the_list_incomplete() -> None:
    async def main(clock: VirtualClock) -> None:
        bad = tag_row(id=uid_of(1), tag=7)
        page = await tags_of(Provider(lambda request: answer([bad])), clock).page(None)
        assert page.whole
        assert [reject.uid for reject in page.rejects] == [uid_of(1)]
        del bad["id"]
        page = await tags_of(Provider(lambda request: answer([bad])), clock).page(None)
        assert not page.whole

    run_virtual(main)


def test_an_empty_list_once_deletes_nothing() -> None:
    async def main(clock: VirtualClock) -> None:
        replies = [answer([]), answer([tag_row(id=uid_of(1))])]
        provider = Provider(lambda request: replies.pop(0))
        feed = tags_of(provider, clock)
        page = await feed.page({"mode": "list"})
        assert page.whole
        assert not page.documents
        found = await feed.fetch(known(1))
        assert isinstance(found[uid_of(1)], Document)

    run_virtual(main)


def test_confirming_takes_one_request_whatever_the_number() -> None:
    async def main(clock: VirtualClock) -> None:
        rows = [
            tag_row(id=uid_of(1), tag="New"),
            tag_row(id=uid_of(2), deleted_at="2026-01-01T00:00:00Z"),
            tag_row(id=uid_of(3), tag=7),
        ]
        provider = Provider(lambda request: answer(rows))
        suspects = known(1, 2, 3, 4)
        feed = tags_of(provider, clock)
        found = await feed.fetch(suspects)
        document = found[uid_of(1)]
        assert isinstance(document, Document)
        assert document.body["name"] == "New"
        assert (found[uid_of(2)], found[uid_of(4)]) == (Gone(uid_of(2), 0), Gone(uid_of(4), 0))
        assert found[uid_of(3)] == suspects[2]
        assert len(provider.requests) == 1
        assert await feed.fetch([]) == {}

    run_virtual(main)


@pytest.mark.parametrize("value", [None, {}, "x", 7])
def test_a_list_that_is_none_confirms_nothing(value: object) -> None:
    async def main(clock: VirtualClock) -> None:
        feed = tags_of(Provider(lambda request: answer(value)), clock)
        with pytest.raises(Malformed):
            await feed.page(None)
        with pytest.raises(Malformed):
            await feed.fetch(known(1))

    run_virtual(main)


def test_a_row_that_could_be_any_tag_confirms_nothing() -> None:
    async def main(clock: VirtualClock) -> None:
        with pytest.raises(Malformed):
            await tags_of(Provider(lambda request: answer([{"tag": "VIP"}])), clock).fetch(known(1))

    run_virtual(main)


def test_a_failed_list_confirms_nothing() -> None:
    async def main(clock: VirtualClock) -> None:
        with pytest.raises(RetryLater):
            await tags_of(Provider(lambda request: answer({}, 503)), clock).fetch(known(1))

    run_virtual(main)
