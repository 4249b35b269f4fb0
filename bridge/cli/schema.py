"""`bridge schema`: the event contract as files, and whether consumers of an old one can read a new one."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import orjson

from bridge.cli.errors import EXIT_FAILED
from bridge.commands.schema import schemas
from bridge.errors import ConfigurationError, EnvironmentUnavailable
from bridge.event import schema as contract

FOLDER = click.Path(file_okay=False, path_type=Path)
EXISTING = click.Path(file_okay=False, exists=True, path_type=Path)


@click.group(epilog="Example:  bridge schema diff released/schemas schemas")
def schema() -> None:
    """The JSON Schemas of every event and document, and of the records around them."""


@schema.command(epilog="Example:  bridge schema export schemas")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--check", is_flag=True, help="Write nothing; fail when a file is not as it would be written.")
def export(folder: Path, check: bool) -> None:
    """Write every schema into DIR and remove those of types that no longer exist."""
    try:
        if not check:
            click.echo(f"{len(contract.export(folder, schemas()))} schemas in {folder}")
            return
        stale = contract.stale(folder, schemas())
    except OSError as error:
        raise EnvironmentUnavailable(f"{error.filename or folder}: {error.strerror}") from error
    if not stale:
        click.echo(f"{folder} is current")
        return
    for name in stale:
        click.echo(f"{folder / name} is not what this release publishes", err=True)
    click.echo(f"Run: bridge schema export {folder}", err=True)
    sys.exit(EXIT_FAILED)


@schema.command(epilog="Example:  bridge schema diff released/schemas schemas")
@click.argument("old", type=EXISTING)
@click.argument("new", type=EXISTING)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def diff(old: Path, new: Path, as_json: bool) -> None:
    """Say whether consumers of the schemas in OLD can read events of those in NEW; exit code 1 when not."""
    problems = contract.incompatible(_read(old), _read(new))
    if as_json:
        click.echo(orjson.dumps({"compatible": not problems, "problems": problems}).decode())
    else:
        for problem in problems:
            click.echo(problem)
        click.echo(f"consumers of {old} {'cannot' if problems else 'can'} read {new}")
    if problems:
        sys.exit(EXIT_FAILED)


def _read(folder: Path) -> dict[str, contract.JsonSchema]:
    found: dict[str, contract.JsonSchema] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            value = orjson.loads(path.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            raise ConfigurationError(f"{path}: cannot be read as JSON") from None
        if not isinstance(value, dict):
            raise ConfigurationError(f"{path}: is not a JSON Schema")
        found[path.name] = value
    if not found:
        raise ConfigurationError(f"{folder}: there is no schema in it; write one with: bridge schema export {folder}")
    return found
