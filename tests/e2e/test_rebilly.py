"""A bulk of tags at Rebilly, from the command line to the topics: what was seen counts, and all of it is told once."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import bridge, command, get, rebilly_config, rebilly_of, sandbox, serves, wait_for

COUNT = 5_000
SOURCE = "billing"


def api(url: str, path: str) -> Any:
    """What the provider answers. `Any`: JSON."""
    request = urllib.request.Request(f"{rebilly_of(url)}{path}", headers={"REB-APIKEY": "sandbox-key"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def a_tag(url: str) -> str:
    found: str = api(url, "/tags?filter=type:customer&limit=1")[0]["id"]
    return found


def bulk_calls(url: str) -> int:
    _, statistics = get(f"{rebilly_of(url)}/sandbox/stats")
    requests: dict[str, int] = statistics["requests"]
    return sum(count for name, count in requests.items() if name.startswith("bulk"))


@pytest.mark.timeout(280)
@pytest.mark.parametrize(
    ("switches", "result"),
    [(("bulk_delay=60",), "applied"), (("bulk_lost=true",), "unconfirmed"), ((), "partly")],
    ids=["after a minute", "one is lost", "some are unknown"],
)
def test_five_thousand_are_tagged_by_five_calls(
    tmp_path: Path, bootstrap_servers: str, bridge_name: str, switches: tuple[str, ...], result: str
) -> None:
    options = [word for switch in switches for word in ("--switch", f"rebilly.{switch}")]
    with sandbox(tmp_path, "--provider", "rebilly", "--customers", "6000", "--tags", "8", *options) as url:
        path = rebilly_config(tmp_path, bootstrap_servers, bridge_name, url, source=SOURCE)
        process = bridge(tmp_path, path)
        wait_for("the first reading", lambda: serves(path) and process.running)
        tag = a_tag(url)
        listed = command("state", "-c", str(path), "list", "--collection", "customers", "--json")
        uids = [json.loads(line)["key"].rpartition("/")[2] for line in listed.stdout.splitlines()][:COUNT]
        assert len(uids) == COUNT, listed.stdout[-500:] + listed.stderr
        if result == "partly":
            uids[100:103] = ["cus_nobody_1", "cus_nobody_2", "cus_nobody_3"]
        ids = tmp_path / "ids.txt"
        ids.write_text("\n".join(uids))
        sent = command(
            "send", "tag", "-c", str(path), SOURCE, tag, "--file", str(ids), "--confirm-within", "90s",
            "--wait", "--timeout", "200s", "--json", timeout_s=220,
        )  # fmt: skip
        outcome = json.loads(sent.stdout.splitlines()[-1])
        assert outcome["outcome"] == result, sent.stdout + sent.stderr + process.said()
        assert bulk_calls(url) == 5
        others = {other["why"]: other["count"] for other in outcome.get("others", [])}
        assert others == {"applied": {}, "unconfirmed": {"unconfirmed": 1}, "partly": {"unknown": 3}}[result]
        assert outcome["count"] == COUNT - sum(others.values())
        checked = command("verify", "-c", str(path), "--online")
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert process.terminate() == 0, process.said()
