"""Tags: names that are unique whatever their letter case, jobs that take their time, and one customer at once."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.sandbox.population.life import RebillyRates
from tests.sandbox.rebilly.calling import Caller


def names(caller: Caller, **query: object) -> list[str]:
    return [tag["name"] for tag in caller.json("GET", "/tags", **query)]


def test_a_tag_is_created_and_found_under_its_name_in_any_letter_case() -> None:
    caller = Caller()
    response = caller.call("POST", "/tags", {"name": "Very Important+", "type": "customer", "id": "mine"})
    assert response.status == 201
    tag = caller.json("GET", "/tags/very%20IMPORTANT%2B")
    assert tag["name"] == "Very Important+"
    assert tag.keys() == {"id", "name", "type", "createdTime", "updatedTime", "_links"}
    assert tag["id"] != "mine"
    assert response.headers["location"].endswith("/organizations/org_1/tags/Very%20Important%2B")
    assert tag["_links"] == [{"rel": "self", "href": response.headers["location"]}]
    assert caller.status("GET", "/tags/very%20important") == 404


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"name": "a/b", "type": "customer"}, {"name"}),
        ({"name": "", "type": "customer"}, {"name"}),
        ({"name": "x" * 256, "type": "customer"}, {"name"}),
        ({"name": "Ærlig", "type": "customer"}, {"name"}),
        ({"name": "..", "type": "customer"}, {"name"}),
        ({"name": 7, "type": "person"}, {"name", "type"}),
        ({"name": "x"}, {"type"}),
    ],
)
def test_a_wrong_tag_is_refused_and_its_fields_are_named(body: Any, fields: set[str]) -> None:
    caller = Caller()
    assert caller.invalid("POST", "/tags", body) == fields
    assert caller.world.truth.number == 0


def test_names_are_unique_letter_case_ignored_over_all_types() -> None:
    caller = Caller()
    caller.add_tag("VIP")
    caller.add_tag("Passport", "kyc-document")
    for name in ("vip", "PASSPORT"):
        assert caller.status("POST", "/tags", {"name": name, "type": "customer"}) == 409
    caller.add_tag("other")
    assert caller.status("PATCH", "/tags/other", {"name": "Vip"}) == 409
    assert caller.json("PATCH", "/tags/vip", {"name": "vip"})["name"] == "vip"


def test_the_list_mixes_types_and_can_be_filtered_and_sorted() -> None:
    caller = Caller(tags=3)
    types = [tag["type"] for tag in caller.json("GET", "/tags")]
    assert sorted(types) == ["aml-check", "customer", "customer", "customer", "kyc-document"]
    assert len(names(caller, filter="type:customer")) == 3
    assert len(names(caller, filter="type:!customer")) == 2
    assert names(caller, filter="name:vip") == ["VIP"]
    assert names(caller, sort="-name") == sorted(names(caller), key=str.lower, reverse=True)
    assert names(caller, limit=1, offset=1) == names(caller)[1:2]
    assert names(caller, q="vi") == ["VIP"]


def test_a_rename_keeps_the_id_and_customers_show_the_new_name_unmoved() -> None:
    caller = Caller()
    old = caller.add_tag("old")
    caller.add("x")
    caller.call("POST", "/tags/old/customers/x")
    before = caller.customer("x")
    caller.clock.now += 5
    new = caller.json("PATCH", "/tags/OLD", {"name": "new"})
    assert (new["id"], new["name"]) == (old["id"], "new")
    assert new["updatedTime"] > old["updatedTime"]
    after = caller.customer("x")
    assert after.pop("tags") == [new]
    before.pop("tags")
    assert after == before
    assert caller.status("GET", "/tags/old") == 404
    assert caller.add_tag("old")["id"] != old["id"]
    assert caller.status("PATCH", "/tags/none", {"name": "x"}) == 404
    assert caller.invalid("PATCH", "/tags/new", {"name": "a,b"}) == {"name"}


def test_a_rename_moves_customers_if_the_switch_says_so() -> None:
    caller = Caller(tag_rename_moves_customers=True)
    caller.add_tag("old")
    for uid in ("x", "y"):
        caller.add(uid)
    caller.call("POST", "/tags/old/customers/x")
    before, other = caller.customer("x"), caller.customer("y")
    caller.clock.now += 5
    caller.json("PATCH", "/tags/old", {"name": "new"})
    after = caller.customer("x")
    assert after["revision"] == before["revision"] + 1
    assert after["updatedTime"] > before["updatedTime"]
    assert caller.customer("y") == other


# One customer.


def test_a_customer_is_tagged_and_untagged_at_once() -> None:
    caller = Caller()
    caller.add_tag("VIP")
    caller.add("x")
    before = caller.customer("x")
    caller.clock.now += 5
    response = caller.call("POST", "/tags/vip/customers/x")
    assert (response.status, response.body) == (204, b"")
    assert "content-type" not in response.headers
    assert caller.tags_of("x") == ["VIP"]
    assert caller.status("POST", "/tags/vip/customers/x") == 204
    assert [caller.customer("x")[name] for name in ("revision", "updatedTime")] == [1, before["updatedTime"]]
    assert caller.status("DELETE", "/tags/vip/customers/x") == 204
    assert caller.customer("x") == before
    assert caller.status("DELETE", "/tags/vip/customers/x") == 204
    assert [entry.kind for entry in caller.world.truth][2:] == ["tagged", "untagged"]


def test_an_unknown_tag_or_customer_is_not_found() -> None:
    caller = Caller()
    caller.add_tag("VIP")
    caller.add_tag("Passport", "kyc-document")
    caller.add("x")
    for path in ("/tags/none/customers/x", "/tags/vip/customers/none", "/tags/passport/customers/x"):
        assert caller.status("POST", path) == caller.status("DELETE", path) == 404
    assert caller.status("POST", "/tags/passport/kyc-documents/doc_1") == 404
    assert caller.status("POST", "/tags/passport/kyc-documents", {"customerIds": ["doc_1"]}) == 204


@pytest.mark.parametrize(
    ("moves", "moved"),
    [("nothing", (False, False)), ("both", (True, True)), ("updated_time", (True, False)), ("revision", (False, True))],
)
def test_tagging_moves_what_the_switch_says(moves: str, moved: tuple[bool, bool]) -> None:
    caller = Caller(tagging_moves=moves)
    caller.add_tag("VIP")
    caller.add("x")
    for method in ("POST", "DELETE"):
        before = caller.customer("x")
        caller.clock.now += 5
        caller.call(method, "/tags/vip/customers/x")
        after = caller.customer("x")
        assert (after["updatedTime"] > before["updatedTime"], after["revision"] > before["revision"]) == moved


def test_tags_come_as_they_were_assigned_or_shuffled() -> None:
    caller = Caller()
    caller.add("x")
    for name in "abcdef":
        caller.add_tag(name)
        caller.call("POST", f"/tags/{name}/customers/x")
    assert caller.tags_of("x") == list("abcdef")
    caller.switch(tags_order="shuffled")
    seen = [caller.tags_of("x") for _ in range(5)]
    assert len({tuple(tags) for tags in seen}) > 1
    assert {tuple(sorted(tags)) for tags in seen} == {tuple("abcdef")}


# Many.


def crowd(count: int, **switches: Any) -> tuple[Caller, list[str]]:
    caller = Caller(customers=count, **switches)
    caller.add_tag("VIP")
    return caller, caller.rows(limit=1000)


def tagged(caller: Caller) -> int:
    return sum(1 for row in caller.json("GET", "/customers", limit=1000, fields="tags") if row["tags"])


def test_a_bulk_call_is_answered_before_anybody_is_tagged() -> None:
    caller, uids = crowd(250)
    response = caller.call("POST", "/tags/vip/customers", {"customerIds": [*uids, uids[0]]})
    assert (response.status, response.body) == (204, b"")
    assert tagged(caller) == 0
    seen = []
    caller.clock.now += 0.01
    for _ in range(8):
        caller.clock.now += 0.1
        seen.append(tagged(caller))
    assert seen == [0, 0, 0, 0, 100, 200, 250, 250]
    caller.tag("VIP", *uids[:120], method="DELETE")
    assert tagged(caller) == 250
    caller.clock.now += 0.61
    assert tagged(caller) == 130


def test_a_living_world_goes_on_with_jobs_by_itself_and_dates_them_right() -> None:
    caller, uids = crowd(150)
    caller.tag("VIP", *uids)
    assert caller.world.due_at == pytest.approx(caller.clock.now + 0.5)
    begin = caller.clock.now
    assert caller.world.advance(begin + 10) == 2
    moments = {round(entry.at - begin, 3) for entry in caller.world.truth if entry.kind == "tagged"}
    assert moments == {0.5, 0.6}
    assert caller.world.due_at is None


def test_jobs_and_life_happen_in_order_in_however_long_a_step() -> None:
    caller = Caller(customers=250, tags=2, rates=RebillyRates(edit=600, merge=60))
    caller.tag("VIP", *caller.rows(limit=250))
    caller.wait(5)
    moments = [entry.at for entry in caller.world.truth]
    assert {"tagged", "updated", "merged"} <= {entry.kind for entry in caller.world.truth}
    assert moments == sorted(moments)


@pytest.mark.parametrize(("delay", "after"), [(0, 0.0), (60, 60.0)])
def test_the_delay_of_jobs_may_be_another(delay: float, after: float) -> None:
    caller, uids = crowd(120, bulk_delay=delay)
    caller.tag("VIP", *uids)
    if after:
        caller.clock.now += after - 0.1
        assert tagged(caller) == 0
        caller.clock.now += 0.15
        assert tagged(caller) == 100
        caller.clock.now += 0.1
    assert tagged(caller) == 120


def test_jobs_in_random_order_overtake_each_other() -> None:
    ends = set()
    for seed in range(12):
        caller = Caller(seed=seed, bulk_order="random", bulk_delay=10)
        caller.add_tag("VIP")
        caller.add("x")
        caller.tag("VIP", "x")
        caller.tag("VIP", "x", method="DELETE")
        caller.wait(21)
        ends.add(tuple(caller.tags_of("x")))
    assert ends == {(), ("VIP",)}
    caller, uids = crowd(150, bulk_order="random")
    caller.tag("VIP", *uids)
    caller.world.advance(caller.clock.now + 10)
    order = [entry.uid for entry in caller.world.truth if entry.kind == "tagged"]
    assert sorted(order) == sorted(uids)
    assert order != uids


def test_a_job_may_lose_one_customer_until_the_next_job() -> None:
    caller, uids = crowd(30, bulk_lost=True)
    caller.tag("VIP", *uids)
    caller.wait(60)
    assert tagged(caller) == 29
    caller.add_tag("other")
    caller.switch(bulk_lost=False)
    caller.tag("other", uids[0])
    caller.wait(1)
    assert len([row for row in caller.json("GET", "/customers", fields="tags") if "VIP" in str(row["tags"])]) == 30


def test_unknown_customers_and_those_that_are_gone_by_then_are_passed_over() -> None:
    caller, uids = crowd(3)
    assert caller.tag("VIP", "nobody", *uids) == 204
    caller.status("DELETE", f"/customers/{uids[0]}", targetCustomerId=uids[1])
    caller.wait(1)
    assert tagged(caller) == 2


def test_a_job_for_a_tag_that_is_gone_by_then_does_nothing() -> None:
    caller, uids = crowd(3)
    caller.tag("VIP", *uids)
    assert caller.status("DELETE", "/tags/vip") == 204
    caller.add_tag("VIP")
    caller.wait(5)
    assert tagged(caller) == 0


@pytest.mark.parametrize("method", ["POST", "DELETE"])
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"customerIds": []}, "customerIds"),
        ({"customerIds": [f"c{n}" for n in range(1001)]}, "customerIds"),
        ({"customerIds": "x"}, "customerIds"),
        ({}, "customerIds"),
        ({"customerIds": ["x", "a/b"]}, "customerIds.1"),
        ({"customerIds": [7]}, "customerIds.0"),
    ],
)
def test_a_bulk_call_takes_one_to_a_thousand_ids(method: str, body: Any, field: str) -> None:
    caller = Caller()
    caller.add_tag("VIP")
    assert caller.invalid(method, "/tags/vip/customers", body) == {field}
    assert caller.status(method, "/tags/vip/customers") == 422, "a body that was dropped"
    assert caller.tag("VIP", *(f"c{n}" for n in range(1000)), method=method) == 204


@pytest.mark.parametrize("switch", ["422", "404", "204"])
def test_a_bulk_call_with_an_unknown_tag_is_answered_as_the_switch_says(switch: str) -> None:
    caller = Caller(bulk_unknown_tag=switch)
    caller.add("x")
    assert caller.tag("none", "x") == int(switch)
    assert caller.tag("none", "x", method="DELETE") == int(switch)
    caller.add_tag("Passport", "kyc-document")
    assert caller.tag("Passport", "x") == 422


# Deleting.


def test_a_deleted_tag_is_gone_at_once_and_fades_from_customers() -> None:
    caller, uids = crowd(150, bulk_delay=1)
    caller.world.changes.tag(next(iter(caller.world.register.tag_ids)), uids, on=True)
    assert caller.status("DELETE", "/tags/vip") == 204
    assert "VIP" not in names(caller)
    assert caller.status("GET", "/tags/vip") == caller.status("DELETE", "/tags/vip") == 404
    assert tagged(caller) == 150
    again = caller.add_tag("vip")
    caller.clock.now += 1
    assert tagged(caller) == 50
    caller.clock.now += 0.11
    assert tagged(caller) == 0
    assert names(caller, filter="name:VIP") == ["vip"]
    assert caller.tag(again["name"], uids[0]) == 204
    caller.wait(2)
    assert tagged(caller) == 1
    assert not caller.world.register.fading


@given(st.text("aB_@~-.+ 1\t", min_size=1, max_size=8))
@settings(max_examples=40)
def test_any_name_can_be_used_in_a_path(name: str) -> None:
    caller = Caller()
    if name in {".", ".."}:
        assert caller.invalid("POST", "/tags", {"name": name, "type": "customer"}) == {"name"}
        return
    tag = caller.add_tag(name)
    assert caller.json("GET", f"/tags/{quote(name, safe='')}") == tag
    assert caller.json("GET", f"/tags/{quote(name.swapcase(), safe='')}") == tag


def test_tags_come_are_renamed_and_go_by_themselves_with_unique_names() -> None:
    caller = Caller(customers=20, tags=4, rates=RebillyRates(tag=60, tag_create=30, tag_rename=60, tag_delete=20))
    caller.wait(60)
    kinds = {(entry.collection.value, entry.kind) for entry in caller.world.truth}
    assert kinds >= {("tags", "created"), ("tags", "updated"), ("tags", "deleted"), ("customers", "tagged")}
    seen = [name.lower() for name in names(caller)]
    assert len(set(seen)) == len(seen)
