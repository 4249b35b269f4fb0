"""Models: one row of Dintero's lists → a document in our words, a deletion, or a rejected row.

Checking and mapping are one pass over the row, because they run for every row of every page. Strict where we rely on
a value (ids, texts, times, the shape of containers), open where the provider may grow: unknown fields are kept under
`extra`, unknown enum values pass, numbers may come as text. The shape of the result is described in the package's
docstring. A reason for rejection names the field and the rule, never the value.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any

import orjson

from bridge.model import Body, Document, Gone, Reject, instant, iso

Row = dict[str, Any]
"""A JSON object as the provider sent it; `Any` because nothing of it is checked yet."""

RENAME_PREFIX = "dintero_change_customer_id_"
"""Metadata keys under which the provider records its own renames."""

CUSTOMER_ID_CHARS_MAX = 255

STAMPS_CACHED = 1024
"""Date-times kept at hand: a customer's consents and terms mostly carry the very text of its `created_at`."""

_CANONICAL = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.(?!000Z)\d{3}(?:(?!000Z)\d{3})?)?Z", re.ASCII)
"""Written as `model.iso` writes it, given that it is a date-time at all."""

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)


_SIMPLE = frozenset({str, int, float, bool})
"""An object whose members are all of these is as lean as it can be."""


class _Refused(Exception):
    """A field breaks a rule; the text is the reason."""


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
    except _Refused as refused:
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
            raise _Refused(f"{name}: not a text")
        elif name == "updated_at":
            version, body[name] = _moment(name, value)
        elif name == "created_at":
            body[name] = _stamp(name, value)
        elif name in _CUSTOMER_PARTS:
            _CUSTOMER_PARTS[name](name, value, body, extra)
        elif name != "id":
            _keep(name, value, extra)
    customer_id = body.get("customer_id")
    if not customer_id or len(customer_id) > CUSTOMER_ID_CHARS_MAX:
        raise _Refused("customer_id: missing" if not customer_id else "customer_id: longer than 255 characters")
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
            body["name"] = _text(name, value)
        elif name == "metadata":
            if metadata := _object(name, value):
                body[name] = metadata
        elif name == "updated_at":
            version, body[name] = _moment(name, value)
        elif name == "created_at":
            body[name] = _stamp(name, value)
        elif name != "id":
            _keep(name, value, extra)
    if "name" not in body:
        raise _Refused("tag: missing")
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
            body[name] = _text(name, value)
        elif name == "updated_at":
            version, body[name] = _moment(name, value)
        elif name == "created_at":
            body[name] = _stamp(name, value)
        elif name in _USER_PARTS:
            _USER_PARTS[name](name, value, body, extra)
        elif name not in _USER_LEFT_OUT:
            _keep(name, value, extra)
    if not body.get("email"):
        raise _Refused("email: missing")
    if extra:
        body["extra"] = extra
    return Document(uid, body, version)


# The parts of a customer that need more than a look at the type. Each puts what it makes into `body` or `extra`.


def _metadata(name: str, value: Any, body: Body, extra: Body) -> None:
    metadata = _object(name, value)
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
    consents = _object(name, value)
    for channel, entry in consents.items():
        if type(entry) is not dict:
            raise _Refused(f"{name}: an entry is not an object")
        if type(entry.get("consent", False)) is not bool:
            raise _Refused(f"{name}: consent is not a boolean")
        if "updated_at" in entry:
            moment = _stamp("marketing_consent: updated_at", entry["updated_at"])
            if moment != entry["updated_at"]:
                consents = {**consents, channel: {**entry, "updated_at": moment}}
    if consents:
        body["consents"] = consents


def _attributes(name: str, value: Any, body: Body, extra: Body) -> None:
    if found := _object(name, value):
        body[name] = found


def _addresses(name: str, value: Any, body: Body, extra: Body) -> None:
    body[name] = _set_of_objects(name, value)


def _contact_for(name: str, value: Any, body: Body, extra: Body) -> None:
    extra[name] = _set_of_objects(name, value)


def _term(name: str, value: Any, body: Body, extra: Body) -> None:
    term = _object(name, value)
    if "accepted_at" in term:
        term = {**term, "accepted_at": _stamp("term: accepted_at", term["accepted_at"])}
    if term:
        extra[name] = term


def _enrolled_by(name: str, value: Any, body: Body, extra: Body) -> None:
    if found := _object(name, value):
        extra[name] = found


# The same for a user.


