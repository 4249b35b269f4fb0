"""Metadata: which partitions exist, asked until the answer means something.

A broker does not know every topic that exists: one that was created a moment ago, or any while the broker comes back
after it was thought dead. The library says "no such topic" in both cases, and when no broker answered at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from bridge.clock import Clock
from bridge.publish.settings import KafkaSettings
from bridge.publish.wire import Client, unreachable

LOOKS_MAX = 20
LOOK_PAUSE_S = 0.1
"""After two seconds of answers without it, a topic is missing."""


async def partition_counts(
    client: Client, settings: KafkaSettings, expected: Mapping[str, int], clock: Clock
) -> dict[str, int]:
    """How many partitions each topic has, asked until there are as many as expected or they are surely missing.

    client: the library's, which from now on knows the leaders of these. Raises `EnvironmentUnavailable` when no
    broker answers in time.
    """
    client.set_topics(list(expected))
    found: dict[str, int] = {}
    looks = 0
    try:
        async with asyncio.timeout(settings.answer_deadline_s):
            while looks < LOOKS_MAX:
                looks += bool(await client.force_metadata_update())  # False: no broker that could know
                found = {topic: len(client.cluster.partitions_for_topic(topic) or ()) for topic in expected}
                if all(found[topic] >= count for topic, count in expected.items()):
                    break
                await clock.sleep(LOOK_PAUSE_S)
    except TimeoutError:
        raise unreachable(settings, "it does not tell which partitions exist") from None
    return found
