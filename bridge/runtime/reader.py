"""SourceReader: everything about one source that outlives its shard's openings, and what one opening makes of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bridge.clock import Clock
from bridge.event.envelope import EventBuilder
from bridge.model import Account, Collection
from bridge.observability.metrics import Metrics
from bridge.publish.topics import TopicPlan
from bridge.runtime.answers import Answers
from bridge.runtime.commands.executor import Executor
from bridge.runtime.commands.queue import CommandQueue
from bridge.runtime.commands.work import Site
from bridge.runtime.glances import GlancePlan
from bridge.runtime.ledger import Ledger
from bridge.runtime.loop import SourceLoop
from bridge.runtime.memberships.bulletin import Bulletin
from bridge.runtime.memberships.loop import Memberships, MembershipSource
from bridge.runtime.memberships.told import ToldMemberships
from bridge.runtime.mirrors import MirrorRule
from bridge.runtime.parking import Parking
from bridge.runtime.reading import Reading, ReadingPlan
from bridge.runtime.step import SourceStep, StepLimits
from bridge.source.commanding import Commander
from bridge.source.feed import Feed


@dataclass(frozen=True, slots=True)
class SourceOpening:
    """One source during one opening of its shard. executor: None where nothing can be done at the provider."""

    loops: Sequence[SourceLoop]
    executor: Executor | None


@dataclass(frozen=True, slots=True)
class SourceReader:
    """Everything about one source that outlives its shard's openings: what to read and how to publish it.

    memberships, glances: which tags customers have, if that is wanted; the one for a provider whose customers do not
    say so, the other for one whose customers do. commander: for one at which something can be done. mirrors: those that
    follow this source.
    """

    account: Account
    builder: EventBuilder
    feeds: Sequence[Feed]
    plans: Mapping[Collection, ReadingPlan]
    silent_snapshot: bool
    clock: Clock
    metrics: Metrics
    spread: Callable[[], float] = random.random
    parking: Mapping[Collection, Parking] = field(default_factory=lambda: {name: Parking() for name in Collection})
    memberships: MembershipSource | None = None
    glances: GlancePlan | None = None
    commander: Commander | None = None
    mirrors: Sequence[MirrorRule] = ()

    @property
    def collections(self) -> Sequence[Collection]:
        """What is read."""
        extra = [] if self.memberships is None and self.glances is None else [Collection.MEMBERSHIPS]
        return [*(feed.collection for feed in self.feeds), *extra]

    def open(self, ledger: Ledger, topics: TopicPlan, answers: Answers) -> SourceOpening:
        """What one opening consists of; its loops share the step, so that the source counts its events once."""
        limits = StepLimits(topics.record_bytes_max, self.silent_snapshot)
        folds = self.commander is not None and self.commander.ways.names_ignore_case
        mirrors = [rule._replace(ignore_case=folds) for rule in self.mirrors]
        step = SourceStep(self.builder, ledger, topics, limits, self.clock, mirrors)
        source = self.account.source
        bulletin = Bulletin()
        readings = {
            feed.collection: Reading(
                source,
                feed,
                step,
                ledger,
                self._plan(feed.collection),
                self.clock,
                self.metrics,
                self.parking[feed.collection],
                self.spread,
                bulletin,
            )
            for feed in self.feeds
        }
        loops: list[SourceLoop] = [*readings.values()]
        memberships = None
        parking = self.parking[Collection.MEMBERSHIPS]
        if self.memberships is not None:
            memberships = Memberships(
                source, self.memberships, step, ledger, bulletin, self.clock, self.metrics, parking, self.spread
            )
            loops.append(memberships)
        if self.glances is not None:
            loops.append(
                ToldMemberships(source, step, ledger, bulletin, self.clock, self.metrics, parking, self.spread)
            )
        if self.commander is None:
            return SourceOpening(loops, None)
        queue = CommandQueue(source, ledger, topics.record_bytes_max)
        site = Site(source, step, ledger, bulletin, queue, readings, memberships, self.commander, self.clock)
        executor = Executor(site, answers, self.spread)
        executor.await_again()
        return SourceOpening(loops, executor)

    def _plan(self, collection: Collection) -> ReadingPlan:
        plan = self.plans[collection]
        return replace(plan, glances=self.glances) if collection is Collection.CUSTOMERS else plan
