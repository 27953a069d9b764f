"""A measure against swept parameters: curves in panels, and heat maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from dyna_eval.errors import InputError, NothingToDrawError
from dyna_eval.jobs import Scalar
from dyna_eval.reports.claims import is_drawn_slower
from dyna_eval.reports.report import Report, Row, baseline_of
from dyna_eval.reports.statistics import Figures
from dyna_eval.series.measured import Entry, Estimate, Measured, Undrawn, baselines, doubts
from dyna_eval.series.parameters import (
    Parameter,
    Span,
    independent,
    require_swept,
    separate,
    taking_part,
    value_of,
    value_text,
    with_short_trees,
)
from dyna_eval.wording import one_line

REPEATED = "with the configuration of one that is drawn"
"""What notes say of the rows of `repeated`."""


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
    holes: tuple[Scalar, ...] = ()
    """Values of x whose rows belong to the curve and have no result."""

    @property
    def pieces(self) -> tuple[tuple[Point, ...], ...]:
        """The points in runs that a line may join: none crosses a hole."""
        pieces = [[point] for point in self.points[:1]]
        for before, point in pairwise(self.points):
            if any(_order(before.x) < _order(hole) < _order(point.x) for hole in self.holes):
                pieces.append([])
            pieces[-1].append(point)
        return tuple(map(tuple, pieces))


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
    repeated: tuple[str, ...]
    """Labels of the rows that are alike in all to one that is drawn, as those of a joined sweep may be."""
    undrawn: tuple[Undrawn, ...]
    """The rows that sweep x and have no result."""

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
    """Labels of the rows that do not sweep both, or are alone in what else they have."""
    repeated: tuple[str, ...]
    """Labels of the rows that are alike in all to one that is drawn, as those of a joined sweep may be."""
    undrawn: tuple[Undrawn, ...]
    """The rows that sweep both and have no result."""
    is_final: bool
    """Whether no row that sweeps both is queued or runs: one to come may be the highest."""


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
    rows = with_short_trees(rows, measured.report.rows)
    known = [row for row in rows if estimate(measured, row, measure) is not None]
    sweeping = taking_part(known, spanned.x)
    if not sweeping:
        raise NothingToDrawError(f"no row that sweeps {spanned.x} has a {measure}")
    lacking = _beside(taking_part(rows, spanned.x), known)
    part = sweeping if spanned.x == "method" else _unlike(sweeping, separate(sweeping, spanned.names))
    bases = {row.pair: row for row in known if row.is_baseline}
    panels: list[Panel] = []
    heads = [
        (down, across) for down in _values(part, spanned.row) for across in _values(part, spanned.column)
    ]
    for down, across in heads:
        own, own_lacking = (
            [row for row in some if _has(row, spanned.row, down) and _has(row, spanned.column, across)]
            for some in (part, lacking)
        )
        if not own:
            continue
        pairs = {row.pair for row in own}
        base = bases.get(next(iter(pairs))) if len(pairs) == 1 else None
        panels.append(
            Panel(
                row=_head(spanned.row, down),
                column=_head(spanned.column, across),
                curves=_curves(
                    own, own_lacking, spanned, lambda row: _point(measured, row, spanned.x, measure)
                ),
                baseline=estimate(measured, base, measure) if base else None,
            )
        )
    return CurveChart(
        measure=measure,
        x=Parameter.of(spanned.x, part),
        span=spanned,
        panels=tuple(panels),
        columns=len(_values(part, spanned.column)) if len(panels) == len(heads) else len(panels),
        left_out=_labels(_beside(known, sweeping)),
        repeated=_labels(_beside(sweeping, part)),
        undrawn=_undrawn(lacking, measure),
    )


def heat_map(
    measured: Measured, rows: Sequence[Row], axes: tuple[str, str] | None, measure: Measure
) -> HeatMap:
    """Return a measure over two parameters, which are chosen unless given; others make panels.

    Raises InputError for axes that are not swept, NothingToDrawError where no two are.
    """
    every = with_short_trees(measured.report.rows)
    rows = with_short_trees(rows, measured.report.rows)
    known = [row for row in rows if estimate(measured, row, measure) is not None]
    if not known:
        raise NothingToDrawError(f"no row has a {measure}")
    x, y = axes or _axes_by_default(known)
    for name in (x, y):
        require_swept(name, known, every)
    if x == y:
        raise InputError(f"a heat map needs two parameters, not {x!r} twice")
    part, expected = (_sweeping(some, x, y) for some in (known, rows))
    if not part:
        raise NothingToDrawError(f"no method sweeps both {x} and {y}")
    names = separate(part, [x, y])[2:]
    panels: list[HeatPanel] = []
    drawn: list[Row] = []
    repeated: list[Row] = []
    for values in dict.fromkeys(tuple(value_of(row, name) for name in names) for row in part):
        own = [row for row in part if tuple(value_of(row, name) for name in names) == values]
        placed = {(value_of(row, x), value_of(row, y)): row for row in _unlike(own, (x, y))}
        if min(len({place[axis] for place in placed}) for axis in (0, 1)) < 2:
            continue
        drawn += placed.values()
        repeated += _beside(own, list(placed.values()))
        cells = tuple(
            Cell(
                x=at_x,
                y=at_y,
                value=value,
                entry=Entry.of(row, timed=measure.is_timed),
                is_slower=_is_slower(measured, row),
            )
            for (at_x, at_y), row in placed.items()
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
        left_out=_labels(_beside(known, [*drawn, *repeated])),
        repeated=_labels(repeated),
        undrawn=_undrawn(_beside(expected, known), measure),
        is_final=not any(row.state.is_to_come for row in expected),
    )


def doubts_about(
    measure: Measure, report: Report, entries: Iterable[Entry], *, with_line: bool = False
) -> list[str]:
    """Say which rows of a figure of a measure are in doubt, and why.

    The baseline is named where the figure is of speedups, which are over it, or shows it as a dashed line.
    """
    entries = list(entries)
    if measure is Measure.SPEEDUP:
        return doubts(entries, baselines(report, entries))
    if with_line:
        return doubts(entries, baselines(report, entries, timed=measure.is_timed), role="the dashed line")
    return doubts(entries)


def _sweeping(rows: Sequence[Row], x: str, y: str) -> list[Row]:
    of_y = {id(row) for row in taking_part(rows, y)}
    return [row for row in taking_part(rows, x) if id(row) in of_y]


def _unlike(rows: Sequence[Row], names: Sequence[str]) -> tuple[Row, ...]:
    """Return the first row of each combination of values."""
    found: dict[tuple[Scalar, ...], Row] = {}
    for row in rows:
        found.setdefault(tuple(value_of(row, name) for name in names), row)
    return tuple(found.values())


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


def _curves(
    rows: Sequence[Row], lacking: Sequence[Row], spanned: Span, point: Callable[[Row], Point | None]
) -> tuple[Curve, ...]:
    """Return the curves of a panel; `lacking` are those of its rows that have no result."""
    names = spanned.names if spanned.x == "method" else separate([*rows, *lacking], spanned.names)
    own = [*spanned.curves, *names[len(spanned.names) :]]

    def values(row: Row) -> tuple[Scalar, ...]:
        return tuple(value_of(row, name) for name in own)

    groups: dict[tuple[Scalar, ...], list[Point]] = {}
    ordered = sorted(rows, key=lambda row: [_order(value_of(row, name)) for name in (*own, spanned.x)])
    for row in ordered:
        known = point(row)
        if known is not None:
            groups.setdefault(values(row), []).append(known)
    holes: dict[tuple[Scalar, ...], list[Scalar]] = {}
    for row in lacking:
        holes.setdefault(values(row), []).append(value_of(row, spanned.x))
    return tuple(
        Curve(name=_joined(own, shared), points=tuple(found), holes=tuple(holes.get(shared, ())))
        for shared, found in groups.items()
    )


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


def _beside(rows: Sequence[Row], part: Sequence[Row]) -> list[Row]:
    """Return the rows that are not among some of them."""
    taken = {id(row) for row in part}
    return [row for row in rows if id(row) not in taken]


def _labels(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return labels; without the baseline's, which is drawn as a line."""
    return tuple(one_line(row.label) for row in rows if not row.is_baseline)


def _undrawn(rows: Sequence[Row], measure: Measure) -> tuple[Undrawn, ...]:
    return tuple(Undrawn.of(row, f"{measure} unknown") for row in rows)
