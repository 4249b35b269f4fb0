"""Lists: which rows a page shows, in which order, and how many there are."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.model import instant, iso
from bridge.sandbox.population.life import RebillyRates
from tests.sandbox.rebilly.calling import BEGIN_S, Caller


def totals(caller: Caller, path: str = "/customers", **query: object) -> tuple[str, str, str]:
    headers = caller.call("GET", path, **query).headers
    return headers["pagination-total"], headers["pagination-limit"], headers["pagination-offset"]


def test_a_page_has_as_many_rows_as_asked_for_and_tells_how_many_there_are() -> None:
    caller = Caller(customers=250)
    assert len(caller.rows()) == 100
    assert totals(caller) == ("250", "100", "0")
    assert len(caller.rows(limit=7)) == 7
    assert totals(caller, limit=7, offset=245) == ("250", "7", "245")
    assert len(caller.rows(limit=7, offset=245)) == 5
    assert caller.rows(limit=0) == []
    assert totals(caller, limit=0) == ("250", "0", "0")
    assert caller.rows(limit=1000, offset=1000) == []


@pytest.mark.parametrize("default", [10, 1000])
def test_the_default_limit_may_be_another(default: int) -> None:
    caller = Caller(customers=50, default_limit=default)
    assert len(caller.rows()) == min(50, default)
    assert totals(caller)[1] == str(default)


@pytest.mark.parametrize("path", ["/customers", "/tags", "/webhooks", "/customers/x/timeline"])
@pytest.mark.parametrize("limit", ["1001", "-1", "ten", "", "1.5", "\u0661", "9" * 5000])
def test_a_limit_outside_nought_to_a_thousand_is_refused(path: str, limit: str) -> None:
    assert Caller().invalid("GET", path, limit=limit) == {"limit"}


@given(st.integers(0, 1000), st.integers(0, 1000))
@settings(max_examples=30)
def test_pages_are_slices_of_the_whole(limit: int, offset: int) -> None:
    caller, reached = many()
    assert caller.rows(limit=limit, offset=offset, fields="id") == reached[offset : offset + limit]


@cache
def many() -> tuple[Caller, list[str]]:
    """More customers than can be reached, and those that can."""
    caller = Caller(customers=2100)
    return caller, [*caller.rows(limit=1000), *caller.rows(limit=1000, offset=1000)]


def test_no_more_than_two_thousand_rows_can_be_reached() -> None:
    caller, reached = many()
    assert len(set(reached)) == 2000
    assert totals(caller)[0] == "2100"
    backwards = [row for offset in (0, 1000) for row in caller.rows(limit=1000, offset=offset, sort="-createdTime")]
    assert len({*reached, *backwards}) == 2100


@pytest.mark.parametrize(("switch", "status"), [("422", 422), ("400", 400), ("clamped", 200), ("empty", 200)])
def test_an_offset_above_a_thousand_is_answered_as_the_switch_says(switch: str, status: int) -> None:
    caller = Caller(customers=1005, offset_above_1000=switch)
    response = caller.call("GET", "/customers", offset=1001)
    assert response.status == status
    if switch == "clamped":
        assert response.headers["pagination-offset"] == "1000"
        assert caller.rows(offset=1001) == caller.rows(offset=1000) != []
    elif switch == "empty":
        assert caller.rows(offset=1001) == []
        assert response.headers["pagination-total"] == "1005"
    assert caller.status("GET", "/customers", offset=1000) == 200
    assert caller.status("GET", "/customers", offset="-1") == 422


# Order.


@pytest.mark.parametrize(
    "name",
    [
        "email",
        "lastName",
        "websiteId",
        "createdTime",
        "updatedTime",
        "paymentCount",
        "lastPaymentTime",
        "invoiceCount",
        "averageValue.amount",
        "lifetimeRevenue.amount",
    ],
)
def test_customers_can_be_sorted_both_ways(name: str) -> None:
    caller = Caller(customers=60)
    rows = caller.json("GET", "/customers", sort=name)
    assert [row["id"] for row in reversed(rows)] == caller.rows(sort=f"-{name}")

    def key(row: Any) -> Any:
        for part in name.split("."):
            row = row[part]
        return (row is not None, row.lower() if isinstance(row, str) else row or 0)

    assert [key(row) for row in rows] == sorted(key(row) for row in rows)


def test_rows_that_sort_alike_are_ordered_as_the_switch_says() -> None:
    caller = Caller(customers=40)
    assert len({row["invoiceCount"] for row in caller.json("GET", "/customers")}) < 10
    assert caller.rows(sort="-invoiceCount") == caller.rows(sort="invoiceCount")[::-1]
    caller.switch(sort_ties="same")
    for sort in ("invoiceCount", "-invoiceCount"):
        rows = caller.json("GET", "/customers", sort=sort)
        for count in {row["invoiceCount"] for row in rows}:
            moments = [row["createdTime"] for row in rows if row["invoiceCount"] == count]
            assert moments == sorted(moments)
    caller.switch(sort_ties="shuffled")
    assert len({tuple(caller.rows(sort="invoiceCount")) for _ in range(5)}) > 1
    assert set(caller.rows(sort="invoiceCount")) == set(caller.rows())


def test_a_burst_of_one_second_is_reached_from_both_ends_only_if_ties_are_reversed() -> None:
    caller = Caller()
    for number in range(12):
        caller.add(f"c{number}")
    ends = [caller.rows(limit=6, sort=sort) for sort in ("updatedTime", "-updatedTime")]
    assert len({*ends[0], *ends[1]}) == 12
    caller.switch(sort_ties="same")
    ends = [caller.rows(limit=6, sort=sort) for sort in ("updatedTime", "-updatedTime")]
    assert ends[0] == ends[1]


def test_several_sort_fields_weigh_in_order() -> None:
    caller = Caller(customers=60)
    rows = caller.json("GET", "/customers", sort="invoiceCount,-email")
    for row, after in pairwise(rows):
        assert row["invoiceCount"] < after["invoiceCount"] or (
            row["invoiceCount"] == after["invoiceCount"] and row["email"].lower() >= after["email"].lower()
        )


def test_what_cannot_be_sorted_by_is_refused() -> None:
    caller = Caller()
    assert caller.invalid("GET", "/customers", sort="id") == {"sort"}
    assert caller.invalid("GET", "/customers", sort="email,-colour") == {"sort"}
    assert caller.invalid("GET", "/tags", sort="colour") == {"sort"}


# What is looked for.


@given(st.integers(0, 40), st.integers(0, 40), st.sampled_from(["createdTime", "updatedTime"]), st.booleans())
@settings(max_examples=60)
def test_windows_hold_exactly_what_lies_in_them(low: int, width: int, name: str, other_sort: bool) -> None:
    caller, shown = lived()
    moments = sorted({instant(row[name]) for row in shown})
    first = moments[min(low, len(moments) - 1)]
    last = moments[min(low + width, len(moments) - 1)]
    sort = {"createdTime": "updatedTime", "updatedTime": "createdTime"}[name] if other_sort else name
    rows = caller.rows(limit=1000, filter=f"{name}:{iso(first)}..{iso(last)}", sort=sort)
    expected = [row for row in shown if first <= instant(row[name]) <= last]
    assert set(rows) == {row["id"] for row in expected}
    times = {row["id"]: instant(row[sort]) for row in expected}
    assert [times[uid] for uid in rows] == sorted(times.values())
    assert totals(caller, filter=f"{name}:{iso(first)}..{iso(last)}")[0] == str(len(expected))


@cache
def lived() -> tuple[Caller, list[Any]]:
    """A minute in which much has happened, and the customers after it."""
    rates = RebillyRates(sign_up=30, edit=60, merge=12, tag=30, untag=10, delete=6)
    caller = Caller(customers=30, tags=3, rates=rates)
    caller.wait(60)
    return caller, caller.json("GET", "/customers", limit=1000)


def test_a_list_shows_the_living_and_each_once() -> None:
    caller, shown = lived()
    customers = caller.world.customers
    living = [customers.uids[row] for row in customers.live_row_of.values()]
    assert sorted(row["id"] for row in shown) == sorted(living)
    assert caller.api.statistics().tombstones > 0


def test_customers_can_be_filtered() -> None:
    caller = Caller(customers=20)
    caller.add("one", "One@Example.com", websiteId="shop")
    caller.clock.now += 5
    caller.add("two", "two@example.com", primaryAddress={"lastName": "Berg", "emails": [{"value": "two@example.com"}]})
    everybody = set(caller.rows())
    assert caller.rows(filter="email:one@example.COM") == ["one"]
    assert caller.rows(filter="id:one,two", sort="createdTime") == ["one", "two"]
    assert caller.rows(filter="id:ONE") == ["one"]
    assert set(caller.rows(filter="id:!one,two")) == everybody - {"one", "two"}
    assert caller.rows(filter=f"createdTime:{iso(int(BEGIN_S + 5) * 1_000_000)}..") == ["two"]
    assert caller.rows(filter=f"updatedTime:{iso(int(BEGIN_S + 5) * 1_000_000)}") == ["two"]
    assert caller.rows(filter="websiteId:shop;email:one@example.com") == ["one"]
    assert caller.rows(filter="websiteId:shop;id:two") == []
    assert "two" in caller.rows(filter="primaryAddress.lastName:berg")
    for wrong in ("email", "colour:red", "createdTime:yesterday", "id:@mine"):
        assert caller.invalid("GET", "/customers", filter=wrong) == {"filter"}


def test_a_search_finds_parts_of_texts() -> None:
    caller = Caller(customers=20)
    caller.add("abc-1", primaryAddress={"lastName": "Zwölfmüller", "city": "Pfäffikon"})
    assert caller.rows(q="FMÜLL") == ["abc-1"]
    assert caller.rows(q="bc-1") == ["abc-1"]
    assert caller.rows(q="zzzzz") == []
    assert len(caller.rows(q="@")) == 20


def test_only_the_asked_fields_and_the_id_are_shown() -> None:
    caller = Caller(customers=3, tags=2)
    for row in caller.json("GET", "/customers", fields="revision,updatedTime,tags,nonsense"):
        assert row.keys() == {"id", "revision", "updatedTime", "tags"}
    uid = caller.rows()[0]
    assert caller.customer(uid, fields="email").keys() == {"id", "email"}
    assert caller.customer(uid, fields="").keys() == {"id"}


def test_embedded_objects_come_on_demand() -> None:
    caller = Caller()
    caller.add("x", websiteId="shop")
    assert "_embedded" not in caller.customer("x")
    embedded = caller.customer("x", expand="website,leadSource,nonsense")["_embedded"]
    assert embedded.keys() == {"website", "leadSource"}
    assert embedded["website"]["id"] == "shop"
