"""Cells against the metrics library itself: the same calls give the same text, at a fraction of the memory."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from bridge.observability.cells import counters, gauges, histograms

BOUNDS = (0.1, 1, 2.5, 30)
LABELS = ("source", "path")
ALLOWED = (frozenset({"acme", "globex"}), frozenset({"poll", "sweep"}))

VALUES = st.lists(
    st.tuples(
        st.sampled_from(["acme", "globex"]),
        st.sampled_from(["poll", "sweep"]),
        st.sampled_from([0.0, *BOUNDS, 31.0]) | st.floats(0, 1e6),
    ),
    min_size=1,
)


def text_of(*collectors: Any) -> list[str]:
    """Sorted, because a child's place depends on when it was made; without the library's `_created` series."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return sorted(line for line in generate_latest(registry).decode().splitlines() if "_created" not in line)


@given(VALUES)
def test_the_text_is_the_same_as_the_librarys(values: list[tuple[str, str, float]]) -> None:
    theirs = (
        Counter("c_total", "A counter.", LABELS, registry=None),
        Gauge("g", "A gauge.", LABELS, registry=None),
        Histogram("h_seconds", "A histogram.", LABELS, buckets=BOUNDS, registry=None),
    )
    ours = (
        counters("c_total", "A counter.", LABELS, ALLOWED),
        gauges("g", "A gauge.", LABELS, ALLOWED),
        histograms("h_seconds", "A histogram.", BOUNDS, LABELS, ALLOWED),
    )
    for source, path, value in values:
        theirs[0].labels(source, path).inc(value)
        theirs[1].labels(source, path).set(value)
        theirs[2].labels(source, path).observe(value)
        ours[0].at(source, path).inc(value)
        ours[1].at(source, path).set(value)
        ours[2].at(source, path).observe(value)
    assert text_of(*ours) == text_of(*theirs)
