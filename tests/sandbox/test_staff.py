"""Management users in the sandbox: they live at the given rates, belong to partners too, and lists can be named."""

from __future__ import annotations

from random import Random
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from bridge.cli import main
from bridge.clock import SystemClock
from bridge.model import Collection
from bridge.sandbox.answer import Answer
from bridge.sandbox.api import CLIENT_ID, CLIENT_SECRET, SandboxApi
from bridge.sandbox.http import serve
from bridge.sandbox.population.life import Rates
from bridge.sandbox.switches import Switches
from bridge.sandbox.world import World, replay
from bridge.source.client import HttpTransport
from bridge.source.dintero.models import user
from bridge.source.transport import Request
from tests.sandbox.test_api import BASIC, VirtualClock
from tests.source.providing import source_over

USERS = "/management/users"


class House:
    """An account or partner, logged in to."""

    def __init__(self, account: str = "T12345678", rates: Rates | None = None, **switches: str) -> None:
        self.clock = VirtualClock()
        self.account = account
        self.world = World(3, 5, 4, rates or Rates(), self.clock, account)
        self.api = SandboxApi(self.world, Switches.parse([f"{k}={v}" for k, v in switches.items()]), self.clock)
        body = orjson.dumps({"audience": f"https://api.dintero.com/v1/accounts/{account}"})
        login = Request("POST", f"/accounts/{account}/auth/token", (), {"Authorization": BASIC}, body)
        self.token = orjson.loads(self.api.answer(login).body)["access_token"]

    def get(self, path: str, known: str | None = None, method: str = "GET") -> Answer:
        headers = {"Authorization": f"Bearer {self.token}"} | ({} if known is None else {"if-none-match": known})
        return self.api.answer(Request(method, f"/accounts/{self.account}{path}", (("expand", "roles"),), headers))

    def etag(self, path: str, known: str | None = None) -> str:
        return self.get(path, known).headers["etag"]


def bodies(house: House) -> dict[str, Any]:
    """Users by id as the bridge would know them."""
    rows = orjson.loads(house.get(USERS).body)
    return {row["id"]: getattr(user(row, "users.list"), "body", None) for row in rows}


def test_users_come_change_and_go_at_the_given_rates() -> None:
    house = House(rates=Rates(user_create=30, user_edit=120, user_delete=20))
    world = house.world
    start = orjson.loads(orjson.dumps(world.staff.users))
    world.advance(house.clock.wall() + 120)
    kinds = [entry.kind for entry in world.truth]
    assert {entry.collection for entry in world.truth} == {"users"}
    assert all(kinds.count(kind) > 10 for kind in ("created", "updated", "deleted"))
    changed = {name for entry in world.truth if entry.kind == "updated" for name in entry.detail["changed"]}
    assert changed == {"name", "roles", "scope", "updated_at"}
    replay(start, set(), world.truth)
    assert {uid: _unordered(row) for uid, row in start.items()} == {
        uid: _unordered(row) for uid, row in world.staff.users.items()
    }
    assert all(bodies(house).values())


def test_a_shuffled_user_is_the_same_user() -> None:
    house = House()
    rng = Random(1)
    uid = next(iter(house.world.staff.users))
    house.world.staff.update_user(uid, {"roles": [{"id": role} for role in house.world.staff.roles]})
    before, number = bodies(house), house.world.truth.number
    shown = set()
    for _ in range(20):
        house.world.staff.shuffle(rng, uid)
        shown.add(house.get(USERS).body)
        assert bodies(house) == before
    assert len(shown) > 1
    assert house.world.truth.number == number


def test_a_partner_has_users_and_nothing_else() -> None:
    partner = House("P123")
    assert len(orjson.loads(partner.get(USERS).body)) == 12
    assert partner.get("/customers/tags").status == 400
    assert partner.get("/customers/users").status == 400


@pytest.mark.parametrize("account", ["T1234", "X12345678", "P12", "T12345678\n", "T١٢٣"])
def test_the_command_takes_accounts_and_partners_only(account: str) -> None:
    result = CliRunner().invoke(main, ["sandbox", "--account", account])
    assert result.exit_code == 2
    assert "a partner P or T and 3" in result.stderr


def test_an_honoured_etag_names_the_content_and_spares_it() -> None:
    house = House(etag="honoured")
    name = house.etag("/customers/tags")
    assert name.startswith('W/"')
    answer = house.get("/customers/tags", f'W/"other", {name}')
    assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", name)
    house.world.create_customer({})  # somewhere else
    assert house.get("/customers/tags", name).status == 304
    house.world.create_tag("new")
    answer = house.get("/customers/tags", name)
    assert answer.status == 200
    assert answer.headers["etag"] != name
    seen = house.etag(USERS)
    assert house.get(USERS, seen).status == 304
    house.clock.now += 3600
    assert house.get(USERS, seen).status == 200  # `last_seen_at` is content, too


def test_an_honoured_etag_spares_no_errors_and_no_writes() -> None:
    house = House(etag="honoured")
    refused = house.get("/customers/users/nobody")
    assert house.get("/customers/users/nobody", refused.headers["etag"]).status == 404
    posted = house.get("/customers/tags", method="POST")
    assert house.get("/customers/tags", posted.headers["etag"], method="POST").status == 400


@pytest.mark.parametrize("switch", ["ignored", "changing"])
def test_other_etags_never_spare_anything(switch: str) -> None:
    house = House(etag=switch)
    names = [house.etag("/customers/tags")]
    for _ in range(3):
        assert house.get("/customers/tags", names[-1]).status == 200
        names.append(house.etag("/customers/tags"))
    assert len(set(names)) == (4 if switch == "changing" else 1)


def test_there_may_be_no_etag() -> None:
    assert "etag" not in House(etag="none").get("/customers/tags").headers


async def test_unchanged_arrives_over_http_and_the_connection_goes_on() -> None:
    world = World(3, 0, 60, Rates(), SystemClock())
    api = SandboxApi(world, Switches.parse(["etag=honoured"]), world.clock)
    async with serve(api) as url:
        transport = HttpTransport(f"{url}/v1")
        feed = source_over(transport, world.clock, client_id=CLIENT_ID, client_secret=CLIENT_SECRET).feeds[
            Collection.TAGS
        ]
        page = await feed.page(None)
        assert page.whole
        for _ in range(3):
            page = await feed.page(page.cursor)
            assert not page.whole
        world.create_tag("new")
        assert len((await feed.page(page.cursor)).documents) == 61
        await transport.close()
    assert api.statistics().requests == {"token 200": 1, "tags 200": 2, "tags 304": 3}


def _unordered(row: dict[str, Any]) -> dict[str, Any]:
    roles = sorted(role["id"] for role in row["roles"])
    return row | {"roles": roles, "scope": sorted(row["scope"])}
