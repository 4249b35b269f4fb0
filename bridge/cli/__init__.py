"""The executable `bridge`: one command per verb, one place that turns errors into exit codes.

Exit codes: 0 done, 1 failed while running, 2 wrong usage or configuration (before anything was touched), 3 the
environment is not there (Kafka, provider, disk). An error is one paragraph on stderr; a traceback needs `--debug`.
"""

from __future__ import annotations

import click

from bridge import __version__
from bridge.cli.errors import BridgeGroup


@click.group(
    cls=BridgeGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Example:  bridge demo --seconds 60",
)
@click.version_option(__version__, prog_name="bridge")
@click.option("--debug", is_flag=True, help="Log everything, show tracebacks.")
@click.pass_context
def main(context: click.Context, debug: bool) -> None:
    """Turn the customers that live in REST APIs into an exact change stream in Kafka."""
    context.obj = debug


def _register() -> None:
    """Import late: a command's libraries load only when the executable runs."""
    from bridge.cli import (  # noqa: PLC0415
        deadletters,
        demo,
        mirrors,
        plan,
        sandbox,
        schema,
        send,
        service,
        signals,
        state,
        tail,
        topics,
        verify,
    )

    for command in (
        demo.demo,
        service.run,
        service.check,
        topics.topics,
        tail.tail,
        state.state,
        verify.verify,
        plan.plan,
        *signals.COMMANDS,
        send.group,
        deadletters.deadletters,
        mirrors.mirrors,
        sandbox.kafka,
        sandbox.sandbox,
        schema.schema,
    ):
        main.add_command(command)


_register()
