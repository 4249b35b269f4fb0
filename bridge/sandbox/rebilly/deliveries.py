"""Deliveries: what is told to webhooks, when, how often, and the log of it.

The post office is asked what is due and told what came of it; `carry` does that over real connections, one delivery
after the other. Nothing is signed: whoever receives has only the credential to go by.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from random import Random
from urllib.parse import parse_qsl, urlsplit

import orjson

from bridge.clock import Clock
from bridge.errors import SourceError
from bridge.model import Body
from bridge.sandbox.rebilly import documents
from bridge.sandbox.rebilly.credentials import basic, digest
from bridge.sandbox.rebilly.documents import CUSTOMER_FIELDS, View
from bridge.sandbox.rebilly.events import Event, events_of, filled, payload
from bridge.sandbox.rebilly.filters import admits, parse
from bridge.sandbox.rebilly.hooks import Hooks
from bridge.sandbox.rebilly.problems import Problem
from bridge.sandbox.rebilly.switches import RebillySwitches
from bridge.sandbox.world import World
from bridge.source.transport import Request, Response, Transport

LOG_MAX = 1_000
"""Deliveries remembered; the oldest go first."""
WAITING_MAX = 10_000
"""Deliveries that wait to be sent; what comes on top is dropped."""
ATTEMPTS_MAX = 5
GAP_S = 5.0
"""From a failed first attempt to the second; each further gap is four times as long."""
DELAYED_S = 60.0
REORDERED_S = 2.0
"""Within which deliveries change places."""
TIMEOUT_S = 10.0
TICK_S = 0.05
"""Between two looks at what is due."""
AGENT = "Rebilly/0c5f2d1a"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request to one webhook. at: wall-clock second from which it is due. attempt: from 1."""

    number: int
    webhook: Body
    event: str
    entity: str
    url: str
    body: bytes
    at: float
    attempt: int = 1

    @property
    def target(self) -> str:
        """Path and query of the URL."""
        parts = urlsplit(self.url)
        return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


