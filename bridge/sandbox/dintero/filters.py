"""Text filters of the customer list, as tests on a document's bytes.

Parsing every document would take a quarter of a second per hundred thousand, so each test first looks whether the
bytes can match at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import orjson

from bridge.errors import RequestRefused
from bridge.model import Body
from bridge.sandbox.dintero.answer import Call

ATTRIBUTES_MAX = 4
"""Attribute keys, and values, in one request."""

Filter = Callable[[bytes], bool]

TEXTS = ("email", "phone_number", "search")


def filters_of(call: Call, names: Iterable[str] = (*TEXTS, "token_value", "attributes")) -> tuple[Filter, ...]:
    """The filters among these that a request asks for."""
    makers: dict[str, Callable[[Call], Filter | None]] = {
        "email": lambda call: _maybe(same_mail, call.first("email")),
        "phone_number": lambda call: _maybe(same_phone, call.first("phone_number")),
        "search": lambda call: _maybe(_search, call.first("search")),
        "token_value": _token,
        "attributes": _attributes,
    }
    made = (makers[name](call) for name in names)
    return tuple(test for test in made if test is not None)


def same_mail(text: str) -> Filter:
    """E-mail without regard to letter case."""
    mail, may_match = text.lower(), _contains(text)
    return lambda body: may_match(body) and (orjson.loads(body).get("email") or "").lower() == mail


def same_phone(text: str) -> Filter:
    """Exactly this phone number."""
    may_match = _contains(text)
    return lambda body: may_match(body) and orjson.loads(body).get("phone_number") == text


def _maybe(make: Callable[[str], Filter], text: str | None) -> Filter | None:
    return None if text is None else make(text)


def _search(text: str) -> Filter:
    prefix, may_match = text.casefold(), _contains(text)
    return lambda body: may_match(body) and _begins(orjson.loads(body), prefix)


def _begins(document: Body, prefix: str) -> bool:
    names = [document.get("first_name") or "", document.get("last_name") or ""]
    texts = [*names, " ".join(names), (document.get("company") or {}).get("bussiness_name")]
    texts += [document.get("phone_number"), document["customer_id"], document.get("email")]
    return any(text and text.casefold().startswith(prefix) for text in texts)


def _contains(text: str) -> Filter:
    """Whether a body may hold the text, letter case aside; always true where that is not easily said."""
    # A space may fall between two fields (first and last name), so only the part before it is looked for.
    word = text.split(" ", maxsplit=1)[0]
    if not word.isascii():
        return lambda _body: True
    needle = orjson.dumps(word)[1:-1].lower()
    return lambda body: needle in body.lower()


def _token(call: Call) -> Filter | None:
    value, kind = call.first("token_value"), call.first("token_type")
    if value is None:
        return None
    tokens = call.world.tokens.items()
    uids = {uid for (held, text), uid in tokens if text == value and kind in {None, held}}
    return lambda body: orjson.loads(body)["id"] in uids


def _attributes(call: Call) -> Filter | None:
    keys, values = call.every("attributes_keys"), call.every("attributes_values")
    if len(keys) > ATTRIBUTES_MAX or len(values) > len(keys):
        raise RequestRefused(f"at most {ATTRIBUTES_MAX} attributes, and not more values than keys", status=400)
    if not keys:
        return None
    wanted: list[tuple[str, str | None]] = list(zip(keys, [*values, *[None] * (len(keys) - len(values))], strict=True))

    def test(body: bytes) -> bool:
        attributes = orjson.loads(body).get("attributes") or {}
        return all(_has(attributes, key, value) for key, value in wanted)

    return test


def _has(attributes: Body, key: str, value: str | None) -> bool:
    if key not in attributes:
        return False
    held = attributes[key] if isinstance(attributes[key], list) else [attributes[key]]
    return value is None or any(_text(one) == value for one in held)


def _text(value: Any) -> str:
    """As it would stand in a query. `Any`: a JSON value."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()
