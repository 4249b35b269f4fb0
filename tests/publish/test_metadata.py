"""Which partitions exist: a "no" of Kafka means something after a while only, and no answer means nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from bridge.errors import EnvironmentUnavailable
from bridge.publish.metadata import LOOK_PAUSE_S, LOOKS_MAX, partition_counts
from bridge.publish.settings import KafkaSettings
from tests.support.clock import VirtualClock, run_virtual

SETTINGS = KafkaSettings(bootstrap_servers=["k:9092"])
EXPECTED = {"b.state": 4, "b.inbox": 1}
WHOLE = {"b.state": {0, 1, 2, 3}, "b.inbox": {0}}

Answer = dict[str, set[int]] | None
"""Partitions by topic; None: no broker had any."""


class Client:
    """The library's, as far as this goes: it says this and that, then the last thing for ever."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.cluster = SimpleNamespace(partitions_for_topic=self._partitions)
        self._known: dict[str, set[int]] = {}
        self.topics: Sequence[str] = ()
        self.looks = 0

    def _partitions(self, topic: str) -> set[int] | None:
        return self._known.get(topic)

    def set_topics(self, topics: Sequence[str]) -> None:
        self.topics = topics

    async def force_metadata_update(self) -> bool:
        self.looks += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if answer is None:
            return False
        self._known = answer
        return True


@pytest.mark.parametrize(
    "before",
    [
        pytest.param([{}], id="unknown at first"),
        pytest.param([{"b.state": {0, 1}, "b.inbox": {0}}], id="some partitions at first"),
        pytest.param([None] * LOOKS_MAX * 2, id="nobody knows for longer than a topic may be missing"),
    ],
)
def test_what_is_not_known_yet_is_asked_for_again(before: list[Answer]) -> None:
    async def main(clock: VirtualClock) -> None:
        client = Client(*before, WHOLE)
        assert await partition_counts(client, SETTINGS, EXPECTED, clock) == EXPECTED
        assert client.looks == len(before) + 1
        assert set(client.topics) == set(EXPECTED)

    run_virtual(main)


def test_what_stays_away_is_missing_after_two_seconds() -> None:
    async def main(clock: VirtualClock) -> None:
        began = clock.monotonic()
        client = Client({"b.state": {0, 1}})
        assert await partition_counts(client, SETTINGS, EXPECTED, clock) == {"b.state": 2, "b.inbox": 0}
        assert clock.monotonic() - began == pytest.approx(LOOKS_MAX * LOOK_PAUSE_S)

    run_virtual(main)


def test_more_than_expected_is_enough() -> None:
    async def main(clock: VirtualClock) -> None:
        found = await partition_counts(Client(WHOLE), SETTINGS, dict.fromkeys(EXPECTED, 1), clock)
        assert found == EXPECTED

    run_virtual(main)


@pytest.mark.parametrize("silent", [True, False])
def test_no_answer_is_no_missing_topic(silent: bool) -> None:
    async def main(clock: VirtualClock) -> None:
        client = Client(None)
        if silent:
            client.force_metadata_update = asyncio.Event().wait  # type: ignore[method-assign]
        with pytest.raises(EnvironmentUnavailable, match="does not tell which partitions exist"):
            await partition_counts(client, SETTINGS, EXPECTED, clock)
        assert clock.monotonic() == pytest.approx(SETTINGS.answer_deadline_s)

    run_virtual(main)
