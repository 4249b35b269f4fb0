"""Signals and commands through a real Kafka, one id twice, and kills in between.

Also a script: `python -m tests.e2e.test_commands [KILLS]` kills that often while the commands are executed.
"""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer

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
    serves,
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


KILLS = 5
CUSTOMERS = 100
RENAMES = 300
TAGGINGS = 150
COMMANDS = RENAMES + TAGGINGS + 50


def commands(customers: Sequence[str], tag: str) -> list[dict[str, Any]]:
    """Renames, each customer thrice; the tag for each and half of them not again; and some that only read."""
    found: list[dict[str, Any]] = []
    for number in range(COMMANDS):
        customer = customers[number % CUSTOMERS]
        if number < RENAMES:
            what: dict[str, Any] = {"kind": "rename", "customer": customer, "new_customer_id": f"new/{number}"}
        elif number < RENAMES + TAGGINGS:
            kind = "tag" if number < RENAMES + CUSTOMERS else "untag"
            what = {"kind": kind, "tag": tag, "customers": [customer]}
        else:
            what = {"kind": "refresh", "collection": "customers", "uids": [customer]}
        found.append({**what, "id": f"c{number}", "source": SOURCE, "sent_at": "2026-11-21T08:15:30Z"})
    return found


def kill_while_commands_run(
    folder: Path, bootstrap: str, name: str, kills: int, latency_ms: int, seed: int = 1
) -> None:
    """Five hundred of them, at a provider that takes so long for each request; the cache goes every other time."""
    rng = Random(seed)
    with sandbox(folder, "--customers", str(CUSTOMERS), "--tags", "3", "--switch", f"latency_ms={latency_ms}") as url:
        path = config(folder, bootstrap, name, url, shards=SHARDS)
        more = f'collections = ["customers", "tags", "memberships"]\ncommand_token = "{TOKEN}"\n'
        path.write_text(path.read_text() + more)
        process = bridge(folder, path)
        customers_known = 'bridge_store_documents{collection="customers"'
        wait_for("the bridge", lambda: ready(path) and metric(path, customers_known) == CUSTOMERS)
        customers, tag = known(path, "customers"), known(path, "tags")[0]
        wanted = commands(customers, tag)
        for value in wanted[:3]:
            assert order(path, value) == 202
        assert order(path, {"kind": "approve"}) == 400
        assert order(path, {}) == 400
        _send(bootstrap, f"{name}.inbox", wanted)  # the first ones once more
        for number in range(kills):
            if number % 3 == 0:  # the others may be killed while they start
                wait_for("the restart", lambda: serves(path))
            time.sleep(rng.uniform(0.5, 3.0))
            process.kill()
            if number % 2:
                shutil.rmtree(folder / "data-a", ignore_errors=True)  # it may not have come so far
            process = bridge(folder, path)
        done = sum(entry["kind"] == "untagged" for entry in _truth(url))
        assert done < TAGGINGS - CUSTOMERS, "they were over before the last kill"
        last = ("-c", str(path), SOURCE, "customers", customers[(COMMANDS - 1) % CUSTOMERS], "--id", f"c{COMMANDS - 1}")
        outcome = command("send", "refresh", *last, "--wait", "--timeout", "200s", timeout_s=220)
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr + process.said()
        result = command("verify", "-c", str(path), "--online")
        assert result.returncode == 0, result.stdout + result.stderr
        assert process.terminate() == 0, process.said()
        truth = _truth(url)
    answered = _records(bootstrap, name, "outcomes")
    assert sorted(key for key, _ in answered) == sorted(value["id"] for value in wanted)
    assert {value["outcome"] for _, value in answered} == {"applied"}
    renamed = [entry["detail"]["to"] for entry in truth if entry["kind"] == "renamed"]
    assert renamed == [f"new/{number}" for number in range(RENAMES)], "each once, in their order"
    edges = {entry["uid"]: entry["kind"] for entry in truth if entry["detail"].get("tag") == tag}
    assert {uid for uid, kind in edges.items() if kind == "untagged"} == set(customers[: TAGGINGS - CUSTOMERS])
    told = [value for _, value in _records(bootstrap, name, "customers") if "from" in value]
    assert sorted(value["to"] for value in told) == sorted(renamed)
    assert {value["cause"].get("ref") for value in told} & {value["id"] for value in wanted}


@pytest.mark.timeout(400)
def test_commands_outlive_kills_and_each_is_answered_once(
    tmp_path: Path, bootstrap_servers: str, bridge_name: str
) -> None:
    kill_while_commands_run(tmp_path, bootstrap_servers, bridge_name, KILLS, 10)


def _send(bootstrap: str, topic: str, values: Sequence[dict[str, Any]]) -> None:
    """As any client that keys by source. `Any`: JSON."""
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random"})
    for value in values:
        producer.produce(topic, json.dumps(value), SOURCE)
    assert producer.flush(30) == 0


def _truth(url: str) -> list[dict[str, Any]]:
    """All that has happened at the provider. `Any`: JSON."""
    found: list[dict[str, Any]] = []
    while True:
        _, page = get(f"{url}/sandbox/truth?after={found[-1]['number'] if found else 0}")
        if not page:
            return found
        found += page


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


if __name__ == "__main__":
    import asyncio
    import sys
    import tempfile

    from bridge.sandbox.kafka import LocalKafka

    async def main() -> None:
        """A Kafka of its own."""
        kills = int(sys.argv[1]) if len(sys.argv) > 1 else 20
        async with LocalKafka() as kafka:
            with tempfile.TemporaryDirectory() as folder:
                begun = time.time()
                servers = kafka.bootstrap_servers
                kill_while_commands_run(Path(folder), servers, "commands", kills, 60, seed=int(begun))
        print(f"{kills} kills, {COMMANDS} commands, each answered once, in {time.time() - begun:.0f} s")

    asyncio.run(main())
