"""Diff: (before, after) → change or None.

`before` is the body that was last published (None: never seen or deleted), `after` the body that the provider shows
(None: surely gone). Only the essence decides whether there is a change; the change carries the whole bodies.
"""

from __future__ import annotations

from typing import NamedTuple

import orjson

from bridge.detect.essence import essence
from bridge.model import Body


class Change(NamedTuple):
    """One document's step from `before` to `after`; at least one of them is not None.

    `changed` are JSON Pointers (RFC 6901) into the essence, sorted; empty for a first sight and for a deletion.
    A list is one value: its pointer ends at the list.
    """

    before: Body | None
    after: Body | None
    changed: tuple[str, ...]


def detect(before: Body | None, after: Body | None) -> Change | None:
    """None when nothing that counts has changed."""
    if before is None or after is None:
        return None if before is after else Change(before, after, ())
    if orjson.dumps(before, option=orjson.OPT_SORT_KEYS) == orjson.dumps(after, option=orjson.OPT_SORT_KEYS):
        return None  # the usual case, several times cheaper than the comparison below
    changed = _pointers(essence(before), essence(after))
    return Change(before, after, tuple(sorted(changed))) if changed else None


def _pointers(before: Body, after: Body, prefix: str = "") -> list[str]:
    found: list[str] = []
    for name in before.keys() | after.keys():
        old, new = before.get(name), after.get(name)
        if _same(old, new):
            continue
        pointer = f"{prefix}/{name.replace('~', '~0').replace('/', '~1')}"
        if isinstance(old, dict) and isinstance(new, dict):
            found += _pointers(old, new, pointer)
        else:
            found.append(pointer)
    return found


def _same(old: object, new: object) -> bool:
    """Equal as JSON values. `True == 1` in Python, so equality alone would miss a number that became a boolean."""
    if old != new:
        return False
    if isinstance(old, bool) or isinstance(new, bool):
        return old is new
    if isinstance(old, dict) and isinstance(new, dict):
        return all(_same(value, new[name]) for name, value in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return all(map(_same, old, new))
    return True
