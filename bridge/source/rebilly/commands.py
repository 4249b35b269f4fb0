"""RebillyCommander: customers tagged at Rebilly, up to a thousand in one call.

A call that is taken is only scheduled: customers get the tag, or lose it, some time later, one by one, and nobody says
when it is over, or whom it has passed over (a customer that is gone, or one that was lost on the way). So what a call
came to is only ever *seen*, by reading the customers. Their other tags stay in any case: no call replaces them.

A tag is addressed by its name, which can be changed and then be another tag's. So the name is looked up by the tag's id
right before each call, with nothing to wait for in between, and once more behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal
from urllib.parse import quote

from bridge.errors import Malformed, RequestRefused
from bridge.model import Document, Told
from bridge.source.api import ApiClient, Turns
from bridge.source.budget import Priority
from bridge.source.commanding import TAGGED, CommandWays, Refused, TagAnswer, TagsSeen
from bridge.source.memberships import Untold
from bridge.source.rebilly import models
from bridge.source.rebilly.customers import CustomersFeed
from bridge.source.rebilly.listing import Place, ask
from bridge.source.rebilly.lookup import READ
from bridge.source.rebilly.tags import ENDPOINT as TAGS

BULK: Final = "tags.customers"

CUSTOMERS_MAX: Final = 1_000
"""Of one call."""

ATTEMPTS_MAX = 3
"""Of one call, that a change of the tag's name may spoil, before it is left for later."""


class RebillyCommander:
    """Implements `Commander`."""

    ways = CommandWays(CUSTOMERS_MAX, immediate=False, renames=False, names_ignore_case=True)

    def __init__(self, client: ApiClient, path: str, customers: CustomersFeed) -> None:
        """`path` of the organization, encoded."""
        self._client = client
        self._customers_path = f"{path}/customers"
        self._tags = Place(TAGS, f"{path}/tags", 2)
        self._customers = customers

    async def find(self, customer_id: str, *, urgent: bool) -> Document | None:
        """See `Commander.find`."""
        if not models.is_id(customer_id):
            return None
        try:
            answer = await self._client.get(
                READ, f"{self._customers_path}/{quote(customer_id, safe='')}", priority=_priority(urgent)
            )
        except RequestRefused as error:
            if error.status not in (404, 410) and not 300 <= error.status <= 399:
                raise
            return None
        found = models.customer(answer.value, READ)
        if not isinstance(found, Document):
            raise Malformed(f"{READ} answered with a customer that cannot be read")
        return found if found.uid == customer_id else None

    async def rename(self, known: Document, new_customer_id: str, *, urgent: bool) -> Document | Refused | Untold:
        """See `Commander.rename`."""
        return Refused("the provider's ids of customers cannot be changed")

    async def set_tag(
        self, known: Sequence[Document], tag: str, present: bool, *, urgent: bool
    ) -> Mapping[str, TagAnswer]:
        """See `Commander.set_tag`. One answer for all. Repeated, it is skipped for whom it was done."""
        uids = [document.uid for document in known]
        answer = await self._set_tag(uids, tag, present, _priority(urgent))
        return dict.fromkeys(uids, answer)

    async def tags(self, known: Sequence[Document], *, urgent: bool) -> TagsSeen:
        """See `Commander.tags`. Asked before polls, a hundred at once."""
        said = await self._customers.told(known)
        return {uid: frozenset(told.tags) if isinstance(told, Told) else told for uid, told in said.items()}

    async def _set_tag(self, uids: Sequence[str], tag: str, present: bool, priority: Priority) -> TagAnswer:
        for _ in range(ATTEMPTS_MAX):
            refused: RequestRefused | None = None
            async with self._client.turns(2, priority) as turns:
                name = await self._name(tag, turns)
                if name is None:
                    return Refused(f"{BULK}: there is no such tag")
                path = f"{self._tags.path}/{quote(name, safe='')}/customers"
                method: Literal["POST", "DELETE"] = "POST" if present else "DELETE"
                try:
                    await self._client.write(BULK, method, path, {"customerIds": list(uids)}, priority=turns)
                except RequestRefused as error:
                    refused = error
            same = await self._name(tag, priority) == name
            if refused is None:
                # Another tag may have got the name just then. Then nobody is seen with this one: it is asked again.
                return TAGGED if same else Untold.NOT_NOW
            if same:
                return Refused(str(refused))
            # The tag was renamed since, or is gone.
        return Untold.NOT_NOW

    async def _name(self, tag: str, priority: Priority | Turns) -> str | None:
        """What the tag is called now; None when there is no such tag of customers."""
        listing = await ask(self._client, self._tags, (("filter", f"id:{tag}"),), priority)
        for row in listing.rows:
            found = models.tag(row, TAGS)
            if isinstance(found, Document) and found.uid == tag:
                return str(found.body["name"])
        if listing.total > listing.shown:
            raise Malformed(f"{TAGS} does not obey the filter by id")
        return None


def _priority(urgent: bool) -> Priority:
    return Priority.COMMAND if urgent else Priority.POLL
