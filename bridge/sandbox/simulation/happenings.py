"""Happenings: everything that may befall a town, drawn by the weights of its plan: here the processes and the broker.

What befalls the providers is in `bridge.sandbox.simulation.provider`, what people ask for in
`bridge.sandbox.simulation.signals`.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from bridge.sandbox.broker.link import Fate, Planned, Trouble
from bridge.sandbox.population.life import Pace, Rates
from bridge.sandbox.simulation.orders import Orders
from bridge.sandbox.simulation.plan import Plan
from bridge.sandbox.simulation.ports import Disk
from bridge.sandbox.simulation.process import Outside, Process
from bridge.sandbox.simulation.provider import Provider
from bridge.sandbox.simulation.signals import Signals

WEEK_S = 8 * 86_400.0
"""Longer than tombstones stay, transactional ids live and caches are believed."""

TOMBSTONES_S = 7 * 86_400.0

REQUESTS = ("open", "add", "produce", "offset", "end", "join", "heartbeat", "committed", "read")
"""Kinds of requests to the broker."""

CALLS = (*REQUESTS, "api", "store")
"""Kinds of calls at which a process may die."""


@dataclass(slots=True)
class Slot:
    """A machine on which one process at a time runs."""

    name: str
    disk: Disk
    trouble: Trouble
    process: Process | None = None
    task: asyncio.Task[None] | None = None
    lives: int = 0

    @property
    def running(self) -> bool:
        """Whether there is a process that is not dead or gone."""
        return self.task is not None and not self.task.done()


@dataclass(slots=True)
class Happenings:
    """See the module. letters: what was sent into each partition of the inbox, in order. happened: how often what."""

    plan: Plan
    outside: Outside
    slots: list[Slot]
    provider: Provider
    signals: Signals
    orders: Orders
    group: asyncio.TaskGroup
    chance: Random
    letters: dict[int, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    happened: Counter[str] = field(default_factory=Counter)
    _rates: dict[str, Pace] = field(default_factory=dict)

    async def happen(self) -> None:
        """One thing after the other, for as long as the plan says."""
        clock, plan = self.outside.clock, self.plan
        end = clock.monotonic() + plan.duration_s
        actions = self._actions()
        names, weights = list(plan.weights), list(plan.weights.values())
        while (now := clock.monotonic()) < end:
            await clock.sleep(min(self.chance.expovariate(1.0 / plan.pause_s), end - now))
            (name,) = self.chance.choices(names, weights)
            told = actions[name]()
            if told is not None:
                self.happened[name] += 1
                self.outside.story.tell(f"{name}: {told}")
            if name == "a week off":
                await self._week_off()

    def rest(self) -> None:
        """The worlds stand still."""
        for api in self.outside.apis.values():
            api.world.advance(self.outside.clock.wall())
            api.world.rates = Rates()

    def start(self, slot: Slot) -> None:
        """A new process on a machine."""
        slot.lives += 1
        slot.process = Process(slot.name, slot.lives, slot.disk, slot.trouble, self.outside)
        slot.task = self.group.create_task(slot.process.live(), name=slot.name)

    # What may happen. Each returns what is told of it, None when it could not happen.

    def _actions(self) -> dict[str, Callable[[], str | None]]:
        return {
            "kill": self._kill,
            "kill at a call": self._kill_at_a_call,
            "stop": self._stop_softly,
            "cancel": self._cancel,
            "freeze": self._freeze,
            "start": self._start_one,
            "lose disk": self._lose_disk,
            "bad way": self._bad_way,
            "trouble at a call": self._trouble_at_a_call,
            "good way": self._good_way,
            "no way": self._no_way,
            "broker away": self._broker_away,
            "compact": self._compact,
            "letter": self._letter,
            "a week off": self._a_week_off,
            **self.provider.actions(),
            **self.signals.actions(),
            **self.orders.actions(),
        }

    def _kill(self) -> str | None:
        process = self._some_process()
        if process is not None:
            process.power.cut()
        return None if process is None else process.name

    def _kill_at_a_call(self) -> str | None:
        process = self._some_process()
        if process is None:
            return None
        kind = self.chance.choice(CALLS)
        number = self.chance.randint(1, 12)
        process.power.cut_at = (kind, process.power.calls[kind] + number)
        return f"{process.name} at its {number}th {kind} from now"

    def _stop_softly(self) -> str | None:
        process = self._some_process()
        if process is not None:
            process.supervisor.stop()
        return None if process is None else process.name

    def _cancel(self) -> str | None:
        process = self._some_process()
        if process is not None:
            process.cancel()
        return None if process is None else process.name

    def _freeze(self) -> str | None:
        process = self._some_process()
        if process is None:
            return None
        seconds = self.chance.choice((1.0, 8.0, 20.0, 45.0)) * (0.5 + self.chance.random())
        process.power.freeze(seconds)
        return f"{process.name} for {seconds:.1f} s"

    def _start_one(self) -> str | None:
        idle = [slot for slot in self.slots if not slot.running]
        if not idle:
            return None
        slot = self.chance.choice(idle)
        self.start(slot)
        return slot.name

    def _lose_disk(self) -> str | None:
        idle = [slot for slot in self.slots if not slot.running]
        if not idle:
            return None
        slot = self.chance.choice(idle)
        slot.disk.lose()
        return slot.name

    def _bad_way(self) -> str:
        slot = self.chance.choice(self.slots)
        trouble = slot.trouble
        for name in ("lost", "unanswered", "late", "slow"):
            setattr(trouble, name, self.chance.random() ** 2 * 0.3 if self.chance.random() < 0.5 else 0.0)
        trouble.late_s_max = self.chance.choice((0.3, 5.0, 40.0))
        trouble.slow_s_max = self.chance.choice((0.5, 5.0, 30.0))
        return (
            f"of {slot.name}: lost {trouble.lost:.2f}, unanswered {trouble.unanswered:.2f}, late {trouble.late:.2f} "
            f"(to {trouble.late_s_max} s), slow {trouble.slow:.2f} (to {trouble.slow_s_max} s)"
        )

    def _trouble_at_a_call(self) -> str:
        slot = self.chance.choice(self.slots)
        kind = "end" if self.chance.random() < 0.5 else self.chance.choice(REQUESTS)  # most depends on the commits
        fate = self.chance.choice((Fate.LOST, Fate.UNANSWERED, Fate.LATE, Fate.LATE, Fate.CUT, Fate.CUT))
        # Late: within the transaction that follows. Cut: for longer than a commit waits for its answer.
        scales = (0.2, 2.0, 20.0) if fate is Fate.LATE else (2.0, 30.0, 30.0)
        seconds = self.chance.choice(scales) * (0.2 + self.chance.random())
        planned = slot.trouble.planned = Planned(kind, self.chance.randint(1, 3), fate, seconds)
        return f"of {slot.name}: {planned.left}th {kind} from now {fate} ({seconds:.2f} s)"

    def _good_way(self) -> str:
        slot = self.chance.choice(self.slots)
        slot.trouble.end()
        return f"of {slot.name}"

    def _no_way(self) -> str:
        slot = self.chance.choice(self.slots)
        seconds = self.chance.choice((2.0, 15.0, 40.0)) * (0.5 + self.chance.random())
        slot.trouble.down_until = self.outside.clock.monotonic() + seconds
        return f"from {slot.name} to the broker for {seconds:.1f} s"

    def _broker_away(self) -> str:
        seconds = self.chance.choice((1.0, 10.0, 30.0)) * (0.5 + self.chance.random())
        for slot in self.slots:
            slot.trouble.down_until = self.outside.clock.monotonic() + seconds
        return f"for {seconds:.1f} s"

    def _compact(self) -> str:
        share = self.chance.choice((0.5, 0.9, 1.0))
        gone = self.outside.broker.compact(self.outside.topics.state, TOMBSTONES_S, share)
        return f"{gone} entries"

    def _letter(self) -> str:
        partition = self.chance.randrange(self.plan.shards)
        sent = self.letters[partition]
        letter = f"letter {partition}/{len(sent)}".encode()
        sent.append(letter)
        self.outside.broker.send(self.outside.topics.inbox, partition, b"somebody", letter)
        return letter.decode()

    def _a_week_off(self) -> str | None:
        for slot in self.slots:
            if slot.running and slot.process is not None:
                slot.process.power.cut()
        self._rates = {api.world.account: api.world.rates for api in self.outside.apis.values()}
        self.rest()
        return "every process is off"

    async def _week_off(self) -> None:
        await self.outside.clock.sleep(WEEK_S)
        broker, topics = self.outside.broker, self.outside.topics
        broker.compact(topics.state, TOMBSTONES_S)
        for name in broker.transactions.open_ids():
            broker.transactions.forget(name)
        for api in self.outside.apis.values():
            api.world.rates = self._rates.pop(api.world.account)
        for slot in self.slots:
            self.start(slot)

    def _some_process(self) -> Process | None:
        running = [slot.process for slot in self.slots if slot.running and slot.process is not None]
        return self.chance.choice(running) if running else None
