"""`bridge resync | pause | resume | approve`: signals to the owner of a source, through the inbox."""

from __future__ import annotations

import asyncio
import difflib
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import orjson

from bridge import assembly
from bridge.cli.errors import EXIT_FAILED
from bridge.cli.loop import run_async
from bridge.cli.output import JSON
from bridge.cli.service import CONFIG, configure_logs
from bridge.clock import Clock, SystemClock
from bridge.commands.command import ID_PATTERN, SIGNALS, Kind, Signal, SignalKind, encode
from bridge.commands.outcome import Outcome, Result
from bridge.config import Config, load, parse_duration
from bridge.errors import ConfigurationError
from bridge.model import Collection, iso
from bridge.publish.send import InboxSender, Outcomes
from bridge.verify.verdict import printable

TIMEOUT = "30s"
"""Of `--wait`: a take-over after a kill takes the session (10 s), the rest is quick."""

_DOES = {
    Kind.RESYNC: "Read everything of a source, or of one COLLECTION, again, now.",
    Kind.PAUSE: "Ask a provider nothing about a source, or one COLLECTION, until it is resumed.",
    Kind.RESUME: "Go on with what was paused, at once.",
    Kind.APPROVE: "Let deletions go that are held because they are many; those that are still missing.",
}


@dataclass(frozen=True, slots=True)
class Sending:
    """How a signal is sent. timeout_s: for its outcome; None: it is not waited for. repeated: its id may be used."""

    timeout_s: float | None
    repeated: bool
    as_json: bool


def command(kind: SignalKind) -> click.Command:
    """The command of one signal."""

    @click.command(kind.value, help=_DOES[kind], epilog=f"Example:  bridge {kind} -c bridge.toml acme customers --wait")
    @CONFIG
    @click.argument("source")
    @click.argument("collection", required=False)
    @click.option("--wait", is_flag=True, help="Wait for the outcome; exit code 1 unless it was applied.")
    @click.option("--timeout", default=TIMEOUT, show_default=True, help="How long to wait.")
    @click.option("--id", "id_", help="An id of your own: sent again, it is still done only once.")
    @JSON
    @click.pass_obj
    def run(
        debug: bool,
        path: Path,
        source: str,
        collection: str | None,
        wait: bool,
        timeout: str,
        id_: str | None,
        as_json: bool,
    ) -> None:
        config = load(path)
        configure_logs(config, debug, "auto", quiet=True)
        clock = SystemClock()
        signal = _signal(config, kind, source, collection, id_, clock)
        sending = Sending(_seconds(timeout) if wait else None, id_ is not None, as_json)
        sys.exit(run_async(_send(config, signal, sending, clock)))

    return run


COMMANDS = [command(kind) for kind in SIGNALS]


async def _send(config: Config, signal: Signal, sending: Sending, clock: Clock) -> int:
    """The exit code."""
    plan = assembly.topic_plan(config)
    async with InboxSender(config.kafka, plan.inbox) as sender:
        if sending.timeout_s is None:
            await sender.send(signal.source, encode(signal))
            _tell_sent(signal, sending)
            return 0
        async with Outcomes(config.kafka, plan.outcomes, clock) as outcomes:
            await outcomes.note(signal.id, from_beginning=sending.repeated)
            await sender.send(signal.source, encode(signal))
            _tell_sent(signal, sending)
            try:
                async with asyncio.timeout(sending.timeout_s):
                    value = await outcomes.answer(signal.id)
            except TimeoutError:
                click.echo(
                    f"no outcome within {sending.timeout_s:g} s; the command is in the inbox and will be done once a "
                    f"bridge runs. Ask again with: --id {signal.id} --wait",
                    err=True,
                )
                return EXIT_FAILED
    return _tell_outcome(signal, Outcome.model_validate_json(value), sending)


def _tell_sent(signal: Signal, sending: Sending) -> None:
    if sending.as_json:
        click.echo(orjson.dumps(signal.model_dump(mode="json")).decode())
    else:
        click.echo(signal.id)


def _tell_outcome(signal: Signal, outcome: Outcome, sending: Sending) -> int:
    click.echo(outcome.encode().decode() if sending.as_json else _line(outcome))
    asked = (signal.kind, signal.source, signal.collection)
    if asked != (outcome.kind, outcome.source, outcome.collection):
        click.echo(f"the id {signal.id} was used for another command before; this one has no effect", err=True)
        return EXIT_FAILED
    return 0 if outcome.outcome is Result.APPLIED else EXIT_FAILED


def _line(outcome: Outcome) -> str:
    what = "/".join(filter(None, (outcome.source, outcome.collection)))
    count = f" ({outcome.count})" if outcome.count is not None else ""
    return printable(f"{outcome.outcome}: {outcome.kind or 'a command'} {what}: {outcome.detail}{count}")


def _signal(
    config: Config, kind: SignalKind, source: str, collection: str | None, id_: str | None, clock: Clock
) -> Signal:
    """What is sent. Raises `ConfigurationError` for what the configuration does not know."""
    section = next((section for section in config.sources if section.id == source), None)
    if section is None:
        raise _unknown("source", source, [section.id for section in config.sources])
    names = [name.value for name in section.collections]
    if collection is not None and collection not in names:
        raise _unknown(f"collection of {source}", collection, names)
    fields = {
        "id": id_ or uuid.uuid4().hex,
        "kind": kind,
        "source": source,
        "collection": None if collection is None else Collection(collection),
        "sent_at": iso(int(clock.wall() * 1_000_000)),
    }
    try:
        return Signal.model_validate(fields)
    except ValueError:
        raise click.UsageError(f"--id {printable(id_ or '')}: does not match {ID_PATTERN}") from None


def _unknown(what: str, name: str, known: Sequence[str]) -> ConfigurationError:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"
    return ConfigurationError(f"no {what} is called {printable(name)}; {hint}")


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.UsageError(f"--timeout {printable(text)}: {error}") from None
