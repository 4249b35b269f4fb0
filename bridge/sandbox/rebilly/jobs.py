"""Jobs: what asynchronous calls leave to be done, customer by customer, as the world's clock goes.

A job is cut into slices that the world's agenda brings up. Nobody is told when it is done, and a customer that is gone,
or a tag that is gone, by the time its turn comes is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random

from bridge.sandbox.rebilly.switches import RebillySwitches
from bridge.sandbox.world import World

SLICE = 100
"""Customers at once."""
SLICE_S = 0.1
"""Between one slice and the next."""

Work = Callable[[Sequence[str], float], object]
"""What to do to customers, by id, at a moment."""


class Jobs:
    """Starts jobs, and remembers what they have lost."""

    def __init__(self, world: World, rng: Random) -> None:
        self._world = world
        self._rng = rng
        self._lost: list[tuple[Work, str]] = []

    def tag(self, switches: RebillySwitches, tag_id: str, uids: Sequence[str], *, on: bool) -> None:
        """Give these customers a tag, or take it from them."""
        changes = self._world.changes
        self._start(switches, uids, lambda some, at: changes.tag(tag_id, some, on=on, at=at))

    def fade(self, switches: RebillySwitches, tag_id: str, uids: Sequence[str]) -> None:
        """Take a tag that is gone from the customers that still show it."""
        changes = self._world.changes
        self._start(switches, uids, lambda some, at: changes.fade(tag_id, some, at=at))

    def _start(self, switches: RebillySwitches, uids: Sequence[str], work: Work) -> None:
        uids, delay_s = list(uids), switches.bulk_delay
        if switches.bulk_order == "random":
            self._rng.shuffle(uids)
            delay_s *= 2 * self._rng.random()
        late, self._lost = self._lost, []
        if switches.bulk_lost and uids:
            self._lost.append((work, uids.pop(self._rng.randrange(len(uids)))))
        if switches.bulk_delay == 0:
            self._do(late, work, uids, self._world.clock.wall())
            return
        for number, first in enumerate(range(0, max(1, len(uids)), SLICE)):
            some = uids[first : first + SLICE]
            self._world.later(delay_s + number * SLICE_S, partial(self._do, late if not number else [], work, some))

    def _do(self, late: Sequence[tuple[Work, str]], work: Work, uids: Sequence[str], at: float) -> None:
        for forgotten, uid in late:
            forgotten([uid], at)
        work(uids, at)
