"""The customer list of an organization: polls that lose nothing, glances, and what became of those who are gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bridge.errors import AccessDenied, AnswerTooLarge, Malformed, RequestRefused, RetryLater, SourceError
from bridge.model import Document, Fate, Gone, Merged, Path
from bridge.source.feed import Feed, Page
from bridge.source.memberships import Untold
from bridge.source.rebilly.boxes import SECOND
from bridge.source.rebilly.lookup import RECENT_MAX
from bridge.source.transport import Request, Response
from tests.source.mirror import Mirror
from tests.source.providing import answer
from tests.source.rebilly.organization import CUSTOMERS, START, Organization, Ways
from tests.source.rebilly.test_boxes import pages_from, shown
from tests.support.clock import VirtualClock, run_virtual

Case = Callable[[Organization, Mirror], Awaitable[None]]


def play(case: Case, customers: int = 20, **ways: Any) -> None:
    """With an organization whose customers have been read once. `Any`: fields of `Ways`."""

    async def main(clock: VirtualClock) -> None:
        organization = Organization(clock, Ways(**ways))
        for number in range(customers):
            organization.create(f"cus_{number}", START - (5000 - number) * SECOND, email=f"{number}@example.com")
        mirror = Mirror(organization.source().customers, clock)
        await mirror.settle()
        organization.requests.clear()
        await case(organization, mirror)

    run_virtual(main)


def test_the_first_reading_asks_for_everything_once_and_for_changes_behind_it() -> None:
    async def case(organization: Organization, mirror: Mirror) -> None:
        assert set(mirror.documents) == organization.customers.keys()
        await mirror.read()
        assert organization.queries() == [
            {"filter": "updatedTime:2027-01-15T06:36:49Z..", "sort": "updatedTime", "limit": "1000"}
        ]
        assert [page.path for page in mirror.pages] == [Path.SNAPSHOT, Path.POLL, Path.POLL]

    play(case)


def test_a_row_that_comes_twice_stands_for_no_other() -> None:
    """Found by the simulator (I7): four rows and one of them once more were taken for all five that match."""

    async def case(organization: Organization, mirror: Mirror) -> None:
        assert set(mirror.documents) == organization.customers.keys()
        for number in range(11):
            organization.edit(f"cus_{number}", firstName="New")
            await organization.clock.sleep(1.0)
        await mirror.settle()
        assert [mirror.documents[f"cus_{number}"].body["first_name"] for number in range(11)] == ["New"] * 11

    play(case, customers=11, limit_max=10, repeats=True)


@pytest.mark.parametrize("precision", ["seconds", "microseconds", "offset"])
@pytest.mark.parametrize("skew_s", [0.0, None, -600.0, 600.0])
def test_every_change_is_polled_whatever_the_servers_clock_says(precision: str, skew_s: float | None) -> None:
    async def case(organization: Organization, mirror: Mirror) -> None:
        for number in range(20):
            await mirror.clock.sleep(7.3)
            organization.edit(f"cus_{number}", firstName=f"name {number}")
            organization.create(f"new_{number}")
            await mirror.read()
            assert mirror.documents[f"cus_{number}"].body["first_name"] == f"name {number}"
            assert f"new_{number}" in mirror.documents
        await mirror.clock.sleep(900)
        assert (await mirror.settle()).caught_up_to is not None

    play(case, precision=precision, date_skew_s=skew_s)


def test_a_change_that_becomes_visible_late_is_found_within_the_overlap() -> None:
    async def case(organization: Organization, mirror: Mirror) -> None:
        await mirror.clock.sleep(100)
        late = organization.now()
        await mirror.clock.sleep(4)
        organization.edit("cus_1", firstName="In time")
        await mirror.read()
        organization.edit("cus_2", at=late, firstName="Late")
        await mirror.clock.sleep(5)
        await mirror.read()
        assert mirror.documents["cus_2"].body["first_name"] == "Late"

    play(case)


def test_polls_stop_re_reading_the_last_changes_when_nothing_more_can_be_late() -> None:
    async def case(organization: Organization, mirror: Mirror) -> None:
        await mirror.clock.sleep(60)
        organization.edit("cus_1", firstName="Last")
        await mirror.read()
        await mirror.clock.sleep(60)
        await mirror.read()
        await mirror.read()
        assert organization.queries()[-1]["filter"] == "updatedTime:2027-01-15T08:01:00Z.."
        assert [document.uid for document in mirror.pages[-1].documents] == ["cus_1"]

    play(case)


def test_a_row_dated_9999_ends_no_polling_and_outranks_nothing() -> None:
    async def case(organization: Organization, mirror: Mirror) -> None:
        organization.edit("cus_1", at=253_402_300_000 * SECOND, firstName="Far")
        await mirror.read()
        assert mirror.documents["cus_1"].version == 0
        await mirror.clock.sleep(5)
        organization.edit("cus_1", firstName="Near")
        organization.edit("cus_2", firstName="Near")
        await mirror.read()
        assert {mirror.documents[uid].body["first_name"] for uid in ("cus_1", "cus_2")} == {"Near"}

    play(case)


def test_an_empty_list_where_rows_had_to_be_is_believed_when_it_comes_twice() -> None:
    async def case(organization: Organization, mirror: Mirror) -> None:
        lapses = [True]

        def lapse(request: Request) -> Response | None:
            return answer([], pagination_total="0") if lapses and lapses.pop() else None

        organization.answers.append(lapse)
        cursor = mirror.feed.sweep(mirror.cursor or {})
        pages: list[Page] = []
        while not (pages and pages[-1].complete):
            pages.append(await mirror.feed.page(cursor))
            cursor = pages[-1].cursor
        assert shown(pages) == organization.customers.keys()
        lapses.append(True)
        await mirror.clock.sleep(5)
        organization.edit("cus_1", firstName="Seen")
        await mirror.read()
        assert mirror.documents["cus_1"].body["first_name"] == "Seen"

    play(case)


def test_a_row_without_an_id_may_be_any_customers_change_so_nothing_is_claimed() -> None:
    async def case(organization: Organization, mirror: Mirror) -> None:
        organization.create("cus_x")["id"] = None
        await mirror.clock.sleep(5)
        assert (await mirror.read()).caught_up_to is None
        organization.customers["cus_x"]["id"] = "cus_x"
        assert (await mirror.read()).caught_up_to is not None

    play(case)


@pytest.mark.parametrize(
    "bad",
    [
        answer({}, pagination_total="1"),
        answer([]),
        answer([{"id": "cus_1"}], pagination_total="many"),
        answer([], pagination_total="5"),
        answer([{"id": "cus_1"}], pagination_total="5"),
        answer(b"<html>", 200),
    ],
)
def test_a_shape_that_nobody_declared_is_an_error_and_never_an_end(bad: Response) -> None:
    async def case(organization: Organization, mirror: Mirror) -> None:
        organization.answers.append(lambda request: bad)
        with pytest.raises(Malformed):
            await mirror.read()

    play(case)


def test_answers_that_are_too_large_are_asked_for_in_smaller_pieces() -> None:
    async def case(organization: Organization, mirror: Mirror) -> None:
        def heavy(request: Request) -> Response | None:
            if request.path == CUSTOMERS and int(dict(request.query)["limit"]) > 10:
                raise AnswerTooLarge("no answer: its body is too large")
            return None

        organization.answers.append(heavy)
        for uid in organization.customers:
            organization.edit(uid, firstName="Heavy")
        failures = 0
        while {document.body.get("first_name") for document in mirror.documents.values()} != {"Heavy"}:
            try:
                await mirror.read()
            except AnswerTooLarge:
                failures += 1
        assert failures == 7  # 1000, 500, 250, 125, 62, 31, 15

    play(case)


def test_familiar_rows_are_not_looked_into() -> None:
    async def case(organization: Organization, mirror: Mirror) -> None:
        organization.add_tag("tag_1", "VIP")
        organization.tag("cus_1", "tag_1", moves=True)
        page = await mirror.feed.page(mirror.cursor)
        known = dict(page.fingerprints)
        assert set(known) == {document.uid for document in page.documents} > {"cus_1"}
        assert page.tags["cus_1"].tags == {"tag_1": "VIP"}
        again = await mirror.feed.page(mirror.cursor, lambda asked: {u for u in asked if known.get(u) == asked[u]})
        assert (set(again.familiar), list(again.documents)) == (set(known), [])
        assert not again.tags

    play(case)


# Glances.


def test_a_glance_shows_who_is_there_and_with_which_tags_and_nothing_else() -> None:
    async def case(organization: Organization, mirror: Mirror) -> None:
        organization.add_tag("tag_1", "VIP")
        organization.tag("cus_1", "tag_1")
        cursor = organization.source().customers.glance(mirror.cursor or {})
        page = await mirror.feed.page(cursor)
        assert page.complete
        assert (len(page.familiar), list(page.documents), page.path) == (20, [], Path.SWEEP)
        assert {uid: told.tags for uid, told in page.tags.items() if told.tags} == {"cus_1": {"tag_1": "VIP"}}
        assert page.tags.keys() == organization.customers.keys()
        assert organization.queries()[-1]["fields"] == "id,revision,createdTime,updatedTime,tags"

    play(case)


def test_tags_are_told_only_if_they_are_to_be_read() -> None:
    async def main(clock: VirtualClock) -> None:
        organization = Organization(clock)
        organization.add_tag("tag_1", "VIP")
        organization.create("cus_1", tags=["tag_1"])
        source = organization.source(collections=frozenset({"customers", "tags"}))
        assert source.glances is None
        pages = await pages_from(source.customers, None)
        assert not any(page.tags for page in pages)
        assert not any("tags" in document.body for page in pages for document in page.documents)

    run_virtual(main)


def test_one_customer_is_asked_for_its_tags() -> None:
    async def case(organization: Organization, mirror: Mirror) -> None:
        organization.add_tag("tag_1", "VIP")
        organization.tag("cus_1", "tag_1")
        customers = organization.source().customers
        known = mirror.documents["cus_1"]
        assert await customers.tags(known, urgent=True) == frozenset({"tag_1"})
        organization.merge("cus_1", "cus_2")
        for merged in ("404", "301", "survivor"):
            organization.ways.merged = merged
            assert await customers.tags(known, urgent=False) is Untold.GONE
        organization.answers.append(lambda request: answer({"id": "cus_1"}))
        assert await customers.tags(known, urgent=False) is Untold.NOT_NOW

    play(case)


# Those who are gone.


async def fate(organization: Organization, feed: Feed, *uids: str) -> dict[str, Fate]:
    bodies = [Document(uid, {"uid": uid, "email": f"{uid.removeprefix('cus_')}@example.com"}, 1) for uid in uids]
    return dict(await feed.fetch(bodies))


@pytest.mark.parametrize("merged", ["404", "301", "survivor"])
def test_a_merged_customer_is_gone_into_its_survivor(merged: str) -> None:
    async def case(organization: Organization, mirror: Mirror) -> None:
        organization.customers["cus_2"]["email"] = "1@example.com"
        organization.merge("cus_1", "cus_2")
        found = await fate(organization, mirror.feed, "cus_1", "cus_2", "cus_3")
        assert found["cus_1"] == Merged("cus_2")
        assert isinstance(found["cus_2"], Document)
        assert isinstance(found["cus_3"], Document)

    play(case, merged=merged)


def test_a_survivor_with_another_address_is_among_those_that_changed_last() -> None:
    async def case(organization: Organization, mirror: Mirror) -> None:
        organization.merge("cus_1", "cus_2")
        for number in range(4, 4 + RECENT_MAX - 1):
            organization.edit(f"cus_{number}", organization.now() + SECOND)
        organization.merge("cus_3", "cus_0")
        organization.edit("cus_0", organization.now() + SECOND)
        assert await fate(organization, mirror.feed, "cus_1", "cus_3") == {
            "cus_1": Gone("cus_1", 0),  # too many have changed since
            "cus_3": Merged("cus_0"),
        }
        asked = Counter(request.path for request in organization.requests if request.path.endswith("/timeline"))
        assert len(asked) == RECENT_MAX
        assert set(asked.values()) == {1}

    play(case, customers=30)


def test_a_key_that_may_not_see_timelines_stops_no_deletion() -> None:
    async def case(organization: Organization, mirror: Mirror) -> None:
        organization.merge("cus_1", "cus_2")
        organization.answers.append(lambda r: answer({}, 403) if r.path.endswith("/timeline") else None)
        assert await fate(organization, mirror.feed, "cus_1") == {"cus_1": Gone("cus_1", 0)}

    play(case)


def test_a_filter_that_ignores_capitals_hides_nobody() -> None:
    async def case(organization: Organization, mirror: Mirror) -> None:
        row = organization.customers["cus_1"]
        both = answer([row, {**row, "id": "CUS_1"}], pagination_total="2")
        organization.answers.append(lambda r: answer({}, 404) if r.path.startswith(CUSTOMERS + "/") else None)
        organization.answers.append(lambda r: both if r.path == CUSTOMERS else None)
        assert isinstance((await fate(organization, mirror.feed, "cus_1"))["cus_1"], Document)
        other = answer([row, {**row, "id": "cus_2"}], pagination_total="2")
        organization.answers[-1] = lambda r: other if r.path == CUSTOMERS else None
        with pytest.raises(Malformed):
            await fate(organization, mirror.feed, "cus_1")

    play(case)


def test_a_survivor_that_nobody_names_is_not_guessed() -> None:
    async def case(organization: Organization, mirror: Mirror) -> None:
        organization.customers["cus_2"]["email"] = "1@example.com"
        organization.merge("cus_1", "cus_2")
        assert await fate(organization, mirror.feed, "cus_1") == {"cus_1": Gone("cus_1", 0)}

    play(case, tells_merges=False)


@pytest.mark.parametrize("merged", ["404", "301", "survivor"])
def test_a_survivor_that_is_merged_again_is_the_survivor_all_the_same(merged: str) -> None:
    async def case(organization: Organization, mirror: Mirror) -> None:
        organization.merge("cus_1", "cus_2")
        organization.merge("cus_2", "cus_3")
        found = (await fate(organization, mirror.feed, "cus_1"))["cus_1"]
        assert found in ({Merged("cus_3")} if merged == "301" else {Gone("cus_1", 0)})

    play(case, merged=merged)


def test_a_404_that_the_list_contradicts_is_no_deletion() -> None:
    async def case(organization: Organization, mirror: Mirror) -> None:
        organization.answers.append(lambda r: answer({}, 404) if r.path.startswith(CUSTOMERS + "/") else None)
        found = await fate(organization, mirror.feed, "cus_1", "cus_99")
        assert isinstance(found["cus_1"], Document)
        assert found["cus_99"] == Gone("cus_99", 0)
        [query] = [query for query in organization.queries() if query.get("filter", "").startswith("id:")]
        assert query == {"filter": "id:cus_1,cus_99", "limit": "1000"}

    play(case)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (answer({}, 403), AccessDenied),
        (answer({}, 503), RetryLater),
        (answer({}, 400), RequestRefused),
        (answer({}, 301, location="https://login.example.com/"), RequestRefused),
        (answer({}, 301, location=f"https://api.rebilly.com{CUSTOMERS}/cus_1"), RequestRefused),
        (answer({}, 302), RequestRefused),
        (answer([]), Malformed),
        (answer({"id": None}), Malformed),
    ],
)
def test_a_customer_that_cannot_be_asked_about_is_never_called_gone(bad: Response, error: type[SourceError]) -> None:
    async def case(organization: Organization, mirror: Mirror) -> None:
        organization.answers.append(lambda request: bad if request.path == f"{CUSTOMERS}/cus_1" else None)
        with pytest.raises(error):
            await fate(organization, mirror.feed, "cus_1")
        assert "cus_1" not in await fate(organization, mirror.feed, "cus_0", "cus_1", "cus_2")

    play(case)


@pytest.mark.parametrize(
    "listed",
    [answer([], pagination_total="20"), answer([], pagination_total="1"), answer([]), answer({}), answer([], 503)],
)
def test_a_list_that_cannot_be_right_calls_nobody_gone(listed: Response) -> None:
    async def case(organization: Organization, mirror: Mirror) -> None:
        organization.answers.append(lambda request: listed if request.path == CUSTOMERS else None)
        with pytest.raises(SourceError):
            await fate(organization, mirror.feed, "cus_99")

    play(case)


def test_an_id_that_a_filter_would_take_for_something_else_is_not_put_into_one() -> None:
    async def case(organization: Organization, mirror: Mirror) -> None:
        assert await fate(organization, mirror.feed, "cus_1..cus_9", "@vips") == {
            uid: Gone(uid, 0) for uid in ("cus_1..cus_9", "@vips")
        }
        assert not [query for query in organization.queries() if query.get("filter", "").startswith("id:")]

    play(case)


def test_redirects_in_a_circle_come_to_an_end() -> None:
    async def case(organization: Organization, mirror: Mirror) -> None:
        for uid, into in (("cus_1", "cus_2"), ("cus_2", "cus_1")):
            organization.customers.pop(uid)
            organization.merges[uid] = into
        with pytest.raises(Malformed, match="without an end"):
            await fate(organization, mirror.feed, "cus_1")

    play(case, merged="301")


def test_a_row_that_its_model_refuses_is_there_all_the_same() -> None:
    async def case(organization: Organization, mirror: Mirror) -> None:
        organization.customers["cus_1"]["revision"] = "seven"
        found = await fate(organization, mirror.feed, "cus_1")
        assert isinstance(found["cus_1"], Document)
        assert found["cus_1"].version == 1

    play(case)
