"""What `report` writes for a paper, and the check that a paper still says what the store says."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import click

from dyna_eval.commands.database import open_to_read
from dyna_eval.commands.options import with_options
from dyna_eval.commands.output import print_json, write_own
from dyna_eval.commands.reading import find_measured, stored_report
from dyna_eval.errors import InputError
from dyna_eval.wording import count, one_line

if TYPE_CHECKING:
    from dyna_eval.latex.check import Findings
    from dyna_eval.latex.style import Origin, Style
    from dyna_eval.reports.report import Report

_STYLED = "--latex or --tex-document"


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """What of a paper to write, in which style, and which papers to check."""

    style: Style
    document: Path | None
    macros: Path | None
    papers: tuple[Path, ...]

    @property
    def files(self) -> dict[str, Path | None]:
        """What is written, by option."""
        return {"--tex-document": self.document, "--macros": self.macros}

    @property
    def looks(self) -> dict[str, object]:
        """How a table is to look, by option."""
        style = self.style
        return {
            "--columns": style.columns,
            "--std": style.std,
            "--siunitx": style.siunitx,
            "--side-by-side": style.side_by_side,
        }


def paper_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for papers to `report`; the command gets them as one `paper`."""

    @functools.wraps(command)
    def with_paper(
        *,
        columns: str | None,
        std: bool,
        siunitx: bool,
        side_by_side: bool,
        tex_document: Path | None,
        macros: Path | None,
        papers: tuple[Path, ...],
        **others: Any,
    ) -> Any:
        from dyna_eval.latex.style import Style, read_columns

        style = Style(
            columns=read_columns(columns or ""), std=std, siunitx=siunitx, side_by_side=side_by_side
        )
        of_latex = {"--std": std, "--siunitx": siunitx, "--side-by-side": side_by_side}
        used = next((option for option, value in of_latex.items() if value), None)
        if used and others["form"] not in ("latex", "prose") and tex_document is None:
            raise click.UsageError(f"{used} is about LaTeX tables; add {_STYLED}")
        if columns and others["form"] in ("csv", "json") and tex_document is None:
            raise click.UsageError(f"--columns is about tables; --{others['form']} has figures of its own")
        paper = Paper(style=style, document=tex_document, macros=macros, papers=papers)
        return command(paper=paper, **others)

    file = click.Path(path_type=Path, dir_okay=False)
    options = [
        click.option(
            "--columns",
            metavar="NAMES",
            help="More columns of the table, with commas between: interval, gain, acceptance, rate, nodes,"
            " exact, memory, predicted, distinct, prefill, ttft, end_to_end, end_to_end_speedup, jobs.",
        ),
        click.option("--std", is_flag=True, help="Throughput with its standard deviation between repeats."),
        click.option("--siunitx", is_flag=True, help="Align figures by the LaTeX package siunitx."),
        click.option("--side-by-side", is_flag=True, help="One table with a group of columns per pair."),
        click.option(
            "--tex-document", type=file, metavar="FILE", help="Write a document that pdflatex compiles."
        ),
        click.option("--macros", type=file, metavar="FILE", help="Write a LaTeX macro per cell."),
        click.option(
            "--check",
            "papers",
            type=file,
            multiple=True,
            metavar="PAPER.tex",
            help="Compare a paper with the database; exit 1 where they differ. With --json, print the"
            " differences as JSON.",
        ),
    ]
    return with_options(with_paper, options)


def write_papers(report: Report, paper: Paper, plots: Path | None) -> None:
    """Write the document and the macros that were asked for, and say so on stderr."""
    from dyna_eval.latex.document import figure_paths, to_document
    from dyna_eval.latex.macros import to_macros

    if paper.document is not None:
        folder = paper.document.parent
        beside = os.path.relpath(plots if plots is not None else folder, folder)
        paths = figure_paths(report, PurePosixPath(Path(beside).as_posix()))
        _write(paper.document, to_document(report, paper.style, paths))
    if paper.macros is not None:
        _write(paper.macros, to_macros(report))


_WRITTEN = "% written by dyna-eval; what follows has the SHA-256 "


def _write(path: Path, text: str) -> None:
    """Write a file under a line that tells whether somebody changed it since: a paper is not to be lost."""
    header = f"{_WRITTEN}{hashlib.sha256(text.encode()).hexdigest()}\n"
    write_own(path, header + text, is_own=_is_as_written)


def _is_as_written(content: bytes) -> bool:
    header, _, rest = content.partition(b"\n")
    return header.decode("ascii", "replace") == f"{_WRITTEN}{hashlib.sha256(rest).hexdigest()}"


# ------------------------------------------------------------------------- check


def check_papers(papers: Sequence[Path], database: str, *, as_json: bool) -> int:
    """Print how papers differ from the database; return the exit status.

    Raises InputError for a paper that cannot be read or that holds nothing of this tool.
    """
    from dyna_eval.latex.check import check_paper
    from dyna_eval.reports.categories import CategorizedReport, categorized_report
    from dyna_eval.reports.terms import with_terms

    texts = {path: _read(path) for path in papers}
    with open_to_read(database) as store:
        sweeps = store.sweeps_by_digest()

        def recompute(origin: Origin) -> CategorizedReport | None:
            if any(digest not in sweeps for digest in origin.made_of):
                return None
            ids = [sweeps[digest] for digest in origin.made_of]
            if origin.categories:
                record = store.record(find_measured(store, str(ids[0])))
                return categorized_report(with_terms(record, origin.terms), allow_mixed=True)
            stored = stored_report(
                store, ids, rows=origin.rows, allow_mixed=True, preset=origin.preset, terms=origin.terms
            )
            return CategorizedReport(overall=stored.report, categories=())

        found = {
            path: check_paper(text, recompute, [other for at, other in texts.items() if at != path])
            for path, text in texts.items()
        }
    for path, findings in found.items():
        if findings.is_empty:
            raise InputError(
                f"{path}: no table, prose or macros that dyna-eval wrote;"
                " it knows them by the comment lines that begin with '% dyna-eval'"
            )
    if as_json:
        print_json([{"file": str(path), **_findings_json(each)} for path, each in found.items()])
    else:
        for path, findings in found.items():
            _print(path, findings)
    return 0 if all(findings.agrees for findings in found.values()) else 1


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", errors="replace").replace("\r\n", "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _print(path: Path, findings: Findings) -> None:
    from dyna_eval.latex.style import Part

    for note in findings.notes:
        click.echo(f"{path}:{note.line}: {one_line(note.what)}", err=True)
    for each in findings.differences:
        place = f"{path}:{each.line}: {each.where}, {each.row}, {each.column}"
        click.echo(f"{one_line(place)}: {one_line(each.in_paper)} in the paper, {one_line(each.now)} now")
    for part in findings.unchecked:
        click.echo(f"{path}:{part.line}: {one_line(part.what)}")
    named = {Part.TABLE: "table", Part.PROSE: "subsection", Part.MACROS: "macro set"}
    checked = [
        count(findings.parts.count(part), noun) for part, noun in named.items() if part in findings.parts
    ]
    click.echo(
        f"{path}: checked {', '.join(checked) or 'nothing'}: {count(len(findings.differences), 'difference')}"
        + (f", {len(findings.unchecked)} not checked" if findings.unchecked else "")
    )


def _findings_json(findings: Findings) -> dict[str, object]:
    return {
        "agrees": findings.agrees,
        "checked": [str(part) for part in findings.parts],
        "differences": [asdict(difference) for difference in findings.differences],
        "unchecked": [asdict(remark) for remark in findings.unchecked],
        "notes": [asdict(remark) for remark in findings.notes],
    }
