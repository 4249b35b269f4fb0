"""Ports of a local broker: find a free one, see whether one can be bound, ask whether Kafka answers on it."""

from __future__ import annotations

import asyncio
import random
import socket
import struct

from bridge.errors import EnvironmentUnavailable
from bridge.sandbox.kafka.settings import HOST

# Below every ephemeral range: inside it, a client that keeps reconnecting to a dead broker can be given the
# broker's own port as its source port, connect to itself, and so hold the port against the restart.
PORT_MIN, PORT_MAX = 20_000, 32_000
PORT_TRIES_MAX = 200
PROBE_TIMEOUT_S = 2.0


def free_port(*, other_than: int | None = None) -> int:
    """A port nobody listens on now. Random, so that processes started together rarely choose the same."""
    for _ in range(PORT_TRIES_MAX):
        port = random.randrange(PORT_MIN, PORT_MAX)
        if port != other_than and bindable(port):
            return port
    raise EnvironmentUnavailable(
        f"There is no free port between {PORT_MIN} and {PORT_MAX} on {HOST}; name one with --port."
    )


def bindable(port: int) -> bool:
    """False when something listens on it; a former broker's connections in TIME_WAIT are no obstacle."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


async def answers(port: int) -> bool:
    """One ApiVersions request (key 18, version 0), the first of any client; answered once Kafka serves."""
    correlation_id = random.randrange(1 << 31)
    request = struct.pack(">hhih", 18, 0, correlation_id, -1)  # -1: no client id
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(struct.pack(">i", len(request)) + request)
                _size, answered_id, error = struct.unpack(">iih", await reader.readexactly(10))
            finally:
                writer.close()
    except (OSError, asyncio.IncompleteReadError):  # a TimeoutError is an OSError
        return False
    return bool(answered_id == correlation_id and error == 0)
