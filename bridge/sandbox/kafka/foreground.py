"""`bridge kafka`: one broker in the foreground until the first signal."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

from bridge.errors import EnvironmentUnavailable
from bridge.sandbox.kafka.node import LocalKafka
from bridge.sandbox.kafka.settings import KafkaSettings

LIVENESS_POLL_S = 0.5


async def run_foreground(settings: KafkaSettings, echo: Callable[[str], None]) -> None:
    """Run a broker until SIGINT or SIGTERM, then stop it in order; a second signal kills it.

    Raises `EnvironmentUnavailable` when it cannot start or ends by itself. The CLI calls this.
    """
    kafka = LocalKafka(settings)
    await kafka.start(echo)
    try:
        # Handlers first: whoever reads the address may send a signal at once.
        with _first_signal() as stop:
            echo(f"Data in {kafka.home}{'' if settings.data else ', removed at the end'}. Ctrl-C stops it.")
            echo(f"KAFKA_BOOTSTRAP_SERVERS={kafka.bootstrap_servers}")
            while kafka.running and not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), timeout=LIVENESS_POLL_S)
        if not kafka.running:
            raise EnvironmentUnavailable(f"Kafka ended by itself. Its log says:\n{kafka.quote_log()}")
        echo("Stopping Kafka")
    finally:
        await kafka.stop()


@contextlib.contextmanager
def _first_signal() -> Iterator[asyncio.Event]:
    """An event that SIGINT or SIGTERM sets; outside the block both do what they did before."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
