"""RebillySettings and the built source: what is refused before anything is sent, credentials, limits, tags."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from bridge.errors import AccessDenied, Malformed, RetryLater
from bridge.model import Account, Collection, Document, Gone
from bridge.source.rebilly import RebillySettings
from bridge.source.transport import Request, Response
from tests.source.providing import answer
from tests.source.rebilly.organization import ACCOUNT, CUSTOMERS, KEY, TAGS, Organization
from tests.support.clock import WALL_START, VirtualClock, run_virtual

GOOD: dict[str, Any] = {"source": "acme", "account": ACCOUNT, "api_key": KEY}


@pytest.mark.parametrize(
    "fields",
    [
        {"source": "Acme"},
        {"account": ""},
        {"account": ".."},
        {"account": "a/b"},
        {"account": "org 1"},
        {"api_key": ""},
        {"api_key": f"{KEY}\n"},
        {"api_key": f"{KEY} "},
        {"api_key": f"{KEY}ä"},
        {"api_key": [KEY]},
        {"base_url": "http://api.example.com"},
        {"page_limit": 0},
        {"page_limit": 1001},
        {"poll_overlap_s": 0},
        {"collections": ["users"]},
        {"client_secret": KEY},
    ],
)
def test_a_bad_setting_is_refused_without_being_shown(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        RebillySettings(**GOOD | fields)
    assert KEY not in str(caught.value)
    assert KEY not in repr(caught.value)


def test_a_good_setting_is_taken_and_the_key_is_hidden() -> None:
    settings = RebillySettings(**GOOD, base_url="http://127.0.0.1:8080/x")
    for text in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert KEY not in text


def test_a_source_knows_its_account_and_its_feeds_and_closes_its_transport() -> None:
    async def main(clock: VirtualClock) -> None:
        organization = Organization(clock)
        source = organization.source()
        assert source.account == Account("acme", "rebilly", ACCOUNT)
        assert source.account.uri == "/rebilly/org_1"
        assert source.feeds.keys() == {Collection.CUSTOMERS, Collection.TAGS}
        assert (source.memberships, source.glances) == (None, source.customers)
        assert not organization.requests
        await source.close()
        assert organization.closed == 1

    run_virtual(main)


def test_logging_in_tries_the_right_to_read_each_list() -> None:
    async def main(clock: VirtualClock) -> None:
        organization = Organization(clock)
        await organization.source().login()
        assert [request.path for request in organization.requests] == [CUSTOMERS, TAGS]
        organization.answers.append(lambda request: answer({}, 403) if request.path == TAGS else None)
        with pytest.raises(AccessDenied):
            await organization.source().login()
        await organization.source(collections=frozenset({"customers"})).login()

    run_virtual(main)


def test_a_key_that_is_refused_is_asked_once_and_tried_again_the_next_time() -> None:
    async def main(clock: VirtualClock) -> None:
        organization = Organization(clock)
        source = organization.source()
        organization.answers.append(lambda request: answer({"status": 401}, 401))
        for tries in (1, 2):
            with pytest.raises(AccessDenied) as caught:
                await source.customers.page(None)
            assert KEY not in str(caught.value)
            assert len(organization.requests) == tries
        organization.answers.clear()
        await source.customers.page(None)

    run_virtual(main)


def test_a_limit_is_obeyed_until_the_moment_that_the_server_names() -> None:
    async def main(clock: VirtualClock) -> None:
        organization = Organization(clock)
        source = organization.source()

        def limited(request: Request) -> Response | None:
            if clock.wall() >= WALL_START + 40:
                return None
            until = str(int(WALL_START + 40 + 7200))
            date = "Fri, 15 Jan 2027 10:00:00 GMT"  # the server's clock is two hours ahead
            return answer({"title": "Rate Limit Exceeded"}, 429, x_ratelimit_retry_after=until, date=date)

        organization.answers.append(limited)
        with pytest.raises(RetryLater) as caught:
            await source.customers.page(None)
        assert caught.value.delay_s == 40.0
        await source.customers.page(None)
        assert clock.wall() == pytest.approx(WALL_START + 40, abs=4)
        assert len(organization.requests) == 2

    run_virtual(main)


# Tags.


def test_the_tags_of_customers_are_the_whole_list_and_a_rename_keeps_the_id() -> None:
    async def main(clock: VirtualClock) -> None:
        organization = Organization(clock)
        organization.add_tag("tag_1", "VIP")
        organization.add_tag("kyc", "Passport", "kyc-document")
        feed = organization.source().feeds[Collection.TAGS]
        page = await feed.page(None)
        assert [(document.uid, document.body["name"]) for document in page.documents] == [("tag_1", "VIP")]
        assert (page.whole, page.more, page.caught_up_to) == (True, False, clock.wall())
        assert organization.queries(TAGS) == [{"filter": "type:customer", "limit": "1000"}]
        organization.tags["tag_1"]["name"] = "Very important"
        again = await feed.page(page.cursor)
        assert [(document.uid, document.body["name"]) for document in again.documents] == [("tag_1", "Very important")]
        assert feed.sweep(page.cursor) is None

    run_virtual(main)


def test_other_kinds_are_left_out_even_if_the_filter_is_not_obeyed() -> None:
    async def main(clock: VirtualClock) -> None:
        organization = Organization(clock)
        rows = [{"id": f"t{n}", "name": kind, "type": kind} for n, kind in enumerate(("customer", "aml-check"))]
        organization.answers.append(lambda request: answer(rows, pagination_total="2"))
        page = await organization.source().feeds[Collection.TAGS].page(None)
        assert [document.uid for document in page.documents] == ["t0"]
        assert page.whole

    run_virtual(main)


def test_a_tag_is_gone_when_the_list_says_so_once_more() -> None:
    async def main(clock: VirtualClock) -> None:
        organization = Organization(clock)
        organization.add_tag("tag_1", "VIP")
        feed = organization.source().feeds[Collection.TAGS]
        known = [Document(uid, {"uid": uid}, 1) for uid in ("tag_1", "tag_2")]
        found = await feed.fetch(known)
        assert isinstance(found["tag_1"], Document)
        assert found["tag_2"] == Gone("tag_2", 0)
        assert await feed.fetch([]) == {}
        organization.answers.append(lambda request: answer([{"name": "x"}], pagination_total="1"))
        assert not (await feed.page({})).whole
        with pytest.raises(Malformed):
            await feed.fetch(known)

    run_virtual(main)
