"""WholeFeed: tags or management users of one account, a whole list at a time; there is no paging and no "since".

A list that lacks what was there may be a mistake of the provider. It is handed on like any other: what is missing from
it is a suspicion, and `fetch` asks for the list again before anything counts as deleted.

Polls ask for the list only if it has changed, where that pays (see `conditional`). The ETag that they name is in the
cursor, so it is committed with the very page that it describes. "Unchanged" proves no absence. A weak ETag may name
two different lists, so every sweep, the first poll of a process, and each poll after something was not made true as
it was shown, ask without condition; and a provider that is caught at it is not asked conditionally again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import orjson

from bridge import __version__
from bridge.errors import Malformed, SourceError
from bridge.model import Collection, Document, Gone, Path, Reject
from bridge.source.api import Answer, ApiClient
from bridge.source.budget import Priority
from bridge.source.conditional import Conditional
from bridge.source.dintero import models
from bridge.source.feed import ETAG, Cursor, Familiar, Page, none_familiar

SECOND: Final = 1_000_000
"""Microseconds."""

_POLL: Cursor = {"mode": "list"}
_SWEEP: Cursor = {"mode": "sweep"}
"""There is nothing to remember but that the first complete reading is over, and the ETag."""

_PRIORITIES = {Path.SNAPSHOT: Priority.SNAPSHOT, Path.POLL: Priority.POLL, Path.SWEEP: Priority.SWEEP}


@dataclass(frozen=True, slots=True)
class WholeList:
    """One such list. endpoint: its name in metrics. path: encoded. mapping: from a row to a document."""

    collection: Collection
    endpoint: str
    path: str
    query: tuple[tuple[str, str], ...]
    mapping: Callable[[object, str], Document | Gone | Reject]


def tags_of(account: str) -> WholeList:
    """The tags of an account, given by its encoded path."""
    return WholeList(Collection.TAGS, "tags.list", f"{account}/customers/tags", (), models.tag)


def users_of(owner: str) -> WholeList:
    """Everyone with access to an account or partner. Roles are whole only if they are asked for, so they always are."""
    return WholeList(Collection.USERS, "users.list", f"{owner}/management/users", (("expand", "roles"),), models.user)


@dataclass(frozen=True, slots=True)
class _Rows:
    """A list, mapped."""

    documents: Sequence[Document]
    gone: Sequence[Gone]
    rejects: Sequence[Reject]

    @property
    def whole(self) -> bool:
        """Every row is known by its id, so what is not here is not in the list."""
        return all(reject.uid is not None for reject in self.rejects)

    def digest(self) -> bytes:
        """Of the documents, in whatever order they came."""
        bodies = sorted(orjson.dumps(document.body, option=orjson.OPT_SORT_KEYS) for document in self.documents)
        return blake2b(b"\n".join(bodies), digest_size=16).digest()


class WholeFeed:
    """Implements `Feed`."""

    def __init__(self, client: ApiClient, listed: WholeList) -> None:
        self._client = client
        self._list = listed
        self._conditional = Conditional()
        self._named: tuple[str, bytes] | None = None
        # Another release may make something else of the same list, and another path is another list.
        self._reader = f"{__version__} {listed.path}"

    @property
    def collection(self) -> Collection:
        """See `Feed.collection`."""
        return self._list.collection

    async def page(self, cursor: Cursor | None, familiar: Familiar = none_familiar) -> Page:
        """See `Feed.page`. Always the whole collection, and too few rows to recognise them."""
        path = Path.SNAPSHOT if cursor is None else Path.SWEEP if cursor.get("mode") == "sweep" else Path.POLL
        known = self._known(cursor) if path is Path.POLL and self._conditional.asks else None
        answer = await self._ask(_PRIORITIES[path], known)
        if answer.unchanged and cursor is not None:
            return Page(documents=(), cursor=cursor, more=False, path=path, caught_up_to=answer.asked_at)
        rows = self._mapped(answer)
        return Page(
            documents=rows.documents,
            gone=rows.gone,
            rejects=rows.rejects,
            cursor=self._following(answer, rows),
            more=False,
            path=path,
            whole=rows.whole,
            complete=path is Path.SWEEP,
            # A row without an id may be anybody's change.
            caught_up_to=answer.asked_at if rows.whole else None,
        )

    def sweep(self, cursor: Cursor) -> Cursor | None:
        """See `Feed.sweep`. Polls that ask without condition show everything themselves."""
        return _SWEEP if ETAG in cursor else None

    async def break_off(self) -> None:
        """See `Feed.break_off`. Nothing is asked for ahead."""

    async def fetch(self, known: Sequence[Document]) -> Mapping[str, Document | Gone]:
        """See `Feed.fetch`. One more request, whatever the number."""
        if not known:
            return {}
        rows = self._mapped(await self._read(Priority.HINT))
        if not rows.whole:
            raise Malformed(f"{self._list.endpoint}: a row has no usable id, so nothing can be called deleted")
        shown: dict[str, Document | Gone] = {document.uid: Gone(document.uid, 0) for document in known}
        last = {document.uid: document for document in known}
        # A row that our model refuses exists all the same; it stays as it is known.
        shown |= {reject.uid: last[reject.uid] for reject in rows.rejects if reject.uid in last}
        shown |= {document.uid: document for document in rows.documents if document.uid in last}
        return shown

    # Requests.

    async def _ask(self, priority: Priority, known: str | None) -> Answer:
        """The list, or that it is what `known` names; every answer is measured."""
        try:
            answer = await self._read(priority, known)
        except SourceError:
            if known is not None:
                self._conditional.failed()
            raise
        seconds = answer.received_at - answer.asked_at
        if answer.unchanged:
            self._conditional.unchanged(seconds)
        else:
            self._conditional.changed(answer.size, seconds, asked=known is not None)
        return answer

    async def _read(self, priority: Priority, known: str | None = None) -> Answer:
        listed = self._list
        answer = await self._client.get(listed.endpoint, listed.path, listed.query, priority=priority, unless=known)
        if not answer.unchanged and not isinstance(answer.value, list):
            raise Malformed(f"{listed.endpoint} answered without a list")
        return answer

    # ETags.

    def _known(self, cursor: Cursor | None) -> str | None:
        """What names the list that the cursor comes from."""
        stored: Any = None if cursor is None else cursor.get(ETAG)  # `Any`: as in `Cursor`
        if not isinstance(stored, dict) or stored.get("reader") != self._reader:
            return None
        return str(stored["name"])

    def _following(self, answer: Answer, rows: _Rows) -> Cursor:
        """The cursor behind a whole list; with its ETag, if the next poll is going to name it."""
        if answer.etag is None or not rows.whole or not self._conditional.asks:
            return _POLL
        named = (answer.etag, rows.digest())
        if self._named is not None and self._named[0] == named[0] and self._named[1] != named[1]:
            self._conditional.distrust()
            return _POLL
        self._named = named
        return {**_POLL, ETAG: {"name": answer.etag, "reader": self._reader}}

    def _mapped(self, answer: Answer) -> _Rows:
        # A row dated later than the server's own second is wrong; it must not outrank what comes after it.
        ceiling = int(answer.received_at * SECOND) if answer.date is None else answer.date + SECOND
        documents: list[Document] = []
        gone: list[Gone] = []
        rejects: list[Reject] = []
        for row in answer.value:
            result = self._list.mapping(row, self._list.endpoint)
            if isinstance(result, Document):
                documents.append(result if result.version <= ceiling else result._replace(version=0))
            elif isinstance(result, Gone):
                gone.append(result if result.at <= ceiling else result._replace(at=0))
            else:
                rejects.append(result)
        return _Rows(documents, gone, rejects)
