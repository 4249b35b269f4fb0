"""Models: one row of Rebilly's lists → a document in our words, or a rejected row; and the tags that it says it has.

As strict and as open as the models of every provider (see `source.fields`). The shape of the result is described in the
package's docstring. Amounts and counters that move by themselves are left out of the document altogether: kept, they
would be old in every event.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from bridge.model import Body, Document, Reject, Told, instant
from bridge.source.fields import (
    Refused,
    Row,
    canonical,
    keep,
    moment_of,
    object_of,
    set_of_objects,
    set_of_texts,
    stamp,
    text,
)

ID = re.compile(r"[@~\-.\w]{1,50}", re.ASCII)
"""A resource's id; never a dot name, which would vanish from a path."""

CUSTOMER = "customer"
"""The type of a tag that fits customers; the list of tags has others too."""

LEFT_OUT = frozenset(
    {
        "id",
        "tags",
        "paymentCount",
        "invoiceCount",
        "lastPaymentTime",
        "lifetimeRevenue",
        "averageValue",
        "_links",
        "_embedded",
        "paymentToken",
        "defaultPaymentInstrumentId",
        "leadSource",
    }
)
"""Of a customer: what is told otherwise, what moves by itself or follows from the rest, and what is only written."""

_CUSTOMER_TEXTS = {"email": "email", "firstName": "first_name", "lastName": "last_name"}

_ADDRESS = {
    "address": "address_line",
    "address2": "address_line_2",
    "city": "postal_place",
    "region": "region",
    "postalCode": "postal_code",
    "country": "country",
}
"""Of a contact: the parts of a postal address, in the words that addresses have for every provider."""


def is_id(value: object) -> bool:
    """Whether this can be the id of anything."""
    return type(value) is str and ID.fullmatch(value) is not None and value not in (".", "..")


def customer(row: object, endpoint: str) -> Document | Reject:
    """One entry of the customer list, or the answer to reading one customer."""
    uid = uid_of(row)
    if uid is None or not isinstance(row, dict):
        return _nobody(row, endpoint)
    try:
        return _customer(uid, row)
    except Refused as refused:
        return Reject(uid, endpoint, str(refused), orjson.dumps(row))


def tag(row: object, endpoint: str) -> Document | Reject | None:
    """One entry of the tag list; None when it is no tag of customers."""
    uid = uid_of(row)
    if isinstance(row, dict) and isinstance(kind := row.get("type"), str) and kind != CUSTOMER:
        return None
    if uid is None or not isinstance(row, dict):
        return _nobody(row, endpoint)
    try:
        return _tag(uid, row)
    except Refused as refused:
        return Reject(uid, endpoint, str(refused), orjson.dumps(row))


def told(row: object) -> Told | None:
    """The tags that a row says its customer has; None when it does not say, or not in a usable form.

    A row without the member says nothing: that it has none must not follow from what was not asked for.
    """
    entries = row.get("tags") if isinstance(row, dict) else None
    if not isinstance(entries, list):
        return None
    found: dict[str, str] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not is_id(entry.get("id")):
            return None
        if entry.get("type", CUSTOMER) == CUSTOMER:
            name = entry.get("name")
            found[entry["id"]] = name if isinstance(name, str) and name else entry["id"]
    revision = row.get("revision") if isinstance(row, dict) else None
    return Told(found, time_of(row, "updatedTime") or 0, revision if type(revision) is int and revision > 0 else 0)


def uid_of(row: object) -> str | None:
    """The uid of a row, whatever else is wrong with it; None when it has none."""
    uid = row.get("id") if isinstance(row, dict) else None
    return uid if type(uid) is str and is_id(uid) else None


