"""`bridge run` and `bridge check`: the service, and a look at everything it needs before it starts."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bridge import assembly
from bridge.cli.errors import EXIT_ENVIRONMENT
from bridge.cli.loop import run_async, stop_on_signals
from bridge.clock import SystemClock
from bridge.config import Config, SourceSection, load
from bridge.errors import BridgeError
from bridge.observability import logs
from bridge.publish.rights import missing_rights
from bridge.publish.settings import client_findings, quiet_client_loggers
from bridge.publish.topics import inspect
from bridge.source.client import Connections

COLLECTOR_THRESHOLDS = (50_000, 10, 50)
"""Of the three generations. The first is about what a full batch is made of."""

KEPT_BUFFER_BYTES = 32 * 1024 * 1024
"""Buffers up to this size are taken from memory that was used before; glibc allows no more."""

KEPT_BYTES = 64 * 1024 * 1024
"""Unused memory that is not given back: about what one batch needs on its way."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>

CONFIG = click.option(
    "-c",
    "--config",
    "path",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The configuration, a TOML file.",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One finding of `check`. ok: True fine, False must be mended, None worth knowing."""

    subject: str
    ok: bool | None
    message: str


@click.command(epilog="Example:  bridge run -c bridge.toml")
@CONFIG
@click.option("--log-format", type=click.Choice(["auto", "json", "console"]), default="auto", show_default=True)
@click.pass_obj
def run(debug: bool, path: Path, log_format: str) -> None:
    """Run the service until SIGTERM or Ctrl-C; a second signal exits at once."""
    config = load(path)
    configure_logs(config, debug, log_format)
    run_async(serve(config))


@click.command(epilog="Example:  bridge check -c bridge.toml --online")
@CONFIG
@click.option("--online", is_flag=True, help="Also log in to every provider, reach Kafka and compare the topics.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per finding.")
@click.pass_obj
def check(debug: bool, path: Path, online: bool, as_json: bool) -> None:
    """Validate the configuration; nothing is changed anywhere."""
    config = load(path)
    configure_logs(config, debug, "auto", quiet=True)
    rows = [Row(str(path), True, f"valid, {len(config.sources)} sources")]
    if online:
        rows += run_async(_online(config))
    if as_json:
        for row in rows:
            click.echo(orjson.dumps(asdict(row)).decode())
    else:
        _show(rows)
    if any(row.ok is False for row in rows):
        sys.exit(EXIT_ENVIRONMENT)


async def serve(config: Config) -> None:
    """One process from start to drained stop."""
    bridge = assembly.build(config, SystemClock())
    _tune_memory()
    with stop_on_signals(bridge.stop):
        await bridge.run()


def _tune_memory() -> None:
    """Two defaults that are wrong for who builds batches of megabytes many times a second; together a quarter of CPU.

    The garbage collector would walk again and again through the batch that is just growing. What is there now stays
    for ever, and nearly all that comes later is freed without it. And the C library would give the memory of every
    large buffer back to the system, which has to fill the next one with zeros page by page.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc
        mallopt(_M_MMAP_THRESHOLD, KEPT_BUFFER_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


def configure_logs(config: Config, debug: bool, log_format: str, *, quiet: bool = False) -> None:
    """Logs to stderr, JSON unless a person is watching; no secret of the configuration ever appears in them."""
    style: logs.Style = (
        "console" if log_format == "console" or (log_format == "auto" and sys.stderr.isatty()) else "json"
    )
    logs.configure(style, "debug" if debug else "error" if quiet else "info", sys.stderr, config.secrets)
    quiet_client_loggers()
    for finding in client_findings():
        logs.get_logger(__name__).warning(finding)


async def _online(config: Config) -> list[Row]:
    connections = Connections()
    try:
        found = await asyncio.gather(_kafka(config), *(_provider(section, connections) for section in config.sources))
    finally:
        await connections.close()
    return [row for rows in found for row in rows]


async def _kafka(config: Config) -> list[Row]:
    plan = assembly.topic_plan(config)
    try:
        lacking = await missing_rights(config.kafka, plan)
    except BridgeError as error:
        return [Row("kafka", False, str(error))]
    rows = [Row(resource, False, message) for resource, message in lacking]
    try:
        cluster = await inspect(config.kafka, plan)
    except BridgeError as error:
        return [*rows, Row("kafka", False, str(error))]
    invisible = {resource for resource, _ in lacking}
    rows.append(Row("kafka", True, f"reached {config.kafka.servers}, cluster {cluster.id}"))
    for finding in cluster.findings:
        if finding.level == "missing" and finding.topic in invisible:
            continue  # Kafka does not list what may not be seen
        missing_is_fine = finding.level == "missing" and config.kafka.create_topics
        message = f"{finding.message}; will be created at start" if missing_is_fine else finding.message
        bad = finding.level == "wrong" or (finding.level == "missing" and not missing_is_fine)
        rows.append(Row(finding.topic, False if bad else True if finding.level == "ok" else None, message))
    return rows


async def _provider(section: SourceSection, connections: Connections) -> Sequence[Row]:
    source = assembly.build_source(section, SystemClock(), SilentObserver(), connections)
    try:
        await source.login()
    except BridgeError as error:
        return [Row(section.id, False, str(error))]
    finally:
        await source.close()
    return [Row(section.id, True, f"logged in to {section.provider} account {section.account}")]


class SilentObserver:
    """Counts nothing. Implements `RequestObserver`."""

    def request(self, endpoint: str, status: int | None, seconds: float) -> None:
        """Ignored."""

    def throttled(self, seconds: float) -> None:
        """Ignored."""

    def budget_remaining(self, value: float) -> None:
        """Ignored."""


def _show(rows: Sequence[Row]) -> None:
    table = Table("subject", "", "finding", box=None, pad_edge=False)
    marks = {True: "[green]ok[/]", False: "[red]wrong[/]", None: "[yellow]note[/]"}
    for row in rows:
        table.add_row(escape(row.subject), marks[row.ok], escape(row.message))
    Console(soft_wrap=True).print(table)
