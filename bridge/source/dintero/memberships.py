"""MembershipList: who has which tags in one account, from the customer list by tag and from a customer's own tags.

The list by tag has the ways of the whole list (see `customers`): a short page proves nothing, and a page with contacts
also holds the customers they are contacts for, whether or not those have the tag. So it is walked twice: without
contacts, which leaves nobody in doubt, and then the contacts alone, where everybody else on the page is left out.

A customer's own tags are asked for by its `customer_id`, which changes hands; so the customer is read behind them, and
they count only if it was still the same.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any, Final
from urllib.parse import quote

from bridge.errors import CursorRejected, Malformed, RequestRefused
from bridge.model import Document, Gone
from bridge.source.api import ApiClient, Turns
from bridge.source.budget import Priority
from bridge.source.dintero import models
from bridge.source.dintero.lookup import READ, Lookup, is_segment
from bridge.source.dintero.paging import CURSOR_REFUSED, ignored, onward
from bridge.source.dintero.rows import linked_ids, list_of
from bridge.source.memberships import MemberPage, Place, Untold

LIST: Final = "members.list"
COUNT: Final = "members.count"
TAGS: Final = "customers.tags"

ATTEMPTS_MAX = 3
"""Readings of one customer's tags that a rename may spoil, before it is left for later."""

_PLAIN = re.compile(r"[A-Za-z0-9_.~-]+", re.ASCII)
"""A name that needs no encoding, so that no gateway refuses it."""


@dataclass(frozen=True, slots=True)
class _Walk:
    """contacts: which of the two walks. before: what the provider said of the first one, in the second.

    after: id after which the next page begins. first: the provider's count at the beginning of the walk. count, digest:
    rows and ids of the page before. pages, mark: for finding cycles; the mark is an `after` of the past. empty: the
    page before was empty.
    """

    contacts: bool = False
    before: int | None = None
    after: str | None = None
    first: int | None = None
    count: int = 0
    digest: str = ""
    pages: int = 0
    mark: str | None = None
    empty: bool = False


