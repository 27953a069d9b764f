"""Which figures there are, which of them a sweep's data supports, and the files they are written to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dyna_eval.errors import InputError, NothingToDrawError
from dyna_eval.plots import ablation, costs, curves, drafts, look, paired
from dyna_eval.reports.cells import pair_slugs, slug, sweep_numbers
from dyna_eval.reports.report import Report, Row
from dyna_eval.series.costs import cost_chart, phase_bars
from dyna_eval.series.drafts import depth_rates, tree_sizes
from dyna_eval.series.measured import Measured
from dyna_eval.series.paired import paired_speedups
from dyna_eval.series.parameters import span, spans_by_default
from dyna_eval.series.swept import Measure, curve_chart, heat_map
from dyna_eval.wording import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RoundsByNodes = Mapping[int, Mapping[int, int]]
"""The number of rounds by job and by verified nodes, as `Store.tree_sizes` returns it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Which figures to draw, and how. No names are all that the data supports."""

    names: tuple[str, ...] = ()
    x: str | None = None
    curves: tuple[str, ...] = ()
    row: str | None = None
    column: str | None = None
    measure: Measure = Measure.SPEEDUP
    heat: tuple[str, str] | None = None
    phases_as_shares: bool = False

    def wants(self, name: str) -> bool:
        return not self.names or name in self.names


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A figure whose data is ready. `stem` is its files' name without ending, `title` their metadata's."""

    stem: str
    title: str
    draw: Callable[[], Figure]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    drawings: tuple[Drawing, ...]
    left_out: tuple[str, ...]
    """What is not drawn, and why; whole sentences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    measured: Measured
    wish: Wish
    sizes: RoundsByNodes
    pair: str

    @property
    def report(self) -> Report:
        return self.measured.report

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows to span a figure by parameters over: the pair's, or all where pairs span it too."""
        wish = self.wish
        chosen = (wish.x, *wish.curves, wish.row, wish.column, *(wish.heat or ()))
        return self.report.rows if "pair" in chosen else self.report.rows_of(self.pair)


def plan(measured: Measured, wish: Wish, sizes: RoundsByNodes) -> Plan:
    """Prepare the data of all wished figures; nothing is drawn or written yet.

    Raises InputError for an unknown parameter, and NothingToDrawError where a figure that was named, or all
    of them, have no data.
    """
    if not any(row.figures for row in measured.report.rows):
        name = measured.report.name
        raise NothingToDrawError(f"sweep {name!r} has no finished row, so there is nothing to draw yet")
    drawings: dict[str, Drawing] = {}
    left_out: list[str] = []
    slugs = pair_slugs(measured.report)
    for name in filter(wish.wants, FIGURES):
        drawn = len(drawings)
        reasons = []
        for pair in measured.report.pairs:
            request = _Request(measured=measured, wish=wish, sizes=sizes, pair=pair)
            try:
                if not measured.finished(pair):
                    raise NothingToDrawError("there is no finished row")
                for drawing in FIGURES[name](request, slugs[pair]):
                    drawings.setdefault(drawing.stem, drawing)
            except NothingToDrawError as error:
                where = f" of pair {one_line(pair)}" if len(measured.report.pairs) > 1 else ""
                reasons.append(f"left out {name}{where}: {error}")
        if name in wish.names and len(drawings) == drawn:
            raise NothingToDrawError(f"cannot draw {reasons[0].removeprefix('left out ')}")
        left_out += reasons
    return Plan(drawings=tuple(drawings.values()), left_out=tuple(left_out))


def write(drawings: Sequence[Drawing], report: Report, directory: Path) -> Iterator[tuple[Path, ...]]:
    """Write figures into a folder, and yield the files of each as soon as they are there.

    Raises InputError where the folder cannot be written, or matplotlib not be loaded.
    """
    look.require_matplotlib()
    origin = f"{sweep_numbers(report)} '{one_line(report.name)}', digest {report.digest}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for drawing in drawings:
            stem = directory / drawing.stem
            yield tuple(look.save(drawing.draw, stem, title=drawing.title, origin=origin))
    except OSError as error:
        raise InputError(f"{directory}: cannot write figures there: {error.strerror}") from error


