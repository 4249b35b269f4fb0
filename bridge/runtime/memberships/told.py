"""ToldMemberships: the loop of the memberships of a source whose customers say which tags they have.

It asks nothing itself. Every page of customers tells their tags, and the reading of customers lets all of them say so
again and again, in glances, while this loop lives: pausing it ends them. Here is said how far the memberships are
proved: up to the beginning of a glance, once the tags have been read behind its end (a tag that a customer showed and
that is not in the list even then is gone), and the customers as far as its beginning.
"""

from __future__ import annotations

from collections.abc import Callable

from bridge.clock import Clock
from bridge.model import Collection, Path
from bridge.observability.metrics import Metrics
from bridge.runtime.ledger import Ledger
from bridge.runtime.loop import SourceLoop
from bridge.runtime.memberships.bulletin import Bulletin
from bridge.runtime.memberships.rounds import WAIT_S_MAX
from bridge.runtime.parking import Parking
from bridge.runtime.step import SourceStep


class ToldMemberships(SourceLoop):
    """The loop of one source during one opening of its shard."""

    def __init__(
        self,
        source: str,
        step: SourceStep,
        ledger: Ledger,
        bulletin: Bulletin,
        clock: Clock,
        metrics: Metrics,
        parking: Parking,
        spread: Callable[[], float],
    ) -> None:
        """`spread`: see `SourceLoop`."""
        super().__init__(source, Collection.MEMBERSHIPS, ledger, clock, metrics, parking, spread)
        self._step = step
        self._bulletin = bulletin
        self._base = sum(ledger.members_count(source, tag) for tag in ledger.member_tags(source)) - step.edges_moved
        self._told = -1

    @property
    def documents(self) -> int:
        """How many edges are known."""
        return self._base + self._step.edges_moved

    def resync(self) -> bool:
        """See `SourceLoop.resync`: the next glance is due."""
        self._step.told.lost = True
        return super().resync()

    async def _live(self) -> None:
        """See `SourceLoop`."""
        self._bulletin.wants_glances = True
        while True:
            self._metrics.loop_progress(self._source, self.collection)
            self._tell_edges()
            self._claim()
            await self._bulletin.wait(WAIT_S_MAX)

    async def _rest(self) -> None:
        self._bulletin.wants_glances = False
        await super()._rest()

    def _tell_edges(self) -> None:
        if self._told != self.documents:
            self._told = self.documents
            self._ledger.open.documents[self._source, self.collection] = self._told

    def _claim(self) -> None:
        """Everything up to this moment is in the ledger."""
        glances, caught_up = self._bulletin.glances, self._bulletin.caught_up
        if glances:
            self.status.mode = Path.SWEEP
        tags, customers = (caught_up.get(name, float("-inf")) for name in (Collection.TAGS, Collection.CUSTOMERS))
        while glances and tags >= glances[0][1] and customers >= glances[0][0]:
            began, _ = glances.pop(0)
            self.status.caught_up = True
            self._ledger.open.caught_up[self._source, self.collection] = began
            self._ledger.wake()
