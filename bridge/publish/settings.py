"""KafkaSettings: how to reach Kafka, and every duration that the exactly-once rules depend on.

The names of the connection fields are those of the client library. Durations are seconds. `client_options` turns
the settings into the client's keyword arguments; `quiet_client_loggers` and `client_findings` are called once at
the start of the process.
"""

from __future__ import annotations

import logging
import ssl
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import aiokafka.client
import aiokafka.codec
import aiokafka.record.default_records
from aiokafka.protocol.metadata import MetadataRequest
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from bridge.errors import ConfigurationError

REQUEST_TIMEOUT_S = 30.0
"""Also the expiry of batches without a leader: with less, a broker that restarts in good order breaks producers."""

SESSION_TIMEOUT_S = 10.0
"""A killed process's shards are taken over after this long; the loop may stall for less than this."""

HEARTBEAT_S = 1.0
"""How soon others learn that a member joined or left; a tenth of the session leaves room for lost ones."""

REBALANCE_TIMEOUT_S = 60.0
"""How long the group waits for a busy member; must be longer than the drain of a shard."""

TRANSACTION_TIMEOUT_S = 30.0
"""After this the broker aborts on its own; a dead process without successor blocks readers for this and 10 s more."""

PRODUCE_DEADLINE_S = 12.0
"""From begin to the last acknowledgement. With the commit deadline less than the transaction's timeout."""

COMMIT_DEADLINE_S = 15.0
"""A commit without an answer for this long is unknown. Well below the transaction's timeout."""

ANSWER_DEADLINE_S = 20.0
"""For everything else that is asked of Kafka: connect, fence, describe, committed offsets, a log's bounds."""

CLOSE_DEADLINE_S = 5.0
"""A clean close that takes longer becomes a dirty one."""

Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]


class Partitions(BaseModel):
    """Partitions of the topics that are keyed by entity; used when a topic is created, never to alter one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    customers: int = Field(default=12, ge=1, le=10_000)
    tags: int = Field(default=3, ge=1, le=10_000)
    users: int = Field(default=3, ge=1, le=10_000)
    outcomes: int = Field(default=3, ge=1, le=10_000)


class KafkaSettings(BaseModel):
    """The table `[kafka]` of the configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap_servers: list[str] = Field(min_length=1)
    client_id: str = "bridge"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    sasl_plain_username: str | None = None
    sasl_plain_password: SecretStr | None = None
    ssl_cafile: Path | None = None  # None: the system's authorities
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    ssl_password: SecretStr | None = None  # of the key file

    create_topics: bool = True
    partitions: Partitions = Partitions()
    replication_factor: int | None = Field(default=None, ge=1)  # None: the broker's default
    compression_type: Compression = "none"

    session_timeout_s: float = Field(default=SESSION_TIMEOUT_S, gt=0)
    heartbeat_s: float = Field(default=HEARTBEAT_S, gt=0)
    rebalance_timeout_s: float = Field(default=REBALANCE_TIMEOUT_S, gt=0)
    transaction_timeout_s: float = Field(default=TRANSACTION_TIMEOUT_S, gt=0)
    produce_deadline_s: float = Field(default=PRODUCE_DEADLINE_S, gt=0)
    commit_deadline_s: float = Field(default=COMMIT_DEADLINE_S, gt=0)
    request_timeout_s: float = Field(default=REQUEST_TIMEOUT_S, gt=0)
    answer_deadline_s: float = Field(default=ANSWER_DEADLINE_S, gt=0)

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.security_protocol.startswith("SASL") and (
            self.sasl_plain_username is None or self.sasl_plain_password is None
        ):
            raise ValueError(f"{self.security_protocol} needs sasl_plain_username and sasl_plain_password")
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise ValueError("ssl_keyfile needs ssl_certfile")
        if self.heartbeat_s * 3 > self.session_timeout_s:
            raise ValueError("heartbeat_s must be at most a third of session_timeout_s")
        if self.produce_deadline_s + self.commit_deadline_s >= self.transaction_timeout_s:
            raise ValueError("produce_deadline_s and commit_deadline_s together must be below transaction_timeout_s")
        return self

    @property
    def servers(self) -> str:
        """The addresses for people."""
        return ", ".join(self.bootstrap_servers)


