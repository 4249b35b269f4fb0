"""DeadLetter: what could not be processed, kept for a person: raw bytes as value, the cause in headers.

Headers never hold a person's data or a secret; the value may (it is what was received) and is protected by the
topic's rights. A value that is too large for the topic is cut and says so.
"""

from __future__ import annotations

from typing import NamedTuple

from bridge.publish.transaction import Record, record_bytes

DETAIL_CHARS_MAX = 500
"""Of the explanation in the header."""


class DeadLetter(NamedTuple):
    """reason: one word, also a metric label. detail: a sentence for people. origin: endpoint or topic."""

    reason: str
    detail: str
    source: str
    collection: str
    origin: str
    uid: str | None
    raw: bytes

    def record(self, topic: str, key: str, record_bytes_max: int) -> Record:
        """The record for the dead-letter topic; at most `record_bytes_max` bytes on the wire."""
        fields = {
            "reason": self.reason,
            "detail": self.detail[:DETAIL_CHARS_MAX],
            "source": self.source,
            "collection": self.collection,
            "origin": self.origin,
            "uid": self.uid or "",
            "bytes": str(len(self.raw)),
        }
        headers = [(name, value.encode("utf-8", "replace")) for name, value in fields.items() if value]
        record = Record(topic, None, key.encode("utf-8", "replace"), self.raw, headers)
        excess = record_bytes(record) - record_bytes_max
        if excess <= 0:
            return record
        headers.append(("cut", b"true"))
        return record._replace(value=self.raw[: max(0, len(self.raw) - excess - 64)], headers=headers)
