"""Batches: the records of a transaction, sorted by partition and put into the library's batches.

Whole batches cost the library a tenth of what single records cost it. Nothing here is sent or awaited, so a record that
Kafka would refuse is found before a transaction begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka import TopicPartition

from bridge.errors import PublishFailed
from bridge.publish.partitioner import partitions_of
from bridge.publish.transaction import Record

BATCH_BYTES_MAX = 1024 * 1024
"""Of records sent as one batch; more gains nothing, and all partitions of a transaction travel in one request."""

_BATCH_HEADER_BYTES = 61
"""Kafka's limit is for a batch, and a record may be alone in its own."""


class Batches(NamedTuple):
    """The batches of one partition, in order. `Any`: they are the library's, which has no types."""

    at: Any
    builders: list[Any]


def pack(
    records: Sequence[Record],
    partitions: Mapping[str, int],
    record_bytes_max: int,
    timestamp_ms: int,
    create: Callable[[], Any],
) -> list[Batches]:
    """Records into batches, each partition in the order given. Raises `PublishFailed` for one that is too large."""
    size_max = record_bytes_max - _BATCH_HEADER_BYTES
    packed: dict[tuple[str, int], Batches] = {}
    by_key = _by_key(records, partitions)
    for topic, chosen, key, value, given in records:
        partition = next(by_key[topic]) if chosen is None else chosen
        headers = given if type(given) is list else list(given)  # the C extension takes nothing else
        target = packed.get((topic, partition))
        if target is None:
            target = packed[topic, partition] = Batches(TopicPartition(topic, partition), [create()])
        builders = target.builders
        added = builders[-1].append(timestamp=timestamp_ms, key=key, value=value, headers=headers)
        if added is None:  # the batch is full
            builders.append(create())
            added = builders[-1].append(timestamp=timestamp_ms, key=key, value=value, headers=headers)
        if added.size > size_max:
            raise PublishFailed(
                f"a record of {added.size + _BATCH_HEADER_BYTES} bytes for {topic} is above the limit of "
                f"{record_bytes_max} bytes; nothing of its transaction was sent"
            )
    return list(packed.values())


def _by_key(records: Sequence[Record], partitions: Mapping[str, int]) -> dict[str, Iterator[int]]:
    """Topic → the partitions of its records that name none, in their order."""
    keys: dict[str, list[bytes]] = {}
    for record in records:
        if record.partition is None:
            keys.setdefault(record.topic, []).append(record.key)
    return {topic: iter(partitions_of(found, partitions[topic])) for topic, found in keys.items()}


def rounds(batches: Sequence[Batches]) -> Iterator[tuple[Any, Any]]:
    """First batches of all partitions, then the second ones: the library queues one per partition at a time."""
    depth = max((len(target.builders) for target in batches), default=0)
    for number in range(depth):
        for target in batches:
            if number < len(target.builders):
                yield target.at, target.builders[number]


def last_offsets(
    order: Sequence[tuple[Any, Any]], futures: Sequence[asyncio.Future[Any]]
) -> dict[tuple[str, int], int]:
    """The offset of the last record of each partition, from the answers to its batches."""
    offsets: dict[tuple[str, int], int] = {}
    for (at, builder), future in zip(order, futures, strict=True):
        base: int = future.result().offset
        if base < 0:
            raise PublishFailed(f"Kafka took a batch of {at.topic} without telling its offset")
        offsets[at.topic, at.partition] = base + builder.record_count() - 1
    return offsets
