"""Schema: the JSON Schemas of what is written into the inbox, and of its answers, beside those of the events."""

from __future__ import annotations

from bridge.commands.command import Refresh, Rename, Signal, Tagging
from bridge.commands.outcome import Outcome
from bridge.event import schema as events
from bridge.event.schema import JsonSchema, schema_of


def schemas() -> dict[str, JsonSchema]:
    """File name → schema, for everything that the bridge writes or reads in Kafka and others may."""
    return {
        **events.schemas(),
        "inbox.signal.v1.json": schema_of(Signal, "urn:bridge:schema:inbox.signal:v1"),
        "inbox.rename.v1.json": schema_of(Rename, "urn:bridge:schema:inbox.rename:v1"),
        "inbox.tagging.v1.json": schema_of(Tagging, "urn:bridge:schema:inbox.tagging:v1"),
        "inbox.refresh.v1.json": schema_of(Refresh, "urn:bridge:schema:inbox.refresh:v1"),
        "outcome.v1.json": schema_of(Outcome, "urn:bridge:schema:outcome:v1"),
    }
