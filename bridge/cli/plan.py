"""`bridge plan`: what this configuration and this release would publish, without publishing it."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import click
from rich.console import Console

from bridge import assembly
from bridge.cli.loop import run_async
from bridge.cli.output import JSON, progress_on, safe_json
from bridge.cli.service import CONFIG, SilentObserver, configure_logs
from bridge.cli.verify import chosen
from bridge.clock import Clock, SystemClock
from bridge.config import Config, SourceSection, load
from bridge.errors import EnvironmentUnavailable
from bridge.publish.partitioner import partition_of
from bridge.publish.statelog import restore
from bridge.publish.topics import TopicPlan, inspect
from bridge.runtime.planning import Planned, plan_source
from bridge.store.sqlite import SqliteStore
from bridge.verify.verdict import printable

SAMPLES = 3
"""Of each type of event; enough to see what a change looks like."""

Progress = Callable[[str, int, int], None]


@click.command(epilog="Example:  bridge plan -c bridge.toml --source acme")
@CONFIG
@click.option("--source", help="Only this source.")
@click.option("--samples", type=click.IntRange(0), default=SAMPLES, show_default=True, help="Of each type of event.")
@JSON
@click.pass_obj
def plan(debug: bool, path: Path, source: str | None, samples: int, as_json: bool) -> None:
    """Say what this configuration and this release would publish now; nothing is published or stored.

    Reads every provider completely, within the budget of its source, and compares with the state in Kafka. Changes
    that a running bridge has not published yet count, too. Samples show keys and which fields changed, never values.
    """
    config = load(path)
    configure_logs(config, debug, "auto", quiet=True)
    sections = chosen(config, source)
    planned = run_async(_plan(config, sections, samples, SystemClock()))
    if as_json:
        for each in planned:
            click.echo(safe_json(_as_json(each)))
    else:
        _show(planned, Console(soft_wrap=True, highlight=False))


async def _plan(config: Config, sections: Sequence[SourceSection], samples: int, clock: Clock) -> list[Planned]:
    """A scratch copy of one shard at a time; it holds personal data, so only its owner may look, and it is removed."""
    topics = assembly.topic_plan(config)
    topics = topics.sized(await inspect(config.kafka, topics))
    shards: dict[int, list[SourceSection]] = {}
    for section in sections:
        shards.setdefault(partition_of(section.id.encode(), topics.shards), []).append(section)
    planned: list[Planned] = []
    with progress_on(Console(stderr=True), "plan") as progress:
        for shard, group in sorted(shards.items()):
            try:
                with tempfile.TemporaryDirectory(prefix="bridge-plan-") as folder:
                    planned += await _shard(config, topics, (shard, group), (samples, progress), Path(folder), clock)
            except (OSError, sqlite3.Error) as error:
                raise EnvironmentUnavailable(
                    f"the scratch copy of the state in {tempfile.gettempdir()} cannot be used "
                    f"({type(error).__name__}); set TMPDIR to a folder with space"
                ) from error
    order = [section.id for section in sections]
    return sorted(planned, key=lambda each: order.index(each.source))


async def _shard(
    config: Config,
    topics: TopicPlan,
    work: tuple[int, Sequence[SourceSection]],
    shown: tuple[int, Progress],
    folder: Path,
    clock: Clock,
) -> list[Planned]:
    """work: the shard's number and its sources. shown: how many samples, and where to tell how far it is."""
    shard, sections = work
    samples, progress = shown
    store = SqliteStore.open(folder / "state.sqlite", {"shard": str(shard)}, clock, age_s_max=float("inf"))
    try:
        await restore(config.kafka, topics.state, shard, store, clock, lambda *at: progress(f"state-{shard}", *at))
        planned: list[Planned] = []
        for section in sections:
            source = assembly.build_source(section, clock, SilentObserver())
            try:
                reader = assembly.build_reader(config, section, source, clock)
                planned += await plan_source(reader, store, topics, samples, progress)
            finally:
                await source.close()
        return planned
    finally:
        store.close()


def _as_json(planned: Planned) -> dict[str, object]:
    shown = {field.name: getattr(planned, field.name) for field in fields(planned)}
    samples = [sample._asdict() for sample in planned.samples]
    return {**shown, "events": dict(planned.events), "refused": dict(planned.refused), "samples": samples}


def _show(planned: Sequence[Planned], console: Console) -> None:
    for each in planned:
        if each.note is not None:
            console.print(f"{each.source} {each.collection}: {each.note}", markup=False)
            continue
        console.print(f"{each.source} {each.collection}: {each.read:,} read", markup=False)
        for line in _lines(each):
            console.print(f"  {line}", markup=False)
    console.print(_summary(planned), markup=False)


def _summary(planned: Sequence[Planned]) -> str:
    events = sum(each.events.total() for each in planned)
    others = {
        "re-based without an event": sum(each.rebased for each in planned),
        "stored without an event": sum(each.stored for each in planned),
        "dead letters": sum(each.refused.total() for each in planned),
        "deletions to be confirmed": sum(each.missing for each in planned),
    }
    parts = [f"{events:,} events", *(f"{count:,} {what}" for what, count in others.items() if count)]
    nothing = events == 0 and len(parts) == 1
    return "It would publish nothing." if nothing else f"It would come to {', '.join(parts)}."


def _lines(planned: Planned) -> list[str]:
    lines: list[str] = []
    for name, count in sorted(planned.events.items()):
        lines.append(f"{name}  {count:,}")
        for sample in planned.samples:
            if sample.type == name:
                lines.append(f"  {printable(sample.key)}  {' '.join(map(printable, sample.changed))}".rstrip())
    if planned.rebased:
        lines.append(f"re-based without an event  {planned.rebased:,}")
    if planned.stored:
        lines.append(f"stored without an event  {planned.stored:,}")
    lines += [f"dead letter, {reason}  {count:,}" for reason, count in sorted(planned.refused.items())]
    if planned.missing:
        held = "; held until a person approves" if planned.held else ""
        lines.append(f"deletions to be confirmed  {planned.missing:,}{held}")
        lines += [f"  {printable(key)}" for key in planned.missing_keys]
    return lines
