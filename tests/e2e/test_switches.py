"""Every switch of the simulated provider over real HTTP, with a real bridge and a real Kafka: `verify --online` is ok.

One bridge reads one source per switch, each from a provider of its own with that switch. Everybody's customers live at
a moderate rate for a while; then faults end and the worlds stand still, and the bridge has to agree with each of them.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bridge.clock import SystemClock
from bridge.sandbox.api import SandboxApi
from bridge.sandbox.http import serve
from bridge.sandbox.population.life import Rates
from bridge.sandbox.switches import Switches
from bridge.sandbox.world import World, live
from tests.conftest import Kafka
from tests.support.processes import bridge, command, config, get, listen_of, put, wait_for

LIFE_S = 12.0
CUSTOMERS = 60
RATES: Mapping[str, float] = {
    **{"sign_up": 30, "edit": 120, "tag": 60, "untag": 30},
    **{"rename": 40, "delete": 15, "tag_create": 8, "tag_delete": 5},
}
"""Changes per minute of each provider: five a second of all kinds."""

CHANGES_MIN = 30
"""Of each provider; where nothing happens nothing is proved."""

SWITCHES = {
    "usual": "",
    "token-lifetime": "token_lifetime=1",
    "token-revoked": "token_revoke_after=2",
    "order-descending": "list_order=created_descending",
    "order-by-id": "list_order=id",
    "order-shuffled": "",
    "cursor-customer-id": "cursor_kind=customer_id",
    "cursor-ignored": "cursor_kind=ignored",
    "since-exclusive": "since_bound=exclusive",
    "since-descending": "since_order=descending",
    "since-ignores-cursor": "since_with_cursor=ignore_cursor",
    "since-is-ignored": "since_with_cursor=ignore_since",
    "tombstones-never": "tombstones_in_since=never",
    "milliseconds": "timestamp_precision=milliseconds",
    "microseconds": "timestamp_precision=microseconds",
    "late": "late_visibility_s=2",
    "tag-bumps": "tag_bumps_updated_at=true",
    "rename-does-not-bump": "rename_bumps_updated_at=false",
    "linked-inside-limit": "linked_users=inside_limit",
    "tombstone-is-read": "deleted_read=tombstone",
    "roles-absent": "roles_without_expand=absent",
    "limit-seconds": "fault_429=0.1 fault_429_retry_after=1",
    "limit-date": "fault_429=0.1 fault_429_retry_after=date",
    "limit-unsaid": "fault_429=0.1",
    "fault-500": "fault_500=0.2",
    "fault-502": "fault_502_html=0.2",
    "login-page": "fault_200_html=0.2",
    "slow": "fault_slow=0.2 fault_slow_s=1",
    "cut": "fault_cut=0.2",
    "tags-empty-once": "empty_tag_list_once=true",
    "duplicates": "duplicate_rows=0.5",
}
"""What the documents of the provider leave open, by the id of the source: switches as `bridge sandbox` takes them."""

FAULTS = ("fault_429", "fault_500", "fault_502_html", "fault_200_html", "fault_slow", "fault_cut")
PASSING: Mapping[str, Any] = dict.fromkeys(FAULTS, 0.0)

THROWN: Mapping[str, Mapping[str, Any]] = {"order-shuffled": {"list_order": "shuffled"}}
MENDED: Mapping[str, Mapping[str, Any]] = {"order-shuffled": {"list_order": "created"}}
"""A list in another order each time can be read neither for the first time nor in the end, to be compared with."""

READ_S = 150.0
"""For every source to be read, on a machine that does other things too."""

LATE_S = 3.0
"""After the last change nothing shows up later, and no time stamp is of before."""


class Proof(NamedTuple):
    """What `verify --online` said."""

    code: int
    said: str
    findings: list[str]


class Providers:
    """All of them, on a loop in a thread of their own; origins by source."""

    def __init__(self) -> None:
        self.origins: dict[str, str] = {}
        self._open = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="providers")

    def __enter__(self) -> Providers:
        self._thread.start()
        assert self._open.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            lives = []
            for number, (source, texts) in enumerate(SWITCHES.items()):
                switches = Switches.parse(texts.split())
                world = World(number, CUSTOMERS, 6, Rates(), SystemClock(), rules=switches.rules())
                api = SandboxApi(world, switches, world.clock)
                self.origins[source] = await stack.enter_async_context(serve(api))
                lives.append(group.create_task(live(world)))
            self._open.set()
            await self._closing.wait()
            for task in lives:
                task.cancel()


def configured(folder: Path, servers: str, providers: Providers) -> Path:
    """One source per switch, swept every few seconds: some switches hide changes from polls."""
    path = config(folder, servers, f"switches{folder.name[-3:]}", "", sources=0)
    lines = [path.read_text()]
    for source, origin in providers.origins.items():
        lines += [
            "[[sources]]",
            f'id = "{source}"',
            'provider = "dintero"',
            'account = "T12345678"',
            'client_id = "sandbox"',
            'client_secret = { env = "SANDBOX_SECRET" }',
            f'base_url = "{origin}/v1"',
            'poll_interval = "2s"',
            'poll_overlap = "3s"',
            'sweep_interval = "8s"',
            'request_budget = "50/s"',
        ]
        if source == "cursor-customer-id":
            lines.append('cursor_kind = "customer_id"')
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def proof(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Proof:
    folder = tmp_path_factory.mktemp("switches")
    with Providers() as providers:
        path = configured(folder, kafka.bootstrap_servers, providers)
        process = bridge(folder, path)
        ready = f"{listen_of(path)}/ready"

        def behind(seconds: float) -> list[str]:
            """Sources that are not known to be published up to so long ago."""
            assert process.running, process.said()
            _, status = get(ready)
            stale = {s["source"]: s["staleness_s"] for s in (status or {}).get("sources", ())}
            return [name for name in SWITCHES if stale.get(name) is None or stale[name] > seconds]

        def wait_until(what: str, since: float = 0.0) -> None:
            try:
                wait_for(what, lambda: not behind(time.monotonic() - since), READ_S)
            except AssertionError:
                raise AssertionError(f"{what}: {behind(time.monotonic() - since)}\n{process.said()}") from None

        wait_until("the first reading")
        for source, switches in THROWN.items():
            put(f"{providers.origins[source]}/sandbox/switches", switches)
        for origin in providers.origins.values():
            put(f"{origin}/sandbox/rates", RATES)
        threading.Event().wait(LIFE_S)
        for source, origin in providers.origins.items():
            put(f"{origin}/sandbox/rates", dict.fromkeys(RATES, 0))
            put(f"{origin}/sandbox/switches", {**PASSING, **MENDED.get(source, {})})
        lived = {source: get(f"{origin}/sandbox/stats")[1]["truth"] for source, origin in providers.origins.items()}
        assert min(lived.values()) >= CHANGES_MIN, lived
        wait_until("calm", time.monotonic() + LATE_S)
        result = command("verify", "-c", str(path), "--online", "--json", timeout_s=200.0)
        ended = process.terminate()
        assert ended == 0, process.said()
    said = result.stdout + result.stderr
    findings = json.loads(result.stdout.splitlines()[-1])["findings"] if result.stdout else [said]
    return Proof(result.returncode, said, [json.dumps(finding) for finding in findings])


@pytest.mark.timeout(500)
@pytest.mark.parametrize("source", SWITCHES)
def test_the_bridge_agrees_with_a_provider_of_this_switch(source: str, proof: Proof) -> None:
    assert [finding for finding in proof.findings if source in finding] == []


@pytest.mark.timeout(500)
def test_nothing_at_all_is_wrong(proof: Proof) -> None:
    assert proof.code == 0, proof.said
