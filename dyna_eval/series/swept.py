"""A measure against swept parameters: curves in panels, and heat maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dyna_eval.errors import InputError, NothingToDrawError
from dyna_eval.jobs import Scalar
from dyna_eval.reports.claims import is_drawn_slower
from dyna_eval.reports.report import Row, baseline_of
from dyna_eval.reports.statistics import Figures
from dyna_eval.series.measured import Entry, Estimate, Measured
from dyna_eval.series.parameters import (
    Parameter,
    Span,
    independent,
    require_swept,
    separate,
    swept,
    taking_part,
    value_of,
    value_text,
)
from dyna_eval.wording import one_line


class Measure(StrEnum):
    """What is measured of a row."""

    THROUGHPUT = "throughput"
    SPEEDUP = "speedup"
    ACCEPTANCE = "acceptance"
    DRAFT_RATE = "draft-rate"
    TREE_NODES = "tree-nodes"
    EXACT = "exact"
    TTFT = "ttft"

    @property
    def less_is_better(self) -> bool:
        return self is Measure.TTFT

    @property
    def is_timed(self) -> bool:
        """Whether it is a time or a speed, and no count."""
        return self in (Measure.THROUGHPUT, Measure.SPEEDUP, Measure.TTFT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    x: Scalar
    y: Estimate
    entry: Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Points by ascending x; only over methods may several share an x.

    `name` tells the parameters that all of them share: `B = 2, τ = 0.05`.
    """

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    row: str
    """What its row of panels has in common; empty where there is one row."""
    column: str
    curves: tuple[Curve, ...]
    baseline: Estimate | None
    """Of the pair's baseline; None where several pairs share the panel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveChart:
    measure: Measure
    x: Parameter
    span: Span
    panels: tuple[Panel, ...]
    """Row by row, without those that no row of the sweep belongs to."""
    columns: int
    """How many panels make a row; all of them where some are missing."""
    left_out: tuple[str, ...]
    """Labels of the rows whose method does not sweep x."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all curves, in order."""
        return tuple(dict.fromkeys(curve.name for panel in self.panels for curve in panel.curves))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    x: Scalar
    y: Scalar
    value: Estimate
    entry: Entry
    is_slower: bool
    """Whether a figure may call the row slower than its pair's baseline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatPanel:
    name: str
    """The parameters beside x and y that all its cells share; empty where there are none."""
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    measure: Measure
    x: Parameter
    y: Parameter
    panels: tuple[HeatPanel, ...]
    left_out: tuple[str, ...]
    """Labels of the rows that do not sweep both, are alone in what else they have, or repeat another row."""


def estimate(measured: Measured, row: Row, measure: Measure) -> Estimate | None:
    """Return a row's measure; None where it is not known."""
    if row.figures is None:
        return None
    if measure is Measure.THROUGHPUT:
        return Estimate(value=row.figures.throughput.mean, interval=row.figures.throughput.interval)
    if measure is Measure.SPEEDUP:
        known = row.versus_baseline
        return Estimate(value=known.ratio, interval=row.speedup_interval) if known else None
    if measure is Measure.ACCEPTANCE:
        return acceptance_length(measured, row)
    value = _READ[measure](row.figures)
    return Estimate(value=value) if value is not None else None


_READ: dict[Measure, Callable[[Figures], float | None]] = {
    Measure.DRAFT_RATE: lambda figures: figures.acceptance.draft_rate,
    Measure.TREE_NODES: lambda figures: figures.acceptance.mean_tree_nodes,
    Measure.EXACT: lambda figures: figures.agreement.exact_match_rate,
    Measure.TTFT: lambda figures: figures.latency.ttft.p50 if figures.latency.ttft else None,
}
"""Measures that have no interval."""


def acceptance_length(measured: Measured, row: Row) -> Estimate | None:
    """Return a row's mean acceptance length, pooled over rounds; None where its rounds are unknown."""
    length = row.figures.acceptance.mean_length if row.figures else None
    if length is None:
        return None
    if row.figures and row.figures.acceptance.marginal_rates is None:
        return Estimate(value=length)  # 1 by definition
    interval = measured.interval_of_ratio(row, lambda s: s.column("tokens"), lambda s: s.column("rounds"))
    return Estimate(value=length, interval=interval)


def curve_chart(measured: Measured, rows: Sequence[Row], spanned: Span, measure: Measure) -> CurveChart:
    """Return a measure against the span's x. Rows that differ in more than the span tells get own curves."""
    known = [row for row in rows if estimate(measured, row, measure) is not None]
    part = taking_part(known, spanned.x)
    if not part:
        raise NothingToDrawError(f"no row that sweeps {spanned.x} has a {measure}")
    bases = {row.pair: row for row in known if row.is_baseline}
    panels: list[Panel] = []
    heads = [
        (down, across) for down in _values(part, spanned.row) for across in _values(part, spanned.column)
    ]
    for down, across in heads:
        own = [row for row in part if _has(row, spanned.row, down) and _has(row, spanned.column, across)]
        if not own:
            continue
        pairs = {row.pair for row in own}
        base = bases.get(next(iter(pairs))) if len(pairs) == 1 else None
        panels.append(
            Panel(
                row=_head(spanned.row, down),
                column=_head(spanned.column, across),
                curves=_curves(own, spanned, lambda row: _point(measured, row, spanned.x, measure)),
                baseline=estimate(measured, base, measure) if base else None,
            )
        )
    return CurveChart(
        measure=measure,
        x=Parameter.of(spanned.x, part),
        span=spanned,
        panels=tuple(panels),
        columns=len(_values(part, spanned.column)) if len(panels) == len(heads) else len(panels),
        left_out=_labels_beside(known, part),
    )


