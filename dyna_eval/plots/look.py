"""The one look of all figures: sizes, colours with a second channel for grey print, labels, notes, files.

Sizes are those of a paper: one column is 3.4 inches wide, the page 7, text 6 to 8 points at that size.
matplotlib is loaded when a figure is drawn, by its objects alone; its global state is left as it was.
"""

from __future__ import annotations

import io
import os
import textwrap
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dyna_eval.errors import InputError
from dyna_eval.mistakes import shown
from dyna_eval.reports.cells import confidence_level
from dyna_eval.reports.report import Report
from dyna_eval.series.measured import Entry, Estimate, Undrawn
from dyna_eval.whole_file import write_whole
from dyna_eval.wording import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN, PAGE = 3.4, 7.0  # inches
BODY, SMALL, TINY = 8.0, 7.0, 6.0  # points

INK, GREY, FAINT = "#222222", "#777777", "#E6E6E6"
CALM, ALARM = "#4477AA", "#CC3311"
"""Blue, and a red that colour-blind readers tell from it; what is red is hatched as well, for grey print."""

BASELINE: Mapping[str, Any] = {"color": GREY, "linestyle": (0, (4, 3)), "linewidth": 0.9, "zorder": 1}
"""How a line is drawn at what rows are compared with."""

SERIES = ("#20407F", "#E08A3C", "#6B1F4E", "#45A9A0", "#3A3A3A", "#C78BB5", "#5C6B1E", "#7FB2E5")
"""For what has no order: dark and light take turns, so that neighbours differ in grey as well."""
_RAMP = ("#9CC3E6", "#10264A")  # for what has an order: light to dark
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))

FORMATS = ("pdf", "svg", "png")
_NAMED = 4  # rows that a note names; of more it tells the number
_LINE_INCHES = 0.1  # of the note; figures have room for two lines of it
_LEADING = 1.35  # from line to line of a label and to the next one, by the size of its type
_MOST_LINES = 6  # of a name that is to be told from others
_LAYOUT_PASSES = 3  # room for labels changes the axes, which changes the room
_CHARACTER_EMS = 0.56  # width of a character on average
_CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "SimHei")

_DRAWING = threading.Lock()
"""Held while a figure is drawn: matplotlib's settings, which are then the figure's, are all threads'."""


# --------------------------------------------------------------- figures and files


def require_matplotlib() -> None:
    """Load matplotlib; raise InputError where the environment names a backend that it does not know."""
    try:
        import matplotlib  # noqa: F401, PLC0415
    except ValueError as error:
        backend = os.environ.get("MPLBACKEND")
        if not backend:
            raise
        raise InputError(
            f"MPLBACKEND is {shown(backend)}, which matplotlib does not know; unset it: figures need none"
        ) from error


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches, that lays itself out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(draw: Callable[[], Figure], stem: Path, *, title: str, origin: str) -> list[Path]:
    """Draw a figure and write it as PDF, SVG and PNG; equal figures give equal files.

    `title` and `origin` (sweep and digest) go into the files' metadata. Raises OSError.
    """
    from matplotlib import rc_context  # noqa: PLC0415 (half a second that other commands need not pay)

    settings = {
        "font.family": _font_families(),
        "font.size": BODY,
        "axes.linewidth": 0.7,
        "axes.unicode_minus": False,
        "hatch.linewidth": 0.6,
        "lines.linewidth": 1.2,
        "pdf.fonttype": 42,  # embed TrueType, which publishers ask for
        "svg.fonttype": "path",  # looks the same where the font is not installed
        "svg.hashsalt": f"{title} {origin}",
        "text.hinting": "none",  # as wide at each resolution, so that labels end where the layout found room
        "text.usetex": False,
    }
    metadata: Mapping[str, Mapping[str, str | None]] = {
        "pdf": {"Title": title, "Subject": origin, "Creator": "dyna-eval", "CreationDate": None},
        "svg": {"Title": title, "Description": origin, "Creator": "dyna-eval", "Date": None},
        "png": {"Title": title, "Description": origin, "Software": "dyna-eval"},
    }
    paths = [stem.with_name(f"{stem.name}.{form}") for form in FORMATS]
    with _DRAWING, rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box stands for it
        figure = draw()
        settle(figure)
        for path, form in zip(paths, FORMATS, strict=True):
            drawn = io.BytesIO()  # on a full disk matplotlib would fail in a way of its own
            figure.savefig(drawn, format=form, dpi=200, metadata=metadata[form])
            write_whole(path, drawn.getvalue())
    return paths


