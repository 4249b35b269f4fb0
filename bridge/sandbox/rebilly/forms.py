"""What Rebilly accepts in the body of a write, and how it is kept in the world's words.

Read-only and unknown members are ignored. Everything that is wrong with a body is named at once, in `invalidFields`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from typing import Any

import orjson

from bridge.model import Body
from bridge.sandbox.rebilly.documents import EXTRA, primary
from bridge.sandbox.rebilly.problems import Invalid, Problem, invalid

ID = re.compile(r"[@~\-\.\w]{1,50}", re.ASCII)
TAG_NAME = re.compile(r"[@~\-\.\w\s+]{1,255}", re.ASCII)
LOCALE = re.compile(r"[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8})*", re.ASCII)
COUNTRY = re.compile(r"[A-Z]{2}", re.ASCII)
POSTAL_CODE = re.compile(r"[\w\s\-]{1,10}")

TAG_TYPES = ("customer", "kyc-document", "aml-check")
VANISHING = frozenset({".", ".."})
"""Names that do not survive the normalisation of a URL."""
CUSTOMER_IDS_MAX = 1_000
"""Customers in one bulk call."""

Check = Callable[[Any], str | None]
"""What is wrong with a JSON value nobody has looked at yet (so `Any`), None when it is right."""


def parsed(body: bytes | None) -> Body:
    """The object in a body."""
    try:
        value = orjson.loads(body or b"")
    except orjson.JSONDecodeError:
        raise Problem(422, "the body is not JSON") from None
    if not isinstance(value, dict):
        raise Problem(422, "the body must be an object")
    return value


# Tags.


def tag_form(body: Body, *, old: Body | None = None) -> tuple[str, str]:
    """Name and type of a new tag, or of a renamed one, whose type stays."""
    name, kind = body.get("name"), body.get("type") if old is None else old.get("type", "customer")
    wrong: list[Invalid] = []
    if not isinstance(name, str) or TAG_NAME.fullmatch(name) is None or name in VANISHING:
        wrong.append(("name", "must be 1 to 255 letters, digits, spaces or one of _@~-.+"))
    if kind not in TAG_TYPES:
        wrong.append(("type", f"must be one of {', '.join(TAG_TYPES)}"))
    if wrong or not isinstance(name, str):
        raise Problem(422, "the tag is not valid", wrong)
    return name, str(kind)


def customer_ids_form(body: Body) -> list[str]:
    """The customers of a bulk call, each once, in order."""
    uids = body.get("customerIds")
    if not isinstance(uids, list) or not 1 <= len(uids) <= CUSTOMER_IDS_MAX:
        raise invalid("customerIds", f"must be a list of 1 to {CUSTOMER_IDS_MAX} ids")
    wrong = [(f"customerIds.{i}", "is not an id") for i, uid in enumerate(uids) if not _is_id(uid)]
    if wrong:
        raise Problem(422, "some ids are not valid", wrong)
    return list(dict.fromkeys(uids))


# Customers.


def customer_form(body: Body) -> Body:
    """The world's fields for a customer that is to be exactly this; None for each that is not given."""
    wrong = [(name, message) for name, check in FIELDS.items() for message in [check(body.get(name))] if message]
    address = body.get("primaryAddress")
    if isinstance(address, dict):
        wrong += _wrong_with_contact(address)
    if wrong:
        raise Problem(422, "the customer is not valid", wrong)
    fields: Body = {name: body.get(name) or None for name in EXTRA}
    fields |= {"metadata": body.get("customFields") or None}
    fields |= dict.fromkeys(("attributes", "status", "marketing_consent"))
    return fields | _apart(address or {})


