"""What the API accepts in the body of a write: the writable fields of a customer and their shapes.

Read-only and unknown fields are ignored, as the provider does; a wrong value is a 400 that names the field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

from bridge.errors import RequestRefused
from bridge.model import Body
from bridge.sandbox.population.customers import TYPES

CUSTOMER_ID_CHARS_MAX = 255
PHONE = re.compile(r"\+?[1-9]\d{1,14}", re.ASCII)
"""E.164."""
ADDRESS_TYPES = ("custom", "home", "other", "work")

Check = Callable[[Any], bool]
"""`Any`: a JSON value nobody has looked at yet."""


def customer_form(body: Any) -> Body:
    """The writable fields of a create or update, checked one by one. `Any`: parsed JSON."""
    if not isinstance(body, dict):
        raise RequestRefused("the body must be an object", status=400)
    fields = {name: body[name] for name in FIELDS if name in body}
    for name, value in fields.items():
        if not FIELDS[name](value):
            raise RequestRefused(f"{name} is not valid", status=400)
    return fields


def new_customer_form(body: Any) -> Body:
    """The same for a create, with `customer_id`. `Any`: parsed JSON."""
    fields = customer_form(body)
    if body.get("customer_id") is not None:
        fields["customer_id"] = customer_id_form(body)
    whole_customer(fields)
    return fields


def whole_customer(document: Mapping[str, Any]) -> None:
    """Rules across fields, on the customer as it would be. `Any`: JSON values."""
    kind, company = document.get("type") or TYPES[0], document.get("company")
    if kind == "company" and not company:
        raise RequestRefused("company is required for type company", status=400)
    if company and kind not in {"company", "other"}:
        raise RequestRefused("company is allowed for types company and other only", status=400)
    if document.get("contact_for") and kind != "contact":
        raise RequestRefused("contact_for is allowed for type contact only", status=400)


def customer_id_form(body: Any) -> str:
    """The `customer_id` of a body: 1 to 255 characters, no spaces around. `Any`: parsed JSON."""
    customer_id = body.get("customer_id") if isinstance(body, dict) else None
    if not isinstance(customer_id, str) or not 1 <= len(customer_id) <= CUSTOMER_ID_CHARS_MAX:
        raise RequestRefused(f"customer_id must have 1 to {CUSTOMER_ID_CHARS_MAX} characters", status=400)
    if customer_id != customer_id.strip():
        raise RequestRefused("customer_id must not begin or end with a space", status=400)
    return customer_id


def tag_form(body: Any) -> tuple[str, Body | None]:
    """Name and metadata of a new tag. `Any`: parsed JSON."""
    if not isinstance(body, dict) or not isinstance(body.get("tag"), str) or not body["tag"]:
        raise RequestRefused("tag is required", status=400)
    if not _object(body.get("metadata")):
        raise RequestRefused("metadata is not valid", status=400)
    return body["tag"], body.get("metadata")


def tag_ids_form(body: Any) -> list[str]:
    """A list of tag ids. `Any`: parsed JSON."""
    if not isinstance(body, list) or not all(isinstance(tag, str) for tag in body):
        raise RequestRefused("the body must be an array of tag ids", status=400)
    return body


# The shape of each field.


def _string(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _object(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def _date(value: Any) -> bool:
    if value is None:
        return True
    try:
        return isinstance(value, str) and date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


def _addresses(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(_address(address) for address in value))


def _address(address: Any) -> bool:
    if not isinstance(address, dict) or address.get("type") not in {None, *ADDRESS_TYPES}:
        return False
    return all(isinstance(address.get(name), str) for name in ("address_line", "postal_place", "country"))


def _consents(value: Any) -> bool:
    if not isinstance(value, dict):
        return value is None
    return all(isinstance(one, dict) and isinstance(one.get("consent"), bool) for one in value.values())


def _company(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and isinstance(value.get("bussiness_name"), str))


def _contact_for(value: Any) -> bool:
    if not isinstance(value, list):
        return value is None
    return all(isinstance(one, dict) and isinstance(one.get("customer_id"), str) for one in value)


FIELDS: dict[str, Check] = {
    "type": lambda value: value in TYPES,
    "first_name": _string,
    "last_name": _string,
    "email": lambda value: value is None or (isinstance(value, str) and "@" in value),
    "phone_number": lambda value: value is None or (isinstance(value, str) and bool(PHONE.fullmatch(value))),
    "status": _string,
    "favorite_store": _string,
    "gender": _string,
    "date_of_birth": _date,
    "metadata": _object,
    "attributes": _object,
    "enrolled_by": lambda value: value is None or (isinstance(value, dict) and "value" in value),
    "marketing_consent": _consents,
    "addresses": _addresses,
    "term": _object,
    "company": _company,
    "contact_for": _contact_for,
}
"""Writable fields. `password` and `pin` are accepted too, and never seen again."""
