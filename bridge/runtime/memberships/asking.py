"""Asker: asks customers for their own tags, and writes what is seen of edges. Used by the loop of memberships alone.

What is seen is written at once, in the order in which it was seen; an answer is compared with the state as it is when
the answer is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from bridge.detect import edges
from bridge.detect.edges import EdgeMove
from bridge.errors import SourceError
from bridge.model import Cause, Collection, Document
from bridge.runtime.ledger import Ledger
from bridge.runtime.step import SourceStep
from bridge.source.memberships import MembershipReader, Untold

AT_ONCE = 8
"""Customers that are asked for their tags side by side; the budget decides about their rate."""

Answer = frozenset[str] | Untold
"""What a provider says of one customer's tags."""

Asked = Callable[[Awaitable[Any]], Awaitable[Any]]
"""Makes trouble of this loop what its provider's answer does to us. `Any`: whatever is asked for."""


class Asker:
    """Of one source during one opening of its shard."""

    def __init__(self, source: str, reader: MembershipReader, step: SourceStep, ledger: Ledger, asked: Asked) -> None:
        self._source = source
        self._reader = reader
        self._step = step
        self._ledger = ledger
        self._asked = asked
        self._base = 0
        self.noted: Callable[[str, frozenset[str]], None] = lambda customer, tags: None
        """Told what each customer says of itself."""

    @property
    def edges(self) -> int:
        """How many are known."""
        return self._base + self._step.edges_moved

    def count(self, tags: Sequence[str]) -> None:
        """Count anew; tags: all that have a member."""
        self._base = sum(self.members(tag) for tag in tags) - self._step.edges_moved

    def members(self, tag: str) -> int:
        """How many are known of one tag."""
        return self._ledger.members_count(self._source, tag)

    async def ask(
        self, uids: Sequence[str], cause: Cause, queue: dict[str, None] | None = None, *, urgent: bool = False
    ) -> tuple[dict[str, Answer], dict[str, SourceError]]:
        """The customers' own tags, and why some have no answer. What the answers mean is written; who has one, or is
        not in the state, leaves the queue."""
        await self._ledger.wait_room()
        known = self._step.known(Collection.CUSTOMERS, uids)
        said: dict[str, Answer] = {}
        failures: dict[str, SourceError] = {}

        async def ask(document: Document) -> None:
            try:
                said[document.uid] = await self._asked(self._reader.tags(document, urgent=urgent))
            except SourceError as error:
                failures[document.uid] = error

        async with asyncio.TaskGroup() as group:
            for document in known:
                group.create_task(ask(document), name="ask for a customer's tags")
        self._learn(said, cause)
        if queue is not None:
            for uid in uids:
                if uid not in failures:
                    queue.pop(uid, None)
        return said, failures

    def _learn(self, said: Mapping[str, Answer], cause: Cause) -> None:
        """What customers say of themselves."""
        moves: list[EdgeMove] = []
        for document in self._step.known(Collection.CUSTOMERS, list(said)):
            tags = said[document.uid]
            if isinstance(tags, Untold):
                continue
            moves += edges.moved(document.uid, edges.tags_of(document.body), tags)
            self.noted(document.uid, tags)
        self.absorb(moves, cause)

    def absorb(self, moves: Sequence[EdgeMove], cause: Cause) -> int:
        """Write what moved; how many edges did."""
        moved = self._step.absorb_edges(moves, cause) if moves else 0
        if moved:
            self._ledger.open.documents[self._source, Collection.MEMBERSHIPS] = self.edges
        return moved
