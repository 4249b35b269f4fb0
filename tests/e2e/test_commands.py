"""Signals through a real Kafka: pause, resume, resync, one id twice, and a kill in between."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer

from bridge.model import instant
from tests.support.processes import (
    bridge,
    command,
    config,
    get,
    listen_of,
    put,
    ready,
    sandbox,
    source_ids,
    wait_for,
)

SHARDS = 4
SOURCE = source_ids(1, SHARDS)[0]
BUSY = {"sign_up": 600, "edit": 1200, "tag_create": 60}
STILL = dict.fromkeys(BUSY, 0)


def signal(path: Path, kind: str, *more: str, code: int = 0) -> dict[str, Any]:
    """Send one and wait; its outcome. `Any`: JSON."""
    result = command(kind, "-c", str(path), SOURCE, *more, "--wait", "--json")
    assert result.returncode == code, result.stdout + result.stderr
    outcome: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return outcome


def requests(url: str) -> int:
    """How many the provider has answered."""
    _, statistics = get(f"{url}/sandbox/stats")
    return sum(statistics["requests"].values())


def paused(path: Path) -> list[str]:
    _, status = get(f"{listen_of(path)}/ready")
    row = next(row for row in status["sources"] if row["source"] == SOURCE)
    return list(row["paused"])


def metric(path: Path, name: str) -> float:
    """The largest value of a metric."""
    with urllib.request.urlopen(f"{listen_of(path)}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return max((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name)), default=0.0)


@pytest.mark.timeout(280)
def test_signals_outlive_a_kill_and_are_done_once(tmp_path: Path, bootstrap_servers: str, bridge_name: str) -> None:
    with sandbox(tmp_path, "--customers", "300", "--switch", "timestamp_precision=milliseconds") as url:
        put(f"{url}/sandbox/rates", BUSY)
        path = config(tmp_path, bootstrap_servers, bridge_name, url, shards=SHARDS)
        process = bridge(tmp_path, path)
        wait_for("the bridge", lambda: ready(path))

        first = signal(path, "pause", "--id", "the-pause")
        assert (first["outcome"], first["detail"]) == ("applied", "paused")
        wait_for("it to say so", lambda: paused(path) == ["customers", "tags"])
        asked = requests(url)
        time.sleep(2.0)  # four poll intervals
        assert requests(url) == asked, "a paused source asks nothing"
        assert metric(path, "bridge_staleness_seconds") > 2.0

        process.kill()
        shutil.rmtree(tmp_path / "data-a")
        process = bridge(tmp_path, path)
        wait_for("the restart", lambda: ready(path))
        wait_for("it to say so again", lambda: paused(path) == ["customers", "tags"])
        time.sleep(1.0)
        assert requests(url) == asked, "also after a kill, with an empty disk"

        assert signal(path, "resume")["detail"] == "it goes on"
        wait_for("requests", lambda: requests(url) > asked)
        assert signal(path, "pause", "--id", "the-pause") == first, "the same id: the first outcome"
        assert signal(path, "pause", "customers", "--id", "the-pause", code=1)["collection"] is None
        time.sleep(1.0)
        assert paused(path) == [], "and no second effect"

        assert signal(path, "resync", "customers")["outcome"] == "applied"
        assert signal(path, "approve")["count"] == 0
        assert metric(path, "bridge_commands_total") > 0
        put(f"{url}/sandbox/rates", STILL)
        result = command("verify", "-c", str(path), "--online")
        assert result.returncode == 0, result.stdout + result.stderr
        assert process.terminate() == 0, process.said()
        _check_topics(bootstrap_servers, bridge_name)


def _check_topics(bootstrap: str, name: str) -> None:
    """With another client: one outcome per id, and watermarks that only grow."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"{name}-check",
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    consumer.subscribe([f"{name}.outcomes", f"{name}.progress"])
    ids: list[str] = []
    moments: dict[str, list[int]] = {}
    try:
        silent = 0
        while silent < 8 or not moments:
            message = consumer.poll(0.5)
            if message is None:
                silent += 1
                continue
            key = (message.key() or b"").decode()
            if message.topic() == f"{name}.outcomes":
                ids.append(key)
            else:
                value = json.loads(message.value() or b"")
                moments.setdefault(key, []).append(instant(value["complete_until"]))
    finally:
        consumer.close()
    assert len(ids) == len(set(ids)) == 4
    assert moments.keys() == {f"{SOURCE}/customers", f"{SOURCE}/tags"}
    for found in moments.values():
        assert found == sorted(set(found))
