"""Exploring a sweep: its series over swept parameters as curves, heat maps, or a front, for Plotly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dyna_eval.errors import InputError, NothingToDrawError
from dyna_eval.jobs import Scalar
from dyna_eval.reports.report import Report, Row
from dyna_eval.series.front import memory_fronts
from dyna_eval.series.measured import CUT_OFF, Entry, Estimate, Measured, Undrawn, top_of, undrawn
from dyna_eval.series.parameters import Parameter, Scale, Span, bare_text, span, swept, value_text
from dyna_eval.series.swept import (
    REPEATED,
    Curve,
    CurveChart,
    HeatPanel,
    Measure,
    Panel,
    Point,
    curve_chart,
    doubts_about,
    heat_map,
)
from dyna_eval.wording import count, one_line
from dyna_eval_dashboards.figures import around, dash, doubt_lines, error_bars, layout, plain, symbols, text

TITLES: dict[Measure, str] = {
    Measure.THROUGHPUT: "Tokens/s",
    Measure.SPEEDUP: "Speedup",
    Measure.ACCEPTANCE: "Tokens per round",
    Measure.DRAFT_RATE: "Draft acceptance rate",
    Measure.TREE_NODES: "Tree nodes per round",
    Measure.EXACT: "Exact share",
    Measure.TTFT: "Time to first token (s)",
}
KINDS = {"curves": "Curves", "heat": "Heat map", "front": "Speed against memory"}
_MOST_PANELS = 12
_MOST_CURVES = 24
_ACROSS = 4
_APART, _ROOM = 0.12, 0.8
"""Between points at one name, and from the first to the last of them; the next name is 1 away."""
_DODGE, _MOST_DODGED = 0.02, 0.6
"""Between curves, of the axis, and from the first to the last of them; the next number is 1 away."""
_NAMED = 5
"""Labels of rows that a figure leaves out which its note names."""
_Thing = TypeVar("_Thing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What to draw: `x`, `curve`, `row` and `column` are swept parameters, an empty text is none."""

    kind: str
    x: str
    y: Measure
    curve: str
    row: str
    column: str

    @classmethod
    def of(cls, query: Mapping[str, str], rows: Sequence[Row]) -> Choice:
        """Read what an address asks for; what it does not name, or names wrongly, is chosen."""
        known, kind, measure = swept(rows), query.get("kind", ""), query.get("y", "")
        x = query.get("x")
        default = span(rows, x=x if x in known else None) if known else Span(x="")
        chosen = {
            "x": default.x,
            "curve": next(iter(default.curves), ""),
            "row": default.row or "",
            "column": default.column or "",
        }
        asked = {
            name: given
            for name in chosen
            if (given := query.get(name)) in known or (given == "" and name != "x")
        }
        taken: set[str] = set()
        for name in sorted(chosen, key=lambda name: name not in asked):  # what is asked for comes first
            value = str(asked.get(name, chosen[name]))
            chosen[name] = "" if value in taken else value
            taken.add(value)
        chosen["x"] = chosen["x"] or next((name for name in known if name not in taken), "")
        return cls(
            kind=kind if kind in KINDS else "curves",
            y=Measure(measure) if measure in set(Measure) else Measure.SPEEDUP,
            **chosen,
        )

    @property
    def span(self) -> Span:
        curves = (self.curve,) if self.curve else ()
        return Span(x=self.x, curves=curves, row=self.row or None, column=self.column or None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explored:
    """The chosen figure, None where there is nothing to draw, and what is said under it or instead of it."""

    figure: dict[str, Any] | None
    notes: tuple[str, ...]


def explore(report: Report, choice: Choice) -> Explored:
    """Return the chosen figure, or why it cannot be drawn."""
    measured = Measured(report=report)
    try:
        if choice.kind == "front":
            figure, notes = _front(measured, choice.y)
        elif choice.kind == "heat":
            figure, notes = _heat(measured, choice)
        else:
            figure, notes = _curves(measured, choice)
    except (InputError, NothingToDrawError) as error:
        return Explored(figure=None, notes=(f"There is nothing to draw: {error}.",))
    return Explored(figure=plain(figure), notes=tuple(notes))


# ------------------------------------------------------------------------- curves


def _curves(measured: Measured, choice: Choice) -> tuple[go.Figure, list[str]]:
    if not choice.x:
        raise NothingToDrawError("no parameter takes several values")
    chart = curve_chart(measured, measured.report.rows, choice.span, choice.y)
    panels, names = chart.panels[:_MOST_PANELS], chart.names[:_MOST_CURVES]
    columns = min(chart.columns, len(panels), _ACROSS)
    figure = _panels([", ".join(filter(None, (one.row, one.column))) for one in panels], columns)
    named: set[str] = set()
    for index, panel in enumerate(panels):
        shifts = _shifts(chart.x, panel, names)
        for curve in panel.curves:
            if curve.name in names:
                trace = _trace(chart, panel, curve, shifts, number=names.index(curve.name))
                trace.update(showlegend=len(names) > 1 and curve.name not in named)
                figure.add_trace(trace, row=index // columns + 1, col=index % columns + 1)
                named.add(curve.name)
        if panel.baseline is not None:
            figure.add_hline(
                y=panel.baseline.value,
                line={"dash": "dash", "width": 1},
                row=index // columns + 1,
                col=index % columns + 1,
            )
    _dress(figure, chart.x, TITLES[chart.measure], columns)
    figure.update_xaxes(
        tickvals=list(range(len(chart.x.values))),
        ticktext=[text(bare_text(value)) for value in chart.x.values],
        range=[-0.5, len(chart.x.values) - 0.5],
    )
    drawn = [curve for panel in panels for curve in panel.curves if curve.name in names]
    points = [point for curve in drawn for point in curve.points]
    lines = [panel.baseline for panel in panels if panel.baseline is not None]
    end, is_cut = top_of([*(point.y for point in points), *lines])
    figure.update_yaxes(rangemode="tozero", range=[0.0, end] if is_cut else None)
    legend = {"orientation": "h", "y": -0.14, "yanchor": "top", "x": 0}
    figure.update_layout(showlegend=len(names) > 1, legend=legend)
    notes = _cut(len(chart.panels), len(panels), "panel") + _cut(len(chart.names), len(names), "curve")
    if lines:
        notes.append("Dashed: the baseline.")
    if is_cut:
        notes.append(CUT_OFF)
    notes += _left_out(chart.left_out, f"of methods that do not sweep {chart.x.name}")
    notes += _left_out(chart.repeated, REPEATED) + _undrawn(chart.undrawn)
    entries = [point.entry for point in points]
    return figure, [*notes, *doubts_about(choice.y, measured.report, entries, with_line=bool(lines))]


def _shifts(x: Parameter, panel: Panel, names: Sequence[str]) -> dict[Entry, float]:
    """Return how far each point of a panel stands from the middle of its x, so that none hides another.

    At a name all points stand beside each other. Over numbers each curve is moved as a whole, and equally far
    in all panels. `names` are those of the curves that are drawn.
    """
    curves = [curve for curve in panel.curves if curve.name in names]
    if x.scale is Scale.CATEGORY:
        alike: dict[Scalar, list[Entry]] = {}
        for point in (point for curve in curves for point in curve.points):
            alike.setdefault(point.x, []).append(point.entry)
        shifts = [_spread(entries, _APART, _ROOM) for entries in alike.values()]
        return {entry: shift for found in shifts for entry, shift in found.items()}
    of_curves = _spread(names, _DODGE * len(x.values), _MOST_DODGED)
    return {point.entry: of_curves[curve.name] for curve in curves for point in curve.points}


def _spread(things: Sequence[_Thing], gap: float, room: float) -> dict[_Thing, float]:
    """Return a place for each around 0, so far apart or, where there is no room, closer."""
    last = len(things) - 1
    gap = min(gap, room / max(1, last))
    return {thing: gap * (number - last / 2) for number, thing in enumerate(things)}


def _trace(
    chart: CurveChart, panel: Panel, curve: Curve, shifts: Mapping[Entry, float], *, number: int
) -> go.Scatter:
    line: list[tuple[Point, float | None]] = []
    for piece in curve.pieces:
        line += [(point, point.y.value) for point in piece]
        line.append((piece[-1], None))  # where the line is interrupted
    line.pop()
    points = [point for point, _ in line]
    errors = [around(point.y.value, point.y.low, point.y.high) for point in points]
    where = [one for one in (panel.row, panel.column, curve.name) if one]
    return go.Scatter(
        x=[chart.x.values.index(point.x) + shifts[point.entry] for point in points],
        y=[y for _, y in line],
        error_y=error_bars(errors, thickness=1, width=0),
        mode="markers" if chart.x.scale is Scale.CATEGORY else "lines+markers",
        name=text(curve.name),
        legendgroup=str(number),
        marker=symbols([point.entry for point in points], 6),
        line={"dash": dash(number)},
        meta=number,
        hovertext=[
            _hover(point.entry, [value_text(chart.x.name, point.x), *where], chart.measure, point.y)
            for point in points
        ],
        hoverinfo="text",
    )


def _panels(titles: Sequence[str], columns: int) -> go.Figure:
    """Return empty panels with common axes, so many beside each other."""
    figure = make_subplots(
        rows=-(-len(titles) // columns),
        cols=columns,
        shared_xaxes="all",
        shared_yaxes="all",
        subplot_titles=[text(title) for title in titles] if any(titles) else None,
    )
    figure.update_layout(layout("", ""))
    figure.update_layout(margin={"t": 30, "r": 30})
    figure.update_annotations(font_size=12)
    return figure


def _dress(figure: go.Figure, x: Parameter, y: str, columns: int) -> None:
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    middle, last = (columns + 1) // 2, len(figure._grid_ref)
    figure.update_xaxes(title_text=text(x.title), row=last, col=middle)
    figure.update_yaxes(title_text=y, col=1)


def _hover(entry: Entry, settings: Sequence[str], measure: Measure, y: Estimate, *more: str) -> str:
    value = f"{TITLES[measure]} {y.value:.4g}"
    if y.interval is not None:
        value += f" [{y.interval.low:.4g}, {y.interval.high:.4g}]"
    lines = [f"<b>{text(entry.label)}</b>", text(", ".join(settings)), value, *more, *doubt_lines(entry)]
    return "<br>".join(line for line in lines if line)


# ---------------------------------------------------------------------- heat maps


def _heat(measured: Measured, choice: Choice) -> tuple[go.Figure, list[str]]:
    """Squares without a scale, not a heat-map trace: those have styles and images that the policy forbids."""
    if not choice.x or not choice.curve:
        raise NothingToDrawError("a heat map needs two different parameters, x and the curve")
    heat = heat_map(measured, measured.report.rows, (choice.x, choice.curve), choice.y)
    panels = heat.panels[:_MOST_PANELS]
    columns = min(len(panels), _ACROSS)
    figure = _panels([panel.name for panel in panels], columns)
    every = [cell.value.value for panel in panels for cell in panel.cells]
    crowded = len(heat.x.values) * columns > 12 or len(heat.x.values) * len(heat.y.values) > 100
    size = max(8, min(34, 420 // (len(heat.y.values) * -(-len(panels) // columns))))
    for index, panel in enumerate(panels):
        trace = _squares(panel, heat.x.name, heat.y.name, choice.y, with_text=not crowded)
        trace.marker.update(size=size, cmin=min(every), cmax=max(every))
        figure.add_trace(trace, row=index // columns + 1, col=index % columns + 1)
    _dress(figure, heat.x, text(heat.y.title), columns)
    for update, parameter in ((figure.update_xaxes, heat.x), (figure.update_yaxes, heat.y)):
        values = [bare_text(value) for value in parameter.values]
        update(type="category", categoryorder="array", categoryarray=values)
    spread = f"{TITLES[choice.y]} from {min(every):.3g} to {max(every):.3g}"
    notes = [f"The stronger the colour, the higher: {spread}."]
    notes += _cut(len(heat.panels), len(panels), "panel")
    notes += _left_out(heat.left_out, "that do not sweep both, or stand alone")
    notes += _left_out(heat.repeated, REPEATED) + _undrawn(heat.undrawn)
    entries = [cell.entry for panel in panels for cell in panel.cells]
    return figure, [*notes, *doubts_about(choice.y, measured.report, entries)]


def _squares(panel: HeatPanel, x: str, y: str, measure: Measure, *, with_text: bool) -> go.Scatter:
    return go.Scatter(
        x=[bare_text(cell.x) for cell in panel.cells],
        y=[bare_text(cell.y) for cell in panel.cells],
        mode="markers+text" if with_text else "markers",
        text=[f"{cell.value.value:.3g}{cell.entry.star}" for cell in panel.cells],
        textposition="middle right",
        cliponaxis=False,
        marker={
            "symbol": ["star" if cell.entry.doubt and not with_text else "square" for cell in panel.cells],
            "color": [cell.value.value for cell in panel.cells],
        },
        hovertext=[
            _hover(
                cell.entry,
                [value_text(x, cell.x), value_text(y, cell.y), panel.name],
                measure,
                cell.value,
            )
            for cell in panel.cells
        ],
        hoverinfo="text",
        meta="heat",
    )


# ---------------------------------------------------------------- speed against memory


def _front(measured: Measured, measure: Measure) -> tuple[go.Figure, list[str]]:
    fronts = memory_fronts(measured, measure)
    several = len(fronts) > 1
    figure = go.Figure(layout=layout("Peak memory (GiB)", TITLES[measure]))
    for number, front in enumerate(fronts):
        for points, mode, size in ((front.points, "markers", 6), (front.front, "lines+markers", 9)):
            figure.add_scatter(
                x=[point.memory_bytes / 2**30 for point in points],
                y=[point.y.value for point in points],
                mode=mode,
                name=text(front.pair),
                legendgroup=str(number),
                showlegend=several and mode == "lines+markers",
                meta=number,
                line={"dash": dash(number)},
                marker=symbols([point.entry for point in points], size),
                hovertext=[
                    _hover(
                        point.entry,
                        [front.pair] if several else [],
                        measure,
                        point.y,
                        f"{point.memory_bytes / 2**30:.2f} GiB",
                    )
                    for point in points
                ],
                hoverinfo="text",
            )
    figure.update_layout(
        showlegend=several, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    )
    of_a_pair = " of a pair" if several else ""
    notes = [f"The line joins the configurations{of_a_pair} that no other beats in both."]
    entries = [point.entry for front in fronts for point in front.points]
    if any(entry.doubt for entry in entries):
        notes.append("Those with a star are not compared.")
    notes += _undrawn(undrawn(measured.report, entries, lambda _: f"{measure} or peak memory unknown"))
    return figure, [*notes, *doubts_about(measure, measured.report, entries)]


# -------------------------------------------------------------------------- notes


def _cut(total: int, shown: int, noun: str) -> list[str]:
    hidden = count(total - shown, f"further {noun}")
    return [f"Not shown: {hidden}; choose other parameters to see them."] if shown < total else []


def _undrawn(rows: Sequence[Undrawn]) -> list[str]:
    return _left_out([str(row) for row in rows], "without a result")


def _left_out(labels: Sequence[str], why: str) -> list[str]:
    if not labels:
        return []
    named = ", ".join(one_line(label) for label in labels[:_NAMED])
    more = f" and {len(labels) - _NAMED:,} more" if len(labels) > _NAMED else ""
    return [f"Not shown are rows {why}: {named}{more}."]
