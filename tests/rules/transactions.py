"""Rules about transactions: what a commit says, what a failed producer is good for, what arrives late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any
from unittest.mock import patch

from aiokafka.producer.sender import SendProduceReqHandler

from bridge.errors import CommitUnknown, PublishFailed
from bridge.publish.inbox import Inbox
from bridge.publish.producer import KafkaProducer, _TransactionRequests
from bridge.publish.transaction import Receipt, Record
from bridge.runtime import progress
from bridge.runtime.assignment import OwnPartition
from bridge.runtime.shard import TICK_S
from tests.publish.benching import Bench, HeldCommit
from tests.publish.proxy import END_TXN, Fate
from tests.rules.rule import Harm, rule
from tests.rules.stage import WATCHED, Process, Stage

HASTE: Mapping[str, float] = {"produce_deadline_s": 2.0, "commit_deadline_s": 2.0, "answer_deadline_s": 5.0}
HANG_S = 8.0
"""Longer than all our deadlines together, here."""

LIMIT_BYTES = 1000


def step(bench: Bench, number: int) -> list[Record]:
    """The same value in two topics: a torn transaction shows in one only."""
    value = b"%d" % number
    return [Record(bench.plan.customers, 0, b"acme/k", value), Record(bench.plan.state, 0, b"acme/customers/k", value)]


async def shown(bench: Bench, settle: bool = True) -> list[bytes | None]:
    return list(await bench.values(bench.plan.customers, settle=settle))


# -- D1 ----------------------------------------------------------------------------------------------------------


@contextmanager
def answers_not_looked_at() -> Iterator[None]:
    """As the library alone: commit, and trust that it says so."""

    async def unseen(self: KafkaProducer, futures: Sequence[asyncio.Future[Any]]) -> None: ...

    with (
        patch.object(KafkaProducer, "_acknowledged", unseen),
        patch("bridge.publish.producer.last_offsets", lambda *_: {}),
    ):
        yield


@rule(
    "D01",
    "a commit with a refused batch inside",
    twin=answers_not_looked_at,
    harm="returned well, and half",
)
async def refused_batch(stage: Stage) -> None:
    """The limit was lowered after it had been looked up."""
    bench, strict = stage.bench, f"{stage.bench.plan.bridge}.strict"
    await stage.create(strict, max_message_bytes=str(LIMIT_BYTES))
    producer = await bench.opened()
    said = "returned well"
    try:
        await producer.publish([*step(bench, 1), Record(strict, 0, b"k", b"x" * 2 * LIMIT_BYTES)], 7)
    except PublishFailed:
        said = "failed"
    await producer.abandon()
    await bench.opened()
    if await shown(bench):
        raise Harm(f"the commit {said}, and half of the transaction is visible")
    assert said == "failed"


# -- D2 ----------------------------------------------------------------------------------------------------------


@contextmanager
def failed_producer_kept() -> Iterator[None]:
    """As the library's manual has it: abort the transaction that failed, begin the next."""
    publish = KafkaProducer.publish

    async def kept(self: KafkaProducer, records: Sequence[Record], inbox_offset: int | None) -> Receipt:
        try:
            return await publish(self, records, inbox_offset)
        except PublishFailed:
            with suppress(Exception):
                await self._client.abort_transaction()
            self._usable = True
            raise

    with patch.object(KafkaProducer, "publish", kept):
        yield


@rule(
    "D02",
    "a producer after one failed batch",
    twin=failed_producer_kept,
    harm=r"OutOfOrderSequence",
)
async def one_failed_batch(stage: Stage) -> None:
    """Whoever uses it as long as it lets itself be used must not be stuck for ever."""
    bench, strict = stage.bench, f"{stage.bench.plan.bridge}.strict"
    await stage.create(strict, max_message_bytes=str(LIMIT_BYTES))
    hasty = bench.settings.model_copy(update=HASTE)
    producer = await bench.opened(settings=hasty)
    small, large = Record(strict, 0, b"k", b"x"), Record(strict, 0, b"k", b"x" * 2 * LIMIT_BYTES)
    await producer.publish([small], None)
    with suppress(PublishFailed):
        await producer.publish([large], None)
    failed = 0
    with broker_answers() as answers:
        for _ in range(2):
            try:
                await producer.publish([small], None)
                return
            except PublishFailed:
                failed += 1
            except AssertionError as refusal:
                if "never used again" not in str(refusal):
                    raise
                await producer.abandon()
                producer = await bench.opened(settings=hasty)
    refused = answers.count("OutOfOrderSequenceNumber")
    assert refused, answers
    raise Harm(f"{failed} of {failed} good transactions failed; Kafka said OutOfOrderSequenceNumber {refused} times")


