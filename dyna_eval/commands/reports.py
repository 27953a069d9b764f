"""The report of a stored sweep, in all its forms."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dyna_eval.commands.exchange import print_by_category, write_answers
from dyna_eval.commands.options import database_option, open_to_read, readable, which_sweep
from dyna_eval.commands.output import print_json
from dyna_eval.commands.papers import Paper, check_papers, paper_options, write_papers
from dyna_eval.commands.plotting import Figures, figure_options, write_figures
from dyna_eval.commands.reading import find_measured, stored_report
from dyna_eval.commands.web_page import WebPage, page_options, write_page

if TYPE_CHECKING:
    from dyna_eval.latex.style import Style
    from dyna_eval.reports.report import Report


@click.command()
@which_sweep
@click.option("--latex", "form", flag_value="latex", help="Print a booktabs table.")
@click.option("--prose", "form", flag_value="prose", help="Print a LaTeX subsection that walks through it.")
@click.option("--markdown", "form", flag_value="markdown", help="Print a Markdown table.")
@click.option("--csv", "form", flag_value="csv", help="Print comma-separated values.")
@click.option("--json", "form", flag_value="json", help="Print every figure as JSON.")
@click.option(
    "--preset",
    type=click.Choice(["four-step", "three-step"]),
    help="Which rows: all four steps, or three without the unpruned tree. Unless given, the sweep's own.",
)
@figure_options
@paper_options
@click.option("--from", "sources", multiple=True, metavar="SWEEP", help="Join the rows of these sweeps.")
@click.option(
    "--row",
    "rows",
    multiple=True,
    metavar="ROW",
    help="Show this row: its label, configuration (* is any text) or step, as SWEEP:ROW of one sweep alone.",
)
@click.option("--by-category", is_flag=True, help="Break the table down by the category of its prompts.")
@click.option(
    "--spec-bench",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the rows to this folder, as answer files that Spec-Bench's speed.py reads.",
)
@page_options
@click.option("--allow-mixed", is_flag=True, help="Print rows that were not measured alike, marked as such.")
@database_option
def report(
    *,
    sweep: str | None,
    form: str | None,
    preset: str | None,
    figures: Figures | None,
    paper: Paper,
    sources: tuple[str, ...],
    rows: tuple[str, ...],
    by_category: bool,
    spec_bench: Path | None,
    page: WebPage | None,
    allow_mixed: bool,
    database: str,
) -> int:
    """Print the table of a sweep, and write its figures.

    SWEEP was measured here or imported; --from joins several. With --check, see whether a paper still
    says what the database says.
    """
    from dyna_eval.latex.grid import require
    from dyna_eval.latex.style import PLAIN
    from dyna_eval.reports.presets import Preset

    if paper.papers:
        beside = (sweep is not None, sources, rows, preset, figures, page, by_category, spec_bench)
        if any(beside) or paper.writes_files or paper.style != PLAIN or form not in (None, "json"):
            raise click.UsageError(
                "--check finds sweeps and tables by what is in the paper; beside it are only --json and --db"
            )
        return check_papers(paper.papers, database, as_json=form == "json")
    if sweep is not None and sources:
        raise click.UsageError("name one SWEEP, or several with --from")
    if by_category or spec_bench is not None:
        if sources or rows or preset or figures or page or paper.writes_files or form == "prose":
            raise click.UsageError(
                "--by-category and --spec-bench take one whole sweep, and no --from, --row, --preset,"
                " --prose, --plots, --html or files of a paper beside them"
            )
        if by_category and paper.style != PLAIN:
            raise click.UsageError(
                "--by-category has columns of its own, and no --columns, --std, --siunitx or --side-by-side"
            )
        with open_to_read(database) as store:
            record = store.record(find_measured(store, sweep))
            if spec_bench is not None:
                write_answers(store, record, spec_bench, allow_mixed=allow_mixed)
        if by_category:
            print_by_category(record, form, allow_mixed=allow_mixed)
        if by_category or form is None:
            return 0
    with open_to_read(database) as store:
        built = stored_report(
            store,
            list(dict.fromkeys(store.find_sweep(name) for name in sources or (sweep,))),
            rows=rows,
            allow_mixed=allow_mixed,
            preset=Preset(preset) if preset else None,
        )
        require(built, paper.style)
        if figures is not None:
            write_figures(figures, built, store)
    write_papers(built, paper, figures.directory if figures else None)
    if page is not None:
        write_page(page, built, readable(database))
    if form is not None or (figures is None and page is None and not paper.writes_files):
        print_report(built, form, paper.style)
    return 0


def print_report(built: Report, form: str | None, style: Style | None = None) -> None:
    """Print a report on stdout in one of its forms; None is the terminal's table."""
    from dyna_eval.latex.prose import to_prose
    from dyna_eval.latex.style import PLAIN
    from dyna_eval.latex.table import to_latex
    from dyna_eval.tables import report as tables
    from dyna_eval.tables import report_json

    style = style or PLAIN
    if form == "json":
        print_json(report_json.to_json(built))
    elif form == "latex":
        click.echo(to_latex(built, style), nl=False)
    elif form == "prose":
        click.echo(to_prose(built, one_table=style.side_by_side), nl=False)
    elif form == "markdown":
        click.echo(tables.to_markdown(built, style.columns), nl=False)
    elif form == "csv":
        click.echo(tables.to_csv(built), nl=False)
    else:
        tables.print_table(built, sys.stdout, style.columns)
