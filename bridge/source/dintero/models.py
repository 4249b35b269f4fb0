"""Models: one row of Dintero's lists → a document in our words, a deletion, or a rejected row.

Checking and mapping are one pass over the row, because they run for every row of every page. Strict where we rely on
a value (ids, texts, times, the shape of containers), open where the provider may grow: unknown fields are kept under
`extra`, unknown enum values pass, numbers may come as text. The shape of the result is described in the package's
docstring. A reason for rejection names the field and the rule, never the value.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson

from bridge.model import Body, Document, Gone, Reject, instant, iso
from bridge.source.fields import (
    Refused,
    Row,
    keep,
    moment_of,
    object_of,
    set_of_objects,
    set_of_texts,
    stamp,
    text,
)

RENAME_PREFIX = "dintero_change_customer_id_"
"""Metadata keys under which the provider records its own renames."""

CUSTOMER_ID_CHARS_MAX = 255

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)


def customer(row: object, endpoint: str) -> Document | Gone | Reject:
    """One entry of the customer list, or the answer to reading one customer."""
    return _mapped(row, endpoint, _customer)


def tag(row: object, endpoint: str) -> Document | Gone | Reject:
    """One entry of the tag list."""
    return _mapped(row, endpoint, _tag)


def user(row: object, endpoint: str) -> Document | Gone | Reject:
    """One entry of the list of management users."""
    return _mapped(row, endpoint, _user)


def change_time(row: object) -> int | None:
    """When the row changed, in microseconds, as far as it can be read; for rows that were rejected."""
    if not isinstance(row, dict):
        return None
    value = row.get("deleted_at") or row.get("updated_at")
    try:
        return instant(value) if isinstance(value, str) else None
    except ValueError:
        return None


def row_uid(row: object) -> str | None:
    """The uid of a row that is not a tombstone, whatever else is wrong with it; None when it has none."""
    uid = row.get("id") if isinstance(row, dict) and row.get("deleted_at") is None else None
    return uid if type(uid) is str and _UUID.fullmatch(uid) else None


def is_tombstone(row: object) -> bool:
    """Whether the row says that it was deleted."""
    return isinstance(row, dict) and row.get("deleted_at") is not None


def rename_trail(metadata: Any) -> list[Any]:
    """The provider's records of renames, oldest first. `Any`: evidence only, so nothing of it is checked."""
    if type(metadata) is not dict:
        return []
    changes = [change for key, change in metadata.items() if key.startswith(RENAME_PREFIX)]
    return sorted((_rename_record(change) for change in changes), key=_rename_order)


def _mapped(row: object, endpoint: str, build: Callable[[str, Row], Document]) -> Document | Gone | Reject:
    if not isinstance(row, dict):
        return Reject(None, endpoint, "the row is not an object", orjson.dumps(row))
    uid = row.get("id")
    if type(uid) is not str or not _UUID.fullmatch(uid):
        reason = "id: missing" if uid is None else "id: not a UUID"
        return Reject(None, endpoint, reason, orjson.dumps(row))
    if row.get("deleted_at") is not None:
        return Gone(uid, change_time(row) or 0)
    try:
        return build(uid, row)
    except Refused as refused:
        return Reject(uid, endpoint, str(refused), orjson.dumps(row))


def _customer(uid: str, row: Row) -> Document:
    body: Body = {"uid": uid}
    extra: Body = {}
    version = 0
    for name, value in row.items():
        if name in _CUSTOMER_TEXTS and type(value) is str:
            body[name] = value
        elif not value and (value is None or value in ({}, [])):
            continue
        elif name in _CUSTOMER_TEXTS:
            raise Refused(f"{name}: not a text")
        elif name == "updated_at":
            version, body[name] = moment_of(name, value)
        elif name == "created_at":
            body[name] = stamp(name, value)
        elif name in _CUSTOMER_PARTS:
            _CUSTOMER_PARTS[name](name, value, body, extra)
        elif name != "id":
            keep(name, value, extra)
    customer_id = body.get("customer_id")
    if not customer_id or len(customer_id) > CUSTOMER_ID_CHARS_MAX:
        raise Refused("customer_id: missing" if not customer_id else "customer_id: longer than 255 characters")
    if extra:
        body["extra"] = extra
    return Document(uid, body, version)


def _tag(uid: str, row: Row) -> Document:
    body: Body = {"uid": uid}
    extra: Body = {}
    version = 0
    for name, value in row.items():
        if not value and (value is None or value in ({}, [])):
            continue
        if name == "tag":
            body["name"] = text(name, value)
        elif name == "metadata":
            if metadata := object_of(name, value):
                body[name] = metadata
        elif name == "updated_at":
            version, body[name] = moment_of(name, value)
        elif name == "created_at":
            body[name] = stamp(name, value)
        elif name != "id":
            keep(name, value, extra)
    if "name" not in body:
        raise Refused("tag: missing")
    if extra:
        body["extra"] = extra
    return Document(uid, body, version)


def _user(uid: str, row: Row) -> Document:
    body: Body = {"uid": uid}
    extra: Body = {}
    version = 0
    for name, value in row.items():
        if not value and (value is None or value in ({}, [])):
            continue
        if name in _USER_TEXTS:
            body[name] = text(name, value)
        elif name == "updated_at":
            version, body[name] = moment_of(name, value)
        elif name == "created_at":
            body[name] = stamp(name, value)
        elif name in _USER_PARTS:
            _USER_PARTS[name](name, value, body, extra)
        elif name not in _USER_LEFT_OUT:
            keep(name, value, extra)
    if not body.get("email"):
        raise Refused("email: missing")
    if extra:
        body["extra"] = extra
    return Document(uid, body, version)


