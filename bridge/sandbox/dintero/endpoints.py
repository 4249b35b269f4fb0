"""The endpoints: routing on the raw path, the scope each call needs, and what each does.

The path is cut at its slashes before it is decoded, so that an id may hold any character as one segment.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import unquote
from uuid import UUID

from bridge.errors import RequestRefused
from bridge.sandbox.answer import Answer
from bridge.sandbox.dintero import forms
from bridge.sandbox.dintero.answer import Call, found, listed
from bridge.sandbox.dintero.filters import same_mail, same_phone
from bridge.sandbox.dintero.listing import exists, list_customers
from bridge.sandbox.population.customers import TYPES

ACCOUNT = re.compile(r"[PT]\d{8}", re.ASCII)
ACCOUNT_OR_PARTNER = re.compile(r"[PT](?:\d{3}|\d{8})", re.ASCII)

READ = frozenset({"admin:customers", "read:customers"})
WRITE = frozenset({"admin:customers", "write:customers"})
RENAME = frozenset({"admin:customers", "admin:accounts"})
STAFF = frozenset({"admin:accounts", "read:accounts"})


class Route(NamedTuple):
    """Where a path leads: the endpoint's name, the account in the path, the id in the path if there is one."""

    endpoint: str
    account: str
    argument: str = ""


class Endpoint(NamedTuple):
    """One method of one endpoint; any one of the scopes grants it."""

    scopes: frozenset[str]
    handle: Callable[[Call], Answer]


def route(path: str) -> Route | None:
    """The route of a still encoded path without the base path; None when nothing is there."""
    try:
        segments = [unquote(segment, errors="strict") for segment in path.split("/")[1:]]
    except UnicodeDecodeError:
        raise RequestRefused("the path is not UTF-8", status=400) from None
    match segments:
        case ["accounts", account, "auth", "token"]:
            return Route("token", account)
        case ["accounts", account, "management", "users"]:
            return Route("management", account)
        case ["accounts", account, "customers", "tags"]:
            return Route("tags", account)
        case ["accounts", account, "customers", "tags", tag]:
            return Route("tag", account, tag)
        case ["accounts", account, "customers", "users"]:
            return Route("customers", account)
        case ["accounts", account, "customers", "users", customer_id]:
            return Route("customer", account, customer_id)
        case ["accounts", account, "customers", "users", customer_id, "tags"]:
            return Route("customer_tags", account, customer_id)
        case ["accounts", account, "customers", "users", customer_id, "change_customer_id"]:
            return Route("rename", account, customer_id)
    return None


def well_formed(there: Route) -> bool:
    """Whether the ids in the path have the shape that the endpoint declares."""
    account = ACCOUNT_OR_PARTNER if there.endpoint in {"token", "management"} else ACCOUNT
    if not account.fullmatch(there.account):
        return False
    if there.endpoint == "tag":
        try:
            return bool(UUID(there.argument))
        except ValueError:
            return False
    if there.endpoint in {"customer", "customer_tags", "rename"}:
        return 1 <= len(there.argument) <= forms.CUSTOMER_ID_CHARS_MAX
    return True


# Tags.


def list_tags(call: Call) -> Answer:
    return listed(list(call.world.tags.values()))


def create_tag(call: Call) -> Answer:
    name, metadata = forms.tag_form(call.json())
    return found(call.world.create_tag(name, metadata))


def delete_tag(call: Call) -> Answer:
    return found(call.world.delete_tag(str(UUID(call.argument))))


# Customers.


def read_customer(call: Call) -> Answer:
    customers = call.world.customers
    row = customers.live_row_of.get(call.argument)
    if row is None and call.switches.deleted_read == "tombstone":
        row = customers.dead_row_of.get(call.argument)
    if row is None:
        raise RequestRefused("no such customer", status=404)
    return Answer(body=customers.bodies[row])


def create_customer(call: Call) -> Answer:
    fields = forms.new_customer_form(call.json())
    rows = call.world.customers.live_row_of.values()
    kinds, bodies = call.world.customers.kinds, call.world.customers.bodies
    kind = TYPES.index(fields.get("type", TYPES[0]))
    if mail := fields.get("email"):
        taken = same_mail(mail)
        if any(kinds[row] == kind and taken(bodies[row]) for row in rows):
            raise RequestRefused("email is in use", status=400)
    if phone := fields.get("phone_number"):
        taken = same_phone(phone)
        if any(taken(bodies[row]) for row in rows):
            raise RequestRefused("phone_number is in use", status=400)
    return found(call.world.create_customer(fields))


def update_customer(call: Call) -> Answer:
    fields = forms.customer_form(call.json())
    before = call.world.find(call.argument)
    if before is None:
        raise RequestRefused("no such customer", status=404)
    forms.whole_customer({**before, **fields})
    if mail := fields.get("email"):
        taken, customers = same_mail(mail), call.world.customers
        kind = TYPES.index(fields.get("type", before["type"]))
        same_kind = (row for row in customers.live_row_of.values() if customers.kinds[row] == kind)
        if any(taken(customers.bodies[row]) and customers.uids[row] != before["id"] for row in same_kind):
            raise RequestRefused("email is in use", status=400)
    return found(call.world.update_customer(call.argument, fields))


def delete_customer(call: Call) -> Answer:
    call.flag("delete_tokens")
    return found(call.world.delete_customer(call.argument))


def rename_customer(call: Call) -> Answer:
    return found(call.world.rename_customer(call.argument, forms.customer_id_form(call.json())))


def list_customer_tags(call: Call) -> Answer:
    row = call.world.customers.live_row_of.get(call.argument)
    if row is None:
        raise RequestRefused("no such customer", status=404)
    return listed([call.world.tags[tag] for tag in call.world.customers.tags[row]])


def set_customer_tags(call: Call) -> Answer:
    return listed(call.world.set_customer_tags(call.argument, forms.tag_ids_form(call.json())))


# Management users.


def list_staff(call: Call) -> Answer:
    if any(value != "roles" for value in call.every("expand")):
        raise RequestRefused("expand must be roles", status=400)
    users = call.world.staff.listed(
        expand_roles="roles" in call.every("expand"),
        bare_roles=call.switches.roles_without_expand == "ids",
        search=(call.first("search") or "").casefold() or None,
    )
    return listed(users)


ENDPOINTS: dict[str, dict[str, Endpoint]] = {
    "tags": {"GET": Endpoint(READ, list_tags), "POST": Endpoint(WRITE, create_tag)},
    "tag": {"DELETE": Endpoint(WRITE, delete_tag)},
    "customers": {
        "GET": Endpoint(READ, list_customers),
        "HEAD": Endpoint(READ, exists),
        "POST": Endpoint(WRITE, create_customer),
    },
    "customer": {
        "GET": Endpoint(READ, read_customer),
        "PUT": Endpoint(WRITE, update_customer),
        "DELETE": Endpoint(WRITE, delete_customer),
    },
    "customer_tags": {"GET": Endpoint(READ, list_customer_tags), "PUT": Endpoint(WRITE, set_customer_tags)},
    "rename": {"POST": Endpoint(RENAME, rename_customer)},
    "management": {"GET": Endpoint(STAFF, list_staff)},
}
"""Every endpoint but the token's, by name and method."""
