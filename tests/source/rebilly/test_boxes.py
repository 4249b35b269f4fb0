"""Boxes: whatever the times, however little a list shows, and whatever changes meanwhile, everybody is shown."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bridge.errors import CursorRejected, Malformed, RetryLater
from bridge.model import Collection, Path
from bridge.source.feed import Cursor, Feed, Page
from bridge.source.rebilly import listing
from bridge.source.rebilly.boxes import CREATED, SECOND, UPDATED, Box, Shown, UnknownBox, dump, left, load
from tests.source.rebilly.organization import START, Organization, Ways
from tests.support.clock import VirtualClock, run_virtual

PAGES_MAX = 600

QUICK = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


async def pages_from(feed: Feed, cursor: Cursor | None) -> list[Page]:
    """Until nothing more is to be read at once; the cursor survives JSON between any two of them."""
    pages: list[Page] = []
    while len(pages) < PAGES_MAX:
        page = await feed.page(cursor)
        pages.append(page)
        cursor = orjson.loads(orjson.dumps(page.cursor))
        assert cursor == page.cursor
        if not page.more:
            return pages
    raise AssertionError("the reading does not end")


def shown(pages: list[Page]) -> set[str]:
    return {document.uid for page in pages for document in page.documents} | {
        uid for page in pages for uid in page.familiar
    }


# One step.


def test_a_box_says_in_the_providers_words_what_it_holds() -> None:
    assert Box(CREATED).filter is None
    assert Box(UPDATED, START).filter == "updatedTime:2027-01-15T08:00:00Z.."
    assert Box(UPDATED, 0, START).filter == "updatedTime:..2027-01-15T08:00:00Z"
    assert (
        Box(CREATED, START, START + SECOND, burst=START + 1).filter
        == "createdTime:2027-01-15T08:00:00Z..2027-01-15T08:00:01Z;"
        "updatedTime:2027-01-15T08:00:00.000001Z..2027-01-15T08:00:01.000001Z"
    )


def test_what_is_shown_whole_leaves_nothing_over() -> None:
    assert left(Box(CREATED), Shown([1, 2], 2, 2, START)) == ()
    assert left(Box(CREATED), Shown([], 0, 0, START)) == ()


def test_an_ascending_page_is_gone_on_from_its_last_instant() -> None:
    assert left(Box(CREATED), Shown([5, 5, 9], 3, 4, START)) == (Box(CREATED, 9),)
    assert left(Box(CREATED, 5, 20), Shown([5, 9], 2, 4, START)) == (Box(CREATED, 9, 20),)


def test_a_page_without_an_order_is_halved() -> None:
    low, high = START, START + 10 * SECOND
    halves = (Box(CREATED, low, low + 5 * SECOND), Box(CREATED, low + 5 * SECOND, high))
    assert left(Box(CREATED, low, high), Shown([low + 9, low], 2, 4, START)) == halves


def test_a_second_that_fills_a_page_is_cut_along_the_other_axis() -> None:
    rest = Box(UPDATED, START + SECOND)
    assert left(Box(UPDATED, START), Shown([START, START], 2, 4, START)) == (Box(CREATED, burst=START), rest)


def test_a_second_of_both_axes_is_a_heap() -> None:
    box = Box(CREATED, START, burst=START)
    heap = Box(CREATED, START, START + SECOND, burst=START, heap=True)
    rest = Box(CREATED, START + SECOND, burst=START)
    assert left(box, Shown([START, START], 2, 4, START)) == (heap, rest)


def test_a_provider_that_does_not_obey_the_filter_is_not_believed() -> None:
    with pytest.raises(Malformed, match="filter"):
        left(Box(CREATED, START), Shown([START - SECOND], 1, 1, START))


@given(
    st.lists(
        st.builds(
            Box,
            st.sampled_from([CREATED, UPDATED]),
            st.integers(0, 2**53),
            st.none() | st.integers(0, 2**53),
            st.none() | st.integers(0, 2**53),
            st.booleans(),
        )
    )
)
def test_boxes_survive_a_cursor(boxes: list[Box]) -> None:
    assert load(orjson.loads(orjson.dumps(dump(boxes)))) == tuple(boxes)


@pytest.mark.parametrize("stored", [None, 1, [1], [["x", 0, None, None, False]], [["createdTime", "0"]], [[]]])
def test_what_is_no_box_is_refused(stored: Any) -> None:
    with pytest.raises(UnknownBox):
        load(stored)


@pytest.mark.parametrize("cursor", [{}, {"mode": "x"}, {"mode": "sweep", "path": "sweep"}, {"mode": "poll", "x": 1}])
def test_a_position_of_somebody_else_is_refused(cursor: Cursor) -> None:
    async def main(clock: VirtualClock) -> None:
        with pytest.raises(CursorRejected):
            await Organization(clock).source().customers.page(cursor)

    run_virtual(main)


# Everybody is shown.

TIMES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=40)
"""Created and updated, in thirds of seconds: many in the same second, and many at the same instant."""

WAYS = st.builds(
    Ways,
    limit_max=st.integers(1, 12),
    reach=st.just(30),
    shuffles=st.booleans(),
    precision=st.sampled_from(["seconds", "microseconds", "offset"]),
    date_skew_s=st.sampled_from([0.0, None, -3600.0, 7200.0]),
)


def settled(clock: VirtualClock, ways: Ways, times: list[tuple[int, int]]) -> Organization:
    """E-mails are all different, so both ends of that order show everybody in a heap."""
    organization = Organization(clock, ways)
    for number, (created, updated) in enumerate(times):
        at = START - 10_000 * SECOND + created * SECOND // 3
        row = organization.create(f"cus_{number}", at, email=f"{number:03}@example.com", lastName=None)
        row["updatedTime"] = at + updated * SECOND // 3
    return organization


def within_reach(monkeypatch: pytest.MonkeyPatch, ways: Ways) -> None:
    monkeypatch.setattr(listing, "OFFSET_MAX", ways.reach)


@given(TIMES, WAYS)
@example([(0, 0)] * 40, Ways(limit_max=1, reach=30))
@QUICK
def test_a_complete_reading_shows_everybody_and_ends(times: list[tuple[int, int]], ways: Ways) -> None:
    async def main(clock: VirtualClock) -> None:
        organization = settled(clock, ways, times)
        feed = organization.source().customers
        pages = await pages_from(feed, None)
        assert shown(pages) == organization.customers.keys()
        if pages[-1].caught_up_to is None:  # many of the latest second, which was not over for all we know
            await clock.sleep(5)
            pages += await pages_from(feed, pages[-1].cursor)
        assert pages[-1].caught_up_to is not None
        assert {page.path for page in pages} == {Path.SNAPSHOT, Path.POLL}
        assert [page.path for page in pages if page.complete] == [Path.SNAPSHOT]

    with pytest.MonkeyPatch.context() as patched:
        within_reach(patched, ways)
        run_virtual(main)


def test_a_list_that_is_not_sorted_is_halved_until_its_pieces_are_shown_whole() -> None:
    async def main(clock: VirtualClock) -> None:
        organization = Organization(clock, Ways(limit_max=10, sorts=False))
        for number in range(200):
            organization.create(f"cus_{number}", START - (300 - number) * SECOND)
        pages = await pages_from(organization.source().customers, None)
        assert shown(pages) == organization.customers.keys()
        assert pages[-1].caught_up_to is not None

    run_virtual(main)


@given(st.data(), WAYS)
@QUICK
def test_whatever_changes_while_a_reading_is_under_way_everybody_and_every_change_is_shown(
    data: st.DataObject, ways: Ways
) -> None:
    """Between any two requests customers are created, edited and merged away; those who stay must be shown, as they
    are in the end."""
    ways.limit_max, ways.date_skew_s = max(3, ways.limit_max), 0.0
    times = data.draw(TIMES)
    moves = data.draw(st.lists(st.tuples(st.sampled_from("ceem"), st.integers(0, 60)), max_size=40))

    async def main(clock: VirtualClock) -> None:
        organization = settled(clock, ways, times)
        organization.create("cus_last", START - 10_000 * SECOND, email="last@example.com")
        feed = organization.source().customers
        known: dict[str, Any] = {}
        pending = list(moves)

        def happen() -> None:
            clock.step(0.4)
            if not pending:
                return
            kind, number = pending.pop()
            uid = f"cus_{number}"
            if kind == "c":
                organization.customers.setdefault(uid, organization.create(uid, email=f"{number:03}@example.com"))
            elif uid in organization.customers:
                if kind == "e":
                    organization.edit(uid, firstName=f"name {len(pending)}")
                else:
                    organization.merge(uid, "cus_last")

        organization.before = happen
        cursor: Cursor | None = None
        for _ in range(PAGES_MAX):
            try:
                page = await feed.page(cursor)
            except RetryLater:
                continue
            cursor = page.cursor
            known |= {document.uid: document.body.get("first_name") for document in page.documents}
            if page.caught_up_to is not None and not pending:
                break
            if not page.more:
                await clock.sleep(5)
        else:
            raise AssertionError("the reading does not end")
        names = {uid: row.get("firstName") for uid, row in organization.customers.items()}
        assert {uid: name for uid, name in known.items() if uid in names} == names

    with pytest.MonkeyPatch.context() as patched:
        within_reach(patched, ways)
        run_virtual(main)


@given(TIMES, WAYS, st.sampled_from(["sweep", "glance"]))
@QUICK
def test_a_sweep_and_a_glance_show_everybody_who_stays(times: list[tuple[int, int]], ways: Ways, kind: str) -> None:

    async def main(clock: VirtualClock) -> None:
        organization = settled(clock, ways, times)
        feed = organization.source().customers
        cursor = (await pages_from(feed, None))[-1].cursor
        gone = iter([uid for number, uid in enumerate(organization.customers) if number % 3 == 0])

        def vanish() -> None:
            if len(organization.customers) > 1 and (uid := next(gone, None)) is not None:
                del organization.customers[uid]

        organization.before = vanish
        cursor = feed.sweep(cursor) if kind == "sweep" else feed.glance(cursor)
        seen: set[str] = set()
        for _ in range(PAGES_MAX):
            try:
                page = await feed.page(cursor)
            except RetryLater:
                continue
            assert page.path is Path.SWEEP
            assert not (kind == "glance" and page.documents)
            seen |= shown([page])
            cursor = page.cursor
            if page.complete:
                break
        assert seen >= organization.customers.keys()

    with pytest.MonkeyPatch.context() as patched:
        within_reach(patched, ways)
        run_virtual(main)


def test_more_rows_of_one_second_than_can_be_reached_are_said_and_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: VirtualClock) -> None:
        organization = settled(clock, Ways(limit_max=2, reach=2), [(0, 0)] * 40)
        with pytest.raises(Malformed, match=r"40 rows have the same times, and only \d+ of them can be reached"):
            await pages_from(organization.source().customers, None)

    monkeypatch.setattr(listing, "OFFSET_MAX", 2)
    run_virtual(main)


def test_one_bulk_job_of_3000_customers_in_a_second_is_read_by_the_other_axis() -> None:
    async def main(clock: VirtualClock) -> None:
        organization = Organization(clock, Ways())
        for number in range(3000):
            organization.create(f"cus_{number}", START - (10_000 - number) * SECOND)
        feed = organization.source().customers
        cursor = (await pages_from(feed, None))[-1].cursor
        await clock.sleep(60)
        for uid in organization.customers:
            organization.edit(uid, firstName="Bulk")
        await clock.sleep(30)
        organization.requests.clear()
        pages = await pages_from(feed, cursor)
        assert len({d.uid for page in pages for d in page.documents if d.body.get("first_name") == "Bulk"}) == 3000
        assert len(organization.requests) <= 9
        await clock.sleep(60)
        again = await pages_from(feed, pages[-1].cursor)
        assert again[-1].caught_up_to is not None
        organization.requests.clear()
        await pages_from(feed, again[-1].cursor)
        assert len(organization.requests) <= 9
        assert all("offset" not in query for query in organization.queries())

    run_virtual(main)


def test_a_second_that_is_not_over_is_claimed_only_by_a_later_run() -> None:
    async def main(clock: VirtualClock) -> None:
        organization = Organization(clock, Ways(limit_max=3))
        for number in range(9):
            organization.create(f"cus_{number}", START - 1000 * SECOND + number)
        feed = organization.source().customers
        cursor = (await pages_from(feed, None))[-1].cursor
        await clock.sleep(60)
        for uid in organization.customers:
            organization.edit(uid, firstName="Bulk")
        early = (await pages_from(feed, cursor))[-1]
        assert early.caught_up_to is None
        await clock.sleep(5)
        assert (await pages_from(feed, early.cursor))[-1].caught_up_to is not None

    run_virtual(main)


def test_tags_beyond_what_the_list_shows_are_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: VirtualClock) -> None:
        organization = Organization(clock, Ways(limit_max=7, reach=30))
        within_reach(monkeypatch, organization.ways)
        for number in range(60):
            organization.add_tag(f"tag_{number}", f"name {number:02}", at=START - (60 - number) // 20 * SECOND)
        organization.add_tag("aml", "other", "aml-check")
        page = await organization.source().feeds[Collection.TAGS].page(None)
        assert {document.uid for document in page.documents} == {f"tag_{number}" for number in range(60)}
        assert page.whole
        assert page.caught_up_to == clock.wall()

    run_virtual(main)
