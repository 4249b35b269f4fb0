"""What the network and a broker in trouble can do to a transaction; the log is always whole, the word of it true."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from bridge.errors import CommitUnknown, EnvironmentUnavailable, PublishError, PublishFailed
from bridge.publish.settings import KafkaSettings
from bridge.publish.transaction import Record
from bridge.publish.wire import bootstrap
from bridge.sandbox.kafka import KafkaSettings as BrokerSettings
from bridge.sandbox.kafka import LocalKafka
from bridge.sandbox.kafka.ports import free_port
from tests.publish.benching import Bench, HeldCommit, bench_on
from tests.publish.proxy import (
    ADD_OFFSETS,
    ADD_PARTITIONS,
    END_TXN,
    INIT_PRODUCER_ID,
    PRODUCE,
    TXN_OFFSET_COMMIT,
    Fate,
    Proxy,
)

HASTE = {"produce_deadline_s": 1.0, "commit_deadline_s": 1.0, "answer_deadline_s": 2.0}


def step(bench: Bench, number: int) -> list[Record]:
    """The same value in two topics: a torn transaction shows in one only."""
    value = f"{number}".encode()
    return [
        Record(bench.plan.customers, None, b"acme/%d" % number, value),
        Record(bench.plan.state, 0, b"acme/customers/%d" % number, value),
    ]


async def whole(bench: Bench, settle: bool = True) -> list[bytes | None]:
    """The committed values, having checked that no transaction is half there."""
    events = sorted(str(value) for value in await bench.values(bench.plan.customers, settle=settle))
    states = await bench.values(bench.plan.state, settle=settle)
    assert events == sorted(map(str, states))
    return list(states)


def background() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()}


# -- a broker that is away ---------------------------------------------------------------------------------------


async def test_a_commit_without_answer_is_unknown_in_time_and_the_log_decides(
    own_kafka: LocalKafka, own_bench: Bench
) -> None:
    bench = own_bench
    hasty = bench.settings.model_copy(update=HASTE)
    producer = await bench.opened(settings=hasty)
    await producer.publish(step(bench, 1), 1)
    held = HeldCommit(producer)
    publishing = asyncio.create_task(producer.publish(step(bench, 2), 2))
    await held.reached.wait()
    own_kafka.pause()
    held.go_on.set()
    started = time.monotonic()
    with pytest.raises(CommitUnknown):
        await publishing
    assert time.monotonic() - started < 2.0
    started = time.monotonic()
    await producer.abandon()
    assert time.monotonic() - started < 2.0
    own_kafka.resume()
    successor = await bench.opened()
    after = await whole(bench)
    assert after in ([b"1"], [b"1", b"2"])
    await successor.publish(step(bench, 3), 3)
    assert await whole(bench) == [*after, b"3"], "nothing of the old transaction came later"


async def test_a_commit_that_was_never_sent_has_surely_not_happened(
    own_kafka: LocalKafka, own_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client waits inside its commit before it asks anybody, here for a lookup that never ends."""
    bench = own_bench
    producer = await bench.opened(settings=bench.settings.model_copy(update=HASTE))
    held = HeldCommit(producer)
    publishing = asyncio.create_task(producer.publish(step(bench, 1), None))
    await held.reached.wait()
    found = asyncio.Event()

    async def lookup(*_: object) -> int:
        await found.wait()
        return 1

    monkeypatch.setattr(producer._client._sender, "_find_coordinator", lookup)
    held.go_on.set()
    with pytest.raises(PublishFailed, match="could not be sent"):
        await publishing
    found.set()  # the client's own task goes on where it was
    await asyncio.sleep(0.3)
    await producer.abandon()
    await (await bench.opened()).publish(step(bench, 2), None)
    assert await whole(bench) == [b"2"]


async def test_records_that_are_not_taken_in_time_have_surely_not_happened(
    own_kafka: LocalKafka, own_bench: Bench
) -> None:
    bench = own_bench
    producer = await bench.opened(settings=bench.settings.model_copy(update=HASTE))
    own_kafka.pause()
    with pytest.raises(PublishFailed, match="within 1 s"):
        await producer.publish(step(bench, 1), 1)
    await producer.abandon()
    own_kafka.resume()
    await (await bench.opened()).publish(step(bench, 2), None)
    assert await whole(bench) == [b"2"]


@pytest.mark.parametrize("moment", ["opening", "idle", "sending", "committing", "dead"])
async def test_abandon_is_bounded_and_leaves_no_task(own_kafka: LocalKafka, own_bench: Bench, moment: str) -> None:
    bench = own_bench
    before = background()
    producer = bench.producer()
    task: asyncio.Task[object] | None = None
    if moment == "opening":
        own_kafka.pause()
        task = asyncio.create_task(producer.open())
        await asyncio.sleep(0.2)
    else:
        await producer.open()
        held = HeldCommit(producer)
        match moment:
            case "sending":
                own_kafka.pause()
                task = asyncio.create_task(producer.publish(step(bench, 1), 1))
                await asyncio.sleep(0.2)
            case "committing":
                task = asyncio.create_task(producer.publish(step(bench, 1), 1))
                await held.reached.wait()
                own_kafka.pause()
                held.go_on.set()
                await asyncio.sleep(0.2)
            case "dead":
                own_kafka.kill()
                task = asyncio.create_task(producer.publish(step(bench, 1), 1))
                await asyncio.sleep(0.5)
            case _:
                own_kafka.pause()
    if task is not None:
        task.cancel()
        # On a connection that broke it has given up by itself.
        with pytest.raises(PublishFailed if moment == "dead" else asyncio.CancelledError):
            await task
    started = time.monotonic()
    await producer.abandon()
    assert time.monotonic() - started < 2.0
    await asyncio.sleep(0)
    assert background() == before
    if own_kafka.running:
        own_kafka.resume()