class PostOffice:
    """Reads on in the truth log, keeps what is due, and logs what was sent."""

    def __init__(self, world: World, hooks: Hooks, chance: Random) -> None:
        self._world = world
        self._hooks = hooks
        self._chance = chance
        self._read = world.truth.number
        self._number = 0
        self._waiting: list[Delivery] = []
        self._log: deque[tuple[Delivery, Body]] = deque(maxlen=LOG_MAX)

    def read(self, switches: RebillySwitches, view: View) -> None:
        """Take over what has happened since, for every webhook that wants to know."""
        for entry in self._world.truth.after(self._read):
            for event in events_of(entry, switches):
                for webhook in self._hooks.webhooks.values():
                    if webhook["status"] == "active" and event.type in (webhook["eventsFilter"] or [event.type]):
                        self._post(webhook, event, switches, view)
        self._read = self._world.truth.number

    def preview(self, webhook: Body, switches: RebillySwitches, view: View) -> None:
        """A test delivery with this configuration."""
        self._post(webhook, Event("customer-updated", "cus_preview"), switches, view)

    def due(self) -> list[Delivery]:
        """What is to be sent now, in this order; it waits no longer."""
        now = self._world.clock.wall()
        due = sorted((one for one in self._waiting if one.at <= now), key=lambda one: (one.at, one.number))
        self._waiting = [one for one in self._waiting if one.at > now]
        return due

    def request(self, delivery: Delivery, switches: RebillySwitches, challenge: str | None = None) -> Request | None:
        """A delivery as a request to its origin; with the receiver's challenge the answer to it, None if there is none.

        None where the provider would not know what to answer to it.
        """
        headers = {"user-agent": AGENT, "content-type": "application/json; charset=utf-8", "connection": "close"}
        headers |= {one["name"]: one["value"] for one in delivery.webhook["headers"] if one["status"] == "active"}
        proof = self._proof(delivery, switches, challenge)
        if challenge is not None and proof is None:
            return None
        headers |= {"authorization": proof} if proof else {}
        path, _, query = delivery.target.partition("?")
        pairs, method = tuple(parse_qsl(query, keep_blank_values=True)), delivery.webhook["method"]
        return Request(method, path, pairs, headers, delivery.body, timeout_s=TIMEOUT_S)

    def sent(self, delivery: Delivery, request: Request, response: Response | None, took_s: float, again: bool) -> None:
        """What came of a delivery, None for no answer. again: whether what failed is tried again."""
        now, status = self._world.clock.wall(), None if response is None else response.status
        began, ended = self._world.register.text(now - took_s), self._world.register.text(now)
        entry: Body = {
            "id": f"dlv_{delivery.number}_{delivery.attempt}",
            "status": status,
            "duration": round(took_s * 1000),
            "initiatedTime": began,
            "sentTime": ended,
            "url": delivery.url,
            "method": request.method,
            "request": delivery.body.decode(errors="replace"),
            "response": "" if response is None else response.body.decode(errors="replace"),
            "requestHeaders": _without_proof(request.headers),
            "responseHeaders": {} if response is None else dict(response.headers),
            "entityId": delivery.entity,
            "organizationId": self._world.account,
            "eventType": delivery.event,
            "source": "webhooks",
            "attempt": delivery.attempt,
            "createdTime": began,
            "updatedTime": ended,
        }
        self._log.append((delivery, entry))
        failed = status is None or not 200 <= status < 300
        if failed and again and delivery.attempt < ATTEMPTS_MAX:
            gap_s = GAP_S * 4 ** (delivery.attempt - 1)
            self._wait(replace(delivery, at=now + gap_s, attempt=delivery.attempt + 1))

    @property
    def log(self) -> list[Body]:
        """Of what was sent, the latest first."""
        return [entry for _, entry in reversed(self._log)]

    def resend(self, uid: str) -> None:
        """Send what a log entry tells of once more; 404 when there is none."""
        delivery = next((delivery for delivery, entry in self._log if entry["id"] == uid), None)
        if delivery is None:
            raise Problem(404, "no such delivery")
        self._number += 1
        self._wait(replace(delivery, number=self._number, at=self._world.clock.wall(), attempt=1))

    def _post(self, webhook: Body, event: Event, switches: RebillySwitches, view: View) -> None:
        row = self._world.customers.row_of.get(event.uid)
        customer: Body | None = None
        if row is not None and self._world.customers.alive(row):
            document = self._world.register.document(row)
            if not admits(parse(webhook["filter"], CUSTOMER_FIELDS), document, CUSTOMER_FIELDS):
                return
            customer = documents.customer(document, self._world.register.tags_of(row), view)
        told = payload(event, customer, view, switches)
        body = orjson.dumps(told) if webhook["body"] is None else filled(webhook["body"], told).encode()
        for at in self._moments(switches):
            self._number += 1
            url = filled(webhook["url"], told)
            self._wait(Delivery(self._number, webhook, event.type, event.uid, url, body, at))

    def _moments(self, switches: RebillySwitches) -> Iterator[float]:
        now, kind = self._world.clock.wall(), switches.webhook_delivery
        if kind == "dropped":
            return
        yield now + {"delayed": DELAYED_S, "reordered": self._chance.random() * REORDERED_S}.get(kind, 0.0)
        if kind == "duplicated":
            yield now

    def _wait(self, delivery: Delivery) -> None:
        if len(self._waiting) < WAITING_MAX:
            self._waiting.append(delivery)

    def _proof(self, delivery: Delivery, switches: RebillySwitches, challenge: str | None) -> str | None:
        credential = self._hooks.credentials.get(delivery.webhook["credentialHash"], {"auth": {"type": "none"}})
        auth, kind = credential["auth"], switches.webhook_auth
        if auth["type"] == "none" or kind == "none":
            return None
        name, password = auth["username"], auth["password"] + ("?" if kind == "wrong" else "")
        if kind != "digest" and auth["type"] == "basic":
            return basic(name, password) if challenge is None else None
        if challenge is None:
            return None
        cnonce = f"{self._chance.getrandbits(64):016x}"
        return digest(challenge, delivery.webhook["method"], delivery.target, name, password, cnonce)


def _without_proof(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "authorization"}


# Carrying.


async def carry(
    office: PostOffice,
    switches: Callable[[], RebillySwitches],
    look: Callable[[], None],
    clock: Clock,
    connect: Callable[[str], Transport],
) -> None:
    """Send what is due, for ever; cancellation may leave the last delivery sent and not logged.

    look: has the office read on. connect: to an origin.
    """
    async with AsyncExitStack() as stack:
        lines: dict[str, Transport] = {}
        while True:
            look()
            for delivery in office.due():
                parts = urlsplit(delivery.url)
                origin = f"{parts.scheme}://{parts.netloc}"
                if origin not in lines:
                    lines[origin] = connect(origin)
                    stack.push_async_callback(lines[origin].close)
                await _send(office, delivery, switches(), clock, lines[origin])
            await clock.sleep(TICK_S)


async def _send(
    office: PostOffice, delivery: Delivery, switches: RebillySwitches, clock: Clock, line: Transport
) -> None:
    began = clock.monotonic()
    request, response = office.request(delivery, switches), None
    assert request is not None, "only a challenge may have no answer"
    try:
        response = await line.send(request)
        challenge = response.headers.get("www-authenticate", "")
        answer = office.request(delivery, switches, challenge) if response.status == 401 else None
        if answer is not None:
            request, response = answer, await line.send(answer)
    except SourceError:
        response = None
    again = switches.webhook_delivery == "retried"
    office.sent(delivery, request, response, clock.monotonic() - began, again)
