"""Where time goes, and what the cost model makes of acceptance."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

from dyna_eval.plots import look
from dyna_eval.plots.look import BODY, GREY, INK, TINY
from dyna_eval.reports.cells import method_name
from dyna_eval.reports.intervals import Interval
from dyna_eval.reports.report import Report
from dyna_eval.series.costs import (
    PHASE_NAMES,
    PHASES,
    CostChart,
    CostPoint,
    PhaseBar,
    why_no_bar,
    why_no_point,
)
from dyna_eval.series.measured import CUT_OFF, Estimate, baselines, doubts, top_of, undrawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

PHASE_STYLES = {
    "draft": ("#E3C77B", ""),
    "grow": ("#7A4B8C", "...."),
    "verify": ("#7DB3D9", "////"),
    "walk": ("#1F5F4A", ""),
    "host": ("#C9C9C9", "\\\\\\\\"),
}
"""Colour and hatch of each phase; light and dark take turns where phases touch."""
_NAMED = 8  # points that carry their label; more carry their step's number, with a key below
_KEY_COLUMNS = 2
_SIDES = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
"""Where a label may stand beside its point, the best first: (right, up)."""
_RADII = (5.0, 9.0, 14.0, 20.0, 28.0, 40.0)  # points, in which a label looks for free room
_FAR = 8.0  # points from which a line joins a label with its point
_LEGEND_INCHES = 0.35
_THIN = 0.006  # of the axis; a phase that is thinner in every bar cannot be seen
_SQUEEZED = (
    2.5  # times the second longest bar: from there on the longest is cut, so that the others can be read
)


# ---------------------------------------------------------------------- cost model


def draw_cost(chart: CostChart, report: Report) -> Figure:
    """Return the scatter of speedup over acceptance length, with the cost model's line and predictions."""
    numbered = len(chart.points) > _NAMED
    figure, axes = _cost_figure(chart.points, numbered=numbered)
    axes.axhline(1.0, **look.BASELINE)
    methods = list(dict.fromkeys(point.entry.method for point in chart.points))
    colors = look.series_colors(len(methods), ordered=False)
    for index, (method, color) in enumerate(zip(methods, colors, strict=True)):
        own = [point for point in chart.points if point.entry.method is method]
        marker = look.MARKERS[index % len(look.MARKERS)]
        _draw_points(axes, own, color, marker, method_name(method), many=numbered)
    if chart.line:
        axes.plot(*zip(*chart.line, strict=True), color=INK, linewidth=1.0, zorder=1.5, label="_line")
    cut = _limit_cost(axes, chart.points)
    if len(methods) > 1:
        figure.legend(
            loc="outside upper center",
            ncols=max(1, min(len(methods), int(figure.get_figwidth() / 1.15))),
            fontsize=TINY + 0.5,
            frameon=False,
            handletextpad=0.3,
            columnspacing=1.0,
        )
    _label_points(figure, axes, chart, numbered=numbered)
    entries = [point.entry for point in chart.points]
    notes = [
        *_explained(chart),
        look.intervals_note(report, [p.speedup for p in chart.points]),
        CUT_OFF if cut else "",
        look.undrawn_note(undrawn(report, entries, why_no_point)),
    ]
    look.write_note(figure, [*notes, *doubts(entries, over=baselines(report, entries))])
    return figure


