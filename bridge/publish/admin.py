"""Admin: what is asked of the cluster itself. Every call has a deadline, and every error code is looked at.

The library's admin client answers with codes instead of raising, and its only way to change a topic's configuration
resets whatever is not named; so topics are listed, described and created here, never altered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import GroupAuthorizationFailedError, GroupCoordinatorNotAvailableError, KafkaError, for_code

from bridge.errors import EnvironmentUnavailable
from bridge.publish.settings import KafkaSettings, client_options
from bridge.publish.wire import Wire, bootstrap, describe, stop_or_cut, unreachable

_ALREADY_EXISTS = 36
_UNKNOWN_TOPIC = 3

_COORDINATOR_PAUSE_S = 0.2
"""Before Kafka is asked again."""


class Admin:
    """The library's admin client for the length of one `async with`, every call under a deadline."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._client: Any = AIOKafkaAdminClient(**client_options(settings))
        self._wire = Wire(self._client._client)

    async def __aenter__(self) -> Admin:
        try:
            await bootstrap(self._settings, self._client.start())
        except BaseException:
            await self._wire.cut()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop_or_cut(self._client.close(), self._wire.cut)

    async def existing(self) -> tuple[str, dict[str, int], set[str]]:
        """The cluster's id, the partitions of every topic, and the topics of which some partition has no leader.

        All topics are listed: asking for one by name would create it where the broker may create topics.
        """
        answer = await self._ask("list topics", self._client._get_cluster_metadata(None))
        described = answer.to_object()
        topics = {entry["topic"]: entry["partitions"] for entry in described["topics"] if entry["error_code"] == 0}
        counts = {topic: len(partitions) for topic, partitions in topics.items()}
        leaderless = {
            topic
            for topic, partitions in topics.items()
            if not partitions or any(partition["leader"] < 0 for partition in partitions)
        }
        return described["cluster_id"] or "", counts, leaderless

    async def all_led(self, topics: AbstractSet[str]) -> bool:
        """Whether these exist and every partition of them has a leader."""
        _, counts, leaderless = await self.existing()
        return topics <= counts.keys() - leaderless

    async def configs(self, topics: Sequence[str]) -> dict[str, dict[str, str]]:
        """The effective configuration of each topic that (still) exists."""
        if not topics:
            return {}
        resources = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
        answers = await self._ask("describe topics", self._client.describe_configs(resources))
        configs: dict[str, dict[str, str]] = {}
        for code, message, _kind, topic, entries in (row for answer in answers for row in answer.resources):
            if code == _UNKNOWN_TOPIC:
                continue
            self._check(code, message, f"describe the configuration of {topic} (the right DescribeConfigs)")
            configs[topic] = {entry[0]: entry[1] for entry in entries if entry[1] is not None}
        return configs

    async def ask(self, what: str, request: Any, node: int | None = None) -> Any:
        """Any request of the protocol, to any broker or to this one. `Any`: the library has no types."""
        target = self._client._client.get_random_node() if node is None else node
        return await self._ask(what, self._client._send_request(request, target))

    async def group_coordinator(self, group: str) -> int | None:
        """The broker that coordinates a group; None when the user may not know."""
        try:
            return int(await self._ask("find the group's coordinator", self._found_coordinator(group)))
        except EnvironmentUnavailable as error:
            if isinstance(error.__cause__, GroupAuthorizationFailedError):
                return None
            raise

    async def _found_coordinator(self, group: str) -> int:
        while True:
            try:
                return int(await self._client.find_coordinator(group))
            except GroupCoordinatorNotAvailableError:  # of a new cluster, which makes the groups' topic now
                await asyncio.sleep(_COORDINATOR_PAUSE_S)

    async def create(self, topics: Iterable[tuple[str, int, Mapping[str, str]]], *, only_ask: bool = False) -> None:
        """Create topics (name, partitions, configuration), or ask whether that is possible.

        One that somebody created meanwhile is all right. Raises `EnvironmentUnavailable`.
        """
        # -1 is Kafka's word for the broker's default; the library wants it explained by an assignment, empty here.
        replicas = self._settings.replication_factor
        new = [
            NewTopic(name, partitions, replicas or -1, None if replicas else {}, config)
            for name, partitions, config in topics
        ]
        answer = await self._ask("create topics", self._client.create_topics(new, validate_only=only_ask))
        for topic, code, message in answer.topic_errors:
            if code != _ALREADY_EXISTS:
                self._check(code, message, f"create {topic} (the right Create, and kafka.replication_factor)")

    async def _ask(self, what: str, call: Awaitable[Any]) -> Any:  # the library's answers have no types
        try:
            async with asyncio.timeout(self._settings.answer_deadline_s):
                return await call
        except TimeoutError:
            raise unreachable(self._settings, f"it does not answer the request to {what}") from None
        except (KafkaError, AssertionError) as error:  # an assertion: Kafka names no broker
            raise unreachable(self._settings, f"it does not {what}: {describe(error)}") from error

    def _check(self, code: int, message: str | None, what: str) -> None:
        if code != 0:
            why = message or for_code(code).__name__
            raise EnvironmentUnavailable(f"Kafka at {self._settings.servers} refuses to {what}: {why}")