async def test_abandon_closes_sockets_that_still_have_something_to_write(
    own_kafka: LocalKafka, own_bench: Bench
) -> None:
    """A graceful close would wait until the broker has read it all, a commit at the end of it included."""
    bench = own_bench
    producer = await bench.opened()
    await producer.publish(step(bench, 1), 1)
    held = HeldCommit(producer)
    publishing = asyncio.create_task(producer.publish(step(bench, 2), 2))
    await held.reached.wait()
    own_kafka.pause()
    connections = list(producer._client.client._conns.values())
    sockets = [connection._writer.transport.get_extra_info("socket") for connection in connections]
    for connection in connections:
        connection._writer.write(b"x" * 50_000_000)  # more than the kernel takes
    publishing.cancel()
    await asyncio.wait([publishing])
    await producer.abandon()
    assert [socket.fileno() for socket in sockets] == [-1] * len(sockets)
    own_kafka.resume()


async def test_a_clean_close_of_a_broker_that_is_away_is_bounded(own_kafka: LocalKafka, own_bench: Bench) -> None:
    producer = await own_bench.opened()
    await producer.publish(step(own_bench, 1), 1)
    own_kafka.pause()
    started = time.monotonic()
    await producer.close()
    assert time.monotonic() - started < 7.0
    own_kafka.resume()


async def test_opening_on_a_broker_that_is_away_is_bounded(own_kafka: LocalKafka, own_bench: Bench) -> None:
    own_kafka.pause()
    with pytest.raises(EnvironmentUnavailable, match="within 2 s"):
        await own_bench.opened(settings=own_bench.settings.model_copy(update=HASTE))
    own_kafka.resume()


async def test_a_kafka_that_names_no_broker_cannot_be_used() -> None:
    """As one that has just come back; the library says so by an assertion."""

    async def start() -> None:
        raise AssertionError("Did we not perform bootstrap?")

    with pytest.raises(EnvironmentUnavailable, match="bootstrap"):
        await bootstrap(KafkaSettings(bootstrap_servers=["127.0.0.1:1"]), start())


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_a_broker_that_restarts_costs_at_most_a_producer(
    own_kafka: LocalKafka, own_bench: Bench, how: str
) -> None:
    bench = own_bench
    producer = await bench.opened()
    await producer.publish(step(bench, 1), 1)
    publishing = asyncio.create_task(producer.publish(step(bench, 2), 2))
    if how == "killed":
        own_kafka.kill()
        await own_kafka.start()
    else:
        await own_kafka.restart()
    try:
        receipt = await publishing
    except PublishError:
        await producer.abandon()
        await (await bench.opened()).publish(step(bench, 2), 2)
    else:
        assert receipt.offsets
        # Its connections broke, so a shard replaces it; and Kafka may have forgotten the markers (see `hanging`).
        await producer.abandon()
        await bench.opened()
    assert await whole(bench) == [b"1", b"2"]


# -- a network that loses, repeats and delays --------------------------------------------------------------------


@pytest.fixture(scope="module")
def advertised() -> Iterator[tuple[LocalKafka, int]]:
    """A broker that calls itself by the port of a proxy, which each test puts there."""
    port = free_port()
    properties = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}"}
    broker = LocalKafka(BrokerSettings(heap_mib=256, properties=properties))
    asyncio.run(broker.start())
    yield broker, port
    asyncio.run(broker.stop())


@pytest.fixture
async def proxy(advertised: tuple[LocalKafka, int]) -> AsyncIterator[Proxy]:
    broker, port = advertised
    async with Proxy(port, int(broker.bootstrap_servers.rpartition(":")[2])) as proxy:
        yield proxy


@pytest.fixture
async def far_bench(advertised: tuple[LocalKafka, int], proxy: Proxy, bridge_name: str) -> AsyncIterator[Bench]:
    bench = await bench_on(f"127.0.0.1:{advertised[1]}", bridge_name)
    yield bench
    await bench.close()


@pytest.mark.kafka
@pytest.mark.parametrize("fate", [Fate.LOST, Fate.UNANSWERED, Fate.DOUBLED], ids=lambda fate: fate.name.lower())
@pytest.mark.parametrize(
    "api",
    [INIT_PRODUCER_ID, ADD_PARTITIONS, ADD_OFFSETS, TXN_OFFSET_COMMIT, END_TXN, PRODUCE],
    ids=["init", "partitions", "offsets", "offset-commit", "end", "produce"],
)
async def test_one_mistreated_request_tears_nothing(far_bench: Bench, proxy: Proxy, api: int, fate: Fate) -> None:
    bench = far_bench
    if api == INIT_PRODUCER_ID:
        proxy.strike(api, fate)
    producer = await bench.opened()
    if api != INIT_PRODUCER_ID:
        await producer.publish(step(bench, 1), 1)
        proxy.strike(api, fate)
    try:
        receipt = await producer.publish(step(bench, 2), 2)
    except PublishError:
        if fate is not Fate.DOUBLED and api not in (INIT_PRODUCER_ID, ADD_PARTITIONS):
            raise  # the client repairs all others by itself
        await producer.abandon()
        producer = await bench.opened()
        if b"2" not in await whole(bench):
            await producer.publish(step(bench, 2), 2)
    else:
        assert receipt.tainted == (api != INIT_PRODUCER_ID and fate is not Fate.DOUBLED)
    assert proxy.struck.is_set()
    assert [value for value in await whole(bench) if value != b"1"] == [b"2"]
