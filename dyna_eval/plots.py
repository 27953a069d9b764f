"""The ablation bar chart: throughput of each step with its interval, and the speedup written on its bar.

matplotlib is loaded only when a figure is drawn, and its global state is left as it was.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyna_eval.cells import one_line, pair_slugs
from dyna_eval.errors import InputError
from dyna_eval.jobs import Method
from dyna_eval.report import Report, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

CALM, ALARM = "#4477AA", "#CC3311"
"""Blue, and a red that colour-blind readers tell from it; slower bars are hatched as well, for grey print."""

_INK, _GREY = "#222222", "#777777"
_CHARACTER_INCHES = 0.072  # width of a character at the small size, on average
_BESIDE_INCHES = 1.2  # what the axis and the word beside the baseline take of the width
_CROWDED = 12  # characters under a bar; with fewer, labels are turned and remarks shortened
_SMALL = 7.5
_CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "SimHei")


def ablation_bars(report: Report, directory: Path) -> list[Path]:
    """Draw one bar chart per pair as PDF and PNG, and return the files written.

    Raises InputError if no row has figures, or if the directory cannot be written.
    """
    pairs = [pair for pair in report.pairs if any(row.figures for row in report.rows_of(pair))]
    if not pairs:
        raise InputError(f"sweep {report.name!r} has no finished row, so there is nothing to draw yet")
    slugs = pair_slugs(report)
    stems = {pair: f"ablation-{slugs[pair]}" if slugs[pair] else "ablation" for pair in pairs}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return [path for pair in pairs for path in _save(report.rows_of(pair), directory / stems[pair])]
    except OSError as error:
        raise InputError(f"{directory}: cannot write figures there: {error.strerror}") from error


def _save(rows: Sequence[Row], stem: Path) -> list[Path]:
    from matplotlib import rc_context  # noqa: PLC0415 (half a second that other commands need not pay)

    settings = {
        "font.family": _font_families(),
        "font.size": 9.0,
        "hatch.linewidth": 0.7,
        "pdf.fonttype": 42,  # embed TrueType, which publishers ask for
        "text.usetex": False,
    }
    with rc_context(settings):
        figure = draw(rows)
        pdf, png = stem.with_name(f"{stem.name}.pdf"), stem.with_name(f"{stem.name}.png")
        figure.savefig(pdf, metadata={"CreationDate": None})  # equal figures, equal files
        figure.savefig(png, dpi=200)
    return [pdf, png]


def _font_families() -> list[str]:
    """Return matplotlib's own font, and after it an installed one that has Chinese characters, if any."""
    from matplotlib.font_manager import fontManager  # noqa: PLC0415

    installed = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *[name for name in _CJK_FONTS if name in installed][:1]]


