"""Lag: how late this process's own loop is.

Whatever blocks the loop (a huge page, a slow disk, a machine that swaps) also holds back the heartbeats of the group:
with a lag beyond `kafka.session_timeout_s` the shards go to another process. Kafka tells that as a rebalance and a
fence; this tells why.
"""

from __future__ import annotations

from bridge.clock import Clock
from bridge.observability.logs import get_logger
from bridge.observability.metrics import Metrics

LOOK_S = 0.5
"""Between two looks; a stall of any length is seen by the look that it delays."""

BLOCKED_S = 1.0
"""A lag worth a line: a tenth of the default session."""

log = get_logger(__name__)


async def watch_lag(clock: Clock, metrics: Metrics) -> None:
    """For ever."""
    while True:
        due = clock.monotonic() + LOOK_S
        await clock.sleep(LOOK_S)
        lag_s = max(0.0, clock.monotonic() - due)
        metrics.loop_lag(lag_s)
        if lag_s >= BLOCKED_S:
            log.warning("the event loop was blocked", lag_s=round(lag_s, 1))
