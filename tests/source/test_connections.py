"""Connections: however many sources ask, few requests are under way, and everybody comes in turn.

In virtual time and without sockets: a turn is where a request would be.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from yarl import URL

from bridge.source.client import Connections, HttpTransport
from tests.support.clock import VirtualClock, run_virtual

ORIGIN = URL("https://api.example")
OTHER = URL("https://elsewhere.example")
ANSWER_S = 0.2


def test_no_more_requests_than_the_bound_are_under_way_and_they_begin_in_the_order_they_came() -> None:
    async def main(clock: VirtualClock) -> None:
        connections = Connections(requests_max=4)
        began: list[int] = []
        under_way = most = 0

        async def ask(number: int) -> None:
            nonlocal under_way, most
            async with connections.turn(ORIGIN):
                began.append(number)
                under_way += 1
                most = max(most, under_way)
                await clock.sleep(ANSWER_S)
                under_way -= 1

        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(ask(number))
        assert most == 4
        assert began == list(range(100))

    run_virtual(main)


def test_sources_that_ask_again_at_once_are_served_equally_often() -> None:
    async def main(clock: VirtualClock) -> None:
        connections = Connections(requests_max=8)
        served: Counter[int] = Counter()
        waits: list[float] = []

        async def read(source: int) -> None:
            while clock.monotonic() < 600:
                asked = clock.monotonic()
                async with connections.turn(ORIGIN):
                    waits.append(clock.monotonic() - asked)
                    await clock.sleep(ANSWER_S * (1 + source % 5))  # some accounts are larger than others
                served[source] += 1

        async with asyncio.TaskGroup() as group:
            for source in range(200):
                group.create_task(read(source))
        assert max(served.values()) <= 1.2 * min(served.values())
        settled = sorted(waits[200:])  # at the start nobody is in front of the first ones
        assert settled[-1] <= 2 * settled[len(settled) // 2]

    run_virtual(main)


def test_an_origin_that_hangs_holds_up_no_other() -> None:
    async def main(clock: VirtualClock) -> None:
        connections = Connections(requests_max=2)

        async def hang() -> None:
            async with connections.turn(ORIGIN):
                await clock.sleep(60)

        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(hang())
            await clock.sleep(1)
            async with connections.turn(OTHER):
                assert clock.monotonic() == 1

    run_virtual(main)


def test_answers_that_arrive_together_are_worked_on_one_per_round_of_the_loop() -> None:
    async def main(clock: VirtualClock) -> None:
        connections = Connections()
        rounds = 0
        worked: list[int] = []

        async def count() -> None:
            nonlocal rounds
            while len(worked) < 50:
                rounds += 1
                await asyncio.sleep(0)

        async def ask() -> None:
            async with connections.turn(ORIGIN):
                pass
            worked.append(rounds)

        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(ask())
            group.create_task(count())
        assert len(set(worked)) == 50

    run_virtual(main)


@pytest.mark.parametrize("waiting", ["for its turn", "for the answer", "to be worked on"])
def test_a_cancelled_request_gives_its_turn_back(waiting: str) -> None:
    async def main(clock: VirtualClock) -> None:
        connections = Connections(requests_max=2 if waiting == "to be worked on" else 1)

        async def ask(seconds: float) -> None:
            async with connections.turn(ORIGIN):
                if seconds:
                    await clock.sleep(seconds)

        async with asyncio.TaskGroup() as group:
            if waiting != "for the answer":
                group.create_task(ask(5 if waiting == "for its turn" else 0))
            task = group.create_task(ask(5 if waiting == "for the answer" else 0))
            await asyncio.sleep(0)
            assert not task.done()
            task.cancel()
        async with asyncio.timeout(1):
            await ask(0)

    run_virtual(main)


async def test_transports_that_share_connections_leave_them_open_when_they_close() -> None:
    connections = Connections()
    transports = [HttpTransport("http://127.0.0.1:9", connections) for _ in range(2)]
    session = connections.session()
    for transport in transports:
        await transport.close()
    assert not session.closed
    await connections.close()
    assert session.closed
