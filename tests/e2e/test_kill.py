"""kill -9, again and again, while customers change: nothing lost, nothing twice, nothing out of order.

Also a script: `python tests/e2e/test_kill.py [KILLS]` runs the first test with that many kills.
"""

from __future__ import annotations

import random
import shutil
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes import bridge, command, config, get, listen_of, put, ready, sandbox, wait_for

KILLS = 10
RATES = {"sign_up": 600, "edit": 3000, "rename": 300, "delete": 300, "tag_create": 60, "tag_delete": 30}
"""Changes per minute."""

STILL = dict.fromkeys(RATES, 0)


def kill_and_restart(folder: Path, bootstrap: str, name: str, kills: int, seed: int = 1) -> str:
    """Kill a bridge `kills` times, its cache removed every other time; the output of the final `verify --online`."""
    rng = random.Random(seed)
    with sandbox(folder, "--customers", "3000", "--switch", "timestamp_precision=milliseconds") as url:
        put(f"{url}/sandbox/rates", RATES)
        path = config(folder, bootstrap, name, url)
        process = bridge(folder, path)
        wait_for("the first start", lambda: ready(path))
        for number in range(kills):
            time.sleep(rng.uniform(0.0, 3.0))
            assert process.running, process.said()
            process.kill()
            if number % 2:
                shutil.rmtree(folder / "data-a")
            process = bridge(folder, path)
            if number % 3:  # every third time it is killed again while it starts
                wait_for("the restart", lambda: ready(path))
        wait_for("the last restart", lambda: ready(path))
        alive = command("verify", "-c", str(path), "--online")
        assert alive.returncode == 0, alive.stdout + alive.stderr
        put(f"{url}/sandbox/rates", STILL)
        still = command("verify", "-c", str(path), "--online")
        assert still.returncode == 0, still.stdout + still.stderr
        assert process.terminate() == 0, process.said()
        return still.stdout


@pytest.mark.timeout(400)
def test_ten_kills_while_customers_change(tmp_path: Path, bootstrap_servers: str, bridge_name: str) -> None:
    output = kill_and_restart(tmp_path, bootstrap_servers, bridge_name, KILLS)
    assert "verify: ok" in output


@pytest.mark.timeout(200)
def test_the_sources_of_a_killed_process_move(tmp_path: Path, bootstrap_servers: str, bridge_name: str) -> None:
    with sandbox(tmp_path, "--customers", "500", "--switch", "timestamp_precision=milliseconds") as url:
        put(f"{url}/sandbox/rates", RATES)
        paths = [config(tmp_path, bootstrap_servers, bridge_name, url, sources=4, shards=4, label=x) for x in "ab"]
        first = bridge(tmp_path, paths[0])
        wait_for("the first process", lambda: ready(paths[0]))
        second = bridge(tmp_path, paths[1])
        wait_for("the second process", lambda: ready(paths[1]) and len(owned(paths[1])) > 0)
        wait_for("both to own some", lambda: ready(paths[0]) and len(owned(paths[0])) + len(owned(paths[1])) == 4)
        assert len(owned(paths[0])) < 4
        first.kill()
        took = wait_for("the take-over", lambda: len(owned(paths[1])) == 4 and ready(paths[1]))
        assert took < 15.0
        put(f"{url}/sandbox/rates", STILL)
        result = command("verify", "-c", str(paths[1]), "--online")
        assert result.returncode == 0, result.stdout + result.stderr
        assert second.terminate() == 0, second.said()


@pytest.mark.timeout(120)
def test_sigterm_drains_and_a_second_one_exits_at_once(
    tmp_path: Path, bootstrap_servers: str, bridge_name: str
) -> None:
    with sandbox(tmp_path, "--customers", "2000") as url:
        path = config(tmp_path, bootstrap_servers, bridge_name, url)
        process = bridge(tmp_path, path)
        wait_for("the snapshot to begin", lambda: ready(path))
        assert process.terminate() == 0, process.said()
        assert "Traceback" not in process.said()
        assert command("verify", "-c", str(path)).returncode == 0


def owned(path: Path) -> set[str]:
    """The sources that the bridge of this configuration owns and reads."""
    _, status = get(f"{listen_of(path)}/ready")
    return {
        source["source"] for source in (status or {}).get("sources", ()) if source["owned_here"] and source["ready"]
    }


if __name__ == "__main__":
    import asyncio
    import tempfile

    from bridge.sandbox.kafka import LocalKafka

    async def main() -> None:
        """A Kafka of its own."""
        async with LocalKafka() as kafka:
            kills = int(sys.argv[1]) if len(sys.argv) > 1 else KILLS
            with tempfile.TemporaryDirectory() as folder:
                print(kill_and_restart(Path(folder), kafka.bootstrap_servers, "kill", kills, seed=int(time.time())))

    asyncio.run(main())