@contextmanager
def broker_answers() -> Iterator[list[str]]:
    """The errors of batches, which the client hides: it sends them again."""
    seen: list[str] = []
    decide = SendProduceReqHandler._can_retry

    def noted(self: Any, error: Any, batch: Any) -> Any:
        seen.append(type(error).__name__)
        return decide(self, error, batch)

    with patch.object(SendProduceReqHandler, "_can_retry", noted):
        yield seen


# -- D3 ----------------------------------------------------------------------------------------------------------


@contextmanager
def transport_errors_unheard() -> Iterator[None]:
    """What the client repairs by itself is nobody's business."""
    with (
        patch.object(_TransactionRequests, "lost", lambda *_: None),
        patch.object(_TransactionRequests, "listen", lambda *_: None),
    ):
        yield


@rule(
    "D03",
    "a late copy of a commit, in the next transaction (KAFKA-17754)",
    twin=transport_errors_unheard,
    harm="nobody has committed",
)
async def late_copy_of_a_commit(stage: Stage) -> None:
    """The client repeated a commit that was only slow; the slow copy arrives in the next transaction."""
    bench = stage.bench
    producer = await bench.opened()
    stage.proxy.strike(END_TXN, Fate.HELD)
    receipt = await producer.publish(step(bench, 1), 1)
    if receipt.tainted:
        await producer.abandon()
        producer = await bench.opened()
    held = HeldCommit(producer)
    publishing = asyncio.create_task(producer.publish(step(bench, 2), 2))
    await held.reached.wait()
    await stage.proxy.release()
    await asyncio.sleep(0.3)  # real time: if it does harm, this is when the markers are written
    early = await shown(bench, settle=False)
    publishing.cancel()
    await asyncio.wait([publishing])
    await producer.abandon()
    await bench.opened()
    if await shown(bench) != [b"1"] or early != [b"1"]:
        raise Harm("a record is visible that nobody has committed")
    assert receipt.tainted


# -- D9 ----------------------------------------------------------------------------------------------------------


@contextmanager
def no_deadlines() -> Iterator[None]:
    """Every call is awaited as long as the library takes."""
    build = KafkaProducer.__init__

    def patient(self: KafkaProducer, settings: Any, **options: Any) -> None:
        forever = dict.fromkeys(HASTE, 1e6)
        build(self, settings.model_copy(update=forever), **options)

    async def stop(stop: Coroutine[Any, Any, None], cut: Callable[[], Any], deadline_s: float = 0.0) -> None:
        try:
            await stop
        except asyncio.CancelledError:
            await cut()
            raise

    with ExitStack() as patches:
        patches.enter_context(patch.object(KafkaProducer, "__init__", patient))
        for module in ("producer", "inbox"):
            patches.enter_context(patch(f"bridge.publish.{module}.stop_or_cut", stop))
        yield


@rule(
    "D09",
    "calls while the broker is away",
    twin=no_deadlines,
    harm="publish, stop of the inbox still hang",
)
async def broker_away(stage: Stage) -> None:
    """Publish, and a clean stop of what was idle; afterwards nothing arrives of what was given up."""
    bench = stage.bench
    hasty = bench.settings.model_copy(update=HASTE)
    busy, idle = await bench.opened(0, hasty), await bench.opened(1, hasty)
    await busy.publish(step(bench, 1), 1)
    await idle.publish([], 1)
    inbox = Inbox(stage.settings(), bench.plan.inbox, bench.plan.bridge, bench.clock)
    await inbox.start()
    stage.stack.push_async_callback(inbox._cut)
    while not inbox.assignment():
        await inbox.wait_changed()
    stage.far.broker.pause()
    calls = {
        "publish": asyncio.create_task(busy.publish(step(bench, 2), 2)),
        "close": asyncio.create_task(idle.close()),
        "stop of the inbox": asyncio.create_task(inbox.stop()),
    }
    _, hanging = await asyncio.wait(calls.values(), timeout=HANG_S)
    hung = [name for name, call in calls.items() if call in hanging]
    for call in calls.values():
        call.cancel()
    await asyncio.wait(calls.values())
    began = time.monotonic()
    await busy.abandon()
    abandoned_s = time.monotonic() - began
    stage.far.broker.resume()
    if hung:
        raise Harm(f"{', '.join(hung)} still hang after {HANG_S:.0f} s")
    assert isinstance(calls["publish"].exception(), PublishFailed)
    assert abandoned_s < 3.0
    successor = await bench.opened()
    await successor.publish(step(bench, 3), 3)
    assert await shown(bench) == [b"1", b"3"]


