"""CustomersFeed: the customer list of one organization as pages.

`page` takes one step of the state machine in `cursor`: it asks for the next box (see `boxes`), and keeps what the
answer leaves over. Customers say which tags they have, so every page tells that too. A *glance* is a complete reading
of nothing but ids and tags, because tagging a customer need not move its change time.

There is no list of customers that are gone: they are merely absent from a complete reading, until `fetch` has found out
what became of them (see `lookup`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Final

from bridge import __version__
from bridge.errors import AnswerTooLarge, CursorRejected
from bridge.model import Collection, Document, Fate, Path, Reject, Told
from bridge.source.api import ApiClient
from bridge.source.budget import Priority
from bridge.source.feed import Cursor, Familiar, Page, none_familiar
from bridge.source.memberships import Untold
from bridge.source.rebilly import models
from bridge.source.rebilly.boxes import SECOND, UPDATED, Box, Shown, left
from bridge.source.rebilly.cursor import Poll, Sweep, UnknownCursor, dump, load, noted
from bridge.source.rebilly.listing import Listing, Place, ask, ceiling_of, heap
from bridge.source.rebilly.lookup import Lookup
from bridge.source.rebilly.told import FIELDS, TagsOf

ENDPOINT: Final = "customers.list"

ORDERS: Final = ("email", "-email", "lastName", "-lastName")
"""In which rows are asked for that have the same times. Both ends of each can be reached, 2,000 rows at a time."""

FINGERPRINT_BYTES = 16
"""128 bits: that a changed row has the fingerprint of the old one is less likely than any other fault."""

_RELEASE = __version__.encode()


@dataclass(frozen=True, slots=True)
class ListSettings:
    """How the list is asked. tells_tags: whether pages say which tags customers have."""

    page_limit: int = 1000
    overlap_s: float = 10.0
    tells_tags: bool = True


@dataclass(slots=True)
class _Rows:
    """A page, mapped. See `Page`. latest: the greatest believable change time."""

    documents: list[Document] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    familiar: list[str] = field(default_factory=list)
    fingerprints: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, Told] = field(default_factory=dict)
    latest: int | None = None

    @property
    def nameless(self) -> bool:
        """Whether a row may be any customer's."""
        return any(reject.uid is None for reject in self.rejects)


