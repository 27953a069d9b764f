"""A report as LaTeX: one booktabs table per pair, with a caption computed from its figures.

Needs `booktabs` and nothing else. Everything that a user wrote is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dyna_eval.cells import (
    UNKNOWN,
    Notes,
    Setting,
    count,
    interval_cell,
    method_name,
    one_line,
    pair_slugs,
    ranges,
    settings,
    slug,
    speedup_interval,
    throughput_cell,
)
from dyna_eval.report import Report, Row, best_row

_ESCAPES = {
    **{symbol: f"\\{symbol}" for symbol in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': "''",
    "−": "$-$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "→": r"$\rightarrow$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "δ": r"$\delta$",
    "ε": r"$\varepsilon$",
    "θ": r"$\theta$",
    "λ": r"$\lambda$",
    "μ": r"$\mu$",
    "π": r"$\pi$",
    "σ": r"$\sigma$",
    "τ": r"$\tau$",
}


_MATHS = {"τ": r"\tau", "≤": r"\leq "}


def escape_latex(text: str) -> str:
    """Return text that LaTeX prints as it stands, on one line; hyphens do not join into dashes."""
    escaped = "".join(_ESCAPES.get(character, character) for character in one_line(text))
    return re.sub("-(?=-)", "-{}", escaped)


def to_latex(report: Report) -> str:
    """Return one booktabs table per pair, each under a comment that says where its figures come from."""
    return "\n".join(_table(report, pair) for pair in report.pairs)


def _table(report: Report, pair: str) -> str:
    rows, notes = report.rows_of(pair), Notes.of(report, pair)
    best = best_row(rows)
    jobs = ranges(job for row in rows for job in row.job_ids)
    lines = [
        f"% sweep {one_line(report.name)} (id {report.sweep_id}, {report.state}), pair {one_line(pair)}",
        f"% digest {report.digest}, jobs {jobs}",
        r"\begin{table}[t]",
        r"  \centering",
        rf"  \caption{{{_caption(report, rows)}}}",
        rf"  \label{{tab:{_name(report, pair)}}}",
        r"  \begin{tabular}{cllcc}",
        r"    \toprule",
        r"    Step & Components & Configuration & Throughput & Speedup \\",
        r"    \midrule",
        *(f"    {_row(row, notes, bold=row is best)}" for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        *_notes(report, rows, notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _row(row: Row, notes: Notes, *, bold: bool) -> str:
    marks = ",".join(notes.marks(row))
    label = escape_latex(row.label) + (f"$^{{\\mathrm{{{marks}}}}}$" if marks else "")
    speedup = rf"${row.versus_baseline.ratio:.2f}\times$" if row.versus_baseline else UNKNOWN
    cells = [
        str(row.step),
        label,
        _configuration(row),
        throughput_cell(row),
        speedup,
    ]
    if bold:
        cells = [rf"\textbf{{\boldmath {cell}}}" if "$" in cell else rf"\textbf{{{cell}}}" for cell in cells]
    return " & ".join(cells) + r" \\"


def _configuration(row: Row) -> str:
    name = escape_latex(method_name(row.method))
    return ", ".join([name, *map(_setting, settings(row.method, row.params))])


def _setting(setting: Setting) -> str:
    text = f"{setting.symbol}{setting.relation}{setting.value}"
    if len(setting.symbol) != 1:
        return escape_latex(text)
    symbol, relation = (_MATHS.get(part, part) for part in (setting.symbol, setting.relation))
    return f"${symbol}{relation}{setting.value}$"


def _notes(report: Report, rows: Sequence[Row], notes: Notes) -> list[str]:
    texts = [rf"$^{{\mathrm{{{mark}}}}}$\,{escape_latex(text)}." for mark, text in notes.lettered()]
    intervals = [
        f"step {row.step} {interval_cell(speedup_interval(row))}" for row in rows if speedup_interval(row)
    ]
    if intervals:
        texts.append(
            f"{_level(report)} bootstrap intervals of the speedup over prompts: {', '.join(intervals)}."
        )
    texts += [f"{escape_latex(text)}." for text in notes.general]
    if not texts:
        return []
    opening, closing = r"  \begin{minipage}{0.95\linewidth}\footnotesize", r"  \end{minipage}"
    return [r"  \par\smallskip", opening, *(rf"    {text}\par" for text in texts), closing]


def _caption(report: Report, rows: Sequence[Row]) -> str:
    """Say what the steps add, over which data, and, from the figures, which steps degrade."""
    sentences = [
        f"{_what_is_added(rows)} (pair {escape_latex(rows[0].pair)})." if rows else "",
        _what_was_measured(report, rows),
        *_what_degrades(rows),
        "The highest throughput is bold." if best_row(rows) else "",
    ]
    return " ".join(filter(None, sentences))


def _what_is_added(rows: Sequence[Row]) -> str:
    added = [escape_latex(row.label.lstrip("+ ")) for row in rows if row.label.startswith("+")]
    if not added or len(added) > 6:
        return "Ablation of speculative decoding, step by step"
    start = next((escape_latex(row.label) for row in rows if row.is_baseline), "the baseline")
    steps = f"{', '.join(added[:-1])} and {added[-1]} are" if len(added) > 1 else f"{added[0]} is"
    return f"Ablation of speculative decoding: step by step, {steps} added to {start}"


def _what_was_measured(report: Report, rows: Sequence[Row]) -> str:
    known = [row.figures for row in rows if row.figures]
    if not known:
        return "Nothing has been measured yet."
    prompts = _span([figures.prompts for figures in known], "prompt")
    counts = [
        _span([figures.repeats for figures in known], "repeat"),
        _span([figures.tokens for figures in known], "token"),
    ]
    each = f" ({', '.join(filter(None, counts))} per row)" if any(counts) else ""
    intervals = f", with {_level(report)} intervals below" if any(map(speedup_interval, rows)) else ""
    return (
        f"Throughput is in tokens/s, the mean over {prompts or 'prompts'}{each};"
        f" speedup is against the baseline{intervals}."
    )


def _span(counts: Sequence[int | None], noun: str) -> str:
    """Return counts as `8 prompts` or `7 to 8 prompts`; nothing where one is unknown."""
    known = [number for number in counts if number is not None]
    if len(known) < len(counts):
        return ""
    low, high = min(known), max(known)
    return count(high, noun) if low == high else f"{low:,} to {high:,} {noun}s"


def _what_degrades(rows: Sequence[Row]) -> list[str]:
    """Name the steps that are measurably slower than the one before, or than the baseline."""
    sentences = []
    for row in rows:
        facts = []
        previous, base = row.versus_previous, row.versus_baseline
        if previous and previous.separable and previous.ratio < 1.0:
            facts.append(rf"is slower than the step before it (${previous.ratio:.2f}\times$)")
        if base and base.separable and base.ratio < 1.0:
            facts.append(rf"falls below the baseline (${base.ratio:.2f}\times$)")
        if facts:
            sentences.append(f"Step {row.step} ({escape_latex(row.label)}) {' and '.join(facts)}.")
    steps = [row.versus_previous for row in rows[1:]]
    if not sentences and len(steps) > 1 and all(step and step.separable is not None for step in steps):
        return ["No step is measurably slower than the step before it."]
    return sentences


def _name(report: Report, pair: str) -> str:
    parts = (slug(report.name) or f"sweep-{report.sweep_id}", pair_slugs(report)[pair])
    return "-".join(filter(None, parts))


def _level(report: Report) -> str:
    return rf"{report.confidence * 100:g}\,\%"
