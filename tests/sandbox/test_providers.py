"""Both simulated providers in one process, over HTTP and from the command line."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from click.testing import CliRunner

from bridge.cli import main
from bridge.cli.sandbox import _of
from bridge.sandbox.http import serve
from bridge.sandbox.population.dialect import REBILLY
from bridge.sandbox.population.life import RebillyRates
from bridge.sandbox.rebilly.api import RebillyApi
from bridge.sandbox.rebilly.switches import RebillySwitches
from bridge.sandbox.world import Rates, World
from tests.sandbox.rebilly.calling import KEY, ORGANIZATION, Caller
from tests.sandbox.test_api import ACCOUNT, Client, VirtualClock


async def test_two_providers_are_served_side_by_side() -> None:
    dintero, rebilly = Client(customers=10, tags=2), Caller(customers=20, tags=3)
    async with serve(dintero.api, rebilly.api) as url, aiohttp.ClientSession() as session:

        async def get(path: str, headers: dict[str, str]) -> tuple[int, Any]:
            async with session.get(f"{url}{path}", headers=headers) as response:
                return response.status, await response.json()

        token = {"Authorization": f"Bearer {dintero.token}"}
        base = f"/organizations/{ORGANIZATION}"
        assert len((await get(f"/v1/accounts/{ACCOUNT}/customers/tags", token))[1]) == 2
        status, rows = await get(f"{base}/customers?limit=2&filter=id:!nobody", KEY)
        assert (status, len(rows)) == (200, 2)
        assert rows[0]["_links"][0]["href"].startswith(f"{url}{base}/customers/cus_")
        assert (await get(f"{base}/customers", token))[0] == 401
        assert (await get("/organizations/org_9/customers", KEY))[0] == 403
        assert (await get("/elsewhere", KEY))[0] == 404
        assert (await get("/sandbox/stats", {}))[1]["customers"] == 10
        assert (await get(f"{base}/sandbox/stats", {}))[1]["customers"] == 20


async def test_names_that_need_encoding_and_bodies_of_deletions_arrive_over_http() -> None:
    caller = Caller()
    async with serve(caller.api) as url, aiohttp.ClientSession(headers=KEY) as session:
        base = f"{url}/organizations/{ORGANIZATION}"
        async with session.post(f"{base}/tags", json={"name": "a +b", "type": "customer"}) as response:
            assert response.status == 201
            location = response.headers["Location"]
        assert location == f"{base}/tags/a%20%2Bb"
        caller.add("x")
        ids = {"customerIds": ["x"]}
        for method, expected in (("POST", ["a +b"]), ("DELETE", [])):
            async with session.request(method, f"{base}/tags/a%20%2Bb/customers", json=ids) as response:
                assert (response.status, await response.read()) == (204, b"")
            caller.clock.now += 1
            assert caller.tags_of("x") == expected


async def test_a_served_organization_lives_and_sends_its_webhooks() -> None:
    caller, seen = Caller(customers=5), asyncio.Queue[Any]()

    async def receive(request: web.BaseRequest) -> web.Response:
        await seen.put((request.headers["Authorization"], await request.json()))
        return web.Response(status=204)

    runner = web.ServerRunner(web.Server(receive, access_log=None))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    auth = {"type": "basic", "username": "bridge", "password": "hook-pass"}
    credential = caller.json(
        "POST", "/service-credentials/webhook", {"type": "webhook", "host": "127.0.0.1", "auth": auth}
    )
    hook = {"url": f"http://127.0.0.1:{runner.addresses[0][1]}/in", "method": "POST"}
    caller.json("POST", "/webhooks", {**hook, "credentialHash": credential["id"]})
    living = asyncio.ensure_future(caller.api.live())
    try:
        caller.add("x")
        proof, told = await asyncio.wait_for(seen.get(), 10)
        assert (proof, told["customerId"]) == ("Basic YnJpZGdlOmhvb2stcGFzcw==", "x")
    finally:
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)
        await runner.cleanup()


def test_settings_with_a_providers_name_in_front_are_that_providers() -> None:
    texts = ["edit=60", "rebilly.merge=6", "dintero.tag=1.5", "list_order=a.b", "other.x=1"]
    assert _of("dintero", texts) == ["edit=60", "tag=1.5", "list_order=a.b", "other.x=1"]
    assert _of("rebilly", texts) == ["merge=6"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--switch", "rebilly.bulk_dely=1"], "did you mean 'bulk_delay'"),
        (["--switch", "bulk_delay=1"], "Unknown switch 'bulk_delay'"),
        (["--rate", "rebilly.rename=1"], "Unknown rate 'rename'"),
        (["--organization", "a/b"], "50 letters"),
        (["--provider", "stripe"], "dintero"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_served(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["sandbox", "--customers", "1", *arguments])
    assert result.exit_code == 2
    assert said in result.stderr


def test_two_worlds_of_one_seed_hold_the_same_people() -> None:
    clock = VirtualClock()
    dintero = World(9, 50, 6, Rates(), clock)
    rebilly = World(9, 50, 6, RebillyRates(), clock, ORGANIZATION, dialect=REBILLY)
    api = RebillyApi(rebilly, RebillySwitches(), clock)
    mails = [dintero.register.document(row)["email"] for row in dintero.customers.order]
    assert [rebilly.register.document(row)["email"] for row in rebilly.customers.order] == mails
    assert [tag["tag"] for tag in dintero.tags.values()] == [
        rebilly.tags[tag_id]["tag"] for tag_id in rebilly.register.tag_ids
    ]
    assert set(dintero.customers.uids).isdisjoint(rebilly.customers.uids)
    assert api.statistics().memberships == sum(len(tags) for tags in dintero.customers.tags)


def test_every_switch_is_looked_at_by_a_test() -> None:
    text = "".join(path.read_text() for path in (Path(__file__).parent / "rebilly").glob("test_*.py"))
    assert [name for name in RebillySwitches.model_fields if name not in text] == []
