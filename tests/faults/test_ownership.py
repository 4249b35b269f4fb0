"""Who owns a shard stays clear, whatever happens to the members of the group (K19 to K22, K24)."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any
from urllib.request import urlopen

import pytest

from bridge import assembly
from bridge.assembly import Bridge
from bridge.clock import Clock
from bridge.publish import statelog
from bridge.publish.producer import KafkaProducer
from bridge.publish.statelog import Restored, restore
from bridge.publish.transaction import Receipt, Record
from bridge.runtime import assignment as assignment_module
from bridge.runtime.shard import ShardState
from bridge.store.base import Store
from tests.faults.conftest import Build
from tests.support.neighbourhood import BRISK, published, runs, states, until
from tests.support.processes import SECRET, Process, bridge, command, config, get, listen_of, put, sandbox, wait_for
from tests.support.stalling import PROGRAM, VARIABLE

SESSION_S = 2.0
LIVES = 10
assert BRISK["session_timeout_s"] == SESSION_S


async def test_a_restore_that_outlasts_the_session_costs_neither_membership_nor_the_other_shards(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K20."""
    town = build(sources=2, shards=2)
    slow_s = 2 * SESSION_S

    async def slow(kafka: Any, topic: str, shard: int, *arguments: Any, **options: Any) -> Restored:
        if shard == 0:
            await asyncio.sleep(slow_s)
        return await restore(kafka, topic, shard, *arguments, **options)

    monkeypatch.setattr(assembly, "restore", slow)
    async with town.bridge() as bridge:
        await until("shard 0 restores", lambda: states(bridge).get(0) is ShardState.RESTORING)
        began = time.monotonic()
        assignment = bridge.supervisor.assignment
        assert assignment is not None
        await until("shard 1 runs", runs(bridge, 1))
        generation = assignment._inbox.generation
        confirmed: list[float] = []
        while states(bridge)[0] is ShardState.RESTORING:
            before = published(bridge)
            town.sign_up()
            await until("the other shard publishes", lambda: published(bridge) > before)  # noqa: B023 - at once
            confirmed.append(assignment.silent_s)
            await asyncio.sleep(0.1)
        assert time.monotonic() - began > SESSION_S
        await until("shard 0 runs", runs(bridge, 0))
        assert assignment._inbox.generation == generation
        assert max(confirmed) < SESSION_S
        await town.verified()
    assert len(town.heard("shards assigned")) == 1


async def test_owners_that_end_in_the_middle_of_a_restore_publish_nothing_and_the_next_begins_again(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K19: ten in a row."""
    town = build(shards=1)
    async with town.bridge() as bridge:
        await until("all is read", lambda: bridge.proved_until() > 0)
        before = published(bridge)
    town.sign_up(3)
    begun: list[int] = []

    async def interrupted(
        kafka: Any, topic: str, shard: int, store: Store, clock: Clock, *_: Any, **options: Any
    ) -> Any:
        life = len(begun)

        def progress(done: int, total: int) -> None:
            if done > 0 and life < LIVES and len(begun) == life:
                begun.append(done)
                town.tasks[f"life {life}"].cancel()

        return await restore(kafka, topic, shard, store, clock, progress, **options)

    monkeypatch.setattr(assembly, "restore", interrupted)
    monkeypatch.setattr(statelog, "APPLY_RECORDS_MAX", 5)
    for life in range(LIVES):
        async with town.bridge(f"life {life}") as bridge:
            await until("its end", town.tasks[f"life {life}"].done)
            assert published(bridge) == 0
            assert not any(state is ShardState.RUNNING for state in states(bridge).values())
    assert begun == [5] * LIVES, "each was in the middle of it"
    async with town.bridge("last") as bridge:
        await until("all is read", lambda: bridge.proved_until() > 0)
        assert published(bridge) == 3
        await town.verified()
    assert before == len(town.world.customers) - 3 + len(town.world.tags)


async def test_a_shard_that_does_not_let_go_is_ended_and_holds_up_nobody(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K21: its last transaction hangs while the group gives its partition to another."""
    release_s = 2.0
    monkeypatch.setattr(assignment_module, "RELEASE_S", release_s)
    town = build(sources=2, shards=2)
    publish = KafkaProducer.publish
    stuck: set[int] = set()
    hung: set[int] = set()

    async def hanging(self: KafkaProducer, records: Sequence[Record], inbox_offset: int | None) -> Receipt:
        if id(self) in stuck:
            hung.add(id(self))
            await asyncio.sleep(1e6)
        return await publish(self, records, inbox_offset)

    async def opened(self: KafkaProducer) -> None:
        await open_(self)
        producers.append(self)

    open_, producers = KafkaProducer.open, list[KafkaProducer]()
    monkeypatch.setattr(KafkaProducer, "open", opened)
    monkeypatch.setattr(KafkaProducer, "publish", hanging)
    async with town.bridge("a") as first:
        await until("both shards run", runs(first, 0, 1))
        await until("all is read", lambda: first.proved_until() > 0)
        stuck |= {id(producer) for producer in producers}
        town.sign_up()
        await until("both shards hang", lambda: len(hung) == 2)
        async with town.bridge("b") as second:
            await until("one is handed over", lambda: len(states(second)) == 1)
            [moved] = states(second)
            await until("it runs there", runs(second, moved))
            began = time.monotonic()
            await until("it is given up here", lambda: moved not in states(first))
            assert time.monotonic() - began < release_s + 20.0
    # Both have stopped within their grace although one of them hung; what it had is found again.
    async with town.bridge("c") as third:
        await until("both shards run", runs(third, 0, 1))
        await until("all is read", lambda: third.proved_until() > 0)
        await town.verified()


@pytest.mark.timeout(180)
async def test_members_that_come_and_go_leave_every_shard_owned(build: Build) -> None:
    """K22, the short form; `make chaos MINUTES=10` kills and freezes real processes for as long as one likes."""
    chance = Random(3)
    town = build(sources=4, shards=4)
    unowned_s = dict.fromkeys(range(4), 0.0)
    longest_s = dict(unowned_s)
    running: list[Bridge] = []

    async def watch() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.05)
            now = time.monotonic()
            for shard in unowned_s:
                owned = any(states(bridge).get(shard) is ShardState.RUNNING for bridge in running)
                unowned_s[shard] = 0.0 if owned else unowned_s[shard] + now - last
                longest_s[shard] = max(longest_s[shard], unowned_s[shard])
            last = now

    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(town.bridge("first"))
        running.append(first)
        await until("it runs", runs(first, 0, 1, 2, 3))
        watching = asyncio.create_task(watch())
        guests: list[tuple[Bridge, AsyncExitStack]] = []
        for number in range(8):
            town.sign_up()
            if guests and (len(guests) == 3 or chance.random() < 0.5):
                guest, leaving = guests.pop(chance.randrange(len(guests)))
                running.remove(guest)
                await leaving.aclose()
            else:
                entering = AsyncExitStack()
                guest = await entering.enter_async_context(town.bridge(f"guest-{number}"))
                stack.push_async_exit(entering)
                guests.append((guest, entering))
                running.append(guest)
            await asyncio.sleep(chance.uniform(0.1, 1.0))
        await until("everything is owned once", lambda: owned_once(running))
        watching.cancel()
        town.sign_up()
        await town.verified()
    print({shard: round(seconds, 1) for shard, seconds in longest_s.items()})
    assert max(longest_s.values()) < 30.0


