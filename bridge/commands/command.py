"""Command: a record of the inbox as a value, or the reason why it is none. Pure.

`encode` makes the value that a sender appends, keyed by the source's id; `parse` reads it as the source's owner. The
inbox is open to whoever may write the topic, so every byte is checked here, and a refusal names fields and rules but
never a value: it goes into headers, outcomes and logs. A new kind is a model and its line in `MODELS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from hashlib import blake2b
from typing import Annotated, Any, NamedTuple

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from bridge.model import SOURCE_ID, Collection, instant

VALUE_BYTES_MAX = 256 * 1024
"""Of a record's value; far more than any command needs, far less than would hold up a shard."""

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$"
"""Of a command's id: nothing that could be an address or break out of a key."""

DIGEST_BYTES = 16
"""Of a command's content; enough to tell two commands with one id apart."""


class Kind(StrEnum):
    """What is asked."""

    RESYNC = "resync"
    PAUSE = "pause"
    RESUME = "resume"
    APPROVE = "approve"


class Reason(StrEnum):
    """Why a record has no effect; also the reason of its dead letter."""

    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    UNKNOWN_KIND = "unknown_kind"
    UNKNOWN_SOURCE = "unknown_source"
    WRONG_KEY = "wrong_key"
    CONFLICT = "conflict"
    EXPIRED = "expired"


def _moment(text: str) -> str:
    try:
        instant(text)
    except (ValueError, OverflowError):
        raise ValueError("is no RFC 3339 date-time") from None
    return text


class Command(BaseModel):
    """What every command says."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="Command")

    id: str = Field(pattern=ID_PATTERN, description="given by the sender; the same id again is the same command")
    kind: Kind = Field(description="what is asked")
    source: str = Field(pattern=f"^{SOURCE_ID.pattern}$", description="the source; also the record's key")
    sent_at: Annotated[str, AfterValidator(_moment)] = Field(description="when it was sent, RFC 3339")

    @property
    def digest(self) -> str:
        """Of what is asked, whoever sent it and when."""
        return _digest(self.model_dump(mode="json"))


class Signal(Command):
    """Asks the owner of a source to read everything again, to pause, to go on, or to let held deletions go."""

    model_config = ConfigDict(title="Signal")

    collection: Collection | None = Field(default=None, description="absent or null: every collection of the source")


MODELS: Mapping[Kind, type[Signal]] = dict.fromkeys(Kind, Signal)
"""What a record of each kind has to look like."""


class Refusal(NamedTuple):
    """Why a record is no command. id, kind, source: as far as they could be read; digest: of the whole content."""

    reason: Reason
    detail: str
    id: str | None = None
    kind: Kind | None = None
    source: str | None = None
    digest: str = ""


def encode(command: Signal) -> bytes:
    """The value of its inbox record."""
    return orjson.dumps(command.model_dump(mode="json", exclude_none=True))


def parse(key: bytes | None, value: bytes | None) -> Signal | Refusal:
    """The command in a record of the inbox. Never raises."""
    if value is None:
        return Refusal(Reason.MALFORMED, "the record has no value")
    if len(value) > VALUE_BYTES_MAX:
        return Refusal(Reason.TOO_LARGE, f"the record is larger than {VALUE_BYTES_MAX} bytes")
    try:
        fields = orjson.loads(value)
    except orjson.JSONDecodeError:
        return Refusal(Reason.MALFORMED, "the record is not JSON")
    if not isinstance(fields, dict):
        return Refusal(Reason.MALFORMED, "the record is not a JSON object")
    try:
        known = Refusal(Reason.MALFORMED, "", *_readable(fields), _digest(fields))
    except orjson.JSONEncodeError:  # what can be read may be too deep to be written
        return Refusal(Reason.MALFORMED, "the record is nested too deeply")
    if known.kind is None:
        return known._replace(reason=Reason.UNKNOWN_KIND, detail=f"kind is none of {', '.join(Kind)}")
    try:
        command = MODELS[known.kind].model_validate(fields)
    except ValidationError as error:
        return known._replace(detail=_problems(error))
    if key != command.source.encode():
        return known._replace(reason=Reason.WRONG_KEY, detail="the record's key is not the id of its source")
    return command


class _Names(BaseModel):
    """The parts of a record that are worth telling; each stands for itself."""

    id: str | None = Field(default=None, pattern=ID_PATTERN)
    kind: Kind | None = None
    source: str | None = Field(default=None, pattern=f"^{SOURCE_ID.pattern}$")


def _readable(fields: Mapping[str, Any]) -> tuple[str | None, Kind | None, str | None]:
    """Id, kind and source, None for what is not well-formed. `Any`: JSON."""
    found: dict[str, Any] = {}
    for name in ("id", "kind", "source"):
        try:
            found[name] = getattr(_Names.model_validate({name: fields.get(name)}), name)
        except ValidationError:
            found[name] = None
    return found["id"], found["kind"], found["source"]


def _problems(error: ValidationError) -> str:
    """Fields and rules. A field that nobody knows is not named: its name may be anything."""
    problems = []
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        if problem["type"] == "extra_forbidden":
            problems.append("there is a field that this release does not know")
        else:
            place = ".".join(map(str, problem["loc"]))
            problems.append(f"{place}: {problem['msg'].removeprefix('Value error, ')}")
    return "; ".join(dict.fromkeys(problems))


def _digest(fields: Mapping[str, Any]) -> str:
    """Of the content but for who sent it when; absent and null are the same."""
    content = {name: value for name, value in fields.items() if name not in ("id", "sent_at") and value is not None}
    return blake2b(orjson.dumps(content, option=orjson.OPT_SORT_KEYS), digest_size=DIGEST_BYTES).hexdigest()
