"""Outcome: what became of a command, as a record of the outcomes topic. Pure. It holds no personal data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum

import orjson
from pydantic import BaseModel, ConfigDict, Field

from bridge.commands.command import ID_PATTERN, Command, Kind, Refusal, collection_of
from bridge.model import Collection

UIDS_LISTED_MAX = 500
"""Of one reason; all reasons together stay far below what a topic takes."""

_PLAIN = re.compile(r"[A-Za-z0-9_~.-]{1,64}", re.ASCII)
"""A uid that may be told. One with an @ may be somebody's address: it is counted and not listed."""


class Result(StrEnum):
    """How it ended."""

    APPLIED = "applied"
    PARTLY = "partly"
    REJECTED = "rejected"
    EXPIRED = "expired"
    FAILED = "failed"
    UNCONFIRMED = "unconfirmed"


class Why(StrEnum):
    """Why a command has not had its effect on a document."""

    UNKNOWN = "unknown"
    UNMATCHED = "unmatched"
    AMBIGUOUS = "ambiguous"
    GONE = "gone"
    REFUSED = "refused"
    FAILED = "failed"
    UNCONFIRMED = "unconfirmed"


class Others(BaseModel):
    """Those of a command's documents on which it has not had its effect, for one reason."""

    model_config = ConfigDict(frozen=True, title="Others")

    why: Why = Field(
        description="unknown: the bridge knows no such document; unmatched: no customer has this value, which is "
        "listed by the name that the command gave it; ambiguous: the same of a value that more than a thousand have; "
        "gone: the provider does not have it any more; "
        "refused: the provider refuses this one for good; failed: it did not answer in time; unconfirmed: it has "
        "accepted it, and that was not seen in time"
    )
    count: int = Field(ge=1, description="how many")
    uids: list[str] = Field(max_length=UIDS_LISTED_MAX, description="the first of them")


class Outcome(BaseModel):
    """Exactly one per id; the record's key is the id."""

    model_config = ConfigDict(frozen=True, title="Outcome")

    id: str = Field(pattern=ID_PATTERN, description="of the command")
    kind: Kind | None = Field(description="what was asked; null when that could not be understood")
    source: str | None = Field(description="of which source; null when that could not be read")
    collection: Collection | None = Field(description="of which collection; null: of all of them, or not understood")
    outcome: Result = Field(
        description="applied: it has had its effect; partly: on some, see others; rejected: it has none, and would "
        "have none again; expired: it was not begun in time; failed: the provider did not answer in time; "
        "unconfirmed: the provider has accepted it, and that was not seen in time"
    )
    detail: str = Field(description="a sentence for people")
    at: str = Field(description="when, RFC 3339")
    count: int | None = Field(default=None, ge=0, description="how many documents it concerned, where that is known")
    digest: str | None = Field(
        default=None, description="of what was asked: whoever sends the id with something else finds another one here"
    )
    others: list[Others] = Field(default=[], description="those on which it has not had its effect; absent: none")

    def encode(self) -> bytes:
        """The record's value."""
        fields = self.model_dump(mode="json")
        for name in ("count", "digest"):
            if fields[name] is None:
                del fields[name]
        if not self.others:
            del fields["others"]
        return orjson.dumps(fields)


def applied(command: Command, detail: str, at: str, count: int | None = None) -> Outcome:
    """It has had its effect."""
    return ended(command, Result.APPLIED, detail, at, count)


def ended(
    command: Command, result: Result, detail: str, at: str, count: int | None = None, others: Sequence[Others] = ()
) -> Outcome:
    """However it ended."""
    return Outcome(
        id=command.id,
        kind=command.kind,
        source=command.source,
        collection=collection_of(command),
        outcome=result,
        detail=detail,
        at=at,
        count=count,
        digest=command.digest,
        others=list(others),
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
        digest=refusal.digest or None,
    )


class Tally:
    """What became of each of many documents, as far as it is known; in few bytes, however many they are."""

    def __init__(self, stored: Mapping[str, tuple[int, list[str]]] | None = None) -> None:
        """`stored`: what `stored` told before."""
        self._others = {Why(why): (count, list(uids)) for why, (count, uids) in (stored or {}).items()}

    @property
    def stored(self) -> dict[str, tuple[int, list[str]]]:
        """As JSON."""
        return {why.value: found for why, found in self._others.items()}

    @property
    def others(self) -> list[Others]:
        """As an outcome tells them."""
        return [Others(why=why, count=count, uids=uids) for why, (count, uids) in sorted(self._others.items())]

    @property
    def reasons(self) -> frozenset[Why]:
        """There is at least one of each."""
        return frozenset(self._others)

    def miss(self, why: Why, uids: Sequence[str]) -> None:
        """No effect on these."""
        if not uids:
            return
        count, listed = self._others.get(why, (0, []))
        room = UIDS_LISTED_MAX - len(listed)
        plain = [uid for uid in uids if _PLAIN.fullmatch(uid)]
        self._others[why] = (count + len(uids), listed + plain[:room])

    def result(self, count: int) -> Result:
        """Of the whole, when it has had its effect on `count`."""
        if not self._others:
            return Result.APPLIED
        if self.reasons == {Why.UNCONFIRMED}:
            return Result.UNCONFIRMED
        if count:
            return Result.PARTLY
        if Why.UNCONFIRMED in self.reasons:
            return Result.UNCONFIRMED
        return Result.FAILED if Why.FAILED in self.reasons else Result.REJECTED
