"""Link: the way of one process's requests to the broker, and what can happen to them on it.

A request is a function that acts on the broker. It arrives after the latency even when whoever sent it has been
cancelled, closed or killed meanwhile, as bytes in a socket do. It may also be lost, its answer may be lost, or it may
arrive much later, long after the client has given it up and sent it again.

`Power` is the life of the process that sends: it can be cut at the n-th request of a kind (before the request leaves,
when it has left, or when it was answered), and it can be frozen for a while, as by SIGSTOP.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Generic, TypeVar

from bridge.clock import Clock
from bridge.sandbox.broker.cluster import Broker
from bridge.sandbox.broker.refusal import Lost, Refusal

T = TypeVar("T")

RESET_S = 0.05
"""From the loss of a request to the client's noticing that its connection is gone."""

REFUSED_S = 0.5
"""Between two attempts to connect while the broker cannot be reached."""


class PowerCut(BaseException):
    """The process is dead from here on. Not an `Exception`: nothing may handle it."""


@dataclass(slots=True)
class Power:
    """See the module. A process that is dead stays so: the next one has a power of its own.

    cut_at: kind of call and how many of them until the lights go out; None for never. died: called at that moment.
    """

    clock: Clock
    cut_at: tuple[str, int] | None = None
    died: Callable[[], None] = lambda: None
    alive: bool = True
    frozen_until: float = 0.0
    calls: Counter[str] = field(default_factory=Counter)

    def step(self, kind: str) -> None:
        """One moment at which the process may die. Raises `PowerCut`."""
        if not self.alive:
            raise PowerCut
        self.calls[kind] += 1
        if self.cut_at is not None and self.cut_at[0] == kind and self.calls[kind] >= self.cut_at[1]:
            self.cut()
            raise PowerCut

    def cut(self) -> None:
        """kill -9."""
        if self.alive:
            self.alive = False
            self.died()

    def freeze(self, seconds: float) -> None:
        """SIGSTOP for so long."""
        self.frozen_until = max(self.frozen_until, self.clock.monotonic() + seconds)

    async def awake(self) -> None:
        """Returns when the process is not frozen."""
        while (left := self.frozen_until - self.clock.monotonic()) > 0:
            await self.clock.sleep(left)


class Fate(StrEnum):
    """What may happen to a request."""

    ANSWERED = "answered"
    LOST = "lost"
    UNANSWERED = "unanswered"
    LATE = "late"
    CUT = "cut"


@dataclass(slots=True)
class Planned:
    """Something will happen to the n-th request of a kind from now. CUT: answered by nobody, and the way is gone."""

    kind: str
    left: int
    fate: Fate
    seconds: float


@dataclass(slots=True)
class Trouble:
    """How bad the way is; may be changed at any time. Shares are of requests.

    lost: never arrive. unanswered: arrive, the answer is lost. late: the client gives up, the request arrives within
    `late_s_max`. down_until: nothing gets through before this moment (`Clock.monotonic`).
    """

    latency_s: float = 0.002
    lost: float = 0.0
    unanswered: float = 0.0
    late: float = 0.0
    late_s_max: float = 40.0
    slow: float = 0.0
    slow_s_max: float = 5.0
    down_until: float = 0.0
    planned: Planned | None = None

    def due(self, kind: str) -> Planned | None:
        """What was planned for this request."""
        planned = self.planned
        if planned is None or planned.kind != kind:
            return None
        planned.left -= 1
        if planned.left > 0:
            return None
        self.planned = None
        return planned

    def end(self) -> None:
        """Everything works again; what is late is still on its way."""
        self.planned = None
        self.lost = self.unanswered = self.late = self.slow = self.down_until = 0.0


class _Answer(Generic[T]):
    """Filled when the request has arrived."""

    def __init__(self, request: Callable[[], T]) -> None:
        self._request = request
        self._value: list[T] = []
        self._refusal: Refusal | None = None

    def fill(self) -> None:
        try:
            self._value.append(self._request())
        except Refusal as refusal:
            self._refusal = refusal

    def get(self) -> T:
        if self._refusal is not None:
            raise self._refusal
        return self._value[0]


class Link:
    """See the module. One per process."""

    def __init__(self, broker: Broker, clock: Clock, power: Power, trouble: Trouble, chance: Random) -> None:
        self.broker = broker
        self.clock = clock
        self.power = power
        self._trouble = trouble
        self._chance = chance

    @property
    def reachable(self) -> bool:
        """Whether a connection would be made now."""
        return self.clock.monotonic() >= self._trouble.down_until

    async def call(self, kind: str, request: Callable[[], T], left: Callable[[], None] = lambda: None) -> T:
        """The broker's answer. Raises `Refusal`, or `Lost` when there is none.

        left: called when the request is on its way. Cancellation does not call it back.
        """
        trouble, power = self._trouble, self.power
        power.step(kind)
        await power.awake()
        now = self.clock.monotonic()
        if now < trouble.down_until:
            await self.clock.sleep(min(REFUSED_S, trouble.down_until - now))
            raise Lost(f"{kind}: not reachable")
        answer = _Answer(request)
        fate, seconds = self._fate(kind)
        if fate is Fate.CUT:
            trouble.down_until = now + seconds
        arrives_s, known_s = self._way(fate, seconds)
        left()
        if arrives_s is not None:
            self.broker.later(arrives_s, answer.fill)
        power.step(kind)
        await self.clock.sleep(known_s)
        power.step(kind)
        self.broker.catch_up()
        if fate is not Fate.ANSWERED or not self.reachable:
            raise Lost(f"{kind}: the connection broke")
        return answer.get()

    def _fate(self, kind: str) -> tuple[Fate, float]:
        """What happens to a request, and for how long it is late or the way is gone."""
        trouble, chance = self._trouble, self._chance
        planned = trouble.due(kind)
        if planned is not None:
            self.broker.tell(f"{kind} is {planned.fate} ({planned.seconds:.2f} s)")
            return planned.fate, planned.seconds
        bad = trouble.lost + trouble.unanswered + trouble.late
        if bad > 0 and (drawn := chance.random()) < bad:
            if drawn < trouble.lost:
                return Fate.LOST, 0.0
            if drawn < trouble.lost + trouble.unanswered:
                return Fate.UNANSWERED, 0.0
            late_s = RESET_S + chance.random() * trouble.late_s_max
            self.broker.tell(f"{kind} is on its way for {late_s:.2f} s")
            return Fate.LATE, late_s
        return Fate.ANSWERED, 0.0

    def _way(self, fate: Fate, seconds: float) -> tuple[float | None, float]:
        """Seconds until the request arrives (None: never), and until the client knows."""
        trouble, chance = self._trouble, self._chance
        latency = trouble.latency_s * (0.5 + chance.random())
        match fate:
            case Fate.LOST:
                return None, RESET_S
            case Fate.LATE:
                return seconds, RESET_S
            case Fate.UNANSWERED:
                return latency / 2, RESET_S
            case Fate.CUT:
                return (latency / 2 if chance.random() < 0.5 else None), RESET_S
        if trouble.slow > 0 and chance.random() < trouble.slow:
            latency += chance.random() * trouble.slow_s_max
        return latency / 2, latency
