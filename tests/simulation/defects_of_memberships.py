"""More deliberate defects: memberships with one safeguard taken out. See `defects`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from bridge.detect import edges
from bridge.detect.edges import EdgeMove
from bridge.model import Cause, Document
from bridge.runtime import memberships, removal
from bridge.runtime.memberships.reading import TagReadings
from bridge.runtime.memberships.roll import Roll
from bridge.runtime.memberships.rounds import Count, Now, Rounds
from bridge.runtime.step import SourceStep
from bridge.source.dintero.memberships import MembershipList
from bridge.source.memberships import MemberPage, Place
from tests.simulation.defects import defect


async def _nothing(*_: object) -> None:
    """Instead of what it was."""


@defect
def untag_lost_on_tag_deletion() -> Iterator[None]:
    """A tag goes, and nobody says to its members that they do not have it any more."""
    with patch.object(removal, "strip", _nothing), patch.object(memberships, "strip", _nothing):
        yield


@defect
def tag_deleted_before_its_edges() -> Iterator[None]:
    """A tag goes at once, its members are told when they are come across."""
    with patch.object(removal, "strip", _nothing):
        yield


@defect
def untag_not_confirmed() -> Iterator[None]:
    """Who is not on the list of a tag has lost it."""

    async def believe(self: TagReadings, roll: Roll, _members: int) -> None:
        missing, roll.missing = list(roll.missing or ()), {}
        self._asker.absorb([EdgeMove(uid, roll.tag, False) for uid in missing], Cause(self.path))

    with patch.object(TagReadings, "_decide", believe):
        yield


@defect
def doubtful_member_believed() -> Iterator[None]:
    """Whoever is on the list of a tag has it, also who is there as somebody's contact."""
    members = MembershipList.members

    async def trusting(self: MembershipList, tag: str, place: Place | None) -> MemberPage:
        page = await members(self, tag, place)
        return replace(page, shown=[*page.shown, *page.doubtful], doubtful=())

    with patch.object(MembershipList, "members", trusting):
        yield


@defect
def tags_read_under_an_id_that_has_changed_hands() -> Iterator[None]:
    """Whoever answers to the customer_id is the customer that had it when it was last seen."""

    async def sure(_self: MembershipList, known: Document, *_: object) -> Document:
        return known

    with patch.object(MembershipList, "_same", sure):
        yield


@defect
def probe_believed() -> Iterator[None]:
    """As many members as before are the same members."""
    counted = Rounds.counted

    def believe(self: Rounds, tag: str, now: Now, count: Count) -> None:
        counted(self, tag, now, count)
        round_ = self._rounds[tag]
        if round_.swept is not None and count.theirs == count.ours + round_.offset:
            round_.swept, self._proved = now.wall, None

    with patch.object(Rounds, "counted", believe):
        yield


@defect
def watermark_of_memberships_ahead_of_an_unread_tag() -> Iterator[None]:
    """A tag that was never read keeps nobody from saying that everything is published."""

    def boast(self: Rounds) -> float:
        swept = [round_.swept for round_ in self._rounds.values() if round_.swept is not None]
        return min(swept, default=float("inf"))

    with patch.object(Rounds, "proved", boast):
        yield


@defect
def stale_page_of_members_overtakes() -> Iterator[None]:
    """A page of a tag's members comes once more, when others have come since."""
    take = TagReadings._take
    late: dict[int, deque[tuple[str, list[str]]]] = {}

    def again(self: TagReadings, roll: Roll, page: MemberPage) -> None:
        take(self, roll, page)
        waiting = late.setdefault(id(self), deque())
        waiting.append((roll.tag, list(page.shown)))
        if len(waiting) > 8:
            tag, shown = waiting.popleft()
            self._asker.absorb([EdgeMove(uid, tag, True) for uid in shown], Cause(self.path))

    with patch.object(TagReadings, "_take", again):
        yield


@defect
def edges_lost_when_a_customer_is_updated() -> Iterator[None]:
    """A row of the customer list, which does not say so, is all there is to a customer."""
    document = SourceStep._document

    def bare(self: SourceStep, *args: Any) -> Any:
        with patch.object(edges, "with_tags", lambda body, _tags: body):
            return document(self, *args)

    with patch.object(SourceStep, "_document", bare):
        yield
