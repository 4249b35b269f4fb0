"""`bridge tail`: follow the events, readable. Without `--values` it prints no personal data."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click

from bridge import assembly
from bridge.cli.loop import run_async
from bridge.cli.output import JSON, safe_json
from bridge.cli.service import CONFIG, configure_logs
from bridge.clock import Clock, SystemClock
from bridge.config import Config, load, parse_duration
from bridge.event.catalog import CATALOG
from bridge.publish.reading import Message, read_topics
from bridge.verify.event import NotAnEvent, SeenEvent, decode
from bridge.verify.verdict import printable

Since = Literal["beginning", "latest"] | int


@click.command(epilog="Example:  bridge tail -c bridge.toml customer.renamed 'tag.*' --from 15m")
@CONFIG
@click.argument("types", metavar="[TYPE]...", nargs=-1)
@click.option("--from", "since", default="latest", show_default=True, help="beginning, latest, or a time ago: 15m, 2h.")
@click.option("-n", "--limit", type=click.IntRange(1), help="Stop after so many events.")
@click.option("--no-follow", is_flag=True, help="Stop at the end of what is there now.")
@click.option("--values", is_flag=True, help="Also show old and new values (personal data).")
@JSON
@click.pass_obj
def tail(
    debug: bool,
    path: Path,
    types: tuple[str, ...],
    since: str,
    limit: int | None,
    no_follow: bool,
    values: bool,
    as_json: bool,
) -> None:
    """Follow events until Ctrl-C: time, type, key, number, what changed. TYPE may have wildcards."""
    config = load(path)
    configure_logs(config, debug, "auto", quiet=True)
    wanted = _types(types)
    line = _json_line if as_json else partial(_line, values=values)
    moment = _since(since, SystemClock())
    with suppress(KeyboardInterrupt):
        run_async(_tail(config, moment, wanted, limit, not no_follow, line))


async def _tail(
    config: Config,
    since: Since,
    wanted: frozenset[str] | None,
    limit: int | None,
    follow: bool,
    line: Callable[[Message, SeenEvent], str],
) -> None:
    shown = 0
    async with aclosing(_events(config, since, follow)) as events:
        async for message, event in events:
            if wanted is not None and event.type not in wanted:
                continue
            click.echo(line(message, event))
            shown += 1
            if shown == limit:
                return


async def _events(config: Config, since: Since, follow: bool) -> AsyncGenerator[tuple[Message, SeenEvent], None]:
    plan = assembly.topic_plan(config)
    messages = read_topics(config.kafka, plan.event_topics, SystemClock(), since=since, follow=follow)
    async with aclosing(messages):
        async for message in messages:
            try:
                yield message, decode(message)
            except NotAnEvent as error:
                where = f"{message.topic}-{message.partition}@{message.offset}"
                click.echo(f"the record at {where} is no event: {error}", err=True)


def _types(patterns: tuple[str, ...]) -> frozenset[str] | None:
    """The full types that these short or full names, with or without wildcards, stand for; None: all."""
    if not patterns:
        return None
    found: set[str] = set()
    names = [name for kind in CATALOG for name in (kind.name, kind.type)]
    for pattern in patterns:
        hits = {
            kind.type
            for kind in CATALOG
            if fnmatch.fnmatchcase(kind.name, pattern) or fnmatch.fnmatchcase(kind.type, pattern)
        }
        if not hits:
            near = difflib.get_close_matches(pattern, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(kind.name for kind in CATALOG)}"
            raise click.UsageError(f"no event type is called {printable(pattern)}; {hint}")
        found |= hits
    return frozenset(found)


def _since(text: str, clock: Clock) -> Since:
    if text == "beginning":
        return "beginning"
    if text == "latest":
        return "latest"
    try:
        return int((clock.wall() - parse_duration(text)) * 1000)
    except ValueError:
        raise click.UsageError(f"--from {printable(text)}: say beginning, latest, or a time ago such as 15m") from None


def _line(message: Message, event: SeenEvent, *, values: bool) -> str:
    """One event for people."""
    when = datetime.fromtimestamp(message.timestamp_ms / 1000).strftime("%Y-%m-%d %H:%M:%S")
    name = event.type.removeprefix("bridge.").removesuffix(".v1")
    key = printable(f"{event.source}/{event.uid}")
    pointers = event.data.get("changed")
    what = "  ".join(_change(event, str(pointer), values) for pointer in pointers or ())
    if isinstance(tag := event.data.get("tag"), dict):
        what += f"  {printable(str(tag.get('uid')))}"  # not its name: that may say something about a person
    if isinstance(into := event.data.get("into"), str):
        what += f"  into {printable(into)}"
    return f"{when}  {name:<18} {key}  #{event.sequence}  {what}".rstrip()


def _change(event: SeenEvent, pointer: str, values: bool) -> str:
    if not values:
        return printable(pointer)
    old, new = (printable(safe_json(_at(body, pointer))) for body in (event.before, event.after))
    return f"{printable(pointer)}: {old} → {new}"


def _at(body: Any, pointer: str) -> Any:
    """The value at a JSON Pointer, None when there is none. `Any`: JSON."""
    for part in pointer.split("/")[1:]:
        if not isinstance(body, dict):
            return None
        body = body.get(part.replace("~1", "/").replace("~0", "~"))
    return body


def _json_line(message: Message, event: SeenEvent) -> str:
    where = {"topic": message.topic, "partition": message.partition, "offset": message.offset}
    return safe_json(
        {**where, "timestamp_ms": message.timestamp_ms, "type": event.type, "id": event.id, "data": event.data}
    )