def heat_map(
    measured: Measured, rows: Sequence[Row], axes: tuple[str, str] | None, measure: Measure
) -> HeatMap:
    """Return a measure over two parameters, which are chosen unless given; others make panels.

    Raises InputError for axes that are not swept, NothingToDrawError where no two are.
    """
    known = [row for row in rows if estimate(measured, row, measure) is not None]
    x, y = axes or _axes_by_default(known)
    for name in (x, y):
        require_swept(name, swept(known))
    if x == y:
        raise InputError(f"a heat map needs two parameters, not {x!r} twice")
    of_y = {id(row) for row in taking_part(known, y)}
    part = [row for row in taking_part(known, x) if id(row) in of_y]
    if not part:
        raise NothingToDrawError(f"no method sweeps both {x} and {y}")
    names = separate(part, [x, y])[2:]
    panels: list[HeatPanel] = []
    drawn: list[Row] = []
    for values in dict.fromkeys(tuple(value_of(row, name) for name in names) for row in part):
        own = [row for row in part if tuple(value_of(row, name) for name in names) == values]
        placed = {(value_of(row, x), value_of(row, y)): row for row in reversed(own)}
        if min(len({place[axis] for place in placed}) for axis in (0, 1)) < 2:
            continue
        drawn += placed.values()
        cells = tuple(
            Cell(
                x=at_x,
                y=at_y,
                value=value,
                entry=Entry.of(row, timed=measure.is_timed),
                is_slower=_is_slower(measured, row),
            )
            for (at_x, at_y), row in reversed(placed.items())
            if (value := estimate(measured, row, measure)) is not None
        )
        panels.append(HeatPanel(name=_joined(names, values), cells=cells))
    if not panels:
        raise NothingToDrawError(f"no rows that agree in all else span {x} and {y}")
    return HeatMap(
        measure=measure,
        x=Parameter.of(x, drawn),
        y=Parameter.of(y, drawn),
        panels=tuple(panels),
        left_out=_labels_beside(known, drawn),
    )


def _is_slower(measured: Measured, row: Row) -> bool:
    base = baseline_of(measured.finished(row.pair))
    return base is not None and is_drawn_slower(row, base, row.versus_baseline)


def _axes_by_default(rows: Sequence[Row]) -> tuple[str, str]:
    """Return the two parameters of most values of the method that has most rows among those with two."""
    methods = dict.fromkeys(row.method for row in rows)
    grouped = sorted(
        ([row for row in rows if row.method is method] for method in methods), key=len, reverse=True
    )
    for own in grouped:
        names = [name for name in independent(own) if name not in ("method", "pair")]
        if len(names) > 1:
            counts = {name: len({value_of(row, name) for row in own}) for name in names}
            x, y = sorted(names, key=lambda name: counts[name], reverse=True)[:2]
            return x, y
    raise NothingToDrawError("no method has two parameters that take several values")


def _curves(rows: Sequence[Row], spanned: Span, point: Callable[[Row], Point | None]) -> tuple[Curve, ...]:
    further = () if spanned.x == "method" else separate(rows, spanned.names)[len(spanned.names) :]
    own = [*spanned.curves, *further]
    groups: dict[tuple[Scalar, ...], list[Point]] = {}
    ordered = sorted(rows, key=lambda row: [_order(value_of(row, name)) for name in (*own, spanned.x)])
    for row in ordered:
        known = point(row)
        if known is not None:
            groups.setdefault(tuple(value_of(row, name) for name in own), []).append(known)
    return tuple(Curve(name=_joined(own, values), points=tuple(found)) for values, found in groups.items())


def _point(measured: Measured, row: Row, x: str, measure: Measure) -> Point | None:
    y = estimate(measured, row, measure)
    if y is None:
        return None
    return Point(x=value_of(row, x), y=y, entry=Entry.of(row, timed=measure.is_timed))


def _values(rows: Sequence[Row], name: str | None) -> list[Scalar]:
    return sorted({value_of(row, name) for row in rows}, key=_order) if name else [None]


def _has(row: Row, name: str | None, value: Scalar) -> bool:
    return name is None or value_of(row, name) == value


def _head(name: str | None, value: Scalar) -> str:
    return one_line(value_text(name, value)) if name else ""


def _joined(names: Sequence[str], values: Sequence[Scalar]) -> str:
    return one_line(", ".join(value_text(name, value) for name, value in zip(names, values, strict=True)))


def _order(value: Scalar) -> tuple[int, float, str]:
    """Numbers ascending, then names, then what is not there."""
    if isinstance(value, int | float):
        return 0, float(value), ""
    return (2, 0.0, "") if value is None else (1, 0.0, str(value))


def _labels_beside(rows: Sequence[Row], part: Sequence[Row]) -> tuple[str, ...]:
    """Return the labels of the rows that take no part; the baseline is drawn as a line."""
    taken = {id(row) for row in part}
    return tuple(one_line(row.label) for row in rows if id(row) not in taken and not row.is_baseline)
