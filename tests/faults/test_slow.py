"""Kafka that is slow, that throttles, or that forgot an idle producer: slower, and just as right (K25, K26)."""

from __future__ import annotations

import asyncio
import struct
import time
from pathlib import Path

import pytest

from bridge.assembly import Bridge
from bridge.publish.admin import Admin
from bridge.publish.hanging import DescribeTransactionsRequest
from bridge.runtime import ledger
from bridge.sandbox.kafka import LocalKafka
from tests.faults.conftest import Broker
from tests.support.neighbourhood import Neighbourhood, brisk, metric, published, runs, until
from tests.support.slow_link import SlowLink

pytestmark = pytest.mark.kafka

NOT_FOUND = 105
"""Kafka's number for a transactional id that it does not know."""

BATCH_RECORDS = 100
PAGE_ROWS = 100


async def test_a_source_that_was_silent_until_kafka_forgot_it_goes_on(
    tmp_path: Path, broker: Broker, bridge_name: str
) -> None:
    """K26: seven days by default."""
    town = Neighbourhood(tmp_path, brisk(broker.kafka.bootstrap_servers), bridge_name)
    async with town.bridge() as bridge:
        await until("it runs", runs(bridge, 0, 1))
        await until("all is read", lambda: bridge.proved_until() > 0)
        async with Admin(town.kafka) as admin, asyncio.timeout(60):
            ids = [f"{bridge_name}-0", f"{bridge_name}-1"]
            known = set(ids)
            while known:
                await asyncio.sleep(0.2)
                answer = await admin.ask("describe", DescribeTransactionsRequest(ids))
                known = {state[1] for state in answer.transaction_states if state[0] != NOT_FOUND}
        before = published(bridge)
        town.sign_up(3)
        await until("it publishes again", lambda: published(bridge) == before + 3)
        assert metric(bridge, 'bridge_transactions_total{result="fenced"}') == 1
        await town.verified()
    [line] = town.heard("the shard is opened again")
    assert line["cause"] == "Fenced"


async def test_a_slow_link_makes_everything_slower_and_the_reader_wait(
    tmp_path: Path, broker: Broker, bridge_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K25: half a second there and back, and little bandwidth."""
    monkeypatch.setattr(ledger, "BATCH_RECORDS_MAX", BATCH_RECORDS)
    town = Neighbourhood(tmp_path, brisk(f"127.0.0.1:{broker.link}", session_timeout_s=6.0), bridge_name)
    async with SlowLink(broker.link, broker.far) as link, town.bridge() as bridge:
        await until("it runs", runs(bridge, 0, 1))
        await until("all is read", lambda: bridge.proved_until() > 0)
        link.delay_s, link.bytes_per_s = 0.25, 1_000_000.0
        took_s, ahead = await burst(town, bridge, 300)
        link.delay_s, link.bytes_per_s = 0.0, float("inf")
        print(f"slow link: {took_s:.1f} s, {ahead} ahead")
        assert took_s > 2.0, "three pages in transactions of one or two, each several times there and back"
        assert ahead <= 2 * PAGE_ROWS + 40
        assert metric(bridge, 'bridge_transactions_total{result="committed"}') >= 2
        await town.verified()
    assert not town.heard("the shard is opened again")


async def test_a_quota_makes_everything_slower(
    tmp_path: Path, broker: Broker, bridge_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K25, by Kafka itself: it holds back its answers, and does not read on until the time is over."""
    monkeypatch.setattr(ledger, "BATCH_RECORDS_MAX", BATCH_RECORDS)
    settings = brisk(broker.kafka.bootstrap_servers, client_id=bridge_name)
    town = Neighbourhood(tmp_path, settings, bridge_name)
    async with town.bridge() as bridge:
        await until("it runs", runs(bridge, 0, 1))
        await until("all is read", lambda: bridge.proved_until() > 0)
        await set_quota(broker.kafka, bridge_name, 250_000.0)
        took_s, ahead = await burst(town, bridge, 400)
        await set_quota(broker.kafka, bridge_name, None)
        print(f"quota: {took_s:.1f} s, {ahead} ahead")
        assert took_s > 2.0
        assert ahead <= 2 * PAGE_ROWS + 40
        await town.verified()
    assert not town.heard("the shard is opened again")


async def burst(town: Neighbourhood, bridge: Bridge, count: int) -> tuple[float, float]:
    """New customers all at once: seconds until all are published, and how far reading was ahead of publishing."""
    read_before, published_before = fresh(bridge), published(bridge)
    ahead = 0.0
    began = time.monotonic()
    town.sign_up(count)

    def done() -> bool:
        nonlocal ahead
        gone = published(bridge) - published_before
        ahead = max(ahead, fresh(bridge) - read_before - gone)
        return gone >= count

    await until("all is published", done, timeout_s=120)
    return time.monotonic() - began, ahead


def fresh(bridge: Bridge) -> float:
    """Rows that were read and not known already."""
    return metric(bridge, "bridge_documents_read_total{") - metric(bridge, "bridge_documents_unchanged_total{")


async def set_quota(kafka: LocalKafka, client_id: str, bytes_per_s: float | None) -> None:
    """AlterClientQuotas (KIP-546), version 0, by hand: neither client library knows it."""

    def text(value: str) -> bytes:
        return struct.pack(">h", len(value)) + value.encode()

    entity = struct.pack(">i", 1) + text("client-id") + text(client_id)
    operation = text("producer_byte_rate") + struct.pack(">d?", bytes_per_s or 0.0, bytes_per_s is None)
    request = (
        struct.pack(">hhih", 49, 0, 1, -1)
        + struct.pack(">i", 1)
        + entity
        + struct.pack(">i", 1)
        + operation
        + struct.pack(">?", False)
    )
    host, _, port = kafka.bootstrap_servers.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(struct.pack(">i", len(request)) + request)
        size = struct.unpack(">i", await reader.readexactly(4))[0]
        answer = await reader.readexactly(size)
    finally:
        writer.close()
        await writer.wait_closed()
    _, _, entries, error = struct.unpack(">iiih", answer[:14])
    assert (entries, error) == (1, 0)
