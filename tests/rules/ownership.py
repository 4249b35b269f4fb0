"""Rules about ownership: one shard has one writer, whoever thinks otherwise learns it before it does harm."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from unittest.mock import patch

from bridge import assembly
from bridge.errors import Fenced
from bridge.publish.inbox import Inbox
from bridge.publish.producer import KafkaProducer
from bridge.publish.transaction import Record
from bridge.runtime.assignment import OwnPartition
from bridge.runtime.group import Member
from bridge.runtime.shard import Shard
from bridge.store.record import encode_json, marker_key
from tests.publish.benching import HeldCommit
from tests.rules.rule import Harm, rule
from tests.rules.stage import Process, Stage, parts_of

CONFIRMATIONS = 12
"""Heartbeats; the first one is enough for whoever waits for it."""

RECORDS = 3
"""Each is a chance to fence."""

# -- D4 ----------------------------------------------------------------------------------------------------------


@contextmanager
def transactional_id_per_process() -> Iterator[None]:
    """As the library's examples have it: every process brings its own, whatever it owns."""

    def own(*arguments: Any, **options: Any) -> KafkaProducer:
        return KafkaProducer(*arguments, **{**options, "transactional_id": f"process-{uuid.uuid4().hex}"})

    with patch.object(assembly, "KafkaProducer", own):
        yield


@rule(
    "D04",
    "a process that was frozen in the middle of a transaction",
    twin=transactional_id_per_process,
    harm="published twice",
)
async def frozen_process(stage: Stage) -> None:
    """SIGSTOP between the last acknowledgement and the commit; its shard gets another owner; SIGCONT."""
    bench = stage.bench
    await stage.send(b"record")
    inbox = cast(Member, None)  # what has no life needs no group
    former = parts_of(bench, stage.folder, stage.settings()).shard(0, inbox, ())._ports.producer()
    assert isinstance(former, KafkaProducer)
    zombie = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.rules.zombie",
        bench.settings.servers,
        bench.plan.bridge,
        former._transactional_id,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    stage.stack.push_async_callback(gone, zombie)
    assert zombie.stdout is not None
    assert await zombie.stdout.readline() == b"holds its commit\n"
    os.kill(zombie.pid, signal.SIGSTOP)
    owner = await stage.process()
    await stage.until(owner.serving, "the shard has another owner")
    os.kill(zombie.pid, signal.SIGCONT)
    answer, _ = await zombie.communicate(b"go on\n")
    await stage.send(b"last")
    found = await stage.letters(b"last")
    if found.count(b"record") > 1:
        raise Harm(f"published twice: the frozen process {answer.decode().strip()} after another had taken over")
    assert found == [b"record", b"last"]
    assert answer == b"was fenced\n"


