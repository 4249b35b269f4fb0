"""CustomersFeed: the customer list of one account as pages.

`page` takes one step of the state machine in `cursor`: a page of a sweep, or a page of changes. What the list is known
to do, and is believed to do only as far as the rows themselves show it:

* The end of a sweep is an empty page (asked for twice) or a short one that brings nothing new; a short page alone
  proves nothing. A full page that repeats an earlier one means that the cursor is ignored: `Malformed`, never an end.
* Changes are asked for since an instant, pages on by the greatest change time, and are expected in ascending order. A
  full page that is not ascending, or shows only the instant it was asked for, cannot be paged on: a sweep steps in.
  It waits until every row that can still get that instant must be visible, so no change falls between the two.
* A page that holds contacts also holds the customers they are contacts for, wherever those belong in the order. Such
  rows are documents like all others but are never used to page on.
* Deleted customers appear as tombstones; they are suspicions (`Page.gone`) until `fetch` has confirmed them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from bridge.errors import CursorRejected, RequestRefused
from bridge.model import Collection, Document, Gone, Path, iso
from bridge.source.api import Answer, ApiClient
from bridge.source.budget import Priority
from bridge.source.dintero.cursor import RESTARTS_MAX, SECOND, STEP_BACK, Poll, Sweep, UnknownCursor, dump, load
from bridge.source.dintero.lookup import Lookup
from bridge.source.dintero.paging import CURSOR_REFUSED, ignored, onward
from bridge.source.dintero.rows import ENDPOINT, Rows, list_of, mapped_rows, paged_on
from bridge.source.feed import Cursor, Familiar, Page, none_familiar

State = TypeVar("State", Sweep, Poll)


@dataclass(frozen=True, slots=True)
class ListSettings:
    """How the list is asked. cursor_kind: the field whose value `starting_after` takes.

    parallelism: requests side by side while everything is read for the first time (see `snapshot`).
    """

    page_limit: int = 100
    cursor_kind: str = "id"
    overlap_s: float = 10.0
    parallelism: int = 4


class CustomersFeed:
    """Implements `Feed`."""

    def __init__(self, client: ApiClient, path: str, settings: ListSettings) -> None:
        """`path` of the list, encoded."""
        self._client = client
        self._path = path
        self._settings = settings
        self._overlap = int(settings.overlap_s * SECOND)
        self._lookup = Lookup(client, path, settings.page_limit, settings.cursor_kind)

    @property
    def collection(self) -> Collection:
        """See `Feed.collection`."""
        return Collection.CUSTOMERS

    async def page(self, cursor: Cursor | None, familiar: Familiar = none_familiar) -> Page:
        """See `Feed.page`."""
        try:
            state = Sweep(path=Path.SNAPSHOT) if cursor is None else load(cursor)
        except UnknownCursor as error:
            raise CursorRejected(f"the stored position cannot be used: {error}") from None
        if isinstance(state, Sweep):
            # What is read for the first time can hardly be familiar; asking would only cost.
            return await self._sweep_page(state, None if state.path is Path.SNAPSHOT else familiar)
        return await self._poll_page(state, familiar)

    async def fetch(self, known: Sequence[Document]) -> Mapping[str, Document | Gone]:
        """See `Feed.fetch`."""
        return await self._lookup.fetch(known)

    def sweep(self, cursor: Cursor) -> Cursor:
        """See `Feed.sweep`."""
        state = load(cursor)
        return dump(state if isinstance(state, Sweep) else state.sweep(bare=self._settings.cursor_kind != "id"))

    async def break_off(self) -> None:
        """See `Feed.break_off`. Nothing is asked for ahead."""

    # A page of a sweep.

    async def _sweep_page(self, state: Sweep, familiar: Familiar | None) -> Page:
        query = [("type", "any"), ("limit", str(self._settings.page_limit))]
        if state.path is Path.SWEEP and not state.bare:
            query.append(("include_deleted", "true"))
        if state.after is not None:
            query.append(("starting_after", state.after))
        priority = Priority.SNAPSHOT if state.path is Path.SNAPSHOT else Priority.SWEEP
        try:
            answer = await self._client.get(ENDPOINT, self._path, tuple(query), priority=priority)
        except RequestRefused as error:
            return self._restart(state, error)
        rows = list_of(answer)
        mapped = mapped_rows(rows, answer, self._settings.page_limit, familiar)
        following = self._after_sweep_page(state, rows, mapped, answer)
        return Page(
            documents=mapped.documents,
            gone=mapped.gone,
            rejects=mapped.rejects,
            familiar=mapped.familiar,
            fingerprints=mapped.fingerprints,
            cursor=dump(following),
            more=True,
            path=state.path,
            complete=isinstance(following, Poll),
        )

    def _restart(self, state: Sweep, error: RequestRefused) -> Page:
        if state.after is None or error.status not in CURSOR_REFUSED:
            raise error
        if state.restarts >= RESTARTS_MAX:
            raise CursorRejected(
                f"{ENDPOINT} answers {error.status} to its own cursor again and again; check cursor_kind"
            )
        return Page(documents=(), cursor=dump(state.restarted()), more=True, path=state.path)

    def _after_sweep_page(self, state: Sweep, rows: list[Any], mapped: Rows, answer: Answer) -> Sweep | Poll:
        if not rows:
            # Providers have shown an empty list once by mistake; one more request is cheap.
            return state.polling() if state.empty else replace(state, empty=True)
        state = _noted(state, mapped, answer)
        if state.pages == 0 and state.began is None:
            state = replace(state, began=mapped.latest if answer.date is None else answer.date)
        step = onward(state, rows, self._settings.page_limit, self._settings.cursor_kind, ENDPOINT)
        if step.repeats(state):
            if len(rows) < self._settings.page_limit:
                return state.polling()
            if not step.repeats_last(state) and not state.restarts:
                # An id may have changed hands, where the cursor is one that can: this page would come again for ever.
                return state.restarted()
            if state.path is Path.SWEEP and not state.bare:
                # Tombstones may lead in a circle for ever; everything is read again without, then who is absent.
                raise CursorRejected(str(ignored(ENDPOINT)))
            raise ignored(ENDPOINT)
        # A page with another behind it was a full one.
        width = max(state.width, state.count)
        count = min(len(rows), self._settings.page_limit)
        return replace(state, **step._asdict(), empty=False, count=count, width=width)

    # A page of changes.

    async def _poll_page(self, state: Poll, familiar: Familiar) -> Page:
        since = state.start(self._overlap)
        query = (
            ("type", "any"),
            ("limit", str(self._settings.page_limit)),
            ("include_deleted", "true"),
            ("since_datetime", iso(since)),
        )
        answer = await self._client.get(ENDPOINT, self._path, query, priority=Priority.POLL)
        rows = list_of(answer)
        mapped = mapped_rows(rows, answer, self._settings.page_limit, familiar)
        state = _noted(state, mapped, answer)
        if len(rows) >= (state.width or self._settings.page_limit):
            following, more, complete = self._after_full_page(state, since, mapped, answer)
        else:
            following, more, complete = self._after_short_page(state, since, mapped, answer)
            # A row without an id may be any customer's change.
            complete = complete and all(reject.uid is not None for reject in mapped.rejects)
        return Page(
            documents=mapped.documents,
            gone=mapped.gone,
            rejects=mapped.rejects,
            familiar=mapped.familiar,
            fingerprints=mapped.fingerprints,
            cursor=dump(following),
            more=more,
            path=Path.POLL,
            caught_up_to=answer.asked_at if complete else None,
        )

    def _after_short_page(
        self, state: Poll, since: int, mapped: Rows, answer: Answer
    ) -> tuple[Poll | Sweep, bool, bool]:
        """Everything up to now has been shown: the next run begins a little before the last change."""
        nothing = not (mapped.documents or mapped.gone or mapped.rejects or mapped.familiar)
        if nothing and not state.empty and state.seen is not None and since < state.seen:
            # The row that changed at `seen` has changed then or later, so a page from `since` on cannot be empty.
            return replace(state, empty=True), True, False
        position = max(state.position, mapped.latest or 0)
        behind = answer.date if answer.date is not None and answer.date + SECOND < position else None
        quiet = position == state.position and behind is None and state.is_quiet(answer.received_at)
        following = replace(state, position=position, since=None, behind=behind, quiet=quiet, empty=False)
        return following, False, True

    def _after_full_page(
        self, state: Poll, since: int, mapped: Rows, answer: Answer
    ) -> tuple[Poll | Sweep, bool, bool]:
        """Page on by the greatest change time, or let a sweep step in where that leads nowhere."""
        last = paged_on(since, list_of(answer), mapped)
        if last is not None:
            position = max(state.position, last)
            return replace(state, position=position, since=last - STEP_BACK, quiet=False, empty=False), True, False
        if state.can_pass(since, self._overlap, answer.received_at):
            return state.sweep_past(since, self._overlap, answer.received_at, answer.date), True, False
        # Too early: rows of this instant may still appear. Ask again after the poll interval.
        return replace(state, since=since), False, False


def _noted(state: State, mapped: Rows, answer: Answer) -> State:
    """The state with what the page says about the server's clock."""
    if mapped.latest is None or (state.seen is not None and mapped.latest <= state.seen):
        return state
    return replace(state, seen=mapped.latest, at=round(answer.received_at, 3))
