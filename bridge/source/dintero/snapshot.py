"""SnapshotFeed: the customer list, read for the first time in several places at once. Wraps `CustomersFeed`.

    begin ──► survey ──► SLICES ──(all read)──► count ──► POLL …
                 │          │                     │
                 └──────────┴─────────────────────┴──(not as slices need it)──► SWEEP …

A large list is cut into slices by change time (`slices`), which are read side by side (`lanes`). A step is the pages
that are there: a crash repeats it and loses nothing. A request that fails leaves its slice where it was. What the list
must be like for that is checked with every page, and counted in the end; if it is not, or if the list is small,
everything is read one page after the other as ever. Whatever was read already falls out in the comparison.

Pages of different slices are not in the order in which they were asked for, so a page tells only of customers that are
dated in its own slice: of two copies with one change time, the later one is never followed by the earlier.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from bridge.errors import CursorRejected, RequestRefused, SourceError
from bridge.model import Collection, Document, Gone, Path, iso
from bridge.source.api import ApiClient
from bridge.source.budget import Priority
from bridge.source.dintero import cursor as walks
from bridge.source.dintero import slices
from bridge.source.dintero.cursor import SECOND, STEP_BACK, Poll, Sweep, UnknownCursor
from bridge.source.dintero.customers import CustomersFeed, ListSettings
from bridge.source.dintero.lanes import Lanes
from bridge.source.dintero.rows import ENDPOINT, list_of, mapped_rows
from bridge.source.dintero.slices import MODE, Shown, Slice, Slices, Unsliceable
from bridge.source.dintero.survey import ROUNDS_MAX, Mark, cut, in_order, questions, wanted
from bridge.source.feed import Cursor, Familiar, Page, none_familiar

WALK_PAGES_MAX = 4
"""A list of no more pages is read sooner than it is surveyed."""

LANE_PAGES_MIN = 2
"""Pages that a slice should have at least, or it is not worth its survey."""

COUNTS_MAX = 3
"""Times that the customers are counted before a number that does not fit is believed: they change meanwhile."""


class _Question(NamedTuple):
    """One request. As it is, it only asks how many customers changed since an instant, or how many there are."""

    since: int | None
    limit: int = 1
    total: bool = True


class SnapshotFeed:
    """Implements `Feed`."""

    def __init__(self, customers: CustomersFeed, client: ApiClient, path: str, settings: ListSettings) -> None:
        """`path` of the list, encoded."""
        self._customers = customers
        self._client = client
        self._path = path
        self._limit = settings.page_limit
        self._parallelism = settings.parallelism
        self._lanes = Lanes(self._page_of)
        self._overlap = int(settings.overlap_s * SECOND)

    @property
    def collection(self) -> Collection:
        """See `Feed.collection`."""
        return self._customers.collection

    async def page(self, cursor: Cursor | None, familiar: Familiar = none_familiar) -> Page:
        """See `Feed.page`. Of slices: the pages that are there by now, at least one, as one."""
        if cursor is not None and cursor.get("mode") == MODE:
            try:
                state = slices.load(cursor)
            except UnknownCursor as error:
                raise CursorRejected(f"the stored position cannot be used: {error}") from None
            return await (self._slices_page(state) if state.slices else self._last_page(state))
        await self._lanes.break_off()  # of a reading that was given up
        if cursor is None and self._parallelism > 1 and (begun := await self._survey()) is not None:
            return _page(begun)
        return await self._customers.page(cursor, familiar)

    async def fetch(self, known: Sequence[Document]) -> Mapping[str, Document | Gone]:
        """See `Feed.fetch`."""
        return await self._customers.fetch(known)

    def sweep(self, cursor: Cursor) -> Cursor:
        """See `Feed.sweep`."""
        return self._customers.sweep(cursor)

    async def break_off(self) -> None:
        """See `Feed.break_off`."""
        await self._lanes.break_off()

    # Where to cut.

    async def _survey(self) -> Slices | None:
        """The slices; None when the list is to be walked."""
        everybody = await self._get(_Question(None))
        if everybody.total is None or everybody.total <= WALK_PAGES_MAX * self._limit:
            return None
        try:
            dated = await self._get(_Question(0))
        except RequestRefused:
            return None
        first = dated.mapped.times
        if dated.total is None or dated.total < everybody.total or not first:
            return None  # those without a change time would be missed
        lanes = min(self._parallelism, dated.total // (LANE_PAGES_MIN * self._limit))
        want = wanted(dated.total, lanes, self._limit)
        now = int(everybody.received_at * SECOND) if everybody.date is None else everybody.date
        marks = [Mark(first[0], dated.total), Mark(now + SECOND, 0)]
        for _ in range(ROUNDS_MAX):
            asked = questions(marks, want, lanes)
            if not asked:
                break
            answers = await self._side_by_side([_Question(since) for since in asked])
            if not any(isinstance(answer, Shown) for answer in answers):
                break
            marks = in_order([*marks, *_marks(asked, answers, now)])
        pieces = cut(marks, want)
        return Slices(slices=pieces, began=everybody.date) if len(pieces) > 1 else None

    # Pages.

    async def _slices_page(self, state: Slices) -> Page:
        asked = state.next(self._parallelism)
        answers = await self._lanes.pages([state.slices[number] for number in asked])
        pages: list[Shown | None] = [None] * len(state.slices)
        failed = [answer for answer in answers if isinstance(answer, SourceError)]
        for number, answer in zip(asked, answers, strict=True):
            if isinstance(answer, Shown):
                pages[number] = answer
        shown = [_own(piece, page) for piece, page in zip(state.slices, pages, strict=True) if page is not None]
        if not any(isinstance(error, RequestRefused) for error in failed):
            if not shown:
                raise failed[0]
            try:
                return _page(state.after(pages, self._parallelism, self._overlap), shown)
            except Unsliceable:
                pass
        await self._lanes.break_off()
        return _page(state.walking(), shown)

    async def _last_page(self, state: Slices) -> Page:
        """Count what there is, against what was read."""
        since = max(0, state.counted_to - STEP_BACK)
        for _ in range(COUNTS_MAX):
            everybody = await self._get(_Question(None))
            answers = await self._side_by_side([_Question(0), _Question(since)])
            totals = [everybody.total]
            for answer in answers:
                if isinstance(answer, SourceError):
                    raise answer
                totals.append(answer.total)
            known = [total for total in totals if total is not None]
            if len(known) == len(totals) and state.proves(*known):
                return _page(state.polling())
        return _page(state.walking())

    # Requests.

    async def _page_of(self, piece: Slice) -> Shown:
        return await self._get(_Question(piece.since, self._limit, total=piece.end is None))

    async def _side_by_side(self, questions: Sequence[_Question]) -> list[Shown | SourceError]:
        """Every answer, or what came instead, in order. Cancellation ends all requests."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._caught(question), name="count customers") for question in questions]
        return [task.result() for task in tasks]

    async def _caught(self, question: _Question) -> Shown | SourceError:
        """As a value: the others shall go on."""
        try:
            return await self._get(question)
        except SourceError as error:
            return error

    async def _get(self, question: _Question) -> Shown:
        query = [("type", "any"), ("limit", str(question.limit))]
        if question.total:
            query.append(("total", "true"))
        if question.since is not None:
            query.append(("since_datetime", iso(question.since)))
        answer = await self._client.get(ENDPOINT, self._path, tuple(query), priority=Priority.SNAPSHOT)
        rows = list_of(answer)
        # At once, and not when all are there: so one page is mapped while others are still on their way.
        mapped = mapped_rows(rows, answer, self._limit)
        return Shown(rows, mapped, self._limit, answer.total, answer.date, answer.asked_at, answer.received_at)


def _marks(asked: Sequence[int], answers: Sequence[Shown | SourceError], now: int) -> list[Mark]:
    found: list[Mark] = []
    for since, answer in zip(asked, answers, strict=True):
        if isinstance(answer, Shown) and answer.total is not None:
            # There is nothing before the first row, so the count holds from there on too.
            found += [Mark(at, answer.total) for at in (since, *answer.mapped.times[:1]) if since <= at <= now]
    return found


def _own(piece: Slice, shown: Shown) -> Shown:
    """What the page tells of its own slice. Without a believable change time a row is of none, and told by each."""
    documents = [one for one in shown.mapped.documents if not one.version or piece.counted <= one.version < piece.until]
    return shown._replace(mapped=replace(shown.mapped, documents=documents))


def _page(state: Slices | Sweep | Poll, pages: Sequence[Shown] = ()) -> Page:
    return Page(
        documents=[document for page in pages for document in page.mapped.documents],
        gone=[gone for page in pages for gone in page.mapped.gone],
        rejects=[reject for page in pages for reject in page.mapped.rejects],
        cursor=slices.dump(state) if isinstance(state, Slices) else walks.dump(state),
        more=True,
        path=Path.SNAPSHOT,
        complete=isinstance(state, Poll),
    )
