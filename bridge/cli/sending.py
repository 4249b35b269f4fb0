"""Sending: what the commands that go through the inbox have in common: how they are sent, and how they are answered."""

from __future__ import annotations

import asyncio
import difflib
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
import orjson

from bridge import assembly
from bridge.cli.errors import EXIT_FAILED
from bridge.clock import Clock
from bridge.commands.command import (
    ID_PATTERN,
    MIRRORED,
    Command,
    Kind,
    Refusal,
    collection_of,
    encode,
    mirror_of,
    parse,
)
from bridge.commands.outcome import Outcome, Result
from bridge.config import Config, SourceSection, parse_duration
from bridge.errors import ConfigurationError
from bridge.model import iso
from bridge.publish.send import InboxSender, Outcomes
from bridge.verify.verdict import printable

TIMEOUT = "30s"
"""Of `--wait`: a take-over after a kill takes the session (10 s), the rest is quick."""

SHOWN_MAX = 10
"""Uids that a line for people names; `--json` has more."""

_OPTIONS = (
    click.option("--wait", is_flag=True, help="Wait for the outcome; exit code 1 unless it was applied."),
    click.option("--timeout", default=TIMEOUT, show_default=True, help="How long to wait."),
    click.option("--id", "id_", help="An id of your own: sent again, it is still done only once."),
)


@dataclass(frozen=True, slots=True)
class Sending:
    """How a command is sent. timeout_s: for its outcome; None: it is not waited for. repeated: its id may be used."""

    timeout_s: float | None
    repeated: bool
    as_json: bool


def sending_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--wait`, `--timeout` and `--id`. `Any`: as in click."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def sending_of(wait: bool, timeout: str, id_: str | None, as_json: bool) -> Sending:
    """What these options say."""
    return Sending(seconds(timeout, "--timeout") if wait else None, id_ is not None, as_json)


def section_of(config: Config, source: str) -> SourceSection:
    """Raises `ConfigurationError` for a source that the configuration does not know."""
    section = next((section for section in config.sources if section.id == source), None)
    if section is None:
        raise unknown("source", source, [section.id for section in config.sources])
    return section


def command_of(kind: Kind, source: str, fields: Mapping[str, Any], id_: str | None, clock: Clock) -> Command:
    """What is sent. Raises `UsageError` for what its owner would refuse. `Any`: JSON."""
    sent_at = iso(int(clock.wall() * 1_000_000))
    value = {"id": id_ or uuid.uuid4().hex, "kind": kind, "source": source, "sent_at": sent_at, **fields}
    if id_ is not None and re.fullmatch(ID_PATTERN, id_, re.ASCII) is None:
        raise click.UsageError(f"--id {printable(id_)}: does not match {ID_PATTERN}")
    if id_ is not None and mirror_of(id_) is not None:
        raise click.UsageError(f"--id {printable(id_)}: those that begin with {MIRRORED} are the bridge's own")
    try:
        found = parse(source.encode(), orjson.dumps(value))
    except (orjson.JSONEncodeError, UnicodeEncodeError):
        raise click.UsageError("an argument is no Unicode text") from None
    if isinstance(found, Refusal):
        raise click.UsageError(f"no such command can be sent: {printable(found.detail)}")
    return found


async def send(config: Config, command: Command, sending: Sending, clock: Clock) -> int:
    """The exit code."""
    plan = assembly.topic_plan(config)
    async with InboxSender(config.kafka, plan.inbox) as sender:
        if sending.timeout_s is None:
            await sender.send(command.source, encode(command))
            _tell_sent(command, sending)
            return 0
        async with Outcomes(config.kafka, plan.outcomes, clock) as outcomes:
            await outcomes.note(command.id, from_beginning=sending.repeated)
            await sender.send(command.source, encode(command))
            _tell_sent(command, sending)
            try:
                async with asyncio.timeout(sending.timeout_s):
                    value = await outcomes.answer(command.id)
            except TimeoutError:
                click.echo(
                    f"no outcome within {sending.timeout_s:g} s; the command is in the inbox and will be done once a "
                    f"bridge runs. Ask again with: --id {command.id} --wait",
                    err=True,
                )
                return EXIT_FAILED
    return _tell_outcome(command, Outcome.model_validate_json(value), sending)


def unknown(what: str, name: str, known: Sequence[str]) -> ConfigurationError:
    """Something that the configuration does not know, with the nearest that it does."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"
    return ConfigurationError(f"no {what} is called {printable(name)}; {hint}")


def seconds(text: str, option: str) -> float:
    """Of a duration. Raises `UsageError`."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.UsageError(f"{option} {printable(text)}: {error}") from None


def _tell_sent(command: Command, sending: Sending) -> None:
    click.echo(orjson.dumps(command.model_dump(mode="json")).decode() if sending.as_json else command.id)


def _tell_outcome(command: Command, outcome: Outcome, sending: Sending) -> int:
    if sending.as_json:
        click.echo(outcome.encode().decode())
    else:
        for line in _lines(outcome):
            click.echo(printable(line))
    asked = (command.kind, command.source, collection_of(command), command.digest)
    if asked != (outcome.kind, outcome.source, outcome.collection, outcome.digest or command.digest):
        click.echo(f"the id {command.id} was used for another command before; this one has no effect", err=True)
        return EXIT_FAILED
    return 0 if outcome.outcome is Result.APPLIED else EXIT_FAILED


def _lines(outcome: Outcome) -> list[str]:
    what = "/".join(filter(None, (outcome.source, outcome.collection)))
    count = f" ({outcome.count})" if outcome.count is not None else ""
    lines = [f"{outcome.outcome}: {outcome.kind or 'a command'} {what}: {outcome.detail}{count}"]
    for others in outcome.others:
        more = ", …" if others.count > min(len(others.uids), SHOWN_MAX) else ""
        lines.append(f"{others.why} ({others.count}): {', '.join(others.uids[:SHOWN_MAX])}{more}")
    return lines
