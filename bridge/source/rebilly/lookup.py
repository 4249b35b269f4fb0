"""Lookup: what became of customers that are absent. A false "gone" would be published as a deletion.

Each is read by its id. Whoever was merged into another customer is not there any more (404), or leads to the survivor:
by a redirect to it, or by an answer that is the survivor itself. A 404 alone could be a gateway's, so the list has to
say as well that it does not have the customer. Then the survivor is looked for among those with the same e-mail, whose
timeline says whom they have taken in; when it is not found there, the customer is gone and nobody knows where.

A provider that fails to answer makes the whole call fail. A customer whose row our model refuses stays as it is known.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from bridge.errors import Malformed, RequestRefused, SourceError
from bridge.model import Document, Fate, Gone, Merged
from bridge.source.api import ApiClient
from bridge.source.budget import Priority
from bridge.source.rebilly import models
from bridge.source.rebilly.listing import Place, ask

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
        self._place = Place(LIST, path, min(page_limit, IDS_MAX))

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
        for uid, document in absent.items():
            if not is_filterable(uid):
                found[uid] = await self._survivor(document)
        uids = [uid for uid in absent if uid not in found]
        for first in range(0, len(uids), self._place.limit):
            some = uids[first : first + self._place.limit]
            listing = await ask(self._client, self._place, (("filter", f"id:{','.join(some)}"),), Priority.HINT)
            if listing.total > len(some) or len(listing.rows) < listing.total:
                raise Malformed(f"{LIST} does not obey the filter by id, so nobody can be called gone")
            there = {models.uid_of(row): row for row in listing.rows}
            for uid in some:
                row = there.get(uid)
                found[uid] = await self._survivor(absent[uid]) if row is None else _shown(row, absent[uid], LIST)

    async def _survivor(self, document: Document) -> Gone | Merged:
        """Among those with the same e-mail, the one whose timeline says so; if there is one."""
        email = document.body.get("email")
        gone = Gone(document.uid, 0)
        if not isinstance(email, str) or not _EMAIL.fullmatch(email) or not is_filterable(email):
            return gone
        query = (("filter", f"email:{email}"), ("fields", "id"))
        listing = await ask(self._client, self._place, query, Priority.HINT)
        if listing.total > SURVIVORS_MAX:
            return gone
        for row in listing.rows:
            uid = models.uid_of(row)
            if uid is not None and uid != document.uid and await self._took_in(uid, document.uid):
                return Merged(uid)
        return gone

    async def _took_in(self, survivor: str, uid: str) -> bool:
        path = f"{self._path}/{quote(survivor, safe='')}/timeline"
        query = (("filter", "type:customer-merged"), ("sort", "-occurredTime"), ("limit", str(MESSAGES)))
        try:
            answer = await self._client.get(TIMELINE, path, query, priority=Priority.HINT)
        except RequestRefused:
            return False  # evidence only; a provider that does not give it stops no deletion
        messages = answer.value if isinstance(answer.value, list) else []
        return any(
            isinstance(message, dict) and message.get("type") == "customer-merged" and _names(message, uid)
            for message in messages
        )


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