# -- D10 ---------------------------------------------------------------------------------------------------------


@contextmanager
def unknown_commit_repeated() -> Iterator[None]:
    """A commit without an answer has failed, so the same is published with a new client, until one is answered."""
    publish = KafkaProducer.publish

    async def again(self: KafkaProducer, records: Sequence[Record], inbox_offset: int | None) -> Receipt:
        while True:
            try:
                return await publish(self, records, inbox_offset)
            except CommitUnknown:
                await self.abandon()
                self._client = None
                await self.open()

    with patch.object(KafkaProducer, "publish", again):
        yield


@rule(
    "D10",
    "a commit without an answer",
    twin=unknown_commit_repeated,
    harm="published twice",
)
async def commit_without_an_answer(stage: Stage) -> None:
    """Once the commit arrives and its answer is lost, once it never arrives; either way the change is there once."""
    process = await stage.process(commit_deadline_s=1.0)
    await stage.at_rest(process)
    values = [b"before", b"arrived", b"lost on the way", b"last"]
    await stage.send(values[0])
    await stage.letters(values[0])
    for fate, value in ((Fate.MUTED, values[1]), (Fate.SWALLOWED, values[2])):
        lives = process.opened[0]
        stage.proxy.strike(END_TXN, fate)
        await stage.send(value)
        await stage.proxy.struck.wait()
        await stage.until(partial(opened_again, process, lives), "the shard is opened again")
        await stage.letters(value)
    await stage.send(values[3])
    found = await stage.letters(values[3])
    twice = [str(value, "utf-8") for value in values if found.count(value) > 1]
    if twice:
        raise Harm(f"published twice: {', '.join(twice)}")
    assert found == values


def opened_again(process: Process, lives: int) -> bool:
    return process.opened[0] > lives and process.serving()


# -- D13 ---------------------------------------------------------------------------------------------------------


@contextmanager
def empty_commit_counts() -> Iterator[None]:
    """A transaction without content went well, so the shard is ours and everything is published."""

    def confirmed(self: OwnPartition) -> float:
        return float("inf")

    with patch.object(OwnPartition, "confirmed_at", confirmed):
        yield


@rule(
    "D13",
    "a zombie's empty poll",
    twin=empty_commit_counts,
    harm="proved published",
)
async def empty_poll_of_a_zombie(stage: Stage) -> None:
    """Kafka is not asked in an empty transaction; the group has to confirm the owner before it says "up to date"."""
    # A watermark that is due makes a transaction of its own, which tells a zombie that it is one.
    stage.stack.enter_context(patch.object(progress, "PROGRESS_S", float("inf")))
    zombie = await stage.process()
    await stage.until(zombie.serving, "the shard runs")
    zombie.probe.nothing_new(1.0)
    former = zombie.shard()
    assert former is not None
    await stage.until(lambda: former.caught_up.get(WATCHED) == 1.0, "an owner's empty poll counts")
    zombie.freeze_group()
    owner = await stage.process()
    await stage.until(owner.serving, "the shard has another owner")
    zombie.probe.nothing_new(2.0)
    owner.probe.nothing_new(3.0)
    latter = owner.shard()
    assert latter is not None
    await stage.until(lambda: latter.caught_up.get(WATCHED) == 3.0, "an owner's empty poll counts")
    await asyncio.sleep(2 * TICK_S)  # the zombie has looked twice as well
    if former.caught_up[WATCHED] == 2.0:
        raise Harm("a process that lost the shard tells what its provider showed to be proved published")
    assert former.caught_up[WATCHED] == 1.0
