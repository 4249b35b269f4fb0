"""Lookup: what became of customers that seem to be gone. A false "gone" would be published as a deletion.

One is read under its last known `customer_id`. Ids change hands: a 404 may be a rename, and another customer may answer
under the old name. So neither counts alone; the list is asked as well, by what else is known of the customer,
tombstones included. Only when that does not show it alive either, it is gone. A list may be late: whom it shows alive
is read under the name that it shows, and stays as it is known when nobody has that one. A provider that fails to answer
makes the whole call fail. A customer that cannot be asked for conclusively (a dot as its name, no e-mail), and one
whose row our model refuses, stays as it is known: one odd customer must not stop the deletions of all others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any
from urllib.parse import quote

from bridge.errors import Malformed, RequestRefused, SourceError
from bridge.model import Document, Gone, Reject
from bridge.source.api import ApiClient
from bridge.source.budget import Priority
from bridge.source.dintero import models
from bridge.source.dintero.paging import CURSOR_REFUSED, last_id

READ = "customers.read"
LIST = "customers.list"

READS_MAX = 8
"""Requests of one call side by side; the budget decides about their rate."""

SEARCH_PAGES_MAX = 10
"""Of what is found by one search; a short name may be part of many others. Beyond that it proves nothing."""


class _Fate(Enum):
    """What an answer says about a customer of which it shows neither a row nor a tombstone."""

    ABSENT = "the provider does not have it under this name"
    UNKNOWN = "the provider cannot be asked by this name"


class Lookup:
    """Answers `Feed.fetch` for customers."""

    def __init__(self, client: ApiClient, path: str, page_limit: int, cursor_kind: str) -> None:
        """`path` of the customer list, encoded; cursor_kind: the field that `starting_after` takes."""
        self._client = client
        self._path = path
        self._page_limit = page_limit
        self._cursor_kind = cursor_kind

    async def fetch(self, known: Sequence[Document]) -> Mapping[str, Document | Gone]:
        """See `Feed.fetch`. Cancellation ends all requests. The first failure ends the looking, not what was found."""
        found: dict[str, Document | Gone] = {}
        failures: list[SourceError] = []

        async def work(queue: Iterator[Document]) -> None:
            for document in queue:
                if failures:
                    return
                try:
                    found[document.uid] = await self._fate(document)
                except SourceError as error:
                    failures.append(error)

        queue = iter(known)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(READS_MAX, len(known))):
                group.create_task(work(queue), name="look up customers")
        if failures and not found:
            raise failures[0]
        return found

    async def _fate(self, document: Document) -> Document | Gone:
        shown = await self._read(document)
        if not isinstance(shown, _Fate):
            return shown
        return await self._search(document, absent=shown is _Fate.ABSENT)

    async def _read(self, document: Document) -> Document | Gone | _Fate:
        name = document.body.get("customer_id")
        if not isinstance(name, str) or not is_segment(name):
            return _Fate.UNKNOWN
        try:
            answer = await self._client.get(READ, f"{self._path}/{quote(name, safe='')}", priority=Priority.HINT)
        except RequestRefused as error:
            if error.status == 404:
                return _Fate.ABSENT
            if error.status < 400:
                raise
            return _Fate.UNKNOWN  # some gateways refuse what an encoded segment may hold
        if not isinstance(answer.value, dict):
            raise Malformed(f"{READ} answered without an object")
        return _shown(answer.value, document, READ) or _Fate.ABSENT

    async def _search(self, document: Document, *, absent: bool) -> Document | Gone:
        """Ask the list for the customer.

        An answer that is cut proves nothing. `absent`: reading it has already failed to find it, so one complete
        answer without it is enough; otherwise that has to be one by its e-mail or phone number.
        """
        gone = False
        for query in _searches(document):
            shown = await self._found(document, query)
            if isinstance(shown, Document):
                return await self._read_again(shown, document, absent=absent)
            if isinstance(shown, Gone):
                return shown
            gone = gone or (shown is _Fate.ABSENT and (absent or query[0] != "search"))
        return Gone(document.uid, 0) if gone else document

    async def _read_again(self, shown: Document, document: Document, *, absent: bool) -> Document | Gone:
        """The customer under the name that a list shows; as it is known when nobody has that name any more."""
        if shown is document or (absent and shown.body.get("customer_id") == document.body.get("customer_id")):
            return document
        read = await self._read(shown)
        if not isinstance(read, _Fate):
            return read
        return document if read is _Fate.ABSENT else shown

    async def _found(self, document: Document, query: tuple[str, str]) -> Document | Gone | _Fate:
        """What this search says of the customer; unknown when there is no end of it."""
        after: str | None = None
        for _ in range(SEARCH_PAGES_MAX):
            everything = [("type", "any"), ("include_deleted", "true"), ("limit", str(self._page_limit)), query]
            if after is not None:
                everything.append(("starting_after", after))
            try:
                answer = await self._client.get(LIST, self._path, tuple(everything), priority=Priority.HINT)
            except RequestRefused as error:
                if after is None or error.status not in CURSOR_REFUSED:
                    raise
                break
            if not isinstance(answer.value, list):
                raise Malformed(f"{LIST} answered without a list")
            for row in answer.value:
                shown = _shown(row, document, LIST)
                if shown is not None:
                    return shown
            if len(answer.value) < self._page_limit:
                return _Fate.ABSENT
            before, after = after, last_id(answer.value, self._page_limit, self._cursor_kind)
            if after in (None, before):
                break
        return _Fate.UNKNOWN


def is_segment(name: str) -> bool:
    """True when `name`, encoded, is one segment of a path everywhere; the dot names vanish on their way."""
    return name not in ("", ".", "..")


def _searches(document: Document) -> list[tuple[str, str]]:
    """The old `customer_id`, which most often brings its tombstone; then what a living one has under any other."""
    found = [("search", document.body.get("customer_id"))]
    found += [(name, document.body.get(name)) for name in ("email", "phone_number")]
    return [(name, value) for name, value in found if isinstance(value, str) and value]


def _shown(row: Any, document: Document, endpoint: str) -> Document | Gone | None:
    """The customer as this row shows it, None when the row is another one. `Any`: the provider's JSON."""
    if not isinstance(row, dict) or row.get("id") != document.uid:
        return None
    result = models.customer(row, endpoint)
    # A row that our model refuses exists all the same; it stays as it is known.
    return document if isinstance(result, Reject) else result
