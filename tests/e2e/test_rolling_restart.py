"""Two processes are stopped and started again in turn while customers change: every source goes on, nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.test_kill import RATES, STILL, owned
from tests.support.processes import bridge, command, config, get, listen_of, put, ready, sandbox, wait_for

SOURCES = 8
SHARDS = 8
ROUNDS = 1

MOVED_S = 60.0
"""For the shards to be where they shall be; some seconds on a quiet machine."""


@pytest.mark.timeout(400)
def test_processes_that_are_restarted_in_turn_hand_over_their_sources_and_lose_nothing(
    tmp_path: Path, bootstrap_servers: str, bridge_name: str
) -> None:
    with sandbox(tmp_path, "--customers", "100", "--switch", "timestamp_precision=milliseconds") as url:
        put(f"{url}/sandbox/rates", RATES)
        paths = [
            config(tmp_path, bootstrap_servers, bridge_name, url, sources=SOURCES, shards=SHARDS, label=label)
            for label in "ab"
        ]
        processes = [bridge(tmp_path, path) for path in paths]

        def shared() -> bool:
            parts = [owned(path) for path in paths]
            return all(map(ready, paths)) and all(parts) and len(parts[0] | parts[1]) == SOURCES

        wait_for("both to own some", shared, MOVED_S)
        for number in [0, 1] * ROUNDS:
            path, other = paths[number], paths[1 - number]
            assert processes[number].terminate() == 0, processes[number].said()
            wait_for("the other to own all", lambda at=other: len(owned(at)) == SOURCES, MOVED_S)  # type: ignore[misc]
            processes[number] = bridge(tmp_path, path)
            wait_for("both to own some again", shared, MOVED_S)
        put(f"{url}/sandbox/rates", STILL)
        result = command("verify", "-c", str(paths[0]), "--online")
        assert result.returncode == 0, result.stdout + result.stderr
        assert [process.terminate() for process in processes] == [0, 0]
        assert not any("unforeseen" in process.said() for process in processes)
        assert get(f"{listen_of(paths[0])}/live")[0] == 0
