"""`bridge resync | pause | resume | approve`: signals to the owner of a source, through the inbox."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bridge.cli.loop import run_async
from bridge.cli.output import JSON
from bridge.cli.sending import command_of, section_of, send, sending_of, sending_options, unknown
from bridge.cli.service import CONFIG, configure_logs
from bridge.clock import SystemClock
from bridge.commands.command import SIGNALS, Kind, SignalKind
from bridge.config import load

_DOES = {
    Kind.RESYNC: "Read everything of a source, or of one COLLECTION, again, now.",
    Kind.PAUSE: "Ask a provider nothing about a source, or one COLLECTION, until it is resumed.",
    Kind.RESUME: "Go on with what was paused, at once.",
    Kind.APPROVE: "Let deletions go that are held because they are many; those that are still missing.",
}


def command(kind: SignalKind) -> click.Command:
    """The command of one signal."""

    @click.command(kind.value, help=_DOES[kind], epilog=f"Example:  bridge {kind} -c bridge.toml acme customers --wait")
    @CONFIG
    @click.argument("source")
    @click.argument("collection", required=False)
    @sending_options
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
        names = [name.value for name in section_of(config, source).collections]
        if collection is not None and collection not in names:
            raise unknown(f"collection of {source}", collection, names)
        clock = SystemClock()
        signal = command_of(kind, source, {"collection": collection}, id_, clock)
        sys.exit(run_async(send(config, signal, sending_of(wait, timeout, id_, as_json), clock)))

    return run


COMMANDS = [command(kind) for kind in SIGNALS]