def _cost_figure(points: Sequence[CostPoint], *, numbered: bool) -> tuple[Figure, Axes]:
    """Return the axes; where points are numbered, over a key to the numbers."""
    lines = -(-len(points) // _KEY_COLUMNS) if numbered else 0
    width, key_height = 5.2 if numbered else look.COLUMN, 0.125 * lines
    figure = look.new_figure(width, (3.9 if numbered else 3.1) + key_height)
    if numbered:
        axes, key = figure.subplots(
            2, 1, gridspec_kw={"height_ratios": [figure.get_figheight() - key_height, key_height + 0.01]}
        )
        _write_key(key, points, lines, width)
    else:
        axes = figure.add_subplot()
    look.dress(axes, grid="both")
    axes.set_xlabel("Acceptance length (tokens/round)")
    axes.set_ylabel("Speedup (×)")
    return figure, axes


def _limit_cost(axes: Axes, points: Sequence[CostPoint]) -> bool:
    """Let all points and predictions be seen; return whether an interval is cut off."""
    end, is_length_cut = top_of([point.length for point in points])
    axes.set_xlim(max(0.0, min(0.9, min(p.length.low for p in points) - 0.1)), end)
    top, is_speedup_cut = top_of([point.speedup for point in points])
    lowest = min(min(point.speedup.low, point.predicted or 1.0) for point in points)
    highest = max(top, *(1.06 * (point.predicted or 0.0) for point in points))
    axes.set_ylim(max(0.0, 0.9 * lowest - 0.1), highest)
    return is_length_cut or is_speedup_cut


def _explained(chart: CostChart) -> list[str]:
    texts = []
    if chart.line:
        texts.append("Line: the cost model if every draft token of a chain were accepted.")
    if any(_is_predicted(point) for point in chart.points):
        texts.append("Open: predicted from measured acceptance and calibrated costs.")
    return texts


def _is_predicted(point: CostPoint) -> bool:
    return point.predicted is not None and point.length.value > 1.0


def _draw_points(
    axes: Axes, points: Sequence[CostPoint], color: str, marker: str, name: str, *, many: bool
) -> None:
    faint = {"capsize": 1.4, "alpha": 0.4 if many else 0.6, "linewidth": 0.5 if many else 0.8}
    for point in points:
        x, y = point.length.value, point.speedup.value
        for along, known in (("y", point.speedup), ("x", point.length)):
            look.whisker(axes, x, y, known, along=along, color=color, zorder=2, **faint)
        if point.predicted is not None and _is_predicted(point):
            axes.plot(
                [x, x], [y, point.predicted], color=color, linewidth=0.6, linestyle=(0, (1, 1)), zorder=2
            )
            axes.plot(
                x, point.predicted, marker, color=color, markerfacecolor="white", markersize=3.6, zorder=3
            )
    axes.plot(
        [point.length.value for point in points],
        [point.speedup.value for point in points],
        marker,
        color=color,
        markersize=4.6,
        markeredgecolor="white",
        markeredgewidth=0.4,
        zorder=5,
        label=name,
    )


def _label_points(figure: Figure, axes: Axes, chart: CostChart, *, numbered: bool) -> None:
    """Write a label at each point where there is room, further away on a thin line where there is none."""
    from matplotlib.patheffects import withStroke  # noqa: PLC0415

    figure.draw_without_rendering()
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    taken, lines = _boxes_of_points(axes, chart.points, figure.dpi), _boxes_of_lines(axes, chart)
    entries = [point.entry for point in chart.points]
    texts = [f"{one.step}{one.star}" for one in entries] if numbered else look.row_labels(entries, 20)
    for point, text in zip(chart.points, texts, strict=True):
        at = (point.length.value, point.speedup.value)
        label = axes.annotate(
            text,
            at,
            xytext=(0, 0),
            textcoords="offset points",
            horizontalalignment="center",
            verticalalignment="center",
            fontsize=TINY if numbered else TINY + 0.5,
            color=INK,
            zorder=6,
            path_effects=[withStroke(linewidth=1.6, foreground="white")],
            parse_math=False,
        )
        box = label.get_window_extent()
        dots = figure.dpi / 72
        moved = _free_place(box, taken, lines, axes.get_window_extent(), dots)
        label.set_position(moved)
        taken.append(box.translated(moved[0] * dots, moved[1] * dots).padded(0.8 * dots))
        gaps = abs(moved[0]) - box.width / dots / 2, abs(moved[1]) - box.height / dots / 2
        if max(gaps) > _FAR:
            axes.annotate(
                "",
                at,
                xytext=moved,
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": GREY, "shrinkA": 5, "shrinkB": 2},
            )


def _boxes_of_points(axes: Axes, points: Sequence[CostPoint], dpi: float) -> list[Bbox]:
    """Return where points and predictions stand, which no label should cover."""
    from matplotlib.transforms import Bbox  # noqa: PLC0415

    reach = 3.0 * dpi / 72
    heights = [point.speedup.value for point in points]
    heights += [point.predicted for point in points if point.predicted is not None and _is_predicted(point)]
    lengths = [point.length.value for point in points]
    lengths += [point.length.value for point in points if _is_predicted(point)]
    centres = axes.transData.transform(list(zip(lengths, heights, strict=True)))
    return [Bbox.from_bounds(x - reach, y - reach, 2 * reach, 2 * reach) for x, y in centres]


def _boxes_of_lines(axes: Axes, chart: CostChart) -> list[Bbox]:
    """Return where whiskers, the baseline and the model's line run, which labels cover where they must."""
    from matplotlib.transforms import Bbox  # noqa: PLC0415

    segments = [((axes.get_xlim()[0], 1.0), (axes.get_xlim()[1], 1.0)), *pairwise(chart.line)]
    for point in chart.points:
        x, y = point.length.value, point.speedup.value
        ends = [point.speedup.low, point.speedup.high, point.predicted if _is_predicted(point) else None]
        heights = [end for end in ends if end is not None]
        segments.append(((x, min(heights)), (x, max(heights))))
        segments.append(((point.length.low, y), (point.length.high, y)))
    return [Bbox(axes.transData.transform(ends)).padded(1.5) for ends in segments]


def _free_place(
    box: Bbox, taken: Sequence[Bbox], lines: Sequence[Bbox], bounds: Bbox, dots: float
) -> tuple[float, float]:
    """Return the first offset, in points, at which a label covers nothing; else that which covers least.

    Points, and labels that are already there, count far more than lines.
    """
    best, least = (0.0, _RADII[0]), float("inf")
    for radius, (across, up) in product(_RADII, _SIDES):
        reach = radius if 0 in (across, up) else 0.7 * radius
        x = across * (reach + box.width / dots / 2)
        y = up * (reach + box.height / dots / 2)
        moved = box.translated(x * dots, y * dots)
        inside = (
            bounds.x0 < moved.x0 and moved.x1 < bounds.x1 and bounds.y0 < moved.y0 and moved.y1 < bounds.y1
        )
        covered = 10 * moved.count_overlaps(taken) + moved.count_overlaps(lines) + (0 if inside else 50)
        if covered < least:
            best, least = (x, y), covered
        if not covered:
            break
    return best


def _write_key(axes: Axes, points: Sequence[CostPoint], lines: int, width: float) -> None:
    axes.set_axis_off()
    room = look.characters(width / _KEY_COLUMNS - 0.25, TINY)
    for index, point in enumerate(points):
        column, line = divmod(index, lines)
        text = look.wrapped(point.entry.label, room, 1) + point.entry.star
        where = (column / _KEY_COLUMNS - 0.03, 1.0 - (line + 0.5) / lines)
        axes.text(
            where[0] - 0.015,
            where[1],
            str(point.entry.step),
            transform=axes.transAxes,
            fontsize=TINY,
            color=GREY,
            horizontalalignment="right",
            verticalalignment="center",
        )
        axes.text(
            *where,
            text,
            transform=axes.transAxes,
            fontsize=TINY,
            verticalalignment="center",
            parse_math=False,
        )


# -------------------------------------------------------------------------- phases


def draw_phases(bars: Sequence[PhaseBar], report: Report, *, as_shares: bool) -> Figure:
    """Return stacked bars of each phase's milliseconds per token, or of its share of decode time."""
    entries = [bar.entry for bar in bars]
    figure, axes = look.list_figure(entries, pitch=0.27, above=_LEGEND_INCHES)
    seconds, is_cut = _end_of_axis(bars)
    end = 100.0 if as_shares else 1000.0 * seconds
    digits = 2 if max(bar.total.value for bar in bars) < 0.01 else 1
    for y, bar in enumerate(bars):
        scale = 100.0 / bar.total.value if as_shares else 1000.0
        _draw_phases_of(axes, y, bar, scale)
        if not as_shares:
            look.beside(axes, y, f"{1000.0 * bar.total.value:.{digits}f}")
            if 1000.0 * bar.total.value > end:
                axes.plot(0.975 * end, y, ">", color=INK, markeredgecolor="white", markersize=6.5, zorder=5)
            else:
                look.whisker(axes, 1000.0 * bar.total.value, y, _in_milliseconds(bar), along="x")
    axes.set_xlabel("Share of decode time (%)" if as_shares else "Decode time per token (ms)", fontsize=BODY)
    axes.set_xlim(0.0, end)
    seen = [phase for phase in PHASES if _widest(bars, phase, end, as_shares=as_shares) >= _THIN]
    _phase_legend(figure, bars, seen)
    goes_on = not as_shares and any(1000.0 * bar.total.value > end for bar in bars)
    texts = [
        "" if as_shares else "At the right: the sum, decode time / tokens over all prompts.",
        "Arrow: the bar goes on to its sum." if goes_on else "",
        _thin_phases(bars, seen),
        "" if as_shares else look.intervals_note(report, [bar.total for bar in bars]),
        CUT_OFF if is_cut and not as_shares else "",
        look.undrawn_note(undrawn(report, entries, why_no_bar)),
    ]
    look.write_note(figure, [*texts, *doubts(entries)])
    return figure


def _end_of_axis(bars: Sequence[PhaseBar]) -> tuple[float, bool]:
    """Return where the axis ends, in seconds, and whether an interval of a whole bar reaches beyond it.

    It ends before the longest bar does where that one dwarfs all others.
    """
    totals = sorted((bar.total for bar in bars), key=lambda total: total.value)
    if len(totals) > 2 and totals[-1].value > _SQUEEZED * totals[-2].value:
        totals.pop()
    return top_of(totals)


def _draw_phases_of(axes: Axes, y: int, bar: PhaseBar, scale: float) -> None:
    left = 0.0
    style: dict[str, Any] = {"height": 0.7, "linewidth": 0.3}
    for phase, seconds in bar.phases:
        color, hatch = PHASE_STYLES[phase]
        axes.barh(y, seconds * scale, left=left, color=color, hatch=hatch, edgecolor="white", **style)
        left += seconds * scale
    if bar.unknown > 0.0:
        axes.barh(y, bar.unknown * scale, left=left, height=0.7, color="white", edgecolor=GREY, linewidth=0.5)


def _widest(bars: Sequence[PhaseBar], phase: str, end: float, *, as_shares: bool) -> float:
    """Return the share of the axis that a phase has in the bar where it has most; 0 where it is in none."""
    widths = [
        dict(bar.phases).get(phase, 0.0) * (100.0 / bar.total.value if as_shares else 1000.0) for bar in bars
    ]
    return max(widths) / end


def _thin_phases(bars: Sequence[PhaseBar], seen: Sequence[str]) -> str:
    """Say which phases are drawn and not to be seen, and how much of a row's time they have at most."""
    shares = {
        phase: max(dict(bar.phases).get(phase, 0.0) / bar.total.value for bar in bars)
        for phase in PHASES
        if phase not in seen and any(phase in dict(bar.phases) for bar in bars)
    }
    if not shares:
        return ""
    names = "; ".join(PHASE_NAMES[phase] for phase in shares)
    return f"Too thin to see: {names} (at most {100.0 * max(shares.values()):.1f} % of a row)."


def _in_milliseconds(bar: PhaseBar) -> Estimate:
    known = bar.total.interval
    interval = Interval(low=1000.0 * known.low, high=1000.0 * known.high) if known else None
    return Estimate(value=1000.0 * bar.total.value, interval=interval)


def _phase_legend(figure: Figure, bars: Sequence[PhaseBar], seen: Sequence[str]) -> None:
    from matplotlib.patches import Patch  # noqa: PLC0415

    handles = [
        Patch(facecolor=PHASE_STYLES[phase][0], hatch=PHASE_STYLES[phase][1], edgecolor="white")
        for phase in seen
    ]
    names = [PHASE_NAMES[phase] for phase in seen]
    if any(bar.unknown > 0.0 for bar in bars):
        handles.append(Patch(facecolor="white", edgecolor=GREY))
        names.append("not told apart")
    figure.legend(
        handles,
        names,
        loc="outside upper center",
        ncols=3 if figure.get_figwidth() < 4 or len(names) > 5 else 5,
        fontsize=TINY + 0.5,
        frameon=False,
        handlelength=1.4,
        handletextpad=0.4,
        columnspacing=1.0,
    )
