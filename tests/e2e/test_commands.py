"""Signals and commands through a real Kafka, one id twice, and kills in between."""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
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


TOKEN = "token-of-the-commands"


def order(path: Path, value: dict[str, Any]) -> int:
    """Send a command over HTTP; the status, 0 for none. `Any`: JSON."""
    request = urllib.request.Request(
        f"{listen_of(path)}/sources/{SOURCE}/commands",
        json.dumps(value).encode(),
        {"Authorization": f"Bearer {TOKEN}"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def known(path: Path, collection: str) -> list[str]:
    """The uids in the state."""
    result = command("state", "-c", str(path), "list", "--collection", collection, "--json")
    return [json.loads(line)["key"].split("/", 2)[2] for line in result.stdout.splitlines()]


@pytest.mark.timeout(280)
def test_commands_outlive_kills_and_each_is_answered_once(
    tmp_path: Path, bootstrap_servers: str, bridge_name: str
) -> None:
    with sandbox(tmp_path, "--customers", "100", "--tags", "3", "--switch", "latency_ms=10") as url:
        path = config(tmp_path, bootstrap_servers, bridge_name, url, shards=SHARDS)
        more = f'collections = ["customers", "tags", "memberships"]\ncommand_token = "{TOKEN}"\n'
        path.write_text(path.read_text() + more)
        process = bridge(tmp_path, path)
        customers_known = 'bridge_store_documents{collection="customers"'
        wait_for("the bridge", lambda: ready(path) and metric(path, customers_known) == 100)
        customers, tag = known(path, "customers"), known(path, "tags")[0]
        ids = tmp_path / "ids.txt"
        ids.write_text("\n".join(customers[:60]))
        arguments = ["-c", str(path), SOURCE, tag, "no-such-customer", "--file", str(ids), "--id", "the-tag"]
        assert command("send", "tag", *arguments).returncode == 0
        for number in range(24):
            value = {
                "kind": "rename",
                "customer": customers[number],
                "new_customer_id": f"new/{number}",
                "id": f"r{number}",
            }
            wait_for("202", lambda value=value: order(path, value) == 202)  # type: ignore[misc]
            if number in (3, 12):
                process.kill()
                shutil.rmtree(tmp_path / "data-a")
                process = bridge(tmp_path, path)
        outcome = command("send", "tag", *arguments, "--wait", "--timeout", "90s", "--json")
        assert outcome.returncode == 1, "partly"
        said = json.loads(outcome.stdout.splitlines()[-1])
        assert (said["outcome"], said["count"]) == ("partly", 60)
        assert said["others"] == [{"why": "unknown", "count": 1, "uids": ["no-such-customer"]}]
        last = ("-c", str(path), SOURCE, customers[23], "new/23", "--id", "r23", "--wait", "--json")
        assert json.loads(command("send", "rename", *last).stdout.splitlines()[-1])["outcome"] == "applied"
        assert order(path, {"kind": "approve"}) == 400
        assert order(path, {}) == 400
        result = command("verify", "-c", str(path), "--online")
        assert result.returncode == 0, result.stdout + result.stderr
        assert process.terminate() == 0, process.said()
    answered = _records(bootstrap_servers, bridge_name, "outcomes")
    assert sorted(key for key, _ in answered) == sorted(["the-tag", *(f"r{number}" for number in range(24))])
    renamed = [value for _, value in _records(bootstrap_servers, bridge_name, "customers") if "from" in value]
    assert sorted(value["to"] for value in renamed) == sorted(f"new/{number}" for number in range(24))
    assert {value["cause"].get("ref") for value in renamed} & {f"r{number}" for number in range(24)}


def _records(bootstrap: str, name: str, topic: str) -> list[tuple[str, dict[str, Any]]]:
    """Keys and values of a topic, with another client. `Any`: JSON."""
    options = {"bootstrap.servers": bootstrap, "group.id": f"{name}-{topic}", "auto.offset.reset": "earliest"}
    consumer = Consumer({**options, "isolation.level": "read_committed"})
    consumer.subscribe([f"{name}.{topic}"])
    found: list[tuple[str, dict[str, Any]]] = []
    try:
        silent = 0
        while silent < 8 or not found:
            message = consumer.poll(0.5)
            if message is None:
                silent += 1
                continue
            found.append(((message.key() or b"").decode(), json.loads(message.value() or b"")))
    finally:
        consumer.close()
    return found
