"""Hanging transactions: find what Kafka forgot to decide for a shard, and decide it as it was meant.

A broker answers a commit before its markers are in the partitions. When it dies in between they are written later;
but since Kafka 4.3 the coordinator takes a partition that has no leader at that moment, as all have on a lone broker
that has just started, for a deleted one and skips it (KAFKA-20734). The commit then counts as complete, while what
it wrote in that partition stays undecided for ever: readers stop before it, and it would be decided, rightly or
wrongly, by the end of any later transaction of the same producer id that touches the partition.

`Past` asks the coordinator, right before each request that fences, how the last transaction of the transactional id
has ended; while it cannot say so yet, as right after a start of the broker, nobody is fenced. Behind the fence every
marker is written or skipped, so what a partition still holds open for our producer id hangs for certain, there is
nothing to wait for. It ends with a transaction of the new producer that writes no record: every partition that was
added gets a marker. Where nothing of ours is open a marker changes nothing.

Whom Kafka does not tell (too old, not allowed) learns of nothing here; `statelog.restore` still refuses then.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError, NodeNotReadyError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)
from aiokafka.protocol.types import CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields

from bridge.errors import EnvironmentUnavailable, Fenced, StateLost
from bridge.publish.reading import At
from bridge.publish.settings import SilentMetadataRequest

OFFSETS_TOPIC = "__consumer_offsets"

_PAUSE_S = 0.05
"""Before Kafka is asked again; also what lets a coordinator finish."""

_UNKNOWN_PARTITION, _NO_LEADER, _NOT_LEADER, _LOADING, _NO_COORDINATOR, _NOT_COORDINATOR = 3, 5, 6, 14, 15, 16
_NOT_ALLOWED, _OLD_EPOCH, _UNKNOWN_ID, _CONCURRENT, _NOT_ATTEMPTED, _FENCED = 29, 47, 49, 51, 55, 90

_MOVED = (_NO_COORDINATOR, _NOT_COORDINATOR)
_AGAIN = (_UNKNOWN_PARTITION, _LOADING, *_MOVED, _CONCURRENT, _NOT_ATTEMPTED)

_COMMITTED = {
    "PrepareCommit": True,
    "CompleteCommit": True,
    "Ongoing": False,  # the fence is what aborts it
    "PrepareAbort": False,
    "CompleteAbort": False,
    "PrepareEpochFence": False,
}
"""By the coordinator's word for the state before the fence. Others, such as Empty, tell nothing."""

# The library has no types.
Client = Any


class Hanging(NamedTuple):
    """Partitions with a transaction of ours that nobody else will decide.

    starts: the offset of its first record. unseen: partitions that we may write but not look into.
    """

    starts: dict[At, int]
    unseen: set[At]


