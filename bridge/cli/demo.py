"""`bridge demo`: the whole thing on one machine: a real Kafka, two providers whose customers live, the bridge, a view.

Everything is what a user would run, only in one process: the sandbox serves HTTP, the bridge polls it, a service sends
commands into the inbox, the view reads Kafka like any consumer. At the end the worlds stand still, the bridge catches
up and drains, and `verify` has the last word.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.live import Live

from bridge import assembly
from bridge.cli.acting import Desk, Services
from bridge.cli.live import Tally, answer_line, counts_table, latency_line, screen
from bridge.cli.loop import run_async, stop_on_signals
from bridge.cli.service import configure_logs
from bridge.cli.verify import prove
from bridge.clock import SystemClock
from bridge.config import BridgeSection, Config, HttpSection, MirrorSection, SourceSection
from bridge.errors import EnvironmentUnavailable
from bridge.model import Collection
from bridge.publish.reading import read_topics
from bridge.publish.settings import KafkaSettings
from bridge.runtime.tasks import first_leaf

if TYPE_CHECKING:
    from bridge.sandbox.world import World

RATES = {
    "sign_up": 60.0,
    "edit": 240.0,
    "rename": 20.0,
    "delete": 20.0,
    "tag": 40.0,
    "untag": 30.0,
    "tag_create": 15.0,
    "tag_delete": 4.0,
    "user_create": 6.0,
    "user_edit": 15.0,
    "user_delete": 4.0,
}
"""Changes per minute: every event type within a few seconds, and slow enough to read."""

REBILLY_RATES = {
    "sign_up": 30.0,
    "edit": 60.0,
    "tag": 10.0,
    "untag": 10.0,
    "merge": 10.0,
    "pay": 60.0,
    "tag_rename": 2.0,
}
"""The same at the other provider; here it is mostly services that tag."""

TAGGED_AT_ONCE = 200
"""Customers of one command; two of them are told as many events."""

SWEEP_INTERVAL_S = 10.0
"""So short that what no poll shows is complete by the end of a short demo, too."""

POLL_INTERVAL_S = 1.0
REFRESH_S = 0.25
CATCH_UP_S = 30.0
"""For the bridge to publish the last changes of the world."""

START_S = 60.0
"""From the start of the bridge to its first event."""


@click.command(epilog="Example:  bridge demo --seconds 60")
@click.option("--seconds", type=click.FloatRange(min=5), help="Stop by itself; until Ctrl-C otherwise.")
@click.option("--customers", type=click.IntRange(1, 200_000), default=2_000, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--bootstrap", envvar="KAFKA_BOOTSTRAP_SERVERS", help="Use this Kafka instead of starting one.")
@click.pass_obj
def demo(debug: bool, seconds: float | None, customers: int, seed: int, bootstrap: str | None) -> None:
    """Watch customers change at two providers and arrive as events in Kafka; nothing needs to be installed.

    A tag of the one is mirrored to the other, and a service sends commands: renames, and a tag for many.

    The first start resolves Kafka's jars, which takes about a minute.
    """
    sys.exit(run_async(_demo(debug, seconds, customers, seed, bootstrap)))


async def _demo(debug: bool, seconds: float | None, customers: int, seed: int, bootstrap: str | None) -> int:
    from bridge.sandbox.api import SandboxApi  # noqa: PLC0415
    from bridge.sandbox.http import serve  # noqa: PLC0415
    from bridge.sandbox.population.dialect import REBILLY  # noqa: PLC0415
    from bridge.sandbox.population.life import Rates, RebillyRates  # noqa: PLC0415
    from bridge.sandbox.rebilly.api import RebillyApi  # noqa: PLC0415
    from bridge.sandbox.rebilly.switches import RebillySwitches  # noqa: PLC0415
    from bridge.sandbox.switches import Switches  # noqa: PLC0415
    from bridge.sandbox.world import World, live  # noqa: PLC0415

    console = Console(soft_wrap=True)
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        servers = bootstrap or str(await stack.enter_async_context(_local_kafka(console)))
        _say(console, f"building twice {customers:,} customers (seed {seed})")
        switches, its = (
            Switches(timestamp_precision="milliseconds"),
            RebillySwitches(timestamp_precision="microseconds", merged_read="301"),
        )
        world = World(seed, customers, 20, Rates(), clock, rules=switches.rules())
        other = World(seed, customers, 20, RebillyRates(), clock, "org_demo", rules=its.rules(), dialect=REBILLY)
        dintero, rebilly = SandboxApi(world, switches, clock), RebillyApi(other, its, clock)
        url = await stack.enter_async_context(serve(dintero, rebilly))
        data_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bridge-demo-")))
        without_users = [Collection.CUSTOMERS, Collection.TAGS, Collection.MEMBERSHIPS]
        config = _config(
            servers,
            [(dintero.source(url), list(Collection)), (rebilly.source(url), without_users)],
            data_dir,
            _mirror(world, other),
        )
        configure_logs(config, debug, "console", quiet=not debug)
        bridge = assembly.build(config, clock)
        stop = asyncio.Event()
        stack.enter_context(stop_on_signals(stop.set))
        tally, desk = Tally(), Desk()
        services = Services(config, clock, lambda: _living(world), lambda: _living(other))
        bulk_tag = [uid for uid, tag in other.tags.items() if "type" not in tag][1]
        try:
            async with asyncio.TaskGroup() as group:
                running = group.create_task(bridge.run(), name="bridge")
                _say(console, "reading everything once")
                if not await _wait_ready(console, bridge, running, stop):
                    bridge.stop()
                    return 0
                watchers = [
                    group.create_task(_watch(config, tally, clock), name="consumer"),
                    group.create_task(desk.watch(config, clock), name="consumer of outcomes"),
                ]
                world.rates, other.rates = Rates(**RATES), RebillyRates(**REBILLY_RATES)
                living = [
                    group.create_task(live(world), name="world"),
                    group.create_task(live(other), name="the other world"),
                    group.create_task(services.act("acme", "billing", bulk_tag, TAGGED_AT_ONCE), name="services"),
                ]

                def learn() -> None:
                    for number, each in enumerate((world, other)):
                        tally.learn(number, each.truth.after(tally.truth_number(number)))

                try:
                    deadline = None if seconds is None else time.monotonic() + seconds
                    with _view(
                        console,
                        tally,
                        desk,
                        f"Kafka {servers}   providers {url}   metrics http://127.0.0.1:{bridge.probes.port}/",
                    ) as refresh:
                        while not stop.is_set() and (deadline is None or time.monotonic() < deadline):
                            learn()
                            refresh()
                            await asyncio.sleep(REFRESH_S)
                        for task in living:
                            task.cancel()
                        learn()
                        await _catch_up(bridge, desk, refresh)
                        learn()
                finally:
                    for task in (*living, *watchers):
                        task.cancel()
                    bridge.stop()
        except BaseExceptionGroup as error:
            raise first_leaf(error) from None
        return await _summary(console, config, tally, desk, clock)


@asynccontextmanager
async def _local_kafka(console: Console) -> AsyncIterator[str]:
    from bridge.sandbox.kafka import LocalKafka  # noqa: PLC0415

    kafka = LocalKafka()
    await kafka.start(lambda text: _say(console, text))
    try:
        yield kafka.bootstrap_servers
    finally:
        await kafka.stop()


def _living(world: World) -> list[str]:
    """Uids of the customers."""
    customers = world.customers
    return [customers.uids[row] for row in customers.live_row_of.values()]


def _mirror(world: World, other: World) -> MirrorSection:
    """Who gets the first tag here, gets the first one there, whatever they are called by then."""
    its = next(uid for uid, tag in other.tags.items() if "type" not in tag)
    mine = next(iter(world.tags))
    return MirrorSection.model_validate(
        {"name": "demo", "from": f"acme:{mine}", "to": f"billing:{its}", "join": "email"}
    )


def _config(
    servers: str, sources: Iterable[tuple[Mapping[str, Any], list[Collection]]], data_dir: Path, mirror: MirrorSection
) -> Config:
    """A bridge of its own on whatever Kafka is used: a name that no former demo had.

    sources: keys of each, and what is read of it. `Any`: TOML.
    """
    name = f"demo-{os.getpid()}-{int(time.time())}"
    return Config(
        kafka=KafkaSettings(bootstrap_servers=servers.split(",")),
        bridge=BridgeSection(name=name, shards=4, data_dir=data_dir),
        http=HttpSection(listen="127.0.0.1:0"),
        sources=[
            SourceSection(
                **keys,
                collections=collections,
                poll_interval=POLL_INTERVAL_S,
                sweep_interval=SWEEP_INTERVAL_S,
                request_budget=200.0,
            )
            for keys, collections in sources
        ],
        mirrors=[mirror],
    )


async def _wait_ready(
    console: Console, bridge: assembly.Bridge, running: asyncio.Task[None], stop: asyncio.Event
) -> bool:
    """Until everything was read once; False when somebody does not want to wait for it."""
    deadline = time.monotonic() + START_S
    with console.status("joining the group") as status:
        while bridge.proved_until() == 0.0:
            if stop.is_set():
                return False
            if running.done() or time.monotonic() > deadline:
                raise EnvironmentUnavailable(
                    f"the bridge did not come up within {START_S:.0f} s: "
                    f"{bridge.supervisor.trouble or 'still reading'}; run again with --debug to see why"
                )
            await asyncio.sleep(REFRESH_S)
            status.update(f"{bridge.metrics.statistics().documents_known:,} documents known")
    return True


async def _watch(config: Config, tally: Tally, clock: SystemClock) -> None:
    """Read the events like any consumer, committed ones only, from the first."""
    plan = assembly.topic_plan(config)
    async with aclosing(read_topics(config.kafka, plan.event_topics, clock, follow=True)) as messages:
        async for message in messages:
            tally.count(message, clock.wall())


@contextmanager
def _view(console: Console, tally: Tally, desk: Desk, title: str) -> Iterator[Callable[[], None]]:
    """A screen that refreshes in place on a terminal; a line every few seconds elsewhere."""
    if console.is_terminal:
        with Live(screen(tally, desk, title), console=console, auto_refresh=False, screen=False) as view:
            yield lambda: view.update(screen(tally, desk, title), refresh=True)
        return
    _say(console, title)
    last = time.monotonic()

    def line() -> None:
        nonlocal last
        if time.monotonic() - last >= 5.0:
            last = time.monotonic()
            _say(console, f"{sum(tally.counts.values()):,} events   {latency_line(tally)}")
            if desk.answers:
                _say(console, f"          {answer_line(desk.answers[-1])}; {desk.mirrored} edges mirrored")

    yield line


async def _catch_up(bridge: assembly.Bridge, desk: Desk, refresh: Callable[[], None]) -> None:
    """Until everything that happened before now is committed, and what mirrors have made of it, and its events."""
    deadline = time.monotonic() + CATCH_UP_S
    quiet = 0
    while quiet < 2 and time.monotonic() < deadline:
        now, mirrored = time.time(), desk.mirrored
        while (bridge.proved_until() < now or desk.open) and time.monotonic() < deadline:
            refresh()
            await asyncio.sleep(REFRESH_S)
        quiet = quiet + 1 if desk.mirrored == mirrored else 0
    await asyncio.sleep(2 * REFRESH_S)  # for the view's own consumer to read the last of it
    refresh()


async def _summary(console: Console, config: Config, tally: Tally, desk: Desk, clock: SystemClock) -> int:
    console.print()
    console.print(counts_table(tally))
    console.print(latency_line(tally), highlight=False)
    for answer in desk.answers:
        _say(console, answer_line(answer))
    _say(console, f"{desk.mirrored} edges mirrored from acme to billing")
    return await prove(config, clock, online=True)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False)
