"""What the tests of observability share: a clock that stands still, a small vocabulary, a reader of `/metrics`."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from bridge.observability.families import Vocabulary
from bridge.observability.metrics import Metrics

VOCABULARY = Vocabulary(
    sources=frozenset({"acme", "globex"}),
    endpoints=frozenset({"GET /customers", "GET /customers/{id}"}),
    event_types=frozenset({"bridge.customer.created.v1", "bridge.customer.updated.v1"}),
    reasons=frozenset({"malformed", "too_large"}),
    mirrors=frozenset({"vip"}),
)

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


class StandingClock:
    """Time moves only when the test says so."""

    def __init__(self, wall: float = 1_800_000_000.0) -> None:
        self._wall = wall
        self._monotonic = 0.0

    def wall(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self._wall += seconds
        self._monotonic += seconds

    def step(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self._wall += seconds


def build_metrics(clock: StandingClock | None = None) -> Metrics:
    return Metrics(clock or StandingClock(), VOCABULARY, "1.2.3")


def series_of(metrics: Metrics) -> Series:
    """Every series with its value, as a scraper sees it."""
    text = metrics.render()[1].decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value_of(metrics: Metrics, name: str, **labels: str) -> float | None:
    return series_of(metrics).get((name, frozenset(labels.items())))
