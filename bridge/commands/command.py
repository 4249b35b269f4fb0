"""Command: a record of the inbox as a value, or the reason why it is none. Pure.

`encode` makes the value that a sender appends, keyed by the source's id; `parse` reads it as the source's owner. The
inbox is open to whoever may write the topic, so every byte is checked here, and a refusal names fields and rules but
never a value: it goes into headers, outcomes and logs. A new kind is a model and its line in `MODELS`.

There are two sorts. A `Signal` is about the bridge itself, and done by whoever takes it out of the inbox. A
`ProviderCommand` needs the provider; it is accepted out of the inbox and executed behind it, in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from hashlib import blake2b
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from bridge.model import SOURCE_ID, Collection, instant

VALUE_BYTES_MAX = 768 * 1024
"""Of a record's value: `UIDS_MAX` of the longest uids fit, and a topic of Kafka's default size takes it."""

UIDS_MAX = 10_000
"""Of one command; more are several commands, each with its own outcome."""

UID_PATTERN = r"^[A-Za-z0-9_@~.-]{1,64}$"
"""Of a document's uid: what providers call their own, a UUID or a short text."""

CUSTOMER_ID_CHARS_MAX = 255

CONFIRM_S = 60.0
"""How long what a provider has accepted may take to be seen, unless the command says otherwise."""

CONFIRM_S_MAX = 3600.0
"""An hour: meanwhile the commands behind this one wait."""

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$"
"""Of a command's id: nothing that could be an address or break out of a key."""

MIRRORED = "mirror."
"""How the ids of mirrors' commands begin; then come the mirror, the sequence of the first event, and the source."""

FIELD_PATTERN = r"^[A-Za-z0-9_-]{1,60}(\.[A-Za-z0-9_-]{1,60}){0,3}$"
"""Of a field of a document: its names from the outside in, parted by dots."""

DIGEST_BYTES = 16
"""Of a command's content; enough to tell two commands with one id apart."""


class Kind(StrEnum):
    """What is asked."""

    RESYNC = "resync"
    PAUSE = "pause"
    RESUME = "resume"
    APPROVE = "approve"
    RENAME = "rename"
    TAG = "tag"
    UNTAG = "untag"
    REFRESH = "refresh"


SignalKind = Literal[Kind.RESYNC, Kind.PAUSE, Kind.RESUME, Kind.APPROVE]
"""Of a `Signal`."""

TaggingKind = Literal[Kind.TAG, Kind.UNTAG]
"""Of a `Tagging`."""

SIGNALS: tuple[SignalKind, ...] = get_args(SignalKind)


class Reason(StrEnum):
    """Why a record has no effect; also the reason of its dead letter."""

    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    UNKNOWN_KIND = "unknown_kind"
    UNKNOWN_SOURCE = "unknown_source"
    WRONG_KEY = "wrong_key"
    CONFLICT = "conflict"
    EXPIRED = "expired"
    UNSUPPORTED = "unsupported"
    BUSY = "busy"


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

    kind: SignalKind = Field(description="what is asked")
    collection: Collection | None = Field(default=None, description="absent or null: every collection of the source")


Uid = Annotated[str, Field(pattern=UID_PATTERN)]
Uids = Annotated[tuple[Uid, ...], Field(min_length=1, max_length=UIDS_MAX)]


class ProviderCommand(Command):
    """Is executed behind the inbox, one after the other of a source."""

    not_after: Annotated[str, AfterValidator(_moment)] | None = Field(
        default=None, description="RFC 3339; if its execution has not begun by then, it has no effect"
    )

    @property
    def expires_at(self) -> float:
        """Wall-clock seconds."""
        return float("inf") if self.not_after is None else instant(self.not_after) / 1_000_000


def _customer_id(text: str) -> str:
    """As providers take it; the dot names would vanish from every path."""
    if text != text.strip() or text in (".", ".."):
        raise ValueError("has spaces around it, or is only dots")
    return text


CustomerId = Annotated[str, Field(min_length=1, max_length=CUSTOMER_ID_CHARS_MAX), AfterValidator(_customer_id)]


class Rename(ProviderCommand):
    """Gives a customer another customer_id. Who it is, is said by its uid or by the customer_id that it has now."""

    model_config = ConfigDict(title="Rename")

    kind: Literal[Kind.RENAME] = Field(description="what is asked")
    customer: Uid | None = Field(default=None, description="uid of the customer")
    customer_id: CustomerId | None = Field(default=None, description="or the customer_id it has when this is executed")
    new_customer_id: CustomerId = Field(description="the one it shall have")

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        if (self.customer is None) is (self.customer_id is None):
            raise ValueError("name the customer by one of customer and customer_id")
        return self


Value = Annotated[str, Field(max_length=CUSTOMER_ID_CHARS_MAX)]


