"""Rows of Rebilly in our words: what becomes of each field, what makes no difference, what is refused."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.detect.diff import detect
from bridge.event.documents import Customer, Tag
from bridge.model import Document, Reject, Told, instant
from bridge.source.rebilly.models import customer, fingerprint_of, tag, told

TAGS = [{"id": "tag_1", "name": "VIP", "type": "customer"}, {"id": "tag_2", "name": "new", "type": "customer"}]
FULL: dict[str, Any] = {
    "id": "cus_0A1",
    "email": "Ada@Example.com",
    "firstName": "Ada",
    "lastName": "Lovelace",
    "websiteId": "web_1",
    "organizationId": "org_1",
    "primaryAddress": {
        "firstName": "Ada",
        "lastName": "King",
        "organization": "Engines",
        "address": "Ockham Park 1",
        "address2": None,
        "city": "Ockham",
        "region": "Surrey",
        "country": "GB",
        "postalCode": "0815",
        "dob": "1815-12-10",
        "jobTitle": "Countess",
        "phoneNumbers": [
            {"label": "work", "value": "+4712", "primary": False},
            {"label": "main", "value": "+4711", "primary": True},
        ],
        "emails": [{"label": "main", "value": "Ada@Example.com", "primary": True}],
        "hash": "0f0f",
    },
    "customFields": {"level": 3, "old": None},
    "tags": TAGS,
    "revision": 7,
    "createdTime": "2024-01-01T00:00:00+01:00",
    "updatedTime": "2026-11-21T08:15:30Z",
    "locale": None,
    "taxNumbers": [{"type": "eu-vat", "value": "2"}, {"type": "eu-vat", "value": "1", "isValid": None}],
    "notificationEmails": ["b@x.y", "a@x.y"],
    "defaultPaymentInstrument": {"method": "cash", "paymentInstrumentId": "i"},
    "company": {"name": "Engines", "yearFounded": 1837},
    "hasFulfilledKyc": False,
    "paymentCount": 3,
    "invoiceCount": 4,
    "lastPaymentTime": "2026-11-21T08:15:30Z",
    "lifetimeRevenue": {"currency": "EUR", "amount": 1},
    "averageValue": {"currency": "EUR", "amount": 1},
    "brandNew": {"x": [1]},
    "_links": [{"rel": "self", "href": "x"}],
    "_embedded": {"website": {}},
}


def document(**fields: Any) -> Document:
    result = customer(FULL | fields, "customers.list")
    assert isinstance(result, Document), result
    return result


def test_a_customer_in_our_words() -> None:
    result = document()
    assert (result.version, result.revision) == (instant("2026-11-21T08:15:30Z"), 7)
    assert result.body == {
        "uid": "cus_0A1",
        "customer_id": "cus_0A1",
        "email": "Ada@Example.com",
        "first_name": "Ada",
        "last_name": "Lovelace",
        "phone_number": "+4711",
        "date_of_birth": "1815-12-10",
        "addresses": [
            {
                "address_line": "Ockham Park 1",
                "postal_place": "Ockham",
                "region": "Surrey",
                "country": "GB",
                "postal_code": "0815",
            }
        ],
        "company": {"name": "Engines", "yearFounded": 1837},
        "attributes": {"level": 3},
        "created_at": "2023-12-31T23:00:00Z",
        "updated_at": "2026-11-21T08:15:30Z",
        "extra": {
            "websiteId": "web_1",
            "organizationId": "org_1",
            "primaryAddress": {
                "lastName": "King",
                "organization": "Engines",
                "jobTitle": "Countess",
                "phoneNumbers": [
                    {"label": "main", "value": "+4711", "primary": True},
                    {"label": "work", "value": "+4712", "primary": False},
                ],
                "emails": [{"label": "main", "value": "Ada@Example.com", "primary": True}],
            },
            "revision": 7,
            "taxNumbers": [{"type": "eu-vat", "value": "1"}, {"type": "eu-vat", "value": "2"}],
            "notificationEmails": ["a@x.y", "b@x.y"],
            "defaultPaymentInstrument": {"method": "cash", "paymentInstrumentId": "i"},
            "hasFulfilledKyc": False,
            "brandNew": {"x": [1]},
        },
    }
    Customer.model_validate(result.body)


def shuffled(value: Any, rng: random.Random) -> Any:
    """`Any`: JSON. Every set and every object in another order."""
    if isinstance(value, list):
        return [shuffled(entry, rng) for entry in rng.sample(value, len(value))]
    if isinstance(value, dict):
        return {name: shuffled(value[name], rng) for name in rng.sample(sorted(value), len(value))}
    return value


@given(
    st.randoms(use_true_random=False),
    st.dictionaries(
        st.sampled_from(["paymentCount", "invoiceCount", "lifetimeRevenue", "lastPaymentTime", "_links", "_embedded"]),
        st.none() | st.integers() | st.text(max_size=3),
    ),
    st.integers(7, 99),
)
def test_what_moves_by_itself_and_the_order_of_sets_make_no_change(
    rng: random.Random, moved: dict[str, Any], revision: int
) -> None:
    other = shuffled(FULL, rng) | moved | {"revision": revision, "updatedTime": "2026-11-22T00:00:00Z", "locale": None}
    del other["locale"]
    result = customer(other, "x")
    assert isinstance(result, Document)
    assert detect(document().body, result.body) is None


@pytest.mark.parametrize(
    ("fields", "changed"),
    [
        ({"firstName": "Augusta"}, ("/extra/primaryAddress/firstName", "/first_name")),
        ({"customFields": {}}, ("/attributes",)),
        ({"websiteId": "web_2"}, ("/extra/websiteId",)),
        ({"email": "ada@example.com"}, None),
        ({"tags": []}, None),
    ],
)
def test_what_makes_a_change(fields: dict[str, Any], changed: tuple[str, ...] | None) -> None:
    change = detect(document().body, document(**fields).body)
    assert (change.changed if change else None) == changed


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"id": None}, "id: missing"),
        ({"id": ".."}, "id: not an id"),
        ({"id": "a/b"}, "id: not an id"),
        ({"id": "x" * 51}, "id: not an id"),
        ({"id": "cus_ä"}, "id: not an id"),
        ({"email": 7}, "email: not a text"),
        ({"revision": "7"}, "revision: not a count"),
        ({"revision": True}, "revision: not a count"),
        ({"revision": -1}, "revision: not a count"),
        ({"updatedTime": "yesterday"}, "updatedTime: not a date-time since 1970"),
        ({"createdTime": 7}, "createdTime: not a text"),
        ({"primaryAddress": []}, None),
        ({"primaryAddress": "x"}, "primaryAddress: not an object"),
        ({"customFields": [1]}, "customFields: not an object"),
        ({"taxNumbers": [1]}, "taxNumbers: an entry: not an object"),
    ],
)
def test_a_row_that_breaks_a_rule_is_refused_with_a_reason(fields: dict[str, Any], reason: str | None) -> None:
    result = customer(FULL | fields, "customers.list")
    if reason is None:
        assert isinstance(result, Document)
    else:
        assert isinstance(result, Reject)
        assert result.reason == reason
        assert result.uid == (None if "id" in fields else "cus_0A1")


def test_what_a_row_says_of_its_tags() -> None:
    at = instant("2026-11-21T08:15:30Z")
    assert told(FULL) == Told({"tag_1": "VIP", "tag_2": "new"}, at, 7)
    assert told(FULL | {"tags": []}) == Told({}, at, 7)
    assert told(FULL | {"tags": [{"id": "t"}, {"id": "k", "type": "kyc-document"}]}) == Told({"t": "t"}, at, 7)
    assert told({"id": "x", "tags": [], "revision": "7", "updatedTime": "x"}) == Told({}, 0, 0)
    for tags in (None, "x", [1], [{"name": "VIP"}], [{"id": "a/b"}]):
        assert told(FULL | {"tags": tags}) is None
    assert told({name: value for name, value in FULL.items() if name != "tags"}) is None
    assert told("x") is None


def test_a_fingerprint_is_that_of_what_counts() -> None:
    reordered = FULL | {"tags": TAGS[::-1], "paymentCount": 99, "_links": []}
    assert fingerprint_of(FULL) == fingerprint_of(reordered)
    assert fingerprint_of(FULL) != fingerprint_of(FULL | {"tags": TAGS[:1]})
    assert fingerprint_of(FULL) != fingerprint_of(FULL | {"websiteId": "web_2"})
    assert fingerprint_of(FULL) != fingerprint_of(FULL | {"revision": 8})


def test_a_tag_in_our_words() -> None:
    row = {
        "id": "tag_1",
        "name": "VIP+ gold",
        "type": "customer",
        "createdTime": "2024-01-01T00:00:00Z",
        "updatedTime": "2024-01-02T00:00:00.500Z",
        "_links": [],
    }
    result = tag(row, "tags.list")
    assert isinstance(result, Document)
    assert result.version == instant("2024-01-02T00:00:00.5Z")
    assert result.body == {
        "uid": "tag_1",
        "name": "VIP+ gold",
        "created_at": "2024-01-01T00:00:00Z",
        "updated_at": "2024-01-02T00:00:00.500Z",
        "extra": {"type": "customer"},
    }
    Tag.model_validate(result.body)
    assert tag(row | {"type": "kyc-document"}, "tags.list") is None
    assert tag(row | {"type": "aml-check", "id": None}, "tags.list") is None
    for bad in (row | {"name": None}, row | {"id": None}, "x"):
        assert isinstance(tag(bad, "tags.list"), Reject)
