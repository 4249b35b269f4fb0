"""Commanding: what can be done at a provider, the seam between its API and the execution of commands.

A commander keeps nothing, and repeating a call is harmless, also when the answer to the one before was lost: it finds
out how things are before it changes them, or the provider passes over whom it has been done to. What the provider
refuses for good is a value; every other trouble is raised, and decided about above.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from bridge.errors import SourceError
from bridge.model import Document
from bridge.source.memberships import Untold


class Refused(NamedTuple):
    """The provider refuses it for good. said: endpoint, status, code and names of fields; never a value."""

    said: str


class Tagged(NamedTuple):
    """The provider has taken a customer's tag as it was asked to, or had it so already."""


TAGGED: Final = Tagged()

TagsSeen = Mapping[str, frozenset[str] | Untold | SourceError]
"""Which tags customers have, by uid; an error means that this one may be asked again."""

TagAnswer = Tagged | Refused | Untold | SourceError
"""What became of one customer of several: an error means that it may be asked again."""


@dataclass(frozen=True, slots=True)
class CommandWays:
    """How a provider takes commands.

    customers_max: customers that are tagged in one call. immediate: what it has taken shows at once; if it does not,
    somebody else was faster and it may be asked again. Otherwise it shows some time later, and asking again is idle.
    renames: whether customers can get another `customer_id`. names_ignore_case: whether tags whose names differ in
    nothing but capitals are one tag.
    """

    customers_max: int
    immediate: bool
    renames: bool
    names_ignore_case: bool = False


class Commander(Protocol):
    """The commands of one account. Called by one task; every call may raise any `SourceError`.

    urgent: before everything else, or else in turn with polls. Cancellation leaves open whether the last request of
    the call had its effect.
    """

    @property
    def ways(self) -> CommandWays:
        """How it takes commands; never changes."""
        ...

    async def find(self, customer_id: str, *, urgent: bool) -> Document | None:
        """The customer that has this `customer_id` now; None when there is none."""
        ...

    async def rename(self, known: Document, new_customer_id: str, *, urgent: bool) -> Document | Refused | Untold:
        """Give this very customer another `customer_id`; the customer as it has it.

        known: the customer as last known, its `customer_id` may be old. Nobody else is ever renamed, unless names
        change hands within the one request.
        """
        ...

    async def set_tag(
        self, known: Sequence[Document], tag: str, present: bool, *, urgent: bool
    ) -> Mapping[str, TagAnswer]:
        """Give the tag to these customers (`customers_max` at most), or take it from them; an answer by uid for each.

        Their other tags stay as they are.
        """
        ...

    async def tags(self, known: Sequence[Document], *, urgent: bool) -> TagsSeen:
        """The tags that these very customers have at some moment since the call; an answer for each."""
        ...
