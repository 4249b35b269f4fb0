"""Too little of a machine for a process (P10, P12, P19), and processes that are configured differently (P16)."""

from __future__ import annotations

import resource
import shutil
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.processes import (
    SECRET,
    Process,
    bridge,
    command,
    config,
    get,
    listen_of,
    put,
    ready,
    sandbox,
    wait_for,
)

RATES = {"sign_up": 600, "edit": 3000, "rename": 300, "delete": 300, "tag_create": 60, "tag_delete": 30}
STILL = dict.fromkeys(RATES, 0)

FILES_MAX = 64
FLOOD = 80
"""Connections; more than the process may have files."""

STARVED_S = 6.0
TURN_S = 0.5
SHARE = 0.1

MANY = 30_000
MEMORY_MIB = 256.0
"""Of a container; less than so many customers would take as objects. `make bench` reads a million."""


def proved(path: Path, url: str, process: Process) -> None:
    """The world stands still, and everything is right."""
    put(f"{url}/sandbox/rates", STILL)
    result = command("verify", "-c", str(path), "--online")
    assert result.returncode == 0, result.stdout + result.stderr + process.said()
    assert "0 lost, 0 doubled, 0 out of order" in result.stdout
    assert process.terminate() == 0, process.said()


def metric(path: Path, name: str) -> float:
    """The sum over its labels."""
    with urllib.request.urlopen(f"{listen_of(path)}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))


def few_files() -> None:
    """In the child, before it becomes the bridge."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES_MAX, FILES_MAX))


@contextmanager
def flooded(path: Path) -> Iterator[None]:
    """Connections to the listener that say nothing."""
    host, _, port = listen_of(path).removeprefix("http://").partition(":")
    with ExitStack() as stack:
        for _ in range(FLOOD):
            client = stack.enter_context(socket.socket())
            client.settimeout(1.0)
            client.connect((host, int(port)))
        yield


@pytest.mark.timeout(200)
def test_a_process_without_files_or_processor_time_is_slow_and_right(
    tmp_path: Path, bootstrap_servers: str, bridge_name: str
) -> None:
    with sandbox(tmp_path, "--customers", "500", "--switch", "timestamp_precision=milliseconds") as url:
        path = config(tmp_path, bootstrap_servers, bridge_name, url, shards=1)
        process = Process(tmp_path / "bridge-a.log", "run", "-c", str(path), env=SECRET, limits=few_files)
        wait_for("the first reading", lambda: ready(path) and known(path) >= 500)
        put(f"{url}/sandbox/rates", RATES)
        before = metric(path, "bridge_events_published_total")
        with flooded(path):
            wait_for("no file to be left", lambda: open_files(process.pid) >= FILES_MAX - 2)
            time.sleep(2.0)  # several polls
            assert process.running, process.said()
        wait_for("it to answer again", lambda: ready(path))
        wait_for("it to publish again", lambda: metric(path, "bridge_events_published_total") > before)
        for _ in range(round(STARVED_S / TURN_S)):
            process.signal(signal.SIGSTOP)
            time.sleep(TURN_S * (1 - SHARE))
            process.signal(signal.SIGCONT)
            time.sleep(TURN_S * SHARE)
        wait_for("it to answer again", lambda: ready(path))
        proved(path, url, process)


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.timeout(200)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is told by /proc")
def test_a_first_reading_and_a_restore_stay_within_a_small_container(
    tmp_path: Path, bootstrap_servers: str, bridge_name: str
) -> None:
    with sandbox(tmp_path, "--customers", str(MANY)) as url:
        path = config(tmp_path, bootstrap_servers, bridge_name, url, shards=1)
        process = bridge(tmp_path, path)
        wait_for("the first reading", lambda: ready(path) and known(path) >= MANY, 90.0)
        assert peak_mib(process.pid) < MEMORY_MIB
        assert process.terminate() == 0, process.said()
        shutil.rmtree(tmp_path / "data-a")
        again = bridge(tmp_path, path)
        wait_for("the restart", lambda: ready(path) and known(path) >= MANY, 90.0)
        assert peak_mib(again.pid) < MEMORY_MIB
        assert again.terminate() == 0, again.said()


def known(path: Path) -> float:
    """Customers and tags that it has."""
    return metric(path, "bridge_store_documents")


def peak_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@pytest.mark.timeout(200)
def test_processes_that_are_configured_differently_never_contradict_each_other(
    tmp_path: Path, bootstrap_servers: str, bridge_name: str
) -> None:
    with sandbox(tmp_path, "--customers", "300", "--switch", "timestamp_precision=milliseconds") as url:
        one, other, wrong = (
            config(tmp_path, bootstrap_servers, bridge_name, url, sources=2, shards=2, label=label) for label in "abc"
        )
        wrong.write_text(wrong.read_text().replace("shards = 2", "shards = 3"))
        text = other.read_text().replace('poll_interval = "500ms"', 'poll_interval = "700ms"\nsnapshot = "silent"')
        other.write_text(text.replace('poll_overlap = "3s"', 'poll_overlap = "6s"'))
        first = bridge(tmp_path, one)
        wait_for("the first process", lambda: ready(one))
        put(f"{url}/sandbox/rates", RATES)
        refused = bridge(tmp_path, wrong)
        assert refused.wait(60.0) in (2, 3)
        assert "bridge.shards" in refused.said()
        second = bridge(tmp_path, other)
        wait_for("each to own some", lambda: owned(one) == 1 and owned(other) == 1)
        first.kill()
        wait_for("the take-over", lambda: owned(other) == 2)
        first = bridge(tmp_path, one)
        wait_for("each to own some again", lambda: owned(one) == 1 and owned(other) == 1)
        assert second.terminate() == 0, second.said()
        wait_for("the way back", lambda: owned(one) == 2)
        proved(one, url, first)


def owned(path: Path) -> int:
    """Sources that this process owns and reads."""
    _, status = get(f"{listen_of(path)}/ready")
    return sum(row["owned_here"] and row["ready"] for row in (status or {}).get("sources", ()))
