"""SIGTERM and SIGINT at any moment (P08, P09): the first drains, the second ends it at once."""

from __future__ import annotations

import asyncio
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from bridge.sandbox.kafka import LocalKafka
from tests.support.processes import Process, bridge, command, config, deadly, put, ready, sandbox, serves, wait_for

RATES = {"sign_up": 600, "edit": 6000, "rename": 300, "delete": 300, "tag_create": 60, "tag_delete": 30}
STILL = dict.fromkeys(RATES, 0)
GRACE_S = 20.0
AT_ONCE_S = 5.0
"""Of a process that would otherwise take its whole grace."""

STOPPING = '"stopping"'

MOMENTS = (
    ("snapshot page", 3),
    ("restoring", 1),
    ("fenced", 1),
    ("restored", 1),
    ("fetching", 4),
    ("fetched", 3),
    ("begun", 2),
    ("sent", 4),
    ("committing", 2),
    ("commit answered", 2),
    ("applying", 2),
    ("draining", 1),
)


@pytest.mark.timeout(280)
def test_a_stop_at_any_moment_drains_and_leaves_nothing_half_done(
    tmp_path: Path, bootstrap_servers: str, bridge_name: str
) -> None:
    with sandbox(tmp_path, "--customers", "2000", "--switch", "timestamp_precision=milliseconds") as url:
        put(f"{url}/sandbox/rates", RATES)
        path = config(tmp_path, bootstrap_servers, bridge_name, url, shards=1)
        for step, count in MOMENTS:
            process = deadly(tmp_path, path, step, count, signal.SIGTERM)
            if step == "draining":
                wait_for("the bridge", lambda: serves(path))  # who owns nothing has nothing to drain
                process.signal(signal.SIGTERM)  # the second one comes from itself, while it drains
            expected = 1 if step == "draining" else 0
            assert process.wait(GRACE_S * 3) == expected, f"{step}: {process.said()}"
        idle = bridge(tmp_path, path)
        wait_for("the last start", lambda: ready(path))
        put(f"{url}/sandbox/rates", STILL)
        result = command("verify", "-c", str(path), "--online")
        assert result.returncode == 0, result.stdout + result.stderr + idle.said()
        assert "0 lost, 0 doubled, 0 out of order" in result.stdout
        assert idle.terminate() == 0, idle.said()
        assert "Traceback" not in idle.output.read_text()


def stopping(process: Process, times: int) -> bool:
    """Whether it has said so often, over all its lives, that it stops."""
    return process.output.read_text().count(STOPPING) >= times


@pytest.mark.timeout(280)
async def test_a_stop_while_the_broker_is_away_ends_within_the_grace_and_a_second_one_at_once(
    tmp_path: Path, own_kafka: LocalKafka, bridge_name: str
) -> None:
    with sandbox(tmp_path, "--customers", "500", "--switch", "timestamp_precision=milliseconds") as url:
        await asyncio.to_thread(put, f"{url}/sandbox/rates", RATES)
        path = config(tmp_path, own_kafka.bootstrap_servers, bridge_name, url, shards=1)
        path.write_text(path.read_text().replace("[http]", 'shutdown_grace = "10s"\n[http]'))
        for signals in ([signal.SIGTERM], [signal.SIGTERM, signal.SIGTERM], [signal.SIGINT, signal.SIGINT]):
            process = bridge(tmp_path, path)
            await asyncio.to_thread(wait_for, "the bridge", lambda: ready(path), 90.0)
            said = process.output.read_text().count(STOPPING)
            own_kafka.pause()
            process.signal(signals[0])
            await asyncio.to_thread(wait_for, "it to stop", partial(stopping, process, said + 1))
            began = time.monotonic()
            if len(signals) > 1:
                assert process.running, process.said()
                process.signal(signals[1])
            code = await asyncio.to_thread(process.wait, GRACE_S * 2)
            assert code == (1 if len(signals) > 1 else 0), process.said()
            assert len(signals) == 1 or time.monotonic() - began < AT_ONCE_S
            own_kafka.resume()
        process = bridge(tmp_path, path)
        await asyncio.to_thread(wait_for, "the last start", lambda: ready(path), 90.0)
        await asyncio.to_thread(put, f"{url}/sandbox/rates", STILL)
        result = await asyncio.to_thread(command, "verify", "-c", str(path), "--online")
        assert result.returncode == 0, result.stdout + result.stderr + process.said()
        assert "0 lost, 0 doubled, 0 out of order" in result.stdout
        assert await asyncio.to_thread(process.terminate) == 0, process.said()
