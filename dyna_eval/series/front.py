"""A measure against peak memory, and each pair's front of the rows that no other row beats in both."""

from __future__ import annotations

from dataclasses import dataclass

from dyna_eval.errors import NothingToDrawError
from dyna_eval.series.measured import Entry, Estimate, Measured
from dyna_eval.series.swept import Measure, estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPoint:
    memory_bytes: int
    y: Estimate
    entry: Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFront:
    """Of one pair: rows of another one decode other models or prompts, and are no alternative."""

    pair: str
    points: tuple[MemoryPoint, ...]
    """By ascending memory."""
    front: tuple[MemoryPoint, ...]
    """The points not in doubt, each better than all of less memory."""


def memory_fronts(measured: Measured, measure: Measure) -> tuple[MemoryFront, ...]:
    """Return each pair's measure over its peak memory; raises NothingToDrawError where no row has both."""
    found = (_front(measured, pair, measure) for pair in measured.report.pairs)
    fronts = tuple(front for front in found if front.points)
    if not fronts:
        raise NothingToDrawError(f"no row has both a {measure} and a peak memory")
    return fronts


def _front(measured: Measured, pair: str, measure: Measure) -> MemoryFront:
    sign = -1.0 if measure.less_is_better else 1.0
    points = [
        MemoryPoint(memory_bytes=row.peak_memory_bytes, y=y, entry=Entry.of(row, timed=measure.is_timed))
        for row in measured.report.rows_of(pair)
        if row.peak_memory_bytes is not None and (y := estimate(measured, row, measure)) is not None
    ]
    points.sort(key=lambda point: (point.memory_bytes, -sign * point.y.value))
    front: list[MemoryPoint] = []
    for point in points:
        if point.entry.doubt:
            continue
        if not front or sign * point.y.value > sign * front[-1].y.value:
            front.append(point)
    return MemoryFront(pair=pair, points=tuple(points), front=tuple(front))