# The parts of a customer that need more than a look at the type. Each puts what it makes into `body` or `extra`.


def _metadata(name: str, value: Any, body: Body, extra: Body) -> None:
    metadata = object_of(name, value)
    if trail := rename_trail(metadata):
        metadata = {key: value for key, value in metadata.items() if not key.startswith(RENAME_PREFIX)}
        extra["customer_id_changes"] = trail
    if metadata:
        body[name] = metadata


def _rename_record(change: Any) -> Any:
    """Evidence only, so nothing is refused; its time is canonical where it can be read."""
    if isinstance(change, dict) and isinstance(change.get("created_at"), str):
        try:
            return {**change, "created_at": iso(instant(change["created_at"]))}
        except ValueError:
            return change
    return change


def _rename_order(change: Any) -> tuple[int, bytes]:
    created = change.get("created_at") if isinstance(change, dict) else None
    try:
        moment = instant(created) if isinstance(created, str) else 0
    except ValueError:
        moment = 0
    return moment, orjson.dumps(change, option=orjson.OPT_SORT_KEYS)


def _consents(name: str, value: Any, body: Body, extra: Body) -> None:
    consents = object_of(name, value)
    for channel, entry in consents.items():
        if type(entry) is not dict:
            raise Refused(f"{name}: an entry is not an object")
        if type(entry.get("consent", False)) is not bool:
            raise Refused(f"{name}: consent is not a boolean")
        if "updated_at" in entry:
            moment = stamp("marketing_consent: updated_at", entry["updated_at"])
            if moment != entry["updated_at"]:
                consents = {**consents, channel: {**entry, "updated_at": moment}}
    if consents:
        body["consents"] = consents


def _attributes(name: str, value: Any, body: Body, extra: Body) -> None:
    if found := object_of(name, value):
        body[name] = found


def _addresses(name: str, value: Any, body: Body, extra: Body) -> None:
    body[name] = set_of_objects(name, value)


def _contact_for(name: str, value: Any, body: Body, extra: Body) -> None:
    extra[name] = set_of_objects(name, value)


def _term(name: str, value: Any, body: Body, extra: Body) -> None:
    term = object_of(name, value)
    if "accepted_at" in term:
        term = {**term, "accepted_at": stamp("term: accepted_at", term["accepted_at"])}
    if term:
        extra[name] = term


def _enrolled_by(name: str, value: Any, body: Body, extra: Body) -> None:
    if found := object_of(name, value):
        extra[name] = found


# The same for a user.


def _roles(name: str, value: Any, body: Body, extra: Body) -> None:
    """What the roles grant counts, not when and by whom they were last saved; the order of both says nothing."""
    found: dict[str, Body] = {}
    for entry in set_of_objects(name, value):
        uid = entry.get("id")
        if type(uid) is not str:
            raise Refused(f"{name}: an entry has no id")
        role = {key: member for key, member in entry.items() if key not in _ROLE_LEFT_OUT}
        if "scope" in role:
            role["scope"] = set_of_texts(f"{name}: scope", role["scope"])
        found[uid] = role
    body[name] = [found[uid] for uid in sorted(found)]


def _scope(name: str, value: Any, body: Body, extra: Body) -> None:
    body[name] = set_of_texts(name, value)


def _agreement(name: str, value: Any, body: Body, extra: Body) -> None:
    agreement = object_of(name, value)
    if "attachments" in agreement:
        agreement = {**agreement, "attachments": set_of_objects(f"{name}: attachments", agreement["attachments"])}
    if agreement:
        extra[name] = agreement


def _configuration(name: str, value: Any, body: Body, extra: Body) -> None:
    configuration = object_of(name, value)
    factors = configuration.get("mfa")
    if isinstance(factors, dict):
        configuration = {**configuration, "mfa": {factor: _factor(entry) for factor, entry in factors.items()}}
    if configuration:
        extra[name] = configuration


def _factor(entry: Any) -> Any:
    """One second factor, with its time in canonical form. `Any`: providers add settings of other shapes."""
    if type(entry) is dict and "updated_at" in entry:
        return {**entry, "updated_at": stamp("configuration: updated_at", entry["updated_at"])}
    return entry


_CUSTOMER_TEXTS = frozenset(
    {
        "customer_id",
        "type",
        "status",
        "email",
        "phone_number",
        "first_name",
        "last_name",
        "date_of_birth",
        "gender",
        "favorite_store",
    }
)
"""Same name and meaning in both vocabularies."""

_CUSTOMER_PARTS: dict[str, Callable[[str, Any, Body, Body], None]] = {
    "metadata": _metadata,
    "marketing_consent": _consents,
    "attributes": _attributes,
    "company": _attributes,
    "addresses": _addresses,
    "contact_for": _contact_for,
    "term": _term,
    "enrolled_by": _enrolled_by,
}


_USER_TEXTS = frozenset({"email", "name", "status", "authentication_type"})
"""Same name and meaning in both vocabularies."""

_USER_LEFT_OUT = frozenset({"id", "last_seen_at"})
"""The one is `uid`, the other moves with every visit: it is not even kept, or it would be old in every event."""

_USER_PARTS: dict[str, Callable[[str, Any, Body, Body], None]] = {
    "roles": _roles,
    "scope": _scope,
    "agreement": _agreement,
    "configuration": _configuration,
}

_ROLE_LEFT_OUT = frozenset({"created_at", "created_by", "updated_at", "deleted_at", "deleted_by"})
"""A role is an entity of its own, seen here only as a part of its users."""
