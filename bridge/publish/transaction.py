"""Producer: one shard's way into Kafka; whole transactions or nothing.

The shard hands over a finished list of records and gets a receipt or an error; begin, send, commit and abort are no
business of anybody else. Implementations: `producer.KafkaProducer` and the simulator's fake.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

Headers = Sequence[tuple[str, bytes]]


class Record(NamedTuple):
    """One record to write. `partition` None: by the standard murmur2 of the key."""

    topic: str
    partition: int | None
    key: bytes
    value: bytes | None
    headers: Headers = ()


class Receipt(NamedTuple):
    """A transaction that is committed for sure.

    offsets: last offset written per (topic, partition).
    tainted: a transaction request saw a transport error on the way, so the producer must be replaced before the next
        transaction although this one is committed (a delayed copy of the request may still arrive; KAFKA-17754).
    """

    offsets: dict[tuple[str, int], int]
    tainted: bool


class Producer(Protocol):
    """Transactional producer of one shard. One call at a time.

    A producer that has raised, or whose receipt is tainted, is never used again: `abandon` it and build a new one.
    """

    async def open(self) -> None:
        """Fence every older producer of this shard. Raises `EnvironmentUnavailable` or `PublishError`."""
        ...

    async def publish(self, records: Sequence[Record], inbox_offset: int | None) -> Receipt:
        """One transaction: all records, and the shard's inbox offset (next to read) when given.

        Raises `Fenced`, `PublishFailed` (surely not committed) or `CommitUnknown` (the log decides).
        Cancellation is as `CommitUnknown`.
        """
        ...

    async def close(self) -> None:
        """Clean close, bounded; nothing may be in flight."""
        ...

    async def abandon(self) -> None:
        """Dirty close, bounded (2 s): cancel the sender, cut the sockets, ask the broker nothing."""
        ...


def record_bytes(record: Record) -> int:
    """Upper bound of a record's size on the wire, its batch included, in bytes.

    Record format v2: length, attributes, deltas and counts as varints (at most 38 bytes together), 10 bytes of
    lengths per header, and 61 bytes of batch header when the record travels alone.
    """
    size = 61 + 38 + len(record.key) + len(record.value or b"")
    for name, value in record.headers:
        size += 10 + (len(name) if name.isascii() else len(name.encode())) + len(value)
    return size
