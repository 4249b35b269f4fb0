"""From the provider's rows to our documents: what is kept, what is equal, what is refused."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.event.documents import Customer, Tag
from bridge.model import Document, Gone, Reject, instant
from bridge.source.dintero.models import change_time, customer, tag
from tests.source.rows import UID, customer_row, tag_row

ENDPOINT = "customers.list"


def document(**fields: Any) -> Document:
    result = customer(customer_row(**fields), ENDPOINT)
    assert isinstance(result, Document), result
    return result


def reason(row: object) -> str:
    result = customer(row, ENDPOINT)
    assert isinstance(result, Reject), result
    assert orjson.loads(result.raw) == row
    assert result.endpoint == ENDPOINT
    return result.reason


FULL: dict[str, Any] = {
    "first_name": "Åse",
    "last_name": "Nordmann",
    "email": "Ase@Example.com",
    "phone_number": "+4791234567",
    "status": "active",
    "favorite_store": "oslo-1",
    "gender": "f",
    "date_of_birth": "1980-02-29",
    "company": {"bussiness_name": "Acme AS", "number_of_employees": "12"},
    "addresses": [{"address_line": "Storgata 1", "postal_place": "Oslo", "postal_code": "0155", "country": "NO"}],
    "marketing_consent": {"sms": {"consent": True, "updated_at": "2026-01-01T10:00:00.000Z"}},
    "attributes": {"shoe_size": 42},
    "metadata": {"crm": "4711"},
    "created_by": "admin-1",
    "enrolled_by": {"type": "web", "value": None},
    "term": {"id": "t-1", "accepted_at": "2026-01-01T11:00:00+01:00"},
    "contact_for": [{"customer_id": "c-2"}, {"customer_id": "c-1"}],
    "brand_new_field": {"deep": [{"x": None}, 1]},
}


def test_a_customer_in_our_words() -> None:
    result = document(**FULL)
    assert result.uid == UID
    assert result.version == instant("2026-11-21T08:15:30Z")
    assert result.body == {
        "uid": UID,
        "customer_id": "c-1001",
        "type": "customer",
        "created_at": "2024-11-21T08:15:30Z",
        "updated_at": "2026-11-21T08:15:30Z",
        "first_name": "Åse",
        "last_name": "Nordmann",
        "email": "Ase@Example.com",
        "phone_number": "+4791234567",
        "status": "active",
        "favorite_store": "oslo-1",
        "gender": "f",
        "date_of_birth": "1980-02-29",
        "company": {"bussiness_name": "Acme AS", "number_of_employees": "12"},
        "addresses": [{"address_line": "Storgata 1", "postal_place": "Oslo", "postal_code": "0155", "country": "NO"}],
        "consents": {"sms": {"consent": True, "updated_at": "2026-01-01T10:00:00Z"}},
        "attributes": {"shoe_size": 42},
        "metadata": {"crm": "4711"},
        "extra": {
            "created_by": "admin-1",
            "enrolled_by": {"type": "web"},
            "term": {"id": "t-1", "accepted_at": "2026-01-01T10:00:00Z"},
            "contact_for": [{"customer_id": "c-1"}, {"customer_id": "c-2"}],
            "brand_new_field": {"deep": [{}, 1]},
        },
    }
    Customer.model_validate(result.body)


def test_a_tag_in_our_words() -> None:
    result = tag(
        tag_row(metadata={"a": {"b": None}, "c": "d"}, created_by="x", updated_at="2026-01-01T00:00:00Z"), "tags.list"
    )
    assert isinstance(result, Document)
    assert result.body == {
        "uid": UID,
        "name": "VIP",
        "metadata": {"c": "d"},
        "created_at": "2024-11-21T08:15:30Z",
        "updated_at": "2026-01-01T00:00:00Z",
        "extra": {"created_by": "x"},
    }
    assert result.version == instant("2026-01-01T00:00:00Z")
    Tag.model_validate(result.body)


@pytest.mark.parametrize("name", sorted(FULL))
@pytest.mark.parametrize("nothing", [None, {}, []])
def test_null_and_empty_are_absent(name: str, nothing: Any) -> None:
    assert document(**{name: nothing}) == document()


@given(st.randoms(use_true_random=False))
def test_the_order_of_fields_and_of_sets_means_nothing(rng: random.Random) -> None:
    row = customer_row(**FULL)
    row["addresses"] = [{"address_line": str(number), "type": "home"} for number in range(4)]
    shuffled = {name: row[name] for name in rng.sample(sorted(row), len(row))}
    shuffled["addresses"] = rng.sample(row["addresses"], 4)
    shuffled["contact_for"] = rng.sample(row["contact_for"], 2)
    assert customer(shuffled, ENDPOINT) == customer(row, ENDPOINT)


@pytest.mark.parametrize(
    "spelling",
    [
        "2026-11-21T08:15:30Z",
        "2026-11-21T08:15:30.000Z",
        "2026-11-21T08:15:30.000000Z",
        "2026-11-21T09:15:30+01:00",
        "2026-11-21T08:15:30+00:00",
        "2026-11-21 08:15:30Z",
        "2026-11-21T08:15:30",
        "20261121T081530.000Z",
        "2026-W47-6T08:15:30Z",
        "20261121T081530.00Z",
        "2026-11-21T081530.0Z",
    ],
)
def test_one_instant_in_any_spelling_is_one_text(spelling: str) -> None:
    assert document(updated_at=spelling, created_at=spelling) == document(created_at="2026-11-21T08:15:30Z")


def test_fractions_are_kept_in_their_shortest_form() -> None:
    assert document(updated_at="2026-11-21T08:15:30.120Z").body["updated_at"] == "2026-11-21T08:15:30.120Z"
    assert document(updated_at="2026-11-21T08:15:30.120400Z").body["updated_at"] == "2026-11-21T08:15:30.120400Z"


@pytest.mark.parametrize(
    "value",
    [
        "yesterday",
        "2026-13-01T00:00:00Z",
        "2026-11-21",
        "2016-12-31T23:59:60Z",
        "1969-12-31T23:59:59Z",
        "",
        17,
        True,
        "9" * 5000,
    ],
)
@pytest.mark.parametrize("name", ["updated_at", "created_at"])
def test_a_time_that_is_none_rejects_the_row(name: str, value: Any) -> None:
    text = reason(customer_row(**{name: value}))
    assert text.startswith(f"{name}: not a ")


def test_a_row_without_change_time_has_version_zero() -> None:
    row = customer_row()
    del row["updated_at"]
    result = customer(row, ENDPOINT)
    assert isinstance(result, Document)
    assert result.version == 0


@pytest.mark.parametrize(
    "name", ["type", "status", "email", "first_name", "phone_number", "date_of_birth", "gender", "customer_id"]
)
@pytest.mark.parametrize("value", [7, 1.5, True, ["canary"], {"canary": 1}])
def test_a_text_of_another_type_rejects_the_row(name: str, value: Any) -> None:
    assert reason(customer_row(**{name: value})) == f"{name}: not a text"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"id": None}, "id: missing"),
        ({"id": 17}, "id: not a UUID"),
        ({"id": "canary / at all"}, "id: not a UUID"),
        ({"id": UID + "\n"}, "id: not a UUID"),
        ({"customer_id": None}, "customer_id: missing"),
        ({"customer_id": ""}, "customer_id: missing"),
        ({"customer_id": "x" * 256}, "customer_id: longer than 255 characters"),
        ({"metadata": ["canary"]}, "metadata: not an object"),
        ({"metadata": "canary"}, "metadata: not an object"),
        ({"attributes": [1]}, "attributes: not an object"),
        ({"company": "canary"}, "company: not an object"),
        ({"addresses": {"a": "canary"}}, "addresses: not a list"),
        ({"addresses": ["canary"]}, "addresses: an entry: not an object"),
        ({"marketing_consent": {"sms": True}}, "marketing_consent: an entry is not an object"),
        ({"marketing_consent": {"sms": {"consent": "canary"}}}, "marketing_consent: consent is not a boolean"),
        (
            {"marketing_consent": {"a": {"updated_at": "canary"}}},
            "marketing_consent: updated_at: not a date-time since 1970",
        ),
        ({"term": {"accepted_at": 7}}, "term: accepted_at: not a text"),
        ({"contact_for": "canary"}, "contact_for: not a list"),
        ({"enrolled_by": "canary"}, "enrolled_by: not an object"),
    ],
)
def test_a_rejection_names_field_and_rule_and_never_a_value(fields: dict[str, Any], text: str) -> None:
    row = customer_row(**fields)
    assert reason(row) == text
    result = customer(row, ENDPOINT)
    assert isinstance(result, Reject)
    assert result.uid == (None if "id" in fields else UID)


@pytest.mark.parametrize("row", [None, 7, "canary", [], True, [{"id": UID}]])
def test_a_row_that_is_no_object_is_rejected(row: object) -> None:
    assert reason(row) == "the row is not an object"


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "robot"},
        {"gender": "unheard of"},
        {"company": {"bussiness_name": "x", "number_of_employees": 12}},
        {"addresses": [{"latitude": "59.9", "type": "moon"}]},
        {"insecure_ssl": "1", "unknown": 7},
        {"first_name": ""},
        {"status": "\x00\u202e😀e\u0301"},
        {"customer_id": "a/b+c ..%2f?#\r\n\x00"},
    ],
)
def test_what_the_provider_may_do_is_kept_as_it_is(fields: dict[str, Any]) -> None:
    body = document(**fields).body
    flat = {**body, **body.get("extra", {})}
    assert {name: flat[name] for name in fields} == fields


def test_rename_records_leave_the_metadata_and_are_ordered_by_time() -> None:
    def record(old: str, new: str, at: str) -> dict[str, str]:
        return {"old": old, "new": new, "created_at": at, "created_by": "x"}

    metadata = {
        "dintero_change_customer_id_2.b": record("b", "c", "2026-02-01T00:00:00.000Z"),
        "crm": "1",
        "dintero_change_customer_id_1.a": record("a", "b", "2026-01-31T23:59:59Z"),
        "dintero_change_customer_id_x": "odd",
        "dintero_change_customer_id_y": {"created_at": "odd"},
    }
    body = document(metadata=metadata).body
    assert body["metadata"] == {"crm": "1"}
    changes = body["extra"]["customer_id_changes"]
    assert changes[2:] == [record("a", "b", "2026-01-31T23:59:59Z"), record("b", "c", "2026-02-01T00:00:00Z")]
    assert changes[:2] == ["odd", {"created_at": "odd"}]
    only = document(metadata={"dintero_change_customer_id_1.a": record("a", "b", "2026-01-31T23:59:59Z")}).body
    assert "metadata" not in only


def test_a_tombstone_is_a_deletion_whatever_else_it_holds() -> None:
    at = "2026-11-21T09:00:00Z"
    tombstone = {
        "id": UID,
        "customer_id": "c",
        "created_at": at,
        "created_by": "x",
        "deleted_at": at,
        "deleted_by": "y",
    }
    assert customer(tombstone, ENDPOINT) == Gone(UID, instant(at))
    assert customer(customer_row(**FULL, deleted_at=at), ENDPOINT) == Gone(UID, instant(at))
    assert customer({"id": UID, "deleted_at": "odd"}, ENDPOINT) == Gone(UID, 0)
    assert isinstance(customer(customer_row(deleted_at=None), ENDPOINT), Document)


def test_the_change_time_of_a_rejected_row_is_read_where_possible() -> None:
    assert change_time({"updated_at": "2026-11-21T09:00:00Z"}) == instant("2026-11-21T09:00:00Z")
    rows: list[object] = [None, [], {}, {"updated_at": 7}, {"updated_at": "x"}, {"deleted_at": []}]
    for row in rows:
        assert change_time(row) is None


@pytest.mark.parametrize(
    ("fields", "text"),
    [({"tag": None}, "tag: missing"), ({"tag": 7}, "tag: not a text"), ({"metadata": 7}, "metadata: not an object")],
)
def test_a_bad_tag_is_rejected(fields: dict[str, Any], text: str) -> None:
    result = tag(tag_row(**fields), "tags.list")
    assert isinstance(result, Reject)
    assert (result.uid, result.reason) == (UID, text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = st.sampled_from([*FULL, "id", "customer_id", "updated_at", "created_at", "deleted_at", "type", "extra", "uid"])


@given(st.dictionaries(NAMES | st.text(max_size=3), JSON, max_size=5))
def test_no_row_crashes_the_mapping_or_is_changed_by_it(fields: dict[str, Any]) -> None:
    row = customer_row(**FULL) | fields
    before = orjson.dumps(row) if all(name.isprintable() for name in row) else None
    for read in (customer, tag):
        result = read(row, ENDPOINT)
        if isinstance(result, Document):
            assert _has_no_null(result.body)
            assert result.body["uid"] == row["id"]
    if before is not None:
        assert orjson.dumps(row) == before


def _has_no_null(value: Any) -> bool:
    if isinstance(value, dict):
        return all(member not in (None, {}, []) and _has_no_null(member) for member in value.values())
    return True
