"""`bridge state`: the last known documents. They are personal data, which is what is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import orjson

from bridge import assembly
from bridge.cli.loop import run_async
from bridge.cli.output import JSON, safe_json
from bridge.cli.service import configure_logs
from bridge.clock import SystemClock
from bridge.config import Config, load
from bridge.errors import BridgeError, ConfigurationError
from bridge.model import Collection, iso, key_of, split_key
from bridge.publish.partitioner import partition_of
from bridge.publish.reading import Message, PartitionReader
from bridge.runtime.suspects import Stage, Suspect, decode_suspect
from bridge.store.record import SUSPECTS, decode_record
from bridge.verify.reading import Tail
from bridge.verify.verdict import printable

_COLLECTIONS = [collection.value for collection in Collection]


@click.group(epilog="Example:  bridge state -c bridge.toml get acme/customers/5f0c…")
@click.option("-c", "--config", "path", type=click.Path(dir_okay=False, path_type=Path), help="The configuration.")
@click.pass_context
def state(context: click.Context, path: Path | None) -> None:
    """The last known documents, as the state topic has them."""
    context.obj = _StateOptions(bool(context.obj), path)


@state.command(epilog="Example:  bridge state -c bridge.toml get acme/customers/5f0c…")
@click.argument("key")
@click.pass_obj
def get(options: _StateOptions, key: str) -> None:
    """Show the document of KEY, which is source/collection/uid."""
    config = options.config()
    try:
        source, collection, _ = split_key(key)
    except ValueError:
        source, collection = "", ""
    if collection not in _COLLECTIONS:
        raise ConfigurationError(
            f"{printable(key)} is no key; a key is source/collection/uid with the collection one of "
            f"{', '.join(_COLLECTIONS)}"
        )
    found: list[bytes | None] = [None]

    def take(message: Message) -> None:
        if message.key == key.encode():
            found[0] = message.value

    run_async(_scan(config, source, take))
    if found[0] is None:
        raise BridgeError(f"{printable(key)} is not in the state of {config.bridge.name}")
    click.echo(safe_json(_shown(key, found[0], document=True), orjson.OPT_INDENT_2))


@state.command("list", epilog="Example:  bridge state -c bridge.toml list --source acme --collection tags")
@click.option("--source", help="Only this source.")
@click.option("--collection", type=click.Choice(_COLLECTIONS), help="Only this collection.")
@click.option("--held", is_flag=True, help="Only documents whose deletion waits for `bridge approve`.")
@JSON
@click.pass_obj
def list_(options: _StateOptions, source: str | None, collection: str | None, held: bool, as_json: bool) -> None:
    """List the keys with number and time of their last event."""
    if held:
        _list_held(options.config(), source, collection, as_json)
        return
    rows: dict[str, tuple[int, int, bool]] = {}

    def take(message: Message) -> None:
        key = _document_key(message, source, collection)
        if key is None:
            return
        rows.pop(key, None)
        if message.value is not None:
            record = decode_record(message.value)
            rows[key] = (record.sequence, record.version, record.refused is not None)

    run_async(_scan(options.config(), source, take))
    for key, (sequence, version, refused) in sorted(rows.items()):
        if as_json:
            fields = {"key": key, "sequence": sequence, "changed_at": iso(version) if version else None}
            click.echo(safe_json({**fields, "refused": refused}))
        else:
            when = iso(version) if version else "-"
            click.echo(f"{printable(key)}  {sequence}  {when}{'  refused' if refused else ''}")


def _list_held(config: Config, source: str | None, collection: str | None, as_json: bool) -> None:
    """Key, since when it is held, and when the provider says that it was deleted."""
    rows: dict[str, Suspect] = {}

    def take(message: Message) -> None:
        key = (message.key or b"").decode(errors="replace")
        its_source, kind, name = [*key.split("/", 2), "", ""][:3]
        its_collection, _, uid = name.partition("/")
        if kind != SUSPECTS or source not in (None, its_source) or collection not in (None, its_collection):
            return
        rows.pop(key_of(its_source, its_collection, uid), None)
        if message.value is not None:
            rows[key_of(its_source, its_collection, uid)] = decode_suspect(message.value)

    run_async(_scan(config, source, take))
    for key, suspect in sorted(rows.items()):
        if suspect.stage is not Stage.HELD:
            continue
        since, at = iso(int(suspect.since) * 1_000_000), iso(suspect.at) if suspect.at else None
        if as_json:
            click.echo(safe_json({"key": key, "held_since": since, "deleted_at": at}))
        else:
            click.echo(f"{printable(key)}  held since {since}  {f'deleted {at}' if at else 'absent'}")


@state.command(epilog="Example:  bridge state -c bridge.toml export > state.jsonl")
@click.option("--source", help="Only this source.")
@click.option("--collection", type=click.Choice(_COLLECTIONS), help="Only this collection.")
@click.pass_obj
def export(options: _StateOptions, source: str | None, collection: str | None) -> None:
    """Write every document as one line of JSON, in no particular order."""
    run_async(_export(options.config(), source, collection))


@dataclass(frozen=True, slots=True)
class _StateOptions:
    """What was said before the subcommand."""

    debug: bool
    path: Path | None

    def config(self) -> Config:
        """`-c` is asked for here, so that `--help` of a subcommand works without it."""
        if self.path is None:
            raise click.UsageError("say which configuration: bridge state -c bridge.toml …")
        config = load(self.path)
        configure_logs(config, self.debug, "auto", quiet=True)
        return config


async def _scan(config: Config, source: str | None, take: Callable[[Message], None]) -> None:
    """Every record of the state topic up to now, in order per partition; of one source its partition only."""
    plan = assembly.topic_plan(config)
    async with PartitionReader(config.kafka, SystemClock()) as reader:
        partitions = await reader.partitions([plan.state])
        if source is not None:
            partitions = [partitions[partition_of(source.encode(), len(partitions))]]
        await Tail(reader, await reader.begins(partitions)).read(take, lambda _done, _total: None)


async def _export(config: Config, source: str | None, collection: str | None) -> None:
    """Two readings, so that only keys are held: the first finds the last record of each, the second writes it."""
    last: dict[str, int] = {}

    def note(message: Message) -> None:
        key = _document_key(message, source, collection)
        if key is not None:
            last[key] = message.offset

    def write(message: Message) -> None:
        key = _document_key(message, source, collection)
        if key is not None and last.get(key) == message.offset and message.value is not None:
            click.echo(safe_json(_shown(key, message.value, document=True)))

    await _scan(config, source, note)
    await _scan(config, source, write)


def _document_key(message: Message, source: str | None, collection: str | None) -> str | None:
    """The record's key when it is a document's and wanted."""
    try:
        key = (message.key or b"").decode()
        its_source, its_collection, _ = split_key(key)
    except ValueError:
        return None
    if its_collection not in _COLLECTIONS or source not in (None, its_source):
        return None
    return key if collection in (None, its_collection) else None


def _shown(key: str, value: bytes, *, document: bool) -> dict[str, Any]:
    record = decode_record(value)
    fields: dict[str, Any] = {"key": key, "sequence": record.sequence}
    fields["changed_at"] = iso(record.version) if record.version else None
    if record.refused is not None:
        fields["refused"] = record.refused
    if document:
        fields["document"] = record.document
    return fields
