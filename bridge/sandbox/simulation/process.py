"""Process: one simulated process of a bridge: the real supervisor, assignment and shards over fake ports.

Built as `bridge.assembly` builds it. What is outside of the process hangs on its `Power`: when that is cut, no call
gets out any more and the tasks are ended, and what stays is the disk and what was on its way.

Tasks: one, which runs the supervisor; owned by the simulation's task group.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import NamedTuple

from bridge.clock import Clock
from bridge.errors import EnvironmentUnavailable
from bridge.event.envelope import EventBuilder
from bridge.model import Collection
from bridge.publish.partitioner import partition_of
from bridge.publish.settings import ANSWER_DEADLINE_S
from bridge.publish.topics import Cluster, TopicPlan
from bridge.publish.transaction import Producer
from bridge.runtime.assignment import Assignment, OwnPartition
from bridge.runtime.glances import GlancePlan
from bridge.runtime.group import Member
from bridge.runtime.memberships.loop import MembershipSource
from bridge.runtime.memberships.rounds import RoundsPlan
from bridge.runtime.mirrors import MirrorRule
from bridge.runtime.reader import SourceReader
from bridge.runtime.reading import ReadingPlan
from bridge.runtime.shard import Shard, ShardPorts
from bridge.runtime.supervisor import LifePorts, Supervisor
from bridge.sandbox.broker.cluster import Broker
from bridge.sandbox.broker.inbox import FakeInbox
from bridge.sandbox.broker.link import Link, Power, PowerCut, Trouble
from bridge.sandbox.broker.reader import fake_restore
from bridge.sandbox.broker.refusal import Lost
from bridge.sandbox.simulation.plan import Plan
from bridge.sandbox.simulation.ports import (
    ApiPort,
    Disk,
    Lies,
    ProcessClock,
    ShiftingFeed,
    ToldMetrics,
    ToldProducer,
)
from bridge.sandbox.simulation.story import Story, teller
from bridge.sandbox.simulation.vendors import VENDORS, Api
from bridge.sandbox.world import World
from bridge.store.base import Store

GRACE_S = 30.0


class Claim(NamedTuple):
    """A watermark: at this moment a process said that everything up to `until` is published. Wall-clock seconds."""

    source: str
    collection: Collection
    at: float
    until: float


class Opening(NamedTuple):
    """A shard's producer was opened. life: of which process. generation, owner: as the group saw it at that moment."""

    shard: int
    life: str
    generation: int
    owner: bool


@dataclass(slots=True)
class Outside:
    """What all processes share."""

    plan: Plan
    topics: TopicPlan
    broker: Broker
    apis: Mapping[str, Api]
    clock: Clock
    story: Story
    lies: dict[str, Lies]
    claims: list[Claim] = field(default_factory=list)
    openings: list[Opening] = field(default_factory=list)
    mirrors: Sequence[MirrorRule] = ()


