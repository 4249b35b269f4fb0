"""A bulk of tags at Rebilly, from the command line to the topics: what was seen counts, and all of it is told once."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from tests.support.processes import (
    QUOTE_CHARS,
    bridge,
    command,
    get,
    rebilly_config,
    rebilly_of,
    sandbox,
    serves,
    wait_for,
)

COUNT = 5_000
SOURCE = "billing"


def new_tag(url: str) -> str:
    """Nobody has it."""
    headers = {"REB-APIKEY": "sandbox-key", "Content-Type": "application/json"}
    body = json.dumps({"name": "of this test", "type": "customer"}).encode()
    request = urllib.request.Request(f"{rebilly_of(url)}/tags", body, headers, method="POST")
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: str = json.load(answer)["id"]
    return found


def known(path: Path, collection: str) -> list[str]:
    """The uids in the state."""
    listed = command("state", "-c", str(path), "list", "--collection", collection, "--json")
    return [json.loads(line)["key"].rpartition("/")[2] for line in listed.stdout.splitlines()]


def bulk_calls(url: str) -> int:
    _, statistics = get(f"{rebilly_of(url)}/sandbox/stats")
    requests: dict[str, int] = statistics["requests"]
    return sum(count for name, count in requests.items() if name.startswith("bulk"))


@pytest.mark.timeout(280)
@pytest.mark.parametrize(
    ("switch", "within", "result"),
    [("bulk_delay=60", "90s", "applied"), ("bulk_lost=true", "15s", "partly")],
    ids=["after a minute", "one is lost and some are unknown"],
)
def test_five_thousand_are_tagged_by_five_calls(
    tmp_path: Path, bootstrap_servers: str, bridge_name: str, switch: str, within: str, result: str
) -> None:
    options = ("--customers", "6000", "--tags", "8", "--switch", f"rebilly.{switch}")
    with sandbox(tmp_path, "--provider", "rebilly", *options) as url:
        path = rebilly_config(tmp_path, bootstrap_servers, bridge_name, url, source=SOURCE)
        process = bridge(tmp_path, path)
        wait_for("the first reading", lambda: serves(path) and process.running)
        tag = new_tag(url)
        wait_for("the tag to be known", lambda: tag in known(path, "tags"))
        uids = known(path, "customers")[:COUNT]
        assert len(uids) == COUNT
        if result == "partly":
            uids[100:103] = ["cus_nobody_1", "cus_nobody_2", "cus_nobody_3"]
        ids = tmp_path / "ids.txt"
        ids.write_text("\n".join(uids))
        sent = command(
            "send", "tag", "-c", str(path), SOURCE, tag, "--file", str(ids), "--confirm-within", within,
            "--wait", "--timeout", "200s", "--json", timeout_s=220,
        )  # fmt: skip
        outcome = json.loads(sent.stdout.splitlines()[-1])
        assert outcome["outcome"] == result, sent.stdout[-QUOTE_CHARS:] + sent.stderr + process.said()
        assert bulk_calls(url) == 5
        others = {other["why"]: other["count"] for other in outcome.get("others", [])}
        assert others == {"applied": {}, "partly": {"unconfirmed": 1, "unknown": 3}}[result]
        assert outcome["count"] == COUNT - sum(others.values())
        checked = command("verify", "-c", str(path), "--online")
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert process.terminate() == 0, process.said()
