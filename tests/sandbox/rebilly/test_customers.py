"""Customers: how they are shown and written, and what is left when two of them were one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.model import Collection
from bridge.sandbox.population.life import RebillyRates
from bridge.sandbox.population.truth import replay
from bridge.sandbox.rebilly import documents
from bridge.sandbox.rebilly.forms import CONTACT_FIELDS, customer_form
from tests.sandbox.rebilly.calling import ORGANIZATION, Caller

ADDRESS = {
    "firstName": "Åse",
    "lastName": "Berg",
    "organization": "Berg AS",
    "address": "Storgata 1",
    "address2": "Oppgang B",
    "city": "Oslo",
    "region": "Østlandet",
    "country": "NO",
    "postalCode": "0155",
    "dob": "1980-02-29",
    "jobTitle": "Baker",
    "phoneNumbers": [
        {"label": "home", "value": "+47 22 33 44 55", "primary": False},
        {"label": "mobile", "value": "+4790000000", "primary": True},
    ],
    "emails": [{"label": "work", "value": "Aase@Berg.example", "primary": True}],
}
WHOLE: dict[str, Any] = {
    "websiteId": "shop",
    "primaryAddress": ADDRESS,
    "customFields": {"number": 7, "vip": True, "list": ["a"], "text": "x"},
    "locale": "nb-NO",
    "taxNumbers": [{"type": "eu-vat", "value": "NO123"}],
    "personId": "per_1",
    "notificationEmails": ["post@berg.example"],
    "preferredPayoutInstrumentId": "inst_1",
}
WRITE_ONLY = {"paymentToken": "tok", "defaultPaymentInstrumentId": "inst_9", "leadSource": {"medium": "search"}}


def test_a_customer_has_every_documented_member() -> None:
    caller = Caller(customers=40, tags=3)
    for row in caller.json("GET", "/customers"):
        assert row.keys() == documents.FIELDS.keys()
        assert row["id"].startswith("cus_")
        assert row["organizationId"] == ORGANIZATION
        address = row["primaryAddress"]
        assert {name: check(address[name]) for name, check in CONTACT_FIELDS.items() if check(address[name])} == {}
        assert (row["email"], row["firstName"], row["lastName"]) == (
            address["emails"][0]["value"],
            address["firstName"],
            address["lastName"],
        )
        assert row["revision"] == 1
        assert customer_form(row), "what is shown can be written"
        for tag in row["tags"]:
            assert tag == caller.json("GET", f"/tags/{tag['name'].replace(' ', '%20')}")


def test_a_customer_is_created_under_a_chosen_id_with_all_that_is_given() -> None:
    caller = Caller()
    response = caller.call("PUT", "/customers/erp@7", WHOLE | WRITE_ONLY | {"revision": 99, "tags": ["x"]})
    assert response.status == 201
    assert response.headers["location"].endswith("/organizations/org_1/customers/erp%407")
    made = caller.customer("erp%407")
    assert made["id"] == "erp@7"
    assert {name: made[name] for name in WHOLE if name not in {"primaryAddress", "taxNumbers"}} == {
        name: value for name, value in WHOLE.items() if name not in {"primaryAddress", "taxNumbers"}
    }
    assert made["taxNumbers"] == [{"type": "eu-vat", "value": "NO123", "isDefault": False, "isValid": None}]
    shown = dict(made["primaryAddress"])
    assert len(shown.pop("hash")) == 40
    assert shown == ADDRESS
    assert (made["email"], made["firstName"], made["revision"], made["tags"]) == ("Aase@Berg.example", "Åse", 1, [])
    assert not WRITE_ONLY.keys() & made.keys()


def test_a_customer_is_created_under_an_id_of_the_servers() -> None:
    caller = Caller()
    response = caller.call("POST", "/customers", WHOLE | {"id": "mine"})
    assert response.status == 201
    uid = caller.rows()[0]
    assert uid.startswith("cus_")
    assert response.headers["location"].endswith(f"/customers/{uid}")


def test_a_put_replaces_and_resets_what_is_absent() -> None:
    caller = Caller(customers=1)
    uid = caller.rows()[0]
    before = caller.customer(uid)
    caller.clock.now += 5
    response = caller.call("PUT", f"/customers/{uid}", {"customFields": {"a": 1}})
    assert response.status == 200
    assert "location" not in response.headers
    after = caller.customer(uid)
    assert after["customFields"] == {"a": 1}
    assert after["primaryAddress"] is after["email"] is after["firstName"] is None
    assert after["revision"] == before["revision"] + 1
    assert after["updatedTime"] > before["updatedTime"]
    assert after["createdTime"] == before["createdTime"]


def test_a_put_of_what_is_there_changes_nothing() -> None:
    caller = Caller(customers=15)
    for row in caller.json("GET", "/customers"):
        caller.clock.now += 1
        assert caller.json("PUT", f"/customers/{row['id']}", row) == row
    assert caller.world.truth.number == 0


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"websiteId": "a/b", "personId": "x" * 51}, {"websiteId", "personId"}),
        (
            {"customFields": [], "primaryAddress": "x", "leadSource": 1},
            {"customFields", "primaryAddress", "leadSource"},
        ),
        ({"locale": "?", "taxNumbers": [{"type": "x"}]}, {"locale", "taxNumbers"}),
        ({"notificationEmails": ["nobody"]}, {"notificationEmails"}),
        (
            {"primaryAddress": {"firstName": "x" * 46, "country": "no", "postalCode": "?", "dob": "1980-02-30"}},
            {f"primaryAddress.{name}" for name in ("firstName", "country", "postalCode", "dob")},
        ),
        (
            {"primaryAddress": {"emails": [{"label": "x"}, 7], "phoneNumbers": [{"value": "1", "label": "x" * 46}]}},
            {"primaryAddress.emails.0.value", "primaryAddress.emails.1", "primaryAddress.phoneNumbers.0.label"},
        ),
        ({"primaryAddress": {"emails": "x"}}, {"primaryAddress.emails"}),
    ],
)
def test_a_wrong_customer_is_refused_and_its_fields_are_named(body: Any, fields: set[str]) -> None:
    caller = Caller()
    assert caller.invalid("PUT", "/customers/x", body) == fields
    assert caller.invalid("POST", "/customers", body) == fields
    assert caller.invalid("PUT", "/customers/a%2Fb", {}) == {"id"}
    assert caller.world.truth.number == 0


def test_the_hash_of_a_contact_tells_whether_it_is_another() -> None:
    caller = Caller()
    hashes = [
        caller.json("PUT", f"/customers/{uid}", {"primaryAddress": address})["primaryAddress"]["hash"]
        for uid, address in (("a", ADDRESS), ("b", ADDRESS), ("c", {**ADDRESS, "city": "Bergen"}))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_mail_address_that_changes_by_itself_keeps_its_label() -> None:
    caller = Caller()
    caller.json("PUT", "/customers/x", WHOLE)
    caller.world.changes.replace("x", {"email": "new@berg.example"})
    assert caller.customer("x")["primaryAddress"]["emails"] == [
        {"label": "work", "value": "new@berg.example", "primary": True}
    ]
    assert caller.customer("x")["email"] == "new@berg.example"


@pytest.mark.parametrize(("moves", "revision"), [(False, 1), (True, 2)])
def test_a_payment_moves_numbers_and_the_customer_only_if_the_switch_says_so(moves: bool, revision: int) -> None:
    caller = Caller(customers=1, payments_move_customers=moves)
    uid = caller.rows()[0]
    before = caller.customer(uid)
    caller.clock.now += 5
    caller.world.changes.pay(uid)
    after = caller.customer(uid)
    assert after["paymentCount"] == before["paymentCount"] + 1
    assert after["lastPaymentTime"] != before["lastPaymentTime"]
    assert after["lifetimeRevenue"]["amount"] > before["lifetimeRevenue"]["amount"]
    assert (after["updatedTime"] > before["updatedTime"], after["revision"]) == (moves, revision)
    lasting = before.keys() - documents.VOLATILE - {"revision", "updatedTime"}
    assert {name: before[name] for name in lasting} == {name: after[name] for name in lasting}


@pytest.mark.parametrize(
    ("switches", "length", "end"),
    [({}, 20, "Z"), ({"timestamp_precision": "microseconds"}, 27, "Z"), ({"timestamp_zone": "+00:00"}, 25, "+00:00")],
)
def test_instants_have_the_form_the_switch_says(switches: dict[str, Any], length: int, end: str) -> None:
    caller = Caller(customers=3, tags=2, **switches)
    caller.add("x")
    caller.call("POST", "/tags/vip/customers/x")
    row = caller.customer("x")
    (message, *_) = caller.json("GET", "/customers/x/timeline")
    times = [thing[name] for thing in (row, row["tags"][0]) for name in ("createdTime", "updatedTime")]
    for text in (*times, message["occurredTime"]):
        assert len(text) == length
        assert text.endswith(end)
    assert caller.rows(filter=f"createdTime:{row['createdTime']}") == ["x"]


# Merging.


def merged(**switches: Any) -> Caller:
    """`dup` went into `kept`: tags a and b, and b and c."""
    caller = Caller(**switches)
    for uid in ("dup", "kept"):
        caller.add(uid, f"{uid}@example.com")
    for name, *uids in (("a", "dup"), ("b", "dup", "kept"), ("c", "kept")):
        caller.add_tag(name)
        for uid in uids:
            caller.call("POST", f"/tags/{name}/customers/{uid}")
    caller.clock.now += 5
    assert caller.call("DELETE", "/customers/dup", targetCustomerId="kept").status == 204
    return caller


def test_a_merge_leaves_the_survivor_with_the_tags_of_both() -> None:
    caller = merged()
    assert caller.status("GET", "/customers/dup") == 404
    assert caller.rows() == ["kept"]
    assert caller.tags_of("kept") == ["b", "c", "a"]
    kept = caller.customer("kept")
    assert (kept["revision"], kept["email"]) == (2, "kept@example.com")
    assert kept["updatedTime"] > kept["createdTime"]
    assert [(entry.kind, entry.uid) for entry in caller.world.truth][-3:] == [
        ("merged", "dup"),
        ("updated", "kept"),
        ("tagged", "kept"),
    ]
    assert caller.status("POST", "/tags/a/customers/dup") == 404
    assert caller.status("PUT", "/customers/dup", {}) == 409, "an id is never used again"


def test_a_survivor_does_not_get_tags_that_are_gone_already() -> None:
    caller = Caller(bulk_delay=60)
    for uid in ("dup", "kept"):
        caller.add(uid)
    caller.add_tag("old")
    caller.call("POST", "/tags/old/customers/dup")
    caller.call("DELETE", "/tags/old")
    assert caller.tags_of("dup") == ["old"]
    caller.call("DELETE", "/customers/dup", targetCustomerId="kept")
    assert caller.tags_of("kept") == []
    caller.wait(60)
    assert not caller.world.register.fading


def test_a_merge_may_leave_the_survivor_with_its_own_tags_only() -> None:
    assert merged(survivor_tags="own").tags_of("kept") == ["b", "c"]


@pytest.mark.parametrize("switch", ["404", "301", "survivor"])
def test_reading_a_merged_customer_is_answered_as_the_switch_says(switch: str) -> None:
    caller = merged(merged_read=switch)
    caller.add("last")
    caller.call("DELETE", "/customers/kept", targetCustomerId="last")
    response = caller.call("GET", "/customers/dup")
    assert response.status == {"404": 404, "301": 301, "survivor": 200}[switch]
    if switch == "301":
        assert response.headers["location"].endswith("/organizations/org_1/customers/last")
        assert response.body == b""
    elif switch == "survivor":
        assert caller.customer("dup")["id"] == "last"
    assert caller.status("GET", "/customers/nobody") == 404


def test_a_merge_needs_two_customers_that_are_there() -> None:
    caller = Caller()
    caller.add("x")
    assert caller.invalid("DELETE", "/customers/x") == {"targetCustomerId"}
    assert caller.status("DELETE", "/customers/x", targetCustomerId="nobody") == 404
    assert caller.status("DELETE", "/customers/nobody", targetCustomerId="x") == 404
    assert caller.status("DELETE", "/customers/x", targetCustomerId="x") == 422
    assert caller.rows() == ["x"]


# The timeline.


def test_a_timeline_tells_what_happened_and_who_did_it() -> None:
    caller = merged()
    assert caller.told("kept") == [
        "customer-created",
        "customer-tagged",
        "customer-tagged",
        "customer-merged",
        "customer-tagged",
    ]
    caller.clock.now += 5
    caller.json("PUT", "/customers/kept", WHOLE)
    assert set(caller.told("kept", sort="-occurredTime", limit=2)) == {
        "custom-fields-changed",
        "primary-address-changed",
    }
    caller.tag("a", "kept", method="DELETE")
    caller.clock.now += 5
    message = caller.json("GET", "/customers/kept/timeline", sort="-occurredTime", limit=1)[0]
    assert (message["type"], message["triggeredBy"]) == ("customer-untagged", "rebilly")
    assert message.keys() == {"id", "type", "triggeredBy", "message", "occurredTime", "extraData", "_links"}
    caller.world.changes.replace("kept", {"email": "x@example.com"})
    assert caller.told("kept", filter="triggeredBy:app") == ["primary-address-changed"]
    assert set(caller.told("kept", filter="type:customer-tagged,customer-untagged")) == {
        "customer-tagged",
        "customer-untagged",
    }
    assert caller.told("nobody") == []


# The truth.


@given(
    st.integers(0, 1000),
    st.sampled_from(["nothing", "both", "updated_time", "revision"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["union", "own"]),
    st.sampled_from([0, 0.5, 300]),
)
@settings(max_examples=25)
def test_the_truth_log_replayed_gives_what_the_api_shows(
    seed: int, tagging: str, rename: bool, pay: bool, survivor: str, delay: float
) -> None:
    rates = RebillyRates(
        sign_up=60, edit=120, tag=120, untag=60, merge=40, delete=20, pay=60, tag_create=12, tag_rename=30, tag_delete=9
    )
    caller = Caller(
        customers=30,
        tags=5,
        seed=seed,
        rates=rates,
        tagging_moves=tagging,
        tag_rename_moves_customers=rename,
        payments_move_customers=pay,
        survivor_tags=survivor,
        bulk_delay=delay,
    )
    world, customers = caller.world, caller.world.customers
    things = {uid: world.register.document(row) for uid, row in customers.row_of.items()}
    things |= {uid: dict(tag) for uid, tag in world.tags.items()}
    edges = {(tag, customers.uids[row]) for tag, rows in customers.members.items() for row in rows}
    caller.wait(10)
    if world.register.tag_ids:
        name = world.tags[world.register.tag_ids[0]]["tag"].replace(" ", "%20")
        caller.status("DELETE", f"/tags/{name}")
    caller.wait(10)
    gone = dict(world.register.fading)
    replay(things, edges, world.truth)
    kept = {entry.uid for entry in world.truth if entry.collection is Collection.CUSTOMERS} | set(customers.row_of)
    shown = {row["id"]: row for row in caller.json("GET", "/customers", limit=1000)}
    assert shown.keys() == {uid for uid in kept if "deleted_at" not in things[uid]}
    view = documents.View(ORGANIZATION, f"{documents.ORIGIN}/organizations/{ORGANIZATION}")
    for uid, row in shown.items():
        told = [things.get(tag) or gone[tag] for tag, customer in edges if customer == uid]
        expected = documents.customer(things[uid], told, view)
        assert sorted(expected.pop("tags"), key=str) == sorted(row.pop("tags"), key=str)
        assert row == expected
