"""Commands over HTTP: 202 only for what the inbox has, and nothing else gets in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest
from pydantic import SecretStr

from bridge.commands import receiver
from bridge.commands.command import VALUE_BYTES_MAX, Rename, parse
from bridge.commands.receiver import CommandReceiver
from bridge.errors import EnvironmentUnavailable
from bridge.observability.probes import HANDLER_S_MAX, ProbeServer
from bridge.observability.status import ProcessStatus
from tests.observability.observing import StandingClock, build_metrics

TOKEN = "canary-token-of-acme"
OTHER = "canary-token-of-globex"
STATUS = ProcessStatus(ready=True, live=True, kafka="connected", shards_total=1)
RENAME = {"kind": "rename", "customer": "u-1", "new_customer_id": "c-2"}


class Inbox:
    """Takes what it is given, unless it is away."""

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes]] = []
        self.away = False
        self.hangs = False

    async def append(self, source: str, value: bytes) -> None:
        await asyncio.sleep(10.0 if self.hangs else 0)
        if self.away:
            raise EnvironmentUnavailable("Kafka is away")
        self.records.append((source, value))


@asynccontextmanager
async def serving(inbox: Inbox, **tokens: str) -> AsyncIterator[str]:
    """The server's address."""
    secrets = {source: SecretStr(token) for source, token in tokens.items()}
    receiver = CommandReceiver(secrets, inbox.append, StandingClock())
    server = ProbeServer("127.0.0.1:0", build_metrics(), lambda: STATUS, receiver.routes)
    await server.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.stop()


async def post(
    url: str, body: Any = RENAME, token: str | None = TOKEN, source: str = "acme", method: str = "POST"
) -> tuple[int, dict[str, Any]]:
    """Status and JSON. `Any`: raw bytes as they are, everything else as JSON."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"{url}/sources/{source}/commands", data=data, headers=headers) as answer,
    ):
        text = await answer.text()
        assert TOKEN not in text
        assert OTHER not in text
        return answer.status, orjson.loads(text) if text.startswith("{") else {}


def play(scene: Callable[[str, Inbox], Any], **tokens: str) -> Inbox:
    inbox = Inbox()

    async def main() -> None:
        async with serving(inbox, **tokens or {"acme": TOKEN, "globex": OTHER}) as url:
            await scene(url, inbox)

    asyncio.run(main())
    return inbox


def test_what_is_accepted_is_in_the_inbox_under_the_id_that_is_told() -> None:
    async def scene(url: str, inbox: Inbox) -> None:
        status, said = await post(url)
        assert status == 202
        (record,) = inbox.records
        command = parse(record[0].encode(), record[1])
        assert isinstance(command, Rename)
        assert (command.id, command.source, command.customer) == (said["id"], "acme", "u-1")
        assert await post(url, {**RENAME, "id": "mine"}, OTHER, "globex") == (202, {"id": "mine"})

    assert len(play(scene).records) == 2


def just_fits() -> bytes:
    """A body of the most bytes; the record has an id, a time and a source as well."""

    def body(*values: str) -> bytes:
        return orjson.dumps({"kind": "tag", "tag": "vip", "where": {"field": "email", "values": values}})

    long = ["x" * 255] * 3_000
    room = VALUE_BYTES_MAX - len(body(*long, ""))
    more = [min(255, room - at) for at in range(0, room, 258)]
    return body(*long, *("y" * length for length in more))


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"token": None}, 401, "bearer"),
        ({"token": ""}, 401, "bearer"),
        ({"token": "wrong"}, 401, "bearer"),
        ({"token": TOKEN + "x"}, 401, "bearer"),
        ({"token": None, "source": "nobody"}, 401, "bearer"),
        ({"token": OTHER}, 403, "another source"),
        ({"source": "nobody"}, 404, "no such source"),
        ({"method": "GET"}, 405, None),
        ({"method": "PUT"}, 405, None),
        ({"body": b" " * (VALUE_BYTES_MAX + 1)}, 413, "at most"),
        ({"body": just_fits()}, 413, "with what may be left out"),
        ({"body": b"{"}, 400, "not JSON"),
        ({"body": b"[]"}, 400, "not a JSON object"),
        ({"body": b"\xff"}, 400, "not JSON"),
        ({"body": {**RENAME, "kind": "explode"}}, 400, "kind is none of"),
        ({"body": {**RENAME, "customer": "ola@nordmann/"}}, 400, "customer: String should match"),
        ({"body": {**RENAME, "source": "globex"}}, 400, "key is not the id of its source"),
        ({"body": {"kind": "approve"}}, 400, "signals are not taken"),
    ],
)
def test_nothing_else_enters_the_inbox(change: dict[str, Any], status: int, said: str | None) -> None:
    async def scene(url: str, inbox: Inbox) -> None:
        answered, body = await post(url, **change)
        assert answered == status
        if said is not None:
            assert said in body["error"]
            assert "nordmann" not in body["error"]
        assert inbox.records == []
        assert (await post(url))[0] == 202, "the server goes on"

    play(scene)


def test_a_body_without_a_length_is_bounded_as_well() -> None:
    async def scene(url: str, inbox: Inbox) -> None:
        async def endless() -> AsyncIterator[bytes]:
            for _ in range(40):
                yield b" " * 65_536

        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with aiohttp.ClientSession() as session:
            try:
                async with session.post(f"{url}/sources/acme/commands", data=endless(), headers=headers) as answer:
                    assert answer.status == 413
            except aiohttp.ClientError:
                pass  # cut off in the middle of what nobody wants
        assert inbox.records == []

    play(scene)


def test_while_kafka_is_away_nothing_is_promised() -> None:
    async def scene(url: str, inbox: Inbox) -> None:
        inbox.away = True
        status, said = await post(url, {**RENAME, "id": "mine"})
        assert (status, said["id"]) == (503, "mine")
        inbox.away = False
        assert await post(url, {**RENAME, "id": "mine"}) == (202, {"id": "mine"})

    play(scene)


def test_without_a_token_there_is_no_such_route() -> None:
    async def main() -> None:
        receiver = CommandReceiver({}, Inbox().append, StandingClock())
        assert receiver.routes == []

    asyncio.run(main())


def test_who_cannot_be_told_whether_it_arrived_is_told_under_which_id(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(url: str, inbox: Inbox) -> None:
        monkeypatch.setattr(receiver, "APPEND_S_MAX", 0.05)
        inbox.hangs = True
        status, said = await post(url)
        assert status == 503
        assert "the same id" in said["error"]
        assert said["id"]

    assert receiver.APPEND_S_MAX < HANDLER_S_MAX, "or the server would answer before"
    play(scene)


def test_ids_of_mirrors_are_nobody_elses() -> None:
    async def scene(url: str, inbox: Inbox) -> None:
        status, said = await post(url, {**RENAME, "id": "mirror.vip.1.acme"})
        assert status == 400
        assert "mirror." in said["error"]
        assert inbox.records == []

    play(scene)
