"""What a broker does to a running bridge: away at start (K01), killed (K02), restarted (K03), frozen (K04).

After each: nothing lost, nothing twice, without a person.
"""

from __future__ import annotations

import asyncio
import os
import signal
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from bridge.sandbox.kafka import KafkaSettings, LocalKafka
from tests.support.processes import Process, bridge, command, config, free_port, get, listen_of, put, ready, sandbox

RATES = {"sign_up": 600, "edit": 6000, "rename": 300, "delete": 300, "tag_create": 60, "tag_delete": 30}
STILL = dict.fromkeys(RATES, 0)
RECOVERY_S = 90.0

REQUEST_TIMEOUT_S = 2.0
"""After this a client gives up a batch whose partition has no leader; 30 s by default."""


PORT = free_port()


@pytest.fixture
async def kafka_at() -> AsyncIterator[LocalKafka]:
    """A broker on a known port that the test starts itself."""
    kafka = LocalKafka(KafkaSettings(port=PORT, heap_mib=384))
    yield kafka
    await kafka.stop()


async def until(what: str, condition: Callable[[], bool], timeout_s: float = RECOVERY_S) -> None:
    """Like `wait_for`, with the loop free."""
    async with asyncio.timeout(timeout_s):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.1)


def published(path: Path) -> float:
    """Events by the bridge's own count; only to see that it moves."""
    with urllib.request.urlopen(f"{listen_of(path)}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("bridge_events_published_total{"))


async def proved(path: Path, url: str, process: Process) -> None:
    """The world stands still, the bridge catches up, and everything is right."""
    await asyncio.to_thread(put, f"{url}/sandbox/rates", STILL)
    result = await asyncio.to_thread(command, "verify", "-c", str(path), "--online")
    assert result.returncode == 0, result.stdout + result.stderr + process.said()
    assert await asyncio.to_thread(process.terminate) == 0, process.said()
    assert "Traceback" not in process.said()


@pytest.mark.timeout(200)
@pytest.mark.kafka
async def test_a_broker_that_comes_late(tmp_path: Path, kafka_at: LocalKafka, bridge_name: str) -> None:
    with sandbox(tmp_path, "--customers", "200") as url:
        path = config(tmp_path, f"127.0.0.1:{PORT}", bridge_name, url)
        process = bridge(tmp_path, path)
        await until("it listens", lambda: get(f"{listen_of(path)}/live")[0] == 200)
        await asyncio.sleep(3)  # long enough for it to have tried
        status, body = get(f"{listen_of(path)}/ready")
        assert status == 503
        assert "refused" in body["kafka"]
        assert process.running
        await kafka_at.start()
        await until("it is ready", lambda: ready(path))
        await proved(path, url, process)


async def kill_and_start(kafka: LocalKafka) -> None:
    kafka.kill()
    await asyncio.sleep(3)
    await kafka.start()


async def stop_and_start(kafka: LocalKafka) -> None:
    """In good order: the broker gives up its leaderships first, and is away for longer than a request may take."""
    os.kill(kafka.pid, signal.SIGTERM)
    await until("it is gone", lambda: not kafka.running)
    await asyncio.sleep(REQUEST_TIMEOUT_S)
    await kafka.start()


async def freeze(kafka: LocalKafka) -> None:
    kafka.pause()
    await asyncio.sleep(20)
    kafka.resume()


@pytest.mark.timeout(280)
@pytest.mark.kafka
@pytest.mark.parametrize("fault", [kill_and_start, stop_and_start, freeze])
async def test_a_broker_that_fails_under_load(
    tmp_path: Path, kafka_at: LocalKafka, bridge_name: str, fault: Callable[[LocalKafka], Awaitable[None]]
) -> None:
    await kafka_at.start()
    with sandbox(tmp_path, "--customers", "500", "--switch", "timestamp_precision=milliseconds") as url:
        path = config(tmp_path, f"127.0.0.1:{PORT}", bridge_name, url)
        if fault is stop_and_start:
            path.write_text(path.read_text().replace("[bridge]", f"request_timeout_s = {REQUEST_TIMEOUT_S}\n[bridge]"))
        process = bridge(tmp_path, path)
        await until("it is ready", lambda: ready(path))
        await asyncio.to_thread(put, f"{url}/sandbox/rates", RATES)
        await asyncio.sleep(2)
        await fault(kafka_at)
        before = published(path)
        await until("it publishes again", lambda: ready(path) and published(path) > before)
        await proved(path, url, process)