def settle(figure: Figure) -> None:
    """Lay a figure out for good, so that all its files look the same."""
    for _ in range(_LAYOUT_PASSES):
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _font_families() -> list[str]:
    """Return matplotlib's own font, and after it an installed one that has Chinese characters, if any."""
    from matplotlib.font_manager import fontManager  # noqa: PLC0415

    installed = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *[name for name in _CJK_FONTS if name in installed][:1]]


# ------------------------------------------------------------------------ colours


def series_colors(count: int, *, ordered: bool) -> list[str]:
    """Return a colour for each of several series: a ramp where they have an order, else in turns."""
    if not ordered or count == 1:
        return [SERIES[i % len(SERIES)] for i in range(count)]
    light, dark = (_channels(color) for color in _RAMP)
    steps = [i / (count - 1) for i in range(count)]
    return [
        "#" + "".join(f"{round(a + (b - a) * t):02X}" for a, b in zip(light, dark, strict=True))
        for t in steps
    ]


def _channels(color: str) -> list[int]:
    return [int(color[i : i + 2], 16) for i in (1, 3, 5)]


def lightness(color: str) -> float:
    """Return CIE L* of a colour `#RRGGBB`, 0 (black) to 100 (white): what grey print leaves of it."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (channel / 255 for channel in _channels(color))
    ]
    y = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return float(116 * y ** (1 / 3) - 16) if y > 0.008856 else 903.3 * y


# ------------------------------------------------------------------ text and notes


def characters(inches: float, points: float) -> int:
    """Return how many characters of a size fit into a width."""
    return max(4, int(inches * 72 / (points * _CHARACTER_EMS)))


def wrapped(text: str, width: int, lines: int = 2) -> str:
    """Return text in at most so many lines of a width; what does not fit ends in an ellipsis."""
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))


def apart(texts: Sequence[str], width: int, lines: int = 2, *, most: int = _MOST_LINES) -> list[str]:
    """Return texts as `wrapped`, in up to `most` lines where two of them would be cut to the same."""
    found = [wrapped(text, width, lines) for text in texts]
    for more in range(lines + 1, most + 1):
        alike = _alike(found, texts)
        found = [
            wrapped(text, width, more) if one in alike else one
            for one, text in zip(found, texts, strict=True)
        ]
    return found


def row_labels(entries: Sequence[Entry], width: int, lines: int = 2) -> list[str]:
    """Return rows' labels, in at most so many lines or, where that tells two apart, one more.

    Those that cannot be told apart even so have their steps before them. A star is never cut off.
    """
    texts = [entry.label for entry in entries]
    found = apart(texts, width, lines, most=lines + 1)
    alike = _alike(found, texts)
    return [
        (wrapped(f"{entry.step}: {entry.label}", width, lines) if one in alike else one) + entry.star
        for one, entry in zip(found, entries, strict=True)
    ]


def _alike(found: Sequence[str], texts: Sequence[str]) -> set[str]:
    """Return what stands for several different texts."""
    stands_for: dict[str, set[str]] = {}
    for one, text in zip(found, texts, strict=True):
        stands_for.setdefault(one, set()).add(text)
    return {one for one, own in stands_for.items() if len(own) > 1}


def literal(text: str) -> str:
    """Return text that is printed as it stands where `parse_math` does not reach: in ticks of shared axes."""
    return text.replace("$", r"\$")


def intervals_note(report: Report, known: Iterable[Estimate]) -> str:
    """Say at which confidence the intervals of a figure are; nothing where it has none."""
    if not any(one.interval for one in known):
        return ""
    return f"Intervals: {confidence_level(report.confidence)}."


def left_out_note(labels: Sequence[str], why: str) -> str:
    """Say how many rows a figure leaves out, and which where they are few."""
    if not labels:
        return ""
    names = f" ({', '.join(labels)})" if len(labels) <= _NAMED else ""
    return f"Not drawn{names}: {count(len(labels), 'row')} {why}."


def undrawn_note(rows: Sequence[Undrawn]) -> str:
    """Name the rows that are not drawn, each with why, or where they are many count them by their reasons."""
    if not rows:
        return ""
    if len(rows) <= _NAMED:
        return f"Not drawn: {', '.join(map(str, rows))}."
    reasons = Counter(row.why for row in rows)
    counts = [f"{count(times, 'row')} ({why})" for why, times in reasons.items()]
    return f"Not drawn: {', '.join(counts)}."


def write_note(figure: Figure, texts: Iterable[str]) -> None:
    """Write small grey text under a figure."""
    note = " ".join(filter(None, texts))
    if note:
        width = characters(figure.get_figwidth() - 0.1, TINY)
        lines = textwrap.wrap(note.replace(" %", "\N{NO-BREAK SPACE}%"), width)
        figure.set_figheight(figure.get_figheight() + _LINE_INCHES * (len(lines) - 2))
        figure.supxlabel(
            "\n".join(lines), x=0.01, horizontalalignment="left", fontsize=TINY, color=GREY, parse_math=False
        )


# --------------------------------------------------------------------------- axes


def dress(axes: Axes, *, grid: Literal["x", "y", "both"] = "y") -> None:
    """Give axes the common look."""
    axes.grid(axis=grid, color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(labelsize=SMALL, color=GREY, length=2.5, width=0.6)


def title_below(grid: Any, panels: int, title: str, inches: float) -> None:
    """Write ticks and the title of the common x below each column of panels, which is so wide.

    `grid` are axes of shape (lines, columns), of which the first `panels` are in use.
    """
    lines, columns = grid.shape
    in_last_line = panels - (lines - 1) * columns
    for column in range(columns):
        axes = grid[lines - 1 if column < in_last_line else lines - 2, column]
        axes.tick_params(labelbottom=True)
        axes.set_xlabel(wrapped(title, characters(inches, SMALL)), fontsize=SMALL)


def list_figure(entries: Sequence[Entry], *, pitch: float = 0.3, above: float = 0.0) -> tuple[Figure, Axes]:
    """Return a figure with a line for each row from top to bottom, its label at the left.

    The line of row i is at y = i, and `pitch` is its height in inches where rows are few and labels short.
    `above` are the inches that a legend takes.
    """
    width, size = (COLUMN, SMALL) if len(entries) <= 8 else (5.2, TINY)
    texts = row_labels(entries, characters(0.36 * width, size))
    pitch = pitch if len(entries) <= 16 else pitch * 0.75
    lines = max(text.count("\n") + 1 for text in texts)
    needed = above + lines * size * _LEADING / 72 * len(entries)
    figure = new_figure(width, 0.95 + max(pitch * len(entries), needed))
    axes = figure.add_subplot()
    dress(axes, grid="x")
    axes.set_yticks(range(len(entries)), texts, parse_math=False)
    axes.tick_params(axis="y", length=0, labelsize=size)
    axes.set_ylim(len(entries) - 0.45, -0.55)
    return figure, axes


def whisker(
    axes: Axes,
    x: float,
    y: float,
    known: Estimate,
    *,
    along: str,
    end: float = float("inf"),
    **style: Any,
) -> None:
    """Draw an interval `along` x or y, around a point; nothing where it is not known.

    One that reaches beyond `end` has an arrow there.
    """
    if known.interval is None:
        return
    options: dict[str, Any] = {"color": INK, "capsize": 2.0, "linewidth": 0.8, "capthick": 0.8, "zorder": 4}
    options[f"{along}err"] = [[known.value - known.low], [min(known.high, end) - known.value]]
    _, caps, _ = axes.errorbar(x, y, fmt="none", **(options | style))
    if known.high > end:
        caps[-1].set(marker=">" if along == "x" else "^", markersize=4.5, markeredgewidth=0.0)


def beside(axes: Axes, y: float, text: str, **style: Any) -> None:
    """Write a number at the right edge of a list's line."""
    axes.text(
        1.01,
        y,
        text,
        transform=axes.get_yaxis_transform(),
        verticalalignment="center",
        fontsize=TINY,
        **({"color": INK} | style),
    )


def fitting_ticks(positions: Sequence[float], texts: Sequence[str], inches: float) -> list[str]:
    """Return the texts of ticks, empty where one would touch that before it; positions are within 0 to 1."""
    kept, end = [], -1.0
    for position, text in zip(positions, texts, strict=True):
        half = 0.5 * (len(text) * SMALL * _CHARACTER_EMS / 72 + 0.04)
        fits = position * inches - half >= end
        kept.append(text if fits else "")
        end = position * inches + half if fits else end
    return kept


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return places near the wanted ones, in the same order, at least `gap` apart and within the bounds.

    Where so many do not fit they share the bounds evenly.
    """
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = [0.0] * len(wanted)
    floor = low
    for i in order:
        places[i] = floor = max(wanted[i], floor)
        floor += gap
    ceiling = high
    for i in reversed(order):
        places[i] = ceiling = min(places[i], ceiling)
        ceiling -= gap
    return places


def readable(color: str) -> str:
    """Return a colour dark enough for small text on white: as it is, or darkened."""
    if lightness(color) <= 52:
        return color
    share = 52 / lightness(color)
    return "#" + "".join(f"{round(channel * share):02X}" for channel in _channels(color))