def _apart(address: Body) -> Body:
    """A contact in the world's words; what they have no word for stays in `primaryAddress`."""
    phones, mails = address.get("phoneNumbers") or [], address.get("emails") or []
    home = {
        "address_line": address.get("address"),
        "address_line_2": address.get("address2"),
        "postal_place": address.get("city"),
        "region": address.get("region"),
        "country": address.get("country"),
        "postal_code": address.get("postalCode"),
    }
    home = {name: value for name, value in home.items() if value is not None}
    kept = {"phoneNumbers": _numbered(phones), "emails": _numbered(mails), "jobTitle": address.get("jobTitle")}
    return {
        "first_name": address.get("firstName"),
        "last_name": address.get("lastName"),
        "date_of_birth": address.get("dob"),
        "phone_number": phones[primary(phones)]["value"] if phones else None,
        "email": mails[primary(mails)]["value"] if mails else None,
        "addresses": [home | {"type": "home"}] if home else None,
        "company": {"bussiness_name": address["organization"]} if address.get("organization") else None,
        "primaryAddress": {name: value for name, value in kept.items() if value} or None,
    }


def _numbered(values: Sequence[Body]) -> list[Body]:
    return [{"label": v.get("label"), "value": v["value"], "primary": bool(v.get("primary"))} for v in values]


def _wrong_with_contact(address: Body) -> Iterator[Invalid]:
    for name, check in CONTACT_FIELDS.items():
        if message := check(address.get(name)):
            yield f"primaryAddress.{name}", message
    for name, chars_max in (("phoneNumbers", 50), ("emails", 255)):
        values = address.get(name) or []
        if not isinstance(values, list):
            yield f"primaryAddress.{name}", "must be a list"
            continue
        for i, value in enumerate(values):
            place = f"primaryAddress.{name}.{i}"
            if not isinstance(value, dict):
                yield place, "must be an object"
            elif not isinstance(value.get("value"), str) or not 1 <= len(value["value"]) <= chars_max:
                yield f"{place}.value", f"must be a text of 1 to {chars_max} characters"
            elif message := _text(45)(value.get("label")):
                yield f"{place}.label", message


# The shape of each field.


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and ID.fullmatch(value) is not None and value not in VANISHING


def well_formed_id(value: str) -> str:
    """An id chosen by the caller."""
    if not _is_id(value):
        raise invalid("id", "must be 1 to 50 letters, digits or one of _@~-.")
    return value


def _id(value: Any) -> str | None:
    return None if value is None or _is_id(value) else "is not an id"


def _text(chars_max: int, pattern: re.Pattern[str] | None = None) -> Check:
    def check(value: Any) -> str | None:
        if value is None:
            return None
        if not isinstance(value, str) or len(value) > chars_max:
            return f"must be a text of at most {chars_max} characters"
        return "has not the right form" if pattern and not pattern.fullmatch(value) else None

    return check


def _object(value: Any) -> str | None:
    return None if value is None or isinstance(value, dict) else "must be an object"


def _date(value: Any) -> str | None:
    try:
        right = value is None or date.fromisoformat(value).isoformat() == value
    except (TypeError, ValueError):
        right = False
    return None if right else "must be a date"


def _tax_numbers(value: Any) -> str | None:
    numbers = [] if value is None else value
    if not isinstance(numbers, list):
        return "must be a list"
    right = all(
        isinstance(one, dict) and all(isinstance(one.get(k), str) for k in ("type", "value")) for one in numbers
    )
    return None if right else "each needs a type and a value"


def _mails(value: Any) -> str | None:
    mails = [] if value is None else value
    right = isinstance(mails, list) and all(isinstance(mail, str) and "@" in mail for mail in mails)
    return None if right else "must be a list of mail addresses"


FIELDS: dict[str, Check] = {
    "websiteId": _id,
    "primaryAddress": _object,
    "customFields": _object,
    "locale": _text(35, LOCALE),
    "taxNumbers": _tax_numbers,
    "personId": _id,
    "notificationEmails": _mails,
    "preferredPayoutInstrumentId": _id,
    # Accepted, and never seen again.
    "paymentToken": _text(255),
    "defaultPaymentInstrumentId": _id,
    "leadSource": _object,
}
CONTACT_FIELDS: dict[str, Check] = {
    "firstName": _text(45),
    "lastName": _text(45),
    "organization": _text(255),
    "address": _text(60),
    "address2": _text(60),
    "city": _text(45),
    "region": _text(45),
    "country": _text(2, COUNTRY),
    "postalCode": _text(10, POSTAL_CODE),
    "dob": _date,
    "jobTitle": _text(255),
}
