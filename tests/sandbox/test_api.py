"""The simulated Dintero API: every parameter and switch, in process; the delivery of answers over HTTP."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from bridge.errors import ConfigurationError, RetryLater
from bridge.sandbox.api import SandboxApi
from bridge.sandbox.http import serve
from bridge.sandbox.switches import Switches
from bridge.sandbox.world import RENAME_RECORD, Rates, World
from bridge.source.transport import Request, Response

BEGIN_S = 1_770_000_000.25
ACCOUNT = "T12345678"
AUDIENCE = f"https://api.dintero.com/v1/accounts/{ACCOUNT}"
BASIC = "Basic " + b64encode(b"sandbox:sandbox-secret").decode()
TOMBSTONE = {"id", "customer_id", "created_at", "created_by", "deleted_at", "deleted_by"}


class VirtualClock:
    """Time that passes only when somebody sleeps, or when the test says so."""

    def __init__(self) -> None:
        self.now = BEGIN_S

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += max(0.0, seconds)
        await asyncio.sleep(0)


class Client:
    """Sends requests to the API in process, with a token."""

    def __init__(self, customers: int = 0, tags: int = 0, seed: int = 5, **switches: Any) -> None:
        self.clock = VirtualClock()
        self.world = World(seed, customers, tags, Rates(), self.clock, ACCOUNT)
        self.api = SandboxApi(self.world, Switches(), self.clock)
        self.token = ""
        self.log_in()
        self.switch(**switches)

    def switch(self, **switches: Any) -> None:
        self.api.switches = self.api.switches.changed(switches)

    def log_in(self, audience: str = AUDIENCE, basic: str = BASIC, account: str = ACCOUNT) -> Response:
        body = orjson.dumps({"grant_type": "client_credentials", "audience": audience})
        response = self.raw("POST", f"/accounts/{account}/auth/token", body=body, headers={"Authorization": basic})
        if response.status == 200:
            self.token = orjson.loads(response.body)["access_token"]
        return response

    def raw(
        self,
        method: str,
        path: str,
        *query: tuple[str, str],
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        headers = {"Authorization": f"Bearer {self.token}"} if headers is None else headers
        answer = self.api.answer(Request(method, path, query, headers, body))
        return Response(answer.status, answer.headers, answer.body)

    def call(self, method: str, path: str, body: Any = None, *query: tuple[str, str]) -> Response:
        payload = None if body is None else orjson.dumps(body)
        return self.raw(method, f"/accounts/{ACCOUNT}{path}", *query, body=payload)

    def json(self, method: str, path: str, body: Any = None, *query: tuple[str, str]) -> Any:
        response = self.call(method, path, body, *query)
        assert response.status == 200, response.body
        return orjson.loads(response.body)

    def customers(self, *query: tuple[str, str], **parameters: str) -> list[Any]:
        rows: list[Any] = self.json("GET", "/customers/users", None, *query, *parameters.items())
        return rows

    def refusal(self, **parameters: str) -> int:
        return self.call("GET", "/customers/users", None, *parameters.items()).status

    def sweep(self, cursor: str = "id", **parameters: str) -> Iterator[list[Any]]:
        after: dict[str, str] = {}
        while page := self.customers(limit="10", **parameters, **after):
            yield page
            after = {"starting_after": page[:10][-1][cursor]}

    def add(self, customer_id: str, **fields: Any) -> dict[str, Any]:
        """A customer made one second after the one before."""
        self.clock.now += 1
        return self.world.create_customer({"customer_id": customer_id, **fields})


def names(rows: list[Any]) -> list[str]:
    return [row["customer_id"] for row in rows]


def path_of(customer_id: str) -> str:
    return f"/customers/users/{quote(customer_id, safe='')}"


# Access.


def test_a_token_is_given_for_client_id_and_secret() -> None:
    client = Client()
    answer = orjson.loads(client.log_in().body)
    assert answer.keys() == {"access_token", "token_type", "expires_in"}
    assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 14_400)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ({"basic": "Basic " + b64encode(b"sandbox:wrong").decode()}, 401),
        ({"basic": "Basic ???"}, 401),
        ({"basic": ""}, 401),
        ({"audience": "https://api.dintero.com/v1/accounts/T99999999"}, 403),
        ({"audience": "nonsense"}, 400),
        ({"account": "T99999999"}, 403),
        ({"account": "X1"}, 400),
        ({"account": "T1234567\u0664"}, 400),
    ],
)
def test_a_wrong_login_is_refused(arguments: dict[str, str], status: int) -> None:
    arguments = {key: quote(value, safe="") if key == "account" else value for key, value in arguments.items()}
    assert Client().log_in(**arguments).status == status


def test_a_call_needs_a_token_that_was_issued() -> None:
    client = Client()
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": BASIC}):
        assert client.raw("GET", f"/accounts/{ACCOUNT}/customers/tags", headers=headers).status == 401


def test_a_token_lives_as_long_as_it_says() -> None:
    client = Client(token_lifetime=60)
    client.log_in()
    client.clock.now += 59
    assert client.call("GET", "/customers/tags").status == 200
    client.clock.now += 1
    assert client.call("GET", "/customers/tags").status == 401
    client.log_in()
    assert client.call("GET", "/customers/tags").status == 200


def test_a_token_may_be_revoked_early() -> None:
    client = Client(token_revoke_after=10)
    client.clock.now += 10
    assert client.call("GET", "/customers/tags").status == 401
    client.log_in()
    client.api.access.revoke_all()
    assert client.call("GET", "/customers/tags").status == 401


def test_a_foreign_account_is_forbidden_and_a_malformed_one_invalid() -> None:
    client = Client()
    assert client.raw("GET", "/accounts/T87654321/customers/tags").status == 403
    assert client.raw("GET", "/accounts/T123/customers/tags").status == 400
    assert client.raw("GET", "/accounts/T123/management/users").status == 403
    assert client.raw("GET", "/accounts/T12/management/users").status == 400


@pytest.mark.parametrize(
    ("scopes", "statuses"),
    [
        ("admin:customers,admin:accounts", (200, 200, 200)),
        ("read:customers", (200, 403, 403)),
        ("write:customers, read:accounts", (403, 200, 200)),
        ("", (403, 403, 403)),
    ],
)
def test_each_call_needs_one_of_its_scopes(scopes: str, statuses: tuple[int, ...]) -> None:
    client = Client(scopes=scopes)
    calls = (
        ("GET", "/customers/users", None),
        ("POST", "/customers/tags", {"tag": "x"}),
        ("GET", "/management/users", None),
    )
    assert tuple(client.call(*call).status for call in calls) == statuses


def test_errors_have_the_common_body() -> None:
    client = Client()
    for response in (client.call("GET", "/customers/users/nobody"), client.call("GET", "/nowhere")):
        assert response.status == 404
        error = orjson.loads(response.body)
        assert error["error"]["code"] == "NOT FOUND"
        assert isinstance(error["error"]["message"], str)
    assert client.call("PATCH", "/customers/users").status == 405
    assert client.call("POST", "/customers/tags", "text").status == 400
    assert client.raw("POST", f"/accounts/{ACCOUNT}/customers/tags", body=b"{").status == 400


def test_answers_carry_date_media_type_and_a_weak_etag() -> None:
    headers = Client().call("GET", "/customers/tags").headers
    assert headers["content-type"] == "application/json; charset=utf-8"
    assert parsedate_to_datetime(headers["date"]).timestamp() == int(BEGIN_S)
    assert headers["etag"].startswith('W/"')


# The customer list: paging.


def test_a_page_has_ten_rows_unless_limit_says_otherwise() -> None:
    client = Client(customers=150)
    assert len([row for row in client.customers() if row["type"] != "contact"]) >= 10
    client.switch(linked_users="inside_limit")
    assert len(client.customers()) == 10
    assert len(client.customers(limit="1")) == 1
    assert len(client.customers(limit="100")) == 100


@pytest.mark.parametrize("limit", ["0", "101", "-1", "ten", "", "1.5", "\u0661", "9" * 5000])
def test_a_limit_outside_one_to_a_hundred_is_refused(limit: str) -> None:
    assert Client().refusal(limit=limit) == 400


@pytest.mark.parametrize("order", ["created", "created_descending", "id"])
@pytest.mark.parametrize("cursor", ["id", "customer_id"])
def test_a_sweep_by_cursor_meets_everybody_once(order: str, cursor: str) -> None:
    client = Client(customers=95, list_order=order, cursor_kind=cursor)
    seen = [row["id"] for page in client.sweep(cursor, type="any") for row in page[:10]]
    assert len(seen) == 95
    assert set(seen) == set(client.world.customers.row_of)
    keys = [(client.world.customers.creation(client.world.customers.row_of[uid])) for uid in seen]
    if order == "id":
        assert seen == sorted(seen)
    else:
        assert keys == sorted(keys, reverse=order == "created_descending")


def test_customers_of_one_instant_are_ordered_by_id() -> None:
    client = Client()
    for number in range(30):
        client.world.create_customer({"customer_id": str(number)})
    seen = [row["id"] for page in client.sweep() for row in page]
    assert seen == sorted(seen)
    assert len(seen) == 30


def test_a_shuffled_list_has_another_order_each_time() -> None:
    client = Client(customers=60, list_order="shuffled", linked_users="inside_limit")
    assert names(client.customers(limit="50")) != names(client.customers(limit="50"))


def test_an_ignored_cursor_shows_page_one_for_ever() -> None:
    client = Client(customers=40, cursor_kind="ignored")
    assert client.customers() == client.customers(starting_after="whatever")


def test_an_unknown_cursor_is_refused_and_so_is_one_of_the_wrong_kind() -> None:
    client = Client(customers=40)
    row = client.customers()[0]
    assert client.refusal(starting_after="unknown") == 400
    assert client.refusal(starting_after=row["customer_id"]) == 400
    client.switch(cursor_kind="customer_id")
    assert client.refusal(starting_after=row["id"]) == 400
    assert client.refusal(starting_after=row["customer_id"]) == 200


def test_a_deleted_customer_is_still_a_good_cursor() -> None:
    client = Client()
    for name in "abc":
        client.add(name)
    cursor = client.customers()[1]
    client.world.delete_customer(cursor["customer_id"])
    assert names(client.customers(starting_after=cursor["id"])) == ["c"]


def test_total_count_comes_only_when_asked_for_and_leaves_the_cursor_aside() -> None:
    client = Client(customers=80, tags=3)
    assert "total-count" not in client.call("GET", "/customers/users").headers
    cursor = client.customers(type="any")[5]["id"]

    def total(**parameters: str) -> int:
        query = {"total": "true", "limit": "1", **parameters}
        return int(client.call("GET", "/customers/users", None, *query.items()).headers["total-count"])

    contacts = total(type="contact")
    assert total(type="any") == total(type="any", starting_after=cursor) == 80
    assert total() == 80 - contacts
    tag, rows = max(client.world.customers.members.items(), key=lambda item: len(item[1]))
    assert total(type="any", tag_id=tag) == len(rows)
    client.world.mass_delete(0.25)
    assert total(type="any") == 60
    assert total(type="any", include_deleted="true") == 80
    assert total(type="any", since_datetime="1971-01-01T00:00:00Z") == 60
    assert total(type="any", search="no such name") == 0


@pytest.mark.parametrize("parameter", ["total", "include_deleted"])
def test_a_boolean_is_true_or_false(parameter: str) -> None:
    client = Client()
    assert client.refusal(**{parameter: "yes"}) == 400
    assert client.refusal(**{parameter: "false"}) == 200


# The customer list: filters.


def test_contacts_are_hidden_unless_type_asks_for_them_and_bring_whom_they_are_contacts_for() -> None:
    client = Client()
    client.add("friend")
    client.add("firm", type="company", company={"bussiness_name": "Firm"})
    client.add("late", type="contact", contact_for=[{"customer_id": "friend"}, {"customer_id": "nobody"}])
    assert names(client.customers()) == ["friend", "firm"]
    assert names(client.customers(type="contact")) == ["late", "friend"]
    assert names(client.customers(type="company")) == ["firm"]
    assert names(client.customers(type="any")) == ["friend", "firm", "late"]
    assert client.refusal(type="person") == 400


def test_linked_users_may_exceed_the_limit_or_count_inside_it() -> None:
    client = Client()
    for name in "abc":
        client.add(name)
    for name in "xyz":
        client.add(name, type="contact", contact_for=[{"customer_id": "abc"["xyz".index(name)]}])
    assert names(client.customers(type="contact", limit="2")) == ["x", "y", "a", "b"]
    client.switch(linked_users="inside_limit")
    assert names(client.customers(type="contact", limit="2")) == ["x", "a"]
    assert names(client.customers(type="contact", limit="1")) == ["x"]


def test_mail_is_compared_without_letter_case_and_phone_exactly() -> None:
    client = Client()
    client.add("a", email="Åse.Lie@Example.com", phone_number="+4712345678")
    client.add("b", email="other@example.com")
    assert names(client.customers(email="åSE.lie@example.COM")) == ["a"]
    assert client.customers(email="ase.lie@example.com") == []
    assert names(client.customers(phone_number="+4712345678")) == ["a"]
    assert client.customers(phone_number="4712345678") == []
    assert client.customers(email="other@example.com", phone_number="+4712345678") == []


@pytest.mark.parametrize("prefix", ["kar", "NORD", "kari nord", "+4798", "c-7", "KN@", "Acme"])
def test_search_finds_names_phone_customer_id_and_mail_by_their_beginning(prefix: str) -> None:
    client = Client()
    client.add("c-7/1", first_name="Kari", last_name="Nordmann", email="kn@example.com", phone_number="+4798765432")
    client.add("x", type="company", company={"bussiness_name": "Acme AS"})
    expected = ["x"] if prefix == "Acme" else ["c-7/1"]
    assert names(client.customers(search=prefix)) == expected
    assert client.customers(search="ari") == []


def test_tag_id_shows_who_carries_the_tag() -> None:
    client = Client(customers=40, tags=4)
    for tag in client.world.tags:
        carriers = {
            uid for uid, row in client.world.customers.row_of.items() if tag in client.world.customers.tags[row]
        }
        seen = {row["id"] for page in client.sweep(type="any", tag_id=tag) for row in page[:10]}
        assert carriers <= seen
    assert client.customers(tag_id="unknown") == []


def test_attributes_are_matched_by_key_and_by_value() -> None:
    client = Client()
    client.add("a", attributes={"size": 42, "news": True, "likes": ["ski", "bike"]})
    client.add("b", attributes={"size": 43})
    key, value = "attributes_keys", "attributes_values"
    assert names(client.customers((key, "size"))) == ["a", "b"]
    assert names(client.customers((key, "size"), (key, "news"))) == ["a"]
    assert names(client.customers((key, "size"), (value, "43"))) == ["b"]
    assert names(client.customers((key, "likes"), (value, "bike"), (key, "news"), (value, "true"))) == ["a"]
    assert client.customers((key, "likes"), (value, "chess")) == []
    five = [(key, str(number)) for number in range(5)]
    assert client.call("GET", "/customers/users", None, *five).status == 400
    assert client.refusal(attributes_values="x") == 400


def test_a_token_value_finds_its_customer() -> None:
    client = Client()
    client.world.tokens["card", "4711"] = client.add("a")["id"]
    client.add("b")
    assert names(client.customers(token_value="4711")) == ["a"]
    assert names(client.customers(token_value="4711", token_type="card")) == ["a"]
    assert client.customers(token_value="4711", token_type="phone") == []


def test_include_deleted_adds_tombstones_of_six_fields() -> None:
    client = Client()
    for name in "abc":
        client.add(name, first_name="Kari")
    client.world.delete_customer("b")
    assert names(client.customers()) == ["a", "c"]
    rows = client.customers(include_deleted="true")
    assert names(rows) == ["a", "b", "c"]
    assert rows[1].keys() == TOMBSTONE
    assert names(client.customers(include_deleted="true", type="customer")) == ["a", "c"], "a tombstone has no type"
    assert client.customers(include_deleted="true", search="Kari") == [rows[0], rows[2]]


# The customer list: since.


def test_since_shows_changes_in_order_of_their_time_then_id() -> None:
    client = Client(customers=50)
    client.clock.now += 5
    for name in names(client.customers(limit="20"))[:7]:
        client.world.update_customer(name, {"status": name})
    rows = client.customers(since_datetime="1971-01-01T00:00:00Z", limit="100")
    keys = [(row["updated_at"], row["id"]) for row in rows]
    assert keys == sorted(keys)
    assert len(set(keys)) == len([row for row in rows if row["type"] != "contact"])


def test_since_is_inclusive_or_exclusive_by_switch() -> None:
    client = Client()
    stamps = [client.add(name)["updated_at"] for name in "abc"]
    assert names(client.customers(since_datetime=stamps[1])) == ["b", "c"]
    client.switch(since_bound="exclusive")
    assert names(client.customers(since_datetime=stamps[1])) == ["c"]


def test_since_may_be_descending() -> None:
    client = Client(since_order="descending")
    stamps = [client.add(name)["updated_at"] for name in "abc"]
    assert names(client.customers(since_datetime=stamps[0], limit="2")) == ["c", "b"]


def test_since_takes_any_iso_form_and_nothing_else() -> None:
    client = Client()
    client.add("a")
    for text in ("2026-02-02T02:40:00Z", "2026-02-02T03:40:00.000+01:00", "2026-02-02T02:40:00"):
        assert names(client.customers(since_datetime=text)) == ["a"], text
    for text in ("yesterday", "2026-02-02", "", "2026-02-02T99:00:00Z", "1960-01-01T00:00:00Z"):
        assert client.refusal(since_datetime=text) == 400


@pytest.mark.parametrize(
    ("switch", "expected"), [("error", None), ("ignore_cursor", ["b", "c"]), ("ignore_since", ["c"])]
)
def test_since_together_with_a_cursor(switch: str, expected: list[str] | None) -> None:
    client = Client(since_with_cursor=switch)
    rows = [client.add(name) for name in "abc"]
    query = {"since_datetime": rows[1]["updated_at"], "starting_after": rows[1]["id"]}
    if expected is None:
        assert client.refusal(**query) == 400
    else:
        assert names(client.customers(**query)) == expected


def test_tombstones_match_since_by_deleted_at_or_never() -> None:
    client = Client()
    for name in "abc":
        client.add(name)
    client.clock.now += 10
    tombstone = client.world.delete_customer("a")
    since = tombstone["deleted_at"]
    assert client.customers(since_datetime=since) == []
    assert client.customers(since_datetime=since, include_deleted="true") == [tombstone]
    client.switch(tombstones_in_since="never")
    assert client.customers(since_datetime=since, include_deleted="true") == []
    assert tombstone in client.customers(include_deleted="true")


def test_since_and_tag_are_joined_with_and() -> None:
    client = Client()
    tag = client.world.create_tag("VIP")["id"]
    stamps = [client.add(name)["updated_at"] for name in "abc"]
    for name in "ab":
        client.world.set_customer_tags(name, [tag])
    assert names(client.customers(since_datetime=stamps[1], tag_id=tag)) == ["b"]


def test_more_changes_in_one_instant_than_a_page_holds_block_the_cursor() -> None:
    client = Client()
    for number in range(120):
        client.world.create_customer({"customer_id": str(number)})
    page = client.customers(since_datetime="1971-01-01T00:00:00Z", limit="100")
    assert client.customers(since_datetime=page[-1]["updated_at"], limit="100") == page


@pytest.mark.parametrize(("precision", "length"), [("seconds", 20), ("milliseconds", 24), ("microseconds", 27)])
def test_time_stamps_have_the_precision_of_the_switch(precision: str, length: int) -> None:
    client = Client(timestamp_precision=precision)
    client.add("a")
    (row,) = client.customers()
    assert len(row["updated_at"]) == length
    assert client.customers(since_datetime=row["updated_at"]) == [row]


def test_late_rows_show_up_after_their_time() -> None:
    client = Client(late_visibility_s=5)
    first = client.add("a", first_name="Kari")
    assert client.customers() == []
    client.clock.now += 5
    assert client.customers() == [first]
    changed = client.world.update_customer("a", {"first_name": "Ola"})
    client.world.rename_customer("a", "b")
    since = first["updated_at"]
    assert client.customers(since_datetime=since) == client.customers() == [first], "lists show the state before"
    assert client.json("GET", path_of("b"))["first_name"] == "Ola", "a single read shows the change"
    client.clock.now += 4
    assert client.customers() == [first]
    client.clock.now += 1
    (row,) = client.customers(since_datetime=since)
    assert row["updated_at"] == changed["updated_at"]
    client.world.delete_customer("b")
    assert names(client.customers()) == ["b"]
    client.clock.now += 5
    assert client.customers() == []


# One customer.


NASTY = ["a/b", "what?", "#1", "50%", "%2F", "%252F", "a+b", "a b", "ü/é", "🙂", "a&b=c", "..%2f", "a;b", "\\", '"']


@pytest.mark.parametrize("customer_id", [*NASTY, ".", "..", "tags", "a" * 255, "\u0000x", "é" * 255])
def test_any_customer_id_is_one_segment_of_the_path(customer_id: str) -> None:
    client = Client()
    made = client.json("POST", "/customers/users", {"customer_id": customer_id})
    assert client.json("GET", path_of(customer_id)) == made
    assert client.json("GET", path_of(customer_id) + "/tags") == []
    client.json("POST", path_of(customer_id) + "/change_customer_id", {"customer_id": "plain"})
    assert client.call("GET", path_of(customer_id)).status == 404
    client.json("POST", path_of("plain") + "/change_customer_id", {"customer_id": customer_id})
    assert client.json("DELETE", path_of(customer_id)).keys() == TOMBSTONE


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=255).filter(lambda text: text == text.strip()))
@settings(max_examples=60, deadline=None)
def test_customer_ids_survive_the_round_trip(customer_id: str) -> None:
    client = Client()
    made = client.json("POST", "/customers/users", {"customer_id": customer_id})
    assert made["customer_id"] == customer_id
    assert client.json("GET", path_of(customer_id)) == made
    assert names(client.customers()) == [customer_id]


def test_a_path_that_is_not_utf8_or_too_long_is_refused() -> None:
    client = Client()
    assert client.call("GET", "/customers/users/%ff").status == 400
    assert client.call("GET", path_of("a" * 256)).status == 400
    assert client.call("GET", "/customers/users/a/b/c").status == 404


def test_reading_a_deleted_customer_gives_404_or_the_tombstone() -> None:
    client = Client()
    client.add("a")
    tombstone = client.json("DELETE", path_of("a"))
    assert client.call("GET", path_of("a")).status == 404
    assert client.call("DELETE", path_of("a")).status == 404
    assert client.call("PUT", path_of("a"), {}).status == 404
    client.switch(deleted_read="tombstone")
    assert client.json("GET", path_of("a")) == tombstone
    client.add("a")
    assert "type" in client.json("GET", path_of("a")), "the id was taken again"


def test_head_tells_whether_a_mail_or_phone_is_known() -> None:
    client = Client()
    client.add("a", email="A@example.com", phone_number="+4711111111")

    def head(**query: str) -> Response:
        return client.call("HEAD", "/customers/users", None, *query.items())

    assert head(email="a@EXAMPLE.com").status == 200
    assert head(phone_number="+4711111111").status == 200
    assert head(email="b@example.com").status == 404
    assert head().status == 400
    assert head(email="b@example.com").body == b""
    client.switch(head_users=False)
    assert head(email="a@example.com").status == 405


def test_a_created_customer_has_what_was_sent_and_what_the_server_adds() -> None:
    client = Client()
    sent = {"first_name": "Kari", "email": "k@example.com", "password": "secret", "id": "mine", "whatever": 1}
    made = client.json("POST", "/customers/users", sent)
    assert made.keys() == {"id", "customer_id", "type", "created_at", "created_by", "updated_at", "first_name", "email"}
    assert made["id"] != "mine"
    assert made["type"] == "customer"
    assert client.customers() == [made]


@pytest.mark.parametrize(
    "fields",
    [
        {"customer_id": "taken"},
        {"email": "TAKEN@example.com"},
        {"phone_number": "+4712345678"},
        {"phone_number": "0712345678"},
        {"phone_number": "+47\u06612345678"},
        {"customer_id": ""},
        {"customer_id": " a"},
        {"customer_id": "a" * 256},
        {"type": "person"},
        {"type": "company"},
        {"type": "customer", "company": {"bussiness_name": "x"}},
        {"type": "company", "company": {"business_name": "x"}},
        {"contact_for": [{"customer_id": "taken"}]},
        {"addresses": [{"address_line": "x"}]},
        {"addresses": "x"},
        {"date_of_birth": "1.2.2003"},
        {"metadata": []},
        {"marketing_consent": {"sms": True}},
        {"first_name": 5},
        [],
    ],
)
def test_a_create_with_wrong_or_taken_values_is_refused(fields: Any) -> None:
    client = Client()
    client.add("taken", email="taken@example.com", phone_number="+4712345678")
    assert client.call("POST", "/customers/users", fields).status == 400
    assert len(client.world.customers) == 1


def test_the_same_mail_is_free_for_another_type() -> None:
    client = Client()
    client.add("a", email="a@example.com")
    client.json("POST", "/customers/users", {"type": "employee", "email": "a@example.com"})
    client.json("PUT", path_of("a"), {"email": "A@example.com"})


def test_an_update_is_partial_and_checked() -> None:
    client = Client()
    client.add("a", first_name="Kari", last_name="Nordmann", email="a@example.com")
    client.add("b", email="b@example.com")
    after = client.json("PUT", path_of("a"), {"first_name": "Ola", "customer_id": "ignored", "email": None})
    assert (after["first_name"], after["last_name"], after["customer_id"]) == ("Ola", "Nordmann", "a")
    assert "email" not in after
    wrong: Any
    for wrong in ({"email": "B@example.com"}, {"type": "company"}, {"phone_number": "x"}, []):
        assert client.call("PUT", path_of("a"), wrong).status == 400
    assert client.json("GET", path_of("a")) == after
    assert client.call("PUT", path_of("nobody"), {}).status == 404


def test_a_rename_keeps_the_id_and_records_itself() -> None:
    client = Client()
    before = client.add("a", metadata={"mine": "1"})
    client.clock.now += 1
    after = client.json("POST", path_of("a") + "/change_customer_id", {"customer_id": "b/2"})
    assert (after["id"], after["customer_id"]) == (before["id"], "b/2")
    assert after["updated_at"] > before["updated_at"]
    assert sum(key.startswith(RENAME_RECORD) for key in after["metadata"]) == 1
    assert client.call("GET", path_of("a")).status == 404
    client.switch(rename_bumps_updated_at=False)
    client.clock.now += 1
    again = client.json("POST", path_of("b/2") + "/change_customer_id", {"customer_id": "c"})
    assert again["updated_at"] == after["updated_at"]


@pytest.mark.parametrize("body", [{}, {"customer_id": "taken"}, {"customer_id": "x "}, {"customer_id": 3}, [], "x"])
def test_a_wrong_rename_is_refused(body: Any) -> None:
    client = Client()
    client.add("a")
    client.add("taken")
    assert client.call("POST", path_of("a") + "/change_customer_id", body).status == 400
    assert client.call("POST", path_of("nobody") + "/change_customer_id", {"customer_id": "new"}).status == 404


# Tags.


def test_tags_are_listed_created_and_deleted() -> None:
    client = Client()
    made = client.json("POST", "/customers/tags", {"tag": "VIP", "metadata": {"a": 1}})
    assert made.keys() == {"id", "tag", "metadata", "created_at", "updated_at", "created_by"}
    assert client.json("GET", "/customers/tags") == [made]
    gone = client.json("DELETE", f"/customers/tags/{made['id']}")
    assert gone["id"] == made["id"]
    assert client.json("GET", "/customers/tags") == []
    assert client.call("DELETE", f"/customers/tags/{made['id']}").status == 404
    assert client.call("DELETE", "/customers/tags/not-a-uuid").status == 400
    for wrong in ({}, {"tag": ""}, {"tag": 1}, {"tag": "x", "metadata": "y"}):
        assert client.call("POST", "/customers/tags", wrong).status == 400


def test_a_customers_tags_are_replaced_as_a_whole() -> None:
    client = Client()
    before = client.add("a")
    one, two = (client.world.create_tag(name)["id"] for name in ("one", "two"))
    client.clock.now += 1
    assert [tag["id"] for tag in client.json("PUT", path_of("a") + "/tags", [one, two, one])] == [one, two]
    assert [tag["id"] for tag in client.json("GET", path_of("a") + "/tags")] == [one, two]
    assert client.json("PUT", path_of("a") + "/tags", []) == []
    assert client.json("GET", path_of("a")) == before, "tags do not move the customer"
    assert client.call("PUT", path_of("a") + "/tags", ["unknown"]).status == 400
    assert client.call("PUT", path_of("a") + "/tags", {}).status == 400
    assert client.call("GET", path_of("b") + "/tags").status == 404
    client.switch(tag_bumps_updated_at=True)
    client.json("PUT", path_of("a") + "/tags", [one])
    assert client.json("GET", path_of("a"))["updated_at"] > before["updated_at"]


def test_deleting_a_tag_removes_its_memberships_at_once() -> None:
    client = Client()
    client.add("a")
    tag = client.world.create_tag("one")["id"]
    client.json("PUT", path_of("a") + "/tags", [tag])
    client.json("DELETE", f"/customers/tags/{tag}")
    assert client.json("GET", path_of("a") + "/tags") == []
    assert client.customers(tag_id=tag) == []


# Management users.


def test_roles_are_objects_with_expand_and_ids_or_absent_without() -> None:
    client = Client()
    (*_, user) = client.json("GET", "/management/users", None, ("expand", "roles"))
    assert {"id", "name", "description", "scope"} <= user["roles"][0].keys()
    (*_, bare) = client.json("GET", "/management/users")
    assert bare["roles"] == [{"id": user["roles"][0]["id"]}]
    client.switch(roles_without_expand="absent")
    (*_, without) = client.json("GET", "/management/users")
    assert "roles" not in without
    assert client.call("GET", "/management/users", None, ("expand", "everything")).status == 400
    assert len(client.json("GET", "/management/users", None, ("search", "USER3"))) == 1


def test_last_seen_moves_by_itself() -> None:
    client = Client()
    before = client.json("GET", "/management/users")
    client.clock.now += 600
    after = client.json("GET", "/management/users")
    assert [user.pop("last_seen_at") for user in before] != [user.pop("last_seen_at") for user in after]
    assert before == after


# Switches and faults.


def test_an_unknown_switch_names_the_nearest_and_a_wrong_value_the_choices() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'fault_429'"):
        Switches.parse(["fault_249=1"])
    with pytest.raises(ConfigurationError, match="'inclusive' or 'exclusive'"):
        Switches.parse(["since_bound=both"])
    with pytest.raises(ConfigurationError, match="name=value"):
        Switches.parse(["fault_429"])
    with pytest.raises(ConfigurationError, match="fault_500"):
        Switches.parse(["fault_500=2"])
    assert Switches.parse(["fault_429=0.1", "tag_bumps_updated_at=yes"]).fault_429 == 0.1


@pytest.mark.parametrize(
    ("hint", "expected"),
    [("none", None), ("2", "2"), ("-1", "-1"), ("date", "Mon, 02 Feb 2026 02:40:02 GMT"), ("soon", "soon")],
)
def test_a_429_carries_the_hint_of_the_switch(hint: str, expected: str | None) -> None:
    client = Client(fault_429=1, fault_429_retry_after=hint)
    response = client.call("GET", "/customers/tags")
    assert response.status == 429
    assert response.headers.get("retry-after") == expected


@pytest.mark.parametrize(
    ("switch", "status", "media"),
    [
        ("fault_500", 500, "application/json"),
        ("fault_502_html", 502, "text/html"),
        ("fault_200_html", 200, "text/html"),
    ],
)
def test_server_faults_come_in_place_of_the_answer_and_nothing_is_done(switch: str, status: int, media: str) -> None:
    client = Client(**{switch: 1})
    response = client.call("POST", "/customers/tags", {"tag": "x"})
    assert response.status == status
    assert response.headers["content-type"].startswith(media)
    assert not client.world.tags


def test_faults_can_be_limited_to_one_endpoint_and_follow_the_seed() -> None:
    client = Client(fault_500=0.5, fault_on="tags")
    assert client.call("GET", "/customers/users").status == 200
    statuses = [client.call("GET", "/customers/tags").status for _ in range(50)]
    assert set(statuses) == {200, 500}
    twin = Client(fault_500=0.5, fault_on="tags")
    assert statuses == [twin.call("GET", "/customers/tags").status for _ in range(50)]


def test_the_tag_list_is_empty_once() -> None:
    client = Client(tags=3, empty_tag_list_once=True)
    lengths = [len(client.json("GET", "/customers/tags")) for _ in range(3)]
    assert lengths == [0, 3, 3]


def test_rows_may_be_duplicated_broken_or_missing() -> None:
    client = Client(customers=60, duplicate_rows=1, linked_users="inside_limit")
    good = {row["id"]: row for row in Client(customers=60).customers(limit="100", type="any")}
    rows = client.customers(limit="50")
    assert len(rows) > 50
    assert all(good[row["id"]] == row for row in rows)
    client.switch(duplicate_rows=0, bad_row=1)
    rows = client.customers(limit="50")
    assert len(rows) == 50
    assert sum(1 for row in rows if not isinstance(row, dict) or good.get(row.get("id")) != row) == 1
    client.switch(bad_row=0, empty_page=1)
    assert client.customers() == []
    client.switch(empty_page=0, bad_shape=1)
    bodies = {client.call("GET", "/customers/users").body for _ in range(60)}
    assert b"null" in bodies
    assert len(bodies) > 3


async def test_a_cut_connection_is_retry_later_and_a_write_may_have_happened() -> None:
    client = Client(fault_cut=1)
    headers = {"Authorization": f"Bearer {client.token}"}
    for number in range(40):
        request = Request("POST", f"/accounts/{ACCOUNT}/customers/tags", (), headers, b'{"tag":"%d"}' % number)
        with pytest.raises(RetryLater):
            await client.api.send(request)
    assert 0 < len(client.world.tags) < 40


async def test_delays_pass_on_the_clock_and_never_longer_than_the_deadline() -> None:
    client = Client(customers=5, latency_ms=200, page_latency_ms=300, fault_slow=1, fault_slow_s=2)
    headers = {"Authorization": f"Bearer {client.token}"}
    request = Request("GET", f"/accounts/{ACCOUNT}/customers/users", (), headers, timeout_s=10)
    assert (await client.api.send(request)).status == 200
    assert client.clock.now == pytest.approx(BEGIN_S + 2.5)
    with pytest.raises(RetryLater, match="within 1"):
        await client.api.send(Request("GET", request.path, (), headers, timeout_s=1))
    assert client.clock.now == pytest.approx(BEGIN_S + 3.5)
    with pytest.raises(RetryLater, match="larger"):
        await client.api.send(Request("GET", request.path, (), headers, body_bytes_max=100))


# Control routes.


def test_control_routes_show_and_set_without_a_token() -> None:
    client = Client(customers=40, tags=2)

    def control(method: str, path: str, body: Any = None, *query: tuple[str, str]) -> Any:
        payload = None if body is None else orjson.dumps(body)
        response = client.raw(method, f"/sandbox/{path}", *query, body=payload, headers={})
        return orjson.loads(response.body) if response.status == 200 else response.status

    assert control("PUT", "rates", {"edit": 5})["edit"] == client.world.rates.weights()["edit"] == 5
    assert control("GET", "rates")["edit"] == 5
    assert control("PUT", "rates", {"edits": 5}) == 400
    assert control("PUT", "switches", {"fault_500": 0.5})["fault_500"] == client.api.switches.fault_500 == 0.5
    assert control("GET", "switches")["fault_500"] == 0.5
    assert control("PUT", "switches", {"fault_5": 0.5}) == 400
    assert control("POST", "mass-delete", {"share": 0.5}) == {"deleted": 20}
    assert control("POST", "mass-delete", {"share": 2}) == 400
    entries = control("GET", "truth", None, ("after", "5"), ("limit", "3"))
    assert [entry["number"] for entry in entries] == [6, 7, 8]
    assert entries[0].keys() == {"number", "at", "kind", "collection", "uid", "detail"}
    assert control("GET", "truth", None, ("after", "x")) == 400
    stats = control("GET", "stats")
    assert (stats["customers"], stats["tombstones"], stats["tags"], stats["truth"]) == (20, 20, 2, 20)
    assert stats["requests"] == {"token 200": 1}
    client.switch(fault_500=0)
    assert control("POST", "revoke-tokens") == {}
    assert client.call("GET", "/customers/tags").status == 401
    assert control("GET", "nothing") == 404


# Over HTTP.


async def test_the_same_api_answers_over_http() -> None:
    client = Client(customers=30, tags=2)
    headers = {"Authorization": f"Bearer {client.token}"}
    async with serve(client.api) as url, aiohttp.ClientSession(headers=headers) as session:
        base = f"{url}/v1/accounts/{ACCOUNT}"
        async with session.get(f"{base}/customers/users?limit=3&total=true&type=any") as response:
            assert response.headers["total-count"] == "30"
            assert response.headers["date"] == "Mon, 02 Feb 2026 02:40:00 GMT"
            assert await response.json() == client.customers(limit="3", type="any")
        async with session.head(f"{base}/customers/users?email=nobody%40example.com") as response:
            assert response.status == 404
        async with session.get(f"{url}/sandbox/stats") as response:
            assert (await response.json())["customers"] == 30
        async with session.get(f"{url}/elsewhere") as response:
            assert response.status == 404


async def test_nasty_ids_and_a_plus_in_the_query_arrive_over_http() -> None:
    client = Client()
    client.add("phone", phone_number="+4712345678")
    headers = {"Authorization": f"Bearer {client.token}"}
    async with serve(client.api) as url, aiohttp.ClientSession(headers=headers) as session:
        base = f"{url}/v1/accounts/{ACCOUNT}"
        for customer_id in NASTY:
            payload = {"customer_id": customer_id}
            async with session.post(f"{base}/customers/users", json=payload) as response:
                made = await response.json()
            # yarl is told that the path is encoded already, as the bridge's own client does.
            from_path = URL(f"{base}{path_of(customer_id)}", encoded=True)
            async with session.get(from_path) as response:
                assert await response.json() == made
        for query, found in (("%2B4712345678", 1), ("+4712345678", 0)):
            target = URL(f"{base}/customers/users?phone_number={query}", encoded=True)
            async with session.get(target) as response:
                assert len(await response.json()) == found


async def test_a_cut_answer_breaks_the_connection_and_a_slow_one_arrives() -> None:
    client = Client(customers=30)
    headers = {"Authorization": f"Bearer {client.token}"}
    async with serve(client.api) as url, aiohttp.ClientSession(headers=headers) as session:
        target = f"{url}/v1/accounts/{ACCOUNT}/customers/users"
        client.switch(fault_cut=1)
        with pytest.raises(aiohttp.ClientError):
            async with session.get(target) as response:
                await response.read()
        client.switch(fault_cut=0, fault_slow=1, fault_slow_s=3)
        async with session.get(target) as response:
            assert len(await response.json()) >= 10
        assert client.clock.now == pytest.approx(BEGIN_S + 3)


# The limit per minute.


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("none", {}),
        ("x", {"x-ratelimit-limit": "5", "x-ratelimit-remaining": "3", "x-ratelimit-reset": "1770000060"}),
        ("ratelimit", {"ratelimit-limit": "5", "ratelimit-remaining": "3", "ratelimit-reset": "60"}),
        ("draft", {"ratelimit": "limit=5, remaining=3, reset=60", "ratelimit-policy": "5;w=60"}),
    ],
)
def test_what_is_left_of_the_limit_is_told_as_the_switch_says(form: str, expected: dict[str, str]) -> None:
    client = Client(limit_per_minute=5, limit_headers=form)
    response = client.call("GET", "/customers/tags")  # after the login
    assert {name: text for name, text in response.headers.items() if "ratelimit" in name} == expected


def test_what_is_beyond_the_limit_is_refused_until_the_next_minute() -> None:
    client = Client(limit_per_minute=3, fault_429_retry_after="date")
    statuses = [client.call("GET", "/customers/tags").status for _ in range(4)]
    assert statuses == [200, 200, 429, 429]
    hint = client.call("GET", "/customers/tags").headers["retry-after"]
    assert parsedate_to_datetime(hint).timestamp() == 1_770_000_060
    client.clock.now = 1_770_000_060.0
    assert client.call("GET", "/customers/tags").status == 200
