"""A history written into a real Kafka, transaction by transaction, as a bridge would."""

from __future__ import annotations

from itertools import groupby

from bridge.clock import SystemClock
from bridge.publish.partitioner import partition_of
from bridge.publish.producer import KafkaProducer
from bridge.publish.settings import KafkaSettings, Partitions
from bridge.publish.topics import TopicPlan, ensure
from bridge.publish.transaction import Record
from bridge.store.record import encode_json, marker_key
from tests.verify.history import PARTITIONS, History, Written

SHARDS = 2


def settings_for(servers: str) -> KafkaSettings:
    return KafkaSettings(
        bootstrap_servers=servers.split(","), partitions=Partitions(customers=PARTITIONS, tags=PARTITIONS, users=1)
    )


class Writer:
    """Topics of its own and one producer, for whatever a history holds that was not written before."""

    def __init__(self, settings: KafkaSettings, name: str) -> None:
        self.settings = settings
        self.plan = TopicPlan(name, SHARDS, settings.partitions)
        self._events = 0
        self._state: dict[str, bytes] = {}

    async def open(self) -> None:
        cluster = await ensure(self.settings, self.plan, create=True)
        self._producer = KafkaProducer(
            self.settings,
            transactional_id=f"{self.plan.bridge}-0",
            group_id=self.plan.bridge,
            inbox_topic=self.plan.inbox,
            shard=0,
            partitions=cluster.partitions,
            record_bytes_max=cluster.record_bytes_max,
            clock=SystemClock(),
        )
        await self._producer.open()

    async def write(self, history: History) -> None:
        """Each transaction's events; the state with the last of them."""
        new = history.events[self._events :]
        groups = [list(group) for _, group in groupby(new, lambda event: event.timestamp_ms)]
        self._events = len(history.events)
        state = self._changed(history)
        for number, group in enumerate(groups or [[]]):
            last = number >= len(groups) - 1
            records = [self._record(event) for event in group] + (state if last else [])
            if records:
                await self._producer.publish(records, None)

    async def close(self) -> None:
        await self._producer.close()

    def _record(self, event: Written) -> Record:
        topic = event.topic.replace("t.", f"{self.plan.bridge}.", 1)
        headers = [(name, value or b"") for name, value in event.headers]
        return Record(topic, event.partition, event.key or b"", event.value, headers)

    def _changed(self, history: History) -> list[Record]:
        state = {key: value for key, value in history.state.items() if not key.startswith("@")}
        state |= {marker_key(shard): encode_json({"shards": SHARDS}) for shard in range(SHARDS)}
        changes: dict[str, bytes | None] = {key: value for key, value in state.items() if self._state.get(key) != value}
        changes |= dict.fromkeys(self._state.keys() - state.keys())
        self._state = state
        return [Record(self.plan.state, self._shard(key), key.encode(), value) for key, value in changes.items()]

    def _shard(self, key: str) -> int:
        source, _, rest = key.partition("/")
        return int(rest.rpartition("/")[2]) if source == "@" else partition_of(source.encode(), SHARDS)


async def write_once(servers: str, name: str, history: History) -> Writer:
    writer = Writer(settings_for(servers), name)
    await writer.open()
    await writer.write(history)
    await writer.close()
    return writer
