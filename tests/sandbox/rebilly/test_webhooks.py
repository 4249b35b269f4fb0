"""Webhooks: what is configured, what is sent on which occasion, how it is proved and how often it is tried."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import orjson
import pytest

from bridge.errors import RetryLater
from bridge.model import instant
from bridge.sandbox.rebilly.credentials import basic, digest
from bridge.sandbox.rebilly.deliveries import carry
from bridge.source.transport import Request, Response
from tests.sandbox.rebilly.calling import ORGANIZATION, Caller

HOOK: dict[str, Any] = {"url": "https://hooks.example/in?a=b%20c", "method": "POST"}
DENY = {"www-authenticate": 'Digest realm="r", nonce="n", qop="auth", opaque="o"'}


class Receiver:
    """Takes deliveries. Implements `Transport`; `answers` are given in turn, the last for ever."""

    def __init__(self, *answers: Response | None) -> None:
        self.requests: list[Request] = []
        self.origins: list[str] = []
        self.closed = 0
        self._answers = list(answers) or [Response(204, {}, b"")]

    def __call__(self, origin: str) -> Receiver:
        self.origins.append(origin)
        return self

    async def send(self, request: Request) -> Response:
        self.requests.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if answer is None:
            raise RetryLater("no answer")
        return answer

    async def close(self) -> None:
        self.closed += 1

    @property
    def told(self) -> list[Any]:
        return [orjson.loads(request.body or b"") for request in self.requests]


def house(auth: dict[str, Any] | None = None, hook: dict[str, Any] | None = None, **switches: Any) -> Caller:
    """With a webhook."""
    caller = Caller(**switches)
    auth = auth or {"type": "basic", "username": "bridge", "password": "pässwörd:1"}
    credential = caller.json(
        "POST", "/service-credentials/webhook", {"type": "webhook", "host": "hooks.example", "auth": auth}
    )
    caller.json("POST", "/webhooks", {**HOOK, "credentialHash": credential["hash"], **(hook or {})})
    return caller


class TimeIsUpError(Exception):
    """So much for now."""


def carried(caller: Caller, receiver: Receiver, seconds: float = 1.0) -> list[Any]:
    """What has arrived when so many virtual seconds more have passed."""
    until = caller.clock.now + seconds

    def look() -> None:
        if caller.clock.now > until:
            raise TimeIsUpError
        caller.world.advance(caller.clock.now)
        caller.api.look()

    with pytest.raises(TimeIsUpError):
        asyncio.run(carry(caller.api.post, lambda: caller.api.switches, look, caller.clock, receiver))
    return receiver.told


# Configuration.


def test_a_webhook_is_stored_with_its_defaults_and_can_be_replaced_and_deleted() -> None:
    caller = house(hook={"headers": [{"name": "X-Own", "value": "secret"}]})
    (hook,) = caller.json("GET", "/webhooks")
    assert hook | {"id": "", "credentialHash": "", "_links": []} == {
        **HOOK,
        "id": "",
        "credentialHash": "",
        "eventsFilter": [],
        "status": "active",
        "headers": [{"name": "X-Own", "value": "secret", "status": "active"}],
        "body": None,
        "filter": None,
        "createdTime": hook["createdTime"],
        "updatedTime": hook["createdTime"],
        "_links": [],
    }
    caller.clock.now += 5
    path = f"/webhooks/{hook['id']}"
    again = caller.json("PUT", path, {**HOOK, "credentialHash": hook["credentialHash"], "status": "inactive"})
    assert (again["status"], again["headers"], again["createdTime"]) == ("inactive", [], hook["createdTime"])
    assert again["updatedTime"] > hook["updatedTime"]
    assert caller.json("GET", path) == again
    assert caller.json("GET", "/webhooks", filter="status:active") == []
    assert caller.status("DELETE", path) == 204
    assert caller.status("GET", path) == caller.status("DELETE", path) == 404
    chosen = caller.call("PUT", "/webhooks/mine", {**HOOK, "credentialHash": hook["credentialHash"]})
    assert chosen.status == 201
    assert chosen.headers["location"].endswith("/webhooks/mine")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"url": "ftp://x"}, "url"),
        ({"url": None}, "url"),
        ({"method": "HEAD"}, "method"),
        ({"credentialHash": "crd_none"}, "credentialHash"),
        ({"eventsFilter": "all"}, "eventsFilter"),
        ({"status": "asleep"}, "status"),
        ({"headers": {"X-Own": "secret"}}, "headers"),
        ({"filter": "colour:red"}, "filter"),
    ],
)
def test_a_wrong_webhook_is_refused(change: dict[str, Any], field: str) -> None:
    caller = house()
    credential = caller.json("GET", "/webhooks")[0]["credentialHash"]
    body = {**HOOK, "credentialHash": credential, **change}
    for method, path in (("POST", "/webhooks"), ("PUT", "/webhooks/x"), ("POST", "/previews/webhooks")):
        assert caller.invalid(method, path, body) == {field}


def test_at_most_twenty_five_are_active() -> None:
    caller = house()
    body = {**HOOK, "credentialHash": caller.json("GET", "/webhooks")[0]["credentialHash"]}
    for number in range(24):
        caller.json("PUT", f"/webhooks/h{number}", body)
    assert caller.invalid("POST", "/webhooks", body) == {"status"}
    assert caller.status("POST", "/webhooks", {**body, "status": "inactive"}) == 201
    assert caller.status("PUT", "/webhooks/h1", body) == 200


def test_a_credential_is_made_once_and_never_shows_its_password() -> None:
    caller = Caller()
    body = {"type": "webhook", "host": "a.example", "auth": {"type": "basic", "username": "u", "password": "p"}}
    first, again = (caller.call("POST", "/service-credentials/webhook", body) for _ in range(2))
    assert (first.status, again.status) == (201, 303)
    assert first.headers["location"] == again.headers["location"]
    (shown,) = caller.json("GET", "/service-credentials/webhook")
    assert shown == orjson.loads(first.body) == orjson.loads(again.body)
    assert (shown["id"], shown["auth"]) == (shown["hash"], {"type": "basic", "username": "u"})
    assert shown["id"].startswith("crd_")
    for change in ({"type": "mail"}, {"host": "a b"}, {"auth": {"type": "basic"}}, {"auth": {"type": "token"}}):
        assert caller.invalid("POST", "/service-credentials/webhook", {**body, **change}) == set(change)


def test_rules_are_stored() -> None:
    caller = Caller()
    rule = caller.json("POST", "/tags-rules", {"eventType": "customer-created", "addTags": ["VIP"]})
    assert caller.json("GET", "/tags-rules") == [rule]
    assert (rule["status"], rule["removeTags"]) == ("active", [])
    assert caller.invalid("POST", "/tags-rules", {"addTags": ["a/b"]}) == {"eventType", "addTags"}


def test_rules_tag_without_a_call() -> None:
    caller = Caller()
    for name in ("new", "old"):
        caller.add_tag(name)
    caller.add_tag("Passport", "kyc-document")
    rule = {"eventType": "customer-created", "addTags": ["NEW", "none", "Passport"], "filter": "id:!y"}
    caller.json("POST", "/tags-rules", rule)
    changed = {"eventType": "customer-updated", "addTags": ["old"], "removeTags": ["new"]}
    caller.json("POST", "/tags-rules", changed)
    caller.json("POST", "/tags-rules", {**changed, "removeTags": ["old"], "addTags": [], "status": "inactive"})
    for uid in ("x", "y"):
        caller.add(uid)
    assert (caller.tags_of("x"), caller.tags_of("y")) == (["new"], [])
    assert caller.json("GET", "/customers/x/timeline", sort="-id")[0]["triggeredBy"] == "rebilly"
    caller.json("PUT", "/customers/x", {"customFields": {"a": 1}})
    assert caller.tags_of("x") == ["old"]
    assert caller.invalid("POST", "/tags-rules", {**rule, "filter": "colour:red"}) == {"filter"}


# Occasions and payloads.


def test_a_change_is_told_with_the_customer_in_it() -> None:
    caller, receiver = house(), Receiver()
    caller.add("x", "x@example.com")
    caller.json("PUT", "/customers/x", {"customFields": {"a": 1}})
    created, updated = carried(caller, receiver)
    assert [created["eventType"], updated["eventType"]] == ["customer-created", "customer-updated"]
    assert created.keys() == {"customerId", "eventType", "_embedded", "_links"}
    assert updated["_embedded"]["customer"] == caller.customer("x")
    assert updated["_links"][0]["rel"] == "customer"
    (request, _) = receiver.requests
    assert (request.method, request.path, request.query) == ("POST", "/in", (("a", "b c"),))
    assert receiver.origins == ["https://hooks.example"]
    assert receiver.closed == 1
    assert request.headers["user-agent"].startswith("Rebilly/")
    assert request.headers["content-type"] == "application/json; charset=utf-8"


def test_a_merge_is_told_with_both() -> None:
    caller, receiver = house(hook={"eventsFilter": ["customer-merged"]}), Receiver()
    for uid in ("dup", "kept"):
        caller.add(uid)
    caller.add_tag("VIP")
    caller.call("POST", "/tags/VIP/customers/dup")
    before = caller.customer("dup")
    caller.call("DELETE", "/customers/dup", targetCustomerId="kept")
    (told,) = carried(caller, receiver)
    assert told == {
        "targetCustomerId": "kept",
        "eventType": "customer-merged",
        "duplicatedCustomer": before,
        "_embedded": {"targetCustomer": caller.customer("kept")},
        "_links": [],
    }


@pytest.mark.parametrize(
    ("shape", "updated", "merged"),
    [
        (
            "ids",
            {"customerId", "eventType", "_links"},
            {"targetCustomerId", "eventType", "duplicatedCustomer", "_links"},
        ),
        (
            "generic_merge",
            {"customerId", "eventType", "_embedded", "_links"},
            {"customerId", "eventType", "_embedded", "_links"},
        ),
    ],
)
def test_a_payload_has_the_shape_the_switch_says(shape: str, updated: set[str], merged: set[str]) -> None:
    caller, receiver = house(webhook_payload=shape), Receiver()
    for uid in ("dup", "kept"):
        caller.add(uid)
    caller.call("DELETE", "/customers/dup", targetCustomerId="kept")
    by_type = {told["eventType"]: told for told in carried(caller, receiver)}
    assert by_type["customer-updated"].keys() == updated
    assert by_type["customer-merged"].keys() == merged
    if shape == "ids":
        assert by_type["customer-merged"]["duplicatedCustomer"] == {"id": "dup"}
    else:
        assert by_type["customer-merged"]["customerId"] == "kept"


def test_a_body_and_url_of_ones_own_have_their_placeholders_filled() -> None:
    hook = {
        "url": "https://hooks.example/{eventType}",
        "body": '{"who": "{customerId}", "mail": "{_embedded.customer.email}", "no": "{no.thing}"}',
    }
    caller, receiver = house(hook=hook), Receiver()
    caller.add("x", "x@example.com")
    assert carried(caller, receiver) == [{"who": "x", "mail": "x@example.com", "no": ""}]
    assert receiver.requests[0].path == "/customer-created"


def test_only_who_passes_the_filter_is_told_of_and_only_what_is_wanted() -> None:
    caller = house(hook={"filter": "id:x", "eventsFilter": ["customer-updated", "customer-created"]})
    receiver = Receiver()
    for uid in ("x", "y"):
        caller.add(uid)
    caller.call("DELETE", "/customers/y", targetCustomerId="x")
    assert [told["eventType"] for told in carried(caller, receiver)] == ["customer-created", "customer-updated"]
    hook = caller.json("GET", "/webhooks")[0]
    caller.json("PUT", f"/webhooks/{hook['id']}", {**hook, "status": "inactive"})
    caller.json("PUT", "/customers/x", {"customFields": {"a": 1}})
    assert len(carried(caller, receiver)) == 2


@pytest.mark.parametrize("fires", [False, True])
def test_tagging_is_told_only_if_the_switch_says_so_and_tags_never(fires: bool) -> None:
    caller, receiver = house(tagging_fires_customer_updated=fires), Receiver()
    caller.add("x")
    carried(caller, receiver)
    caller.add_tag("VIP")
    caller.call("POST", "/tags/VIP/customers/x")
    caller.json("PATCH", "/tags/VIP", {"name": "other"})
    told = carried(caller, receiver)[1:]
    assert [one["eventType"] for one in told] == ["customer-updated"] * fires


@pytest.mark.parametrize("moves", [False, True])
def test_a_payment_is_told_only_if_it_moves_the_customer(moves: bool) -> None:
    caller, receiver = house(payments_move_customers=moves), Receiver()
    caller.add("x")
    caller.world.changes.pay("x")
    assert len(carried(caller, receiver)) == 1 + moves


def test_a_living_world_tells_of_itself() -> None:
    caller, receiver = house(), Receiver()
    caller.world.rates = caller.world.rates.changed({"sign_up": 120})
    told = carried(caller, receiver, 10)
    assert len(told) == pytest.approx(20, abs=12)
    assert {one["eventType"] for one in told} == {"customer-created"}


# Delivery.


def arrivals(caller: Caller, seconds: float) -> list[str]:
    receiver = Receiver()
    for number in range(12):
        caller.add(f"c{number}")
    return [told["customerId"] for told in carried(caller, receiver, seconds)]


@pytest.mark.parametrize(
    ("kind", "holds"),
    [
        ("once", lambda seen, sent: seen == sent),
        ("duplicated", lambda seen, sent: seen == [uid for uid in sent for _ in range(2)]),
        ("reordered", lambda seen, sent: seen != sent and sorted(seen) == sorted(sent)),
        ("delayed", lambda seen, sent: seen == []),
        ("dropped", lambda seen, sent: seen == []),
    ],
)
def test_deliveries_come_as_the_switch_says(kind: str, holds: Callable[[list[str], list[str]], bool]) -> None:
    assert holds(arrivals(house(webhook_delivery=kind), 5), [f"c{number}" for number in range(12)])


def test_a_delayed_delivery_comes_after_a_minute_and_a_dropped_one_never() -> None:
    assert len(arrivals(house(webhook_delivery="delayed"), 61)) == 12
    assert arrivals(house(webhook_delivery="dropped"), 61) == []


@pytest.mark.parametrize("failure", [Response(500, {}, b"no"), Response(302, {}, b""), None])
def test_what_fails_is_tried_again_with_growing_gaps_if_the_switch_says_so(failure: Response | None) -> None:
    caller, receiver = house(webhook_delivery="retried"), Receiver(failure)
    caller.add("x")
    assert len(carried(caller, receiver, 2000)) == 5
    log = caller.json("GET", "/tracking/webhooks")
    assert [entry["attempt"] for entry in log] == [5, 4, 3, 2, 1]
    assert {entry["status"] for entry in log} == {failure.status if failure else None}
    moments = [instant(entry["sentTime"]) / 1e6 for entry in reversed(log)]
    assert [after - before for before, after in pairwise(moments)] == pytest.approx([5, 20, 80, 320], abs=1.5)
    caller, receiver = house(), Receiver(failure)
    caller.add("x")
    assert len(carried(caller, receiver, 60)) == 1


def test_a_delivery_is_logged_and_can_be_sent_again_until_it_succeeds() -> None:
    caller = house(webhook_delivery="retried", timestamp_zone="+00:00")
    receiver = Receiver(None, Response(200, {"x": "y"}, b"thanks"))
    caller.add("x")
    carried(caller, receiver, 60)
    good, bad = caller.json("GET", "/tracking/webhooks")
    assert (good["status"], good["attempt"], good["response"]) == (200, 2, "thanks")
    assert (bad["status"], bad["attempt"], bad["response"]) == (None, 1, "")
    assert (good["entityId"], good["eventType"], good["organizationId"]) == ("x", "customer-created", ORGANIZATION)
    assert good["sentTime"].endswith("+00:00")
    assert "authorization" not in good["requestHeaders"]
    assert caller.json("GET", f"/tracking/webhooks/{good['id']}") == good
    assert caller.status("POST", f"/tracking/webhooks/{good['id']}/resend") == 204
    assert carried(caller, receiver)[-1] == orjson.loads(good["request"])
    assert len(caller.json("GET", "/tracking/webhooks")) == 3
    assert caller.status("GET", "/tracking/webhooks/none") == 404
    assert caller.status("POST", "/tracking/webhooks/none/resend") == 404


def test_a_preview_sends_a_test_with_the_given_configuration() -> None:
    caller, receiver = house(), Receiver()
    credential = caller.json("GET", "/webhooks")[0]["credentialHash"]
    body = {**HOOK, "url": "https://other.example/x", "method": "PUT", "credentialHash": credential}
    assert caller.status("POST", "/previews/webhooks", body) == 204
    (told,) = carried(caller, receiver)
    assert (told["customerId"], receiver.origins) == ("cus_preview", ["https://other.example"])
    assert receiver.requests[0].method == "PUT"


# Proof.


def test_basic_credentials_are_as_published() -> None:
    assert basic("bridge", "hook-pass") == "Basic YnJpZGdlOmhvb2stcGFzcw=="
    assert basic("bridge", "pässwörd:1") == "Basic YnJpZGdlOnDDpHNzd8O2cmQ6MQ=="
    assert basic("rebilly", "superman") == "Basic cmViaWxseTpzdXBlcm1hbg=="


def test_a_digest_is_as_in_the_rfc() -> None:
    challenge = (
        'Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", '
        'opaque="5ccc069c403ebaf9f0171e9517f40e41"'
    )
    proof = digest(challenge, "GET", "/dir/index.html", "Mufasa", "Circle Of Life", "0a4f113b")
    assert proof is not None
    assert 'response="6629fae49393a05397450978507c4ef1"' in proof
    assert digest("Basic realm=x", "GET", "/", "u", "p", "c") is None
    assert digest('Digest nonce="n", algorithm=SHA-256', "GET", "/", "u", "p", "c") is None


@pytest.mark.parametrize(
    ("switch", "auth", "proofs"),
    [
        ("basic", "basic", [basic("u", "p")]),
        ("basic", "none", [None]),
        ("none", "basic", [None]),
        ("wrong", "basic", [basic("u", "p?")]),
        ("digest", "basic", [None, "Digest"]),
        ("basic", "digest", [None, "Digest"]),
    ],
)
def test_a_delivery_proves_itself_as_the_switch_and_the_credential_say(
    switch: str, auth: str, proofs: list[str | None]
) -> None:
    caller = house({"type": auth, "username": "u", "password": "p"}, webhook_auth=switch)
    receiver = Receiver(Response(401, DENY, b""), Response(204, {}, b""))
    caller.add("x")
    carried(caller, receiver)
    seen = [request.headers.get("authorization") for request in receiver.requests]
    assert len(seen) == len(proofs)
    for proof, expected in zip(seen, proofs, strict=True):
        assert proof == expected or (expected == "Digest" and str(proof).startswith("Digest username="))
    assert caller.json("GET", "/tracking/webhooks")[0]["status"] == (204 if "Digest" in proofs else 401)


def test_headers_of_ones_own_are_sent_while_they_are_active() -> None:
    own = [{"name": "x-own", "value": "secret"}, {"name": "x-old", "value": "s", "status": "inactive"}]
    caller, receiver = house(hook={"headers": own}), Receiver()
    caller.add("x")
    carried(caller, receiver)
    assert receiver.requests[0].headers["x-own"] == "secret"
    assert "x-old" not in receiver.requests[0].headers
