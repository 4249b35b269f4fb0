"""Town: providers, broker and processes of one seed, through what happens to them to the calm and the reckoning."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from bridge.clock import Clock
from bridge.commands.command import Kind
from bridge.model import Collection
from bridge.publish.partitioner import partition_of
from bridge.publish.topics import TopicPlan
from bridge.runtime.mirrors import MirrorRule
from bridge.runtime.sweep import parted
from bridge.sandbox.api import SandboxApi
from bridge.sandbox.broker.cluster import Broker, Settings
from bridge.sandbox.broker.link import Trouble
from bridge.sandbox.simulation.check import Done, check
from bridge.sandbox.simulation.happenings import Happenings, Slot
from bridge.sandbox.simulation.obedience import mirrored, unanswered
from bridge.sandbox.simulation.orders import Orders, Watch
from bridge.sandbox.simulation.plan import Plan
from bridge.sandbox.simulation.ports import Disk, Lies
from bridge.sandbox.simulation.process import Outside
from bridge.sandbox.simulation.provider import Provider, tags_of
from bridge.sandbox.simulation.signals import Signals
from bridge.sandbox.simulation.story import Story
from bridge.sandbox.simulation.truth import History
from bridge.sandbox.simulation.vendors import VENDORS, Api, late_s
from bridge.store.record import SUSPECTS, cursor_key, decode_json

CALM_S_MAX = 1_200.0
"""After the last fault everything must be published within this; the longest waits are a 429 with its largest hint
(300 s), the probe after a refusal (60 s), back-off (75 s), and a group's rebalance (60 s)."""

LOOK_S = 2.0
"""Between two looks whether everything is published."""

APPROVE_S = 40.0
"""In the calm, between two approvals of whatever is held."""

STOP_S_MAX = 60.0
"""In which every process must have stopped."""

LATE_S = 60.0
"""For what is still on its way to the broker."""

EPILOGUE_S = 100.0
"""For every process to join, to open its shards, and to refuse to run."""


@dataclass(slots=True)
class Town:
    """See the module. Used once."""

    plan: Plan
    outside: Outside
    slots: list[Slot]
    histories: dict[str, History]
    happenings: Happenings
    chance: Random

    async def live(self) -> list[str]:
        """The whole story; what is wrong at its end."""
        for slot in self.slots:
            self.happenings.start(slot)
            if self.chance.random() < 0.5:
                await self.outside.clock.sleep(self.chance.random() * 5.0)
        await self.happenings.happen()
        findings = await self._calm()
        findings += await self._stop()
        await self.outside.clock.sleep(LATE_S)
        for history in self.histories.values():
            history.update()
        happenings = self.happenings
        orders = happenings.orders
        done = Done(
            happenings.letters, happenings.signals.sent, happenings.provider.losses, orders.sent, orders.watches
        )
        findings += await check(self.outside, self.histories, done)
        if self.plan.epilogue and not findings:
            findings = await self._epilogue()
        return findings

    async def _calm(self) -> list[str]:
        """Nothing happens any more; wait until everything is published."""
        story, clock = self.outside.story, self.outside.clock
        story.tell("calm: no more faults, the world stands still")
        self.happenings.rest()
        for slot in self.slots:
            slot.trouble.end()
            if slot.running and slot.process is not None:
                slot.process.power.cut_at = None
        self.happenings.provider.well()
        for slot in self.slots:
            if not slot.running and (self.chance.random() < 0.7 or slot is self.slots[-1]):
                self.happenings.start(slot)
        calm = clock.wall()
        deadline = clock.monotonic() + CALM_S_MAX
        self.happenings.signals.for_all([Kind.RESUME])
        approve_at = clock.monotonic() + APPROVE_S
        while missing := self._unpublished(calm):
            if not any(slot.running for slot in self.slots):  # the last one was about to stop
                self.happenings.start(self.slots[-1])
            if clock.monotonic() > deadline:
                return [
                    f"progress: {name} was not caught up {CALM_S_MAX:.0f} s after the last fault" for name in missing
                ]
            if clock.monotonic() >= approve_at:  # what is held would wait for ever
                self.happenings.signals.for_all([Kind.APPROVE])
                approve_at = clock.monotonic() + APPROVE_S
            await self.outside.clock.sleep(LOOK_S)
        story.tell("everything is published")
        return []

    def _unpublished(self, calm: float) -> list[str]:
        still = {source: self._still_since(api, calm) for source, api in self.outside.apis.items()}
        said = {(claim.source, claim.collection) for claim in self.outside.claims if claim.until > still[claim.source]}
        wanted = [(source, collection) for source, read in self.plan.collections.items() for collection in read]
        missing = [f"{source}/{collection}" for source, collection in wanted if (source, collection) not in said]
        missing += [
            f"what {source} has begun" for source, api in self.outside.apis.items() if api.world.due_at is not None
        ]
        broker, topics = self.outside.broker, self.outside.topics
        orders = self.happenings.orders
        missing += [
            f"the outcome of {name}" for name in unanswered(self.outside, [*orders.sent, *mirrored(self.outside)])
        ]
        for shard in sorted(
            self.happenings.letters.keys() | self.happenings.signals.partitions() | orders.partitions()
        ):
            at = (topics.inbox, shard)
            if broker.log(at).end and broker.committed(topics.bridge, at) != broker.log(at).end:
                missing.append(f"partition {shard} of the inbox")
        read = [
            source
            for source, names in self.plan.collections.items()
            if Collection.CUSTOMERS in names
            and (self.plan.blind or not VENDORS[self.plan.providers[source]].tells_departures)
        ]
        missing += [f"the sweep of {source}" for source in read if not self._swept(source, still[source])]
        missing += self._suspected() if read and not missing else []
        return missing

    def _still_since(self, api: Api, calm: float) -> float:
        """From when on its lists show nothing new: commands are carried out in the calm, some of them late."""
        world = api.world
        world.advance(self.outside.clock.wall())
        latest = max((entry.at for entry in world.truth.after(world.truth.number - 1)), default=calm)
        return max(calm, latest) + late_s(api) + 1.0  # stamps may be cut to seconds

    def _suspected(self) -> list[str]:
        """Deletions that are held, or were not looked into yet. Elsewhere the watermarks wait for them."""
        topics, broker = self.outside.topics, self.outside.broker
        open_: dict[bytes, None] = {}
        for shard in range(topics.shards):
            for entry in broker.read((topics.state, shard), 0):
                if entry.key is not None and entry.key.split(b"/")[1] == SUSPECTS.encode():
                    open_.pop(entry.key, None)
                    if entry.value is not None:
                        open_[entry.key] = None
        return [f"the suspect {key.decode()}" for key in open_]

    def _swept(self, source: str, still: float) -> bool:
        """Whether a sweep of the customers that began after that moment is over."""
        key = cursor_key(source, Collection.CUSTOMERS).encode()
        at = (self.outside.topics.state, partition_of(source.encode(), self.plan.shards))
        before, late_enough = None, False
        for entry in self.outside.broker.read(at, 0):
            if entry.key != key or entry.value is None:
                continue
            sweep = parted(decode_json(entry.value))[1]
            # The very first one does not count: it is the end of the first reading, which began long before.
            if before is not None and sweep is not None and sweep.began_at > before.began_at:
                if late_enough:
                    return True  # the next one has begun
                late_enough = sweep.began_at > still
            if before is not None and sweep is not None and sweep.began_at < before.began_at:
                late_enough = False  # a resync has given it up
            if late_enough and sweep is not None and sweep.cursor is None:
                return True
            before = sweep
        return False

    async def _stop(self) -> list[str]:
        tasks, asleep_s = [], 0.0
        for slot in self.slots:
            if slot.running and slot.process is not None and slot.task is not None:
                slot.process.supervisor.stop()
                tasks.append(slot.task)
                asleep_s = max(asleep_s, slot.process.power.frozen_until - self.outside.clock.monotonic())
        if not tasks:
            return []
        _, pending = await asyncio.wait(tasks, timeout=asleep_s + STOP_S_MAX)
        for task in pending:
            task.cancel()
        return ["a process did not stop in time"] * len(pending)

    async def _epilogue(self) -> list[str]:
        """Somebody deletes the state topic. It must not be taken for an empty world."""
        broker, topics = self.outside.broker, self.outside.topics
        self.outside.story.tell("epilogue: the state topic is deleted and made anew")
        written = self._events_end()
        marked = [shard for shard in range(topics.shards) if broker.log((topics.state, shard)).end]
        broker.recreate(topics.state)
        if self.chance.random() < 0.5:
            for slot in self.slots:
                slot.disk.lose()
        for slot in self.slots:
            self.happenings.start(slot)
        await self.outside.clock.sleep(EPILOGUE_S)
        told = self._events_end() - written if marked else 0
        findings = await self._stop()
        return findings + ([f"state lost: {told} events were published all the same"] if told else [])

    def _events_end(self) -> int:
        broker, topics = self.outside.broker, self.outside.topics.event_topics
        return sum(broker.log((topic, number)).end for topic in topics for number in range(broker.partitions(topic)))


