"""Refusals: rows and documents that cannot be published become dead letters, each content once.

Written into the ledger by the step that meets them, so a dead letter is in the transaction of its page. What was last
published of the document stays; beside it the state keeps a digest of the copy that was refused, and of a row without
uid nothing but that.
"""

from __future__ import annotations

from hashlib import blake2b

from bridge.model import Collection, Reject, key_of
from bridge.publish.deadletter import DeadLetter
from bridge.publish.topics import TopicPlan
from bridge.runtime.ledger import Ledger
from bridge.store.record import StateRecord, decode_record, encode_record

DIGEST_BYTES = 16
"""Of a refused document; enough to know it again."""

REFUSED = "refused"
"""Kind of a state key, `source/refused/collection/digest`: rows that cannot be published and carry no uid."""


class Refusals:
    """Of one source during one opening of its shard."""

    def __init__(self, source: str, ledger: Ledger, topics: TopicPlan, record_bytes_max: int) -> None:
        self._source = source
        self._ledger = ledger
        self._topics = topics
        self._record_bytes_max = record_bytes_max

    def too_large(self, collection: Collection, uid: str, raw: bytes) -> None:
        """A document that no topic takes."""
        self._refuse(collection, uid, "too_large", "bridge", "larger than the topics take", raw)

    def malformed(self, collection: Collection, reject: Reject) -> None:
        """A row that its model refuses."""
        self._refuse(collection, reject.uid, "malformed", reject.endpoint, reject.reason, reject.raw)

    def _refuse(
        self, collection: Collection, uid: str | None, reason: str, endpoint: str, detail: str, raw: bytes
    ) -> None:
        digest = blake2b(raw, digest_size=DIGEST_BYTES).hexdigest()
        key = key_of(self._source, collection, uid) if uid else key_of(self._source, REFUSED, f"{collection}/{digest}")
        stored = self._ledger.get(key)
        record = decode_record(stored) if stored else StateRecord(None, 0, 0)
        if record.refused == digest:
            return
        letter = DeadLetter(reason, detail, self._source, collection, endpoint, uid, raw)
        self._ledger.write(letter.record(self._topics.deadletters, key, self._record_bytes_max))
        self._ledger.open.deadletters.append(reason)
        self._ledger.put(key, encode_record(record._replace(refused=digest)))
        self._ledger.wake()
