"""A measure against peak memory, and the front of the rows that no other row beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dyna_eval.errors import NothingToDrawError
from dyna_eval.reports.report import Row
from dyna_eval.series.measured import Entry, Estimate, Measured
from dyna_eval.series.swept import Measure, estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPoint:
    memory_bytes: int
    y: Estimate
    entry: Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFront:
    measure: Measure
    points: tuple[MemoryPoint, ...]
    """By ascending memory."""
    front: tuple[MemoryPoint, ...]
    """The points than which none has less memory and is better, each better than the one before."""


def memory_front(measured: Measured, rows: Sequence[Row], measure: Measure) -> MemoryFront:
    """Return a measure over the peak memory; raises NothingToDrawError where no row has both."""
    sign = -1.0 if measure.less_is_better else 1.0
    points = [
        MemoryPoint(memory_bytes=row.peak_memory_bytes, y=y, entry=Entry.of(row, timed=measure.is_timed))
        for row in rows
        if row.peak_memory_bytes is not None and (y := estimate(measured, row, measure)) is not None
    ]
    if not points:
        raise NothingToDrawError(f"no row has both a {measure} and a peak memory")
    points.sort(key=lambda point: (point.memory_bytes, -sign * point.y.value))
    front: list[MemoryPoint] = []
    for point in points:
        if not front or sign * point.y.value > sign * front[-1].y.value:
            front.append(point)
    return MemoryFront(measure=measure, points=tuple(points), front=tuple(front))