def build(plan: Plan, clock: Clock, story: Story, group: asyncio.TaskGroup, folder: Path | None) -> Town:
    """Everything of one seed. folder: for stores in files."""
    seed = plan.seed
    topics = TopicPlan("s", plan.shards)
    broker = Broker(clock, Random(f"{seed}/broker"), Settings(slow_markers=plan.slow_markers), story.of_broker)
    broker.create(topics.declared())
    apis: dict[str, Api] = {}
    histories: dict[str, History] = {}
    for number, name in enumerate(plan.collections):
        vendor = VENDORS[plan.providers[name]]
        apis[name] = vendor.api(plan, seed * 10 + (0 if plan.mirrored else number), number, clock)
        histories[name] = History(apis[name].world, vendor)
    lies = {name: Lies() for name in apis}
    outside = Outside(plan, topics, broker, apis, clock, story, lies, mirrors=_mirrors(plan, apis))
    slots = [
        Slot(name, Disk(None if folder is None else folder / name), Trouble(latency_s=plan.latency_s))
        for name in (f"process-{number}" for number in range(plan.processes))
    ]
    chance = Random(f"{seed}/fate")
    watches = {name: Watch(api) for name, api in apis.items() if isinstance(api, SandboxApi)}
    happenings = Happenings(
        plan,
        outside,
        slots,
        Provider(plan, outside, histories, chance),
        Signals(plan, outside, chance),
        Orders(plan, outside, chance, watches),
        group,
        chance,
    )
    return Town(plan, outside, slots, histories, happenings, chance)


def _mirrors(plan: Plan, apis: Mapping[str, Api]) -> list[MirrorRule]:
    """Between one tag of the one and one of the other, both ways."""
    if not plan.mirrored:
        return []
    (one, its), (other, theirs) = [(name, next(iter(tags_of(api.world)), None)) for name, api in list(apis.items())[:2]]
    if its is None or theirs is None:
        return []
    there = MirrorRule("there", one, its, other, theirs, "email", "email")
    return [there, MirrorRule("back", other, theirs, one, its, "email", "email")]
