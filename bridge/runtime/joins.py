"""Joins: which customers of a source have a value in a field of their documents.

An index per field, in memory: made when it is first asked for, kept up with every step after that. It holds hashes and
uids only, some two hundred bytes per customer; whoever it names is looked at once more, because two values may share a
hash.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from bridge.model import Body, Document

FIELDS_MAX: Final = 4
"""Indexes of one source; of more fields the one that was asked for longest ago is forgotten."""

PIECE: Final = 1_000
"""Documents that are looked at before others of the event loop get their turn; some milliseconds."""

HOLDERS_MAX: Final = 1_000
"""Customers with one value; what more of them have tells nobody apart."""

Index = dict[int, str | set[str]]
"""The uid by the hash of a value, or the uids where there are several."""

Pieces = Callable[[int, int], tuple[list[str], int | None]]
"""Uids in pieces: from where, how many → the uids, and where to go on; see `SourceStep.uids_after`."""


def value_of(body: Body, field: str) -> str | None:
    """What the field says, as text; None when it says nothing that could be the same elsewhere.

    field: names from the outside in, parted by dots. Texts with an @ are e-mail addresses, of which providers keep
    capitals as they came: all are told in small letters.
    """
    value: Any = body
    for name in field.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return comparable(str(value)) or None


def comparable(text: str) -> str:
    """As values are compared."""
    text = text.strip()
    return text.casefold() if "@" in text else text


class Found(NamedTuple):
    """What was found of the first `values` of those that were asked for.

    uids: by value, of those that somebody has. crowded: values that too many have to be anybody's name.
    """

    values: int
    uids: Mapping[str, Sequence[str]]
    crowded: frozenset[str]


class Joins:
    """Of the customers of one source during one opening of its shard."""

    def __init__(self, known: Callable[[Sequence[str]], Sequence[Document]], pieces: Pieces) -> None:
        self._known = known
        self._pieces = pieces
        self._fields: dict[str, Index] = {}

    def moved(self, uid: str, before: Body | None, after: Body | None) -> None:
        """The customer was like this and is like that now; None: it was not there, or is not any more."""
        for field, index in self._fields.items():
            was = None if before is None else value_of(before, field)
            now = None if after is None else value_of(after, field)
            if was != now:
                _remove(index, was, uid)
                _add(index, now, uid)

    async def find(self, field: str, values: Sequence[str], customers: int) -> Found:
        """Who has these values; of the first ones only, when those have so many customers already.

        May take seconds, the first time for a field.
        """
        index = await self._index(field)
        meant: dict[str, Collection[str]] = {}
        crowded: set[str] = set()
        taken = total = 0
        for value in values:
            if total >= customers:
                break
            taken += 1
            uids = _uids(index, comparable(value))
            if len(uids) > HOLDERS_MAX:
                crowded.add(value)
            elif value not in meant:
                meant[value] = uids
                total += len(uids)
        candidates = {uid for uids in meant.values() for uid in uids}
        said = {document.uid: value_of(document.body, field) for document in self._known(sorted(candidates))}
        found = {
            value: sorted(uid for uid in uids if said.get(uid) == comparable(value)) for value, uids in meant.items()
        }
        return Found(taken, {value: uids for value, uids in found.items() if uids}, frozenset(crowded))

    async def _index(self, field: str) -> Index:
        index = self._fields.pop(field, None)
        if index is not None:
            self._fields[field] = index
            return index
        while len(self._fields) >= FIELDS_MAX:
            del self._fields[next(iter(self._fields))]
        index = self._fields[field] = {}  # from now on kept up, so nothing that moves meanwhile is missed
        try:
            async for document in self._documents():
                _add(index, value_of(document.body, field), document.uid)
        except BaseException:
            self._fields.pop(field, None)
            raise
        return index

    async def _documents(self) -> AsyncIterator[Document]:
        following: int | None = 0
        while following is not None:
            uids, following = self._pieces(following, PIECE)
            for document in self._known(uids):
                yield document
            await asyncio.sleep(0)


def _uids(index: Index, value: str) -> Collection[str]:
    found = index.get(hash(value), ())
    return (found,) if isinstance(found, str) else found


def _add(index: Index, value: str | None, uid: str) -> None:
    if value is None:
        return
    found = index.setdefault(hash(value), uid)
    if isinstance(found, set):
        found.add(uid)
    elif found != uid:
        index[hash(value)] = {found, uid}


def _remove(index: Index, value: str | None, uid: str) -> None:
    if value is None:
        return
    found = index.get(hash(value))
    if isinstance(found, set):
        found.discard(uid)
    if not found or found == uid:
        index.pop(hash(value), None)
