"""Joins: which customers of a source have a value in a field of their documents.

An index per field, in memory: made when it is first asked for, kept up with every step after that. It holds hashes and
uids only, a hundred bytes or so per customer; whoever it names is looked at once more, because a value may be gone by
now and two may share a hash.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from bridge.model import Body, Document

FIELDS_MAX: Final = 4
"""Indexes of one source; of more fields the one that was asked for longest ago is forgotten."""

PIECE: Final = 1_000
"""Documents that are looked at before others of the event loop get their turn; some milliseconds."""

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


class Joins:
    """Of the customers of one source during one opening of its shard."""

    def __init__(self, known: Callable[[Sequence[str]], Sequence[Document]], pieces: Pieces) -> None:
        self._known = known
        self._pieces = pieces
        self._fields: dict[str, dict[int, tuple[str, ...]]] = {}

    def put(self, uid: str, body: Body) -> None:
        """The customer is like this now."""
        for field, index in self._fields.items():
            _add(index, value_of(body, field), uid)

    async def find(self, field: str, values: Sequence[str]) -> dict[str, list[str]]:
        """Uids by value, of those values that somebody has. May take seconds, the first time for a field."""
        index = await self._index(field)
        meant = {value: index.get(hash(comparable(value)), ()) for value in values}
        candidates = {uid for uids in meant.values() for uid in uids}
        said = {document.uid: value_of(document.body, field) for document in self._known(sorted(candidates))}
        found = {value: [uid for uid in uids if said.get(uid) == comparable(value)] for value, uids in meant.items()}
        return {value: uids for value, uids in found.items() if uids}

    async def _index(self, field: str) -> dict[int, tuple[str, ...]]:
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


def _add(index: dict[int, tuple[str, ...]], value: str | None, uid: str) -> None:
    if value is None:
        return
    uids = index.get(hash(value), ())
    if uid not in uids:
        index[hash(value)] = (*uids, uid)
