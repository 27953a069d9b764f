r"""A LaTeX macro per cell, such as \fourStepBaselineThroughput, for figures in running text.

A name is the sweep's, the report's terms where they are not the sweep file's, the pair's where there are
several, the row's and the figure's, in letters alone. It depends on these names only, never on the order of
rows. Values are plain digits, which may stand in text, in mathematics and in siunitx's \num; what is not
known is `--`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dyna_eval.jobs import canonical_json
from dyna_eval.latex.prose import theoretical_nodes
from dyna_eval.latex.style import Part, end_mark, mark, origin_of
from dyna_eval.reports.cells import UNKNOWN, sweep_numbers, terms_slug
from dyna_eval.reports.digits import (
    acceptance_length,
    acceptance_rate,
    distinct_2,
    end_to_end,
    end_to_end_speedup,
    exact_percent,
    gain,
    memory,
    nodes,
    predicted_speedup,
    prefill,
    speedup,
    speedup_high,
    speedup_low,
    throughput,
    throughput_std,
    ttft,
)
from dyna_eval.reports.report import Report, Row
from dyna_eval.wording import one_line

_WORDS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
_DIGITS = {str(digit): word for digit, word in enumerate(_WORDS)}
DIGEST = "Digest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Macro:
    """`row` and `figure` say what it holds; the digest's row is None."""

    name: str
    value: str
    row: Row | None
    figure: str


def to_macros(report: Report) -> str:
    r"""Return a \newcommand for the sweep's digest and for every cell of every row."""
    lines = [
        f"% sweep {one_line(report.name)} ({sweep_numbers(report)}, {report.state})",
        f"% digest {report.digest}",
        mark(origin_of(report, Part.MACROS, report.pairs)),
    ]
    row: Row | None = None
    for macro in macros(report):
        if macro.row is not None and macro.row is not row:
            row = macro.row
            lines.append(f"% step {row.step}, {one_line(row.label)}, pair {one_line(row.pair)}")
        lines.append(rf"\newcommand{{\{macro.name}}}{{{macro.value}}}")
    return "\n".join([*lines, end_mark(Part.MACROS)]) + "\n"


def macros(report: Report) -> Iterator[Macro]:
    """Return all macros of a report; their names differ."""
    prefix = prefix_of(report)
    yield Macro(name=f"{prefix}{DIGEST}", value=report.digest, row=None, figure=DIGEST)
    names = _row_names(report)
    for row in report.rows:
        for figure, read in FIGURES.items():
            value = read(row)
            yield Macro(
                name=f"{prefix}{names[row.pair, row.label]}{figure}",
                value=UNKNOWN if value is None else value,
                row=row,
                figure=figure,
            )


def prefix_of(report: Report) -> str:
    r"""Return what all macros of a report begin with. LaTeX refuses names that begin with \end."""
    words = letters(report.name) or f"Sweep{letters(str(report.sweep_id))}"
    words += letters(terms_slug(report))
    prefix = words[0].lower() + words[1:]
    return f"sweep{words}" if prefix.startswith("end") else prefix


def letters(text: str) -> str:
    """Return text as ASCII letters, each word with a capital and each digit spelled: `K=6` is `KSix`."""
    plain = unicodedata.normalize("NFKD", text)
    spelled = "".join(f" {_DIGITS[c]} " if c in _DIGITS else c for c in plain if not unicodedata.combining(c))
    words = (re.sub("[^A-Za-z]", "", word) for word in re.findall(r"[^\W_]+", spelled))
    return "".join(word[:1].upper() + word[1:] for word in words)


def _row_names(report: Report) -> dict[tuple[str, str], str]:
    """Return distinct names of all rows. Where names meet, each gets a hash of what it stands for."""
    several = len(report.pairs) > 1
    keys = [(row.pair, row.label) for row in report.rows]
    names = {
        (pair, label): (letters(pair) if several else "") + (letters(label) or "Row") for pair, label in keys
    }
    length = 4
    while taken := {name for name, times in Counter(names.values()).items() if times > 1}:
        names = {
            key: f"{name}{_hashed(key, length).capitalize()}" if name in taken else name
            for key, name in names.items()
        }
        length += 4
    return names


def _hashed(key: tuple[str, str], length: int) -> str:
    """Return up to 64 letters, a to p, that follow from a pair and a label."""
    found = hashlib.sha256(canonical_json(list(key)).encode()).hexdigest()
    return "".join(chr(ord("a") + int(digit, 16)) for digit in found)[:length]


# No figure's name ends with another one's, so a row's name and a figure's never run into another cell's.
FIGURES: dict[str, Callable[[Row], str | None]] = {
    "Throughput": throughput,
    "ThroughputStd": throughput_std,
    "Speedup": speedup,
    "SpeedupLow": speedup_low,
    "SpeedupHigh": speedup_high,
    "GainOverPrevious": lambda row: gain(row.versus_previous),
    "GainOverBaseline": lambda row: gain(row.versus_baseline),
    "AcceptanceLength": acceptance_length,
    "AcceptanceRate": acceptance_rate,
    "Nodes": nodes,
    "NodesInTheory": lambda row: None if (whole := theoretical_nodes(row)) is None else str(whole),
    "ExactMatch": exact_percent,
    "PeakMemory": memory,
    "SpeedupPredicted": predicted_speedup,
    "DistinctTwo": distinct_2,
    "Prefill": prefill,
    "TimeToFirstToken": ttft,
    "EndToEnd": end_to_end,
    "SpeedupPrefillIncluded": end_to_end_speedup,
}
