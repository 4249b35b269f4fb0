"""TagsFeed: all tags of one account, a whole list at a time; there is no paging and no change time to ask since.

An empty list after a full one may be a mistake of the provider. It is handed on like any other: what is missing from
it is a suspicion, and `fetch` asks for the list again before anything counts as deleted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bridge.errors import Malformed
from bridge.model import Collection, Document, Gone, Path, Reject
from bridge.source.api import Answer, ApiClient
from bridge.source.budget import Priority
from bridge.source.dintero import models
from bridge.source.feed import Cursor, Familiar, Page, none_familiar

ENDPOINT = "tags.list"

_READ: Cursor = {"mode": "list"}
"""There is nothing to remember but that the first complete reading is over."""


class TagsFeed:
    """Implements `Feed`."""

    def __init__(self, client: ApiClient, path: str) -> None:
        """`path` of the list, encoded."""
        self._client = client
        self._path = path

    @property
    def collection(self) -> Collection:
        """See `Feed.collection`."""
        return Collection.TAGS

    async def page(self, cursor: Cursor | None, familiar: Familiar = none_familiar) -> Page:
        """See `Feed.page`. Always the whole collection, and too few rows to recognise them."""
        first = cursor is None
        answer, rows = await self._list(Priority.SNAPSHOT if first else Priority.POLL)
        documents: list[Document] = []
        gone: list[Gone] = []
        rejects: list[Reject] = []
        for row in rows:
            result = models.tag(row, ENDPOINT)
            if isinstance(result, Document):
                documents.append(result)
            elif isinstance(result, Gone):
                gone.append(result)
            else:
                rejects.append(result)
        return Page(
            documents=documents,
            gone=gone,
            rejects=rejects,
            cursor=_READ,
            more=False,
            path=Path.SNAPSHOT if first else Path.POLL,
            whole=all(reject.uid is not None for reject in rejects),
            caught_up_to=answer.asked_at,
        )

    def sweep(self, cursor: Cursor) -> None:
        """See `Feed.sweep`."""
        return

    async def fetch(self, known: Sequence[Document]) -> Mapping[str, Document | None]:
        """See `Feed.fetch`. One more request, whatever the number."""
        if not known:
            return {}
        _, rows = await self._list(Priority.HINT)
        shown: dict[str, Document | None] = {document.uid: None for document in known}
        last = {document.uid: document for document in known}
        for row in rows:
            result = models.tag(row, ENDPOINT)
            if result.uid is None:
                raise Malformed(f"{ENDPOINT}: a row has no usable id, so no tag can be called deleted")
            if result.uid in shown and not isinstance(result, Gone):
                # A row that our model refuses exists all the same; it stays as it is known.
                shown[result.uid] = result if isinstance(result, Document) else last[result.uid]
        return shown

    async def _list(self, priority: Priority) -> tuple[Answer, list[Any]]:
        answer = await self._client.get(ENDPOINT, self._path, priority=priority)
        if not isinstance(answer.value, list):
            raise Malformed(f"{ENDPOINT} answered without a list")
        return answer, answer.value
