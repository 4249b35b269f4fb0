"""`bridge topics`: the declared topics against the cluster; the only command besides `run` that creates any."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bridge import assembly
from bridge.cli.errors import EXIT_ENVIRONMENT
from bridge.cli.loop import run_async
from bridge.cli.output import JSON
from bridge.cli.service import CONFIG
from bridge.config import load
from bridge.publish.topics import ensure, inspect


@click.command(epilog="Example:  bridge topics -c bridge.toml --create")
@CONFIG
@click.option("--create", is_flag=True, help="Create what is missing; nothing is ever altered.")
@JSON
def topics(path: Path, create: bool, as_json: bool) -> None:
    """Compare the declared topics with the cluster; exit code 3 when one is missing or wrong."""
    config = load(path)
    plan = assembly.topic_plan(config)
    cluster = run_async(ensure(config.kafka, plan, True) if create else inspect(config.kafka, plan))
    if as_json:
        for finding in cluster.findings:
            click.echo(orjson.dumps(finding._asdict()).decode())
    else:
        table = Table("topic", "", "finding", box=None, pad_edge=False)
        colours = {"ok": "green", "created": "green", "differs": "yellow", "missing": "red", "wrong": "red"}
        for finding in cluster.findings:
            level = f"[{colours[finding.level]}]{finding.level}[/]"
            table.add_row(finding.topic, level, escape(finding.message))
        Console(soft_wrap=True).print(table)
    if any(finding.level in ("missing", "wrong") for finding in cluster.findings):
        sys.exit(EXIT_ENVIRONMENT)