def _roles(name: str, value: Any, body: Body, extra: Body) -> None:
    """What the roles grant counts, not when and by whom they were last saved; the order of both says nothing."""
    found: dict[str, Body] = {}
    for entry in _set_of_objects(name, value):
        uid = entry.get("id")
        if type(uid) is not str:
            raise _Refused(f"{name}: an entry has no id")
        role = {key: member for key, member in entry.items() if key not in _ROLE_LEFT_OUT}
        if "scope" in role:
            role["scope"] = _set_of_texts(f"{name}: scope", role["scope"])
        found[uid] = role
    body[name] = [found[uid] for uid in sorted(found)]


def _scope(name: str, value: Any, body: Body, extra: Body) -> None:
    body[name] = _set_of_texts(name, value)


def _agreement(name: str, value: Any, body: Body, extra: Body) -> None:
    agreement = _object(name, value)
    if "attachments" in agreement:
        agreement = {**agreement, "attachments": _set_of_objects(f"{name}: attachments", agreement["attachments"])}
    if agreement:
        extra[name] = agreement


def _configuration(name: str, value: Any, body: Body, extra: Body) -> None:
    configuration = _object(name, value)
    factors = configuration.get("mfa")
    if isinstance(factors, dict):
        configuration = {**configuration, "mfa": {factor: _factor(entry) for factor, entry in factors.items()}}
    if configuration:
        extra[name] = configuration


def _factor(entry: Any) -> Any:
    """One second factor, with its time in canonical form. `Any`: providers add settings of other shapes."""
    if type(entry) is dict and "updated_at" in entry:
        return {**entry, "updated_at": _stamp("configuration: updated_at", entry["updated_at"])}
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


def _text(name: str, value: Any) -> str:
    if type(value) is not str:
        raise _Refused(f"{name}: not a text")
    return value


def _object(name: str, value: Any) -> Body:
    """The object without empty members. It may be the row's own: nobody writes into it."""
    if type(value) is not dict:
        raise _Refused(f"{name}: not an object")
    return _lean_object(value)


def _set_of_objects(name: str, value: Any) -> list[Body]:
    """A list whose order means nothing, in canonical order."""
    if type(value) is not list:
        raise _Refused(f"{name}: not a list")
    entries = [_object(f"{name}: an entry", entry) for entry in value]
    if len(entries) > 1:
        entries.sort(key=_canonical)
    return entries


def _set_of_texts(name: str, value: Any) -> list[str]:
    """Each once, sorted."""
    if type(value) is not list or not all(type(entry) is str for entry in value):
        raise _Refused(f"{name}: not a list of texts")
    return sorted(set(value))


def _canonical(value: Body) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _keep(name: str, value: Any, extra: Body) -> None:
    """A field we have no word for, under its own name."""
    if type(value) is str:
        extra[name] = value
        return
    kept = _lean(value)
    if kept or type(value) not in (dict, list):
        extra[name] = kept


def _lean(value: Any) -> Any:
    if type(value) is dict:
        return _lean_object(value)
    if type(value) is list:
        return [_lean(entry) for entry in value]
    return value


def _lean_object(value: Row) -> Body:
    """Without null, `{}` and `[]`, at every depth: they mean the same as nothing."""
    if _SIMPLE.issuperset(map(type, value.values())):
        return value
    result: Body = {}
    for name, member in value.items():
        kind = type(member)
        if kind is str:
            result[name] = member
        elif kind is dict or kind is list:
            if inner := _lean(member):
                result[name] = inner
        elif member is not None:
            result[name] = member
    return result


def _moment(name: str, value: Any) -> tuple[int, str]:
    """Microseconds and the canonical form of a date-time."""
    if type(value) is not str:
        raise _Refused(f"{name}: not a text")
    try:
        micros = instant(value)
    except ValueError:
        raise _Refused(f"{name}: not a date-time since 1970") from None
    return micros, value if _CANONICAL.fullmatch(value) else iso(micros)


def _stamp(name: str, value: Any) -> str:
    """The canonical form of a date-time."""
    if type(value) is not str:
        raise _Refused(f"{name}: not a text")
    try:
        return _canonical_stamp(value)
    except ValueError:
        raise _Refused(f"{name}: not a date-time since 1970") from None


@lru_cache(maxsize=STAMPS_CACHED)
def _canonical_stamp(text: str) -> str:
    """Raises ValueError. What is canonical already need only be valid, which is cheaper than to be written anew."""
    if _CANONICAL.fullmatch(text) and text >= "1970":
        datetime.fromisoformat(text)
        return text
    return iso(instant(text))
