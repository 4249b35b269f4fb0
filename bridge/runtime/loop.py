"""SourceLoop: what every loop that asks a provider for one collection has in common: trouble, status and parking.

Trouble of the provider stays inside the loop, as back-off and status; a surprise is counted (`parking`), so that a loop
that breaks again and again lets its siblings live.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bridge.clock import Clock
from bridge.errors import AccessDenied, Malformed, RequestRefused, SourceError
from bridge.model import Collection
from bridge.observability.logs import Throttle, get_logger
from bridge.observability.metrics import Metrics
from bridge.observability.status import PAUSED
from bridge.runtime.control import Control, Interrupted
from bridge.runtime.ledger import Ledger
from bridge.runtime.parking import FORESEEN, Parking, Surprises
from bridge.runtime.schedule import ACCESS_PROBE_S, Backoff

SAY_AGAIN_S = 30.0
"""Between two log lines about the same thing of the same feed."""

Answer = TypeVar("Answer")

log = get_logger(__name__)


@dataclass(slots=True)
class ReadingStatus:
    """What the status page and `/ready` show of one loop; written by the loop, read by anybody."""

    mode: str = "waiting"
    caught_up: bool = False
    last_error: str | None = None
    failing_since: float | None = None
    held: int = 0
    held_uids: Sequence[str] = ()


class Unforeseen(Malformed):
    """Something that no code was written for."""


class SourceLoop:
    """One task of a shard during one opening; a subclass says what it does, in `run`, and how much it knows."""

    def __init__(
        self,
        source: str,
        collection: Collection,
        ledger: Ledger,
        clock: Clock,
        metrics: Metrics,
        parking: Parking,
        spread: Callable[[], float],
    ) -> None:
        """`spread`: a number in [0, 1) that keeps loops from coming back in step."""
        self.collection = collection
        self.status = ReadingStatus()
        self._source = source
        self._ledger = ledger
        self._control = Control(source, collection, ledger)
        self._clock = clock
        self._metrics = metrics
        self._parking = parking
        self._spread = spread
        self._throttle = Throttle(SAY_AGAIN_S, clock)

    @property
    def documents(self) -> int:
        """How many documents are known."""
        raise NotImplementedError

    @property
    def ready(self) -> bool:
        """True when the last request was answered, or nobody wants one."""
        return self.status.mode != "waiting" and self.status.last_error is None

    async def run(self) -> None:
        """For ever; ends by cancellation only. Errors of the provider never leave."""
        try:
            await self._control.run(self._live, self._rest)
        finally:
            await self._break_off()

    async def _live(self) -> None:
        """What the loop does while it is not paused; never returns. A signal breaks it off and begins it anew."""
        raise NotImplementedError

    async def _break_off(self) -> None:
        """End what is under way beside the loop itself. Nothing, unless a subclass says more."""

    # What signals ask for. Each writes what it changes into the ledger, then breaks off or wakes the loop.

    def pause(self) -> bool:
        """Ask the provider nothing any more; False when that is so already."""
        if self._control.paused:
            return False
        self._control.pause(self._clock.wall())
        self._control.call()
        return True

    def resume(self) -> bool:
        """Go on, at once; False when it was not paused."""
        if not self._control.paused:
            return False
        self._control.resume()
        self._control.call()
        return True

    def resync(self) -> bool:
        """Read everything again, at once or when it is not paused any more (True)."""
        self._control.call()
        return self._control.paused

    def approve(self) -> int:
        """A person lets go the deletions that are held; how many. None, unless a subclass holds any."""
        return 0

    async def _rest(self) -> None:
        """While paused: nothing is under way, and what was wrong before is not wrong now."""
        await self._break_off()
        self.status.mode = PAUSED
        self.status.last_error = self.status.failing_since = None

    # Trouble.

    async def _asked(self, call: Awaitable[Answer]) -> Answer:
        """A surprise in one loop is trouble of that loop; it must not stop its siblings."""
        try:
            return await call
        except (SourceError, *FORESEEN):  # also the store's: a feed asks it which rows it knows
            raise
        except Exception as error:
            name = type(error).__name__
            if self._throttle.admit("unforeseen") is not None:
                log.error("unforeseen", source=self._source, collection=self.collection, exc_info=error)
            raise Unforeseen(f"unforeseen {name}; nothing of the answer was used. Please report it") from error

    def _blame(self, error: Exception, surprises: Surprises) -> None:
        """The life ends; if it is because of this loop, the next one shall know."""
        if not isinstance(error, (*FORESEEN, Interrupted)):
            surprises.happened(f"unforeseen {type(error).__name__} ended the shard. Please report it")
            self._tell_parked()

    def _tell_parked(self) -> None:
        parked = self._parking.parked
        self._metrics.feed_parked(self._source, self.collection, parked)
        if parked:
            self.status.mode = "parked"
            if self._throttle.admit("parked") is not None:
                said = self._parking.polls.said or self._parking.sweeps.said
                log.error("the feed is parked", source=self._source, collection=self.collection, detail=said)

    def _trouble(self, error: SourceError, backoff: Backoff, surprises: Surprises) -> float:
        """Note what happened; seconds to wait."""
        if self.status.failing_since is None:
            self.status.failing_since = self._clock.wall()
        self.status.last_error = str(error)
        if isinstance(error, AccessDenied):
            delay = ACCESS_PROBE_S
        else:
            hint = getattr(error, "delay_s", None)
            delay = backoff.delay_s(self._spread(), hint)
        if isinstance(error, Unforeseen):
            surprises.happened(str(error))
            delay = max(delay, surprises.delay_s(self._spread()))
            self._tell_parked()
        if self._throttle.admit("trouble", delay) is not None:
            serious = isinstance(error, AccessDenied | RequestRefused | Malformed)
            log.log(
                40 if serious else 30,
                "the provider cannot be read",
                source=self._source,
                collection=self.collection,
                cause=type(error).__name__,
                detail=str(error),
                attempt=backoff.attempts,
                next_try_s=round(delay, 1),
            )
        return delay

    def _recovered(self) -> None:
        self._metrics.feed_parked(self._source, self.collection, self._parking.parked)
        if self.status.failing_since is not None and self._throttle.over("trouble"):
            log.info(
                "the provider is read again",
                source=self._source,
                collection=self.collection,
                after_s=round(self._clock.wall() - self.status.failing_since, 1),
            )
        self.status.failing_since = None
        self.status.last_error = None
