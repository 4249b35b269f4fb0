"""Real processes for end-to-end tests: a sandbox, bridges that may be killed, and the command line.

Everything is started as a user would start it. Output goes to files in the test's folder, so that a failure can
quote what a process said.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bridge.publish.partitioner import partition_of
from tests.support.workers import own_part

BRIDGE = [sys.executable, "-m", "bridge"]
DEADLY = [sys.executable, "-m", "tests.support.deadly"]
START_S = 60.0
QUOTE_CHARS = 4000

SESSION_S = 2.0
"""Of the consumer group in tests: a killed process is missed after this, not after 10 s."""


def _own_ports() -> Iterator[int]:
    """Those of one of the processes that run tests side by side: what one has found free the other must not take."""
    own = own_part(10_000, 20_000)
    return iter(own[os.getpid() % (len(own) // 2) :])


_PORTS = _own_ports()


def free_port() -> int:
    """A port below the ephemeral range, so that no client's connection can take it meanwhile; another each time."""
    for port in _PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


def get(url: str, timeout_s: float = 5.0) -> tuple[int, Any]:
    """Status and JSON of a GET; status 0 when nobody listens. `Any`: whatever JSON."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"null")
    except (OSError, ValueError):
        return 0, None


def put(url: str, value: Mapping[str, Any]) -> None:
    """PUT a JSON object."""
    request = urllib.request.Request(url, json.dumps(value).encode(), method="PUT")
    with urllib.request.urlopen(request, timeout=10):
        pass


def wait_for(what: str, condition: Callable[[], bool], timeout_s: float = START_S) -> float:
    """Poll until true; seconds it took. Waiting for other processes is the one thing tests really sleep for."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, f"{what}: not within {timeout_s:.0f} s"
        time.sleep(0.05)
    return time.monotonic() - began


_STARTED: list[Process] = []


def kill_leftovers() -> None:
    """End what a failed test has left running."""
    while _STARTED:
        _STARTED.pop().kill()


class Process:
    """One `bridge …` process."""

    def __init__(
        self,
        output: Path,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = BRIDGE,
        limits: Callable[[], None] | None = None,
    ) -> None:
        """limits: called in the new process before it becomes the program."""
        self.output = output
        with output.open("ab") as stream:
            self._popen = subprocess.Popen(
                [*program, *arguments],
                stdout=stream,
                stderr=stream,
                env={**os.environ, **(env or {})},
                preexec_fn=limits,  # noqa: PLW1509 - the tests' own threads do nothing meanwhile
            )
        _STARTED.append(self)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._popen.kill()
        self._popen.wait()

    def terminate(self, timeout_s: float = 30.0) -> int:
        """SIGTERM; the exit code."""
        self._popen.terminate()
        return self._popen.wait(timeout_s)

    def wait(self, timeout_s: float) -> int:
        """The exit code."""
        return self._popen.wait(timeout_s)

    def said(self) -> str:
        """The end of its output."""
        return self.output.read_text(errors="replace")[-QUOTE_CHARS:]


@contextmanager
def sandbox(folder: Path, *arguments: str) -> Iterator[str]:
    """A sandbox; yields its origin."""
    port = free_port()
    process = Process(folder / "sandbox.log", "sandbox", "--port", str(port), *arguments)
    url = f"http://127.0.0.1:{port}"
    try:
        # Each provider has control routes of its own, and not every sandbox has both.
        places = (url, rebilly_of(url))
        wait_for(
            "the sandbox",
            lambda: any(get(f"{place}/sandbox/stats")[0] == 200 for place in places) or not process.running,
        )
        assert process.running, process.said()
        yield url
    finally:
        process.kill()


