"""Config: one TOML file → settings, checked as a whole before anything is touched.

Each section's model lives beside the code that reads it; here they are joined, values from the environment or from
files are put in their places, and every problem is told with its place and remedy. Secrets become `SecretStr` and
never appear in a message.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from bridge.commands.command import CUSTOMER_ID_CHARS_MAX, FIELD_PATTERN
from bridge.commands.receiver import TOKEN_CHARS_MIN
from bridge.detect.scan import DeleteLimit
from bridge.errors import ConfigurationError
from bridge.event.envelope import ContentMode
from bridge.model import SOURCE_ID, Collection
from bridge.observability.probes import parse_listen
from bridge.publish.settings import KafkaSettings
from bridge.runtime.mirrors import MirrorRule
from bridge.runtime.reading import SWEEP_INTERVAL_S
from bridge.source.dintero import API as DINTERO_API
from bridge.source.dintero import SNAPSHOT_PARALLELISM_MAX, DinteroSettings
from bridge.source.rebilly import API as REBILLY_API
from bridge.source.rebilly import RebillySettings

SECRET_FILE_BYTES_MAX = 64 * 1024
"""A secret is a line, not a disk image."""

SHARDS_MAX = 1024
"""Each shard is a partition of two topics and a transactional id; beyond that use several bridges."""

SECONDS_MAX = 366 * 86_400.0
"""Of any duration; a longer one is a slip."""

POLL_INTERVAL = (5.0, 5.0)
"""Shortest and longest, in seconds, where the file says nothing."""

_COLLECTIONS = ", ".join(Collection)
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*(ms|s|m|h|d)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)\s*%", re.ASCII)
_RATE = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s*/\s*(s|m)", re.ASCII)


def parse_duration(value: object) -> float:
    """Seconds of `"5s"`, `"1.5m"`, `"6h"`, `"250ms"`, `"1d"`; ValueError otherwise."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('a duration is a number with a unit, such as "5s", "250ms", "10m", "6h" or "1d"')
    return float(match[1]) * _SECONDS[match[2]]


def parse_rate(value: object) -> float:
    """Requests per second of `"10/s"` or `"300/m"`; ValueError otherwise."""
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None or float(match[1]) <= 0:
        raise ValueError('a rate is a number above 0 with a unit, such as "10/s" or "300/m"')
    return float(match[1]) / _SECONDS[match[2]]


def _seconds(value: object) -> float:
    seconds = value if isinstance(value, float) else parse_duration(value)
    if not 0.0 <= seconds <= SECONDS_MAX:  # TOML knows -1.0, inf and nan
        raise ValueError(f"a duration lies between 0s and {SECONDS_MAX / 86_400:.0f}d")
    return seconds


def _interval(value: object) -> object:
    """Checked here and not by the types, because a union of two complains about both."""
    if not isinstance(value, dict):
        return _bounds(value)
    unknown = set(value) - set(Collection)
    if unknown:
        raise ValueError(f"knows no collection {', '.join(map(repr, sorted(unknown)))}; there are {_COLLECTIONS}")
    return {name: _bounds(part) for name, part in value.items()}


def _bounds(value: object) -> tuple[float, float]:
    """Shortest and longest of `"1s..30s"`; both the same of `"5s"`."""
    if isinstance(value, str) and ".." in value:
        shortest, longest = map(_seconds, value.split("..", 1))
    else:
        shortest = longest = _seconds(value)
    if shortest == 0.0:
        raise ValueError("an interval is longer than 0s")
    if shortest > longest:
        raise ValueError('a range begins with the shorter interval, such as "1s..30s"')
    return shortest, longest


def parse_share(value: object) -> float:
    """0.05 of `"5%"`; ValueError otherwise."""
    match = _SHARE.fullmatch(value) if isinstance(value, str) else None
    if match is None or float(match[1]) > 100:
        raise ValueError('a share is a percentage, such as "5%" or "0.5%"')
    return float(match[1]) / 100


Seconds = Annotated[float, BeforeValidator(_seconds)]
Bounds = tuple[float, float]
Interval = Annotated[Bounds | dict[Collection, Bounds], BeforeValidator(_interval)]
PerSecond = Annotated[float, BeforeValidator(lambda value: value if isinstance(value, float) else parse_rate(value))]
Share = Annotated[float, BeforeValidator(parse_share)]


