"""Exploring a sweep: its rows over the parameters that it sweeps, as curves, a heat map, or a front."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dyna_eval.cells import configuration_text, one_line
from dyna_eval.jobs import Scalar
from dyna_eval.report import Report, Row
from dyna_eval.series.parameters import value_of
from dyna_eval_dashboards.figures import layout, text

METRICS: dict[str, tuple[str, Callable[[Row], float | None]]] = {
    "throughput": ("Tokens/s", lambda row: row.figures.throughput.mean if row.figures else None),
    "speedup": ("Speedup", lambda row: row.versus_baseline.ratio if row.versus_baseline else None),
    "acceptance": (
        "Tokens per round",
        lambda row: row.figures.acceptance.mean_length if row.figures else None,
    ),
    "rate": (
        "Draft acceptance rate",
        lambda row: row.figures.acceptance.draft_rate if row.figures else None,
    ),
    "nodes": ("Tree nodes", lambda row: row.figures.acceptance.mean_tree_nodes if row.figures else None),
    "exact": ("Exact share", lambda row: row.figures.agreement.exact_match_rate if row.figures else None),
    "ttft": (
        "Time to first token (s)",
        lambda row: row.figures.latency.ttft.p50 if row.figures and row.figures.latency.ttft else None,
    ),
}
KINDS = {"curves": "Curves", "heat": "Heat map", "front": "Speed against memory"}
_MOST_PANELS = 12
_MOST_CURVES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What to draw: `x`, `curve`, `row` and `column` are swept parameters, an empty text is none."""

    kind: str
    x: str
    y: str
    curve: str
    row: str
    column: str

    @classmethod
    def of(cls, query: Mapping[str, str], parameters: Sequence[str]) -> Choice:
        """Read what an address asks for; what it does not name, or names wrongly, is chosen."""

        def parameter(name: str, otherwise: str) -> str:
            given = query.get(name, otherwise)
            return given if given in parameters or (given == "" and name != "x") else otherwise

        first = parameters[0] if parameters else ""
        others = [name for name in parameters if name not in (first, "pair", "method")]
        kind, metric = query.get("kind", "curves"), query.get("y", "speedup")
        return cls(
            kind=kind if kind in KINDS else "curves",
            x=parameter("x", first),
            y=metric if metric in METRICS else "speedup",
            curve=parameter("curve", others[0] if others else ""),
            row=parameter("row", ""),
            column=parameter("column", ""),
        )


def swept(report: Report) -> list[str]:
    """Return the parameters that have several values, those with most values first; then method and pair."""
    values: dict[str, set[Scalar]] = {}
    for row in report.rows:
        for name, value in row.params.items():
            values.setdefault(name, set()).add(value)
    several = sorted(
        (name for name, found in values.items() if len(found) > 1), key=lambda n: (-len(values[n]), n)
    )
    if len({row.method for row in report.rows}) > 1:
        several.append("method")
    if len(report.pairs) > 1:
        several.append("pair")
    return several


def explore(report: Report, memory: Mapping[tuple[str, str], int], choice: Choice) -> dict[str, Any] | None:
    """Return the chosen figure; None where no row has what it needs."""
    rows = [row for row in report.rows if METRICS[choice.y][1](row) is not None]
    if choice.kind == "front":
        figure = _front(rows, memory, choice)
    elif choice.kind == "heat":
        figure = _heat(rows, choice)
    else:
        figure = _curves(rows, choice)
    if figure is None:
        return None
    plain: dict[str, Any] = figure.to_plotly_json()
    plain["layout"].pop("template", None)
    return plain


def _order(value: Scalar) -> tuple[bool, float, str]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (not number, float(value) if number and value is not None else 0.0, str(value))


def _distinct(rows: Sequence[Row], name: str) -> list[Scalar]:
    return sorted({value_of(row, name) for row in rows} - {None}, key=_order) if name else [None]


def _name(name: str, value: Scalar) -> str:
    return text(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}")


def _metric(row: Row, choice: Choice) -> float:
    value = METRICS[choice.y][1](row)
    return 0.0 if value is None else value


def _hover(row: Row, choice: Choice) -> str:
    title = METRICS[choice.y][0]
    setting = configuration_text(row.method, row.params)
    return f"<b>{text(row.label)}</b><br>{text(setting)}<br>{title} {_metric(row, choice):.3g}"


