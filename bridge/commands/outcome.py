"""Outcome: what became of a command, as a record of the outcomes topic. Pure. It holds no personal data."""

from __future__ import annotations

from enum import StrEnum

import orjson
from pydantic import BaseModel, ConfigDict, Field

from bridge.commands.command import ID_PATTERN, Kind, Refusal, Signal
from bridge.model import Collection


class Result(StrEnum):
    """How it ended."""

    APPLIED = "applied"
    REJECTED = "rejected"


class Outcome(BaseModel):
    """Exactly one per id; the record's key is the id."""

    model_config = ConfigDict(frozen=True, title="Outcome")

    id: str = Field(pattern=ID_PATTERN, description="of the command")
    kind: Kind | None = Field(description="what was asked; null when that could not be understood")
    source: str | None = Field(description="of which source; null when that could not be read")
    collection: Collection | None = Field(description="of which collection; null: of all of them, or not understood")
    outcome: Result = Field(description="applied: it has had its effect; rejected: it has none")
    detail: str = Field(description="a sentence for people")
    at: str = Field(description="when, RFC 3339")
    count: int | None = Field(default=None, ge=0, description="how many documents it concerned, where that is known")

    def encode(self) -> bytes:
        """The record's value."""
        fields = self.model_dump(mode="json")
        if self.count is None:
            del fields["count"]
        return orjson.dumps(fields)


def applied(command: Signal, detail: str, at: str, count: int | None = None) -> Outcome:
    """It has had its effect."""
    return Outcome(
        id=command.id,
        kind=command.kind,
        source=command.source,
        collection=command.collection,
        outcome=Result.APPLIED,
        detail=detail,
        at=at,
        count=count,
    )


def rejected(refusal: Refusal, collection: Collection | None, at: str) -> Outcome:
    """It has none. Only for a refusal whose id is known."""
    assert refusal.id is not None, "without an id nobody can be answered"
    return Outcome(
        id=refusal.id,
        kind=refusal.kind,
        source=refusal.source,
        collection=collection,
        outcome=Result.REJECTED,
        detail=refusal.detail,
        at=at,
    )
