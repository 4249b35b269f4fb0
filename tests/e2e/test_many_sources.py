"""Two hundred sources in one process: all are read, all are whole, and none is asked much more often than another."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support.processes import bridge, command, config, get, listen_of, sandbox, wait_for

SOURCES = 200
CUSTOMERS = 20
TAGS = 5
SHARDS = 8

READ_S = 120.0
"""For the first reading, on a machine that does other things too."""

LOOK_S = 1.0
"""Between two looks at the metrics: writing thousands of series is work for the process that is looked at."""

REQUESTS = re.compile(
    r'^bridge_api_requests_total\{endpoint="customers\.list",source="([^"]+)",status="2xx"\} ([0-9.e+]+)$', re.MULTILINE
)


def asked(origin: str) -> dict[str, int]:
    """Answered requests for customers, by source."""
    with urllib.request.urlopen(f"{origin}/metrics", timeout=30) as answer:
        return {source: int(float(count)) for source, count in REQUESTS.findall(answer.read().decode())}


def polled(origin: str, times: int) -> list[int]:
    """How often each source is asked until each has been asked so many times."""
    before, began = asked(origin), time.monotonic()
    assert len(before) == SOURCES
    while True:
        time.sleep(LOOK_S)
        polls = [count - before[source] for source, count in asked(origin).items()]
        if min(polls) >= times:
            return polls
        assert time.monotonic() - began < READ_S, f"asked {sorted(polls)} times"


@pytest.mark.timeout(400)
def test_two_hundred_sources_are_whole_and_polled_equally_often(
    tmp_path: Path, bootstrap_servers: str, bridge_name: str
) -> None:
    with sandbox(tmp_path, "--customers", str(CUSTOMERS), "--tags", str(TAGS)) as url:
        path = config(tmp_path, bootstrap_servers, bridge_name, url, sources=SOURCES, shards=SHARDS)
        path.write_text(path.read_text().replace('poll_interval = "500ms"', 'poll_interval = "2s"'))
        process = bridge(tmp_path, path)
        origin = listen_of(path)

        def all_read() -> bool:
            assert process.running, process.said()
            _, status = get(f"{origin}/ready")
            sources = (status or {}).get("sources", ())
            return len(sources) == SOURCES and all(source["ready"] and source["staleness_s"] < 5 for source in sources)

        wait_for("all sources to be read", all_read, READ_S)
        polls = polled(origin, 3)
        assert max(polls) <= 2 * min(polls)
        assert process.terminate() == 0, process.said()
        result = command("verify", "-c", str(path), "--json")
        assert result.returncode == 0, result.stdout + result.stderr
        figures = json.loads(result.stdout.splitlines()[-1])["figures"]
        # All of them see the same customers and tags, so each has one event for each, and no other.
        assert figures["sources"] == SOURCES
        assert figures["events"] == figures["keys"] == SOURCES * (CUSTOMERS + TAGS)
