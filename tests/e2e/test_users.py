"""The management users of a partner, through a whole bridge into a real Kafka."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from bridge.config import Config
from bridge.model import Collection
from bridge.publish.reading import read_topics
from bridge.publish.settings import KafkaSettings
from bridge.sandbox.api import SandboxApi
from bridge.sandbox.population import staff
from bridge.sandbox.switches import Switches
from bridge.sandbox.world import Rates, World
from tests.support.neighbourhood import Neighbourhood, brisk, published, until

PARTNER = "P123"


class Office(Neighbourhood):
    """A partner, of which only the users can be read."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.world = World(1, 0, 0, Rates(), self.world.clock, PARTNER)
        self.api = SandboxApi(self.world, Switches.parse(["etag=honoured"]), self.world.clock)

    def config(self, label: str = "a", kafka: KafkaSettings | None = None) -> Config:
        config = super().config(label, kafka)
        partner = {"account": PARTNER, "collections": [Collection.USERS]}
        return config.model_copy(update={"sources": [source.model_copy(update=partner) for source in config.sources]})

    def listed(self) -> int:
        """How often the users were sent, or said to be unchanged."""
        requests = self.api.statistics().requests
        return requests.get("management 200", 0) + requests.get("management 304", 0)

    async def polled(self, times: int) -> None:
        """Return when the users were asked for so many times from now on."""
        before = self.listed()
        await until("some polls", lambda: self.listed() > before + times)

    async def events(self) -> Counter[str]:
        """What is committed, by type."""
        found: Counter[str] = Counter()
        async for message in read_topics(self.kafka, [self.plan.users], self.world.clock):
            found[(dict(message.headers)["ce_type"] or b"").decode()] += 1
        return found


async def test_users_are_published_and_neither_order_nor_visits_are_changes(
    tmp_path: Path, bootstrap_servers: str, bridge_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staff, "SEEN_EVERY_S", 1)  # everybody is always there
    town = Office(tmp_path, brisk(bootstrap_servers), bridge_name)
    users, rng = town.world.staff, Random(1)
    victim, edited, *_ = users.users
    users.update_user(edited, {"roles": [{"id": role} for role in users.roles]})
    async with town.bridge() as bridge:
        await until("the first reading", lambda: published(bridge) == staff.USERS)
        seen = {user["last_seen_at"] for user in users.listed(expand_roles=True, bare_roles=True)}
        for _ in range(3):
            for uid in list(users.users):
                users.shuffle(rng, uid)
            users.users = dict(rng.sample(list(users.users.items()), len(users.users)))
            await town.polled(3)
        assert seen != {user["last_seen_at"] for user in users.listed(expand_roles=True, bare_roles=True)}
        assert published(bridge) == staff.USERS
        users.update_user(edited, {"roles": []})
        users.create_user({"email": "new@backoffice.example"})
        users.delete_user(victim)
        await until("the changes", lambda: published(bridge) == staff.USERS + 3)
    assert await town.events() == {
        "bridge.user.snapshot.v1": staff.USERS,
        "bridge.user.created.v1": 1,
        "bridge.user.updated.v1": 1,
        "bridge.user.deleted.v1": 1,
    }
    assert "provider rows" in await town.verified()
