"""Events: what of the world's truth log is told to webhooks, and the payloads in which it is told. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from bridge.model import Body, Collection
from bridge.sandbox.population.truth import Truth
from bridge.sandbox.rebilly import documents
from bridge.sandbox.rebilly.documents import View
from bridge.sandbox.rebilly.switches import RebillySwitches

PLACEHOLDER = re.compile(r"\{([A-Za-z_][\w.]*)\}", re.ASCII)
"""In a webhook's own URL or body; how they are written is not documented."""

PAYMENT = frozenset({"payments", "paid_at"})
"""Fields of the world that no people change."""


class Event(NamedTuple):
    """type: as the provider calls it. uid: the customer it is about; duplicate: who went into that one, if that is it.

    was: the duplicate's document and tags before the merge.
    """

    type: str
    uid: str
    duplicate: str | None = None
    was: tuple[Body, Sequence[Body]] | None = None


def events_of(entry: Truth, switches: RebillySwitches) -> Iterator[Event]:
    """None for what the provider keeps to itself: tags, and customers that vanish."""
    if entry.collection is not Collection.CUSTOMERS:
        return
    match entry.kind:
        case "created":
            yield Event("customer-created", entry.uid)
        case "updated" if switches.payments_move_customers or not PAYMENT & entry.detail["changed"].keys():
            yield Event("customer-updated", entry.uid)
        case "tagged" | "untagged" if switches.tagging_fires_customer_updated:
            yield Event("customer-updated", entry.uid)
        case "merged":
            was = (entry.detail["was"], entry.detail["tags"])
            yield Event("customer-merged", entry.detail["into"], entry.uid, was)


def payload(event: Event, customer: Body | None, view: View, switches: RebillySwitches) -> Body:
    """The default payload. customer: as it is shown now; None when it is gone by now."""
    embed = switches.webhook_payload != "ids" and customer is not None
    if event.was is None or switches.webhook_payload == "generic_merge":
        told: Body = {"customerId": event.uid, "eventType": event.type}
        told |= {"_embedded": {"customer": customer}} if embed else {}
        return told | {"_links": [{"rel": "customer", "href": view.href("customers", event.uid)}]}
    document, tags = event.was
    duplicate = documents.customer(document, tags, view) if embed else {"id": event.duplicate}
    told = {"targetCustomerId": event.uid, "eventType": event.type, "duplicatedCustomer": duplicate}
    return told | ({"_embedded": {"targetCustomer": customer}} if embed else {}) | {"_links": []}


def filled(template: str, values: Body) -> str:
    """A template with its placeholders replaced, dots leading into objects; the unknown ones by nothing."""

    def replace(match: re.Match[str]) -> str:
        value: Any = values  # a JSON value
        for name in match[1].split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return "" if value is None else str(value)

    return PLACEHOLDER.sub(replace, template)