def client_options(settings: KafkaSettings) -> dict[str, Any]:
    """Keyword arguments that every client of the library takes. Raises `ConfigurationError` for unusable files.

    `Any`: they are of many types and go straight into the client.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "client_id": settings.client_id,
        "request_timeout_ms": milliseconds(settings.request_timeout_s),
        "security_protocol": settings.security_protocol,
    }
    if settings.security_protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(settings)
    if settings.security_protocol.startswith("SASL"):
        assert settings.sasl_plain_password is not None  # the model saw to it
        options["sasl_mechanism"] = settings.sasl_mechanism
        options["sasl_plain_username"] = settings.sasl_plain_username
        options["sasl_plain_password"] = settings.sasl_plain_password.get_secret_value()
    return options


def compression(settings: KafkaSettings) -> str | None:
    """The client's word for the codec. Raises `ConfigurationError` when its library is missing."""
    codec = settings.compression_type
    if codec == "none":
        return None
    if not getattr(aiokafka.codec, f"has_{codec}")():
        raise ConfigurationError(
            f"kafka.compression_type = {codec!r} needs the package cramjam: pip install cramjam, or use gzip"
        )
    return codec


def milliseconds(seconds: float) -> int:
    """The client counts in whole milliseconds."""
    return round(seconds * 1000)


def quiet_client_loggers() -> None:
    """Pin the client's loggers to INFO or above: at DEBUG they print passwords and the content of records.

    Called after logging is configured, each time; a root logger that is quieter than INFO keeps them as quiet.
    """
    client = logging.getLogger("aiokafka")
    client.setLevel(max(client.getEffectiveLevel(), logging.INFO))
    for name in [name for name in logging.Logger.manager.loggerDict if name.startswith("aiokafka.")]:
        logging.getLogger(name).setLevel(logging.NOTSET)  # as loud as its parent, whatever it was before


def client_findings() -> list[str]:
    """What is wrong with the installed client, for the log at start. Raises `ConfigurationError` under `python -O`."""
    if not __debug__:
        raise ConfigurationError("do not run the bridge with python -O: the Kafka client's own checks are assertions")
    builder = aiokafka.record.default_records.DefaultRecordBatchBuilder
    if builder.__name__.endswith("Py"):
        return ["the C extension of aiokafka is missing: publishing is 4 times, restoring 15 times slower"]
    return []


class SilentMetadataRequest(MetadataRequest):  # type: ignore[misc]  # the library has no types
    """Asks about topics without creating them.

    The client asks by name on every refresh, and a broker with `auto.create.topics.enable` (the default) answers by
    creating what is missing: a topic that was deleted by mistake would come back empty, with another number of
    partitions, and look like an empty world.
    """

    def __init__(self, topics: list[str] | None = None) -> None:
        super().__init__(topics, allow_auto_topic_creation=False)


# The client has no option for it, so its module gets another class under the same name.
aiokafka.client.MetadataRequest = SilentMetadataRequest


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    password = settings.ssl_password.get_secret_value() if settings.ssl_password else None
    files = (settings.ssl_cafile, settings.ssl_certfile, settings.ssl_keyfile)
    for key, file in zip(("ssl_cafile", "ssl_certfile", "ssl_keyfile"), files, strict=True):
        if file is not None and not file.is_file():
            raise ConfigurationError(f"kafka.{key}: there is no file {file}")
    stamps = tuple(file.stat().st_mtime_ns if file is not None else 0 for file in files)
    try:
        return _load_context(*files, password, stamps)
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(
            f"kafka.ssl_*: the certificate files cannot be used ({error}); PEM files are needed, and ssl_password "
            "when the key is encrypted"
        ) from error


@lru_cache(maxsize=4)
def _load_context(
    cafile: Path | None,
    certfile: Path | None,
    keyfile: Path | None,
    password: str | None,
    _stamps: tuple[int, ...],
) -> ssl.SSLContext:
    """One per set of files and their age: reading the authorities takes tens of milliseconds, a shard one client."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=cafile)
    if certfile is not None:
        # A password that is never asked for would be asked on the terminal instead of failing.
        context.load_cert_chain(certfile, keyfile, password or "")
    return context
