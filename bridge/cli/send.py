"""`bridge send rename | tag | untag | refresh`: commands that need the provider, to the owner of a source."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import click

from bridge.cli.loop import run_async
from bridge.cli.output import JSON
from bridge.cli.sending import command_of, seconds, section_of, send, sending_of, sending_options, unknown
from bridge.cli.service import CONFIG, configure_logs
from bridge.clock import Clock, SystemClock
from bridge.commands.command import UIDS_MAX, Kind, TaggingKind
from bridge.config import load, parse_duration
from bridge.model import instant, iso
from bridge.verify.verdict import printable

_UIDS = click.argument("uids", metavar="[UID]...", nargs=-1)
_FILE = click.option("--file", "ids", type=click.File(encoding="utf-8"), help="More of them, one a line; - is stdin.")
_NOT_AFTER = click.option(
    "--not-after", metavar="TIME", help="No effect unless it has begun by then: RFC 3339, or a time from now (10m)."
)


@click.group("send", epilog="Example:  bridge send tag -c bridge.toml acme 8d0c… 5f0c… 61aa… --wait")
def group() -> None:
    """Have something done at a provider by the owner of the source, once, and be told what became of it."""


@group.command(epilog="Example:  bridge send rename -c bridge.toml acme c-1001 c-2002 --by customer_id --wait")
@CONFIG
@click.argument("source")
@click.argument("customer")
@click.argument("new_customer_id")
@click.option("--by", type=click.Choice(["uid", "customer_id"]), default="uid", show_default=True)
@_NOT_AFTER
@sending_options
@JSON
@click.pass_obj
def rename(
    debug: bool, /, path: Path, source: str, customer: str, new_customer_id: str, by: str, **options: Any
) -> None:  # `Any`: as in click
    """Give CUSTOMER, named by its uid or its present customer_id, another customer_id."""
    who = {"customer" if by == "uid" else "customer_id": customer, "new_customer_id": new_customer_id}
    _run(debug, path, Kind.RENAME, source, who, **options)


def _tagging(kind: TaggingKind, does: str) -> click.Command:
    @group.command(
        kind.value, help=does, epilog=f"Example:  bridge send {kind} -c bridge.toml acme TAG --file ids.txt --wait"
    )
    @CONFIG
    @click.argument("source")
    @click.argument("tag")
    @click.argument("uids", metavar="[UID|VALUE]...", nargs=-1)
    @_FILE
    @click.option("--by", metavar="FIELD", help="VALUEs of this field and not uids: customer_id, email, attributes.x.")
    @click.option("--name", "named", is_flag=True, help="TAG is its name instead.")
    @click.option("--confirm-within", metavar="TIME", help="How long the provider may take to show it; 60s.")
    @_NOT_AFTER
    @sending_options
    @JSON
    @click.pass_obj
    def run(
        debug: bool,
        /,
        path: Path,
        source: str,
        tag: str,
        uids: tuple[str, ...],
        ids: TextIO | None,
        by: str | None,
        named: bool,
        confirm_within: str | None,
        **options: Any,
    ) -> None:  # `Any`: as in click
        who = _uids(uids, ids)
        fields: dict[str, Any] = {"tag_name" if named else "tag": tag}
        fields |= {"customers": who} if by is None else {"where": {"field": by, "values": who}}
        if confirm_within is not None:
            fields["confirm_within"] = seconds(confirm_within, "--confirm-within")
        _run(debug, path, kind, source, fields, **options)

    return run


_tagging(Kind.TAG, "Give TAG, named by its uid, to customers; their other tags stay.")
_tagging(Kind.UNTAG, "Take TAG, named by its uid, from customers; their other tags stay.")


@group.command(epilog="Example:  bridge send refresh -c bridge.toml acme customers 5f0c… --wait")
@CONFIG
@click.argument("source")
@click.argument("collection")
@_UIDS
@_FILE
@_NOT_AFTER
@sending_options
@JSON
@click.pass_obj
def refresh(
    debug: bool,
    /,
    path: Path,
    source: str,
    collection: str,
    uids: tuple[str, ...],
    ids: TextIO | None,
    **options: Any,
) -> None:  # `Any`: as in click
    """Read documents of COLLECTION again, now, and publish what is new about them."""
    names = [name.value for name in section_of(load(path), source).collections]
    if collection not in names:
        raise unknown(f"collection of {source}", collection, names)
    _run(debug, path, Kind.REFRESH, source, {"collection": collection, "uids": _uids(uids, ids)}, **options)


def _run(
    debug: bool,
    path: Path,
    kind: Kind,
    source: str,
    fields: Mapping[str, Any],
    *,
    not_after: str | None,
    wait: bool,
    timeout: str,
    id_: str | None,
    as_json: bool,
) -> None:
    config = load(path)
    configure_logs(config, debug, "auto", quiet=True)
    section_of(config, source)
    clock = SystemClock()
    until = {} if not_after is None else {"not_after": _moment(not_after, clock)}
    command = command_of(kind, source, {**fields, **until}, id_, clock)
    sys.exit(run_async(send(config, command, sending_of(wait, timeout, id_, as_json), clock)))


def _uids(given: Sequence[str], ids: TextIO | None) -> list[str]:
    """Each once, in order."""
    try:
        lines = [] if ids is None else [line.strip() for line in ids]
    except UnicodeDecodeError:
        raise click.UsageError("--file: is not UTF-8") from None
    found = list(dict.fromkeys([*given, *filter(None, lines)]))
    if not found:
        raise click.UsageError("none is given; name some, or a file with --file")
    if len(found) > UIDS_MAX:
        raise click.UsageError(f"{len(found):,} are more than one command takes ({UIDS_MAX:,}); send several")
    return found


def _moment(text: str, clock: Clock) -> str:
    for read in (_from_now(clock), instant):
        try:
            return iso(read(text))
        except (ValueError, OverflowError):
            continue
    raise click.UsageError(
        f"--not-after {printable(text)}: say a date-time such as 2027-01-31T12:00:00Z, or a time from now such as 10m"
    )


def _from_now(clock: Clock) -> Callable[[str], int]:
    return lambda text: int((clock.wall() + parse_duration(text)) * 1_000_000)
