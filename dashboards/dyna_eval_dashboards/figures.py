"""The interactive figures: a report as Plotly figures, without colours, which come from the page's theme.

A trace's `meta` names its role (`calm`, `alarm`, or the number of a series); the page's script gives it the
role's colour, so that figures follow light and dark.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go

from dyna_eval.errors import NothingToDrawError
from dyna_eval.jobs import SweepState
from dyna_eval.reports.cells import configuration_text, interval_cell, speedup_cell
from dyna_eval.reports.claims import slower_steps
from dyna_eval.reports.digits import speedup
from dyna_eval.reports.report import Report, Row, baseline_of
from dyna_eval.series.costs import PHASE_NAMES, PHASES, cost_chart, phase_bars
from dyna_eval.series.drafts import depth_rates
from dyna_eval.series.measured import CUT_OFF, Entry, Estimate, Measured, top_of
from dyna_eval.wording import one_line, rate_text

MAX_ROWS = 400
"""Rows that a figure shows; more would be neither read nor fast."""
_COLOURS = 8
"""Series colours in the style sheet; further series have them again."""
_LABEL_CHARACTERS = 28
_NAMED_STEPS = 24
"""Steps up to which each bar has its speedup."""
_ABOVE = 0.16
"""Of an axis that ends before intervals do: room for the two lines over a bar."""
_MOST_PHASES, _MOST_CURVES = 100, 24
"""Rows of the phases, and of acceptance by depth."""
_USUAL_HEIGHT = 330
"""Pixels of a figure that does not ask for its own height, as in the style sheet."""
_LINE, _AROUND_LINES = 16, 140
"""Pixels of a row that is named at its left, and of what is over and under all of them."""
_NAMED_BARS = 6
"""Steps up to which bars and curves have names; more have the numbers of their steps."""
_NOT_IMPORTED = {"phases": "phase times", "depth": "acceptance by depth"}
"""What result files mostly do not tell, by the figure that it would make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A figure as Plotly's script takes it, and which rows it leaves out; an empty note where it has all.

    Where there is nothing to draw, `figure` is None and the note says why.
    """

    figure: dict[str, Any] | None
    note: str


def figures_of(report: Report, pair: str) -> dict[str, Shown]:
    """Return all figures of one pair that have something to show, by name."""
    made = {name: figure_of(report, pair, name) for name in FIGURES}
    return {name: shown for name, shown in made.items() if shown.figure is not None}


def figure_of(report: Report, pair: str, name: str) -> Shown:
    """Return one figure of a pair, or why there is none."""
    try:
        figure, note = FIGURES[name][1](Measured(report=report), pair)
    except NothingToDrawError as error:
        return Shown(figure=None, note=_nothing(report, pair, name, str(error)))
    return Shown(figure=plain(figure), note=note)


def _nothing(report: Report, pair: str, name: str, why: str) -> str:
    """Say why a figure has nothing to show, and "yet" only where rows are to come."""
    if report.state is SweepState.IMPORTED and name in _NOT_IMPORTED:
        return f"There is nothing to draw: the imported figures have no {_NOT_IMPORTED[name]}."
    is_to_come = any(row.state.is_to_come for row in report.rows_of(pair))
    return f"There is nothing to draw{' yet' if is_to_come else ''}: {why}."


def _first(shown: int, total: int, which: str) -> str:
    """Say which rows a figure shows, where these are not all."""
    return f"The first {shown:,} of {total:,} rows {which}." if shown < total else ""


def _note(*texts: str) -> str:
    return " ".join(filter(None, texts))


def plain(figure: go.Figure) -> dict[str, Any]:
    """Return a figure as Plotly's script takes it, without the template that Plotly's package adds."""
    found: dict[str, Any] = figure.to_plotly_json()
    found["layout"].pop("template", None)
    return found


def text(value: str) -> str:
    """Return text of any origin as Plotly shows it: it reads some HTML in labels."""
    return escape(one_line(value), quote=False)


def _short(entry: Entry) -> str:
    label = entry.label
    short = label if len(label) <= _LABEL_CHARACTERS else f"{label[: _LABEL_CHARACTERS - 1]}…"
    return text(f"{short}{entry.star}")


def layout(x: str, y: str, **more: Any) -> go.Layout:
    return go.Layout(
        template=None,
        xaxis={"title": {"text": x}, "automargin": True},
        yaxis={"title": {"text": y, "standoff": 12}, "automargin": True, "rangemode": "tozero"},
        margin={"l": 48, "r": 12, "t": 8, "b": 40},
        hovermode="closest",
        showlegend=False,
        **more,
    )


def _hover(row: Row) -> str:
    lines = [f"<b>{text(row.label)}</b>", text(configuration_text(row.method, row.params))]
    if row.figures:
        lines.append(f"{rate_text(row.figures.throughput.mean)} tokens/s")
    if row.versus_baseline:
        lines.append(f"speedup {speedup_cell(row)} {interval_cell(row.speedup_interval)}")
    return "<br>".join([*lines, *doubt_lines(Entry.of(row))])


def doubt_lines(entry: Entry) -> list[str]:
    """Return what a hover says last of a row that is in doubt, and nothing of others."""
    return [f"* {text(entry.doubt)}"] if entry.doubt else []


def _speedup(row: Row) -> str:
    known = speedup(row)
    return f"{known}×" if known else ""


def dash(number: int) -> str:
    """Return the dashes of a series, so that those of one colour differ."""
    return ("solid", "dash", "dot")[number // _COLOURS % 3]


def around(mean: float, low: float, high: float) -> tuple[float, float]:
    """Return how far an interval reaches above and below a mean."""
    return max(0.0, high - mean), max(0.0, mean - low)


def error_bars(errors: Sequence[tuple[float, float]], *, thickness: float, width: float) -> dict[str, object]:
    """Return how Plotly is told of intervals, each as `around` gives it; sizes in pixels."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [up for up, _ in errors],
        "arrayminus": [down for _, down in errors],
        "thickness": thickness,
        "width": width,
    }