class Where(BaseModel):
    """Customers, named by what a field of their documents says: all that have one of the values when it is executed."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="Where")

    field: str = Field(
        pattern=FIELD_PATTERN, description="of their documents, such as customer_id, email or attributes.card"
    )
    values: Annotated[tuple[Value, ...], Field(min_length=1, max_length=UIDS_MAX)] = Field(
        description="what it says; texts with an @ are compared without regard to capitals, and nobody has an empty one"
    )
    names: Annotated[tuple[Uid, ...], Field(max_length=UIDS_MAX)] | None = Field(
        default=None,
        description="how the outcome lists a value that nobody has, in the order of the values; the values themselves "
        "may be personal data and are never told",
    )

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.names is not None and len(self.names) != len(self.values):
            raise ValueError("there are not as many names as values")
        return self


class Tagging(ProviderCommand):
    """Gives a tag to customers, or takes it from them; their other tags stay."""

    model_config = ConfigDict(title="Tagging")

    kind: TaggingKind = Field(description="what is asked")
    tag: Uid | None = Field(default=None, description="uid of the tag")
    tag_name: Value | None = Field(
        default=None, min_length=1, description="or its name when this is executed, or its uid; exactly one tag has it"
    )
    customers: Uids | None = Field(default=None, description="uids of the customers; one that comes twice counts once")
    where: Where | None = Field(default=None, description="or what names them")
    confirm_within: float = Field(
        default=CONFIRM_S,
        gt=0,
        le=CONFIRM_S_MAX,
        strict=True,
        description="seconds from the provider's word to when it must show",
    )

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if (self.tag is None) is (self.tag_name is None):
            raise ValueError("name the tag by one of tag and tag_name")
        if (self.customers is None) is (self.where is None):
            raise ValueError("name the customers by one of customers and where")
        return self


class Refresh(ProviderCommand):
    """Reads documents again at once, and publishes what is new about them."""

    model_config = ConfigDict(title="Refresh")

    kind: Literal[Kind.REFRESH] = Field(description="what is asked")
    collection: Collection = Field(description="of which collection; memberships: the tags of customers")
    uids: Uids = Field(description="which documents; of memberships the customers")


MODELS: Mapping[Kind, type[Command]] = {
    **dict.fromkeys(SIGNALS, Signal),
    Kind.RENAME: Rename,
    Kind.TAG: Tagging,
    Kind.UNTAG: Tagging,
    Kind.REFRESH: Refresh,
}
"""What a record of each kind has to look like."""


def collection_of(command: Command) -> Collection | None:
    """The collection that it names."""
    return command.collection if isinstance(command, Signal | Refresh) else None


def mirror_of(command: str | None) -> str | None:
    """The mirror that a command with this id is of; None when it is of none."""
    return command[len(MIRRORED) :].partition(".")[0] if command and command.startswith(MIRRORED) else None


class Refusal(NamedTuple):
    """Why a record is no command. id, kind, source: as far as they could be read; digest: of the whole content."""

    reason: Reason
    detail: str
    id: str | None = None
    kind: Kind | None = None
    source: str | None = None
    digest: str = ""


def encode(command: Command) -> bytes:
    """The value of its inbox record."""
    return orjson.dumps(command.model_dump(mode="json", exclude_none=True))


def parse(key: bytes | None, value: bytes | None) -> Command | Refusal:
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
    return command_of(key, fields)


def command_of(key: bytes | None, fields: Mapping[str, Any]) -> Command | Refusal:
    """The command that these fields are, for a record with that key. `Any`: JSON. Never raises."""
    kind = fields.get("kind")
    if not isinstance(kind, str) or kind not in MODELS:
        return _refused(fields, Reason.UNKNOWN_KIND, f"kind is none of {', '.join(Kind)}")
    try:
        command = MODELS[Kind(kind)].model_validate(fields)
    except ValidationError as error:
        return _refused(fields, Reason.MALFORMED, _problems(error))
    if key != command.source.encode():
        return _refused(fields, Reason.WRONG_KEY, "the record's key is not the id of its source")
    return command


def _refused(fields: Mapping[str, Any], reason: Reason, detail: str) -> Refusal:
    """With what can be read of it. `Any`: JSON."""
    try:
        return Refusal(reason, detail, *_readable(fields), _digest(fields))
    except orjson.JSONEncodeError:  # what can be read may be too deep to be written
        return Refusal(Reason.MALFORMED, "it is nested too deeply")


_ASIDE = frozenset({"id", "sent_at", "not_after"})


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
            # Without its place in a list: thousands may have the same problem.
            place = ".".join(part for part in problem["loc"] if isinstance(part, str))
            text = problem["msg"].removeprefix("Value error, ")
            problems.append(f"{place}: {text}" if place else text)
    return "; ".join(dict.fromkeys(problems))


def _digest(fields: Mapping[str, Any]) -> str:
    """Of the content but for who sent it when, and until when; absent and null are the same."""
    content = {name: value for name, value in fields.items() if name not in _ASIDE and value is not None}
    return blake2b(orjson.dumps(content, option=orjson.OPT_SORT_KEYS), digest_size=DIGEST_BYTES).hexdigest()