class CustomersFeed:
    """Implements `Feed` and `Glances`."""

    def __init__(self, client: ApiClient, path: str, settings: ListSettings) -> None:
        """`path` of the list, encoded."""
        self._client = client
        self._place = Place(ENDPOINT, path, settings.page_limit)
        self._overlap = int(settings.overlap_s * SECOND)
        self._tells_tags = settings.tells_tags
        self._lookup = Lookup(client, path, settings.page_limit)
        self._tags_of = TagsOf(client, path, settings.page_limit)

    @property
    def collection(self) -> Collection:
        """See `Feed.collection`."""
        return Collection.CUSTOMERS

    async def page(self, cursor: Cursor | None, familiar: Familiar = none_familiar) -> Page:
        """See `Feed.page`. One request, but for rows that no filter tells apart: those are one page, however many."""
        try:
            state = Sweep(path=Path.SNAPSHOT) if cursor is None else load(cursor)
        except UnknownCursor as error:
            raise CursorRejected(f"the stored position cannot be used: {error}") from None
        if isinstance(state, Sweep):
            return await self._sweep_page(state, familiar)
        return await self._poll_page(state.begun(self._overlap), familiar)

    async def fetch(self, known: Sequence[Document]) -> Mapping[str, Fate]:
        """See `Feed.fetch`."""
        return await self._lookup.fetch(known)

    def sweep(self, cursor: Cursor) -> Cursor:
        """See `Feed.sweep`."""
        return self._complete(cursor, glance=False)

    async def break_off(self) -> None:
        """See `Feed.break_off`. Nothing is asked for ahead."""

    def glance(self, cursor: Cursor) -> Cursor:
        """See `Glances.glance`."""
        return self._complete(cursor, glance=True)

    async def tags(self, known: Document, *, urgent: bool) -> frozenset[str] | Untold:
        """See `Glances.tags`."""
        told = await self._tags_of.one(known.uid, Priority.HINT if urgent else Priority.MEMBERSHIP)
        return frozenset(told.tags) if isinstance(told, Told) else told

    async def told(self, known: Sequence[Document]) -> Mapping[str, Told | Untold]:
        """See `Glances.told`."""
        return await self._tags_of.many(known, Priority.HINT)

    def _complete(self, cursor: Cursor, *, glance: bool) -> Cursor:
        state = load(cursor)
        return dump(state if isinstance(state, Sweep) else state.sweep(glance=glance))

    # Pages.

    async def _sweep_page(self, state: Sweep, familiar: Familiar) -> Page:
        first = state.path is Path.SNAPSHOT
        priority = Priority.SNAPSHOT if first else Priority.MEMBERSHIP if state.glance else Priority.SWEEP
        box = state.left[0]
        listings = await self._ask(box, priority, (("fields", FIELDS),) if state.glance else ())
        # What is read for the first time can hardly be familiar; asking would only cost.
        rows = self._glanced(listings) if state.glance else self._mapped(listings, None if first else familiar)
        answer = listings[-1].answer
        if not any(listing.rows for listing in listings) and not state.empty:
            # Lists have been shown empty once by mistake; one more request is cheap.
            return _page(rows, replace(state, empty=True), state.path)
        if state.began is None:
            state = replace(state, began=rows.latest if answer.date is None else answer.date)
        state = replace(noted(state, rows.latest, answer.received_at), empty=False)
        state = replace(state, left=(*_left(box, listings), *state.left[1:]))
        return _page(rows, state if state.left else state.polling(), state.path)

    async def _poll_page(self, state: Poll, familiar: Familiar) -> Page:
        box = state.left[0]
        listings = await self._ask(box, Priority.POLL, ())
        rows = self._mapped(listings, familiar)
        answer = listings[-1].answer
        nothing = not any(listing.rows for listing in listings)
        if nothing and not state.empty and state.seen is not None and box.low <= state.seen:
            # The row that changed at `seen` has changed then or later.
            return _page(rows, replace(state, empty=True), Path.POLL)
        state = noted(state, rows.latest, answer.received_at)
        rest = _left(box, listings)
        unsure = state.unsure or rows.nameless or _too_early(box, rest, state.server_clock(answer.received_at))
        reached = max(state.reached, rows.latest or 0)
        state = replace(state, left=(*rest, *state.left[1:]), reached=reached, unsure=unsure, empty=False)
        if state.left:
            return _page(rows, state, Path.POLL)
        ended = state.ended(answer.date, answer.received_at, self._overlap)
        return replace(_page(rows, ended, Path.POLL), more=False, caught_up_to=None if unsure else answer.asked_at)

    async def _ask(self, box: Box, priority: Priority, query: tuple[tuple[str, str], ...]) -> Sequence[Listing]:
        text = box.filter
        query = query if text is None else (*query, ("filter", text))
        try:
            if box.heap:
                return await heap(self._client, self._place, query, ORDERS, priority)
            return [await ask(self._client, self._place, (*query, ("sort", box.axis)), priority)]
        except AnswerTooLarge:
            # Customers may have a great many tags, each of them a whole object. No box depends on how many are shown.
            self._place = self._place._replace(limit=max(1, self._place.limit // 2))
            raise

    # Rows.

    def _mapped(self, listings: Sequence[Listing], familiar: Familiar | None) -> _Rows:
        found = _Rows()
        for listing in listings:
            ceiling = ceiling_of(listing.answer)
            fingerprints = {} if familiar is None else _fingerprints(listing.rows)
            recognised = familiar(fingerprints) if familiar is not None and fingerprints else frozenset[str]()
            for row in listing.rows:
                uid = models.uid_of(row)
                moment = models.time_of(row, UPDATED)
                believable = moment is not None and moment <= ceiling
                if moment is not None and believable:
                    found.latest = moment if found.latest is None else max(moment, found.latest)
                if uid is not None and uid in recognised:
                    found.familiar.append(uid)
                    continue
                self._tell(row, found, ceiling)
                result = models.customer(row, ENDPOINT)
                if isinstance(result, Reject):
                    found.rejects.append(result)
                    continue
                # A row dated later than the server's own second is wrong; it must not outrank what comes after it.
                found.documents.append(result if believable else result._replace(version=0))
                if believable and result.uid in fingerprints:
                    found.fingerprints[result.uid] = fingerprints[result.uid]
        return found

    def _glanced(self, listings: Sequence[Listing]) -> _Rows:
        """Everybody is as familiar as can be: nothing of a row is looked into but its tags."""
        found = _Rows()
        for listing in listings:
            for row in listing.rows:
                uid = models.uid_of(row)
                if uid is None:
                    result = models.customer(row, ENDPOINT)
                    assert isinstance(result, Reject), "who has no uid is no document"
                    found.rejects.append(result)
                else:
                    found.familiar.append(uid)
                    self._tell(row, found, ceiling_of(listing.answer))
        return found

    def _tell(self, row: Any, found: _Rows, ceiling: int) -> None:
        """`Any`: the provider's JSON. ceiling: see `ceiling_of`."""
        uid = models.uid_of(row)
        told = models.told(row) if self._tells_tags else None
        if uid is not None and told is not None:
            found.tags[uid] = told if told.version <= ceiling else told._replace(version=0)


def _left(box: Box, listings: Sequence[Listing]) -> tuple[Box, ...]:
    if box.heap:
        return ()
    (listing,) = listings
    times = [moment for row in listing.rows if (moment := models.time_of(row, box.axis)) is not None]
    now = ceiling_of(listing.answer)
    return left(box, Shown(times, listing.shown, listing.total, now))


def _too_early(box: Box, rest: tuple[Box, ...], server_clock: int) -> bool:
    """True when a second is read by itself that is not surely over: what changes in it later is behind the reader."""
    return box.burst is None and any(each.burst is not None and server_clock < each.burst + 2 * SECOND for each in rest)


def _fingerprints(rows: list[Any]) -> dict[str, bytes]:
    """By uid; not of rows that come twice, for which of the two counts is to be seen."""
    found: dict[str, bytes] = {}
    twice: set[str] = set()
    for row in rows:
        uid = models.uid_of(row)
        if uid is not None:
            if uid in found:
                twice.add(uid)
            # The release is in it, because another one may make something else of the same row.
            digest = blake2b(models.fingerprint_of(row), digest_size=FINGERPRINT_BYTES, key=_RELEASE)
            found[uid] = digest.digest()
    for uid in twice:
        del found[uid]
    return found


def _page(rows: _Rows, following: Sweep | Poll, path: Path) -> Page:
    return Page(
        documents=rows.documents,
        rejects=rows.rejects,
        familiar=rows.familiar,
        fingerprints=rows.fingerprints,
        tags=rows.tags,
        cursor=dump(following),
        more=True,
        path=path,
        complete=path is not Path.POLL and isinstance(following, Poll),
    )
