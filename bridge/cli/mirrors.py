"""`bridge mirrors`: the rules, what became of their commands, and who has nobody on the other side."""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import click
from pydantic import ValidationError

from bridge import assembly
from bridge.cli.loop import run_async
from bridge.cli.output import JSON, safe_json
from bridge.cli.sending import seconds
from bridge.cli.service import CONFIG, configure_logs
from bridge.clock import SystemClock
from bridge.commands.command import mirror_of
from bridge.commands.outcome import Outcome, Why
from bridge.config import Config, MirrorSection, load
from bridge.publish.reading import read_topics
from bridge.verify.verdict import printable

Begin = Literal["beginning"] | int
"""From when on outcomes are read, in milliseconds since 1970."""

LISTED_MAX = 10_000
"""Unmatched customers of one mirror, the last ones; of more there is only the count."""


@dataclass(slots=True)
class Seen:
    """What outcomes say of one mirror. unmatched: uids of customers of `from`, the last ones last."""

    outcomes: Counter[str] = field(default_factory=Counter)
    customers: int = 0
    missed: Counter[str] = field(default_factory=Counter)
    unmatched: dict[str, None] = field(default_factory=dict)

    def take(self, outcome: Outcome) -> None:
        """An outcome of its commands."""
        self.outcomes[outcome.outcome.value] += 1
        self.customers += outcome.count or 0
        for other in outcome.others:
            self.missed[other.why.value] += other.count
            if other.why is Why.UNMATCHED:
                for uid in other.uids:
                    self.unmatched.pop(uid, None)
                    self.unmatched[uid] = None
        while len(self.unmatched) > LISTED_MAX:
            del self.unmatched[next(iter(self.unmatched))]


@click.command(epilog="Example:  bridge mirrors -c bridge.toml --since 1d --unmatched")
@CONFIG
@click.option("--since", metavar="TIME", help="Only what was answered this time ago or later: 15m, 2h, 7d.")
@click.option("--unmatched", is_flag=True, help="List the customers that have nobody on the other side, by uid.")
@JSON
@click.pass_obj
def mirrors(debug: bool, path: Path, since: str | None, unmatched: bool, as_json: bool) -> None:
    """Show each mirror: how many customers it has tagged or untagged, how many not, and why."""
    config = load(path)
    configure_logs(config, debug, "auto", quiet=True)
    begin: Begin = "beginning" if since is None else int((SystemClock().wall() - seconds(since, "--since")) * 1000)
    seen = run_async(_seen(config, begin))
    if not config.mirrors and not as_json:
        click.echo("there are none; [[mirrors]] in the configuration makes one", err=True)
    for mirror in config.mirrors:
        _show(mirror, seen[mirror.name], unmatched, as_json)


async def _seen(config: Config, begin: Begin) -> dict[str, Seen]:
    found = {mirror.name: Seen() for mirror in config.mirrors}
    topic = assembly.topic_plan(config).outcomes
    async with aclosing(read_topics(config.kafka, [topic], SystemClock(), since=begin)) as messages:
        async for message in messages:
            mirror = mirror_of((message.key or b"").decode("utf-8", "replace"))
            if mirror in found and message.value is not None:
                with suppress(ValidationError):  # anybody may write into a topic
                    found[mirror].take(Outcome.model_validate_json(message.value))
    return found


def _show(mirror: MirrorSection, seen: Seen, unmatched: bool, as_json: bool) -> None:
    ends = [":".join(mirror.from_), ":".join(mirror.to)]
    if as_json:
        listed = {"unmatched": list(seen.unmatched)} if unmatched else {}
        fields = {"mirror": mirror.name, "from": ends[0], "to": ends[1], "customers": seen.customers}
        click.echo(safe_json({**fields, "missed": dict(seen.missed), "commands": dict(seen.outcomes), **listed}))
        return
    missed = "".join(f", {count} {why}" for why, count in sorted(seen.missed.items()))
    commands = ", ".join(f"{count} {outcome}" for outcome, count in sorted(seen.outcomes.items())) or "none"
    click.echo(
        printable(f"{mirror.name}  {ends[0]} -> {ends[1]}  {seen.customers} customers{missed}  commands: {commands}")
    )
    if unmatched:
        for uid in seen.unmatched:
            click.echo(f"  {printable(uid)}")
