"""Vendors: what a simulation has to know of each provider: its API and source, how its rows are mapped, how it fails.

Everything else treats them alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from bridge.clock import Clock
from bridge.model import Body, Collection, Document
from bridge.sandbox.api import CLIENT_ID, CLIENT_SECRET, SandboxApi
from bridge.sandbox.dintero.endpoints import route as dintero_route
from bridge.sandbox.population.dialect import REBILLY
from bridge.sandbox.rebilly import documents
from bridge.sandbox.rebilly.api import API_KEY, RebillyApi
from bridge.sandbox.rebilly.documents import View
from bridge.sandbox.rebilly.endpoints import route as rebilly_route
from bridge.sandbox.rebilly.problems import Problem
from bridge.sandbox.rebilly.switches import PERMISSIONS, RebillySwitches
from bridge.sandbox.simulation.plan import Plan
from bridge.sandbox.switches import Switches
from bridge.sandbox.world import World
from bridge.source import dintero, rebilly
from bridge.source.api import RequestObserver
from bridge.source.provider import Source
from bridge.source.transport import Request, Response, Transport

Api = SandboxApi | RebillyApi


class Vendor(Protocol):
    """One provider. Keeps nothing: whatever differs from seed to seed is in the plan."""

    @property
    def forbidden(self) -> tuple[str, ...]:
        """Endpoints to which the right may be lost, each by itself."""
        ...

    @property
    def rights(self) -> tuple[str, ...]:
        """What may be left of all rights."""
        ...

    @property
    def tells_departures(self) -> bool:
        """Whether polls see that a customer is gone; elsewhere only those who look for it do."""
        ...

    def api(self, plan: Plan, seed: int, number: int, clock: Clock) -> Api:
        """With a world of its own."""
        ...

    def source(
        self, plan: Plan, name: str, port: Transport, api: Api, clock: Clock, spread: Callable[[], float]
    ) -> Source:
        """As a process builds it. port: the way to the API."""
        ...

    def endpoint(self, api: Api, request: Request) -> str | None:
        """Where a request leads; None where no right is needed, or nothing is."""
        ...

    def mapped(self, world: World, collection: Collection, raw: Body) -> Document | None:
        """A document of the world as the source shows it; None for one that it leaves out."""
        ...

    def without(self, right: str) -> Mapping[str, object]:
        """Switches with which only this right is left."""
        ...

    def well(self, plan: Plan) -> Mapping[str, object]:
        """Switches as they are when nothing is wrong, of those that may be."""
        ...


@dataclass(frozen=True, slots=True)
class Dintero:
    """Implements `Vendor`."""

    forbidden: tuple[str, ...] = ("customers", "customer", "customer_tags", "tags", "management")
    rights: tuple[str, ...] = ("", "read:customers", "read:accounts")
    tells_departures: bool = True

    def api(self, plan: Plan, seed: int, number: int, clock: Clock) -> SandboxApi:
        """See `Vendor.api`."""
        switches = Switches().changed(plan.switches)
        account = f"T{number:08d}"
        world = World(seed, plan.customers, plan.tags, plan.rates, clock, account, rules=switches.rules())
        return SandboxApi(world, switches, clock)

    def source(
        self, plan: Plan, name: str, port: Transport, api: Api, clock: Clock, spread: Callable[[], float]
    ) -> Source:
        """See `Vendor.source`."""
        settings = dintero.DinteroSettings.model_validate(
            {
                "source": name,
                "account": api.world.account,
                "client_id": CLIENT_ID,
                "client_secret": CLIENT_SECRET,
                "request_rate": plan.request_rate,
                "page_limit": plan.page_limit,
                "cursor_kind": plan.cursor_kind,
                "collections": plan.collections[name],
                "snapshot_parallelism": plan.snapshot_parallelism,
            }
        )
        return dintero.build(settings, port, clock, _Unobserved(), spread)

    def endpoint(self, api: Api, request: Request) -> str | None:
        """See `Vendor.endpoint`."""
        there = dintero_route(request.path)
        return None if there is None or there.endpoint == "token" else there.endpoint

    def mapped(self, world: World, collection: Collection, raw: Body) -> Document | None:
        """See `Vendor.mapped`."""
        if collection is Collection.USERS:
            roles = world.staff.roles
            raw = {**raw, "roles": [roles[role["id"]] for role in raw.get("roles", ())]}
        models = dintero.models
        maps = {Collection.CUSTOMERS: models.customer, Collection.TAGS: models.tag, Collection.USERS: models.user}
        mapped = maps[collection](raw, "")
        assert isinstance(mapped, Document), "the world holds only good documents"
        return mapped

    def without(self, right: str) -> Mapping[str, object]:
        """See `Vendor.without`."""
        return {"scopes": right}

    def well(self, plan: Plan) -> Mapping[str, object]:
        """See `Vendor.well`."""
        usual = Switches().changed(plan.switches)
        return {"scopes": Switches().scopes} | {name: getattr(usual, name) for name in plan.lie}


@dataclass(frozen=True, slots=True)
class Rebilly:
    """Implements `Vendor`."""

    forbidden: tuple[str, ...] = ("customers", "customer", "tags", "bulk")
    rights: tuple[str, ...] = ("", "customers:read", "tags:read")
    tells_departures: bool = False

    def api(self, plan: Plan, seed: int, number: int, clock: Clock) -> RebillyApi:
        """See `Vendor.api`."""
        switches = RebillySwitches().changed(plan.rebilly_switches)
        world = World(
            seed,
            plan.customers,
            plan.tags,
            plan.rebilly_rates,
            clock,
            f"org_{number}",
            rules=switches.rules(),
            dialect=REBILLY,
        )
        return RebillyApi(world, switches, clock)

    def source(
        self, plan: Plan, name: str, port: Transport, api: Api, clock: Clock, spread: Callable[[], float]
    ) -> Source:
        """See `Vendor.source`."""
        settings = rebilly.RebillySettings.model_validate(
            {
                "source": name,
                "account": api.world.account,
                "api_key": API_KEY,
                "request_rate": plan.request_rate,
                "page_limit": plan.rebilly_page_limit,
                "collections": plan.collections[name],
            }
        )
        assert isinstance(api, RebillyApi)
        return rebilly.build(settings, _Inside(api, port), clock, _Unobserved(), spread)

    def endpoint(self, api: Api, request: Request) -> str | None:
        """See `Vendor.endpoint`."""
        try:
            there = rebilly_route(request.path)
        except Problem:
            return None
        return None if there is None else there.endpoint

    def mapped(self, world: World, collection: Collection, raw: Body) -> Document | None:
        """See `Vendor.mapped`. Tags that customers cannot have are left out, and users."""
        view = View(world.account)
        if collection is Collection.USERS or (collection is Collection.TAGS and "type" in raw):
            return None
        mapped: object
        if collection is Collection.CUSTOMERS:
            mapped = rebilly.models.customer(documents.customer(raw, (), view), "")
        else:
            mapped = rebilly.models.tag(documents.tag(raw, view), "")
        assert isinstance(mapped, Document), "the world holds only good documents"
        return mapped

    def without(self, right: str) -> Mapping[str, object]:
        """See `Vendor.without`."""
        return {"permissions": right}

    def well(self, plan: Plan) -> Mapping[str, object]:
        """See `Vendor.well`."""
        return {"permissions": ",".join(PERMISSIONS)}


VENDORS: Mapping[str, Vendor] = {dintero.PROVIDER: Dintero(), rebilly.PROVIDER: Rebilly()}
"""By name, as in a plan."""


def late_s(api: Api) -> float:
    """How late its lists show a change."""
    return api.switches.late_visibility_s if isinstance(api, SandboxApi) else 0.0


@dataclass(frozen=True, slots=True)
class _Inside:
    """Takes whole paths, as the server over HTTP does. Implements `Transport`."""

    api: RebillyApi
    port: Transport

    async def send(self, request: Request) -> Response:
        """See `Transport.send`."""
        inside = self.api.inside(request.path)
        assert inside is not None, "the source asks for nothing else"
        return await self.port.send(replace(request, path=inside))

    async def close(self) -> None:
        """See `Transport.close`."""
        await self.port.close()


class _Unobserved(RequestObserver):
    """Counts nothing."""

    def request(self, endpoint: str, status: int | None, seconds: float) -> None:
        """See `RequestObserver`."""

    def throttled(self, seconds: float) -> None:
        """See `RequestObserver`."""

    def budget_remaining(self, value: float) -> None:
        """See `RequestObserver`."""
