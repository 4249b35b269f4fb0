"""TagsOf: what some customers say of their tags, asked by themselves and not by reading the whole list.

Many are asked for at once, by a filter of the list. It says how many rows match, so who is not on the page is not there
at all; an id that a filter would take for something else is read under its path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote

from bridge.errors import RequestRefused
from bridge.model import Document, Told
from bridge.source.api import ApiClient
from bridge.source.budget import Priority
from bridge.source.memberships import Untold
from bridge.source.rebilly import models
from bridge.source.rebilly.listing import Place, ask, ceiling_of, rows_of
from bridge.source.rebilly.lookup import IDS_MAX, LIST, READ, is_filterable

FIELDS: Final = "id,revision,createdTime,updatedTime,tags"
"""What is asked for of each customer: a tenth of the customer or less."""


class TagsOf:
    """Of one organization."""

    def __init__(self, client: ApiClient, path: str, page_limit: int) -> None:
        """`path` of the customer list, encoded."""
        self._client = client
        self._place = Place(LIST, path, page_limit)
        self._ids_max = min(page_limit, IDS_MAX)

    async def one(self, uid: str, priority: Priority) -> Told | Untold:
        """Of the customer that has this id now. Raises any `SourceError`."""
        try:
            answer = await self._client.get(READ, f"{self._place.path}/{quote(uid, safe='')}", priority=priority)
        except RequestRefused as error:
            if error.status not in (404, 410) and not 300 <= error.status <= 399:
                raise
            return Untold.GONE
        told = models.told(answer.value)
        if told is None:
            return Untold.NOT_NOW
        return told if models.uid_of(answer.value) == uid else Untold.GONE

    async def many(self, known: Sequence[Document], priority: Priority) -> Mapping[str, Told | Untold]:
        """See `Glances.told`."""
        found: dict[str, Told | Untold] = {}
        uids = [document.uid for document in known]
        listed = [uid for uid in uids if is_filterable(uid)]
        for first in range(0, len(listed), self._ids_max):
            found |= await self._some(listed[first : first + self._ids_max], priority)
        for uid in uids:
            if not is_filterable(uid):
                found[uid] = await self.one(uid, priority)
        return found

    async def _some(self, uids: Sequence[str], priority: Priority) -> Mapping[str, Told | Untold]:
        query = (("filter", f"id:{','.join(uids)}"), ("fields", FIELDS))
        listing = await ask(self._client, self._place, query, priority)
        rows = rows_of(listing, uids, LIST)
        ceiling = ceiling_of(listing.answer)
        found: dict[str, Told | Untold] = {}
        for uid in uids:
            told = models.told(rows[uid]) if uid in rows else None
            if told is not None:
                found[uid] = told if told.version <= ceiling else told._replace(version=0)
            else:
                found[uid] = Untold.NOT_NOW if uid in rows else Untold.GONE
        return found
