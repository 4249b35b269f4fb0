"""Documents: a customer and a tag of the world as Rebilly shows them. Pure, so that a checker can do the same.

The world keeps people in the words of Dintero; here they get Rebilly's. `forms` is the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple
from urllib.parse import quote
from zlib import crc32

import orjson

from bridge.model import Body
from bridge.sandbox.rebilly.filters import Field, Kind

ORIGIN = "https://api-sandbox.rebilly.com"

EXTRA = ("websiteId", "locale", "taxNumbers", "personId", "notificationEmails", "preferredPayoutInstrumentId")
"""Writable fields that only Rebilly has; the world keeps them under these names."""

CURRENCY = "NOK"
DOLLARS = 0.1
"""Of one krone."""


class View(NamedTuple):
    """How documents are shown. base: of links, without a slash at the end. zone: how instants end."""

    organization: str
    base: str = ""
    zone: str = "Z"

    def href(self, *segments: str) -> str:
        """The address of something."""
        return "/".join((self.base, *(quote(segment, safe="") for segment in segments)))

    def time(self, text: str | None) -> str | None:
        """An instant of the world."""
        return None if text is None else text.removesuffix("Z") + self.zone


def tag(document: Body, view: View) -> Body:
    """A tag object."""
    return {
        "id": document["id"],
        "name": document["tag"],
        "type": document.get("type", "customer"),
        "createdTime": view.time(document["created_at"]),
        "updatedTime": view.time(document["updated_at"]),
        "_links": [{"rel": "self", "href": view.href("tags", document["tag"])}],
    }


def customer(document: Body, tags: Sequence[Body], view: View, only: Iterable[str] | None = None) -> Body:
    """A customer object; `tags`: those of the world that it has, in order. only: these members, where they exist."""
    names = FIELDS.keys() if only is None else [name for name in FIELDS if name in {"id", *only}]
    return {name: FIELDS[name](document, tags, view) for name in names}


def embedded(document: Body, expand: Iterable[str], view: View) -> Body:
    """What stands under `_embedded` on demand; other names are passed over."""
    known = {
        "leadSource": {"customerId": document["id"], "medium": None, "source": None},
        "website": document.get("websiteId") and {"id": document["websiteId"], "organizationId": view.organization},
    }
    return {name: known[name] for name in expand if known.get(name)}


# The contact.


def contact(document: Body) -> Body | None:
    """`primaryAddress`, None when nothing is known of it."""
    stored: Body = document.get("primaryAddress") or {}
    home: Body = (document.get("addresses") or [{}])[0]
    shown: Body = {
        "firstName": document.get("first_name"),
        "lastName": document.get("last_name"),
        "organization": (document.get("company") or {}).get("bussiness_name"),
        "address": home.get("address_line"),
        "address2": home.get("address_line_2"),
        "city": home.get("postal_place"),
        "region": home.get("region"),
        "country": home.get("country"),
        "postalCode": home.get("postal_code"),
        "dob": document.get("date_of_birth"),
        "jobTitle": stored.get("jobTitle"),
        "phoneNumbers": _with_primary(stored.get("phoneNumbers"), document.get("phone_number")),
        "emails": _with_primary(stored.get("emails"), document.get("email")),
    }
    if not any(shown.values()):
        return None
    return shown | {"hash": blake2b(orjson.dumps(shown), digest_size=20).hexdigest()}


def primary(values: Sequence[Body]) -> int:
    """Which phone number or mail address of a contact is the first one; at least one is there."""
    return next((i for i, value in enumerate(values) if value.get("primary")), 0)


def _with_primary(stored: list[Body] | None, value: str | None) -> list[Body]:
    """The list as it was given, its primary value as it is now."""
    if value is None:
        return []
    if not stored:
        return [{"label": "main", "value": value, "primary": True}]
    at = primary(stored)
    return [*stored[:at], {**stored[at], "value": value}, *stored[at + 1 :]]


# The fields.


def custom_fields(document: Body) -> Body:
    """Everything about a person that Rebilly has no field for."""
    fields: Body = {**(document.get("metadata") or {}), **(document.get("attributes") or {})}
    if status := document.get("status"):
        fields["status"] = status
    for channel, given in (document.get("marketing_consent") or {}).items():
        fields[f"{channel}Consent"] = given["consent"]
    return fields


def payments(document: Body) -> int:
    """How often a customer has paid; some did before the world began."""
    count: int = _drawn(document) % 5 + document.get("payments", 0)
    return count


def _drawn(document: Body) -> int:
    # Numbers that differ between customers and never change, without keeping them anywhere.
    return crc32(document["id"].encode())


def _money(document: Body, times: int) -> Body:
    amount = round(times * (10 + _drawn(document) % 990), 2)
    return {"currency": CURRENCY, "amount": amount, "amountUsd": round(amount * DOLLARS, 2)}


def _last_payment(document: Body) -> str | None:
    moment: str | None = document.get("paid_at", document["created_at"] if payments(document) else None)
    return moment


def _links(document: Body, view: View) -> list[Body]:
    links = [
        {"rel": "self", "href": view.href("customers", document["id"])},
        {"rel": "leadSource", "href": view.href("customers", document["id"], "lead-source")},
        {"rel": "attachments", "href": view.href("attachments") + f"?filter=relatedId:{document['id']}"},
    ]
    if website := document.get("websiteId"):
        links.append({"rel": "website", "href": view.href("websites", website)})
    return links


def _plain(name: str, default: object = None) -> Callable[[Body, Sequence[Body], View], Any]:
    return lambda document, _tags, _view: document.get(name, default)


# `Any`: a JSON value.
FIELDS: dict[str, Callable[[Body, Sequence[Body], View], Any]] = {
    "id": _plain("id"),
    "organizationId": lambda _document, _tags, view: view.organization,
    "websiteId": _plain("websiteId"),
    "email": _plain("email"),
    "firstName": _plain("first_name"),
    "lastName": _plain("last_name"),
    "primaryAddress": lambda document, _tags, _view: contact(document),
    "customFields": lambda document, _tags, _view: custom_fields(document),
    "tags": lambda _document, tags, view: [tag(one, view) for one in tags],
    "revision": _plain("revision"),
    "locale": _plain("locale"),
    "taxNumbers": lambda document, _tags, _view: [
        {"isDefault": False, **number, "isValid": None} for number in document.get("taxNumbers", ())
    ],
    "personId": _plain("personId"),
    "notificationEmails": lambda document, _tags, _view: document.get("notificationEmails", []),
    "preferredPayoutInstrumentId": _plain("preferredPayoutInstrumentId"),
    "defaultPaymentInstrument": _plain("defaultPaymentInstrument"),
    "company": lambda _document, _tags, _view: None,
    "hasFulfilledKyc": lambda document, _tags, _view: _drawn(document) % 7 == 0,
    "paymentCount": lambda document, _tags, _view: payments(document),
    "invoiceCount": lambda document, _tags, _view: payments(document),
    "lastPaymentTime": lambda document, _tags, view: view.time(_last_payment(document)),
    "lifetimeRevenue": lambda document, _tags, _view: _money(document, payments(document)),
    "averageValue": lambda document, _tags, _view: _money(document, min(1, payments(document))),
    "createdTime": lambda document, _tags, view: view.time(document["created_at"]),
    "updatedTime": lambda document, _tags, view: view.time(document["updated_at"]),
    "_links": lambda document, _tags, view: _links(document, view),
}
"""A customer's members from the world's document, its tags and the view. What can only be written is not here."""

VOLATILE = frozenset(
    {"paymentCount", "invoiceCount", "lastPaymentTime", "lifetimeRevenue", "averageValue", "_links", "_embedded"}
)
"""Members that move without anybody having changed the customer."""


# What lists can be filtered and sorted by.


def _field(kind: Kind, *path: str) -> Field:
    def read(document: Body) -> Any:
        value: Any = document
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    return Field(kind, read)


def _of_contact(name: str) -> Field:
    return Field("text", lambda document: (contact(document) or {}).get(name))


CUSTOMER_FIELDS: dict[str, Field] = {
    "id": _field("text", "id"),
    "email": _field("text", "email"),
    "firstName": _field("text", "first_name"),
    "lastName": _field("text", "last_name"),
    "websiteId": _field("text", "websiteId"),
    "personId": _field("text", "personId"),
    "createdTime": _field("instant", "created_at"),
    "updatedTime": _field("instant", "updated_at"),
    "paymentCount": Field("number", payments),
    "invoiceCount": Field("number", payments),
    "lastPaymentTime": Field("instant", _last_payment),
    "averageValue.amount": Field("number", lambda document: _money(document, min(1, payments(document)))["amount"]),
    "lifetimeRevenue.amount": Field("number", lambda document: _money(document, payments(document))["amount"]),
    **{
        f"primaryAddress.{name}": _of_contact(name)
        for name in ("firstName", "lastName", "organization", "address", "city", "region", "country", "postalCode")
    },
}
"""By the world's document."""

CUSTOMER_SORTS = (
    frozenset(CUSTOMER_FIELDS)
    - {"id", "firstName", "personId"}
    - {name for name in CUSTOMER_FIELDS if name.startswith("primaryAddress.")}
)

TAG_FIELDS: dict[str, Field] = {
    "id": _field("text", "id"),
    "name": _field("text", "name"),
    "type": _field("text", "type"),
    "createdTime": _field("instant", "createdTime"),
    "updatedTime": _field("instant", "updatedTime"),
}
"""By the tag object."""
