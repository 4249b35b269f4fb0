"""The documents and event payloads as models: what the JSON Schemas are made from.

The hot path does not build these objects: sources map rows into plain bodies of this shape, and the tests hold every
published event against the schemas. Absent means "not known to the provider"; null never occurs inside a document.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from bridge.event.catalog import MERGED, RENAMED, TAGGED, UNTAGGED, EventType
from bridge.model import Collection

JsonObject = dict[str, Any]
"""Free JSON below a named field; `Any` because its shape is the customer's own."""


class _Shape(BaseModel):
    """Unknown fields are allowed: the contract may grow, a consumer with an older schema must go on."""

    model_config = ConfigDict(extra="allow")


class Customer(_Shape):
    """A customer in our words, the same for every provider."""

    uid: str = Field(description="the provider's immutable id; part of the key")
    customer_id: str | None = Field(None, description="the merchant's id; may be renamed, is never a key")
    type: str | None = Field(
        None,
        description="customer, company, contact, employee, other; new ones may appear",
    )
    status: str | None = None
    email: str | None = Field(None, description="compared without case")
    phone_number: str | None = None
    first_name: str | None = None
    last_name: str | None = None
    date_of_birth: str | None = Field(None, description="YYYY-MM-DD")
    gender: str | None = None
    company: JsonObject | None = None
    addresses: list[JsonObject] | None = Field(None, description="a set, in canonical order")
    consents: JsonObject | None = Field(None, description="channel → {consent, updated_at}; an open map")
    attributes: JsonObject | None = None
    metadata: JsonObject | None = None
    tags: list[str] | None = Field(None, description="tag uids, a set; absent while memberships are not read")
    favorite_store: str | None = None
    created_at: str | None = Field(None, description="RFC 3339, UTC")
    updated_at: str | None = Field(None, description="RFC 3339, UTC; as of the last event, not compared")
    extra: JsonObject | None = Field(None, description="what only this provider has, under its own names")


class Tag(_Shape):
    """A tag in our words."""

    uid: str = Field(description="the provider's immutable id")
    name: str | None = Field(None, description="the visible value, e.g. VIP; not a key")
    metadata: JsonObject | None = None
    created_at: str | None = Field(None, description="RFC 3339, UTC")
    updated_at: str | None = Field(None, description="RFC 3339, UTC; not compared")
    extra: JsonObject | None = None


class User(_Shape):
    """A person with access to the provider's account, in our words."""

    uid: str = Field(description="the provider's immutable id")
    email: str | None = Field(None, description="compared without case")
    name: str | None = None
    status: str | None = None
    roles: list[JsonObject] | None = Field(None, description="a set, sorted by id; each with its scope, sorted")
    scope: list[str] | None = Field(None, description="what the user may do; a set, sorted")
    authentication_type: str | None = None
    created_at: str | None = Field(None, description="RFC 3339, UTC")
    updated_at: str | None = Field(None, description="RFC 3339, UTC; as of the last event, not compared")
    extra: JsonObject | None = Field(None, description="what only this provider has, under its own names")


class TagShape(_Shape):
    """The tag of a membership that moved."""

    uid: str = Field(description="the tag's uid, as in `tags` of the customer")
    name: str = Field(description="its name when the event was made; its uid when the name is not known any more")


class CauseShape(_Shape):
    """Why the event was detected."""

    path: str = Field(description="snapshot, poll, sweep, webhook, command or audit")
    ref: str | None = Field(None, description="delivery id, command id or sweep id")


class EventData(_Shape):
    """What every event carries."""

    source: str = Field(description="the source's id in the bridge")
    provider: str
    account: str = Field(description="the provider's id of the account")
    collection: str
    key: str = Field(description="source/uid, also the Kafka key")
    sequence: int = Field(
        ge=1,
        description="counts every event of the source by one, none missing, none twice",
    )
    prior: int = Field(
        ge=0,
        description="sequence of the key's previous event; 0: the first one, or after deletion",
    )
    changed_at: str = Field(description="the provider's time of the change, RFC 3339")
    detected_at: str = Field(description="when the bridge saw it, RFC 3339")
    cause: CauseShape
    changed: list[str] = Field(description="JSON Pointers of what changed, sorted")


DOCUMENTS: dict[Collection, type[BaseModel]] = {
    Collection.CUSTOMERS: Customer,
    Collection.TAGS: Tag,
    Collection.USERS: User,
}
"""The document type of each collection that is read."""


def payload_model(kind: EventType) -> type[BaseModel]:
    """The model of one event type's data: `before` and `after` are there exactly when the type says so."""
    document = DOCUMENTS[kind.collection]
    verb = kind.name.partition(".")[2]
    fields: dict[str, Any] = {  # `Any`: pydantic's own notation of a field, (type, default or FieldInfo)
        "before": (None if verb in ("snapshot", "created") else document, Field()),
        "after": (None if verb in ("deleted", "merged") else document, Field()),
    }
    if kind is RENAMED:
        fields["from_"] = (
            str | None,
            Field(alias="from", description="the old customer_id"),
        )
        fields["to"] = (str | None, Field(description="the new customer_id"))
        fields["extra"] = (
            JsonObject | None,
            Field(None, description="customer_id_changes: the provider's own records of the steps between, if any"),
        )
    if kind is MERGED:
        fields["into"] = (str, Field(description="uid of the customer that it went into, as the provider says"))
    if kind in (TAGGED, UNTAGGED):
        fields["tag"] = (TagShape, Field(description="the tag that was got or lost"))
    title = "".join(part.capitalize() for part in kind.name.split("."))
    return create_model(
        title,
        __base__=EventData,
        __doc__=kind.description,
        __module__=__name__,
        **fields,
    )
