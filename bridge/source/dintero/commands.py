"""DinteroCommander: customers renamed and tagged at Dintero, each write between two looks at who is meant.

Everything about a customer is addressed by its `customer_id`, which changes hands. So the customer is read under its
name before each write, and looked for by what else is known of it when somebody else answers there. After a write the
provider shows whether it was the right one.

A customer's tags can only be replaced as a whole, and no request can be tied to the state it was made from. They are
read right before they are written, with nothing to wait for in between, so a tag that somebody else sets stays, unless
it is set between these two requests; nothing at this provider could tell of that. A name that changes hands just there
leads to another customer. Whether the write was overtaken itself is seen by who reads the tags afterwards, and mended
by calling again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from bridge.errors import Malformed, RequestRefused, RetryLater, SourceError
from bridge.model import Document, Gone
from bridge.source.api import ApiClient, Turns
from bridge.source.budget import Priority
from bridge.source.commanding import TAGGED, CommandWays, Refused, TagAnswer, Tagged, TagsSeen
from bridge.source.dintero import models
from bridge.source.dintero.lookup import READ, Lookup, is_segment
from bridge.source.dintero.memberships import MembershipList
from bridge.source.memberships import Untold

RENAME: Final = "customers.rename"
SET_TAGS: Final = "customers.tags.set"

ATTEMPTS_MAX = 3
"""Of one call, that a change of names may spoil, before it is left for later."""

CUSTOMERS_MAX = 50
"""Tagged in one call: some ten seconds of most budgets. After a crash so many are looked at again."""

AT_ONCE = 8
"""Customers that are asked or tagged side by side; the budget decides about their rate."""

SET_REQUESTS_MAX = 4
"""From the look at a customer to the changed set of its tags: an empty set is read twice."""


class DinteroCommander:
    """Implements `Commander`."""

    ways = CommandWays(CUSTOMERS_MAX, immediate=True, renames=True)

    def __init__(
        self, client: ApiClient, path: str, page_limit: int, cursor_kind: str, memberships: MembershipList
    ) -> None:
        """See `Lookup`."""
        self._client = client
        self._path = path
        self._lookup = Lookup(client, path, page_limit, cursor_kind)
        self._memberships = memberships

    async def find(self, customer_id: str, *, urgent: bool) -> Document | None:
        """See `Commander.find`."""
        try:
            row = await self._read(customer_id, _priority(urgent))
        except RequestRefused as error:
            if error.status != 404:
                raise
            return None
        found = models.customer(row, READ)
        if isinstance(found, Document):
            return found if found.body["customer_id"] == customer_id else None
        if models.is_tombstone(row):
            return None
        raise Malformed(f"{READ} answered with a customer that cannot be read")

    async def rename(self, known: Document, new_customer_id: str, *, urgent: bool) -> Document | Refused | Untold:
        """See `Commander.rename`.

        Repeated after its answer was lost, it finds the customer under the new name, and that is all it does. So it
        does after a refusal, which may be the provider's word about a name that this very customer has by now.
        """
        priority = _priority(urgent)
        for _ in range(ATTEMPTS_MAX):
            name, refused = known.body["customer_id"], None
            if is_segment(name) and name != new_customer_id:
                async with self._client.turns(2, priority) as turns:
                    if await self._is_called(known, name, turns):
                        try:
                            return await self._rename(known, name, new_customer_id, turns)
                        except RequestRefused as error:
                            refused = error
            present = await self._present(known, priority, new_customer_id)
            if isinstance(present, Untold) or present.body["customer_id"] == new_customer_id:
                return present
            if self._of(present) is None:
                return Untold.NEVER
            if refused is not None and refused.status != 404 and present.body["customer_id"] == name:
                return Refused(str(refused))
            known = present  # renamed by somebody else meanwhile: once more, under its present name
        return Untold.NOT_NOW

    async def _rename(self, known: Document, name: str, new_customer_id: str, turns: Turns) -> Document | Refused:
        path = f"{self._path}/{quote(name, safe='')}/change_customer_id"
        answer = await self._client.write(RENAME, "POST", path, {"customer_id": new_customer_id}, priority=turns)
        if not isinstance(answer.value, dict) or answer.value.get("customer_id") != new_customer_id:
            raise RetryLater(f"{RENAME} answered without the customer as it is now")
        if models.row_uid(answer.value) != known.uid:
            return Refused(f"{RENAME}: the name changed hands just then, and another customer was renamed")
        shown = models.customer(answer.value, RENAME)
        return shown if isinstance(shown, Document) else _named(known, new_customer_id)

    async def set_tag(
        self, known: Sequence[Document], tag: str, present: bool, *, urgent: bool
    ) -> Mapping[str, TagAnswer]:
        """See `Commander.set_tag`. Who has it so already is not written to, so repeating it is reading."""
        answers: dict[str, TagAnswer] = {}

        async def work(queue: Iterator[Document]) -> None:
            for document in queue:
                try:
                    answers[document.uid] = await self._set_tag(document, tag, present, _priority(urgent))
                except SourceError as error:
                    answers[document.uid] = error

        await _side_by_side(work, known)
        return answers

    async def tags(self, known: Sequence[Document], *, urgent: bool) -> TagsSeen:
        """See `Commander.tags`."""
        seen: dict[str, frozenset[str] | Untold | SourceError] = {}

        async def work(queue: Iterator[Document]) -> None:
            for document in queue:
                try:
                    seen[document.uid] = await self._memberships.tags(document, urgent=urgent)
                except SourceError as error:
                    seen[document.uid] = error

        await _side_by_side(work, known)
        return seen

    async def _set_tag(self, known: Document, tag: str, present: bool, priority: Priority) -> TagAnswer:
        for _ in range(ATTEMPTS_MAX):
            answer = await self._set_tag_as_known(known, tag, present, priority)
            if answer is not None:
                return answer
            shown = await self._present(known, priority)
            if isinstance(shown, Untold):
                return shown
            if self._of(shown) is None:
                return Untold.NEVER
            known = shown
        return Untold.NOT_NOW

    async def _set_tag_as_known(
        self, known: Document, tag: str, present: bool, priority: Priority
    ) -> Tagged | Refused | None:
        """None when the customer is not there under the name that it is known by."""
        name, path = known.body["customer_id"], self._of(known)
        if path is None:
            return None
        async with self._client.turns(SET_REQUESTS_MAX, priority) as turns:
            if not await self._is_called(known, name, turns):
                return None
            try:
                tags = await self._memberships.tags_at(path, turns)
                if (tag in tags) is present:
                    return TAGGED
                wanted = sorted({*tags, tag} if present else tags - {tag})
                await self._client.write(SET_TAGS, "PUT", f"{path}/tags", wanted, priority=turns)
            except RequestRefused as error:
                return None if error.status == 404 else Refused(str(error))  # 404: renamed or gone since it was read
        return TAGGED

    async def _is_called(self, known: Document, name: str, turns: Turns) -> bool:
        """Whether this very customer has the name now."""
        try:
            row = await self._read(name, turns)
        except RequestRefused as error:
            if error.status < 400:
                raise
            return False
        return models.row_uid(row) == known.uid and row.get("customer_id") == name

    async def _present(self, known: Document, priority: Priority, *others: str) -> Document | Untold:
        """This very customer with its present name; everything else about it may be as it was known.

        others: names that it may have as well. They are asked for before the list is, which may be late.
        """
        for name in (known.body.get("customer_id"), *others):
            if not isinstance(name, str) or not is_segment(name):
                continue
            try:
                row = await self._read(name, priority)
            except RequestRefused as error:
                if error.status < 400:
                    raise
            else:
                if models.row_uid(row) == known.uid and isinstance(row.get("customer_id"), str):
                    return _named(known, row["customer_id"])
        shown = (await self._lookup.fetch([known]))[known.uid]
        if isinstance(shown, Gone):
            return Untold.GONE
        return Untold.NOT_NOW if shown is known else shown

    async def _read(self, name: str, priority: Priority | Turns) -> dict[str, Any]:
        """The row under this name; `Any`: the provider's JSON. Raises `RequestRefused` when there is none."""
        if not is_segment(name):
            raise RequestRefused(f"{READ}: the provider cannot be asked by this name", status=404)
        answer = await self._client.get(READ, f"{self._path}/{quote(name, safe='')}", priority=priority)
        if not isinstance(answer.value, dict):
            raise Malformed(f"{READ} answered without an object")
        return answer.value

    def _of(self, customer: Document) -> str | None:
        name = customer.body["customer_id"]
        return f"{self._path}/{quote(name, safe='')}" if is_segment(name) else None


async def _side_by_side(
    work: Callable[[Iterator[Document]], Coroutine[Any, Any, None]], known: Sequence[Document]
) -> None:
    queue = iter(known)
    async with asyncio.TaskGroup() as group:
        for _ in range(min(AT_ONCE, len(known))):
            group.create_task(work(queue), name="customers of a command")


def _named(known: Document, customer_id: str) -> Document:
    return known._replace(body={**known.body, "customer_id": customer_id})


def _priority(urgent: bool) -> Priority:
    return Priority.COMMAND if urgent else Priority.POLL
