"""`bridge plan` against a real Kafka: before and after a change of the essence, and of one at the provider."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from bridge.clock import SystemClock
from bridge.config import load
from bridge.publish.reading import At, PartitionReader
from bridge.publish.topics import TopicPlan
from tests.support.processes import SECRET, Process, bridge, command, config, ready, sandbox, wait_for

RELEASE = [sys.executable, "-m", "tests.support.release"]
CUSTOMERS = 120
BASE = "/v1/accounts/T12345678"


def call(url: str, method: str, path: str, authorization: str, value: object = None) -> Any:
    """The provider's own API. `Any`: JSON."""
    request = urllib.request.Request(
        f"{url}{BASE}{path}",
        method=method,
        data=None if value is None else json.dumps(value).encode(),
        headers={"Authorization": authorization, "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())


def edit_one(url: str) -> str:
    """One customer gets another name; its uid."""
    audience = "https://api.dintero.com/v1/accounts/T12345678"
    login = {"grant_type": "client_credentials", "audience": audience}
    basic = "Basic " + base64.b64encode(b"sandbox:sandbox-secret").decode()
    token = "Bearer " + call(url, "POST", "/auth/token", basic, login)["access_token"]
    customer = call(url, "GET", "/customers/users?limit=1", token)[0]
    call(url, "PUT", f"/customers/users/{customer['customer_id']}", token, {**customer, "first_name": "Ada Canary"})
    uid: str = customer["id"]
    return uid


def ends(path: Path) -> dict[At, int]:
    """Of every partition of every topic, whatever is written or undecided."""

    async def main() -> dict[At, int]:
        settings = load(path)
        plan = TopicPlan(settings.bridge.name, settings.bridge.shards, settings.kafka.partitions)
        async with PartitionReader(settings.kafka, SystemClock()) as reader:
            return await reader.log_ends(await reader.partitions([topic.name for topic in plan.declared()]))

    return asyncio.run(main())


def planned(path: Path, folder: Path, release: int = 1, *more: str) -> str:
    """What it says."""
    output = folder / f"plan-{release}-{len(list(folder.glob('plan-*')))}.log"
    env = {**SECRET, "RELEASE": str(release)}
    process = Process(output, "plan", "-c", str(path), *more, env=env, program=RELEASE)
    assert process.wait(60.0) == 0, process.said()
    return output.read_text()


@pytest.mark.timeout(200)
def test_a_plan_says_what_would_be_published_and_writes_nothing(
    tmp_path: Path, bootstrap_servers: str, bridge_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANDBOX_SECRET", SECRET["SANDBOX_SECRET"])
    with sandbox(tmp_path, "--customers", str(CUSTOMERS), "--seed", "7") as url:
        path = config(tmp_path, bootstrap_servers, bridge_name, url)
        running = bridge(tmp_path, path)
        wait_for("everything read", lambda: ready(path) and state_rows(path) == CUSTOMERS)
        assert running.terminate() == 0, running.said()
        before = ends(path)

        assert "It would publish nothing." in planned(path, tmp_path)

        said = planned(path, tmp_path, 2)
        assert f"re-based without an event  {CUSTOMERS}" in said
        assert f"It would come to 0 events, {CUSTOMERS} re-based without an event." in said

        uid = edit_one(url)
        said = planned(path, tmp_path)
        assert "bridge.customer.updated.v1  1" in said
        assert f"  {said_key(path, uid)}  /first_name" in said
        assert "It would come to 1 events." in said
        assert "Canary" not in said
        rows = [json.loads(line) for line in planned(path, tmp_path, 2, "--json").splitlines()]
        assert [(row["collection"], row["events"], row["rebased"]) for row in rows] == [
            ("customers", {"bridge.customer.updated.v1": 1}, CUSTOMERS - 1),
            ("tags", {}, 0),
        ]
        assert ends(path) == before

        # And so it comes.
        newer = Process(tmp_path / "newer.log", "run", "-c", str(path), env={**SECRET, "RELEASE": "2"}, program=RELEASE)
        wait_for("the newer release", lambda: "It would publish nothing." in planned(path, tmp_path, 2))
        assert newer.terminate() == 0, newer.said()
        tail = command("verify", "-c", str(path))
        assert tail.returncode == 0, tail.stdout + tail.stderr
        events = sum(number - before[at] for at, number in ends(path).items() if at[0].endswith(".customers"))
        assert events == 2  # the event and the marker of its transaction


def state_rows(path: Path) -> int:
    result = command("state", "-c", str(path), "list", "--collection", "customers")
    return len(result.stdout.splitlines())


def said_key(path: Path, uid: str) -> str:
    return f"{load(path).sources[0].id}/{uid}"


@pytest.mark.timeout(60)
def test_a_plan_without_topics_or_provider_is_the_environment(
    tmp_path: Path, bootstrap_servers: str, bridge_name: str
) -> None:
    path = config(tmp_path, bootstrap_servers, bridge_name, "http://127.0.0.1:1")
    result = command("plan", "-c", str(path))
    assert result.returncode == 3, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert f"{bridge_name}.state" in result.stderr
