"""Memberships, from the provider's lists to events, in virtual time."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from tests.runtime.members import Club, loop_of
from tests.support.clock import VirtualClock, run_virtual

SWITCHES: list[dict[str, str]] = [
    {},
    {"list_order": "created_descending"},
    {"list_order": "id"},
    {"list_order": "shuffled"},
    {"linked_users": "inside_limit"},
    {"linked_users": "appended"},
    {"duplicate_rows": "0.3"},
    {"late_visibility_s": "7"},
    {"tag_bumps_updated_at": "true"},
    {"rename_bumps_updated_at": "false"},
    {"deleted_read": "tombstone"},
    {"tombstones_in_since": "never"},
    {"fault_500": "0.1", "fault_cut": "0.05"},
    {"fault_429": "0.05", "fault_429_retry_after": "2"},
    {"bad_row": "0.05"},
    {"bad_shape": "0.05"},
    {"token_revoke_after": "20"},
    {"list_order": "created_descending", "linked_users": "inside_limit", "duplicate_rows": "0.2", "fault_500": "0.1"},
    {"list_order": "shuffled", "late_visibility_s": "4", "tag_bumps_updated_at": "true", "bad_row": "0.05"},
]


def named(switches: dict[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in switches.items()) or "default"


def test_every_membership_is_told_and_kept_in_the_customers_document() -> None:
    async def main(clock: VirtualClock) -> None:
        club = Club(clock, 300, 12)
        assert len(club.true) > 100
        shard = await club.live(60)
        club.check()
        assert {told.path for told in club.told} == {"snapshot"}
        assert club.verbs()["customer.tagged"] == len(club.true)
        assert club.verbs()["customer.updated"] == 0
        assert loop_of(shard).documents == len(club.true)

    run_virtual(main)


def test_a_silent_first_reading_keeps_memberships_without_telling_them() -> None:
    async def main(clock: VirtualClock) -> None:
        club = Club(clock, 100, 5, silent=True)
        await club.live(60)
        assert club.stored == club.true
        assert club.told == []
        row = club.world.customers.customer_ids[0]
        tag = club.world.create_tag("new")["id"]
        await club.tell(60, (1, lambda: club.world.set_customer_tags(row, [tag])))
        assert ("tagged", (tag, club.uid(row))) in [(told.verb, told.edge) for told in club.told]
        assert club.stored == club.true

    run_virtual(main)


@pytest.mark.parametrize("switches", SWITCHES, ids=named)
def test_every_edge_that_moves_is_told_once_whatever_the_provider_is_like(switches: dict[str, str]) -> None:
    async def main(clock: VirtualClock) -> None:
        club = Club(clock, 150, 4, sweep_s=100.0, switches=switches)
        await club.live(40)
        before, count = club.true, len(club.told)
        assert club.stored == before
        move = Mover(club, 7)
        await club.tell(320, *[(5.0 + n, move) for n in range(40)])
        club.check()
        told = Counter((event.verb, event.edge) for event in club.told[count:])
        # Each edge was moved at most once, so it is told at most once, and only if it moved.
        assert told == Counter(
            [("tagged", edge) for edge in club.true - before] + [("untagged", edge) for edge in before - club.true]
        )

    run_virtual(main)


class Mover:
    """Moves edges at random, none of them twice, and nothing else."""

    def __init__(self, club: Club, seed: int) -> None:
        self._club = club
        self._chance = Random(seed)
        self._moved: set[tuple[int, str]] = set()

    def __call__(self) -> None:
        world = self._club.world
        row = self._chance.randrange(len(world.customers.uids))
        tag = self._chance.choice(list(world.tags))
        if world.customers.alive(row) and (row, tag) not in self._moved:
            self._moved.add((row, tag))
            tags = world.customers.tags[row]
            after = [other for other in tags if other != tag] if tag in tags else [*tags, tag]
            world.set_customer_tags(world.customers.customer_ids[row], after)
