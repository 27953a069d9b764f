"""The ablation bars: throughput of each step with its interval, and the speedup written on its bar."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dyna_eval.jobs import Configuration
from dyna_eval.plots import look
from dyna_eval.plots.look import ALARM, BODY, CALM, FAINT, GREY, INK, SMALL, TINY
from dyna_eval.reports import digits
from dyna_eval.reports.claims import Claim, claim_between, slower_steps
from dyna_eval.reports.presets import is_pruned_tree, is_unpruned_tree
from dyna_eval.reports.report import Report, Row
from dyna_eval.series.measured import (
    CUT_OFF,
    MOST_BARS_ABREAST,
    Entry,
    Estimate,
    baselines,
    doubts,
    top_of,
    undrawn,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

_CHARACTER_INCHES = 0.072  # width of a character at the small size, on average
_BESIDE_INCHES = 1.2  # what the axis and the word beside the baseline take of the width
_CROWDED = 12  # characters under a bar; with fewer, labels are turned and remarks shortened
_TURNED_CHARACTERS = 26  # in a line of a turned label
_SMALL = 7.5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bar:
    """A row that has a result, and its throughput."""

    row: Row
    rate: Estimate
    is_slower: bool
    """Whether it is measurably slower than the step before it."""

    @property
    def color(self) -> str:
        return ALARM if self.is_slower else CALM

    @property
    def speedup(self) -> str:
        """Empty where it is not known."""
        known = digits.speedup(self.row)
        return f"{known}×" if known else ""

    @property
    def short_remark(self) -> str:
        """How slow a slower step is; empty for others."""
        step = self.row.versus_previous
        return f"▼{digits.factor(step.ratio)}×" if step and self.is_slower else ""


def draw(rows: Sequence[Row], report: Report) -> Figure:
    """Return the chart of the report's rows of one pair, of which at least one has figures."""
    slower = slower_steps(rows)
    bars = [
        _Bar(
            row=row,
            rate=Estimate(value=known.throughput.mean, interval=known.throughput.interval),
            is_slower=row.step in slower,
        )
        for row in rows
        if (known := row.figures) is not None
    ]
    if len(bars) > MOST_BARS_ABREAST:
        return _draw_list(bars, report)
    width = max(3.4, min(1.4 * len(bars), 9.0), _BESIDE_INCHES + 0.65 * len(bars))
    figure = look.new_figure(width, 3.3)
    axes = figure.add_subplot()
    characters = int((width - _BESIDE_INCHES) / len(bars) / _CHARACTER_INCHES)
    limit, cut = top_of([bar.rate for bar in bars])
    _draw_bars(axes, bars, limit)
    _draw_baseline(axes, bars)
    _dress(axes, bars, characters)
    look.write_note(figure, _notes(bars, report, cut=cut, short_remarks=characters < _CROWDED))
    _annotate(figure, axes, bars, characters, limit)
    return figure


def _draw_list(bars: Sequence[_Bar], report: Report) -> Figure:
    """Return the chart of many rows, bars one under another; speedups and remarks stand at the right."""
    figure, axes = look.list_figure([Entry.of(bar.row) for bar in bars], pitch=0.24)
    for y, bar in enumerate(bars):
        hatch = "////" if bar.is_slower else None
        axes.barh(
            y, bar.rate.value, height=0.66, color=bar.color, edgecolor="white", hatch=hatch, linewidth=0
        )
        look.whisker(axes, bar.rate.value, y, bar.rate, along="x")
        text = "  ".join(filter(None, (bar.speedup, bar.short_remark)))
        look.beside(axes, y, text, color=ALARM if bar.is_slower else INK)
    base = next((bar.rate for bar in bars if bar.row.is_baseline), None)
    if base is not None:
        axes.axvline(base.value, **look.BASELINE)
    limit, cut = top_of([bar.rate for bar in bars])
    axes.set_xlim(0.0, limit)
    axes.set_xlabel("Throughput (tokens/s)")
    legend = "Dashed: the baseline. At the right: speedup."
    look.write_note(figure, [legend, *_notes(bars, report, cut=cut, short_remarks=True)])
    return figure


def _draw_bars(axes: Axes, bars: Sequence[_Bar], limit: float) -> None:
    for x, bar in enumerate(bars):
        axes.bar(
            x,
            bar.rate.value,
            width=0.62,
            color=bar.color,
            edgecolor="white",
            hatch="///" if bar.is_slower else None,
            linewidth=0,
            zorder=2,
        )
        style = {"capsize": 3.0, "capthick": 1.0, "linewidth": 0.9, "zorder": 3}
        look.whisker(axes, x, bar.rate.value, bar.rate, along="y", end=limit, **style)


def _draw_baseline(axes: Axes, bars: Sequence[_Bar]) -> None:
    base = next((bar.rate for bar in bars if bar.row.is_baseline), None)
    if base is None:
        return
    axes.axhline(base.value, **look.BASELINE)
    axes.text(
        1.01,
        base.value,
        "baseline",
        transform=axes.get_yaxis_transform(),
        color=GREY,
        fontsize=_SMALL,
        verticalalignment="center",
    )


