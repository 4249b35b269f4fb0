"""Rights: what the Kafka user may not do although the bridge needs it; asked, never tried.

A broker tells in its descriptions of topics and groups what the asking user may do with them (KIP-430), so nothing
is written, joined or fenced to find out. Of transactional ids it tells only whether they may be described, which is
part of Write.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka.errors import IncompatibleBrokerVersion
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Bytes, Int16, Int32, Schema, String

from bridge.errors import EnvironmentUnavailable
from bridge.publish.admin import Admin
from bridge.publish.hanging import DescribeTransactionsRequest
from bridge.publish.settings import KafkaSettings
from bridge.publish.topics import TopicPlan

_READ, _WRITE, _DESCRIBE_CONFIGS = 3, 4, 10
_NAMES = {_READ: "Read", _WRITE: "Write", _DESCRIBE_CONFIGS: "DescribeConfigs"}
"""Kafka's numbers of operations; also their bits in an answer."""

_TOPIC_REFUSED, _GROUP_REFUSED, _ID_REFUSED = 29, 30, 53
_UNKNOWN = -(2**31)
"""The broker's word for "not told"."""


class Lacking(NamedTuple):
    """What the user may not do with one resource, for people. resource: a topic's name, or what else it is."""

    resource: str
    message: str


async def missing_rights(settings: KafkaSettings, plan: TopicPlan) -> list[Lacking]:
    """One per resource on which the user lacks something. Raises `EnvironmentUnavailable`."""
    async with Admin(settings) as admin:
        names = [topic.name for topic in plan.declared()]
        topics = await _told(admin.ask("tell rights on topics", RightsOnTopics(names)))
        found = list(_of_topics(topics)) if topics is not None else []
        absent = {name for error, name, *_ in topics.topics if error not in (0, _TOPIC_REFUSED)} if topics else set()
        if absent and settings.create_topics:
            try:
                await admin.create(
                    [(topic.name, topic.partitions, topic.config) for topic in plan.declared() if topic.name in absent],
                    only_ask=True,
                )
            except EnvironmentUnavailable as error:
                found.append(Lacking("topics", str(error)))
        group = plan.bridge
        coordinator = await admin.group_coordinator(group)
        if coordinator is None:
            found.append(_lack(["Read"], f"group {group}"))
        else:
            answer = await _told(admin.ask("tell rights on groups", RightsOnGroup(group), coordinator))
            found += _of_group(answer, group) if answer is not None else ()
        request = DescribeTransactionsRequest([f"{plan.bridge}-0"])
        transactions = await _told(admin.ask("tell rights on transactional ids", request))
        if transactions is not None and any(state[0] == _ID_REFUSED for state in transactions.transaction_states):
            found.append(_lack(["Write"], f"transactional ids {plan.bridge}-*"))
        return found


async def _told(answer: Coroutine[Any, Any, Any]) -> Any:
    """The answer; None from a Kafka that does not know the question: the last of them came with 3.0."""
    try:
        return await answer
    except NotImplementedError:
        return None
    except EnvironmentUnavailable as error:
        if isinstance(error.__cause__, IncompatibleBrokerVersion):
            return None
        raise


def _of_topics(answer: Any) -> Iterator[Lacking]:
    """`Any`: the library's answers have no types."""
    for error, topic, _internal, _partitions, allowed in answer.topics:
        if error == _TOPIC_REFUSED:
            yield _lack(list(_NAMES.values()), f"topic {topic}", topic)
        elif error == 0 and (lacking := _lacking(allowed, _NAMES)):
            yield _lack(lacking, f"topic {topic}", topic)


def _of_group(answer: Any, group: str) -> Iterator[Lacking]:
    for error, _id, _state, _type, _protocol, _members, allowed in answer.groups:
        if error == _GROUP_REFUSED or _lacking(allowed, {_READ: "Read"}):
            yield _lack(["Read"], f"group {group}")


def _lacking(allowed: int, needed: Mapping[int, str]) -> list[str]:
    if allowed == _UNKNOWN:
        return []
    return [name for operation, name in needed.items() if not allowed >> operation & 1]


def _lack(rights: Sequence[str], resource: str, name: str = "") -> Lacking:
    return Lacking(name or resource, f"this user lacks {', '.join(rights)} on {resource}")


class RightsOnTopicsResponse(Response):  # type: ignore[misc]  # the library has no types
    """Metadata, version 8."""

    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", Array(("node_id", Int32), ("host", String("utf-8")), ("port", Int32), ("rack", String("utf-8")))),
        ("cluster_id", String("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String("utf-8")),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("topic_authorized_operations", Int32),
            ),
        ),
        ("cluster_authorized_operations", Int32),
    )


class RightsOnTopicsStruct(RequestStruct):  # type: ignore[misc]  # the library has no types
    """Metadata, version 8."""

    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = RightsOnTopicsResponse
    SCHEMA = Schema(
        ("topics", Array(String("utf-8"))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class RightsOnTopics(Request[RightsOnTopicsStruct]):  # type: ignore[misc]
    """Asks any broker about topics, and about the rights on them and on the cluster; creates none."""

    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, struct: type[RightsOnTopicsStruct]) -> RightsOnTopicsStruct:
        return struct(self._topics, False, True, True)


class RightsOnGroupResponse(Response):  # type: ignore[misc]  # the library has no types
    """DescribeGroups, version 3."""

    API_KEY = 15
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "groups",
            Array(
                ("error_code", Int16),
                ("group", String("utf-8")),
                ("state", String("utf-8")),
                ("protocol_type", String("utf-8")),
                ("protocol", String("utf-8")),
                (
                    "members",
                    Array(
                        ("member_id", String("utf-8")),
                        ("client_id", String("utf-8")),
                        ("client_host", String("utf-8")),
                        ("member_metadata", Bytes),
                        ("member_assignment", Bytes),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
    )


class RightsOnGroupStruct(RequestStruct):  # type: ignore[misc]  # the library has no types
    """DescribeGroups, version 3."""

    API_KEY = 15
    API_VERSION = 3
    RESPONSE_TYPE = RightsOnGroupResponse
    SCHEMA = Schema(("groups", Array(String("utf-8"))), ("include_authorized_operations", Boolean))


class RightsOnGroup(Request[RightsOnGroupStruct]):  # type: ignore[misc]
    """Asks its coordinator about a group and the rights on it."""

    API_KEY = 15

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, struct: type[RightsOnGroupStruct]) -> RightsOnGroupStruct:
        return struct([self._group], True)
