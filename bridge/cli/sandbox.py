"""`bridge kafka` and `bridge sandbox`: the two things a bridge stands between, on one machine."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import click

from bridge.cli.loop import run_async, until_signal

PORT = click.IntRange(1, 65535)

ACCOUNT = re.compile(r"[PT](?:\d{3}|\d{8})", re.ASCII)
ORGANIZATION = re.compile(r"[@~\-.\w]{1,50}", re.ASCII)

PROVIDERS = ("dintero", "rebilly")
"""Whom the sandbox simulates; settings without a provider's name in front are for the first."""


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


def _organization(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if ORGANIZATION.fullmatch(value) is None:
        raise click.BadParameter("up to 50 letters, digits or one of _@~-.")
    return value


@click.command(epilog="Example:  bridge sandbox --customers 10000 --rate edit=60 --switch rebilly.bulk_delay=60")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=PORT, default=8900, show_default=True)
@click.option(
    "--provider",
    "providers",
    multiple=True,
    type=click.Choice(PROVIDERS),
    default=PROVIDERS,
    show_default=True,
    help="Whom to simulate; may be repeated.",
)
@click.option("--customers", type=click.IntRange(0, 5_000_000), default=10_000, show_default=True, help="Of each.")
@click.option("--tags", type=click.IntRange(0, 100_000), default=20, show_default=True, help="Of each.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same people, at each.")
@click.option(
    "--account",
    default="T12345678",
    show_default=True,
    callback=_account,
    help="Dintero's: P or T and 8 digits; 3 digits for a partner, which has management users only.",
)
@click.option(
    "--organization",
    default="org_sandbox",
    show_default=True,
    callback=_organization,
    help="Rebilly's: up to 50 letters, digits or one of _@~-.",
)
@click.option("--rate", "rates", multiple=True, metavar="KIND=PER_MINUTE", help="Changes per minute; may be repeated.")
@click.option("--switch", "switches", multiple=True, metavar="NAME=VALUE", help="What the API does; may be repeated.")
def sandbox(
    host: str,
    port: int,
    providers: tuple[str, ...],
    customers: int,
    tags: int,
    seed: int,
    account: str,
    organization: str,
    rates: tuple[str, ...],
    switches: tuple[str, ...],
) -> None:
    """Run the simulated providers' APIs over HTTP, each with a population that lives at the given rates.

    Dintero: client id "sandbox", client secret "sandbox-secret". Rates: sign_up, edit, tag, untag, rename, delete,
    tag_create, tag_delete, user_create, user_edit, user_delete.

    Rebilly: key "sandbox-key". Its rates and switches are written with its name in front, rebilly.merge=6,
    rebilly.bulk_delay=60. Rates: sign_up, edit, tag, untag, merge, delete, pay, tag_create, tag_rename, tag_delete.

    Both can be changed while it runs: PUT /sandbox/rates, PUT /sandbox/switches. GET /sandbox/truth is the log of
    everything that really happened. For Rebilly: PUT /organizations/ORGANIZATION/sandbox/rates, and so on.

    Prints what a bridge's configuration needs to read them.
    """
    from bridge.clock import SystemClock  # noqa: PLC0415
    from bridge.sandbox.api import SandboxApi  # noqa: PLC0415
    from bridge.sandbox.http import Served, run  # noqa: PLC0415
    from bridge.sandbox.population.dialect import REBILLY  # noqa: PLC0415
    from bridge.sandbox.population.life import Rates, RebillyRates  # noqa: PLC0415
    from bridge.sandbox.rebilly.api import RebillyApi  # noqa: PLC0415
    from bridge.sandbox.rebilly.switches import RebillySwitches  # noqa: PLC0415
    from bridge.sandbox.switches import Switches  # noqa: PLC0415
    from bridge.sandbox.world import World  # noqa: PLC0415

    clock, apis = SystemClock(), list[Served]()
    pace, wanted = Rates.parse(_of("dintero", rates)), Switches.parse(_of("dintero", switches))
    rebilly_pace = RebillyRates.parse(_of("rebilly", rates))
    rebilly_wanted = RebillySwitches.parse(_of("rebilly", switches))
    if "dintero" in providers:
        world = World(seed, customers, tags, pace, clock, account, rules=wanted.rules())
        apis.append(SandboxApi(world, wanted, clock))
    if "rebilly" in providers:
        rules = rebilly_wanted.rules()
        world = World(seed, customers, tags, rebilly_pace, clock, organization, rules=rules, dialect=REBILLY)
        apis.append(RebillyApi(world, rebilly_wanted, clock))
    run_async(until_signal(run(apis, host, port, click.echo)))


def _of(provider: str, texts: Iterable[str]) -> list[str]:
    """The settings that carry the provider's name in front, without it; those without any are Dintero's."""
    found = []
    for text in texts:
        named, dot, rest = text.partition(".")
        if dot and named in PROVIDERS:
            found += [rest] if named == provider else []
        elif provider == PROVIDERS[0]:
            found.append(text)
    return found
