"""Cells: the numbers behind the series of one instrument with labels.

Every source has some fifty series. As children of the metrics library they take 25 KiB per source, most of it locks
and dictionaries that are of no use on one event loop; a cell is its number. Written by the loop only; `collect` may
run in a thread beside it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence, Set
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

OTHER = "other"
"""Stands for every label value that is not declared."""


class Number:
    """The value of a counter or a gauge."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount

    def set(self, value: float) -> None:
        self.value = float(value)


class Buckets:
    """The value of a histogram. bounds: upper ones, ascending; what is above the last is counted too."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


Cell = TypeVar("Cell", Number, Buckets)


class Family(Collector, Generic[Cell]):
    """The cells of one instrument by label values; holds declared values only."""

    def __init__(
        self,
        make: Callable[[], Cell],
        write: Callable[[list[tuple[tuple[str, ...], Cell]]], Metric],
        allowed: tuple[frozenset[str], ...],
    ) -> None:
        """`make` a new cell; `write` them all as the library's family; `allowed` values of each label."""
        self._make: Callable[[], Cell] = make
        self._write: Callable[[list[tuple[tuple[str, ...], Cell]]], Metric] = write
        self._allowed = allowed
        self._cells: dict[tuple[str, ...], Cell] = {}

    def at(self, *values: str) -> Cell:
        """The cell of these values; each undeclared one counts as `other`."""
        cell = self._cells.get(values)
        return cell if cell is not None else self._bounded(values)

    def drop(self, sources: Set[str]) -> None:
        """Forget all cells whose first label is one of these; looks at every cell once."""
        for values in [values for values in self._cells if values[0] in sources]:
            del self._cells[values]

    def collect(self) -> Iterator[Metric]:
        """For the library's registry."""
        yield self._write(list(self._cells.items()))

    def _bounded(self, values: tuple[str, ...]) -> Cell:
        known = tuple(
            str(value) if value in allowed else OTHER for value, allowed in zip(values, self._allowed, strict=True)
        )
        cell = self._cells.get(known)
        if cell is None:
            cell = self._cells[known] = self._make()
        return cell


Allowed = tuple[frozenset[str], ...]


def counters(name: str, help_: str, labels: Sequence[str], allowed: Allowed) -> Family[Number]:
    """`name` ends with `_total`, as the series do."""

    def write(cells: list[tuple[tuple[str, ...], Number]]) -> Metric:
        family = CounterMetricFamily(name, help_, labels=labels)
        for values, cell in cells:
            family.add_metric(values, cell.value)
        return family

    return Family(Number, write, allowed)


def gauges(name: str, help_: str, labels: Sequence[str], allowed: Allowed) -> Family[Number]:
    """Numbers that may also fall."""

    def write(cells: list[tuple[tuple[str, ...], Number]]) -> Metric:
        family = GaugeMetricFamily(name, help_, labels=labels)
        for values, cell in cells:
            family.add_metric(values, cell.value)
        return family

    return Family(Number, write, allowed)


def histograms(
    name: str, help_: str, bounds: Sequence[float], labels: Sequence[str], allowed: Allowed
) -> Family[Buckets]:
    """One set of bounds for all."""
    names = [*map(floatToGoString, bounds), "+Inf"]

    def write(cells: list[tuple[tuple[str, ...], Buckets]]) -> Metric:
        family = HistogramMetricFamily(name, help_, labels=labels)
        for values, cell in cells:
            cumulated = accumulate(list(cell.counts))
            family.add_metric(values, list(zip(names, cumulated, strict=True)), cell.sum)
        return family

    return Family(lambda: Buckets(bounds), write, allowed)
