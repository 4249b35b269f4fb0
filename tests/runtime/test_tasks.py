"""No task dies silently (P14): who needs it notices within a second, whether it failed, returned or was cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bridge.publish.inbox import InboxRecord
from bridge.runtime.schedule import RETRY_DELAY_S_FIRST
from bridge.runtime.shard import ShardState
from bridge.runtime.supervisor import STALLED_S
from bridge.runtime.tasks import TaskDied, outlived
from tests.runtime.processes import Group, Process
from tests.runtime.shards import NUMBER, House
from tests.support.clock import VirtualClock, run_virtual

NOTICED_S = 1.0


def tasks(prefix: str = "") -> dict[str, asyncio.Task[Any]]:
    """The living tasks by name."""
    return {task.get_name(): task for task in asyncio.all_tasks() if task.get_name().startswith(prefix)}


@pytest.mark.parametrize("name", ["reads acme", "inbox", "tick", "commits", "drain"])
def test_a_shard_breaks_when_one_of_its_tasks_is_killed(name: str) -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        serving = asyncio.get_running_loop().create_task(house.shard().serve(), name="life")
        await asyncio.sleep(5)
        tasks(f"shard-{NUMBER} {name}")[f"shard-{NUMBER} {name}"].cancel()
        await asyncio.wait([serving], timeout=NOTICED_S)
        with pytest.raises(TaskDied, match=f"shard-{NUMBER} {name}"):
            serving.result()
        assert house.kafka.calls[-1] == "abandon"
        assert tasks("shard-") == {}

    run_virtual(main)


def test_a_committer_that_dies_while_the_shard_drains_is_noticed_too() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        shard = house.shard()
        serving = asyncio.get_running_loop().create_task(shard.serve())
        await asyncio.sleep(5)
        house.kafka.stuck = True
        house.world.create_tag("new")
        await asyncio.sleep(6)
        shard.drain()
        await asyncio.sleep(1)
        assert shard.state is ShardState.DRAINING
        tasks()[f"shard-{NUMBER} commits"].cancel()
        await asyncio.wait([serving], timeout=NOTICED_S)
        with pytest.raises(TaskDied):
            serving.result()
        assert house.kafka.calls[-1] == "abandon"

    run_virtual(main)


@pytest.mark.parametrize("name", ["inbox poller", "assignment", f"owner of shard {NUMBER}", "watch topics", "life"])
def test_the_supervisor_begins_a_new_life_when_a_task_of_the_old_one_is_killed(name: str) -> None:
    async def main(clock: VirtualClock) -> None:
        process = Process(clock)
        running = asyncio.get_running_loop().create_task(process.supervisor.run())
        await asyncio.sleep(5)
        killed_at = clock.monotonic()
        tasks()[name].cancel()
        await asyncio.sleep(10)
        (_, (began_at, cause)) = process.lives
        assert "TaskDied" in cause
        assert began_at - killed_at <= NOTICED_S + RETRY_DELAY_S_FIRST
        assert process.supervisor.trouble is None
        process.supervisor.stop()
        await running
        assert process.house.kafka.calls[-1] == "close"

    run_virtual(main)


@pytest.mark.parametrize("name", ["serve", "stop"])
def test_a_process_without_its_main_task_ends(name: str) -> None:
    async def main(clock: VirtualClock) -> None:
        process = Process(clock)
        running = asyncio.get_running_loop().create_task(process.supervisor.run())
        await asyncio.sleep(5)
        tasks()[name].cancel()
        await asyncio.wait([running], timeout=NOTICED_S)
        with pytest.raises(TaskDied, match=name):
            running.result()

    run_virtual(main)


def test_a_task_that_returns_is_dead_too() -> None:
    async def main(_: VirtualClock) -> None:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(asyncio.sleep(10, "over"), name="waiting")
            vital = group.create_task(asyncio.sleep(1), name="vital")
            with pytest.raises(TaskDied, match="vital"):
                await outlived(waiting, vital)
            assert await outlived(waiting) == "over"
            assert await outlived(waiting, vital) == "over"

    run_virtual(main)


def test_live_says_no_when_the_loops_stand_still_and_yes_however_long_kafka_is_away() -> None:
    async def main(clock: VirtualClock) -> None:
        process = Process(clock)
        running = asyncio.get_running_loop().create_task(process.supervisor.run())
        await asyncio.sleep(STALLED_S * 3)
        assert process.supervisor.live
        process.hangs = True
        tasks()["inbox poller"].cancel()
        await asyncio.sleep(STALLED_S - 1)
        assert process.supervisor.live
        await asyncio.sleep(5)
        assert not process.supervisor.live
        process.supervisor.stop()
        await running

    run_virtual(main)


def test_live_says_yes_while_a_long_life_ends() -> None:
    """Leaving the group takes seconds when Kafka is away."""

    async def main(clock: VirtualClock) -> None:
        process = Process(clock)
        running = asyncio.get_running_loop().create_task(process.supervisor.run())
        await asyncio.sleep(STALLED_S * 3)
        supervisor = process.supervisor
        process.group.leaving_s = 8.0
        tasks()["inbox poller"].cancel()
        for _ in range(70):
            await asyncio.sleep(0.1)
            assert supervisor.live
        assert supervisor.assignment is None, "it is still leaving"
        supervisor.stop()
        await running

    run_virtual(main)


def test_live_says_no_when_the_inbox_is_not_polled_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: VirtualClock) -> None:
        process = Process(clock)
        running = asyncio.get_running_loop().create_task(process.supervisor.run())
        await asyncio.sleep(5)

        async def stuck(*_: Any) -> list[InboxRecord]:
            return await asyncio.sleep(1e9, [])

        monkeypatch.setattr(Group, "poll", stuck)
        await asyncio.sleep(STALLED_S - 2)
        assert process.supervisor.live
        await asyncio.sleep(5)
        assert not process.supervisor.live
        process.supervisor.stop()
        await running

    run_virtual(main)