def _dress(axes: Axes, bars: Sequence[_Bar], characters: int) -> None:
    axes.set_ylabel("Throughput (tokens/s)")
    entries = [Entry.of(bar.row) for bar in bars]
    size = _size_of_labels(entries, characters)
    room = int(characters * BODY / size) if size else _TURNED_CHARACTERS
    wrapped = ["\n".join(textwrap.wrap(entry.label, room)) + entry.star for entry in entries]
    axes.set_xticks(range(len(bars)), wrapped, parse_math=False)
    axes.tick_params(axis="x", labelsize=size or _SMALL)
    if size is None:
        axes.tick_params(axis="x", labelrotation=35)
        for label in axes.get_xticklabels():
            label.set(horizontalalignment="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, len(bars) - 0.4)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)


def _size_of_labels(entries: Sequence[Entry], characters: int) -> float | None:
    """Return the size of type in which no label is broken inside a word; None where labels must be turned.

    `characters` have room under a bar in the largest size.
    """
    labels = [entry.starred for entry in entries]
    if characters < _CROWDED and max(map(len, labels)) > characters:
        return None
    words = [word for label in labels for word in textwrap.wrap(label, 1, break_long_words=False)]
    longest = max(map(len, words), default=0)
    return next((size for size in (BODY, SMALL, TINY) if longest <= int(characters * BODY / size)), None)


def _annotate(figure: Figure, axes: Axes, bars: Sequence[_Bar], characters: int, limit: float) -> None:
    """Write the speedup over each bar and, over that, why a bar is red; then make the axes tall enough.

    Whiskers end at the limit, so no text stands higher.
    """
    axes.set_ylim(0.0, limit)
    written = []
    for x, bar in enumerate(bars):
        top, lift = min(bar.rate.high, limit), 3.0
        if bar.speedup:
            written.append((top, _write(axes, (x, top), bar.speedup, lift, weight="bold")))
            lift += 13.0
        following = bars[x + 1].row if x + 1 < len(bars) else None
        remark = bar.short_remark if characters < _CROWDED else _remark(bar, following)
        if remark:
            lines = "\n".join(textwrap.wrap(remark, characters, break_long_words=False))
            written.append((top, _write(axes, (x, top), lines, lift, color=ALARM, fontsize=_SMALL)))
    _make_room(figure, axes, written)


def _write(axes: Axes, at: tuple[float, float], text: str, lift: float, **style: Any) -> Text:
    """Write text centred `lift` points over a data point, on white so that lines behind do not cross it."""
    return axes.annotate(
        text,
        at,
        xytext=(0.0, lift),
        textcoords="offset points",
        horizontalalignment="center",
        verticalalignment="bottom",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
        zorder=4,
        **{"color": INK} | style,
    )


def _make_room(figure: Figure, axes: Axes, written: Sequence[tuple[float, Text]]) -> None:
    """Raise the upper limit until each text, of fixed height over its data point, ends inside the axes."""
    figure.draw_without_rendering()
    bottom, height = axes.get_window_extent().y0, axes.get_window_extent().height
    limit = axes.get_ylim()[1]
    needed = limit
    for top, text in written:
        over = text.get_window_extent().y1 - bottom - top / limit * height
        needed = max(needed, top * height / max(height - over, 0.25 * height))
    axes.set_ylim(0.0, needed)


def _notes(bars: Sequence[_Bar], report: Report, *, cut: bool, short_remarks: bool) -> list[str]:
    """Say what remarks and whiskers mean, which rows are missing, and which bars are not to be trusted."""
    is_short = short_remarks and any(bar.is_slower for bar in bars)
    entries = [Entry.of(bar.row) for bar in bars]
    return [
        "▼: times the speed of the step before it." if is_short else "",
        look.intervals_note(report, [bar.rate for bar in bars]),
        CUT_OFF if cut else "",
        look.undrawn_note(undrawn(report, entries)),
        *doubts(entries, over=baselines(report, entries)),
    ]


def _remark(bar: _Bar, following: Row | None) -> str:
    """Say why a bar is red: how slow the step is, and whether pruning mends it; nothing of other bars."""
    step = bar.row.versus_previous
    if step is None or not bar.is_slower:
        return ""
    text = f"slower than the step before it ({digits.factor(step.ratio)}×)"
    return (
        f"{text}: pruning is essential" if following and _is_mended_by_pruning(bar.row, following) else text
    )


def _is_mended_by_pruning(row: Row, following: Row) -> bool:
    """Whether a tree that grew whole is followed by a pruned one that is measurably faster."""
    if not is_unpruned_tree(_configuration(row)) or not is_pruned_tree(_configuration(following)):
        return False
    return claim_between(following, row, following.versus_previous) is Claim.IMPROVES


def _configuration(row: Row) -> Configuration:
    return Configuration(label=row.label, method=row.method, params=row.params)
