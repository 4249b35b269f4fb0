"""The plain loop, a process of its own: what one would write first. aiohttp + orjson + aiokafka, nothing remembered.

No diff, no state, no transactions: every row that a page shows goes to the topic, keyed by its id. `read` walks the
whole list once and ends; `poll` asks every second for what changed since the last change it saw, until it is killed.
It is written as well as such a loop can be: keep-alive, uvloop, bytes from orjson, sends that are not awaited one by
one, and as durable as the library makes it without transactions (idempotent, acks=all).
"""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime
from typing import Any

import aiohttp
import orjson
import uvloop
from aiokafka import AIOKafkaProducer

from tests.bench.provider import ACCOUNT, LIST, PAGE_LIMIT

PENDING_MAX = 10_000
"""Records on their way before the next page is read."""

BATCH_BYTES = 256 * 1024
LINGER_MS = 5

POLL_S = 1.0


class Loop:
    """One account and one topic."""

    def __init__(self, session: aiohttp.ClientSession, producer: Any, topic: str) -> None:
        """`producer` is the library's, which has no types."""
        self._session = session
        self._producer = producer
        self._topic = topic
        self._pending: list[asyncio.Future[Any]] = []

    async def read(self) -> None:
        """The whole list, once."""
        after: dict[str, str] = {}
        while rows := await self._page(after):
            # Behind the rows that were asked for come those that they are linked to.
            after = {"starting_after": rows[:PAGE_LIMIT][-1]["id"]}
            await self._send(rows)
        await self._producer.flush()

    async def poll(self) -> None:
        """What changed, every second, for ever."""
        since = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        while True:
            began = time.monotonic()
            while True:
                rows = await self._page({"since_datetime": since})
                await self._send(rows)
                since = max([since, *(row["updated_at"] for row in rows)])
                if len(rows) < PAGE_LIMIT:
                    break
            await asyncio.sleep(max(0.0, began + POLL_S - time.monotonic()))

    async def _page(self, query: dict[str, str]) -> list[dict[str, Any]]:
        async with self._session.get(f"/v1{LIST}", params={"type": "any", "limit": "100", **query}) as answer:
            answer.raise_for_status()
            rows: list[dict[str, Any]] = orjson.loads(await answer.read())
            return rows

    async def _send(self, rows: list[dict[str, Any]]) -> None:
        send, topic = self._producer.send, self._topic
        for row in rows:
            self._pending.append(await send(topic, orjson.dumps(row), key=row["id"].encode()))
        if len(self._pending) > PENDING_MAX:
            for future in self._pending:
                await future
            self._pending.clear()


async def main(mode: str, url: str, bootstrap: str, topic: str) -> None:
    """`read` or `poll`."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        enable_idempotence=True,
        linger_ms=LINGER_MS,
        max_batch_size=BATCH_BYTES,
    )
    async with aiohttp.ClientSession(url) as session:
        await producer.start()
        try:
            audience = f"https://api.dintero.com/v1/accounts/{ACCOUNT}"
            async with session.post(
                f"/v1/accounts/{ACCOUNT}/auth/token",
                json={"grant_type": "client_credentials", "audience": audience},
                auth=aiohttp.BasicAuth("sandbox", "sandbox-secret"),
            ) as answer:
                token = (await answer.json())["access_token"]
            session.headers["Authorization"] = f"Bearer {token}"
            loop = Loop(session, producer, topic)
            await (loop.read() if mode == "read" else loop.poll())
        finally:
            await producer.stop()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:5]))