def owned_once(bridges: Sequence[Bridge]) -> bool:
    owned = [shard for bridge in bridges for shard, state in states(bridge).items() if state is ShardState.RUNNING]
    return sorted(owned) == [0, 1, 2, 3]


@pytest.mark.timeout(200)
def test_a_blocked_event_loop_loses_its_shards_and_says_so(
    tmp_path: Path, bootstrap_servers: str, bridge_name: str
) -> None:
    """K24."""
    stall_s = 2 * SESSION_S
    with sandbox(tmp_path, "--customers", "50", "--switch", "timestamp_precision=milliseconds") as url:
        put(f"{url}/sandbox/rates", {"sign_up": 600, "edit": 600})
        paths = [config(tmp_path, bootstrap_servers, bridge_name, url, sources=2, shards=2, label=x) for x in "ab"]
        env = {**SECRET, VARIABLE: str(stall_s)}
        blocked = Process(tmp_path / "blocked.log", "run", "-c", str(paths[0]), env=env, program=PROGRAM)
        wait_for("the first process", lambda: len(owned(paths[0])) == 2)
        other = bridge(tmp_path, paths[1])
        wait_for("the second process", lambda: len(owned(paths[0])) == len(owned(paths[1])) == 1)
        blocked.signal(signal.SIGUSR1)
        wait_for("the take-over", lambda: len(owned(paths[1])) == 2)
        wait_for("the return", lambda: len(owned(paths[0])) == len(owned(paths[1])) == 1)
        assert lag_beyond(paths[0], 2.5) >= 1
        assert "the event loop was blocked" in blocked.said()
        put(f"{url}/sandbox/rates", {"sign_up": 0, "edit": 0})
        result = command("verify", "-c", str(paths[0]), "--online")
        assert result.returncode == 0, result.stdout + result.stderr + blocked.said()
        assert blocked.terminate() == 0, blocked.said()
        assert other.terminate() == 0, other.said()
        assert "Traceback" not in blocked.said()


def owned(path: Path) -> list[str]:
    """The sources that the bridge of this configuration owns and reads."""
    _, status = get(f"{listen_of(path)}/ready")
    sources = (status or {}).get("sources", ())
    return [source["source"] for source in sources if source["owned_here"] and source["ready"]]


def lag_beyond(path: Path, seconds: float) -> int:
    """How often the loop was later than that, one of the histogram's bounds."""
    with urlopen(f"{listen_of(path)}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    counts = {
        line.partition(" ")[0]: int(float(line.rpartition(" ")[2]))
        for line in lines
        if line.startswith("bridge_loop_lag_seconds")
    }
    return counts["bridge_loop_lag_seconds_count"] - counts[f'bridge_loop_lag_seconds_bucket{{le="{seconds}"}}']