def draw(rows: Sequence[Row]) -> Figure:
    """Return the chart of one pair's rows, of which at least one has figures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    measured = [row for row in rows if row.figures]
    width = max(3.4, min(1.4 * len(measured), 9.0), _BESIDE_INCHES + 0.65 * len(measured))
    figure = Figure(figsize=(width, 3.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    characters = int((width - _BESIDE_INCHES) / len(measured) / _CHARACTER_INCHES)
    _draw_bars(axes, measured)
    _draw_baseline(axes, measured)
    _dress(axes, measured, characters)
    note = _note(rows, short_remarks=characters < _CROWDED)
    if note:
        axes.set_xlabel("\n".join(textwrap.wrap(note, int(width / _CHARACTER_INCHES))), parse_math=False)
        axes.xaxis.label.set(fontsize=_SMALL - 0.5, color=_GREY)
    _annotate(figure, axes, measured, characters)
    return figure


def _draw_bars(axes: Axes, rows: Sequence[Row]) -> None:
    for x, row in enumerate(rows):
        if row.figures is None:
            continue
        slower, rate = is_slower(row), row.figures.throughput
        axes.bar(
            x,
            rate.mean,
            width=0.62,
            color=ALARM if slower else CALM,
            edgecolor="white",
            hatch="///" if slower else None,
            linewidth=0,
            zorder=2,
        )
        if rate.interval:
            reach = [[max(0.0, rate.mean - rate.interval.low)], [max(0.0, rate.interval.high - rate.mean)]]
            axes.errorbar(x, rate.mean, yerr=reach, color=_INK, capsize=3, linewidth=0.9, zorder=3)


def _draw_baseline(axes: Axes, rows: Sequence[Row]) -> None:
    base = next((row.figures for row in rows if row.is_baseline), None)
    if base is None:
        return
    axes.axhline(base.throughput.mean, color=_GREY, linestyle=(0, (4, 3)), linewidth=0.9, zorder=1)
    axes.text(
        1.01,
        base.throughput.mean,
        "baseline",
        transform=axes.get_yaxis_transform(),
        color=_GREY,
        fontsize=_SMALL,
        verticalalignment="center",
    )


def _dress(axes: Axes, rows: Sequence[Row], characters: int) -> None:
    axes.set_ylabel("Throughput (tokens/s)")
    labels = [one_line(row.label) + ("*" if _is_doubtful(row) else "") for row in rows]
    crowded = characters < _CROWDED and max(map(len, labels)) > characters
    wrapped = ["\n".join(textwrap.wrap(label, 26 if crowded else characters)) for label in labels]
    axes.set_xticks(range(len(rows)), wrapped, parse_math=False)
    if crowded:
        axes.tick_params(axis="x", labelrotation=35, labelsize=_SMALL)
        for label in axes.get_xticklabels():
            label.set(horizontalalignment="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GREY)


def _annotate(figure: Figure, axes: Axes, rows: Sequence[Row], characters: int) -> None:
    """Write the speedup over each bar and, over that, why a bar is red; then make the axes tall enough."""
    tops = [_top(row) for row in rows]
    axes.set_ylim(0.0, 1.08 * max(tops))
    written = []
    for x, (row, top) in enumerate(zip(rows, tops, strict=True)):
        lift = 3.0
        if row.versus_baseline:
            written.append(
                (top, _write(axes, (x, top), f"{row.versus_baseline.ratio:.2f}×", lift, weight="bold"))
            )
            lift += 13.0
        remark = slow_remark(row, rows[x + 1] if x + 1 < len(rows) else None)
        if remark and characters < _CROWDED and row.versus_previous:
            remark = f"▼{row.versus_previous.ratio:.2f}×"
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
        **{"color": _INK} | style,
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


def _top(row: Row) -> float:
    if row.figures is None:
        return 0.0
    rate = row.figures.throughput
    return max(rate.mean, rate.interval.high) if rate.interval else rate.mean


def _note(rows: Sequence[Row], *, short_remarks: bool) -> str:
    """Say what short remarks mean, which bars are not to be trusted, and which rows are missing."""
    missing = [f"{one_line(row.label)} ({row.state})" for row in rows if row.figures is None]
    doubtful = [
        f"* {one_line(row.label)}: {one_line('; '.join(row.caveats))}." for row in rows if _is_doubtful(row)
    ]
    hatched = (
        ["▼: times the speed of the step before it."] if short_remarks and any(map(is_slower, rows)) else []
    )
    return " ".join(
        [*hatched, *doubtful, *([f"Not shown, no result yet: {', '.join(missing)}."] if missing else [])]
    )


def _is_doubtful(row: Row) -> bool:
    return row.figures is not None and (bool(row.mixed) or not row.is_exact)


def is_slower(row: Row) -> bool:
    """Whether a step is slower than the step before it, and not by chance alone as far as is known."""
    step = row.versus_previous
    return step is not None and step.ratio < 1.0 and step.separable is not False


def slow_remark(row: Row, following: Row | None) -> str | None:
    """Say why a bar is red: how slow the step is, and whether pruning mends it. None for other bars."""
    step = row.versus_previous
    if step is None or not is_slower(row):
        return None
    before = f"{step.ratio:.2f}× the step before it"
    text = f"slower than the step before it ({step.ratio:.2f}×)" if step.separable else before
    return f"{text}: pruning is essential" if following and _is_mended_by_pruning(row, following) else text


def _is_mended_by_pruning(row: Row, following: Row) -> bool:
    unpruned = row.method is Method.TREE and not row.params.get("threshold")
    pruned = following.method is Method.TREE and bool(following.params.get("threshold"))
    step = following.versus_previous
    return unpruned and pruned and step is not None and step.ratio > 1.0 and step.separable is True