def ablation_bars(report: Report, directory: Path) -> list[Path]:
    """Write the bar chart of every pair that has a finished row, and return the files.

    Raises InputError if there is none, or if the directory cannot be written.
    """
    prepared = plan(Measured(report=report), Wish(names=("ablation",)), {})
    return [path for paths in write(prepared.drawings, report, directory) for path in paths]


# ------------------------------------------------------------------- the figures


def _ablation(request: _Request, pair_slug: str) -> Iterator[Drawing]:
    rows = request.report.rows_of(request.pair)
    yield _drawing(
        "ablation", pair_slug, "Throughput per step", request, partial(ablation.draw, rows, request.report)
    )


def _curves(request: _Request, pair_slug: str) -> Iterator[Drawing]:
    wish, rows = request.wish, request.rows
    known = [row for row in rows if row.figures is not None]
    is_spanned = wish.x or wish.curves or wish.row or wish.column
    axes = (wish.x,) if is_spanned else spans_by_default(known)
    if not axes:
        raise NothingToDrawError("no method has a parameter that takes several values")
    for x in axes:
        spanned = span(
            known, x=x, curves=wish.curves, row=wish.row, column=wish.column, among=request.report.rows
        )
        chart = curve_chart(request.measured, rows, spanned, wish.measure)
        by = slug(" ".join(spanned.names[1:]))
        stem = f"curves-{wish.measure}-{slug(spanned.x)}" + (f"-by-{by}" if by else "")
        title = f"{wish.measure.capitalize()} by {', '.join(spanned.names)}"
        own_slug = "" if "pair" in spanned.names else pair_slug
        yield _drawing(stem, own_slug, title, request, partial(curves.draw_curves, chart, request.report))


def _heat(request: _Request, pair_slug: str) -> Iterator[Drawing]:
    wish = request.wish
    heat = heat_map(request.measured, request.rows, wish.heat, wish.measure)
    names = (heat.x.name, heat.y.name)
    stem = f"heat-{wish.measure}-{slug(' '.join(names))}"
    title = f"{wish.measure.capitalize()} over {' and '.join(names)}"
    own_slug = "" if "pair" in names else pair_slug
    yield _drawing(stem, own_slug, title, request, partial(curves.draw_heat, heat, request.report))


def _cost(request: _Request, pair_slug: str) -> Iterator[Drawing]:
    chart = cost_chart(request.measured, request.pair)
    draw = partial(costs.draw_cost, chart, request.report)
    yield _drawing("cost-model", pair_slug, "Speedup against acceptance length", request, draw)


def _phases(request: _Request, pair_slug: str) -> Iterator[Drawing]:
    shares = request.wish.phases_as_shares
    bars = phase_bars(request.measured, request.pair)
    draw = partial(costs.draw_phases, bars, request.report, as_shares=shares)
    title = "Shares of decode time" if shares else "Decode time per token"
    yield _drawing("phases-share" if shares else "phases", pair_slug, title, request, draw)


def _depth(request: _Request, pair_slug: str) -> Iterator[Drawing]:
    rates = depth_rates(request.measured, request.pair)
    draw = partial(drafts.draw_depths, rates, request.report)
    yield _drawing("depth", pair_slug, "Acceptance by depth", request, draw)


def _tree_size(request: _Request, pair_slug: str) -> Iterator[Drawing]:
    sizes = tree_sizes(request.measured, request.pair, request.sizes)
    draw = partial(drafts.draw_tree_sizes, sizes, request.report)
    yield _drawing("tree-size", pair_slug, "Draft nodes verified per round", request, draw)


def _prompts(request: _Request, pair_slug: str) -> Iterator[Drawing]:
    rows = paired_speedups(request.measured, request.pair)
    draw = partial(paired.draw_paired, rows, request.report)
    yield _drawing("prompts", pair_slug, "Speedup of each prompt", request, draw)


def _drawing(stem: str, pair_slug: str, title: str, request: _Request, draw: Callable[[], Figure]) -> Drawing:
    whole = f"{stem}-{pair_slug}" if pair_slug else stem
    return Drawing(stem=whole, title=f"{title}: {one_line(request.pair)}", draw=draw)


FIGURES: Mapping[str, Callable[[_Request, str], Iterator[Drawing]]] = {
    "ablation": _ablation,
    "curves": _curves,
    "heat": _heat,
    "cost-model": _cost,
    "phases": _phases,
    "depth": _depth,
    "tree-size": _tree_size,
    "prompts": _prompts,
}