class DeleteLimitSection(BaseModel):
    """`delete_limit`: more deletions at once than **both** are held until a person approves them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: Share = DeleteLimit().share
    documents: int = Field(DeleteLimit().documents, ge=0, le=1_000_000_000)

    def limit(self) -> DeleteLimit:
        """As the runtime takes it."""
        return DeleteLimit(self.share, self.documents)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BridgeSection(_Section):
    """`[bridge]`: what this bridge is called and how its work is cut."""

    name: str = Field("bridge", pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}$")
    shards: int = Field(16, ge=1, le=SHARDS_MAX)
    data_dir: Path = Path("./data")
    shutdown_grace: Seconds = 20.0
    content_mode: ContentMode = ContentMode.BINARY


class HttpSection(_Section):
    """`[http]`: where metrics, health, the status page and commands listen. Loopback by default: not for the world."""

    listen: str = "127.0.0.1:8080"
    command_token: SecretStr | None = Field(None, min_length=TOKEN_CHARS_MIN)  # None: no commands over HTTP

    @field_validator("listen")
    @classmethod
    def _host_and_port(cls, listen: str) -> str:
        try:
            parse_listen(listen)
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        return listen


class SourceSection(_Section):
    """`[[sources]]`: one account of one provider."""

    id: str
    provider: Literal["dintero", "rebilly"]
    account: str
    owner: str | None = None
    client_id: str | None = Field(None, min_length=1)
    client_secret: SecretStr | None = Field(None, min_length=1)
    api_key: SecretStr | None = Field(None, min_length=1)
    command_token: SecretStr | None = Field(None, min_length=TOKEN_CHARS_MIN)  # instead of that of `[http]`
    base_url: str | None = Field(None, pattern=r"^https?://[^/?#@\s]+(/[^?#\s]*)?$")  # None: the provider's own
    collections: list[Collection] = Field([Collection.CUSTOMERS, Collection.TAGS], min_length=1)
    poll_interval: Interval = POLL_INTERVAL
    sweep_interval: Seconds = SWEEP_INTERVAL_S
    poll_overlap: Seconds = 10.0
    request_budget: PerSecond = 10.0
    delete_limit: DeleteLimitSection = DeleteLimitSection()
    snapshot: Literal["events", "silent"] = "events"
    cursor_kind: Literal["id", "customer_id"] = "id"
    snapshot_parallelism: int = Field(4, ge=1, le=SNAPSHOT_PARALLELISM_MAX)

    def dintero(self) -> DinteroSettings:
        """The settings of the provider's client. Raises `ValidationError` for what only the provider knows."""
        assert self.client_id is not None, "checked with the section"
        assert self.client_secret is not None, "checked with the section"
        return DinteroSettings(
            source=self.id,
            collections=frozenset(self.collections),
            account=self.account,
            owner=self.owner,
            client_id=self.client_id,
            client_secret=self.client_secret,
            base_url=self.base_url or DINTERO_API,
            request_rate=self.request_budget,
            poll_overlap_s=self.poll_overlap,
            cursor_kind=self.cursor_kind,
            snapshot_parallelism=self.snapshot_parallelism,
        )

    def rebilly(self) -> RebillySettings:
        """The same of the other one."""
        assert self.api_key is not None, "checked with the section"
        return RebillySettings(
            source=self.id,
            collections=frozenset(self.collections),
            account=self.account,
            api_key=self.api_key,
            base_url=self.base_url or REBILLY_API,
            request_rate=self.request_budget,
            poll_overlap_s=self.poll_overlap,
        )

    @model_validator(mode="after")
    def _consistent(self) -> SourceSection:
        if SOURCE_ID.fullmatch(self.id) is None:
            raise ValueError(f"id {self.id!r} does not match ^{SOURCE_ID.pattern}$")
        if lacking := [name for name in _CREDENTIALS[self.provider] if getattr(self, name) is None]:
            raise ValueError("; ".join(f"{name}: missing; add it" for name in lacking))
        if foreign := sorted(_FOREIGN[self.provider] & self.model_fields_set):
            raise ValueError("; ".join(f"{name}: {self.provider} has no such key; remove it" for name in foreign))
        try:
            self.dintero() if self.provider == "dintero" else self.rebilly()
        except ValidationError as error:
            problems = (f"{_dotted(p['loc'])}: {p['msg'].removeprefix('Value error, ')}" for p in error.errors())
            raise ValueError("; ".join(problems)) from None
        if len(set(self.collections)) != len(self.collections):
            raise ValueError("collections names one twice")
        ends = {Collection.CUSTOMERS, Collection.TAGS}
        if Collection.MEMBERSHIPS in self.collections and (missing := ends - set(self.collections)):
            raise ValueError(f"collections: memberships need {' and '.join(sorted(missing))} as well")
        unread = set(self.collections) - {*ends, Collection.MEMBERSHIPS, Collection.USERS}
        if unread:
            raise ValueError(f"collections: {', '.join(sorted(unread))} cannot be read by this release")
        return self

    @property
    def secrets(self) -> Sequence[SecretStr]:
        """What must never be shown."""
        own = (self.client_secret, self.api_key, self.command_token)
        return [secret for secret in own if secret is not None]

    def poll_interval_s(self, collection: Collection) -> float:
        """Seconds between two polls of a collection while it changes."""
        return self._poll_bounds(collection)[0]

    def poll_interval_s_max(self, collection: Collection) -> float:
        """The same after a long time without a change."""
        return self._poll_bounds(collection)[1]

    def _poll_bounds(self, collection: Collection) -> Bounds:
        if isinstance(self.poll_interval, dict):
            return self.poll_interval.get(collection, POLL_INTERVAL)
        return self.poll_interval