class Past:
    """What a client's fence puts an end to. Made before the client starts; one per client."""

    def __init__(self, client: Client, transactional_id: str, group_id: str) -> None:
        """client: the library's producer."""
        self._producer = client
        self._client = client.client
        self._id = transactional_id
        self._group = group_id
        self._committed: bool | None = None
        self._producer_ids: set[int] = set()
        self._send = self._client.send
        self._client.send = self._sent

    async def hanging(self, partitions: Mapping[str, int]) -> Hanging:
        """Look into these topics' partitions, and the group's; the fence is done. For the caller's deadline to end."""
        wanted = {(topic, number) for topic, count in partitions.items() for number in range(count)}
        found = Hanging({}, set())
        try:
            while True:
                leaders = {at: self._client.cluster.leader_for_partition(TopicPartition(*at)) for at in wanted}
                leaders |= await self._offsets_leader()
                if leaders.keys() <= (answered := await self._look(leaders, found)):
                    return found
                wanted -= answered
                await asyncio.sleep(_PAUSE_S)
                await self._client.force_metadata_update()
        except (IncompatibleBrokerVersion, NotImplementedError):
            return Hanging({}, set())

    async def end(self, hanging: Hanging) -> None:
        """Commit or abort them as the last transaction was. For the caller's deadline to end.

        Raises `StateLost` when it is not known how, `Fenced`, or `EnvironmentUnavailable`. The client must not be used
        for anything else afterwards: a repeated request of this transaction may arrive late.
        """
        old = self._producer_ids - {self._manager.producer_id}
        if self._committed is None or old:
            raise StateLost(
                f"{describe(hanging)} was never decided, and Kafka does not know any more whether it was to be "
                "committed. Readers stop before it. Abort it in every partition named here: kafka-transactions.sh "
                "abort --topic TOPIC --partition NUMBER --start-offset OFFSET"
            )
        topics: dict[str, list[int]] = defaultdict(list)
        for topic, number in [*hanging.starts, *hanging.unseen]:
            if topic != OFFSETS_TOPIC:
                topics[topic].append(number)
        if topics:
            await self._until_done(AddPartitionsToTxnRequest(*self._identity, list(topics.items())))
        await self._until_done(AddOffsetsToTxnRequest(*self._identity, self._group))
        await self._until_done(EndTxnRequest(*self._identity, self._committed))

    @property
    def _manager(self) -> Any:
        return self._producer._txn_manager

    @property
    def _identity(self) -> tuple[str, int, int]:
        return self._id, self._manager.producer_id, self._manager.producer_epoch

    async def _sent(self, node: Any, request: Any, **options: Any) -> Any:
        if isinstance(request, InitProducerIdRequest):
            await self._ask(node)
        return await self._send(node, request, **options)

    async def _ask(self, coordinator: Any) -> None:
        """Each time the fence is tried, so that nothing comes in between; a try that fenced unheard leaves Empty.

        For the caller's deadline to end. Raises what the library takes for a request that was not sent: the fence might
        reach a coordinator that could say by then what it will have forgotten behind it.
        """
        request = DescribeTransactionsRequest([self._id])
        while True:
            try:
                answer = await self._send(coordinator, request, group=ConnectionGroup.COORDINATION)
            except (IncompatibleBrokerVersion, NotImplementedError):
                return
            errors = set()
            for error, _, state, _, _, producer_id, _, _, _ in answer.transaction_states:
                errors.add(error)
                if error == 0:
                    self._producer_ids.add(producer_id)
                    self._committed = _COMMITTED.get(state, self._committed)
            if errors & set(_MOVED):
                raise NodeNotReadyError(f"broker {coordinator} does not coordinate {self._id}")
            if not errors & set(_AGAIN):
                return
            await asyncio.sleep(_PAUSE_S)

    async def _offsets_leader(self) -> dict[At, int]:
        """Of the group's offsets; empty when we may not know, then what hangs there is found with other things only.

        Asked by hand: the client would complain in the log of a topic that it may not see.
        """
        with suppress(KafkaError):
            answer = await self._client.send(self._client.get_random_node(), SilentMetadataRequest([OFFSETS_TOPIC]))
            for error, _, _, partitions in answer.topics:
                if error == 0:
                    own = _java_hash(self._group) % len(partitions)
                    return {(OFFSETS_TOPIC, number): leader for _, number, leader, *_ in partitions if number == own}
        return {}

    async def _look(self, leaders: Mapping[At, int | None], found: Hanging) -> set[At]:
        """Ask each leader once; the partitions that were answered for."""
        by_leader: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for (topic, number), leader in leaders.items():
            if leader is not None and leader >= 0:
                by_leader[leader][topic].append(number)
        answered: set[At] = set()
        ours = self._producer_ids | {self._manager.producer_id}
        for leader, topics in by_leader.items():
            request = DescribeProducersRequest([(topic, numbers, {}) for topic, numbers in topics.items()])
            try:
                answer = await self._client.send(leader, request)
            except IncompatibleBrokerVersion:
                raise
            except KafkaError:
                continue
            for topic, numbers, _ in answer.topics:
                for number, error, _, producers, _ in numbers:
                    at = (topic, number)
                    if error in (_UNKNOWN_PARTITION, _NO_LEADER, _NOT_LEADER):
                        continue
                    answered.add(at)
                    if error != 0:
                        found.unseen.add(at)
                    for producer_id, _, _, _, _, start, _ in producers or ():
                        if producer_id in ours and start >= 0:
                            found.starts[at] = start
        return answered

    async def _until_done(self, request: Any) -> None:
        """Raises `Fenced` or `EnvironmentUnavailable`; what is only not possible yet is asked again."""
        sender = self._producer._sender
        while True:
            coordinator = await sender._find_coordinator(CoordinationType.TRANSACTION, self._id)
            try:
                answer = await self._client.send(coordinator, request, group=ConnectionGroup.COORDINATION)
                errors = _errors(answer)
            except KafkaError:
                errors = {_NO_COORDINATOR}
            if errors <= {0}:
                return
            if errors & {_OLD_EPOCH, _UNKNOWN_ID, _FENCED}:
                raise Fenced(f"{self._id} was opened elsewhere while its hanging transaction was ended")
            if serious := errors - {0, *_AGAIN}:
                names = ", ".join(for_code(code).__name__ for code in sorted(serious))
                raise EnvironmentUnavailable(f"a hanging transaction of {self._id} cannot be ended: Kafka says {names}")
            if errors & set(_MOVED):
                sender._coordinator_dead(CoordinationType.TRANSACTION)
            await asyncio.sleep(_PAUSE_S)


