"""Machine: processes of the benchmark, what they cost as the kernel counts it, and the configuration of a bridge.

Needs /proc, so Linux. CPU is user and system time of the process with all its threads; peak memory is VmHWM.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.bench.provider import LIST
from tests.support.processes import SECRET, free_port, get, listen_of, served

SAMPLE_S = 0.02
"""Between two looks at a process; the kernel counts CPU in hundredths of a second."""

PROVIDER_READY_S = 180.0
"""A million customers take half a minute on a quiet machine."""

LIMIT_S = 2.0
LIMIT_CONNECTIONS = 4

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


class Child:
    """One process that is measured from its start to its end. Its output goes to a file."""

    def __init__(self, name: str, output: Path, *arguments: str, url: str = "") -> None:
        """url: where it answers, if anywhere."""
        self.name = name
        self.url = url
        self.output = output
        self._samples: list[tuple[float, float]] = []
        self._peak_kib = 0
        self.began = time.time()
        with output.open("ab") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments], stdout=stream, stderr=stream, env={**os.environ, **SECRET}
            )
        self._watch = threading.Thread(target=self._sample, daemon=True)
        self._watch.start()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def peak_mib(self) -> float:
        """The most memory it had in RAM at once, so far."""
        return self._peak_kib / 1024

    @property
    def rss_mib(self) -> float:
        """Memory in RAM now."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def cpu_s(self, begin: float, end: float) -> float:
        """Seconds of CPU between two wall-clock moments."""
        return self._cpu_at(end) - self._cpu_at(begin)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        self._watch.join()

    def terminate(self) -> None:
        """SIGTERM, and wait until it is gone."""
        self._process.terminate()
        self._process.wait(60)
        self._watch.join()

    def said(self) -> str:
        """The end of its output."""
        return self.output.read_text(errors="replace")[-4000:]

    def _cpu_at(self, moment: float) -> float:
        samples = self._samples
        return samples[min(bisect_left(samples, (moment, 0.0)), len(samples) - 1)][1]

    def _sample(self) -> None:
        while self._process.poll() is None:
            try:
                fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(") ")[2].split()
                status = Path(f"/proc/{self._process.pid}/status").read_text()
            except OSError:
                return
            self._samples.append((time.time(), (int(fields[11]) + int(fields[12])) * _TICK_S))
            for line in status.splitlines():
                if line.startswith("VmHWM:"):
                    self._peak_kib = int(line.split()[1])
            time.sleep(SAMPLE_S)


