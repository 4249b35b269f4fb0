"""Progress: a record of the progress topic, the public word for how complete a collection is. Pure.

It is written in the transaction that makes it true, so a reader of committed records that sees it can rely on it.
"""

from __future__ import annotations

import orjson
from pydantic import BaseModel, ConfigDict, Field

from bridge.model import Collection


class Progress(BaseModel):
    """Everything that the provider had shown of a collection until a moment is published."""

    model_config = ConfigDict(frozen=True, title="Progress")

    source: str = Field(description="the source's id")
    collection: Collection = Field(description="of which collection")
    complete_until: str = Field(
        description="what the provider had shown before is published, RFC 3339; never goes back"
    )
    sequence: int = Field(ge=0, description="and the events for it have numbers of the source up to this one")
    at: str = Field(description="when this was written, RFC 3339")

    @property
    def key(self) -> bytes:
        """The record's key."""
        return f"{self.source}/{self.collection}".encode()

    def encode(self) -> bytes:
        """The record's value."""
        return orjson.dumps(self.model_dump(mode="json"))
