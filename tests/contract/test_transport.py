"""The contract of `Transport`: an exchange is a complete answer or `RetryLater`; in process and over HTTP alike."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from urllib.parse import quote

import orjson
import pytest

from bridge.clock import SystemClock
from bridge.errors import RetryLater
from bridge.sandbox.api import SandboxApi
from bridge.sandbox.http import serve
from bridge.sandbox.population.dialect import REBILLY
from bridge.sandbox.population.life import Rates, RebillyRates
from bridge.sandbox.rebilly.api import API_KEY, RebillyApi
from bridge.sandbox.rebilly.switches import RebillySwitches
from bridge.sandbox.switches import Switches
from bridge.sandbox.world import World
from bridge.source.client import HttpTransport
from bridge.source.transport import Request, Transport

ACCOUNT = "/accounts/T12345678"
LIST = f"{ACCOUNT}/customers/users"


class Provider:
    """A simulated provider behind the transport under test. customers: where its customers are listed."""

    def __init__(self, api: SandboxApi | RebillyApi, transport: Transport) -> None:
        self.api = api
        self.transport = transport
        self.customers = LIST if isinstance(api, SandboxApi) else "/customers"

    def switch(self, **values: object) -> None:
        self.api.switch(values)

    async def credentials(self) -> dict[str, str]:
        if isinstance(self.api, RebillyApi):
            return {"reb-apikey": API_KEY}
        secret = base64.b64encode(b"sandbox:sandbox-secret").decode()
        body = {"grant_type": "client_credentials", "audience": f"https://api.dintero.com/v1{ACCOUNT}"}
        headers = {"authorization": f"Basic {secret}", "content-type": "application/json"}
        answer = await self.transport.send(Request("POST", f"{ACCOUNT}/auth/token", (), headers, orjson.dumps(body)))
        assert answer.status == 200
        return {"authorization": f"Bearer {orjson.loads(answer.body)['access_token']}"}


Talk = Callable[[], AbstractAsyncContextManager[Provider]]


def dintero() -> SandboxApi:
    return SandboxApi(World(1, 30, 4, Rates(), SystemClock()), Switches(), SystemClock())


def rebilly() -> RebillyApi:
    world = World(1, 30, 4, RebillyRates(), SystemClock(), "org_1", dialect=REBILLY)
    return RebillyApi(world, RebillySwitches(), SystemClock())


@asynccontextmanager
async def in_process(build: Callable[[], SandboxApi | RebillyApi]) -> AsyncIterator[Provider]:
    api = build()
    yield Provider(api, api)


@asynccontextmanager
async def over_http(build: Callable[[], SandboxApi | RebillyApi]) -> AsyncIterator[Provider]:
    api = build()
    async with serve(api) as origin:
        transport = HttpTransport(origin + api.base_path)
        try:
            yield Provider(api, transport)
        finally:
            await transport.close()


@pytest.fixture(params=[in_process, over_http])
def dintero_talk(request: pytest.FixtureRequest) -> Talk:
    return partial(request.param, dintero)


@pytest.fixture(params=[(in_process, dintero), (over_http, dintero), (in_process, rebilly), (over_http, rebilly)])
def talk(request: pytest.FixtureRequest) -> Talk:
    how, build = request.param
    return partial(how, build)


async def test_a_complete_answer_has_status_headers_and_body(talk: Talk) -> None:
    async with talk() as provider:
        request = Request("GET", provider.customers, (("limit", "5"), ("type", "any")), await provider.credentials())
        answer = await provider.transport.send(request)
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("application/json")
        assert "date" in answer.headers
        assert all(name == name.lower() for name in answer.headers)
        assert len(orjson.loads(answer.body)) >= 5


async def test_any_status_is_an_answer(talk: Talk) -> None:
    async with talk() as provider:
        for path, status in ((f"{ACCOUNT}/nowhere", 404), (provider.customers, 401)):
            assert (await provider.transport.send(Request("GET", path))).status == status


@pytest.mark.parametrize("name", ["kunde/{} #1", "a/../b", "50% rabatt", "🙂", "x=1;y=2", "%2F"])
async def test_path_and_query_arrive_as_they_were_sent(dintero_talk: Talk, name: str) -> None:
    async with dintero_talk() as provider:
        made = provider.api.world.create_customer({"customer_id": name, "email": "a+b@mail.example"})
        token = await provider.credentials()
        one = await provider.transport.send(Request("GET", f"{LIST}/{quote(name, safe='')}", (), token))
        assert orjson.loads(one.body)["id"] == made["id"]
        query = (("email", "a+b@mail.example"), ("type", "any"))
        found = await provider.transport.send(Request("GET", LIST, query, token))
        assert [row["id"] for row in orjson.loads(found.body)] == [made["id"]]


async def test_a_cut_answer_is_no_answer(talk: Talk) -> None:
    async with talk() as provider:
        token = await provider.credentials()
        provider.switch(fault_cut=1.0)
        with pytest.raises(RetryLater):
            await provider.transport.send(Request("GET", provider.customers, (), token))


async def test_the_deadline_is_kept(talk: Talk) -> None:
    async with talk() as provider:
        token = await provider.credentials()
        provider.switch(latency_ms=2000.0)
        began = provider.api.clock.monotonic()
        with pytest.raises(RetryLater):
            await provider.transport.send(Request("GET", provider.customers, (), token, timeout_s=0.2))
        assert provider.api.clock.monotonic() - began < 1.5


async def test_the_bound_of_the_body_is_kept(talk: Talk) -> None:
    async with talk() as provider:
        token, query = await provider.credentials(), (("limit", "10"),)
        whole = await provider.transport.send(Request("GET", provider.customers, query, token))
        exact = Request("GET", provider.customers, query, token, body_bytes_max=len(whole.body))
        assert (await provider.transport.send(exact)).body == whole.body
        with pytest.raises(RetryLater):
            await provider.transport.send(
                Request("GET", provider.customers, query, token, body_bytes_max=len(whole.body) - 1)
            )


async def test_closing_twice_is_harmless(talk: Talk) -> None:
    async with talk() as provider:
        await provider.transport.send(Request("GET", provider.customers))
        await provider.transport.close()
        await provider.transport.close()
