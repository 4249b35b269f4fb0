"""Provider: everything that may befall the providers of a town: changes that come in crowds, faults, lies, lost rights.

Each action returns what is told of it, None when it could not happen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from bridge.errors import RequestRefused
from bridge.model import Collection
from bridge.sandbox.api import SandboxApi
from bridge.sandbox.simulation.plan import Plan
from bridge.sandbox.simulation.process import Outside
from bridge.sandbox.simulation.truth import History
from bridge.sandbox.simulation.vendors import VENDORS, Api, Vendor
from bridge.sandbox.world import World


class Loss(NamedTuple):
    """So many customers left at once. at: wall-clock seconds. known: how many there were."""

    source: str
    at: float
    uids: frozenset[str]
    known: int


@dataclass(slots=True)
class Provider:
    """See the module. losses: every departure of many."""

    plan: Plan
    outside: Outside
    histories: dict[str, History]
    chance: Random
    losses: list[Loss] = field(default_factory=list)
    _lied: bool = False

    def actions(self) -> dict[str, Callable[[], str | None]]:
        """By name, as in the plan."""
        return {
            "provider faults": self._faults,
            "provider well": self.well,
            "burst": self._burst,
            "empty tag list": self._empty_tag_list,
            "list lies": self._list_lies,
            "no right": self._no_right,
            "tokens revoked": self._tokens_revoked,
            "tagged in bulk": self._tagged_in_bulk,
            "tag deleted": self._tag_deleted,
            "many deleted": self._many_deleted,
            "staff changes": self._staff_changes,
            "ids change hands": self._ids_change_hands,
            "two are one": self._two_are_one,
        }

    def well(self) -> str:
        """No more faults, lies and lost rights."""
        for name, api in self.outside.apis.items():
            usual = {**dict.fromkeys(self.plan.faults, 0.0), **self._vendor(name).well(self.plan)}
            _switch(api, usual)
            self.outside.lies[name].forbidden.clear()
            self.outside.lies[name].hidden.clear()
        return "all"

    def _faults(self) -> str | None:
        if not self.plan.faults:
            return None
        api = self._api()
        _switch(api, self.plan.faults)
        return api.world.account

    def _burst(self) -> str:
        """Many changes in one instant: more than a page holds."""
        world, now = self._world()
        count = self.chance.randint(3, 25)
        for number in range(count):
            living = list(world.customers.live_row_of)
            if not living or self.chance.random() < 0.2:
                world.invent_customer(self.chance, at=now)
            elif self.chance.random() < 0.1:
                world.delete_customer(self.chance.choice(living), at=now)
            else:
                world.update_customer(self.chance.choice(living), {"first_name": f"Burst {number}"}, at=now)
        return f"{count} changes at {world.account}"

    # Lies and refusals.

    def _empty_tag_list(self) -> str | None:
        if self._lied:
            return None  # twice in a row would be a provider that lies about everything
        source, api = self.chance.choice(list(self.outside.apis.items()))
        until = self._claimed(source, Collection.TAGS)
        api.world.advance(self.outside.clock.wall())
        history = self.histories[source]
        history.update()
        if until is None or not history.alive(Collection.TAGS, until):
            return None  # nobody could know that the list is not empty
        self._lied = True
        api.world.rates = api.world.rates.changed({"tag_delete": 0.0})  # so that somebody knows better until then
        _switch(api, {"empty_tag_list_once": True})
        return api.world.account

    def _list_lies(self) -> str | None:
        """The members of a tag are not shown once; or the list of customers cannot be relied on for a while."""
        source, api = self.chance.choice(list(self.outside.apis.items()))
        if not isinstance(api, SandboxApi):
            return None
        if self.plan.lie and self.chance.random() < 0.5:
            _switch(api, self.plan.lie)
            return f"{api.world.account} for a while: {self.plan.lie}"
        until = self._claimed(source, Collection.MEMBERSHIPS)
        api.world.advance(self.outside.clock.wall())
        history = self.histories[source]
        history.update()
        edges = history.edges.items()
        since = float("-inf") if until is None else until
        known = sorted({tag for (tag, _), moments in edges if moments[-1].there and moments[-1].at < since})
        if not known or self.outside.lies[source].hidden:
            return None  # nobody could know that the tag has members
        tag = self.chance.choice(known)
        # An empty page is asked for again, so this is one whole reading.
        self.outside.lies[source].hidden[tag] = 2
        return f"{api.world.account} about {tag}"

    def _no_right(self) -> str:
        source, api = self.chance.choice(list(self.outside.apis.items()))
        vendor = self._vendor(source)
        if self.chance.random() < 0.3:
            right = self.chance.choice(vendor.rights)
            _switch(api, vendor.without(right))
            return f"{api.world.account} grants {right!r}"
        endpoint = self.chance.choice(vendor.forbidden)
        self.outside.lies[source].forbidden.add(endpoint)
        return f"{api.world.account} forbids {endpoint}"

    def _tokens_revoked(self) -> str:
        api = self._api()
        api.access.revoke_all()
        return api.world.account

    # Changes in crowds.

    def _tagged_in_bulk(self) -> str | None:
        """Everybody gets a tag at once, or loses it."""
        world, now = self._world()
        tags = tags_of(world)
        if not tags:
            return None
        tag, give = self.chance.choice(tags), self.chance.random() < 0.6
        for customer_id, row in list(world.customers.live_row_of.items()):
            others = [other for other in world.customers.tags[row] if other != tag]
            world.set_customer_tags(customer_id, [*others, tag] if give else others, at=now)
        return f"{'all' if give else 'none'} of {world.account} with {tag}"

    def _tag_deleted(self) -> str | None:
        """The tag that most have."""
        world, now = self._world()
        api = next(api for api in self.outside.apis.values() if api.world is world)
        if not tags_of(world) or api.switches.empty_tag_list_once:
            return None
        members = world.customers.members
        tag = max(tags_of(world), key=lambda uid: len(members[uid]))
        count = len(members[tag])
        world.delete_tag(tag, at=now)
        return f"{tag} of {world.account} with {count} members"

    def _many_deleted(self) -> str | None:
        source, api = self.chance.choice(list(self.outside.apis.items()))
        now = self.outside.clock.wall()
        api.world.advance(now)
        customers = api.world.customers
        before = {customers.uids[row] for row in customers.live_row_of.values()}
        if not before:
            return None
        api.world.mass_delete(self.chance.choice((0.3, 0.6, 1.0)))
        left = before - {customers.uids[row] for row in customers.live_row_of.values()}
        self.losses.append(Loss(source, now, frozenset(left), len(before)))
        return f"{len(left)} of {len(before)} at {api.world.account}"

    def _staff_changes(self) -> str | None:
        if not self._dinteros():
            return None
        world, now = self._world(self._dinteros())
        staff = world.staff
        uids = list(staff.users)
        what = self.chance.random()
        if not uids or what < 0.3:
            user = staff.create_user(
                {"email": f"new{len(uids)}@backoffice.example", "scope": ["read:accounts"]}, at=now
            )
            return f"{user['id']} joins {world.account}"
        uid = self.chance.choice(uids)
        if what < 0.5 and len(uids) > 1:
            staff.delete_user(uid, at=now)
            return f"{uid} leaves {world.account}"
        roles = self.chance.sample(sorted(staff.roles), self.chance.randint(1, 3))
        staff.update_user(uid, {"roles": [{"id": role} for role in roles]}, at=now)
        return f"{uid} of {world.account} gets {len(roles)} roles"

    def _ids_change_hands(self) -> str | None:
        """Swaps, chains, and ids that somebody else takes: the uid is who it is, whatever it is called."""
        if not self._dinteros():
            return None
        world, now = self._world(self._dinteros())
        living = list(world.customers.live_row_of)
        if len(living) < 3:
            return None
        one, other, third = self.chance.sample(living, 3)
        free = f"free~{world.truth.number}"
        kind = self.chance.choice(("swap", "chain", "ring", "taken after a rename", "taken after a deletion"))
        try:
            for old, new in _RENAMES[kind](one, other, third, free):
                world.rename_customer(old, new, at=now)
            if kind == "taken after a deletion":
                world.delete_customer(one, at=now)
            if kind.startswith("taken"):
                world.create_customer({"customer_id": one, "type": "customer", "first_name": "Heir"}, at=now)
        except RequestRefused as no:  # an id that is too long to be made longer
            return f"{kind}, in part: {no}"
        return f"{kind} at {world.account}"

    def _two_are_one(self) -> str | None:
        """One customer is merged into another."""
        others = [api for api in self.outside.apis.values() if not isinstance(api, SandboxApi)]
        if not others:
            return None
        world, now = self._world(others)
        customers = world.customers
        living = [customers.uids[row] for row in customers.live_row_of.values()]
        if len(living) < 2:
            return None
        duplicate, survivor = self.chance.sample(living, 2)
        if self.chance.random() < 0.7:  # mostly they have the same address, which is how anybody knows
            email = world.register.document(customers.row_of[duplicate]).get("email")
            world.changes.replace(survivor, {"email": email}, at=now)
        world.changes.merge(duplicate, survivor, at=now)
        return f"{duplicate} is {survivor} at {world.account}"

    def _claimed(self, source: str, collection: Collection) -> float | None:
        """Up to when the collection was said to be published, by whoever said it last."""
        claims = [c.until for c in self.outside.claims if (c.source, c.collection) == (source, collection)]
        return claims[-1] if claims else None

    def _api(self) -> Api:
        return self.chance.choice(list(self.outside.apis.values()))

    def _dinteros(self) -> list[Api]:
        return [api for api in self.outside.apis.values() if isinstance(api, SandboxApi)]

    def _vendor(self, source: str) -> Vendor:
        return VENDORS[self.plan.providers[source]]

    def _world(self, apis: Sequence[Api] = ()) -> tuple[World, float]:
        """Of some provider, as it is now."""
        api = self.chance.choice(apis) if apis else self._api()
        world, now = api.world, self.outside.clock.wall()
        world.advance(now)
        return world, now


def tags_of(world: World) -> list[str]:
    """Uids of the tags that customers can have."""
    return [uid for uid, tag in world.tags.items() if "type" not in tag]


def _switch(api: Api, values: Mapping[str, object]) -> None:
    if isinstance(api, SandboxApi):
        api.switches = api.switches.changed(values)
    else:
        api.switches = api.switches.changed(values)


Renames = list[tuple[str, str]]

_RENAMES: dict[str, Callable[[str, str, str, str], Renames]] = {
    "swap": lambda one, other, _, free: [(one, free), (other, one), (free, other)],
    "chain": lambda one, _other, _, free: [(one, free), (free, f"{free}~2"), (f"{free}~2", f"{free}~3")],
    "ring": lambda one, other, third, free: [(one, free), (third, one), (other, third), (free, other)],
    "taken after a rename": lambda one, _other, _, free: [(one, free)],
    "taken after a deletion": lambda *_: [],
}