def describe(hanging: Hanging) -> str:
    """Which transaction, for people."""
    places = ", ".join(f"{topic}-{number} from offset {start}" for (topic, number), start in hanging.starts.items())
    return f"a transaction in {places}"


def _errors(answer: Any) -> set[int]:
    if hasattr(answer, "error_code"):
        return {answer.error_code}
    return {error for _, numbers in answer.errors for _, error in numbers}


def _java_hash(text: str) -> int:
    """The absolute value of Java's `String.hashCode`, by which a group finds its partition of `__consumer_offsets`."""
    value = 0
    units = text.encode("utf-16-be")
    for high, low in zip(units[::2], units[1::2], strict=True):
        value = (31 * value + (high << 8 | low)) & 0xFFFFFFFF
    # Signed in Java, and the absolute value of the smallest number is taken for 0.
    return 0 if value == 0x80000000 else min(value, 0x100000000 - value)


class DescribeTransactionsResponse(Response):  # type: ignore[misc]  # the library has no types
    """KIP-664, version 0."""

    API_KEY = 65
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "transaction_states",
            CompactArray(
                ("error_code", Int16),
                ("transactional_id", CompactString("utf-8")),
                ("transaction_state", CompactString("utf-8")),
                ("transaction_timeout_ms", Int32),
                ("transaction_start_time_ms", Int64),
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                (
                    "topics",
                    CompactArray(
                        ("topic", CompactString("utf-8")),
                        ("partitions", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class DescribeTransactionsStruct(RequestStruct):  # type: ignore[misc]  # the library has no types
    """KIP-664, version 0."""

    API_KEY = 65
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = DescribeTransactionsResponse
    SCHEMA = Schema(("transactional_ids", CompactArray(CompactString("utf-8"))), ("tags", TaggedFields))


class DescribeTransactionsRequest(Request[DescribeTransactionsStruct]):  # type: ignore[misc]
    """Asks a transaction coordinator what state transactional ids are in; needs Describe on them."""

    API_KEY = 65

    def __init__(self, transactional_ids: list[str]) -> None:
        self._transactional_ids = transactional_ids

    def build(self, struct: type[DescribeTransactionsStruct]) -> DescribeTransactionsStruct:
        return struct(self._transactional_ids, {})


class DescribeProducersResponse(Response):  # type: ignore[misc]  # the library has no types
    """KIP-664, version 0."""

    API_KEY = 61
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition_index", Int32),
                        ("error_code", Int16),
                        ("error_message", CompactString("utf-8")),
                        (
                            "active_producers",
                            CompactArray(
                                ("producer_id", Int64),
                                ("producer_epoch", Int32),
                                ("last_sequence", Int32),
                                ("last_timestamp", Int64),
                                ("coordinator_epoch", Int32),
                                ("current_txn_start_offset", Int64),
                                ("tags", TaggedFields),
                            ),
                        ),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class DescribeProducersStruct(RequestStruct):  # type: ignore[misc]  # the library has no types
    """KIP-664, version 0."""

    API_KEY = 61
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = DescribeProducersResponse
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")),
                ("partition_indexes", CompactArray(Int32)),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class DescribeProducersRequest(Request[DescribeProducersStruct]):  # type: ignore[misc]
    """Asks the leader of partitions which producers have a transaction open in them; needs Read on the topics."""

    API_KEY = 61

    def __init__(self, topics: list[tuple[str, list[int], dict[int, bytes]]]) -> None:
        self._topics = topics

    def build(self, struct: type[DescribeProducersStruct]) -> DescribeProducersStruct:
        return struct(self._topics, {})