class Process:
    """One life of a process, from start to end. name: the same for all lives on the same disk."""

    def __init__(self, name: str, life: int, disk: Disk, trouble: Trouble, outside: Outside) -> None:
        self.name = name
        self._life = f"{name}/{life}"
        self._outside = outside
        self._disk = disk
        chance = Random(f"{outside.plan.seed}/{name}/{life}")
        self.power = Power(outside.clock, died=self._ended)
        self._clock = ProcessClock(outside.clock, self.power)
        self._chance = chance
        self._link = Link(outside.broker, self._clock, self.power, trouble, Random(chance.random()))
        self._metrics = ToldMetrics(outside.apis, self._claim, self._clock)
        self._task: asyncio.Task[None] | None = None
        self._readers = self._build_readers()
        ports = LifePorts(self._prepare, self._prepare, self._inbox, self._assignment, chance.random)
        self.supervisor = Supervisor(ports, [], self._clock, grace_s=GRACE_S)

    async def live(self) -> None:
        """Until stopped or dead."""
        teller.set(self.name)
        self._outside.story.tell("starts")
        self._task = asyncio.current_task()
        try:
            await self.supervisor.run()
            self._outside.story.tell("has stopped")
        except PowerCut:
            pass
        except asyncio.CancelledError:
            self._outside.story.tell("is gone")
        finally:
            self.power.alive = False

    def cancel(self) -> None:
        """The hard stop."""
        if self._task is not None:
            self._task.cancel()

    def _claim(self, source: str, collection: Collection, until: float) -> None:
        self._outside.claims.append(Claim(source, collection, self._outside.clock.wall(), until))

    def _ended(self) -> None:
        self._outside.story.tell(f"{self.name} is killed")
        if self._task is not None:
            # Not now: whoever is at work right now may be that task itself.
            asyncio.get_running_loop().call_soon(self._task.cancel)

    async def _prepare(self) -> Cluster:
        try:
            async with asyncio.timeout(ANSWER_DEADLINE_S):
                return await self._link.call("admin", lambda: self._outside.broker.cluster(self._outside.topics))
        except (TimeoutError, Lost):
            raise EnvironmentUnavailable("the fake Kafka cannot be asked for its topics") from None

    def _inbox(self) -> FakeInbox:
        return FakeInbox(self._link, self._outside.topics.inbox, self._outside.topics.bridge, self._clock)

    def _assignment(self, inbox: Member, cluster: Cluster) -> Assignment:
        return Assignment(
            inbox,
            lambda number: self._shard(number, inbox, cluster),
            self._disk.discard,
            self._clock,
            self._metrics,
            self._chance.random,
        )

    def _shard(self, number: int, inbox: Member, cluster: Cluster) -> Shard:
        topics = self._outside.topics.sized(cluster)

        def opened() -> None:
            group = self._outside.broker.group(topics.bridge, topics.inbox)
            owner = isinstance(inbox, FakeInbox) and inbox.name is not None and group.owner(number) == inbox.name
            self._outside.openings.append(Opening(number, self._life, group.generation, owner))

        def producer() -> Producer:
            return ToldProducer(
                opened,
                self._link,
                transactional_id=f"{topics.bridge}-{number}",
                group_id=topics.bridge,
                inbox=(topics.inbox, number),
                partitions=cluster.partitions,
                record_bytes_max=topics.record_bytes_max,
            )

        async def restore(store: Store) -> None:
            await fake_restore(self._link, self._chance, topics.state, number, store, self._clock, _silent, fenced=True)

        ports = ShardPorts(
            inbox=OwnPartition(inbox, number),
            producer=producer,
            open_store=lambda: self._disk.open(number, self.power, self._clock),
            discard_store=lambda: self._disk.discard(number),
            restore=restore,
            new_id=lambda: f"{self._chance.getrandbits(128):032x}",
        )
        return Shard(number, self._readers.get(number, ()), ports, topics, self._clock, self._metrics)

    def _build_readers(self) -> dict[int, list[SourceReader]]:
        readers: dict[int, list[SourceReader]] = {}
        for name, api in self._outside.apis.items():
            shard = partition_of(name.encode(), self._outside.plan.shards)
            readers.setdefault(shard, []).append(self._reader(name, api))
        return readers

    def _reader(self, name: str, api: Api) -> SourceReader:
        plan = self._outside.plan
        vendor = VENDORS[plan.providers[name]]
        port = ApiPort(api, self.power, self._outside.lies[name], vendor)
        source = vendor.source(plan, name, port, api, self._clock, self._chance.random)
        memberships = glances = None
        if Collection.MEMBERSHIPS in plan.collections[name]:
            if source.memberships is not None:
                rounds = RoundsPlan(plan.poll_interval_s, plan.rounds_interval_s, plan.request_rate)
                memberships = MembershipSource(source.memberships, rounds)
            elif source.glances is not None:
                glances = GlancePlan(source.glances, plan.poll_interval_s)
        return SourceReader(
            account=source.account,
            builder=EventBuilder(source.account),
            feeds=[
                ShiftingFeed(feed, partial(_alive, api.world, collection), plan.old_rows, self._chance)
                for collection, feed in source.feeds.items()
            ],
            plans=dict.fromkeys(source.feeds, self._reading_plan()),
            silent_snapshot=plan.silent,
            clock=self._clock,
            metrics=self._metrics,
            spread=self._chance.random,
            memberships=memberships,
            glances=glances,
            commander=source.commander,
            mirrors=[rule for rule in self._outside.mirrors if rule.source == name],
        )

    def _reading_plan(self) -> ReadingPlan:
        plan = self._outside.plan
        return ReadingPlan(
            plan.poll_interval_s,
            plan.sweep_interval_s,
            plan.delete_limit,
            poll_interval_s_max=plan.poll_interval_s_max,
        )


def _alive(world: World, collection: Collection, uid: str) -> bool:
    if collection is Collection.TAGS:
        return uid in world.tags
    if collection is Collection.USERS:
        return uid in world.staff.users
    return world.customers.alive(world.customers.row_of[uid])


def _silent(_done: int, _total: int) -> None:
    """Tells nobody."""
