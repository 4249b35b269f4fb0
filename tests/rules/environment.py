"""Rules about what surrounds the client: its log, and the Kafka that all of this is tried on."""

from __future__ import annotations

import io
import logging
import struct
import sys
from asyncio import open_connection
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from pydantic import SecretStr

from bridge.cli import service
from bridge.config import Config
from bridge.observability import logs
from bridge.publish.transaction import Record
from tests.rules.rule import Harm, rule
from tests.rules.stage import PASSWORD, USER, Stage

NAME = "Ada Example"

FETCH = 1
FETCH_VERSION_MIN = 4
"""Kafka 4.0 removed the fetches before it (KIP-896), all earlier ones speak version 0."""

KAFKA_2_8: Mapping[int, tuple[int, int]] = {0: (0, 9), FETCH: (0, 12), 3: (0, 11)}
"""The begin of what 2.8.1 says of itself."""


# -- D16 ---------------------------------------------------------------------------------------------------------


@contextmanager
def loggers_not_pinned() -> Iterator[None]:
    """The level of the command line holds for all loggers."""
    with ExitStack() as patches:
        patches.enter_context(patch.object(logs, "PINNED", ()))
        patches.enter_context(patch.object(service, "quiet_client_loggers", lambda: None))
        for name in ("aiokafka", *_client_loggers()):
            patches.enter_context(patch.object(logging.getLogger(name), "level", logging.NOTSET))
        _forget_levels()
        try:
            yield
        finally:
            _forget_levels()


@rule(
    "D16",
    "the client's log with --debug",
    twin=loggers_not_pinned,
    harm="password",
)
async def debug_log(stage: Stage) -> None:
    """A login and a record, and everything that any logger says meanwhile."""
    login = {
        "bootstrap_servers": [f"127.0.0.1:{stage.far.sasl}"],
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_plain_username": USER,
        "sasl_plain_password": SecretStr(PASSWORD),
    }
    bench = stage.bench
    settings = bench.settings.model_copy(update=login)
    with everything_logged() as said, patch.object(sys, "stderr", io.StringIO()) as stderr:
        service.configure_logs(Config(kafka=settings), debug=True, log_format="json")
        producer = await bench.opened(settings=settings)
        await producer.publish([Record(bench.plan.customers, 0, b"acme/1", NAME.encode())], 1)
        await producer.close()
        text = stderr.getvalue() + said.getvalue()
    assert text, "the log is on"
    leaked = [what for what, secret in (("password", PASSWORD), ("record", NAME)) if secret in text]
    if leaked:
        raise Harm(f"the log shows the {' and the '.join(leaked)}")


@contextmanager
def everything_logged() -> Iterator[io.StringIO]:
    """What a handler of somebody else gets; the levels of all loggers are restored."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    root = logging.getLogger()
    names = ["aiokafka", *_client_loggers()]
    levels = {name: logging.getLogger(name).level for name in names}
    before, handlers = root.level, list(root.handlers)
    root.handlers = [handler]
    try:
        logging.getLogger("tests.rules").warning("begins")
        yield said
    finally:
        root.handlers = handlers
        root.setLevel(before)
        logging.captureWarnings(False)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _client_loggers() -> list[str]:
    return [name for name in logging.Logger.manager.loggerDict if name.startswith("aiokafka.")]


def _forget_levels() -> None:
    """Loggers remember whether they are enabled, and do not see a level that is patched."""
    for name in ("aiokafka", *_client_loggers()):
        logging.getLogger(name).setLevel(logging.getLogger(name).level)


# -- D18 ---------------------------------------------------------------------------------------------------------


async def spoken(servers: str) -> Mapping[int, tuple[int, int]]:
    """The requests a broker knows, with the oldest and the newest version of each (ApiVersions, version 0)."""
    host, _, port = servers.partition(",")[0].rpartition(":")
    reader, writer = await open_connection(host, int(port))
    try:
        request = struct.pack(">hhih", 18, 0, 1, -1)
        writer.write(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", await reader.readexactly(4))
        answer = await reader.readexactly(size)
    finally:
        writer.transport.abort()
    _, error, count = struct.unpack_from(">ihi", answer)
    assert error == 0
    return {key: (low, high) for key, low, high in struct.iter_unpack(">hhh", answer[10 : 10 + 6 * count])}


@contextmanager
def kafka_of_2021() -> Iterator[None]:
    """The last version that the client's own tests run on."""

    async def old(_: str) -> Mapping[int, tuple[int, int]]:
        return KAFKA_2_8

    with patch(f"{__name__}.spoken", old):
        yield


@rule(
    "D18",
    "the Kafka of these tests is of the 4th generation",
    twin=kafka_of_2021,
    harm="before Kafka 4",
)
async def fourth_generation(stage: Stage) -> None:
    """A check of the environment and no more: what else is proved here says nothing about a Kafka that nobody runs.

    The client's own tests end at Kafka 2.8.1.
    """
    oldest, _ = (await spoken(stage.bench.settings.servers))[FETCH]
    if oldest < FETCH_VERSION_MIN:
        raise Harm(f"the broker still answers fetches of version {oldest}: it is from before Kafka 4")
