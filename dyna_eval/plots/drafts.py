"""How deep drafts are accepted, and how large their trees are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from typing import TYPE_CHECKING

from dyna_eval.plots import look
from dyna_eval.plots.look import ALARM, BODY, CALM, INK, SERIES, SMALL, TINY
from dyna_eval.reports.report import Report
from dyna_eval.series.drafts import DepthRates, TreeSizes, why_no_rates, why_no_sizes
from dyna_eval.series.measured import Estimate, doubts, undrawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACROSS = 5  # panels beside each other
_WIDE = 40  # nodes of the largest tree, from which their axis is logarithmic
_TALLEST = 0.7  # of a line's height, for its highest bar


def draw_depths(rows: Sequence[DepthRates], report: Report) -> Figure:
    """Return a small panel per row: the shares of rounds that accepted each depth, both ways."""
    columns = min(_ACROSS, len(rows)) if len(rows) != 4 else 2
    lines = -(-len(rows) // columns)
    width = look.COLUMN if columns <= 2 else look.PAGE * min(1.0, (columns + 0.5) / _ACROSS)
    figure = look.new_figure(width, 0.75 + lines * 1.3)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    deepest = max(len(row.marginal) for row in rows)
    room = look.characters((width - 0.4) / columns - 0.15, TINY)
    titles = look.row_labels([row.entry for row in rows], room, 3)
    for index, axes in enumerate(grid.flat):
        if index >= len(rows):
            axes.set_visible(False)
            continue
        look.dress(axes, grid="both")
        _draw_rates(axes, rows[index].marginal, SERIES[0], "o", "-", shift=-0.06)
        _draw_rates(axes, rows[index].conditional, SERIES[1], "s", (0, (3, 1.2)), shift=0.06)
        axes.set_title(titles[index], fontsize=TINY, pad=2.5, parse_math=False)
    first = grid[0, 0]
    first.set_xlim(0.6, deepest + 0.4)
    first.set_ylim(0.0, 1.05)
    first.set_xticks(range(1, deepest + 1, 1 if deepest <= 8 else -(-deepest // 8)))
    first.set_yticks([0.0, 0.5, 1.0], ["0", "0.5", "1"])
    look.title_below(grid, len(rows), "Depth (tokens)", (width - 0.5) / columns)
    figure.supylabel("Share of rounds", fontsize=BODY)
    _rates_legend(figure)
    rates = [rate for row in rows for rate in (*row.marginal, *row.conditional)]
    intervals = look.intervals_note(report, rates)
    entries = [row.entry for row in rows]
    notes = [
        intervals,
        "None where a prompt never got so deep." if intervals else "",
        look.undrawn_note(undrawn(report, entries, why_no_rates)),
    ]
    look.write_note(figure, [*notes, *doubts(entries)])
    return figure


def _draw_rates(
    axes: Axes, rates: Sequence[Estimate], color: str, marker: str, dashes: object, *, shift: float
) -> None:
    depths = [depth + shift for depth in range(1, len(rates) + 1)]
    for x, rate in zip(depths, rates, strict=True):
        look.whisker(axes, x, rate.value, rate, along="y", color=color, capsize=1.4, linewidth=0.7)
    axes.plot(
        depths,
        [rate.value for rate in rates],
        color=color,
        marker=marker,
        linestyle=dashes,
        markersize=3.0,
        linewidth=1.0,
        zorder=3,
    )


def _rates_legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D  # noqa: PLC0415

    styles = [(SERIES[0], "o", "-"), (SERIES[1], "s", (0, (3, 1.2)))]
    figure.legend(
        [Line2D([], [], color=c, marker=m, linestyle=d, markersize=3.5, linewidth=1.0) for c, m, d in styles],
        ["accepted at this depth (marginal)", "given the depth before (conditional)"],
        loc="outside upper center",
        ncols=2 if figure.get_figwidth() > 4 else 1,
        fontsize=SMALL,
        frameon=False,
        handlelength=2.8,
    )


def draw_tree_sizes(rows: Sequence[TreeSizes], report: Report) -> Figure:
    """Return the distribution of verified nodes per round, a line for each row, with its mean."""
    entries = [row.entry for row in rows]
    figure, axes = look.list_figure(entries, pitch=0.34)
    axis = _NodeAxis(largest=max(nodes for row in rows for nodes, _ in row.rounds))
    for y, row in enumerate(rows):
        _draw_sizes(axes, y, row, axis)
        look.beside(axes, y, f"{row.mean:.1f}")
    axes.set_xlim(axis.place(-0.6), axis.place(axis.largest + max(0.6, 0.06 * axis.largest)))
    axes.set_xticks([axis.place(tick) for tick in axis.ticks()], [str(tick) for tick in axis.ticks()])
    axes.set_xlabel("Draft nodes verified per round", fontsize=BODY)
    texts = [
        "Heights: share of rounds, relative to the line's highest. Diamond and number: mean."
        " Triangle: median.",
        "Hatched: the node cap stopped growth in some rounds." if any(r.capped_share for r in rows) else "",
        "The axis is logarithmic; at large sizes a bar covers several." if axis.is_wide else "",
        look.undrawn_note(undrawn(report, entries, why_no_sizes)),
        *doubts(entries),
    ]
    look.write_note(figure, texts)
    return figure


@dataclass(frozen=True, slots=True, kw_only=True)
class _NodeAxis:
    """Numbers of nodes on an axis: as they are, or log2(nodes + 2) where the largest tree is large."""

    largest: int

    @property
    def is_wide(self) -> bool:
        return self.largest > _WIDE

    def place(self, nodes: float) -> float:
        return log2(nodes + 2) if self.is_wide else nodes

    def bins(self) -> list[tuple[int, int]]:
        """Return the first and the last number of nodes of every bar."""
        bins, first = [], 0
        while first <= self.largest:
            last = first + (max(1, first // 10) if self.is_wide else 1) - 1
            bins.append((first, last))
            first = last + 1
        return bins

    def ticks(self) -> list[int]:
        if self.is_wide:
            return [0, *(2**power for power in range(self.largest.bit_length()))]
        return list(range(0, self.largest + 1, max(1, -(-self.largest // 8))))


def _draw_sizes(axes: Axes, y: int, row: TreeSizes, axis: _NodeAxis) -> None:
    bins = [(first, last, _rounds_within(row, first, last)) for first, last in axis.bins()]
    highest = max(rounds for _, _, rounds in bins)
    foot = y + 0.4
    axes.axhline(foot, color=look.FAINT, linewidth=0.6, zorder=1)
    for first, last, rounds in bins:
        left, right = axis.place(first - 0.45), axis.place(last + 0.45)
        axes.bar(
            left,
            -_TALLEST * rounds / highest,
            bottom=foot,
            width=right - left,
            align="edge",
            color=CALM,
            linewidth=0,
            hatch="/////" if row.capped_share else None,
            edgecolor="white",
            zorder=2,
        )
    median = axis.place(row.quantile(0.5))
    axes.plot(median, foot - _TALLEST - 0.09, "v", color=INK, markersize=3.4, markeredgewidth=0, zorder=4)
    axes.plot(
        axis.place(row.mean),
        foot,
        "D",
        color=ALARM,
        markersize=3.6,
        markeredgecolor="white",
        markeredgewidth=0.4,
        zorder=5,
        clip_on=False,
    )


def _rounds_within(row: TreeSizes, first: int, last: int) -> int:
    return sum(rounds for nodes, rounds in row.rounds if first <= nodes <= last)
