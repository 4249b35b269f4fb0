"""Orders: commands that services send in a simulation, some of them twice; and what is done at providers for them.

A `Watch` stands beside each provider and writes down which changes a call of the bridge has made, and what the bridge
could have known when it made them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple
from urllib.parse import unquote

from bridge.commands.command import Kind, ProviderCommand, Refresh, Rename, Tagging, TaggingKind, encode
from bridge.model import Collection, iso
from bridge.publish.partitioner import partition_of
from bridge.sandbox.answer import Answer
from bridge.sandbox.population.truth import Truth
from bridge.sandbox.simulation.plan import Plan
from bridge.sandbox.simulation.process import Outside
from bridge.sandbox.simulation.provider import tags_of
from bridge.sandbox.simulation.vendors import Api
from bridge.source.transport import Request

TWICE = 0.2
"""Share of commands that are sent again at once."""

CONFIRM_S = 10.0
"""Short, because those behind a command wait for it."""

SOME_MAX = 6
"""Customers of a command."""


class Order(NamedTuple):
    """A command on its way. at: wall-clock seconds. The same id again is the same command."""

    command: ProviderCommand
    at: float


class Written(NamedTuple):
    """A change that a call of the bridge has made. known: number of the last change that the bridge could have known
    about this customer's tags; -1 where it did not look."""

    truth: Truth
    known: int


class Watch:
    """Of one API of which a customer's tags can only be set as a whole."""

    def __init__(self, api: Api) -> None:
        self.written: list[Written] = []
        self._api = api
        self._looked: dict[str, int] = {}
        self._answer = api.answer
        api.answer = self.answer  # type: ignore[method-assign]  # of this one object

    @property
    def truth(self) -> list[Truth]:
        """Everything that has happened there."""
        return self._api.world.truth.after(0)

    def answer(self, request: Request) -> Answer:
        """The API's own."""
        world = self._api.world
        before = world.truth.number
        uid = self._customer(request.path)
        answer = self._answer(request)
        if uid is not None and request.method == "GET" and answer.status == 200:
            self._looked[uid] = before
        if request.method not in ("GET", "HEAD"):
            self.written += [Written(entry, self._looked.get(entry.uid, -1)) for entry in world.truth.after(before)]
        return answer

    def _customer(self, path: str) -> str | None:
        """Whose tags a request is about, by uid."""
        *_, name, last = path.split("/")
        customers = self._api.world.customers
        row = customers.live_row_of.get(unquote(name)) if last == "tags" else None
        return None if row is None else customers.uids[row]


@dataclass(slots=True)
class Orders:
    """See the module. sent: each of them once. watches: by source."""

    plan: Plan
    outside: Outside
    chance: Random
    watches: dict[str, Watch]
    sent: list[Order] = field(default_factory=list)

    def actions(self) -> dict[str, Callable[[], str | None]]:
        """By name, as in the plan."""
        return {
            "tag some": self._tagging(Kind.TAG),
            "untag some": self._tagging(Kind.UNTAG),
            "rename one": self._rename,
            "refresh some": self._refresh,
            "order again": self._again,
        }

    def partitions(self) -> set[int]:
        """Of the inbox, in which there are any."""
        return {self._partition(order.command.source) for order in self.sent}

    def _tagging(self, kind: TaggingKind) -> Callable[[], str | None]:
        def act() -> str | None:
            found = self._source()
            if found is None:
                return None
            source, api = found
            tags = tags_of(api.world)
            who = self._some(api)
            if not tags or not who:
                return None
            customers = [*who, *(["cus_nobody"] if self.chance.random() < 0.1 else [])]
            tag = self.chance.choice(tags)
            return self._send(
                Tagging(
                    id=self._id(),
                    kind=kind,
                    source=source,
                    sent_at=self._now(),
                    tag=tag,
                    customers=tuple(customers),
                    confirm_within=CONFIRM_S,
                    not_after=self._not_after(),
                )
            )

        return act

    def _rename(self) -> str | None:
        found = self._source()
        if found is None or self.plan.providers[found[0]] != "dintero":
            return None
        source, api = found
        who = self._some(api)
        if not who:
            return None
        name = f"named~{len(self.sent)}"
        return self._send(
            Rename(
                id=self._id(),
                kind=Kind.RENAME,
                source=source,
                sent_at=self._now(),
                customer=who[0],
                new_customer_id=name,
                not_after=self._not_after(),
            )
        )

    def _refresh(self) -> str | None:
        found = self._source()
        if found is None:
            return None
        source, api = found
        who = self._some(api)
        if not who:
            return None
        about = [Collection.CUSTOMERS]
        about += [Collection.MEMBERSHIPS] if Collection.MEMBERSHIPS in self.plan.collections[source] else []
        return self._send(
            Refresh(
                id=self._id(),
                kind=Kind.REFRESH,
                source=source,
                sent_at=self._now(),
                collection=self.chance.choice(about),
                uids=tuple(who),
                not_after=self._not_after(),
            )
        )

    def _again(self) -> str | None:
        if not self.sent:
            return None
        order = self.chance.choice(self.sent)
        self._put(order.command)
        return order.command.id

    def _source(self) -> tuple[str, Api] | None:
        read = [name for name, names in self.plan.collections.items() if Collection.CUSTOMERS in names]
        if not read:
            return None
        source = self.chance.choice(read)
        api = self.outside.apis[source]
        api.world.advance(self.outside.clock.wall())
        return source, api

    def _some(self, api: Api) -> Sequence[str]:
        customers = api.world.customers
        living = [customers.uids[row] for row in customers.live_row_of.values()]
        return self.chance.sample(living, min(len(living), self.chance.randint(1, SOME_MAX)))

    def _send(self, command: ProviderCommand) -> str:
        self.sent.append(Order(command, self.outside.clock.wall()))
        self._put(command)
        if self.chance.random() < TWICE:
            self._put(command)
        return f"{command.id} to {command.source}: {command.kind}"

    def _put(self, command: ProviderCommand) -> None:
        partition = self._partition(command.source)
        self.outside.broker.send(self.outside.topics.inbox, partition, command.source.encode(), encode(command))

    def _partition(self, source: str) -> int:
        return partition_of(source.encode(), self.plan.shards)

    def _id(self) -> str:
        return f"order-{len(self.sent)}"

    def _now(self) -> str:
        return iso(int(self.outside.clock.wall() * 1_000_000))

    def _not_after(self) -> str | None:
        if self.chance.random() < 0.8:
            return None
        return iso(int((self.outside.clock.wall() + self.chance.uniform(0.0, 60.0)) * 1_000_000))
