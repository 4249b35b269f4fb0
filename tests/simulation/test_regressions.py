"""What the simulator has found in the bridge, each with its story."""

from __future__ import annotations

import pytest

from bridge.model import Collection
from bridge.sandbox.simulate import simulate
from bridge.sandbox.virtual import VirtualClock, run_virtual
from tests.runtime.shards import House


def test_a_list_that_is_empty_by_mistake_proves_nothing_about_what_is_new() -> None:
    """Found as a broken I7.

    A provider shows an empty list of tags once. The second look refutes every suspected deletion, so nothing false is
    published. But the page still counted as the whole truth: the watermark moved to its moment, while a tag that was
    created shortly before had not been seen by anybody. A reading that has missed what is there proves nothing.
    """

    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        told: list[float] = []
        caught_up = house.metrics.caught_up

        def note(source: str, collection: Collection, wall_seconds: float) -> None:
            if collection is Collection.TAGS:
                told.append(wall_seconds)
            caught_up(source, collection, wall_seconds)

        house.metrics.caught_up = note  # type: ignore[method-assign]
        await house.live(3)
        assert len(told) == 1
        house.world.create_tag("new")
        house.api.switches = house.api.switches.changed({"empty_tag_list_once": True})
        await house.live(3)
        assert len(told) == 1, "the empty list said nothing about the new tag"
        assert house.types("tags") == ["tag.snapshot.v1"] * 8
        await house.live(3)
        assert len(told) == 2
        assert house.types("tags")[8:] == ["tag.created.v1"]

    run_virtual(main)


@pytest.mark.parametrize("seed", [2960, 8665])
def test_a_seed_that_was_broken_once_is_whole(seed: int) -> None:
    """The stories have moved on with the code since; what they have found has tests of its own.

    2960: a process that is frozen while it stops was taken for one that does not stop.
    8665: a page that repeated a row made a descending list look ascending; what it hid was claimed as published (I7).
    """
    report = simulate(seed)
    assert report.ok, report.text()
