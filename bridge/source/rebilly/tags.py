"""TagsFeed: the tags of one organization, those of customers, as one list however many requests that takes.

The list holds tags of other kinds too, which are left out, and it may be longer than it shows: then it is read in boxes
like the customers, within one call, because a page of this feed is the whole collection. A tag that is deleted is gone
from the list at once; what is missing is a suspicion, and `fetch` asks for the list again before anything counts as
deleted. Tags are known by their id: a name can be changed, and used again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bridge.errors import Malformed
from bridge.model import Collection, Document, Fate, Gone, Path, Reject
from bridge.source.api import ApiClient
from bridge.source.budget import Priority
from bridge.source.feed import Cursor, Familiar, Page, none_familiar
from bridge.source.rebilly import models
from bridge.source.rebilly.boxes import CREATED, SECOND, Box, Shown, left
from bridge.source.rebilly.listing import Listing, Place, ask, ceiling_of, heap

ENDPOINT: Final = "tags.list"

REQUESTS_MAX = 100
"""For one list: a hundred thousand tags. Whoever has more has customers for tags."""

ORDERS: Final = ("name", "-name")
"""In which tags are asked for that were created in the same second."""

_OURS = f"type:{models.CUSTOMER}"
_POLL: Cursor = {"mode": "list"}
_PRIORITIES = {Path.SNAPSHOT: Priority.SNAPSHOT, Path.POLL: Priority.POLL}


@dataclass(frozen=True, slots=True)
class _Rows:
    """The list, mapped. asked_at: wall-clock seconds of its first request."""

    documents: Sequence[Document]
    rejects: Sequence[Reject]
    asked_at: float

    @property
    def whole(self) -> bool:
        """Every row is known by its id, so what is not here is not in the list."""
        return all(reject.uid is not None for reject in self.rejects)


class TagsFeed:
    """Implements `Feed`."""

    def __init__(self, client: ApiClient, path: str, page_limit: int) -> None:
        """`path` of the list, encoded."""
        self._client = client
        self._place = Place(ENDPOINT, path, page_limit)

    @property
    def collection(self) -> Collection:
        """See `Feed.collection`."""
        return Collection.TAGS

    async def page(self, cursor: Cursor | None, familiar: Familiar = none_familiar) -> Page:
        """See `Feed.page`. Always the whole collection, and too few rows to recognise them."""
        path = Path.SNAPSHOT if cursor is None else Path.POLL
        rows = await self._read(_PRIORITIES[path])
        return Page(
            documents=rows.documents,
            rejects=rows.rejects,
            cursor=_POLL,
            more=False,
            path=path,
            whole=rows.whole,
            # A row without an id may be anybody's change.
            caught_up_to=rows.asked_at if rows.whole else None,
        )

    def sweep(self, cursor: Cursor) -> None:
        """See `Feed.sweep`. Every poll shows everything."""

    async def break_off(self) -> None:
        """See `Feed.break_off`. Nothing is asked for ahead."""

    async def fetch(self, known: Sequence[Document]) -> Mapping[str, Fate]:
        """See `Feed.fetch`. The list once more, whatever the number."""
        if not known:
            return {}
        rows = await self._read(Priority.HINT)
        if not rows.whole:
            raise Malformed(f"{ENDPOINT}: a row has no usable id, so nothing can be called deleted")
        last = {document.uid: document for document in known}
        shown: dict[str, Fate] = {uid: Gone(uid, 0) for uid in last}
        # A row that our model refuses exists all the same; it stays as it is known.
        shown |= {reject.uid: last[reject.uid] for reject in rows.rejects if reject.uid in last}
        shown |= {document.uid: document for document in rows.documents if document.uid in last}
        return shown

    async def _read(self, priority: Priority) -> _Rows:
        """The first page is usually all there is; otherwise everything is read in boxes."""
        listings = [await ask(self._client, self._place, (("filter", _OURS),), priority)]
        asked_at = listings[0].answer.asked_at
        if listings[0].shown < listings[0].total:
            listings = await self._boxes(priority)
        documents: dict[str, Document] = {}
        rejects: list[Reject] = []
        for listing in listings:
            # A row dated later than the server's own second is wrong; it must not outrank what comes after it.
            ceiling = ceiling_of(listing.answer)
            for row in listing.rows:
                result = models.tag(row, ENDPOINT)
                if isinstance(result, Document):
                    documents[result.uid] = result if result.version <= ceiling else result._replace(version=0)
                elif result is not None:
                    rejects.append(result)
        return _Rows(list(documents.values()), rejects, asked_at)

    async def _boxes(self, priority: Priority) -> list[Listing]:
        found: list[Listing] = []
        boxes: tuple[Box, ...] = (Box(CREATED),)
        while boxes:
            if len(found) >= REQUESTS_MAX:
                raise Malformed(f"{ENDPOINT}: more tags than {REQUESTS_MAX} requests can show")
            box, boxes = boxes[0], boxes[1:]
            query = (("filter", f"{_OURS};{box.filter}" if box.filter else _OURS),)
            if box.heap:
                found += await heap(self._client, self._place, query, ORDERS, priority)
                continue
            listing = await ask(self._client, self._place, (*query, ("sort", box.axis)), priority)
            found.append(listing)
            times = [moment for row in listing.rows if (moment := models.time_of(row, box.axis)) is not None]
            now = int(listing.answer.received_at * SECOND)
            boxes = (*left(box, Shown(times, listing.shown, listing.total, now)), *boxes)
        return found