class Provider:
    """The API's process, from outside."""

    def __init__(self, child: Child, port: int, customers: int) -> None:
        self.child = child
        self.port = port
        self.customers = customers
        self.url = f"http://127.0.0.1:{port}"

    def walks(self) -> list[dict[str, float]]:
        """Complete readings of the list so far."""
        found: list[dict[str, float]] = self.get("/bench/walks")
        return found

    def visits(self) -> dict[str, dict[str, float]]:
        """How each account but the sandbox's own was asked so far."""
        found: dict[str, dict[str, float]] = self.get("/bench/visits")
        return found

    def begin_anew(self) -> None:
        """Count the gaps between polls from now on."""
        self._post("/bench/visits")

    def forget_visits(self) -> None:
        """Of processes that were measured before."""
        self._post("/bench/visits?forget")

    def edits(self, per_second: float) -> None:
        """From now on so many customers change per second."""
        request = urllib.request.Request(
            f"{self.url}/sandbox/rates", json.dumps({"edit": per_second * 60}).encode(), method="PUT"
        )
        with urllib.request.urlopen(request, timeout=30):
            pass

    def _post(self, path: str) -> None:
        with urllib.request.urlopen(f"{self.url}{path}", b"", timeout=30):
            pass

    def get(self, path: str) -> Any:
        """Any JSON."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=60) as answer:
            return json.load(answer)


@asynccontextmanager
async def provider(folder: Path, customers: int) -> AsyncIterator[Provider]:
    """An API with so many customers."""
    port = free_port()
    output = folder / f"provider-{port}.log"
    child = Child("api", output, "tests.bench.provider", str(port), str(customers))
    try:
        await wait_until(lambda: "ready" in child.said() or not child.running, PROVIDER_READY_S, "the API")
        assert child.running, child.said()
        yield Provider(child, port, customers)
    finally:
        child.kill()


@asynccontextmanager
async def sandbox(folder: Path, customers: int, *options: str) -> AsyncIterator[Provider]:
    """The sandbox as users start it, with so many customers at each provider."""
    port = free_port()
    arguments = ("bridge", "sandbox", "--port", str(port), "--customers", str(customers), *options)
    child = Child("api", folder / f"sandbox-{port}.log", *arguments)
    api = Provider(child, port, customers)
    try:
        await wait_until(
            lambda: get(f"{api.url}/sandbox/stats")[0] == 200 or not child.running, PROVIDER_READY_S, "the sandbox"
        )
        assert child.running, child.said()
        yield api
    finally:
        child.kill()


async def api_limit(api: Provider) -> float:
    """Pages per second to a client that does nothing with them, with as many connections as it takes."""
    cursors: list[str] = api.get("/bench/cursors")
    deadline = time.monotonic() + LIMIT_S

    async def ask(number: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port, limit=1 << 20)
        pages = 0
        while time.monotonic() < deadline:
            after = cursors[(number * 7919 + pages) % len(cursors)]
            writer.write(f"GET /v1{LIST}?type=any&limit=100&starting_after={after} HTTP/1.1\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.rpartition(b": ")[2]))
            pages += 1
        writer.close()
        return pages

    began = time.monotonic()
    return sum(await asyncio.gather(*map(ask, range(LIMIT_CONNECTIONS)))) / (time.monotonic() - began)


def bridge(folder: Path, bootstrap: str, name: str, url: str, source: Mapping[str, str], label: str = "a") -> Child:
    """`bridge run` with defaults, except that the budget never holds it back; `source`: keys of the source."""
    keys = {"id": "acme", "account": "T12345678", "collections": ["customers"], "request_budget": "10000/s", **source}
    return started(configured(folder, bootstrap, name, url, [keys], label))


def configured(
    folder: Path, bootstrap: str, name: str, url: str, sources: Iterable[Mapping[str, Any]], label: str = "a"
) -> Path:
    """A configuration with defaults but for these keys of each source, who are of Dintero unless they say otherwise.

    `Any`: TOML.
    """
    path = folder / f"{name}-{label}.toml"
    text = (
        f"[kafka]\nbootstrap_servers = {json.dumps(bootstrap.split(','))}\n"
        f'[bridge]\nname = "{name}"\ndata_dir = "{folder / f"{name}-data-{label}"}"\n'
        f'[http]\nlisten = "127.0.0.1:{free_port()}"\n'
    )
    common = {"provider": "dintero", "client_id": "sandbox", "client_secret": {"env": "SANDBOX_SECRET"}}
    for source in sources:
        keys = source if "provider" in source else {**common, "base_url": f"{url}/v1", **source}
        text += "[[sources]]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in keys.items())
    path.write_text(text)
    return path


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)


def started(path: Path) -> Child:
    """`bridge run` with this configuration."""
    return Child("bridge", path.with_suffix(".log"), "bridge", "run", "-c", str(path), url=listen_of(path))


def owned_sources(child: Child) -> int:
    """Sources that this bridge reads and that answer; who owns what is nothing that figures are made of."""
    return served(child.url)


def owns_source(child: Child) -> bool:
    """Whether this bridge reads the only source."""
    return owned_sources(child) > 0


def plain(folder: Path, mode: str, bootstrap: str, topic: str, url: str) -> Child:
    """The plain loop."""
    return Child("plain", folder / f"{topic}.log", "tests.bench.plain", mode, url, bootstrap, topic)


async def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Look again and again; the processes that are measured must not notice."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > timeout_s:
            raise AssertionError(f"{what}: not within {timeout_s:.0f} s")
        await asyncio.sleep(SAMPLE_S)
