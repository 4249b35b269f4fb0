"""What a disk does to a bridge: unusable, full, removed, damaged (P03 to P05). Kafka stays right."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.errors import EnvironmentUnavailable
from bridge.store.folder import CacheFolder
from tests.e2e.chaos import damage
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

RATES = {"sign_up": 600, "edit": 6000, "rename": 300, "delete": 300, "tag_create": 60, "tag_delete": 30}
STILL = dict.fromkeys(RATES, 0)
FAILED_S = 30.0
FILE_BYTES_MAX = 200_000
"""As if the disk were full: less than the cache of a thousand customers."""

OURS = b"ours"


def in_the_way(folder: Path) -> None:
    (folder / "data-a").write_bytes(OURS)


def nobody_may_write(folder: Path) -> None:
    (folder / "data-a").symlink_to("/proc/bridge")  # a folder in which not even root can make one


def locked_away(folder: Path) -> None:
    (folder / "data-a").symlink_to("/dev/full")


@pytest.mark.parametrize("spoil", [in_the_way, nobody_may_write, locked_away])
def test_a_data_dir_that_cannot_be_used_ends_the_start_with_the_remedy(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    path = config(tmp_path, "127.0.0.1:1", "bridge", "http://127.0.0.1:1")
    spoil(tmp_path)
    process = bridge(tmp_path, path)
    assert process.wait(FAILED_S) == 3
    said = process.said()
    assert "bridge.data_dir" in said
    assert "make it a folder that this user may write to" in said
    assert "Traceback" not in said


def test_a_folder_of_another_user_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "data" / "bridge" / "0").mkdir(parents=True)
    (tmp_path / "data" / "bridge" / "0").chmod(0o500)
    child = os.fork()
    if not child:
        if os.geteuid() == 0:  # for whom no right is missing
            os.setuid(65534)
        try:
            CacheFolder.claim(tmp_path / "data", "bridge")
        except EnvironmentUnavailable as error:
            os._exit(3 if "Permission denied" in str(error) and "this user may write to" in str(error) else 2)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def proved(path: Path, url: str, process: Process) -> None:
    put(f"{url}/sandbox/rates", STILL)
    result = command("verify", "-c", str(path), "--online")
    assert result.returncode == 0, result.stdout + result.stderr + process.said()
    assert "0 lost, 0 doubled, 0 out of order" in result.stdout
    assert process.terminate() == 0, process.said()


def caches(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.sqlite"))


@pytest.mark.timeout(200)
def test_a_disk_that_fills_up_and_one_that_is_damaged_cost_nothing_but_a_restore(
    tmp_path: Path, bootstrap_servers: str, bridge_name: str
) -> None:
    """One bridge through all of it: full while it runs, space again, removed, damaged between two lives."""
    rng = random.Random(5)
    with sandbox(tmp_path, "--customers", "1000", "--switch", "timestamp_precision=milliseconds") as url:
        path = config(tmp_path, bootstrap_servers, bridge_name, url, shards=1)
        put(f"{url}/sandbox/rates", RATES)
        full = Process(tmp_path / "bridge-a.log", "run", "-c", str(path), env=SECRET, limits=full_disk)
        wait_for("the disk to be full", lambda: "disk" in full.output.read_text() and full.running)
        wait_for("some more attempts", lambda: full.output.read_text().count("the shard is opened again") >= 3)
        assert full.running
        status, body = get(f"{listen_of(path)}/ready")
        assert (status, get(f"{listen_of(path)}/live")[0]) == (503, 200)
        assert any("disk" in shard["state"] for shard in body["shards"]), body
        assert "Traceback" not in full.output.read_text()
        resource.prlimit(full.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        wait_for("space again", lambda: ready(path), 90.0)
        full.kill()
        data = tmp_path / "data-a"
        shutil.rmtree(data)
        process = bridge(tmp_path, path)
        wait_for("the restart without a cache", lambda: ready(path), 90.0)
        for _ in range(3):
            process.kill()
            for cache in caches(data):
                damage(cache, rng)
            process = bridge(tmp_path, path)
            wait_for("the restart", lambda: ready(path), 90.0)
        proved(path, url, process)


def full_disk() -> None:
    """In the child, before it becomes the bridge: no file may grow beyond this, and the signal of it is ignored."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, resource.RLIM_INFINITY))
