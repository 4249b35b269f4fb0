"""What the tests of commands share: a command as a user gives it, and a configuration file."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from bridge.cli import main


def run(*arguments: object) -> Result:
    """`bridge` with these arguments, in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def configuration(folder: Path, name: str, servers: str, *, shards: int, kafka: str = "", source: str = "") -> Path:
    """The file of a bridge with the source `acme`. kafka, source: further lines of those sections."""
    path = folder / "bridge.toml"
    path.write_text(
        f"""
        [kafka]
        bootstrap_servers = {json.dumps(servers.split(","))}
        {kafka}
        [bridge]
        name = "{name}"
        shards = {shards}
        [[sources]]
        id = "acme"
        provider = "dintero"
        account = "T12345678"
        client_id = "id"
        client_secret = "secret"
        {source}
        """
    )
    return path
