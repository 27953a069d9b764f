"""A measure against swept parameters: curves in panels, and heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import log2
from typing import TYPE_CHECKING, Any

from dyna_eval.jobs import Scalar
from dyna_eval.plots import look
from dyna_eval.plots.look import ALARM, BODY, INK, SMALL, TINY
from dyna_eval.reports.digits import factor
from dyna_eval.reports.report import Report
from dyna_eval.series.measured import CUT_OFF, top_of
from dyna_eval.series.parameters import Parameter, Scale, bare_text
from dyna_eval.series.swept import (
    REPEATED,
    Cell,
    Curve,
    CurveChart,
    HeatMap,
    HeatPanel,
    Measure,
    Panel,
    doubts_about,
)
from dyna_eval.wording import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {
    Measure.THROUGHPUT: "Throughput (tokens/s)",
    Measure.SPEEDUP: "Speedup (×)",
    Measure.ACCEPTANCE: "Acceptance length (tokens/round)",
}
_ACROSS = 4  # panels beside each other
_DODGE = 0.02  # of the axis, at most between curves that share an x
_FEW = 3  # curves of a panel up to which whiskers have caps


def draw_curves(chart: CurveChart, report: Report) -> Figure:
    """Return the chart: one panel in a column's width, several over the page with common axes."""
    columns = min(chart.columns, _ACROSS)
    lines = -(-len(chart.panels) // columns)
    single = len(chart.panels) == 1
    width = look.PAGE * min(1.0, (columns + 0.6) / _ACROSS)
    if single:
        crowded = chart.x.scale is Scale.CATEGORY and len(chart.x.values) > 4
        width = look.PAGE if crowded else look.COLUMN
    figure = look.new_figure(width, 2.7 if single else 1.0 + 1.45 * lines)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    styles = _styles(chart)
    heads = [", ".join(filter(None, [panel.row, panel.column])) for panel in chart.panels]
    heads = heads if single else look.apart(heads, 26)
    around, between = (0.8, 0.6) if single else (0.5, 0.1)
    inches = (figure.get_figwidth() - around) / columns - between
    for index, axes in enumerate(grid.flat):
        if index >= len(chart.panels):
            axes.set_visible(False)
            continue
        look.dress(axes)
        _draw_panel(axes, chart, chart.panels[index], styles)
        if heads[index]:
            axes.set_title(heads[index], fontsize=SMALL, pad=3, parse_math=False)
    _dress_x(grid[-1, 0], chart.x, inches)
    cut = _limit_y(grid[0, 0], chart)
    figure.supylabel(TITLES[chart.measure], fontsize=BODY)
    if single:
        grid[0, 0].set_xlabel(chart.x.title)
    else:
        look.title_below(grid, len(chart.panels), chart.x.title, inches)
        _legend(figure, chart.names, styles)
    points = [p for panel in chart.panels for curve in panel.curves for p in curve.points]
    notes = [look.intervals_note(report, [point.y for point in points]), CUT_OFF if cut else ""]
    with_line = any(panel.baseline for panel in chart.panels)
    notes += [
        "Dashed grey: the baseline." if with_line else "",
        look.left_out_note(chart.left_out, f"of methods that do not sweep {chart.x.name}"),
        look.left_out_note(chart.repeated, REPEATED),
        look.undrawn_note(chart.undrawn),
    ]
    entries = [point.entry for point in points]
    look.write_note(figure, [*notes, *doubts_about(chart.measure, report, entries, with_line=with_line)])
    if single:  # last: room for labels is told by the height that the rest leaves
        _label_ends(figure, grid[0, 0], chart.panels[0], styles)
    return figure


def _styles(chart: CurveChart) -> dict[str, dict[str, Any]]:
    """Return each curve's colour, marker and dashes; a ramp where one numeric parameter tells them apart."""
    ordered = len(chart.span.curves) == 1 and all("," not in name and "=" in name for name in chart.names)
    colors = look.series_colors(len(chart.names), ordered=ordered)
    return {
        name: {
            "color": color,
            "marker": look.MARKERS[i % len(look.MARKERS)],
            "linestyle": look.DASHES[i % len(look.DASHES)],
            "markersize": 4.0,
            "markeredgecolor": "white",
            "markeredgewidth": 0.4,
        }
        for i, (name, color) in enumerate(zip(chart.names, colors, strict=True))
    }


def _draw_panel(axes: Axes, chart: CurveChart, panel: Panel, styles: dict[str, dict[str, Any]]) -> None:
    if panel.baseline is not None:
        axes.axhline(panel.baseline.value, **look.BASELINE)
    many = len(panel.curves) > _FEW
    faint = {"capsize": 0.0, "linewidth": 0.6, "alpha": 0.7} if many else {}
    dodge = _dodge(chart.x, len(panel.curves))
    for index, curve in enumerate(panel.curves):
        style = styles[curve.name]
        if chart.x.scale is Scale.CATEGORY:
            xs = _beside_each_other(chart.x, panel, curve)
            style = style | {"linestyle": "none"}  # there is nothing between two names
        else:
            shift = (index - (len(panel.curves) - 1) / 2) * dodge
            xs = [place(chart.x, point.x, shift) for point in curve.points]
        for x, point in zip(xs, curve.points, strict=True):
            look.whisker(axes, x, point.y.value, point.y, along="y", color=style["color"], zorder=2, **faint)
            if point.entry.doubt:
                _star(axes, x, point.y.value)
        start = 0
        for piece in curve.pieces:
            own_xs = xs[start : start + len(piece)]
            axes.plot(own_xs, [point.y.value for point in piece], zorder=3, **style)
            start += len(piece)


def _dodge(parameter: Parameter, curves: int) -> float:
    """Return the step between curves that share an x, of the axis; none comes near the next value."""
    places = [place(parameter, value) for value in parameter.values]
    if parameter.scale is Scale.LOG:
        places = [log2(value) for value in places]
    span = places[-1] - places[0]
    if curves < 2 or not span:
        return 0.0
    nearest = min(after - before for before, after in pairwise(places)) / span
    return min(_DODGE, 0.6 * nearest / (curves - 1))


def _beside_each_other(parameter: Parameter, panel: Panel, curve: Curve) -> list[float]:
    """Return where a curve's points stand, so that all of the panel's points at one name have room."""
    points = [point for one in panel.curves for point in one.points]
    places = []
    for point in curve.points:
        alike = [other.entry for other in points if other.x == point.x]
        gap = min(0.12, 0.8 / len(alike))
        centre = parameter.values.index(point.x)
        places.append(centre + gap * (alike.index(point.entry) - (len(alike) - 1) / 2))
    return places


def _limit_y(axes: Axes, chart: CurveChart) -> bool:
    """Start rates at 0 and lengths, never under 1, a little lower; return whether an interval is cut."""
    known = [p.y for panel in chart.panels for curve in panel.curves for p in curve.points]
    top, cut = top_of([*known, *(panel.baseline for panel in chart.panels if panel.baseline)])
    if chart.measure is Measure.ACCEPTANCE:
        axes.set_ylim(min(0.9, min(one.low for one in known) - 0.05), top)
    else:
        axes.set_ylim(0.0, top)
    return cut


def _star(axes: Axes, x: float, y: float) -> None:
    axes.annotate("*", (x, y), xytext=(4, 1), textcoords="offset points", fontsize=BODY, color=ALARM)


def place(parameter: Parameter, value: Scalar, shift: float = 0.0) -> float:
    """Return where a value stands on its axis, a number moved by a share of the axis."""
    if parameter.scale is Scale.CATEGORY:
        return float(parameter.values.index(value))
    number, first, last = (float(v) for v in (value, parameter.values[0], parameter.values[-1]))  # type: ignore[arg-type]
    if parameter.scale is Scale.LOG:
        return float(number * (last / first) ** shift)
    return number + shift * (last - first)


def _dress_x(axes: Axes, parameter: Parameter, inches: float) -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator  # noqa: PLC0415

    positions = [place(parameter, value) for value in parameter.values]
    if parameter.scale is Scale.LOG:
        axes.set_xscale("log", base=2)
        low, high = positions[0], positions[-1]
        margin = (high / low) ** 0.08
        axes.set_xlim(low / margin, high * margin)
    else:
        is_names = parameter.scale is Scale.CATEGORY
        margin = 0.5 if is_names else 0.08 * (positions[-1] - positions[0]) or 0.5
        axes.set_xlim(positions[0] - margin, positions[-1] + margin)
    to_axes = axes.transScale + axes.transLimits
    shares = [float(x) for x, _ in to_axes.transform([(position, 1.0) for position in positions])]
    texts = [bare_text(value) for value in parameter.values]
    if parameter.scale is Scale.CATEGORY:
        room = look.characters(inches / len(texts), SMALL) - 1
        texts = [look.literal(text) for text in look.apart(texts, room, 3)]
    else:
        texts = look.fitting_ticks(shares, texts, inches)
    axes.xaxis.set_major_locator(FixedLocator(positions))
    axes.xaxis.set_major_formatter(FixedFormatter(texts))
    axes.xaxis.set_minor_locator(NullLocator())


def _label_ends(figure: Figure, axes: Axes, panel: Panel, styles: dict[str, dict[str, Any]]) -> None:
    """Write each curve's name at its right end, in its colour, none over another."""
    named = [curve for curve in panel.curves if curve.name]
    if not named:
        return
    names = look.apart([curve.name for curve in named], 24, 1)
    lines = max(name.count("\n") + 1 for name in names)
    figure.draw_without_rendering()
    low, high = axes.get_ylim()
    height = SMALL * (1.35 * lines - 0.1) / 72  # inches
    gap = (high - low) * height * figure.dpi / axes.get_window_extent().height
    axes.set_ylim(low, high)
    ends = look.spread([curve.points[-1].y.value for curve in named], gap, low + gap / 2, high - gap / 2)
    for curve, name, y in zip(named, names, ends, strict=True):
        axes.annotate(
            name,
            (1.03, y),
            xycoords=axes.get_yaxis_transform(),
            verticalalignment="center",
            fontsize=SMALL,
            color=look.readable(styles[curve.name]["color"]),
            parse_math=False,
        )


def _legend(figure: Figure, names: Sequence[str], styles: dict[str, dict[str, Any]]) -> None:
    from matplotlib.lines import Line2D  # noqa: PLC0415

    named = [name for name in names if name]
    if not named:
        return
    widest = max(len(name) for name in named) * SMALL * 0.56 / 72 + 0.5
    legend = figure.legend(
        [Line2D([], [], **styles[name]) for name in named],
        look.apart(named, 60, 1),
        loc="outside upper center",
        ncols=max(1, min(len(named), int(figure.get_figwidth() / widest))),
        fontsize=SMALL,
        frameon=False,
        handlelength=2.6,
        columnspacing=1.4,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


# ------------------------------------------------------------------------ heat map


def draw_heat(heat: HeatMap, report: Report) -> Figure:
    """Return the heat map: a panel per combination of further parameters, one colour scale for all."""
    from matplotlib.cm import ScalarMappable  # noqa: PLC0415
    from matplotlib.colors import Normalize  # noqa: PLC0415

    wide, high = len(heat.x.values), len(heat.y.values)
    cell_width = 0.58 if wide * min(len(heat.panels), 2) <= 10 else 0.4
    columns = max(1, min(len(heat.panels), int((look.PAGE - 1.2) / (wide * cell_width + 0.25))))
    lines = -(-len(heat.panels) // columns)
    width = max(look.COLUMN, 1.2 + columns * (wide * cell_width + 0.25))
    height = max(1.9, 0.85 + lines * (high * 0.34 + (0.3 if len(heat.panels) > 1 else 0.1)))
    figure = look.new_figure(width, height)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    cells = [cell for panel in heat.panels for cell in panel.cells]
    values = [cell.value.value for cell in cells]
    colors = ScalarMappable(
        Normalize(min(values), max(values) if max(values) > min(values) else None), "cividis"
    )
    framed, why_framed = _framed(heat, report)
    names = look.apart([panel.name for panel in heat.panels], 34)
    for index, axes in enumerate(grid.flat):
        if index >= len(heat.panels):
            axes.set_visible(False)
            continue
        _draw_heat_panel(axes, heat, heat.panels[index], colors, framed, with_intervals=cell_width > 0.5)
        if names[index]:
            axes.set_title(names[index], fontsize=SMALL, pad=3, parse_math=False)
    bar = figure.colorbar(colors, ax=grid, shrink=0.9, aspect=16 * lines, pad=0.02)
    bar.set_label(TITLES[heat.measure], fontsize=SMALL)
    bar.ax.tick_params(labelsize=TINY)
    bar.outline.set_visible(False)
    title = look.wrapped(heat.y.title, look.characters(height - 0.7, SMALL))
    figure.supylabel(title, fontsize=SMALL, multialignment="center")
    look.title_below(grid, len(heat.panels), heat.x.title, wide * cell_width)
    slower = any(cell.is_slower for cell in cells)
    note = "Hatched: slower than the baseline." if slower and heat.measure is Measure.SPEEDUP else ""
    intervals = look.intervals_note(report, [cell.value for cell in cells]) if cell_width > 0.5 else ""
    others = [
        look.left_out_note(heat.left_out, "that do not span it"),
        look.left_out_note(heat.repeated, REPEATED),
        look.undrawn_note(heat.undrawn),
    ]
    entries = [cell.entry for cell in cells]
    doubts = doubts_about(heat.measure, report, entries)
    look.write_note(figure, [why_framed, note, intervals, *others, *doubts])
    return figure


def _framed(heat: HeatMap, report: Report) -> tuple[list[Cell], str]:
    """Return the cells to frame, and what the note says of them.

    Where rows were chosen on tuning prompts these are framed, whatever is highest on the others. Else it is
    the highest of those that are not in doubt, once none is to come that may be higher.
    """
    cells = [cell for panel in heat.panels for cell in panel.cells]
    if report.chosen:
        chosen = {(choice.pair, one_line(choice.label)) for choice in report.chosen}
        found = [cell for cell in cells if (cell.entry.pair, cell.entry.label) in chosen]
        return found, "Framed: chosen on the tuning prompts." if found else ""
    if not heat.is_final:
        return [], "Nothing is framed while rows are to come."
    sure = [cell for cell in cells if not cell.entry.doubt]
    if not sure:
        return [], ""
    among = "" if len(sure) == len(cells) else " of those without a star"
    return [max(sure, key=lambda cell: cell.value.value)], f"Framed: the highest{among}."


def _draw_heat_panel(
    axes: Axes,
    heat: HeatMap,
    panel: HeatPanel,
    colors: Any,
    framed: Sequence[Cell],
    *,
    with_intervals: bool,
) -> None:
    from matplotlib.patches import Rectangle  # noqa: PLC0415

    xs, ys = heat.x.values, heat.y.values
    highest = max(cell.value.value for one in heat.panels for cell in one.cells)
    digits = 2 if highest < 20 else 1 if highest < 200 else 0
    axes.add_patch(Rectangle((-0.5, -0.5), len(xs), len(ys), facecolor="#F4F4F4", zorder=0))
    for cell in panel.cells:
        at = xs.index(cell.x), ys.index(cell.y)
        color = colors.to_rgba(cell.value.value)
        slower = heat.measure is Measure.SPEEDUP and cell.is_slower
        corner = (at[0] - 0.5, at[1] - 0.5)
        axes.add_patch(
            Rectangle(
                corner,
                1,
                1,
                facecolor=color,
                edgecolor="white",
                linewidth=0.8,
                hatch="////" if slower else None,
            )
        )
        if cell in framed:
            frame: dict[str, Any] = {"facecolor": "none", "edgecolor": ALARM, "linewidth": 1.6, "zorder": 3}
            axes.add_patch(Rectangle((corner[0] + 0.03, corner[1] + 0.03), 0.94, 0.94, **frame))
        more: dict[str, Any] = {"bold": cell in framed, "with_interval": with_intervals}
        _write_cell(axes, at, cell, color, digits, measure=heat.measure, **more)
    axes.set_xlim(-0.5, len(xs) - 0.5)
    axes.set_ylim(-0.5, len(ys) - 0.5)
    axes.set_xticks(range(len(xs)), [look.literal(bare_text(value)) for value in xs], fontsize=SMALL)
    axes.set_yticks(range(len(ys)), [look.literal(bare_text(value)) for value in ys], fontsize=SMALL)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _write_cell(
    axes: Axes,
    at: tuple[int, int],
    cell: Cell,
    color: Any,
    digits: int,
    *,
    measure: Measure,
    bold: bool,
    with_interval: bool,
) -> None:
    from matplotlib.colors import to_hex  # noqa: PLC0415

    ink = "white" if look.lightness(to_hex(color)) < 55 else INK
    value, known = cell.value.value, cell.value.interval
    text = factor(value, digits) if measure is Measure.SPEEDUP else f"{value:.{digits}f}"
    box: dict[str, Any] = {"facecolor": color, "edgecolor": "none", "pad": 0.6}
    style: dict[str, Any] = {"horizontalalignment": "center", "verticalalignment": "center"}
    style |= {"color": ink, "zorder": 4}
    low = with_interval and known is not None
    axes.text(
        at[0],
        at[1] + (0.14 if low else 0.0),
        text + cell.entry.star,
        fontsize=SMALL,
        fontweight="bold" if bold else "normal",
        bbox=box,
        **style,
    )
    if low and known is not None:
        span = f"{known.low:.{digits}f} – {known.high:.{digits}f}"
        axes.text(at[0], at[1] - 0.25, span, fontsize=TINY - 1.0, bbox=box, **style)
