"""Chaos: bridges killed, frozen and stopped at random, their disks removed or damaged, the broker killed, under load.

Two processes share four sources; some are killed from outside, some kill themselves at a step of their work
(`tests.support.deadly`). Half an hour is more than 200 kills, 30 pauses and 5 broker restarts. At the end the world
stands still, everything catches up, and `verify --online` has the last word: 0 lost, 0 doubled, 0 out of order.

    python -m tests.e2e.chaos --minutes 10 [--seed 1] [--processes 2]
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bridge.sandbox.kafka import KafkaSettings, LocalKafka
from tests.support.deadly import STEPS
from tests.support.processes import (
    SESSION_S,
    Process,
    bridge,
    command,
    config,
    deadly,
    get,
    kill_leftovers,
    listen_of,
    put,
    sandbox,
    wait_for,
)

RATES = {"sign_up": 90, "edit": 6000, "rename": 300, "delete": 60, "tag_create": 6, "tag_delete": 5}
"""Changes per minute, together more than a hundred per second. Each deletion costs the simulated provider several
searches through all that ever were, so in half an hour many of them would be more than it can answer."""

STILL = dict.fromkeys(RATES, 0)
SOURCES = 4
SHARDS = 4

BROKER_EVERY_S = 60.0
"""Between two deaths of the broker; it needs some seconds to come back, and the shards must get a chance to work."""

PAUSE_S = 9.0
"""Of a frozen process: several sessions, so that it wakes as a zombie."""

PROVED_S = 15.0
"""Behind the provider when nothing happens any more: far more than a few polls."""

RECOVERY_S = 120.0
"""From the last fault until every source is owned and read again."""

STEP_COUNT_MAX = 5
"""At which arrival at a step a process kills itself, at most; some steps come only once a life."""

FLIPS_MAX = 64
"""Damaged places of one file."""

KILLS = ("kill", "kill at a step", "kill and remove its disk", "kill and damage its disk")
PAUSES = ("freeze",)
BROKER_RESTARTS = ("broker kill", "broker restart")

ACTIONS = {
    "kill": 6,
    "kill at a step": 5,
    "kill and remove its disk": 3,
    "kill and damage its disk": 4,
    "freeze": 3,
    "terminate": 2,
}
"""How often each is drawn."""


@dataclass
class Member:
    """One process of the bridge and how to start it. deadly_at: the step at which it will kill itself."""

    folder: Path
    path: Path
    process: Process
    frozen_until: float | None = None
    deadly_at: str | None = None

    @property
    def data(self) -> Path:
        return self.folder / f"data-{self.path.stem.removeprefix('bridge-')}"

    def start(self) -> None:
        self.deadly_at = None
        self.process = bridge(self.folder, self.path)

    def start_deadly(self, step: str, count: int) -> None:
        self.deadly_at = step
        self.process = deadly(self.folder, self.path, step, count)


def damage(path: Path, rng: random.Random) -> str:
    """Do something to a file that no process writes any more; what it was."""
    size = path.stat().st_size
    what = rng.choice(["flip bits", "truncate", "empty", "remove its journal"])
    if what == "flip bits" and size:
        data = bytearray(path.read_bytes())
        for _ in range(rng.randint(1, FLIPS_MAX)):
            data[rng.randrange(size)] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    elif what == "truncate":
        os.truncate(path, rng.randrange(size + 1))
    elif what == "empty":
        os.truncate(path, 0)
    else:
        for suffix in ("-journal", "-wal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    return what


@dataclass
class Chaos:
    """What was done so far."""

    kafka: LocalKafka
    members: list[Member]
    rng: random.Random
    done: Counter[str] = field(default_factory=Counter)

    async def run(self, seconds: float) -> None:
        """Fault after fault for so long; at the end every process runs and nothing is frozen."""
        ends = time.monotonic() + seconds
        broker_at = time.monotonic() + min(BROKER_EVERY_S, seconds / 2)
        while time.monotonic() < ends:
            await asyncio.sleep(self.rng.uniform(0.2, 4.0))
            self._thaw()
            self._bury()
            if time.monotonic() >= broker_at:
                broker_at = time.monotonic() + BROKER_EVERY_S
                await self._break_broker()
            else:
                self._strike(self.rng.choice([member for member in self.members if member.frozen_until is None]))
        self._thaw(at_once=True)
        self.disarm()

    def _strike(self, member: Member) -> None:
        action = self.rng.choices(list(ACTIONS), list(ACTIONS.values()))[0]
        others = [other for other in self.members if other is not member and other.frozen_until is None]
        if action == "freeze" and others:
            member.process.signal(signal.SIGSTOP)
            member.frozen_until = time.monotonic() + PAUSE_S
        elif action == "terminate" and member.deadly_at is None:
            code = member.process.terminate(60)
            # By the signal itself only while it is still loading; later there is a handler.
            assert code in (0, -signal.SIGTERM), f"exit code {code}: {member.process.said()}"
            member.start()
        else:
            action = action if action in KILLS else "kill"
            member.process.kill()
            if action == "kill and remove its disk":
                shutil.rmtree(member.data, ignore_errors=True)
            elif action == "kill and damage its disk":
                for cache in sorted(member.data.rglob("*.sqlite")):
                    self.done[f"damage: {damage(cache, self.rng)}"] += 1
            if action == "kill at a step":
                action = "kill"  # the other one is counted when it has happened
                member.start_deadly(self.rng.choice(list(STEPS)), self.rng.randint(1, STEP_COUNT_MAX))
            else:
                member.start()
        self.done[action] += 1

    def _bury(self) -> None:
        """Start again what has killed itself; nothing else may have ended."""
        for member in self.members:
            if not member.process.running:
                code = member.process.wait(1.0)
                assert (code, member.deadly_at is None) == (-signal.SIGKILL, False), member.process.said()
                self.done["kill at a step"] += 1
                self.done[f"step: {member.deadly_at}"] += 1
                member.start()

    def disarm(self) -> None:
        """Nobody kills himself any more."""
        self._bury()
        for member in self.members:
            if member.deadly_at is not None:
                member.process.kill()
                self.done["kill"] += 1
                member.start()

    def _thaw(self, *, at_once: bool = False) -> None:
        for member in self.members:
            if member.frozen_until is not None and (at_once or time.monotonic() >= member.frozen_until):
                member.process.signal(signal.SIGCONT)
                member.frozen_until = None

    async def _break_broker(self) -> None:
        if self.rng.random() < 0.5:
            self.kafka.kill()
            await asyncio.sleep(self.rng.uniform(0.0, 5.0))
            await self.kafka.start()
            self.done["broker kill"] += 1
        else:
            await self.kafka.restart()
            self.done["broker restart"] += 1


async def chaos(seconds: float, seed: int, processes: int = 2) -> tuple[Counter[str], str]:
    """What was done and what `verify` said. Raises `AssertionError` when anything is not right."""
    with tempfile.TemporaryDirectory(prefix="bridge-chaos-") as name:
        folder = Path(name)
        async with LocalKafka(KafkaSettings(heap_mib=384)) as kafka:
            with sandbox(folder, "--customers", "1000", "--switch", "timestamp_precision=milliseconds") as url:
                servers = kafka.bootstrap_servers
                paths = [
                    config(folder, servers, "chaos", url, sources=SOURCES, shards=SHARDS, label=f"p{number}")
                    for number in range(processes)
                ]
                for path in paths:
                    path.write_text(path.read_text() + 'sweep_interval = "10s"\n')  # of the last source
                members = [Member(folder, path, bridge(folder, path)) for path in paths]
                await asyncio.to_thread(wait_for, "the start", lambda: owned(paths) == SOURCES)
                await asyncio.to_thread(put, f"{url}/sandbox/rates", RATES)
                monkey = Chaos(kafka, members, random.Random(seed))
                await monkey.run(seconds)
                await asyncio.to_thread(wait_for, "the recovery", lambda: owned(paths) == SOURCES, RECOVERY_S)
                await asyncio.to_thread(put, f"{url}/sandbox/rates", STILL)
                await asyncio.to_thread(wait_for, "everything", lambda: behind_s(paths) < PROVED_S, RECOVERY_S)
                result = await asyncio.to_thread(command, "verify", "-c", str(paths[0]), "--online", timeout_s=600)
                said = "\n".join(member.process.said() for member in members)
                assert result.returncode == 0, result.stdout + result.stderr + said
                assert "0 lost, 0 doubled, 0 out of order" in result.stdout
                for member in members:
                    assert await asyncio.to_thread(member.process.terminate, 60) == 0, member.process.said()
                return monkey.done, result.stdout


def owned(paths: list[Path]) -> int:
    """Sources that are owned and read, by all processes together."""
    total = 0
    for path in paths:
        _, status = get(f"{listen_of(path)}/ready")
        total += sum(row["owned_here"] and row["ready"] for row in (status or {}).get("sources", ()))
    return total


def behind_s(paths: list[Path]) -> float:
    """How long ago that is proved published of which least is known; endless while nobody says."""
    rows = [row for path in paths for row in (get(f"{listen_of(path)}/ready")[1] or {}).get("sources", ())]
    found = [row["staleness_s"] for row in rows if row["owned_here"]]
    return max(found) if len(found) == SOURCES and None not in found else math.inf


def totals(done: Mapping[str, int]) -> str:
    """What was done, in a line."""
    groups = {"kills": KILLS, "pauses": PAUSES, "broker restarts": BROKER_RESTARTS}
    return ", ".join(f"{name}: {sum(done.get(kind, 0) for kind in kinds)}" for name, kinds in groups.items())


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.chaos", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.processes} processes, session {SESSION_S} s", flush=True)
    try:
        done, verdict = asyncio.run(chaos(options.minutes * 60, options.seed, options.processes))
    finally:
        kill_leftovers()
    for action, count in sorted(done.items()):
        print(f"{count:5} × {action}")
    print(totals(done))
    print(verdict)
    return 0


if __name__ == "__main__":
    sys.exit(main())