_CREDENTIALS: Mapping[str, tuple[str, ...]] = {"dintero": ("client_id", "client_secret"), "rebilly": ("api_key",)}
_FOREIGN: Mapping[str, frozenset[str]] = {
    "dintero": frozenset({"api_key"}),
    "rebilly": frozenset({"client_id", "client_secret", "owner", "cursor_kind", "snapshot_parallelism"}),
}
"""Keys that only the other provider has."""


def _end(value: object) -> tuple[str, str]:
    source, colon, tag = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not (colon and SOURCE_ID.fullmatch(source) and 0 < len(tag) <= CUSTOMER_ID_CHARS_MAX):
        raise ValueError('name a source and a tag of it, such as "acme:VIP"')
    return source, tag


FieldName = Annotated[str, Field(pattern=FIELD_PATTERN)]
End = Annotated[tuple[str, str], BeforeValidator(_end)]


class JoinSection(_Section):
    """`join` where the field has another name on the other side."""

    from_: FieldName = Field(alias="from")
    to: FieldName


def _join(value: object) -> object:
    return {"from": value, "to": value} if isinstance(value, str) else value


class MirrorSection(_Section):
    """`[[mirrors]]`: who gets or loses a tag in one source, gets or loses one in another.

    from_, to: source and tag, its name or its uid. join: the fields whose values say who is who on both sides.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,29}$")
    from_: End = Field(alias="from")
    to: End
    join: Annotated[JoinSection, BeforeValidator(_join)]

    def rule(self) -> MirrorRule:
        """As the runtime takes it."""
        return MirrorRule(self.name, *self.from_, *self.to, self.join.from_, self.join.to)


class Config(_Section):
    """The whole file."""

    kafka: KafkaSettings
    bridge: BridgeSection = BridgeSection()
    http: HttpSection = HttpSection()
    sources: list[SourceSection] = Field([], max_length=10_000)
    mirrors: list[MirrorSection] = Field([], max_length=1_000)

    @property
    def command_tokens(self) -> dict[str, SecretStr]:
        """By source, of those that take commands over HTTP."""
        tokens = {source.id: source.command_token or self.http.command_token for source in self.sources}
        return {source: token for source, token in tokens.items() if token is not None}

    @property
    def secrets(self) -> list[str]:
        """Everything that may never be shown."""
        own = [self.kafka.sasl_plain_password, self.kafka.ssl_password, self.http.command_token]
        found = [secret for secret in own if secret is not None]
        found += [secret for source in self.sources for secret in source.secrets]
        return [secret.get_secret_value() for secret in found]

    @model_validator(mode="after")
    def _unique(self) -> Config:
        seen: set[str] = set()
        for source in self.sources:
            if source.id in seen:
                raise ValueError(f"sources: two of them have the id {source.id!r}")
            seen.add(source.id)
        return self

    @model_validator(mode="after")
    def _mirrored(self) -> Config:
        sources = {source.id: source for source in self.sources}
        seen: set[str] = set()
        for number, mirror in enumerate(self.mirrors, 1):
            place = f"mirrors[{number}]"
            if mirror.name in seen:
                raise ValueError(f"{place}: two of them have the name {mirror.name!r}")
            seen.add(mirror.name)
            for key, (source, _), needed in (
                ("from", mirror.from_, {Collection.MEMBERSHIPS}),
                ("to", mirror.to, {Collection.CUSTOMERS, Collection.TAGS}),
            ):
                if source not in sources:
                    raise ValueError(f"{place}.{key}: no source has the id {source!r}")
                if lacking := sorted(needed - set(sources[source].collections)):
                    raise ValueError(f"{place}.{key}: {source} has to read {' and '.join(lacking)} for it")
            if mirror.from_ == mirror.to:
                raise ValueError(f"{place}: from and to are the same tag")
        return self


def load(path: Path) -> Config:
    """The file's settings. Raises `ConfigurationError` with file, key and remedy."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigurationError(f"{path}: cannot be read ({reason}); name the file with -c") from None
    return parse(text, str(path), path.parent)


