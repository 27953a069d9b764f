"""A whole document that `pdflatex` compiles as it is: macros, prose, tables, and the figures beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from dyna_eval.errors import InputError
from dyna_eval.latex.grid import level
from dyna_eval.latex.macros import to_macros
from dyna_eval.latex.prose import to_prose
from dyna_eval.latex.style import Style
from dyna_eval.latex.table import table_label, to_latex
from dyna_eval.latex.text import escape_latex
from dyna_eval.reports.cells import pair_slugs
from dyna_eval.reports.report import Report
from dyna_eval.series.measured import MOST_BARS_ABREAST
from dyna_eval.wording import one_line

_SAFE_PATH = re.compile(r"[A-Za-z0-9._/+=-]+")


def to_document(report: Report, style: Style, figures: Mapping[str, PurePosixPath]) -> str:
    """Return the document. `figures` names each pair's chart, as seen from the document's own folder.

    A chart that is not there when the document is compiled is left out. Raises InputError for a path that
    LaTeX cannot read.
    """
    charts = [_chart(report, pair, path) for pair, path in figures.items()]
    body = [
        rf"\section{{{escape_latex(report.name)}}}",
        to_latex(report, style),
        *charts,
        to_prose(report, one_table=style.side_by_side),
    ]
    content = "\n".join(body)
    return "\n".join(
        [
            f"% sweep {one_line(report.name)}; run pdflatex twice, for the references",
            r"\documentclass{article}",
            r"\usepackage[T1]{fontenc}",
            r"\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}",
            r"\usepackage[margin=2cm]{geometry}",
            r"\usepackage{booktabs}",
            *([r"\usepackage{longtable}"] if r"\begin{longtable}" in content else []),
            *([r"\usepackage{siunitx}"] if style.siunitx else []),
            r"\usepackage{graphicx}",
            *_unusual_characters(content),
            "",
            to_macros(report),
            r"\begin{document}",
            content,
            r"\end{document}",
            "",
        ]
    )


def figure_paths(report: Report, folder: PurePosixPath) -> dict[str, PurePosixPath]:
    """Return where `report --plots` puts the bar chart of each pair, below its folder."""
    return {
        pair: folder / ("-".join(filter(None, ("ablation", own))) + ".pdf")
        for pair, own in pair_slugs(report).items()
    }


def _chart(report: Report, pair: str, path: PurePosixPath) -> str:
    if not _SAFE_PATH.fullmatch(str(path)):
        raise InputError(
            f"figures in {str(path.parent)!r} cannot be named in a LaTeX document; write them to a folder"
            " whose name has letters, digits, and the signs . _ + = - alone"
        )
    name = table_label(report, (pair,)).removeprefix("tab:")
    return "\n".join(
        [
            rf"\IfFileExists{{{path}}}{{%",
            r"\begin{figure}[!tb]",
            r"  \centering",
            rf"  \includegraphics[width=0.6\linewidth,height=0.8\textheight,keepaspectratio]{{{path}}}",
            rf"  \caption{{{_chart_caption(report, pair)}}}",
            rf"  \label{{fig:{name}}}",
            r"\end{figure}}{}",
            "",
        ]
    )


def _chart_caption(report: Report, pair: str) -> str:
    """Say what the bars show: intervals and speedups where they are known, and where the speedups stand."""
    bars = [row for row in report.rows_of(pair) if row.figures]
    text = f"Throughput of each step of {escape_latex(report.name)} (pair {escape_latex(pair)})"
    intervals = [bool(row.figures and row.figures.throughput.interval) for row in bars]
    if any(intervals):
        text += f" with its {level(report)} interval{'' if all(intervals) else ' where it is known'}"
    speedups = [row.versus_baseline is not None for row in bars]
    if any(speedups):
        where = "at the right" if len(bars) > MOST_BARS_ABREAST else "on its bar"
        text += f"; the speedup{'' if all(speedups) else ', where it is known,'} is written {where}"
    return f"{text}."


def _unusual_characters(content: str) -> list[str]:
    """Declare the characters that pdflatex does not know by itself: it prints their code points.

    Other engines, and documents with a package for the script, print the characters themselves.
    """
    found = sorted({character for character in content if ord(character) > 127})
    if not found:
        return []
    return [
        r"\ifdefined\DeclareUnicodeCharacter",
        r"\newcommand{\ifunknown}[3]{\ifcsname u8:\detokenize{#1}\endcsname\else",
        r"  \DeclareUnicodeCharacter{#2}{#3}\fi}",
        *(
            rf"\ifunknown{{{character}}}{{{ord(character):04X}}}{{{_shown(character)}}}"
            for character in found
        ),
        r"\fi",
    ]


def _shown(character: str) -> str:
    return rf"\texttt{{[U+{ord(character):04X}]}}\allowbreak "
