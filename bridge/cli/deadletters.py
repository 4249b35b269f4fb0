"""`bridge deadletters list | replay`: what could not be processed, and another attempt with what came by the inbox.

A replay puts the raw record back on the inbox under its key, with the time of its letter. That is harmless, however
often it is done: a command has its effect once per id, one that was answered stays answered, and one so old that this
cannot be known any more has expired; what is still no command becomes a dead letter once more.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import click

from bridge import assembly
from bridge.cli.loop import run_async
from bridge.cli.output import JSON, safe_json
from bridge.cli.sending import seconds
from bridge.cli.service import CONFIG, configure_logs
from bridge.clock import SystemClock
from bridge.config import Config, load
from bridge.model import iso
from bridge.publish.reading import Message, read_topics
from bridge.publish.send import InboxSender
from bridge.verify.verdict import printable

DIGEST_BYTES = 16
"""Of a record that was replayed: it is sent once, however many letters hold it."""

Begin = Literal["beginning"] | int
"""From when on letters are read, in milliseconds since 1970."""

SINCE = click.option("--since", metavar="TIME", help="Only those of this time ago or later: 15m, 2h, 7d.")


@dataclass(frozen=True, slots=True)
class Letter:
    """What a dead letter says of itself; nothing of what it holds."""

    at: str
    offset: int
    key: str
    reason: str
    detail: str
    source: str
    collection: str
    origin: str
    uid: str
    bytes: int
    cut: bool


@dataclass(slots=True)
class Replayed:
    """How many letters were put back, and how many not."""

    sent: int = 0
    again: int = 0
    elsewhere: int = 0
    cut: int = 0

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.sent} records are in the inbox again"
        for count, why in (
            (self.again, "the same record as one of those"),
            (self.elsewhere, "not from the inbox: the provider will show it again"),
            (self.cut, "cut, because too large for the topic"),
        ):
            if count:
                yield f"{count} left out: {why}"


@click.group(epilog="Example:  bridge deadletters list -c bridge.toml --since 1d")
def deadletters() -> None:
    """What could not be processed."""


@deadletters.command("list", epilog="Example:  bridge deadletters list -c bridge.toml --since 1d")
@CONFIG
@SINCE
@JSON
@click.pass_obj
def list_(debug: bool, path: Path, since: str | None, as_json: bool) -> None:
    """List causes, without what the letters hold: that may be personal data."""
    config = load(path)
    configure_logs(config, debug, "auto", quiet=True)

    begin = _begin(since)

    async def show() -> int:
        count = 0
        async with aclosing(_letters(config, begin)) as letters:
            async for letter, _ in letters:
                count += 1
                click.echo(safe_json(asdict(letter)) if as_json else _line(letter))
        return count

    if run_async(show()) == 0 and not as_json:
        click.echo("there are none", err=True)


@deadletters.command(epilog="Example:  bridge deadletters replay -c bridge.toml --since 1d --reason unknown_source")
@CONFIG
@SINCE
@click.option("--reason", help="Only those with this reason.")
@JSON
@click.pass_obj
def replay(debug: bool, path: Path, since: str | None, reason: str | None, as_json: bool) -> None:
    """Put records that came through the inbox back on it, once each, with their keys.

    A command that was answered under its id, be it as rejected, stays answered: send it anew under another id.
    """
    config = load(path)
    configure_logs(config, debug, "auto", quiet=True)
    done = run_async(_replay(config, _begin(since), reason))
    if as_json:
        click.echo(safe_json(asdict(done)))
    else:
        click.echo("\n".join(done.lines()))


async def _replay(config: Config, begin: Begin, reason: str | None) -> Replayed:
    done = Replayed()
    sent: set[bytes] = set()
    inbox = assembly.topic_plan(config).inbox
    async with InboxSender(config.kafka, inbox) as sender, aclosing(_letters(config, begin)) as letters:
        async for letter, message in letters:
            if reason is not None and letter.reason != reason:
                continue
            key, value = message.key or b"", message.value or b""
            digest = blake2b(key + b"\0" + value, digest_size=DIGEST_BYTES).digest()
            if letter.origin != inbox:
                done.elsewhere += 1
            elif letter.cut:
                done.cut += 1
            elif digest in sent:
                done.again += 1
            else:
                await sender.send_raw(key, value, message.timestamp_ms)
                sent.add(digest)
                done.sent += 1
    return done


def _begin(since: str | None) -> Begin:
    return "beginning" if since is None else int((SystemClock().wall() - seconds(since, "--since")) * 1000)


async def _letters(config: Config, begin: Begin) -> AsyncGenerator[tuple[Letter, Message], None]:
    """Those that are there now; so a replay never meets what it has caused."""
    plan = assembly.topic_plan(config)
    async with aclosing(read_topics(config.kafka, [plan.deadletters], SystemClock(), since=begin)) as messages:
        async for message in messages:
            yield _letter(message), message


def _letter(message: Message) -> Letter:
    headers = {name: (value or b"").decode("utf-8", "replace") for name, value in message.headers}
    size = headers.get("bytes", "")
    return Letter(
        at=iso(message.timestamp_ms * 1000),
        offset=message.offset,
        key=(message.key or b"").decode("utf-8", "replace"),
        reason=headers.get("reason", ""),
        detail=headers.get("detail", ""),
        source=headers.get("source", ""),
        collection=headers.get("collection", ""),
        origin=headers.get("origin", ""),
        uid=headers.get("uid", ""),
        bytes=int(size) if size.isdecimal() else len(message.value or b""),
        cut="cut" in headers,
    )


def _line(letter: Letter) -> str:
    what = "/".join(filter(None, (letter.source, letter.collection, letter.uid))) or "-"
    return printable(f"{letter.at}  #{letter.offset}  {letter.reason:<14} {what}  {letter.origin}: {letter.detail}")