def parse(text: str, name: str, folder: Path) -> Config:
    """As `load`, from text. Relative `{ file = … }` paths are looked up in `folder`."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{name}: not valid TOML: {error}") from None
    resolved = _resolved(raw, name, folder, ())
    try:
        return Config.model_validate(resolved)
    except ValidationError as error:
        raise ConfigurationError("\n".join(_problems(error, name))) from None


def _resolved(value: Any, name: str, folder: Path, place: tuple[str | int, ...]) -> Any:
    """The value with every `{ env = … }` and `{ file = … }` replaced. `Any`: TOML is recursive."""
    if isinstance(value, list):
        return [_resolved(item, name, folder, (*place, index)) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"env"}:
        found = os.environ.get(str(value["env"]))
        if not found:
            raise ConfigurationError(
                f"{name}: {_dotted(place)} comes from the environment variable {value['env']}, which is not set; "
                f"export {value['env']}=… before starting"
            )
        return found
    if value.keys() == {"file"}:
        return _secret_file(folder / str(value["file"]), name, place)
    return {key: _resolved(item, name, folder, (*place, key)) for key, item in value.items()}


def _secret_file(path: Path, name: str, place: tuple[str | int, ...]) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(SECRET_FILE_BYTES_MAX + 1)
        # A file written by an editor ends with a newline, which belongs to no secret.
        text = data.decode("utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigurationError(
            f"{name}: {_dotted(place)} comes from the file {path}, which cannot be read ({error.strerror})"
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{name}: {_dotted(place)}: the file {path} is not UTF-8") from None
    if not text or len(data) > SECRET_FILE_BYTES_MAX or "\n" in text:
        raise ConfigurationError(f"{name}: {_dotted(place)}: the file {path} must hold exactly one line")
    return text


def _problems(error: ValidationError, name: str) -> Iterator[str]:
    """One line per problem; never the value, because it may be a secret."""
    for problem in error.errors(include_input=False, include_url=False):
        place = problem["loc"]
        if problem["type"] == "extra_forbidden":
            known = list(_fields_at(place[:-1]))
            near = difflib.get_close_matches(str(place[-1]), known, n=1)
            hint = f'; did you mean "{near[0]}"?' if near else f"; known here: {', '.join(known)}"
            yield f"{name}: {_dotted(place)}: unknown key{hint}"
        elif problem["type"] == "missing":
            yield f"{name}: {_dotted(place)}: missing; add it"
        else:
            yield f"{name}: {_dotted(place)}: {problem['msg'].removeprefix('Value error, ')}"


def _fields_at(place: tuple[str | int, ...]) -> Iterator[str]:
    sections: Mapping[str, type[BaseModel]] = {
        "kafka": KafkaSettings,
        "bridge": BridgeSection,
        "http": HttpSection,
        "sources": SourceSection,
        "mirrors": MirrorSection,
    }
    model = sections.get(str(place[0]), Config) if place else Config
    if place and place[-1] == "delete_limit":
        model = DeleteLimitSection
    yield from (field.alias or name for name, field in model.model_fields.items())


def _dotted(place: tuple[str | int, ...]) -> str:
    text = ""
    for part in place:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "the file"
