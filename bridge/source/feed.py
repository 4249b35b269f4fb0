"""Feed: one collection of one source as pages of documents. The seam between providers and the rest.

The runtime calls `page` with the cursor that the last committed step left behind, diffs what comes back, publishes it
together with `Page.cursor`, and calls again: at once while `Page.more`, else after the poll interval. A feed keeps no
position of its own; the cursor is a value (so a crash between two pages repeats a page and loses nothing). What it may
have is requests under way for the pages that are likely to follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Protocol

from bridge.model import Collection, Document, Fate, Gone, Path, Reject, Told

Cursor = dict[str, Any]
"""A JSON object that only the feed itself understands; stored in the state topic. Treated as immutable.

`Any` because each provider puts its own scalars in it."""

ETAG = "etag"
"""Field of a cursor, if it has one: what lets a feed ask whether anything has changed since the page that left it.

Reserved, because the runtime takes it out (`without_etag`) whenever what is known is not what that page showed."""

Familiar = Callable[[Mapping[str, bytes]], Set[str]]
"""Told the fingerprints of rows by uid, says of which uids that very row is known to change nothing."""


def none_familiar(fingerprints: Mapping[str, bytes]) -> Set[str]:
    """For who knows nothing."""
    return frozenset()


def without_etag(cursor: Cursor) -> Cursor:
    """The cursor from which the next page shows everything, changed or not."""
    return {name: value for name, value in cursor.items() if name != ETAG} if ETAG in cursor else cursor


@dataclass(frozen=True, slots=True)
class Page:
    """What one reading step brought.

    documents: rows in the provider's order; a uid may occur twice (the higher version wins).
    familiar: uids of rows that were not even looked into, because they are as they were when they last changed nothing,
        or because only who is there was asked for.
    fingerprints: by uid, of the rows that `documents` were made of; for recognising them the next time.
    gone: rows that the provider shows as deleted. A suspicion until `Feed.fetch` has confirmed it.
    rejects: rows that their model refuses; they count as seen.
    cursor: where to go on; persisted with the step.
    more: call again at once.
    path: what a first sight is called: SNAPSHOT for the first complete read, POLL or SWEEP afterwards.
    whole: the page is the entire collection, so a known uid that is in none of the above is a suspect for removal.
        False whenever a row could not be identified, and when the provider only says that nothing has changed.
    tags: by uid of a customer, the tags that its row says it has. Who is shown and is not in here has not said which.
    complete: a sweep ends with this page.
    caught_up_to: wall-clock seconds at which the request began whose answer completes the collection (everything
        that the provider showed before this moment is in this step or an earlier one); None while `more`.
    """

    documents: Sequence[Document]
    cursor: Cursor
    more: bool
    path: Path
    familiar: Sequence[str] = ()
    fingerprints: Mapping[str, bytes] = field(default_factory=dict)
    gone: Sequence[Gone] = ()
    rejects: Sequence[Reject] = ()
    tags: Mapping[str, Told] = field(default_factory=dict)
    whole: bool = False
    complete: bool = False
    caught_up_to: float | None = None


class Feed(Protocol):
    """One collection of one source. Called by one task at a time; `page` and `fetch` may raise any `SourceError`."""

    @property
    def collection(self) -> Collection:
        """Which collection this is."""
        ...

    async def page(self, cursor: Cursor | None, familiar: Familiar = none_familiar) -> Page:
        """The step after `cursor`; None begins the first complete read. Cancellation leaves nothing behind.

        `familiar` is asked once, when the answer is there; a feed need not ask.
        """
        ...

    def sweep(self, cursor: Cursor) -> Cursor | None:
        """The cursor that begins a complete reading beside the polls; its last page is `complete`.

        Called when `cursor`, the feed's own, has caught up. None when every page shows everything anyway.
        """
        ...

    async def break_off(self) -> None:
        """End what is under way for pages that nobody will ask for now. Idempotent; the feed may be used again.

        Called whenever the feed's reading ends or is interrupted.
        """
        ...

    async def fetch(self, known: Sequence[Document]) -> Mapping[str, Fate]:
        """Read these documents again, an answer by uid: the document as it is now, what it was merged into, or `Gone`
        when it surely is.

        `Gone.at` is 0 where the provider merely does not have it any more. Some answers may be lacking, when the
        provider failed in the middle; with no answer at all it raises.

        Called to confirm deletions, with the documents as last known (their body may hold what the request needs,
        e.g. `customer_id`). Raises instead of guessing: a refused or failed read is never "gone".
        """
        ...
