"""From the bridge's errors to exit codes and one paragraph on stderr."""

from __future__ import annotations

import difflib
from typing import Any

import click

from bridge.errors import BridgeError, ConfigurationError, EnvironmentUnavailable

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_ENVIRONMENT = 3


class Failure(click.ClickException):
    """A `BridgeError` on its way to the terminal."""

    exit_code = EXIT_FAILED


class UsageFailure(Failure):
    """The configuration is wrong."""

    exit_code = EXIT_USAGE


class EnvironmentFailure(Failure):
    """Something outside is missing."""

    exit_code = EXIT_ENVIRONMENT


def failure(error: BridgeError) -> Failure:
    """The error for the terminal, with its exit code."""
    if isinstance(error, ConfigurationError):
        return UsageFailure(str(error))
    if isinstance(error, EnvironmentUnavailable):
        return EnvironmentFailure(str(error))
    return Failure(str(error))


class BridgeGroup(click.Group):
    """A group whose commands may raise `BridgeError`; an unknown command is answered with the nearest one."""

    def invoke(self, ctx: click.Context) -> Any:
        """`Any` as in click: whatever the command returns."""
        try:
            return super().invoke(ctx)
        except BridgeError as error:
            if ctx.params.get("debug"):
                raise
            raise failure(error) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click, with a suggestion."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise click.UsageError(f"{error.message}{hint}", ctx) from None