async def gone(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.communicate()


# -- D5 ----------------------------------------------------------------------------------------------------------


@contextmanager
def position_before_the_fence() -> Iterator[None]:
    """The position is what the group told at the assignment, as the library has it."""
    serve, ask = Shard.serve, OwnPartition.committed
    told: dict[tuple[int, int], int | None] = {}

    def name(partition: OwnPartition) -> tuple[int, int]:
        return id(partition.inbox), partition.number

    async def early(self: Shard) -> None:
        partition = self._ports.inbox
        assert isinstance(partition, OwnPartition)
        told[name(partition)] = await ask(partition)
        await serve(self)

    async def committed(self: OwnPartition) -> int | None:
        return told[name(self)]

    with patch.object(Shard, "serve", early), patch.object(OwnPartition, "committed", committed):
        yield


@rule(
    "D05",
    "the former owner commits between our assignment and our fence",
    twin=position_before_the_fence,
    harm="processed twice",
)
async def stale_position(stage: Stage) -> None:
    """The position that the client resolves at the assignment is too old by then."""
    bench = stage.bench
    await stage.send(b"record")
    former = await bench.opened()
    marker = encode_json({"shards": bench.plan.shards, "id": "former"})
    await former.publish([Record(bench.plan.state, 0, marker_key(0).encode(), marker)], 0)
    held = HeldCommit(former)
    letter = Record(bench.plan.deadletters, 0, b"acme", b"record")
    committing = asyncio.create_task(former.publish([letter], 1))
    await held.reached.wait()

    async def last_chance(number: int) -> None:
        if number == 0 and not committing.done():
            held.go_on.set()
            await committing

    def told(process: Process) -> None:
        process.before_open = last_chance

    await stage.process(prepare=told)
    await stage.send(b"last")
    found = await stage.letters(b"last")
    if found.count(b"record") > 1:
        raise Harm(f"an inbox record was processed twice: {len(found) - 1} dead letters of one record")
    assert found == [b"record", b"last"]


# -- D11 ---------------------------------------------------------------------------------------------------------


@contextmanager
def fenced_means_lost() -> Iterator[None]:
    """The exception alone decides: who is fenced has a successor, and waits until the group takes the shard away."""
    serve = Shard.serve

    async def lost(self: Shard) -> None:
        try:
            await serve(self)
        except Fenced:
            await asyncio.Event().wait()

    with patch.object(Shard, "serve", lost):
        yield


@rule(
    "D11",
    "fenced by the timeout of our own transaction",
    twin=fenced_means_lost,
    harm="nobody serves",
)
async def fenced_by_a_timeout(stage: Stage) -> None:
    """The same exception as of a newer owner; only the group knows that there is none."""
    held: asyncio.Future[HeldCommit] = asyncio.get_running_loop().create_future()
    process = await stage.process(transaction_timeout_s=1.0, prepare=lambda process: process.hold.update({0: held}))
    await stage.send(b"record")
    commit = await held
    await commit.reached.wait()
    await stage.bench.settled(stage.bench.plan.state)  # Kafka has given the transaction up
    commit.go_on.set()
    confirmed = {process.inbox.confirmed_at}

    def decided() -> bool:
        confirmed.add(process.inbox.confirmed_at)
        return process.opened[0] > 1 or len(confirmed) > CONFIRMATIONS

    await stage.until(decided, "what comes of it")
    if process.opened[0] == 1:
        raise Harm(f"the group has confirmed {CONFIRMATIONS} times that the shard is ours, and nobody serves it")
    assert await stage.letters(b"record") == [b"record"]


# -- D12 ---------------------------------------------------------------------------------------------------------


@contextmanager
def reopened_at_once() -> Iterator[None]:
    """Who is fenced opens again, without asking the group."""

    async def ours(self: Inbox, partition: int, after: float) -> bool:
        return True

    with patch.object(Inbox, "wait_membership_confirmed", ours):
        yield


@rule(
    "D12",
    "a zombie that was fenced opens again",
    twin=reopened_at_once,
    harm=r"fenced the true owner \d+ times",
)
async def duel(stage: Stage) -> None:
    """It must ask the group first; else it fences the true owner, who fences it back, for ever."""
    zombie = await stage.process()
    await stage.send(b"record")
    await stage.letters(b"record")
    zombie.freeze_group()
    owner = await stage.process()
    await stage.until(owner.serving, "the shard has another owner")
    lives = zombie.opened[0]
    found: list[bytes | None] = []
    for number in range(RECORDS):
        await stage.send(b"%d" % number)  # both read it
        found = await stage.letters(b"%d" % number)
        await asyncio.sleep(0.8)  # real time: who asks nobody opens again after half a second
    if owner.opened[0] > 1:
        again, fenced = zombie.opened[0] - lives, owner.opened[0] - 1
        raise Harm(
            f"in {RECORDS} records the zombie opened {again} times more and fenced the true owner {fenced} times"
        )
    assert zombie.opened[0] == lives
    assert found == [b"record", *(b"%d" % number for number in range(RECORDS))]