def time_of(row: object, field: str) -> int | None:
    """A date-time of a row in microseconds, as far as it can be read."""
    value = row.get(field) if isinstance(row, dict) else None
    try:
        return instant(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _nobody(row: object, endpoint: str) -> Reject:
    if not isinstance(row, dict):
        return Reject(None, endpoint, "the row is not an object", orjson.dumps(row))
    return Reject(None, endpoint, "id: missing" if row.get("id") is None else "id: not an id", orjson.dumps(row))


def _customer(uid: str, row: Row) -> Document:
    body: Body = {"uid": uid, "customer_id": uid}
    extra: Body = {}
    version = revision = 0
    for name, value in row.items():
        if name in LEFT_OUT or (not value and (value is None or value in ({}, []))):
            continue
        if name in _CUSTOMER_TEXTS:
            body[_CUSTOMER_TEXTS[name]] = text(name, value)
        elif name == "updatedTime":
            version, body["updated_at"] = moment_of(name, value)
        elif name == "createdTime":
            body["created_at"] = stamp(name, value)
        elif name == "revision":
            revision = extra[name] = _revision(name, value)
        elif name == "customFields":
            if found := object_of(name, value):
                body["attributes"] = found
        elif name == "company":
            if found := object_of(name, value):
                body[name] = found
        elif name == "primaryAddress":
            _contact(name, value, row, body, extra)
        elif name == "taxNumbers":
            extra[name] = set_of_objects(name, value)
        elif name == "notificationEmails":
            extra[name] = set_of_texts(name, value)
        else:
            keep(name, value, extra)
    if extra:
        body["extra"] = extra
    return Document(uid, body, version, revision)


def _contact(name: str, value: Any, row: Row, body: Body, extra: Body) -> None:
    """A contact is a postal address, a birthday, telephone numbers, and the rest. `Any`: nothing of it is checked."""
    contact = object_of(name, value)
    if address := {_ADDRESS[part]: member for part, member in contact.items() if part in _ADDRESS}:
        body["addresses"] = [address]
    if "dob" in contact:
        body["date_of_birth"] = text(f"{name}: dob", contact["dob"])
    rest = {part: member for part, member in contact.items() if part not in _ADDRESS and part not in ("dob", "hash")}
    for part in ("firstName", "lastName"):
        if part in rest and rest[part] == row.get(part):
            del rest[part]  # the customer's own is made of it
    for part in ("phoneNumbers", "emails"):
        if part in rest:
            rest[part] = set_of_objects(f"{name}: {part}", rest[part])
    if number := _primary(rest.get("phoneNumbers", [])):
        body["phone_number"] = number
    if rest:
        extra[name] = rest


def _primary(entries: list[Body]) -> str | None:
    """Of telephone numbers in canonical order, the one that is said to be the first, else the first."""
    for entry in (*(entry for entry in entries if entry.get("primary") is True), *entries):
        if isinstance(entry.get("value"), str):
            return str(entry["value"])
    return None


def _tag(uid: str, row: Row) -> Document:
    body: Body = {"uid": uid}
    extra: Body = {}
    version = 0
    for name, value in row.items():
        if name in ("id", "_links") or (not value and (value is None or value in ({}, []))):
            continue
        if name == "name":
            body[name] = text(name, value)
        elif name == "updatedTime":
            version, body["updated_at"] = moment_of(name, value)
        elif name == "createdTime":
            body["created_at"] = stamp(name, value)
        else:
            keep(name, value, extra)
    if "name" not in body:
        raise Refused("name: missing")
    if extra:
        body["extra"] = extra
    return Document(uid, body, version)


def _revision(name: str, value: Any) -> int:
    """A count; `Any`: the provider's JSON."""
    if type(value) is not int or value < 0:
        raise Refused(f"{name}: not a count")
    return value


def fingerprint_of(row: Row) -> bytes:
    """What two rows have in common that make the same document and have the same tags, in whatever order."""
    tags = told(row)
    kept = {name: value for name, value in row.items() if name not in LEFT_OUT}
    return canonical({**kept, "tags": None if tags is None else sorted(tags.tags)})
