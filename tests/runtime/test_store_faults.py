"""A disk that fails once, at any call of the store (P07): that object is dead, the next one is built from the log."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
from structlog.testing import capture_logs

from bridge.errors import StateLost
from bridge.runtime.shard import Shard
from bridge.store.base import NO_FINGERPRINTS, Store
from bridge.store.memory import MemoryStore
from bridge.store.record import FORMAT, counters_key, encode_json
from tests.runtime.processes import Process
from tests.runtime.shards import NUMBER, TOPICS, House
from tests.support.clock import VirtualClock, run_virtual


@dataclass
class Disk:
    """Fails at the n-th call of all its stores."""

    fails_at: int
    error: type[Exception]
    calls: int = 0
    stores: int = 0

    def touch(self) -> None:
        self.calls += 1
        if self.calls == self.fails_at:
            raise self.error("disk I/O error")


class FailingStore(MemoryStore):
    """Must not be used once it has failed."""

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self._disk = disk
        self._dead = False
        disk.stores += 1

    def _touch(self) -> None:
        assert not self._dead, "a store that failed is used again"
        self._dead = True
        self._disk.touch()
        self._dead = False

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        self._touch()
        return super().get_many(keys)

    def fingerprints(self, keys: Sequence[str]) -> dict[str, bytes]:
        self._touch()
        return super().fingerprints(keys)

    def apply(
        self,
        records: Iterable[tuple[str, bytes | None]],
        position: int,
        fingerprints: Mapping[str, bytes] = NO_FINGERPRINTS,
    ) -> None:
        self._touch()
        super().apply(records, position, fingerprints)

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        self._touch()
        return super().scan(prefix)

    def keys_after(self, folder: str, after: int, limit: int) -> tuple[list[str], int | None]:
        self._touch()
        return super().keys_after(folder, after, limit)

    def members(self, source: str, tag: str) -> Iterator[str]:
        self._touch()
        return super().members(source, tag)

    def members_count(self, source: str, tag: str) -> int:
        self._touch()
        return super().members_count(source, tag)

    def member_tags(self, source: str) -> list[str]:
        self._touch()
        return super().member_tags(source)


async def lived(clock: VirtualClock, disk: Disk) -> None:
    process = Process(clock)
    house = process.house

    async def restore(store: Store) -> None:
        state = [(record.key.decode(), record.value) for record in house.kafka.events("state")]
        store.apply(state, house.kafka.state_end)

    ports = replace(house.shard()._ports, open_store=lambda: FailingStore(disk), restore=restore)
    process.build_shard = lambda: Shard(NUMBER, [house.reader], ports, TOPICS, clock, house.metrics)
    with capture_logs() as said:
        running = asyncio.get_running_loop().create_task(process.supervisor.run())
        await asyncio.sleep(8)
        house.world.create_tag("new")
        await asyncio.sleep(40)
        process.supervisor.stop()
        await running
    assert [line for line in said if line["log_level"] == "error"] == []
    assert len(process.lives) == 1
    assert house.types("customers") == ["customer.snapshot.v1"] * 50
    assert house.types("tags") == ["tag.snapshot.v1"] * 8 + ["tag.created.v1"]


def test_one_failing_call_costs_one_restore_whichever_it_is() -> None:
    sound = Disk(0, OSError)
    run_virtual(lambda clock: lived(clock, sound))
    assert sound.calls > 30
    assert sound.stores == 1
    for number in range(1, sound.calls + 1):
        disk = Disk(number, (OSError, sqlite3.OperationalError)[number % 2])
        run_virtual(lambda clock, disk=disk: lived(clock, disk))  # type: ignore[misc]
        # Where the process stops while the last call fails, no other life comes.
        assert disk.stores == 2 or number == sound.calls, number


def test_a_state_that_a_newer_release_has_written_is_not_guessed_at() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        newer = encode_json({"sequence": 7}).replace(f'"format":{FORMAT}'.encode(), f'"format":{FORMAT + 1}'.encode())
        house.store.apply([(counters_key("acme"), newer)], 1)
        serving = asyncio.get_running_loop().create_task(house.shard().serve())
        await asyncio.wait([serving], timeout=10)
        with pytest.raises(StateLost, match="start the newer release again"):
            serving.result()
        assert house.kafka.published == 0
        assert house.kafka.calls[-1] == "abandon"

    run_virtual(main)