def symbols(entries: Sequence[Entry], size: int) -> dict[str, object]:
    """Return how Plotly is told of points, of so many pixels: dots, and larger stars where in doubt."""
    return {
        "symbol": ["star" if entry.doubt else "circle" for entry in entries],
        "size": [size + 5 if entry.doubt else size for entry in entries],
    }


def ablation(measured: Measured, pair: str) -> tuple[go.Figure, str]:
    """Throughput of each step with its interval; steps measurably slower than the one before are hatched."""
    rows = measured.finished(pair)
    shown = list(rows[:MAX_ROWS])
    if not shown:
        raise NothingToDrawError("there is no finished row")
    rates = [
        Estimate(value=row.figures.throughput.mean, interval=row.figures.throughput.interval)
        for row in shown
        if row.figures
    ]
    end, is_cut = top_of(rates)
    errors = [around(rate.value, rate.low, min(rate.high, end)) for rate in rates]
    known_slower = slower_steps(shown)
    slower = [row.step in known_slower for row in shown]
    bars = go.Bar(
        x=[row.step for row in shown],
        y=[rate.value for rate in rates],
        error_y=error_bars(errors, thickness=1.2, width=3),
        marker={"pattern": {"shape": ["/" if slow else "" for slow in slower]}},
        hovertext=[_hover(row) for row in shown],
        hoverinfo="text",
        meta=["alarm" if slow else "calm" for slow in slower],
    )
    figure = go.Figure(bars, layout("", "Tokens/s"))
    if len(shown) <= _NAMED_STEPS:
        figure.add_scatter(
            x=[row.step for row in shown],
            y=[min(rate.high, end) for rate in rates],
            text=[
                _speedup(row) + Entry.of(row).star + ("<br>▲" if rate.high > end else "")
                for row, rate in zip(shown, rates, strict=True)
            ],
            mode="text",
            textposition="top center",
            hoverinfo="skip",
            cliponaxis=False,
        )
    if len(shown) <= _NAMED_BARS:
        names = ["<br>".join(map(text, textwrap.wrap(one_line(row.label), 14)[:3])) for row in shown]
        figure.update_xaxes(tickvals=[row.step for row in shown], ticktext=names, autotickangles=[0, 90])
    else:
        figure.update_xaxes(title_text="Step")
    base = baseline_of(rows)
    if base is not None and base.figures is not None:
        figure.add_hline(y=base.figures.throughput.mean, line={"dash": "dash", "width": 1})
    if is_cut:
        figure.update_yaxes(range=[0.0, end * (1.0 + _ABOVE)])
    return figure, _note(_first(len(shown), len(rows), "with a result"), CUT_OFF if is_cut else "")


