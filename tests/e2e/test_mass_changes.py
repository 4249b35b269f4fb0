"""A great many changes at once, by real processes: what is too much waits for a person, what is legitimate is exact."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.account import Account
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

CUSTOMERS = 1_000
RENAMED = 1_000
TAGS_EACH = 20
SOURCE = source_ids(1, 4)[0]
COLLECTIONS = 'collections = ["customers", "tags", "memberships"]'


def post(url: str, value: object) -> Any:
    """`Any`: JSON."""
    request = urllib.request.Request(url, json.dumps(value).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def events(path: Path) -> list[dict[str, Any]]:
    """Everything that is published by now. `Any`: JSON."""
    done = command("tail", "-c", str(path), "--from", "beginning", "--no-follow", "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def types(path: Path) -> Counter[str]:
    return Counter(event["type"].removeprefix("bridge.").removesuffix(".v1") for event in events(path))


def held(path: Path) -> int:
    _, status = get(f"{listen_of(path)}/ready")
    [source] = (status or {}).get("sources") or [{}]
    return int(source.get("held", {}).get("customers", {}).get("deletions", 0))


def metric(path: Path, line: str) -> float | None:
    with urllib.request.urlopen(f"{listen_of(path)}/metrics", timeout=10) as answer:
        found = [text for text in answer.read().decode().splitlines() if text.startswith(line)]
    return float(found[0].rpartition(" ")[2]) if found else None


def verified(path: Path) -> None:
    done = command("verify", "-c", str(path), "--online", "--wait", "90", timeout_s=200)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(280)
def test_a_third_of_the_customers_is_held_until_approved_and_then_exactly_those_go(
    tmp_path: Path, bootstrap_servers: str, bridge_name: str
) -> None:
    with sandbox(tmp_path, "--customers", str(CUSTOMERS), "--switch", "timestamp_precision=milliseconds") as url:
        path = config(tmp_path, bootstrap_servers, bridge_name, url, delete_share="5%")
        process = bridge(tmp_path, path)
        wait_for("the first reading", lambda: ready(path) and metric(path, "bridge_store_documents") == CUSTOMERS)
        number = get(f"{url}/sandbox/stats")[1]["truth"]
        gone = post(f"{url}/sandbox/mass-delete", {"share": 0.3})["deleted"]
        wait_for("the deletions to be held", lambda: held(path) == gone)
        assert types(path)["customer.deleted"] == 0
        assert metric(path, f'bridge_deletions_held{{collection="customers",source="{SOURCE}"}}') == gone
        listed = command("state", "-c", str(path), "list", "--held", "--json")
        truth = get(f"{url}/sandbox/truth?after={number}")[1]
        uids = {entry["uid"] for entry in truth if entry["kind"] == "deleted"}
        assert {json.loads(line)["key"] for line in listed.stdout.splitlines()} == {
            f"{SOURCE}/customers/{uid}" for uid in uids
        }
        approved = command("approve", "-c", str(path), SOURCE, "customers", "--wait")
        assert approved.returncode == 0, approved.stdout + approved.stderr
        wait_for("the deletions", lambda: types(path)["customer.deleted"] == gone)
        told = [event["data"]["key"] for event in events(path) if "deleted" in event["type"]]
        assert sorted(told) == sorted(f"{SOURCE}/{uid}" for uid in uids)
        verified(path)
        assert held(path) == 0
        assert process.terminate() == 0, process.said()


@pytest.mark.timeout(290)
def test_a_thousand_renames_of_customers_with_twenty_tags_are_a_thousand_events(
    tmp_path: Path, bootstrap_servers: str, bridge_name: str
) -> None:
    switches = ("--switch", "timestamp_precision=milliseconds", "--customers", str(RENAMED), "--tags", str(TAGS_EACH))
    with ExitStack() as stack:
        url = stack.enter_context(sandbox(tmp_path, *switches))
        account = stack.enter_context(closing(Account(url)))
        tags = [tag["id"] for tag in account.tags()]
        customers = account.customers()
        for customer in customers:
            account.set_tags(customer["customer_id"], tags)
        path = config(tmp_path, bootstrap_servers, bridge_name, url)
        path.write_text(path.read_text() + COLLECTIONS + "\n")
        process = bridge(tmp_path, path)
        wait_for("the bridge", lambda: ready(path))
        wait_for("the first reading", lambda: types(path)["customer.tagged"] == RENAMED * TAGS_EACH, 120)
        before = types(path)
        put(f"{url}/sandbox/rates", {"edit": 600, "sign_up": 120})
        for customer in customers:
            account.rename(customer["customer_id"], f"new {customer['customer_id']}"[:255])
        put(f"{url}/sandbox/rates", {"edit": 0, "sign_up": 0})
        wait_for("the renames", lambda: types(path)["customer.renamed"] >= RENAMED)
        verified(path)
        after = types(path) - before
        assert after["customer.renamed"] == RENAMED
        assert {uid["data"]["key"] for uid in events(path) if "renamed" in uid["type"]} == {
            f"{SOURCE}/{customer['id']}" for customer in customers
        }
        assert not {"customer.tagged", "customer.untagged", "customer.deleted", "tag.updated"} & after.keys()
        assert process.terminate() == 0, process.said()
