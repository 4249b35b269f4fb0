"""`bridge verify`: the proof, for people and for scripts; the demo ends with it too."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from bridge import assembly
from bridge.cli.errors import EXIT_FAILED
from bridge.cli.loop import run_async
from bridge.cli.output import JSON, progress_on, safe_json
from bridge.cli.service import CONFIG, SilentObserver, configure_logs
from bridge.clock import Clock, SystemClock
from bridge.config import Config, SourceSection, load
from bridge.errors import ConfigurationError
from bridge.model import Collection
from bridge.source.memberships import MembershipReader
from bridge.verify.memberships import compare_memberships
from bridge.verify.online import KafkaStateView, compare
from bridge.verify.reading import WAIT_S
from bridge.verify.reading import verify as verify_kafka
from bridge.verify.report import as_json as verdict_json
from bridge.verify.report import show
from bridge.verify.told import ToldReader
from bridge.verify.verdict import Verdict, joined, printable


@click.command(epilog="Example:  bridge verify -c bridge.toml --online")
@CONFIG
@click.option("--source", help="Only this source.")
@click.option("--online", is_flag=True, help="Also compare the state with what the providers show.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0),
    default=WAIT_S,
    show_default=True,
    help="Seconds for what is under way.",
)
@JSON
@click.pass_obj
def verify(debug: bool, path: Path, source: str | None, online: bool, wait_s: float, as_json: bool) -> None:
    """Prove from Kafka that no event is missing, doubled or wrong; the bridge may be running.

    Exit code 1 when an invariant is broken.
    """
    config = load(path)
    configure_logs(config, debug, "auto", quiet=True)
    clock = SystemClock()
    sys.exit(run_async(prove(config, clock, source=source, online=online, as_json=as_json, wait_s=wait_s)))


async def prove(
    config: Config,
    clock: Clock,
    *,
    source: str | None = None,
    online: bool = False,
    as_json: bool = False,
    wait_s: float = WAIT_S,
) -> int:
    """Verify and report on stdout, progress on stderr; the exit code."""
    sections = [section for section in config.sources if source in (None, section.id)]
    if source is not None and not sections and online:
        raise _unknown_source(config, source)
    with progress_on(Console(stderr=True), "verify") as progress:
        plan = assembly.topic_plan(config)
        verdicts = [await verify_kafka(config.kafka, plan, clock, progress, source=source, wait_s=wait_s)]
        if source is not None and not sections and not verdicts[0].figures["sources"]:
            raise _unknown_source(config, source)
        if online:
            for section in sections:
                verdicts += await _compare(config, section, clock, progress, wait_s)
    verdict = joined(verdicts)
    if as_json:
        click.echo(safe_json(verdict_json(verdict)))
    else:
        show(verdict, Console(soft_wrap=True))
    return 0 if verdict.ok else EXIT_FAILED


async def _compare(
    config: Config, section: SourceSection, clock: Clock, progress: Callable[[str, int, int], None], wait_s: float
) -> list[Verdict]:
    """One source against its provider."""
    source = assembly.build_source(section, clock, SilentObserver())
    try:
        verdicts = []
        for collection in section.collections:
            if collection is Collection.MEMBERSHIPS:
                look = partial(_view, config, section.id, clock)
                reader: MembershipReader | None = source.memberships
                if reader is None and source.glances is not None:
                    reader = ToldReader(source.feeds[Collection.CUSTOMERS], source.glances)
                assert reader is not None, "memberships that are to be read are told by somebody"
                verdicts.append(await compare_memberships(section.id, reader, look, clock, progress, wait_s=wait_s))
                continue
            view = partial(_view, config, section.id, clock, collection)
            feed = source.feeds[collection]
            verdicts.append(await compare(section.id, feed, view, clock, progress, wait_s=wait_s))
        return verdicts
    finally:
        await source.close()


def chosen(config: Config, source: str | None) -> list[SourceSection]:
    """The configured sources, or the one that is named. Raises `ConfigurationError` when there is none of that name."""
    sections = [section for section in config.sources if source in (None, section.id)]
    if source is not None and not sections:
        raise _unknown_source(config, source)
    return sections


def _view(config: Config, source: str, clock: Clock, collection: Collection) -> KafkaStateView:
    return KafkaStateView(config.kafka, assembly.topic_plan(config), source, collection, clock)


def _unknown_source(config: Config, source: str) -> ConfigurationError:
    names = [section.id for section in config.sources]
    near = difflib.get_close_matches(source, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names) or 'none'}"
    return ConfigurationError(f"no source is called {printable(source)}; {hint}")