class MembershipList:
    """Implements `PacedReader`."""

    def __init__(self, client: ApiClient, path: str, page_limit: int, cursor_kind: str) -> None:
        """`path` of the customer list, encoded. cursor_kind: the field whose value `starting_after` takes."""
        self._client = client
        self._path = path
        self._limit = page_limit
        self._cursor_kind = cursor_kind
        self._lookup = Lookup(client, path, page_limit, cursor_kind)

    def rate(self) -> float:
        """See `PacedReader.rate`."""
        return self._client.rate()

    async def members(self, tag: str, place: Place | None) -> MemberPage:
        """See `MembershipReader.members`."""
        walk = _Walk() if place is None else _Walk(**place)
        query = [("tag_id", tag), ("limit", str(self._limit)), ("total", "true")]
        if walk.contacts:
            query.append(("type", "contact"))
        if walk.after is not None:
            query.append(("starting_after", walk.after))
        try:
            answer = await self._client.get(LIST, self._path, tuple(query), priority=Priority.MEMBERSHIP)
        except RequestRefused as error:
            if walk.after is None or error.status not in CURSOR_REFUSED:
                raise
            raise CursorRejected(f"{LIST} answers {error.status} to its own cursor") from None
        rows = list_of(answer)
        following, total = self._after(walk, rows, answer.total)
        shown: list[str] = []
        doubtful: list[str] = []
        linked = linked_ids(rows)
        whole = True
        for row in rows:
            uid = models.row_uid(row)
            if uid is None:
                whole = whole and models.is_tombstone(row)
            elif not walk.contacts or row.get("type") == "contact":
                (doubtful if _name(row) in linked else shown).append(uid)
        return MemberPage(
            shown=shown,
            doubtful=doubtful,
            whole=whole,
            following=None if following is None else asdict(following),
            total=total,
            asked_at=answer.asked_at,
        )

    async def count(self, tag: str) -> int | None:
        """See `MembershipReader.count`."""
        query = (("tag_id", tag), ("type", "any"), ("limit", "1"), ("total", "true"))
        answer = await self._client.get(COUNT, self._path, query, priority=Priority.MEMBERSHIP)
        return answer.total

    async def tags(self, known: Document, *, urgent: bool) -> frozenset[str] | Untold:
        """See `MembershipReader.tags`."""
        priority = Priority.HINT if urgent else Priority.MEMBERSHIP
        surprising = bool(known.body.get("tags"))
        for _ in range(ATTEMPTS_MAX):
            name = known.body.get("customer_id")
            if not isinstance(name, str) or not is_segment(name):
                return Untold.NEVER
            path = f"{self._path}/{quote(name, safe='')}"
            try:
                found = await self._tags(path, priority, surprising=surprising)
                shown = await self._same(known, path, priority)
            except RequestRefused as error:
                if error.status < 400:
                    raise
                if error.status != 404:
                    return Untold.NOT_NOW if _PLAIN.fullmatch(name) else Untold.NEVER
                shown = None
            else:
                if shown is known:
                    return found
            if shown is None:
                found_out = (await self._lookup.fetch([known]))[known.uid]
                if isinstance(found_out, Gone):
                    return Untold.GONE
                if found_out is known:
                    return Untold.NOT_NOW
                shown = found_out
            known = shown  # renamed, or renamed since we knew it: once more, under its present name
        return Untold.NOT_NOW

    async def tags_at(self, path: str, priority: Priority | Turns) -> frozenset[str]:
        """The tags of whoever has this path (encoded) now; an empty answer is not believed before it comes twice."""
        return await self._tags(path, priority, surprising=True)

    async def _tags(self, path: str, priority: Priority | Turns, *, surprising: bool) -> frozenset[str]:
        """surprising: an empty answer is not believed before it comes twice."""
        found = await self._tags_once(path, priority)
        return found if found or not surprising else await self._tags_once(path, priority)

    async def _tags_once(self, path: str, priority: Priority | Turns) -> frozenset[str]:
        answer = await self._client.get(TAGS, f"{path}/tags", priority=priority)
        if not isinstance(answer.value, list):
            raise Malformed(f"{TAGS} answered without a list")
        found: set[str] = set()
        for row in answer.value:
            uid = models.row_uid(row)
            if uid is not None:
                found.add(uid)
            elif not models.is_tombstone(row):
                raise Malformed(f"{TAGS}: a row has no usable id, so no tag can be called missing")
        return frozenset(found)

    async def _same(self, known: Document, path: str, priority: Priority) -> Document | None:
        """`known` itself when the provider shows it unrenamed under this path, as it is there now, None for others."""
        answer = await self._client.get(READ, path, priority=priority)
        row = answer.value
        if not isinstance(row, dict):
            raise Malformed(f"{READ} answered without an object")
        if models.row_uid(row) != known.uid:
            return None
        name, trail = row.get("customer_id"), models.rename_trail(row.get("metadata"))
        extra = known.body.get("extra") or {}
        if name == known.body.get("customer_id") and trail == extra.get("customer_id_changes", []):
            return known
        body = {**known.body, "customer_id": name, "extra": {**extra, "customer_id_changes": trail}}
        return known._replace(body=body)

    def _after(self, walk: _Walk, rows: list[Any], total: int | None) -> tuple[_Walk | None, int | None]:
        """Where the reading goes on, None at its end, and then what the provider said all the time."""
        walk = walk if walk.pages or walk.empty else replace(walk, first=total)
        following = self._step(walk, rows)
        if following is not None:
            return following, None
        steady = total if total == walk.first else None
        if not walk.contacts:
            return _Walk(contacts=True, before=steady), None
        return None, None if steady is None or walk.before is None else walk.before + steady

    def _step(self, walk: _Walk, rows: list[Any]) -> _Walk | None:
        """The walk behind this page; None when it is over. Raises `Malformed` when pages repeat."""
        if not rows:
            # An empty page where there may be more is believed when it comes twice, whatever the count says.
            sure = walk.empty or 0 < walk.count < self._limit
            return None if sure else replace(walk, empty=True)
        step = onward(walk, rows, self._limit, self._cursor_kind, LIST)
        if step.repeats(walk):
            if len(rows) < self._limit:
                return None
            raise ignored(LIST)
        return replace(walk, **step._asdict(), count=len(rows), empty=False)


def _name(row: dict[str, Any]) -> str | None:
    """`Any`: the provider's JSON."""
    name = row.get("customer_id")
    return name if isinstance(name, str) else None
