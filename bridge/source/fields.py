"""Fields: what the models of every provider do to the members of a row. Pure.

Checks the type and takes out what means nothing: null, `{}` and `[]` are the same as absent, the order of a set says
nothing, a date-time has one form. Whoever breaks a rule is `Refused`, with a reason that names the field and the rule
and never the value.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from typing import Any

import orjson

from bridge.model import Body, instant, iso

Row = dict[str, Any]
"""A JSON object as the provider sent it; `Any` because nothing of it is checked yet."""

STAMPS_CACHED = 1024
"""Date-times kept at hand: a customer's consents and terms mostly carry the very text of its `created_at`."""

_CANONICAL = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.(?!000Z)\d{3}(?:(?!000Z)\d{3})?)?Z", re.ASCII)
"""Written as `model.iso` writes it, given that it is a date-time at all."""

_SIMPLE = frozenset({str, int, float, bool})
"""An object whose members are all of these is as lean as it can be."""


class Refused(Exception):
    """A field breaks a rule; the text is the reason."""


def text(name: str, value: Any) -> str:
    """A text, as it is."""
    if type(value) is not str:
        raise Refused(f"{name}: not a text")
    return value


def object_of(name: str, value: Any) -> Body:
    """The object without empty members. It may be the row's own: nobody writes into it."""
    if type(value) is not dict:
        raise Refused(f"{name}: not an object")
    return _lean_object(value)


def set_of_objects(name: str, value: Any) -> list[Body]:
    """A list whose order means nothing, in canonical order."""
    if type(value) is not list:
        raise Refused(f"{name}: not a list")
    entries = [object_of(f"{name}: an entry", entry) for entry in value]
    if len(entries) > 1:
        entries.sort(key=canonical)
    return entries


def set_of_texts(name: str, value: Any) -> list[str]:
    """Each once, sorted."""
    if type(value) is not list or not all(type(entry) is str for entry in value):
        raise Refused(f"{name}: not a list of texts")
    return sorted(set(value))


def canonical(value: Body) -> bytes:
    """What two equal objects have in common."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def keep(name: str, value: Any, extra: Body) -> None:
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


def moment_of(name: str, value: Any) -> tuple[int, str]:
    """Microseconds and the canonical form of a date-time."""
    if type(value) is not str:
        raise Refused(f"{name}: not a text")
    try:
        micros = instant(value)
    except ValueError:
        raise Refused(f"{name}: not a date-time since 1970") from None
    return micros, value if _CANONICAL.fullmatch(value) else iso(micros)


def stamp(name: str, value: Any) -> str:
    """The canonical form of a date-time."""
    if type(value) is not str:
        raise Refused(f"{name}: not a text")
    try:
        return _canonical_stamp(value)
    except ValueError:
        raise Refused(f"{name}: not a date-time since 1970") from None


@lru_cache(maxsize=STAMPS_CACHED)
def _canonical_stamp(text: str) -> str:
    """Raises ValueError. What is canonical already need only be valid, which is cheaper than to be written anew."""
    if _CANONICAL.fullmatch(text) and text >= "1970":
        datetime.fromisoformat(text)
        return text
    return iso(instant(text))
