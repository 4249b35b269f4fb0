"""Who may call, how often, and how it is said that something is wrong."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import Any

import orjson
import pytest

from bridge.errors import ConfigurationError, RetryLater
from bridge.sandbox.rebilly.api import API_KEY
from bridge.sandbox.rebilly.switches import RebillySwitches
from bridge.source.transport import Request
from tests.sandbox.rebilly.calling import BEGIN_S, KEY, Caller


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"REB-APIKEY": API_KEY}, 200),
        ({"reb-apikey": API_KEY}, 200),
        ({"REB-APIKEY": "another"}, 401),
        ({"REB-APIKEY": "\u00e6"}, 401),
        ({"Authorization": "Bearer nobody.gave.this"}, 401),
        ({"Authorization": f"Basic {API_KEY}"}, 401),
        ({}, 401),
    ],
)
def test_a_call_needs_the_key(headers: dict[str, str], status: int) -> None:
    assert Caller().raw("GET", "/tags", headers=headers).status == status


def test_a_token_is_as_good_as_the_key_until_it_expires_or_is_revoked() -> None:
    caller = Caller(token_lifetime=60)

    def headers() -> dict[str, str]:
        grant = orjson.loads(caller.raw("POST", "/sandbox/token", headers={}).body)
        assert grant["expires_in"] == 60
        return {"Authorization": f"Bearer {grant['access_token']}"}

    token = headers()
    assert caller.raw("GET", "/tags", headers=token).status == 200
    caller.clock.now += 59.9
    assert caller.raw("GET", "/tags", headers=token).status == 200
    caller.clock.now += 0.1
    assert caller.raw("GET", "/tags", headers=token).status == 401
    token = headers()
    caller.raw("POST", "/sandbox/revoke-tokens", headers={})
    assert caller.raw("GET", "/tags", headers=token).status == 401
    assert caller.raw("GET", "/tags", headers=token | KEY).status == 200


@pytest.mark.parametrize(
    ("permissions", "statuses"),
    [
        ("customers:read, tags:write", (200, 403, 201, 403)),
        ("tags:read", (403, 200, 403, 403)),
        ("webhooks:read", (403, 403, 403, 200)),
        ("", (403, 403, 403, 403)),
    ],
)
def test_each_call_needs_its_permission(permissions: str, statuses: tuple[int, ...]) -> None:
    caller = Caller(permissions=permissions)
    calls: tuple[tuple[str, str, Any], ...] = (
        ("GET", "/customers", None),
        ("GET", "/tags", None),
        ("POST", "/tags", {"name": "x", "type": "customer"}),
        ("GET", "/webhooks", None),
    )
    assert tuple(caller.status(*call) for call in calls) == statuses


def test_what_is_nowhere_is_not_found_and_a_foreign_organization_is_forbidden() -> None:
    caller = Caller()
    assert caller.status("GET", "/nowhere") == 404
    assert caller.status("GET", "/customers/") == 404
    assert caller.status("GET", "/tags/%2e%2e") == 404
    assert caller.status("GET", "/customers/.") == 404
    assert caller.status("GET", "/tags/%ff") == 400
    assert caller.status("PATCH", "/customers") == 405
    assert caller.status("GET", "/organizations/org_2/customers") == 403


# Errors.


def test_errors_are_problems() -> None:
    caller = Caller()
    response = caller.call("GET", "/customers/nobody")
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert orjson.loads(response.body) == {
        "status": 404,
        "type": "about:blank",
        "title": "Not Found",
        "detail": "no such customer",
    }
    problem = orjson.loads(caller.call("POST", "/tags", {"name": "a/b"}).body)
    assert problem["status"] == 422
    assert {one["field"] for one in problem["invalidFields"]} == {"name", "type"}
    assert all(one["message"] for one in problem["invalidFields"])
    assert caller.raw("POST", "/tags", body=b"{").status == 422
    assert caller.raw("POST", "/tags", body=b"[]").status == 422


def test_a_problem_may_have_another_media_type_or_be_a_page_of_a_gateway() -> None:
    caller = Caller(error_media_type="problem")
    response = caller.call("GET", "/customers/nobody")
    assert response.headers["content-type"] == "application/problem+json"
    assert orjson.loads(response.body)["title"] == "Not Found"
    assert caller.call("GET", "/tags").headers["content-type"] == "application/json; charset=utf-8"
    caller.switch(error_media_type="html")
    response = caller.call("GET", "/customers/nobody")
    assert (response.status, response.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert response.body.startswith(b"<html>")
    assert caller.call("GET", "/tags").body.startswith(b"[")


# The rate limit.


def test_only_writes_are_limited_and_tell_what_is_left() -> None:
    caller = Caller(rate_limit=2)
    told = [caller.call("DELETE", "/tags/none") for _ in range(4)]
    assert [response.status for response in told] == [404, 404, 429, 429]
    assert [response.headers["x-ratelimit-remaining"] for response in told] == ["1", "0", "0", "0"]
    assert {response.headers["x-ratelimit-limit"] for response in told} == {"2"}
    assert orjson.loads(told[-1].body)["title"] == "Rate Limit Exceeded"
    read = caller.call("GET", "/tags")
    assert read.status == 200
    assert not [name for name in read.headers if "ratelimit" in name]


def test_the_limit_begins_anew_when_it_says() -> None:
    caller = Caller(rate_limit=1, rate_limit_window=60)
    caller.call("DELETE", "/tags/none")
    again_at = int(caller.call("DELETE", "/tags/none").headers["x-ratelimit-retry-after"])
    assert BEGIN_S < again_at <= BEGIN_S + 60
    caller.clock.now = again_at - 0.5
    assert caller.status("DELETE", "/tags/none") == 429
    caller.clock.now = float(again_at)
    assert caller.status("DELETE", "/tags/none") == 404


def test_reads_may_be_limited_too() -> None:
    caller = Caller(rate_limit=1, rate_limit_reads=True)
    assert [caller.status("GET", "/tags") for _ in range(2)] == [200, 429]


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("timestamp", "x-ratelimit-retry-after", str(int(BEGIN_S) + 600)),
        ("past", "x-ratelimit-retry-after", str(int(BEGIN_S) - 10)),
        ("far", "x-ratelimit-retry-after", str(int(BEGIN_S) + 86_400)),
        ("text", "x-ratelimit-retry-after", "later, please"),
        ("missing", "x-ratelimit-retry-after", None),
        ("missing", "retry-after", None),
        ("standard", "x-ratelimit-retry-after", None),
        ("standard", "retry-after", "600"),
    ],
)
def test_when_to_come_again_is_told_as_the_switch_says(kind: str, name: str, expected: str | None) -> None:
    caller = Caller(rate_limit=1, rate_limit_retry_after=kind)
    caller.call("DELETE", "/tags/none")
    response = caller.call("DELETE", "/tags/none")
    assert response.status == 429
    assert response.headers.get(name) == expected


# Delivery, faults and switches.


def test_answers_carry_the_servers_date() -> None:
    headers = Caller().call("GET", "/tags").headers
    assert parsedate_to_datetime(headers["date"]).timestamp() == int(BEGIN_S)
    assert "etag" not in headers


def test_etags_may_be_there_and_may_be_honoured() -> None:
    caller = Caller(etag="honoured")
    tag = caller.call("GET", "/tags").headers["etag"]
    assert caller.raw("GET", "/tags", headers={**KEY, "If-None-Match": tag}).status == 304


@pytest.mark.parametrize(
    ("fault", "status"), [("fault_429", 429), ("fault_500", 500), ("fault_502_html", 502), ("fault_200_html", 200)]
)
def test_a_fault_takes_the_place_of_the_answer_where_it_is_wanted(fault: str, status: int) -> None:
    caller = Caller(fault_on="tags")
    caller.switch(**{fault: 1})
    response = caller.call("GET", "/tags")
    assert response.status == status
    assert status != 429 or int(response.headers["x-ratelimit-retry-after"]) == int(BEGIN_S) + 2
    assert "retry-after" not in response.headers
    assert not response.body.startswith(b"[")
    assert caller.call("GET", "/customers").body == b"[]"


def test_a_faults_429_may_carry_the_standard_header_too() -> None:
    caller = Caller(fault_429=1, fault_429_retry_after="7")
    assert caller.call("GET", "/tags").headers["retry-after"] == "7"


@pytest.mark.parametrize("fault", ["empty_page", "duplicate_rows", "bad_row", "bad_shape"])
def test_a_list_may_be_spoiled(fault: str) -> None:
    caller = Caller(customers=5)
    good = caller.call("GET", "/customers").body
    caller.switch(**{fault: 1})
    assert caller.call("GET", "/customers").body != good


def test_the_list_of_tags_may_be_empty_once() -> None:
    caller = Caller(tags=3, empty_tag_list_once=True)
    assert caller.json("GET", "/tags") == []
    assert len(caller.json("GET", "/tags")) == 5


async def test_slow_and_cut_answers_reach_who_sends_in_process() -> None:
    caller = Caller(customers=3, latency_ms=100, page_latency_ms=400)
    request = Request("GET", "/customers", (), KEY)
    assert (await caller.api.send(request)).status == 200
    assert caller.clock.now == pytest.approx(BEGIN_S + 0.5)
    caller.switch(fault_slow=1, fault_slow_s=2)
    assert (await caller.api.send(request)).status == 200
    assert caller.clock.now == pytest.approx(BEGIN_S + 3)
    caller.switch(fault_cut=1)
    with pytest.raises(RetryLater):
        await caller.api.send(request)
    await caller.api.close()


def test_a_cut_write_was_done_or_not() -> None:
    caller = Caller(fault_cut=1)
    for number in range(20):
        caller.call("POST", "/tags", {"name": f"t{number}", "type": "customer"})
    assert 0 < len(caller.world.register.tag_ids) < 20


def test_switches_rates_and_statistics_are_at_hand_while_it_runs() -> None:
    caller = Caller(customers=4)

    def control(method: str, path: str, body: Any = None) -> Any:
        response = caller.raw(method, f"/sandbox/{path}", body=orjson.dumps(body), headers={})
        return orjson.loads(response.body) if response.status == 200 else response.status

    assert control("PUT", "switches", {"bulk_delay": 60})["bulk_delay"] == caller.api.switches.bulk_delay == 60
    assert control("PUT", "switches", {"bulk_delays": 60}) == 400
    assert control("PUT", "rates", {"merge": 3})["merge"] == 3
    assert control("PUT", "rates", {"rename": 3}) == 400
    caller.call("GET", "/tags")
    stats = control("GET", "stats")
    assert (stats["customers"], stats["requests"]) == (4, {"tags 200": 1})
    caller.add("x")
    assert [entry["uid"] for entry in control("GET", "truth")] == ["x"]


def test_an_unknown_switch_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'bulk_delay'"):
        RebillySwitches.parse(["bulk_dely=3"])
    with pytest.raises(ConfigurationError, match="Switch offset_above_1000="):
        RebillySwitches.parse(["offset_above_1000=500"])
