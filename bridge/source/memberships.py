"""Memberships: which customers have which tags.

Customers of one kind of provider say so themselves: every page of theirs tells it (`Page.tags`), and `Glances` are a
cheap way to have them all say it again. For a provider whose customers do not there is `MembershipReader`, the seam
between it and the loop that reads it (`runtime.memberships`). A reader keeps no position: where a reading of a tag
stands is a value. Nothing here decides what an answer means for the state; a list may leave rows out while it moves, so
absence from it is a suspicion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from bridge.model import Document, Told
from bridge.source.feed import Cursor

Place = dict[str, Any]
"""Where a reading of a tag stands: a value that only the reader understands, immutable. `Any` as in `feed.Cursor`."""


class Untold(Enum):
    """Why a provider does not say which tags a customer has."""

    NOT_NOW = "it answers for another customer, or for none"
    NEVER = "it cannot be asked by this name"
    GONE = "it does not have the customer any more"


@dataclass(frozen=True, slots=True)
class MemberPage:
    """A page of the customers that have a tag.

    shown: uids that are on the page in their own right, so they had the tag at some moment since `asked_at`; one may
        come twice.
    doubtful: uids that may be on the page for another reason.
    whole: False when a row could not be identified; ask again, or absence from the list means nothing.
    following: the place of the next page; None at the end of the list, which counts only if no page raised.
    total: at the end of the list, how many the provider says there are, if it said the same all the time; else None.
    asked_at: wall-clock seconds when the request was sent.
    """

    shown: Sequence[str]
    doubtful: Sequence[str]
    whole: bool
    following: Place | None
    total: int | None
    asked_at: float


class MembershipReader(Protocol):
    """The memberships of one account. Called by one task; every call may raise any `SourceError`."""

    async def members(self, tag: str, place: Place | None) -> MemberPage:
        """A page of those who have the tag; None begins. Cancellation leaves nothing behind.

        Raises `CursorRejected` or `Malformed` when the list cannot be read from here on: the reading is void then.
        After any other error the same page may be asked for again.
        """
        ...

    async def count(self, tag: str) -> int | None:
        """How many have the tag, as far as the provider says; cheap, and no proof of anything."""
        ...

    async def tags(self, known: Document, *, urgent: bool) -> frozenset[str] | Untold:
        """The tags of this very customer at some moment since the call; never those of another under its old name.

        known: the customer as last known (its body may hold what the request needs). urgent: before polls.
        """
        ...


class Glances(Protocol):
    """Customers that say which tags they have. Called by the task that reads their feed."""

    def glance(self, cursor: Cursor) -> Cursor:
        """The cursor that begins a complete reading of nothing but who is there and with which tags.

        As `Feed.sweep`, and for `Feed.page` like the cursor of a sweep: its pages show everybody as familiar, whether
        they changed or not, and its last page is `complete`.
        """
        ...

    async def tags(self, known: Document, *, urgent: bool) -> frozenset[str] | Untold:
        """See `MembershipReader.tags`."""
        ...

    async def told(self, known: Sequence[Document]) -> Mapping[str, Told | Untold]:
        """What these very customers say of their tags at some moment since the call, by uid; asked before polls.

        Raises any `SourceError`; cancellation leaves nothing behind.
        """
        ...


class PacedReader(MembershipReader, Protocol):
    """One that says how much may be asked, for who reads for ever."""

    def rate(self) -> float:
        """Requests per second that the account takes at present, from everybody; above 0."""
        ...
