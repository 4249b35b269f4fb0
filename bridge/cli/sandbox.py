"""`bridge kafka` and `bridge sandbox`: the two things a bridge stands between, on one machine."""

from __future__ import annotations

import re
from pathlib import Path

import click

from bridge.cli.loop import run_async, until_signal

PORT = click.IntRange(1, 65535)

ACCOUNT = re.compile(r"[PT](?:\d{3}|\d{8})", re.ASCII)


@click.command(epilog="Example:  bridge kafka --port 9092 --data ./kafka-data")
@click.option("--port", type=PORT, help="Listen here; a free port below 32768 otherwise.")
@click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), help="Keep the data here; thrown away otherwise."
)
def kafka(port: int | None, data: Path | None) -> None:
    """Run a real single-node Apache Kafka in the foreground, for development.

    The first start resolves Kafka's jars, which takes about a minute; later ones take seconds.
    """
    from bridge.sandbox.kafka import KafkaSettings, run_foreground  # noqa: PLC0415

    run_async(run_foreground(KafkaSettings(port=port, data=data), click.echo))


def _account(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if ACCOUNT.fullmatch(value) is None:
        raise click.BadParameter("an account is P or T and 8 digits, a partner P or T and 3")
    return value


@click.command(epilog="Example:  bridge sandbox --customers 10000 --rate edit=60 --switch fault_500=0.01")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=PORT, default=8900, show_default=True)
@click.option("--customers", type=click.IntRange(0, 5_000_000), default=10_000, show_default=True)
@click.option("--tags", type=click.IntRange(0, 100_000), default=20, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same world.")
@click.option(
    "--account",
    default="T12345678",
    show_default=True,
    callback=_account,
    help="P or T and 8 digits; 3 digits for a partner, which has management users only.",
)
@click.option("--rate", "rates", multiple=True, metavar="KIND=PER_MINUTE", help="Changes per minute; may be repeated.")
@click.option("--switch", "switches", multiple=True, metavar="NAME=VALUE", help="What the API does; may be repeated.")
def sandbox(
    host: str,
    port: int,
    customers: int,
    tags: int,
    seed: int,
    account: str,
    rates: tuple[str, ...],
    switches: tuple[str, ...],
) -> None:
    """Run the simulated provider's API over HTTP, with a population that lives at the given rates.

    Client id "sandbox", client secret "sandbox-secret". Rates: sign_up, edit, tag, untag, rename, delete, tag_create,
    tag_delete, user_create, user_edit, user_delete. Both can be changed while it runs: PUT /sandbox/rates, PUT
    /sandbox/switches. GET /sandbox/truth is the log of everything that really happened.
    """
    from bridge.clock import SystemClock  # noqa: PLC0415
    from bridge.sandbox.api import SandboxApi  # noqa: PLC0415
    from bridge.sandbox.http import run  # noqa: PLC0415
    from bridge.sandbox.population.life import Rates  # noqa: PLC0415
    from bridge.sandbox.switches import Switches  # noqa: PLC0415
    from bridge.sandbox.world import World  # noqa: PLC0415

    parsed = Switches.parse(switches)
    clock = SystemClock()
    world = World(seed, customers, tags, Rates.parse(rates), clock, account, rules=parsed.rules())
    run_async(until_signal(run(SandboxApi(world, parsed, clock), host, port, click.echo)))
