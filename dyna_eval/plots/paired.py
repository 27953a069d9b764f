"""Each prompt's own speedup over the baseline, as dots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dyna_eval.plots import look
from dyna_eval.plots.look import BODY, CALM, INK, SMALL
from dyna_eval.reports.digits import factor
from dyna_eval.reports.report import Report
from dyna_eval.series.measured import CUT_OFF, baselines, doubts, undrawn
from dyna_eval.series.paired import PairedSpeedups, why_unpaired

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GOLDEN = 0.618034  # its multiples spread dots evenly
_WIDE = 8.0  # ratio of the highest to the lowest from which the axis is logarithmic
_REACH = 2.5  # times the highest dot, and one over that of the lowest: intervals beyond are cut
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
_DECADES = (0.001, 0.01, 0.1, 1, 10, 100, 1000)


def draw_paired(rows: Sequence[PairedSpeedups], report: Report) -> Figure:
    """Return a line of dots for each row, one per prompt, with the geometric mean and its interval."""
    entries = [row.entry for row in rows]
    figure, axes = look.list_figure(entries)
    axes.axvline(1.0, **look.BASELINE)
    for y, row in enumerate(rows):
        ratios = [ratio for _, ratio in row.ratios]
        heights = [y + 0.56 * ((place * _GOLDEN) % 1.0 - 0.5) for place in range(1, len(ratios) + 1)]
        axes.plot(
            ratios,
            heights,
            "o",
            color=CALM,
            markersize=3.0 if len(ratios) <= 50 else 1.8,
            markeredgecolor="white",
            markeredgewidth=0.3,
            zorder=2,
        )
        _draw_mean(axes, y, row)
    cut = _scale(axes, rows)
    axes.set_xlabel("Speedup per prompt (×)", fontsize=BODY)
    texts = [
        "Dots: prompts. Diamond and number: their geometric mean (the table has the ratio of means);"
        " open where its interval contains 1."
    ]
    look.write_note(
        figure,
        [
            *texts,
            look.intervals_note(report, [row.geometric_mean for row in rows]),
            CUT_OFF if cut else "",
            look.undrawn_note(undrawn(report, entries, why_unpaired)),
            *doubts(entries, over=baselines(report, entries)),
        ],
    )
    return figure


def _draw_mean(axes: Axes, y: int, row: PairedSpeedups) -> None:
    mean = row.geometric_mean
    look.whisker(axes, mean.value, y, mean, along="x", linewidth=1.3, capthick=1.3, capsize=3.0)
    separable = mean.interval is not None and mean.interval.excludes(1.0)
    axes.plot(
        mean.value,
        y,
        "D",
        markersize=4.6,
        color=INK,
        markerfacecolor=INK if separable else "white",
        markeredgewidth=0.9,
        zorder=5,
    )
    look.beside(axes, y, f"{factor(mean.value)}×")


def _scale(axes: Axes, rows: Sequence[PairedSpeedups]) -> bool:
    """Let all dots be seen, and intervals as far as that leaves room; return whether some are cut."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator  # noqa: PLC0415

    ratios, means = [ratio for row in rows for _, ratio in row.ratios], [row.geometric_mean for row in rows]
    lowest, highest = min(*ratios, 1.0), max(*ratios, 1.0)
    low = min(lowest, max(lowest / _REACH, min(mean.low for mean in means)))
    high = max(highest, min(highest * _REACH, max(mean.high for mean in means)))
    cut = any(mean.low < low or mean.high > high for mean in means)
    if high / low < _WIDE:
        axes.set_xlim(max(0.0, low - 0.06 * (high - low)), high + 0.06 * (high - low))
        return cut
    axes.set_xscale("log")
    axes.set_xlim(low / 1.15, high * 1.15)
    ticks = _TICKS if high / low < 200 else _DECADES
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low / 1.15 <= tick <= high * 1.15]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", labelsize=SMALL)
    return cut
