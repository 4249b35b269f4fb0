"""The rate limit of the simulated Rebilly API: so many writes of the organization per window of the wall clock."""

from __future__ import annotations

from bridge.sandbox.answer import Answer
from bridge.sandbox.limit import Window, left_s
from bridge.sandbox.rebilly.problems import Problem
from bridge.sandbox.rebilly.switches import RebillySwitches

PAST_S = 10
FAR_S = 86_400

READS = frozenset({"GET", "HEAD"})


class WriteLimit:
    """Counts the writes, or everything, of the current window."""

    def __init__(self) -> None:
        self._window = Window()

    def before(self, switches: RebillySwitches, method: str, now: float) -> Answer | None:
        """Count a request; the answer when there are too many."""
        if not self._counts(switches, method):
            return None
        if self._window.count(now, switches.rate_limit_window) <= switches.rate_limit:
            return None
        return too_many(switches, now, left_s(now, switches.rate_limit_window))

    def tell(self, switches: RebillySwitches, method: str, answer: Answer) -> None:
        """What is left, in the answer's headers."""
        if self._counts(switches, method):
            answer.headers["x-ratelimit-limit"] = str(switches.rate_limit)
            answer.headers["x-ratelimit-remaining"] = str(max(0, switches.rate_limit - self._window.used))

    def _counts(self, switches: RebillySwitches, method: str) -> bool:
        return bool(switches.rate_limit) and (switches.rate_limit_reads or method not in READS)


def too_many(switches: RebillySwitches, now: float, ahead_s: float) -> Answer:
    """The 429 of who may come again so many seconds from now."""
    answer = Problem(429, "too many requests").answer()
    hint_retry(switches, now, answer, ahead_s)
    return answer


def hint_retry(switches: RebillySwitches, now: float, answer: Answer, ahead_s: float) -> None:
    """When to come again, as the switch says: a time stamp in seconds, not a number of seconds to wait."""
    kind = switches.rate_limit_retry_after
    if kind == "standard":
        answer.headers["retry-after"] = str(int(ahead_s))
    elif kind != "missing":
        moments = {"timestamp": now + ahead_s, "past": now - PAST_S, "far": now + FAR_S}
        answer.headers["x-ratelimit-retry-after"] = str(int(moments[kind])) if kind in moments else "later, please"