def _curves(rows: Sequence[Row], choice: Choice) -> go.Figure | None:
    """One panel per value of row and column, one curve per value of curve: the best of the rows that meet."""
    rows = [row for row in rows if choice.x and value_of(row, choice.x) is not None]
    if not rows:
        return None
    downs = _distinct(rows, choice.row)[:_MOST_PANELS] or [None]
    across = _distinct(rows, choice.column)[:_MOST_PANELS] or [None]
    figure = make_subplots(
        rows=len(downs),
        cols=len(across),
        shared_xaxes=True,
        shared_yaxes=True,
        column_titles=[_name(choice.column, value) for value in across] if choice.column else None,
        row_titles=[_name(choice.row, value) for value in downs] if choice.row else None,
    )
    figure.update_layout(layout("", ""))
    figure.update_layout(showlegend=bool(choice.curve), margin={"t": 30, "r": 30})
    ticks = _distinct(rows, choice.x)
    for down, of_row in enumerate(downs, start=1):
        for side, of_column in enumerate(across, start=1):
            for number, curve in enumerate(_distinct(rows, choice.curve)[:_MOST_CURVES] or [None]):
                chosen = {choice.row: of_row, choice.column: of_column, choice.curve: curve}
                points = _best(rows, choice, {name: value for name, value in chosen.items() if name})
                if not points:
                    continue
                figure.add_scatter(
                    x=[str(value_of(row, choice.x)) for row in points],
                    y=[_metric(row, choice) for row in points],
                    mode="lines+markers",
                    name=_name(choice.curve, curve) if choice.curve else "",
                    legendgroup=str(number),
                    showlegend=bool(choice.curve) and down == side == 1,
                    meta=number,
                    hovertext=[_hover(row, choice) for row in points],
                    hoverinfo="text",
                    row=down,
                    col=side,
                )
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=[str(tick) for tick in ticks])
    figure.update_yaxes(rangemode="tozero")
    figure.update_xaxes(title_text=one_line(choice.x), row=len(downs))
    figure.update_yaxes(title_text=METRICS[choice.y][0], col=1)
    return figure


def _best(rows: Sequence[Row], choice: Choice, chosen: Mapping[str, Scalar]) -> list[Row]:
    found: dict[Scalar, Row] = {}
    for row in rows:
        if all(value_of(row, name) == value for name, value in chosen.items()):
            place = value_of(row, choice.x)
            if place not in found or _metric(row, choice) > _metric(found[place], choice):
                found[place] = row
    return [found[place] for place in sorted(found, key=_order)]


def _heat(rows: Sequence[Row], choice: Choice) -> go.Figure | None:
    """The metric over x and the curve's parameter; of the rows that meet in a cell, the best."""
    if not choice.x or not choice.curve or choice.x == choice.curve:
        return None
    rows = [row for row in rows if None not in (value_of(row, choice.x), value_of(row, choice.curve))]
    if not rows:
        return None
    across, up = _distinct(rows, choice.x), _distinct(rows, choice.curve)
    cells = [{value_of(row, choice.x): row for row in _best(rows, choice, {choice.curve: y})} for y in up]
    points = [(x, y, line[x]) for y, line in zip(up, cells, strict=True) for x in across if x in line]
    # Squares without a scale, not a heat-map trace: those have styles and images that the policy forbids.
    heat = go.Scatter(
        x=[str(x) for x, _, _ in points],
        y=[str(y) for _, y, _ in points],
        mode="markers+text" if len(points) <= 100 else "markers",
        text=[f"{_metric(row, choice):.3g}" for *_, row in points],
        textposition="middle right",
        marker={
            "symbol": "square",
            "size": max(8, min(34, 420 // len(up))),
            "color": [_metric(row, choice) for *_, row in points],
        },
        hovertext=[_hover(row, choice) for *_, row in points],
        hoverinfo="text",
        meta="heat",
    )
    figure = go.Figure(heat, layout(one_line(choice.x), one_line(choice.curve)))
    for axis, values in ((figure.layout.xaxis, across), (figure.layout.yaxis, up)):
        axis.update(type="category", categoryorder="array", categoryarray=[str(value) for value in values])
    return figure


def _front(rows: Sequence[Row], memory: Mapping[tuple[str, str], int], choice: Choice) -> go.Figure | None:
    """Every row's metric over its peak memory; the line joins those that no other beats in both."""
    known = [(memory[row.pair, row.label] / 2**30, row) for row in rows if (row.pair, row.label) in memory]
    if not known:
        return None
    known.sort(key=lambda pair: (pair[0], -_metric(pair[1], choice)))
    front: list[tuple[float, Row]] = []
    for size, row in known:
        if not front or _metric(row, choice) > _metric(front[-1][1], choice):
            front.append((size, row))
    figure = go.Figure(layout=layout("Peak memory (GiB)", METRICS[choice.y][0]))
    for points, mode, role in ((known, "markers", 4), (front, "lines+markers", "calm")):
        figure.add_scatter(
            x=[size for size, _ in points],
            y=[_metric(row, choice) for _, row in points],
            mode=mode,
            meta=role,
            marker={"size": 8},
            hovertext=[f"{_hover(row, choice)}<br>{size:.2f} GiB" for size, row in points],
            hoverinfo="text",
        )
    return figure
