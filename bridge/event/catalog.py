"""Catalog: every event type there is, and which one a change is. The public contract in one table.

A type's name, schema and topic never change; a new version of a payload is a new type (`.v2`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bridge.detect.diff import Change
from bridge.model import Collection, Path


@dataclass(frozen=True, slots=True, eq=False)
class EventType:
    """name: `type` without prefix and version. collection: also the topic, behind the bridge's name.

    type: CloudEvents `type`. schema_id: CloudEvents `dataschema` and the JSON Schema's `$id`. There is one object per
    type, so it is compared and hashed by identity, which is done for every event.
    """

    name: str
    collection: Collection
    description: str
    type: str = field(init=False)
    schema_id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "type", f"bridge.{self.name}.v1")
        object.__setattr__(self, "schema_id", f"urn:bridge:schema:{self.name}:v1")


def _declare(noun: str, collection: Collection) -> dict[str, EventType]:
    texts = {
        "snapshot": f"first sight of a {noun} during the initial read; not a change",
        "created": f"a {noun} that was not there before",
        "updated": f"fields of a {noun} changed",
        "deleted": f"the {noun} is gone for good; followed by nothing else for its key in the transaction",
    }
    return {verb: EventType(f"{noun}.{verb}", collection, text) for verb, text in texts.items()}


_BY_COLLECTION: dict[Collection, dict[str, EventType]] = {
    Collection.CUSTOMERS: _declare("customer", Collection.CUSTOMERS),
    Collection.TAGS: _declare("tag", Collection.TAGS),
    Collection.USERS: _declare("user", Collection.USERS),
}

RENAMED = EventType(
    "customer.renamed",
    Collection.CUSTOMERS,
    "the customer_id changed, the uid did not; fields that changed with it are in the same event",
)

TAGGED = EventType("customer.tagged", Collection.CUSTOMERS, "the customer got a tag; nothing else changed with it")
UNTAGGED = EventType(
    "customer.untagged",
    Collection.CUSTOMERS,
    "the customer lost a tag; a deleted or merged customer takes its tags with it unsaid",
)

MERGED = EventType(
    "customer.merged",
    Collection.CUSTOMERS,
    "the customer is gone for good, into another one (`into`), whose own changes are events of its own",
)

CATALOG: tuple[EventType, ...] = (
    *_BY_COLLECTION[Collection.CUSTOMERS].values(),
    RENAMED,
    TAGGED,
    UNTAGGED,
    MERGED,
    *_BY_COLLECTION[Collection.TAGS].values(),
    *_BY_COLLECTION[Collection.USERS].values(),
)
"""Every event type that this release publishes."""

TOPICS: tuple[Collection, ...] = (
    Collection.CUSTOMERS,
    Collection.TAGS,
    Collection.USERS,
)
"""The event topics; memberships travel with customers."""


def classify(collection: Collection, change: Change, path: Path) -> EventType:
    """The type of a change. `path` tells a first sight in the initial read from a creation."""
    types = _BY_COLLECTION[collection]
    if change.before is None:
        return types["snapshot" if path is Path.SNAPSHOT else "created"]
    if change.after is None:
        return types["deleted"]
    if collection is Collection.CUSTOMERS and "/customer_id" in change.changed:
        return RENAMED
    return types["updated"]