def speedup_by_acceptance(measured: Measured, pair: str) -> tuple[go.Figure, str]:
    """Each row's speedup over its tokens per round: what a longer acceptance is worth."""
    rows = {row.step: row for row in measured.finished(pair)}
    known = cost_chart(measured, pair).points
    shown = known[:MAX_ROWS]
    speedups, lengths = [point.speedup for point in shown], [point.length.value for point in shown]
    points = go.Scatter(
        x=lengths,
        y=[speedup.value for speedup in speedups],
        error_y=error_bars(
            [around(speedup.value, speedup.low, speedup.high) for speedup in speedups], thickness=1, width=0
        ),
        mode="markers+text" if len(shown) <= _NAMED_STEPS else "markers",
        text=[f"{point.entry.step}{point.entry.star}" for point in shown],
        marker={"size": 18 if len(shown) <= _NAMED_STEPS else 8},
        hovertext=[_hover(rows[point.entry.step]) for point in shown],
        hoverinfo="text",
        meta="calm",
        cliponaxis=False,
    )
    figure = go.Figure(points, layout("Tokens per round (numbers: step)", "Speedup"))
    figure.add_hline(y=1, line={"dash": "dash", "width": 1})
    reach = max(0.5, 0.18 * (max(lengths) - min(lengths)))
    figure.update_xaxes(range=[min(lengths) - reach, max(lengths) + reach])
    end, is_cut = top_of(speedups)
    if is_cut:
        figure.update_yaxes(range=[0.0, end])
    left_out = _first(len(shown), len(known), "with a speedup and an acceptance length")
    return figure, _note(left_out, CUT_OFF if is_cut else "")


def phases(measured: Measured, pair: str) -> tuple[go.Figure, str]:
    """Where the time of decoding went, as shares of each row."""
    timed = [bar for bar in phase_bars(measured, pair) if bar.phases]
    shown = timed[:_MOST_PHASES]
    lines = list(range(len(shown)))
    height = _AROUND_LINES + _LINE * len(shown)
    figure = go.Figure(layout=layout("Share of decode time", "", barmode="stack"))
    if height > _USUAL_HEIGHT:
        figure.update_layout(height=height)
    for number, phase in enumerate(PHASES):
        name = PHASE_NAMES[phase]
        seconds = [dict(bar.phases).get(phase) for bar in shown]
        shares = [
            spent / bar.total.value if spent is not None else None
            for bar, spent in zip(shown, seconds, strict=True)
        ]
        figure.add_bar(
            y=lines,
            x=shares,
            orientation="h",
            name=name,
            meta=number,
            hovertext=[
                "<br>".join(
                    [f"<b>{text(bar.entry.label)}</b>", f"{name} {share:.1%}", *doubt_lines(bar.entry)]
                )
                if share is not None
                else ""
                for bar, share in zip(shown, shares, strict=True)
            ],
            hoverinfo="text",
        )
    figure.update_xaxes(tickformat=".0%", range=[0, 1])
    figure.update_yaxes(
        tickvals=lines,
        ticktext=[_short(bar.entry) for bar in shown],
        range=[len(shown) - 0.5, -0.5],
    )
    figure.update_layout(
        showlegend=True,
        legend={
            "orientation": "h",
            "y": 1.0 + 0.02 * _USUAL_HEIGHT / max(height, _USUAL_HEIGHT),
            "yanchor": "bottom",
            "x": 0,
            "traceorder": "normal",
        },
    )
    return figure, _first(len(shown), len(timed), "whose phases were timed")


def acceptance_by_depth(measured: Measured, pair: str) -> tuple[go.Figure, str]:
    """Share of rounds that accepted at least 1, 2, ... draft tokens."""
    known = depth_rates(measured, pair)
    shown = known[:_MOST_CURVES]
    figure = go.Figure(layout=layout("Draft depth", "Share of rounds that accept it"))
    for number, row in enumerate(shown):
        figure.add_scatter(
            x=list(range(1, len(row.marginal) + 1)),
            y=[rate.value for rate in row.marginal],
            mode="lines+markers",
            name=_short(row.entry) if len(shown) <= _NAMED_BARS else f"step {row.entry.step}{row.entry.star}",
            meta=number,
            line={"dash": dash(number)},
            hovertemplate="<br>".join(
                [text(row.entry.label), "depth %{x}: %{y:.1%}", *doubt_lines(row.entry)]
            )
            + "<extra></extra>",
        )
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})
    figure.update_yaxes(tickformat=".0%", range=[0, 1.02])
    figure.update_xaxes(dtick=1)
    return figure, _first(len(shown), len(known), "that draft")


FIGURES: dict[str, tuple[str, Callable[[Measured, str], tuple[go.Figure, str]]]] = {
    "ablation": ("Throughput of each step", ablation),
    "speedup": ("Speedup against acceptance", speedup_by_acceptance),
    "phases": ("Where the time goes", phases),
    "depth": ("Acceptance by depth", acceptance_by_depth),
}
"""Title and maker of every figure of a pair, by its name in addresses.

A maker returns the figure with a note of what it leaves out, and raises NothingToDrawError where it has
nothing to show."""
