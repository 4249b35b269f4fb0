"""Memberships through real processes and a real Kafka, a kill in the middle included: `verify` has the word."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support.processes import bridge, command, config, listen_of, put, ready, sandbox, wait_for

BUSY_S = 8.0
KNOWN = re.compile(r'^bridge_store_documents\{collection="memberships",source="[^"]+"\} ([0-9.e+]+)$', re.MULTILINE)
RATES = {"edit": 120, "tag": 600, "untag": 600, "sign_up": 60, "delete": 30, "rename": 60, "tag_create": 6}
STILL = dict.fromkeys(RATES, 0) | {"tag_delete": 0}


@pytest.mark.timeout(300)
def test_every_edge_of_a_living_population_is_told(tmp_path: Path, bootstrap_servers: str, bridge_name: str) -> None:
    with sandbox(tmp_path, "--customers", "400", "--tags", "8") as url:
        path = config(tmp_path, bootstrap_servers, bridge_name, url)
        text = path.read_text() + 'collections = ["customers", "tags", "memberships"]\nsweep_interval = "10s"\n'
        path.write_text(text)
        process = bridge(tmp_path, path)
        wait_for("the first reading", lambda: edges(path) > 0 and ready(path))
        put(f"{url}/sandbox/rates", {**RATES, "tag_delete": 6})
        time.sleep(BUSY_S)
        process.kill()
        process = bridge(tmp_path, path)
        wait_for("the next life", lambda: ready(path) or not process.running)
        time.sleep(BUSY_S)
        put(f"{url}/sandbox/rates", STILL)
        proof = command("verify", "-c", str(path), "--online", "--json", "--wait", "90", timeout_s=200)
        assert proof.returncode == 0, proof.stdout + proof.stderr + process.said()
        assert json.loads(proof.stdout)["figures"]["provider memberships"] > 0
        told = command("tail", "-c", str(path), "customer.*tagged", "--from", "beginning", "--no-follow")
        assert "customer.untagged" in told.stdout
        assert "/tags" in told.stdout
        assert process.terminate() == 0, process.said()


def edges(path: Path) -> int:
    """How many memberships the bridge says it knows."""
    try:
        with urllib.request.urlopen(f"{listen_of(path)}/metrics", timeout=5) as answer:
            found = KNOWN.search(answer.read().decode())
    except OSError:
        return 0
    return int(float(found[1])) if found else 0