def config(
    folder: Path,
    bootstrap: str,
    name: str,
    api_url: str,
    *,
    sources: int = 1,
    shards: int = 4,
    label: str = "a",
    port: int = 0,
    delete_share: str = "100%",
) -> Path:
    """A configuration file with fast polls and a short session; several sources read the same account.

    delete_share: of `delete_limit`; as it is nothing is ever held, however many are deleted while a broker is away.
    """
    lines = _general(folder, bootstrap, name, shards, label, port)
    for source in source_ids(sources, shards):
        lines += [
            "[[sources]]",
            f'id = "{source}"',
            'provider = "dintero"',
            'account = "T12345678"',
            'client_id = "sandbox"',
            'client_secret = { env = "SANDBOX_SECRET" }',
            f'base_url = "{api_url}/v1"',
            'poll_interval = "500ms"',
            'poll_overlap = "3s"',
            'request_budget = "1000/s"',
            f"delete_limit = {{ share = {json.dumps(delete_share)} }}",
        ]
    path = folder / f"bridge-{label}.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def rebilly_config(folder: Path, bootstrap: str, name: str, api_url: str, *, source: str = "billing") -> Path:
    """The same for one organization at Rebilly, all that can be read of it."""
    lines = [
        *_general(folder, bootstrap, name, 4, "a", 0),
        "[[sources]]",
        f'id = "{source}"',
        'provider = "rebilly"',
        'account = "org_sandbox"',
        'api_key = { env = "SANDBOX_KEY" }',
        f'base_url = "{api_url}"',
        'collections = ["customers", "tags", "memberships"]',
        'poll_interval = "500ms"',
        'poll_overlap = "3s"',
        'request_budget = "1000/s"',
        'delete_limit = { share = "100%" }',
    ]
    path = folder / "bridge-a.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def rebilly_of(api_url: str) -> str:
    """Where the simulated organization is."""
    return f"{api_url}/organizations/org_sandbox"


def _general(folder: Path, bootstrap: str, name: str, shards: int, label: str, port: int) -> list[str]:
    return [
        "[kafka]",
        f"bootstrap_servers = {json.dumps(bootstrap.split(','))}",
        f"session_timeout_s = {SESSION_S}",
        "heartbeat_s = 0.5",
        "partitions = { customers = 3, tags = 1, users = 1, outcomes = 1 }",
        "[bridge]",
        f'name = "{name}"',
        f"shards = {shards}",
        f'data_dir = "{folder / f"data-{label}"}"',
        "[http]",
        f'listen = "127.0.0.1:{port or free_port()}"',
    ]


def source_ids(count: int, shards: int) -> list[str]:
    """Ids that lie on different shards, as far as there are enough, so that several processes get some."""
    by_shard: dict[int, str] = {}
    for number in range(1000):
        by_shard.setdefault(partition_of(f"acme-{number}".encode(), shards), f"acme-{number}")
    ids = [source for _, source in sorted(by_shard.items())]
    return [ids[number % shards] if number < shards else f"more-{number}" for number in range(count)]


SECRET = {"SANDBOX_SECRET": "sandbox-secret", "SANDBOX_KEY": "sandbox-key"}


def bridge(folder: Path, path: Path) -> Process:
    """`bridge run` with this configuration."""
    return Process(folder / f"{path.stem}.log", "run", "-c", str(path), env=SECRET)


def deadly(folder: Path, path: Path, step: str, count: int = 1, of: signal.Signals = signal.SIGKILL) -> Process:
    """The same, but it sends itself a signal at the `count`-th arrival at the step; see `tests.support.deadly`."""
    env = {**SECRET, "DIES_AT": f"{step}:{count}", "DIES_OF": of.name}
    return Process(folder / f"{path.stem}.log", "run", "-c", str(path), env=env, program=DEADLY)


def command(*arguments: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*BRIDGE, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, **SECRET},
        check=False,
    )


def listen_of(path: Path) -> str:
    """The origin of a configuration's HTTP listener."""
    line = next(line for line in path.read_text().splitlines() if line.startswith("listen"))
    return f"http://{line.split(chr(34))[1]}"


def ready(path: Path) -> bool:
    """Whether the bridge of this configuration says so; it may own nothing."""
    return get(f"{listen_of(path)}/ready")[0] == 200


def serves(path: Path) -> bool:
    """Whether the bridge of this configuration owns a source and reads it."""
    return served(listen_of(path)) > 0


def served(origin: str) -> int:
    """Sources that the bridge at this origin owns and that answer."""
    _, status = get(f"{origin}/ready")
    return sum(source["owned_here"] and source["ready"] for source in (status or {}).get("sources", ()))
