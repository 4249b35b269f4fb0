"""Witness: what the event topics say about the state that was restored.

Events and the counters of their source are committed together. A state that counts fewer events of a source than can
be seen has therefore lost its newest records: an unclean election, or a topic restored from a backup. Whoever went on
from it would publish numbers a second time, so the shard refuses.

Only the last records of each partition are looked at, because what a log loses is its end. A source whose last event
lies further back, behind those of busier ones, is not judged; `bridge verify` reads everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing, suppress

import orjson

from bridge.clock import Clock
from bridge.errors import StateLost
from bridge.publish.reading import At, Message, PartitionReader
from bridge.publish.settings import KafkaSettings
from bridge.publish.topics import TopicPlan
from bridge.store.base import Store
from bridge.store.record import counters_key, decode_counters

LAST_OFFSETS = 200
"""Per partition of the event topics: one fetch for all of them."""

DIGITS_MAX = 18
"""Of a sequence; whatever has more of them was written by nobody who counts."""

_STRUCTURED = b"application/cloudevents"
"""Begin of the content type of events in structured mode."""


async def check_events(
    settings: KafkaSettings, topics: TopicPlan, sources: Sequence[str], store: Store, clock: Clock
) -> None:
    """Behind the fence, after the restore. Raises `StateLost`, or `EnvironmentUnavailable`."""
    if not sources:
        return
    newest = dict.fromkeys(sources, 0)
    async with PartitionReader(settings, clock) as reader:
        partitions = await reader.partitions(topics.event_topics)
        begins, ends = await reader.begins(partitions), await reader.ends(partitions)
        starts = {at: max(begins[at], end - LAST_OFFSETS) for at, end in ends.items() if end > begins[at]}
        if starts:
            await _read(reader, starts, {at: ends[at] for at in starts}, newest)
    for source, seen in newest.items():
        key = counters_key(source)
        counted = decode_counters(store.get_many([key]).get(key)).sequence
        if seen > counted:
            lost = f"counts {counted} events of {source}" if counted else f"is empty for {source}"
            raise StateLost(
                f"{topics.state} {lost} although its number {seen} was published: the topic was deleted, recreated, or "
                "has lost its newest records, and going on would publish numbers twice. Restore it from a backup that "
                "is not older than the event topics, or choose another bridge.name to begin anew; `bridge verify` "
                "lists what is missing"
            )


async def _read(reader: PartitionReader, starts: dict[At, int], ends: dict[At, int], newest: dict[str, int]) -> None:
    reader.assign(starts)
    async with aclosing(reader.chunks(ends)) as chunks:
        async for chunk in chunks:
            for message in chunk:
                source = (message.key or b"").partition(b"/")[0].decode(errors="replace")
                if source in newest:
                    newest[source] = max(newest[source], sequence_of(message))


def sequence_of(message: Message) -> int:
    """The number of an event, in either content mode; 0 for a record that is none of ours."""
    headers = dict(message.headers)
    value = headers.get("ce_sequence")
    if value is None and (headers.get("content-type") or b"").startswith(_STRUCTURED):
        with suppress(orjson.JSONDecodeError, KeyError, TypeError):
            value = str(orjson.loads(message.value or b"")["sequence"]).encode()
    return int(value) if value is not None and value.isdigit() and len(value) <= DIGITS_MAX else 0
