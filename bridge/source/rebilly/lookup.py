"""Lookup: what became of customers that are absent. A false "gone" would be published as a deletion.

Each is read by its id. Whoever was merged into another customer is not there any more (404), or leads to the survivor:
by a redirect to it, or by an answer that is the survivor itself. A 404 alone could be a gateway's, so the list has to
say as well that it does not have the customer. Then the survivor is looked for among those with the same e-mail and
those that changed last, as a merge changes the survivor: a timeline says whom a customer has taken in. When it is not
found there, the customer is gone and nobody knows where.

A provider that fails to answer makes the whole call fail. A customer whose row our model refuses stays as it is known.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from bridge.errors import AccessDenied, Malformed, RequestRefused, SourceError
from bridge.model import Document, Fate, Gone, Merged
from bridge.source.api import ApiClient
from bridge.source.budget import Priority
from bridge.source.rebilly import models
from bridge.source.rebilly.listing import Place, ask, rows_of

READ: Final = "customers.read"
LIST: Final = "customers.list"
TIMELINE: Final = "customers.timeline"

READS_MAX = 8
"""Requests of one call side by side; the budget decides about their rate."""

IDS_MAX = 100
"""Ids in one filter; some kilobytes of address at most."""

HOPS_MAX = 4
"""From one survivor to the next; who is merged again and again within one sweep is not met twice."""

SURVIVORS_MAX = 3
"""Customers with the same e-mail whose timeline is looked into; more of them are a shared mailbox."""

RECENT_MAX = 20
"""Customers that changed last whose timeline is looked into, once for all that are looked up in one call."""

MESSAGES = 100
"""Of a timeline, the newest about merges."""

_EMAIL = re.compile(r"[^\s@!,;:][^\s@!,;:]*@[^\s@!,;:]+")
"""Without what means something in a filter: how that is written there is not known."""


class Lookup:
    """Answers `Feed.fetch` for customers."""

    def __init__(self, client: ApiClient, path: str, page_limit: int) -> None:
        """`path` of the customer list, encoded."""
        self._client = client
        self._path = path
        self._place = Place(LIST, path, page_limit)
        self._ids_max = min(page_limit, IDS_MAX)

    async def fetch(self, known: Sequence[Document]) -> Mapping[str, Fate]:
        """See `Feed.fetch`. Cancellation ends all requests. The first failure ends the looking, not what was found."""
        found: dict[str, Fate] = {}
        absent: dict[str, Document] = {}
        failures: list[SourceError] = []

        async def work(queue: Iterator[Document]) -> None:
            for document in queue:
                if failures:
                    return
                try:
                    fate = await self._read(document)
                except SourceError as error:
                    failures.append(error)
                    return
                if fate is None:
                    absent[document.uid] = document
                else:
                    found[document.uid] = fate

        queue = iter(known)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(READS_MAX, len(known))):
                group.create_task(work(queue), name="look up customers")
        try:
            await self._confirm(absent, found)
        except SourceError as error:
            failures.append(error)
        if failures and not found:
            raise failures[0]
        return found

    async def _read(self, document: Document) -> Document | Merged | None:
        """None when it is not there under its id."""
        name = document.uid
        for _ in range(HOPS_MAX):
            try:
                answer = await self._client.get(READ, f"{self._path}/{quote(name, safe='')}", priority=Priority.HINT)
            except RequestRefused as error:
                if error.status in (404, 410):
                    return None if name == document.uid else Merged(name)  # the survivor has not survived either
                survivor = _leads_to(error.location) if 300 <= error.status <= 399 else None
                if survivor is None or survivor == name:
                    raise
                name = survivor
                continue
            uid = models.uid_of(answer.value)
            if uid is None:
                raise Malformed(f"{READ} answered without a customer")
            return _shown(answer.value, document, READ) if uid == document.uid else Merged(uid)
        raise Malformed(f"{READ} leads from customer to customer without an end")

    async def _confirm(self, absent: Mapping[str, Document], found: dict[str, Fate]) -> None:
        """Ask the list for those who are not there under their ids; as far as it can be asked for an id like that."""
        evidence = _Evidence(self._client, self._place)
        for uid, document in absent.items():
            if not is_filterable(uid):
                found[uid] = await evidence.fate(document)
        uids = [uid for uid in absent if uid not in found]
        for first in range(0, len(uids), self._ids_max):
            some = uids[first : first + self._ids_max]
            listing = await ask(self._client, self._place, (("filter", f"id:{','.join(some)}"),), Priority.HINT)
            there = rows_of(listing, some, LIST)
            for uid in some:
                row = there.get(uid)
                found[uid] = await evidence.fate(absent[uid]) if row is None else _shown(row, absent[uid], LIST)


class _Evidence:
    """Who has taken in whom, as timelines say; each is asked for once."""

    def __init__(self, client: ApiClient, place: Place) -> None:
        self._client = client
        self._place = place
        self._messages: dict[str, list[dict[str, Any]]] = {}
        self._recent: list[str] | None = None

    async def fate(self, document: Document) -> Gone | Merged:
        """Of a customer that is not there any more."""
        for uid in [*await self._namesakes(document), *await self._changed_last()]:
            if uid != document.uid and any(_names(message, document.uid) for message in await self._taken_in(uid)):
                return Merged(uid)
        return Gone(document.uid, 0)

    async def _namesakes(self, document: Document) -> list[str]:
        """Uids of those with the same e-mail, if they are few."""
        email = document.body.get("email")
        if not isinstance(email, str) or not _EMAIL.fullmatch(email) or not is_filterable(email):
            return []
        found = await self._uids(("filter", f"email:{email}"), limit=SURVIVORS_MAX + 1)
        return found if len(found) <= SURVIVORS_MAX else []

    async def _changed_last(self) -> list[str]:
        if self._recent is None:
            self._recent = await self._uids(("sort", "-updatedTime"), limit=RECENT_MAX)
        return self._recent

    async def _uids(self, query: tuple[str, str], *, limit: int) -> list[str]:
        place = self._place._replace(limit=min(limit, self._place.limit))
        listing = await ask(self._client, place, (query, ("fields", "id")), Priority.HINT)
        return [uid for row in listing.rows if (uid := models.uid_of(row)) is not None]

    async def _taken_in(self, survivor: str) -> list[dict[str, Any]]:
        """Messages about merges. `Any`: the provider's JSON."""
        if survivor not in self._messages:
            path = f"{self._place.path}/{quote(survivor, safe='')}/timeline"
            query = (("filter", "type:customer-merged"), ("sort", "-occurredTime"), ("limit", str(MESSAGES)))
            try:
                answer = await self._client.get(TIMELINE, path, query, priority=Priority.HINT)
                rows = answer.value if isinstance(answer.value, list) else []
            except (AccessDenied, RequestRefused):
                rows = []  # evidence only; a provider, or a key, that does not give it stops no deletion
            merges = [row for row in rows if isinstance(row, dict) and row.get("type") == "customer-merged"]
            self._messages[survivor] = merges
        return self._messages[survivor]


def is_filterable(value: str) -> bool:
    """Whether a filter takes this for a value, and not for a range or a list with a name."""
    return ".." not in value and not value.startswith("@")


def _shown(row: Any, document: Document, endpoint: str) -> Document:
    """A row that our model refuses exists all the same; it stays as it is known. `Any`: the provider's JSON."""
    result = models.customer(row, endpoint)
    return result if isinstance(result, Document) else document


def _leads_to(location: str | None) -> str | None:
    """The customer that a redirect leads to; None when it leads elsewhere."""
    if location is None:
        return None
    try:
        parts = urlsplit(location).path.rstrip("/").split("/")
    except ValueError:
        return None
    uid = unquote(parts[-1])
    return uid if len(parts) > 1 and parts[-2] == "customers" and models.is_id(uid) else None


def _names(message: dict[str, Any], uid: str) -> bool:
    """Whether the data of a message, or one of its links, is about this customer. `Any`: it has no declared shape."""
    stack: list[Any] = [message.get("extraData"), message.get("_links")]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            stack += value.values()
        elif isinstance(value, list):
            stack += value
        elif isinstance(value, str) and (value == uid or value.rpartition("/")[2] == uid):
            return True
    return False
