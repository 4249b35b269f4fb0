"""What happens in the world by itself: sign-ups, edits, tags coming and going, at settable rates.

All changes together are one Poisson process; the moment of the next one is drawn beforehand. So the same seed gives
the same history however often, and in whatever steps, time is advanced; and a rate set at run time holds from now on.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from bridge.sandbox.knobs import Knobs
from bridge.sandbox.population.instants import render

if TYPE_CHECKING:
    from bridge.sandbox.world import World

RATE_PER_MINUTE_MAX = 10_000_000.0
ATTEMPTS_MAX = 64
"""Draws for a customer to whom the change can happen; none found means that nothing happens this time."""
STEM_MAX = 200
"""Characters of the old customer_id that a renamed customer keeps; the provider allows 255 in all."""


def _rate() -> float:
    rate: float = Field(default=0.0, ge=0.0, le=RATE_PER_MINUTE_MAX)
    return rate


class Pace(Knobs):
    """Changes per minute, by kind; the default is a world that stands still."""

    word: ClassVar[str] = "rate"

    def weights(self) -> dict[str, float]:
        """Rate by kind."""
        return {kind: getattr(self, kind) for kind in type(self).model_fields}

    def per_second(self) -> float:
        """All kinds together."""
        return sum(self.weights().values()) / 60.0


class Rates(Pace):
    """What happens at Dintero."""

    sign_up: float = _rate()
    edit: float = _rate()
    tag: float = _rate()
    untag: float = _rate()
    rename: float = _rate()
    delete: float = _rate()
    tag_create: float = _rate()
    tag_delete: float = _rate()
    user_create: float = _rate()
    user_edit: float = _rate()
    user_delete: float = _rate()


class RebillyRates(Pace):
    """What happens at Rebilly. delete: a customer vanishes and nobody says why, as when a key loses its right to it."""

    sign_up: float = _rate()
    edit: float = _rate()
    tag: float = _rate()
    untag: float = _rate()
    merge: float = _rate()
    delete: float = _rate()
    pay: float = _rate()
    tag_create: float = _rate()
    tag_rename: float = _rate()
    tag_delete: float = _rate()


class Life:
    """The process. `World.advance` drives it; it changes the world through the world's own operations."""

    def __init__(self, world: World, rng: Random, rates: Pace, now: float) -> None:
        self._world = world
        self._rng = rng
        self._serial = 0
        self.due_at: float | None = None
        """Wall-clock seconds of the next change; None while all rates are zero."""
        self.set_rates(rates, now)

    def set_rates(self, rates: Pace, now: float) -> None:
        """From `now` on. The process has no memory, so drawing the next moment anew changes nothing else."""
        self.rates = rates
        self._kinds = list(rates.weights())
        self._weights = list(rates.weights().values())
        self.due_at = None
        self._draw(now)

    def advance(self, until: float) -> int:
        """Let everything happen that is due; returns how much."""
        happened = 0
        while self.due_at is not None and self.due_at <= until:
            at = self.due_at
            (kind,) = self._rng.choices(self._kinds, self._weights)
            getattr(self, f"_{kind}")(at)
            happened += 1
            self._draw(at)
        return happened

    def _draw(self, now: float) -> None:
        per_second = self.rates.per_second()
        self.due_at = now + self._rng.expovariate(per_second) if per_second > 0 else None

    def _sign_up(self, at: float) -> None:
        self._world.invent_customer(self._rng, at=at)

    def _edit(self, at: float) -> None:
        row = self._someone()
        if row is None:
            return
        document = self._world.register.document(row)
        instant = render(int(at * 1_000_000), self._world.rules.precision)
        fields = self._world.people.edit(self._rng, document, self._next(), instant)
        self._world.update_customer(document["customer_id"], fields, at=at)

    def _tag(self, at: float) -> None:
        for _ in range(ATTEMPTS_MAX):
            row = self._someone()
            if row is None or not self._world.register.tag_ids:
                return
            tag = self._some_tag()
            tags = self._world.customers.tags[row]
            if tag not in tags:
                self._world.register.retag(row, (*tags, tag), at)
                return

    def _untag(self, at: float) -> None:
        for _ in range(ATTEMPTS_MAX):
            if not self._world.register.tag_ids:
                return
            members = self._world.customers.members[self._some_tag()]
            if members:
                row = members[int(self._rng.random() * len(members))]
                tags = self._world.customers.tags[row]
                gone = tags[int(self._rng.random() * len(tags))]
                self._world.register.retag(row, tuple(tag for tag in tags if tag != gone), at)
                return

    def _rename(self, at: float) -> None:
        row = self._someone()
        if row is not None:
            customer_id = self._world.customers.customer_ids[row]
            stem = customer_id.split("~", maxsplit=1)[0][:STEM_MAX]
            new = f"{stem}~{self._next()}"
            if new not in self._world.customers.live_row_of:
                self._world.rename_customer(customer_id, new, at=at)

    def _delete(self, at: float) -> None:
        row = self._someone()
        if row is not None:
            self._world.delete_customer(self._world.customers.customer_ids[row], at=at)

    def _merge(self, at: float) -> None:
        rows = (self._someone(), self._someone())
        uids = [self._world.customers.uids[row] for row in rows if row is not None]
        if len(set(uids)) == 2:
            self._world.changes.merge(*uids, at=at)

    def _pay(self, at: float) -> None:
        row = self._someone()
        if row is not None:
            self._world.changes.pay(self._world.customers.uids[row], at=at)

    def _tag_create(self, at: float) -> None:
        self._world.create_tag(self._tag_name(), at=at)

    def _tag_rename(self, at: float) -> None:
        if self._world.register.tag_ids:
            self._world.changes.rename_tag(self._some_tag(), self._tag_name(), at=at)

    def _tag_delete(self, at: float) -> None:
        if self._world.register.tag_ids:
            # The least used of three: people tidy up what nobody uses, and one change stays one small change.
            choices = [self._some_tag() for _ in range(3)]
            self._world.delete_tag(min(choices, key=lambda tag: len(self._world.customers.members[tag])), at=at)

    def _user_create(self, at: float) -> None:
        self._world.staff.invent(self._rng, self._next(), at=at)

    def _user_edit(self, at: float) -> None:
        if self._world.staff.users:
            self._world.staff.edit(self._rng, self._some_user(), self._next(), at=at)

    def _user_delete(self, at: float) -> None:
        if self._world.staff.users:
            self._world.staff.delete_user(self._some_user(), at=at)

    def _some_user(self) -> str:
        return self._rng.choice(list(self._world.staff.users))

    def _someone(self) -> int | None:
        """A living customer, or None when that is hard to find."""
        customers = self._world.customers
        rows = len(customers.uids)
        for _ in range(ATTEMPTS_MAX if len(customers) else 0):
            row = int(self._rng.random() * rows)
            if customers.alive(row):
                return row
        return None

    def _tag_name(self) -> str:
        """A new one; where names are unique, one that is free."""
        while True:
            name = self._world.people.tag(self._rng, self._next())
            if not self._world.register.dialect.unique_tag_names or self._world.register.named(name) is None:
                return name

    def _some_tag(self) -> str:
        return self._rng.choice(self._world.register.tag_ids)

    def _next(self) -> int:
        self._serial += 1
        return self._serial
