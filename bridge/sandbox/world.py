"""A provider's world without the provider: customers, tags, memberships and management users that change by themselves.

Built from one seed, driven by `advance` (virtual time) or `live` (a task that sleeps through the clock port), changed
on request by the operations that the API's writes and tests use. Every change is recorded in the truth log. Time
stamps are the server's: cut to the configured precision, never decreasing.

Not thread-safe and never waits inside an operation, so one event loop sees each change as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from random import Random
from typing import Any

import orjson

from bridge.clock import Clock
from bridge.errors import RequestRefused
from bridge.model import Body
from bridge.sandbox.population.agenda import Action, Agenda
from bridge.sandbox.population.changes import Changes
from bridge.sandbox.population.customers import TYPES, Customers
from bridge.sandbox.population.dialect import DINTERO, Dialect
from bridge.sandbox.population.genesis import populate
from bridge.sandbox.population.instants import render
from bridge.sandbox.population.life import Life, Pace, Rates
from bridge.sandbox.population.people import People
from bridge.sandbox.population.register import Register, Rules
from bridge.sandbox.population.staff import Staff
from bridge.sandbox.population.truth import Truth, TruthLog, replay

__all__ = ["Rates", "Rules", "Truth", "World", "live", "replay"]

LIVE_TICK_S = 0.25
"""Longest sleep of a living world, so that rates set at run time are noticed soon."""
LIVE_STEP_S = 1.0
"""World time per step when a living world has fallen behind: other tasks get their turn in between."""

RENAME_RECORD = "dintero_change_customer_id_"
"""Prefix of the metadata key that each rename leaves behind."""


class World:
    """The living population.

    Operations raise `RequestRefused` (400 taken or invalid, 404 unknown), and then nothing has changed. Their `at` is
    the wall-clock second of the change, None for now.
    """

    def __init__(
        self,
        seed: int,
        customers: int,
        tags: int,
        rates: Pace,
        clock: Clock,
        account: str = "T12345678",
        *,
        rules: Rules | None = None,
        dialect: Dialect = DINTERO,
    ) -> None:
        self.seed = seed
        self.account = account
        self.clock = clock
        self.people = People()
        self.register = Register(seed, rules or Rules(), dialect)
        self.staff = Staff(self.register, clock, Random(f"{seed}/staff"))
        self.changes = Changes(self.register, clock)
        self.fault_rng = Random(f"{seed}/faults")
        self.tokens: dict[tuple[str, str], str] = {}
        """Customers' payment and loyalty tokens: (type, value) to uid."""
        now = clock.wall()
        populate(self.register, self.people, Random(f"{seed}/genesis"), customers, tags, now)
        self._serial = customers
        self._agenda = Agenda()
        self._life = Life(self, Random(f"{seed}/life"), rates, now)

    @property
    def customers(self) -> Customers:
        """The customers' columns, to read from."""
        return self.register.customers

    @property
    def tags(self) -> Mapping[str, Body]:
        """Tags by id, in order of creation."""
        return self.register.tags

    @property
    def truth(self) -> TruthLog:
        """What has happened so far."""
        return self.register.truth

    def limit_truth(self, entries_max: int) -> None:
        """Begin an empty truth log of this size."""
        self.register.truth = TruthLog(entries_max)

    @property
    def rules(self) -> Rules:
        """May be set at any time; holds for changes from then on."""
        return self.register.rules

    @rules.setter
    def rules(self, rules: Rules) -> None:
        self.register.rules = rules

    # Time.

    @property
    def rates(self) -> Pace:
        """Changes per minute; may be set at any time."""
        return self._life.rates

    @rates.setter
    def rates(self, rates: Pace) -> None:
        self._life.set_rates(rates, self.clock.wall())

    @property
    def due_at(self) -> float | None:
        """Wall-clock seconds of the next change the world makes by itself, None when it stands still."""
        moments = [moment for moment in (self._agenda.due_at, self._life.due_at) if moment is not None]
        return min(moments, default=None)

    def advance(self, until_wall_s: float) -> int:
        """Everything that is due by then happens, each change stamped with its own moment; returns how many."""
        happened = 0
        while (due_at := self._agenda.due_at) is not None and due_at <= until_wall_s:
            happened += self._life.advance(due_at) + self._agenda.run(due_at)
        return happened + self._life.advance(until_wall_s)

    def later(self, delay_s: float, action: Action) -> None:
        """Do something so many seconds from now, as the world goes on."""
        self._agenda.add(self.clock.wall() + delay_s, action)

    def settle(self) -> int:
        """Do what was put off until now; all else waits for `advance`. Returns how much that was."""
        return self._agenda.run(self.clock.wall())

    # Customers.

    def find(self, customer_id: str) -> Body | None:
        """The living customer with this customer_id."""
        row = self.customers.live_row_of.get(customer_id)
        return None if row is None else self.register.document(row)

    def create_customer(self, fields: Mapping[str, Any], *, at: float | None = None) -> Body:
        """A new customer from writable fields in Dintero's shape; `id`, `customer_id` and `type` are optional."""
        writable = {name: value for name, value in fields.items() if value is not None and value != {}}
        customer_id = writable.pop("customer_id", None) or self._free_id(self.register.ids)
        self._free(customer_id)
        kind, uid = TYPES.index(writable.pop("type", TYPES[0])), writable.pop("id", None)
        if uid in self.customers.row_of:
            raise RequestRefused("the id is, or was, in use", status=409)
        return self.register.enter(customer_id, kind, orjson.dumps(writable)[1:-1], self._at(at), uid)

    def invent_customer(self, rng: Random, *, at: float | None = None) -> Body:
        """Somebody signs up."""
        moment = self._at(at)
        self._serial += 1
        others = self.customers.customer_ids
        link = others[int(rng.random() * len(others))] if others else None
        invented = self.people.customer(rng, self._serial, render(int(moment * 1e6), self.rules.precision), link)
        taken = invented.customer_id in self.customers.live_row_of
        customer_id = self._free_id(rng) if taken else invented.customer_id
        return self.register.enter(customer_id, invented.kind, invented.fields.encode(), moment)

    def update_customer(self, customer_id: str, fields: Mapping[str, Any], *, at: float | None = None) -> Body:
        """Replace the given fields; None clears one. In `metadata` None removes a key, and other keys stay.

        An update that changes nothing leaves no trace.
        """
        row = self._row(customer_id)
        document = self.register.document(row)
        changed: Body = {}
        for name, value in fields.items():
            after = value
            if name == "metadata" and value is not None:
                merged = {**(document.get("metadata") or {}), **value}
                after = {key: kept for key, kept in merged.items() if kept is not None}
            after = None if after == {} else after
            if after != document.get(name):
                changed[name] = after
        return self.register.change(row, changed, self._at(at)) if changed else document

    def rename_customer(self, customer_id: str, new: str, *, at: float | None = None) -> Body:
        """Another customer_id; the old one is free at once. Leaves a record in the metadata."""
        row = self._row(customer_id)
        self._free(new)
        moment = self._at(at)
        metadata = self.register.document(row).get("metadata") or {}
        digest = blake2b(f"{customer_id}\0{new}\0{self.truth.number}".encode(), digest_size=4).hexdigest()
        record = {
            "created_at": render(int(moment * 1e6), "microseconds"),
            "created_by": self.register.client_id,
            "old": customer_id,
            "new": new,
        }
        key = f"{RENAME_RECORD}{int(moment * 1000)}.{digest}"
        return self.register.rename(row, new, {**metadata, key: record}, moment)

    def delete_customer(self, customer_id: str, *, at: float | None = None) -> Body:
        """Leaves the tombstone of six fields, and returns it. The customer_id may be taken again."""
        return self.register.leave(self._row(customer_id), self._at(at))

    def mass_delete(self, share: float) -> int:
        """Delete this share of the customers, drawn at random; returns how many went."""
        living = list(self.customers.live_row_of)
        gone = self.register.ids.sample(living, round(len(living) * min(1.0, max(0.0, share))))
        for customer_id in gone:
            self.delete_customer(customer_id)
        return len(gone)

    def set_customer_tags(self, customer_id: str, tags: Iterable[str], *, at: float | None = None) -> list[Body]:
        """Replace the customer's memberships by these tag ids; returns the tags."""
        row = self._row(customer_id)
        wanted = tuple(dict.fromkeys(tags))
        if any(tag not in self.tags for tag in wanted):
            raise RequestRefused("unknown tag id", status=400)
        self.register.retag(row, wanted, self._at(at))
        return [self.tags[tag] for tag in wanted]

    # Tags.

    def create_tag(
        self,
        name: str,
        metadata: Mapping[str, Any] | None = None,
        *,
        foreign_type: str | None = None,
        at: float | None = None,
    ) -> Body:
        """A new tag; the dialect says whether names are unique (409). `foreign_type`: of what, if not of customers."""
        if self.register.dialect.unique_tag_names and self.register.named(name) is not None:
            raise RequestRefused("the name is in use", status=409)
        return self.register.enter_tag(name, metadata, self._at(at), foreign_type)

    def delete_tag(self, tag_id: str, *, at: float | None = None) -> Body:
        """The tag and all its memberships are gone at once."""
        if tag_id not in self.tags:
            raise RequestRefused("no such tag", status=404)
        return self.register.leave_tag(tag_id, self._at(at))

    def _row(self, customer_id: str) -> int:
        row = self.customers.live_row_of.get(customer_id)
        if row is None:
            raise RequestRefused("no such customer", status=404)
        return row

    def _free(self, customer_id: str) -> None:
        if customer_id in self.customers.live_row_of:
            raise RequestRefused("customer_id is in use", status=400)

    def _free_id(self, rng: Random) -> str:
        while True:
            self._serial += 1
            customer_id = self.people.customer_id(rng, self._serial)
            if customer_id not in self.customers.live_row_of:
                return customer_id

    def _at(self, at: float | None) -> float:
        return self.clock.wall() if at is None else at


async def live(world: World) -> None:
    """Let the world go on in real (or the clock's) time, for ever. Cancellation stops it between two changes."""
    while True:
        now = world.clock.wall()
        while world.due_at is not None and world.due_at <= now:
            world.advance(min(now, world.due_at + LIVE_STEP_S))
            await world.clock.sleep(0)
        due_at = world.due_at
        wait_s = LIVE_TICK_S if due_at is None else min(LIVE_TICK_S, due_at - world.clock.wall())
        await world.clock.sleep(wait_s)
