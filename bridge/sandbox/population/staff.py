"""Management users and their roles: everyone with access to the account.

They change on request, or at the rates of a living world. `last_seen_at` moves with the clock, as it does wherever
people log in: noise that a change detector has to ignore.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from bridge.clock import Clock
from bridge.errors import RequestRefused
from bridge.model import Body, Collection
from bridge.sandbox.population.instants import render
from bridge.sandbox.population.register import Register

USERS = 12
BEGUN_US = 1_700_000_000_000_000
"""When the account was opened, in microseconds since 1970."""
SEEN_EVERY_S = 60
"""`last_seen_at` moves in steps of a minute."""

ROLES = (
    ("Administrator", "Everything", ["admin:accounts", "admin:customers", "admin:hooks"]),
    ("Support", "Looks customers up", ["read:customers", "read:accounts"]),
    ("Marketing", "Tags customers", ["write:customers", "read:customers"]),
    ("Finance", "Reads settlements", ["read:accounts"]),
)


class Staff:
    """The users by id. Operations raise `RequestRefused` like those of the world."""

    def __init__(self, register: Register, clock: Clock, rng: Random) -> None:
        self._register = register
        self._clock = clock
        instant = render(BEGUN_US, register.rules.precision)
        entity = {"created_at": instant, "updated_at": instant, "created_by": register.client_id}
        self.roles: dict[str, Body] = {}
        for name, description, scope in ROLES:
            role: Body = {
                "id": register.new_id(rng),
                "name": name,
                "description": description,
                "scope": scope,
                **entity,
            }
            self.roles[role["id"]] = role
        self.users: dict[str, Body] = {}
        for number in range(USERS):
            user = self._draft(rng, number) | entity | {"id": register.new_id(rng)}
            self.users[user["id"]] = user

    def create_user(self, fields: Mapping[str, Any], *, at: float | None = None) -> Body:
        """A new user: `email`, and what else there is; `roles` as `[{"id": ...}]`."""
        moment = self._clock.wall() if at is None else at
        instant = self._register.stamp_text(moment)
        user = {**fields, "id": self._register.new_id()}
        user |= {"created_at": instant, "updated_at": instant, "created_by": self._register.client_id}
        self.users[user["id"]] = user
        self._register.truth.append(moment, "created", Collection.USERS, user["id"], {"document": dict(user)})
        return dict(user)

    def update_user(self, uid: str, fields: Mapping[str, Any], *, at: float | None = None) -> Body:
        """Replace fields; None clears one."""
        user = self._user(uid)
        moment = self._clock.wall() if at is None else at
        changed: Body = {name: value for name, value in fields.items() if value != user.get(name)}
        if changed:
            changed["updated_at"] = self._register.stamp_text(moment)
            merged = user | changed
            self.users[uid] = {name: value for name, value in merged.items() if value is not None}
            self._register.truth.append(moment, "updated", Collection.USERS, uid, {"changed": changed})
        return dict(self.users[uid])

    def delete_user(self, uid: str, *, at: float | None = None) -> None:
        """The user disappears from the list."""
        self._user(uid)
        del self.users[uid]
        moment = self._clock.wall() if at is None else at
        self._register.truth.append(moment, "deleted", Collection.USERS, uid, {})

    # What a living world does.

    def invent(self, rng: Random, number: int, *, at: float | None = None) -> Body:
        """Somebody is let in."""
        return self.create_user(self._draft(rng, number) | {"name": f"New user {number}"}, at=at)

    def edit(self, rng: Random, uid: str, number: int, *, at: float | None = None) -> Body:
        """Other roles, other rights or another name, and whatever lists there are in another order than before."""
        self.shuffle(rng, uid)
        role = rng.choice(list(self.roles.values()))
        change = rng.choice(("roles", "scope", "name"))
        fields: Body = {"name": f"Renamed user {number}"}
        if change == "roles":
            fields = {"roles": [{"id": uid} for uid in rng.sample(list(self.roles), rng.randint(1, len(self.roles)))]}
        elif change == "scope":
            fields = {"scope": rng.sample(role["scope"], len(role["scope"]))}
        return self.update_user(uid, fields, at=at)

    def shuffle(self, rng: Random, uid: str) -> None:
        """The same user with its lists in another order, which is no change."""
        user = self._user(uid)
        lists = {name: rng.sample(user[name], len(user[name])) for name in ("roles", "scope") if name in user}
        self.users[uid] = user | lists

    def listed(self, *, expand_roles: bool, bare_roles: bool, search: str | None = None) -> list[Body]:
        """All users as the API shows them. `bare_roles`: without expansion still name the roles' ids."""
        seen_s = int(self._clock.wall()) // SEEN_EVERY_S * SEEN_EVERY_S
        rows = []
        for user in self.users.values():
            if search and not any(str(user.get(name, "")).casefold().startswith(search) for name in ("email", "name")):
                continue
            row = user | {"last_seen_at": render(seen_s * 1_000_000, self._register.rules.precision)}
            if expand_roles:
                row["roles"] = [self.roles.get(role["id"], role) for role in user.get("roles", ())]
            elif not bare_roles:
                row.pop("roles", None)
            rows.append(row)
        return rows

    def _user(self, uid: str) -> Body:
        if uid not in self.users:
            raise RequestRefused("no such user", status=404)
        return self.users[uid]

    def _draft(self, rng: Random, number: int) -> Body:
        role = list(self.roles.values())[min(number, number % len(ROLES))]
        mfa = {"enabled": rng.random() < 0.5, "updated_at": "2025-01-15T10:00:00Z"}
        return {
            "email": f"user{number}@backoffice.example",
            "name": f"User {number}",
            "scope": sorted(role["scope"]),
            "authentication_type": "external",
            "agreement": {"name": "terms", "version": "3", "personal_guarantee_accepted": False, "attachments": []},
            "roles": [{"id": role["id"]}],
            "configuration": {"mfa": {"sms": mfa, "totp": {"enabled": False, "updated_at": "2025-01-15T10:00:00Z"}}},
        }
