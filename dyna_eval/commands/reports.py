"""The report of a stored sweep, in all its forms."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dyna_eval.commands.answers import write_answers
from dyna_eval.commands.database import database_option, open_to_read, readable
from dyna_eval.commands.options import form_options, which_sweep
from dyna_eval.commands.output import print_json
from dyna_eval.commands.papers import Paper, check_papers, paper_options, write_papers
from dyna_eval.commands.plotting import Figures, figure_options, write_figures
from dyna_eval.commands.raw import RawFiles, raw_options, write_raw
from dyna_eval.commands.reading import find_measured, stored_report
from dyna_eval.commands.terms import terms_given, terms_options
from dyna_eval.commands.web_page import WebPage, page_options, write_page
from dyna_eval.records import SweepRecord, Terms

if TYPE_CHECKING:
    from dyna_eval.latex.style import Style
    from dyna_eval.reports.report import Report


@click.command()
@which_sweep
@form_options(
    latex="Print a booktabs table.",
    prose="Print a LaTeX subsection that walks through it.",
    markdown="Print a Markdown table.",
    csv="Print comma-separated values.",
    json="Print every figure as JSON.",
)
@click.option(
    "--preset",
    type=click.Choice(["four-step", "three-step"]),
    help="Which rows: all four steps, or three without the unpruned tree. Unless given, the sweep's own.",
)
@terms_options
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
@raw_options
@page_options
@click.option("--allow-mixed", is_flag=True, help="Print rows that were not measured alike, marked as such.")
@database_option
def report(
    *,
    sweep: str | None,
    form: str | None,
    preset: str | None,
    terms: Terms,
    figures: Figures | None,
    paper: Paper,
    sources: tuple[str, ...],
    rows: tuple[str, ...],
    by_category: bool,
    spec_bench: Path | None,
    raw: RawFiles | None,
    page: WebPage | None,
    allow_mixed: bool,
    database: str,
) -> int:
    """Print the table of a sweep, and write its figures.

    SWEEP was measured here or imported; --from joins several. With --check, see whether a paper still
    says what the database says.
    """
    from dyna_eval.latex.grid import require
    from dyna_eval.reports.presets import Preset

    part = {"--from": sources, "--row": rows, "--preset": preset}
    files = {"--plots": figures, "--html": page, **paper.files}
    whole = {"--by-category": by_category, "--spec-bench": spec_bench, **(raw.files if raw else {})}
    if paper.papers:
        forms = {f"--{form}": form not in (None, "json")}
        others = {"SWEEP": sweep} | part | whole | files | paper.looks | terms_given(terms) | forms
        _refuse_beside("--check", others, "finds sweeps and tables by what is in the paper")
        return check_papers(paper.papers, database, as_json=form == "json")
    if sweep is not None and sources:
        raise click.UsageError("name one SWEEP, or several with --from")
    _check_together(
        part=part,
        files=files,
        raw=raw,
        by_category=by_category,
        spec_bench=spec_bench,
        form=form,
        terms=terms,
        paper=paper,
    )
    prints = form is not None or _first(files) is None
    if _first(whole) is not None:
        _write_whole_sweep(
            sweep,
            database,
            raw=raw,
            spec_bench=spec_bench,
            by_category=by_category,
            terms=terms,
            form=form,
            mixed=allow_mixed,
        )
        if by_category or (form is None and prints):
            return 0
    with open_to_read(database) as store:
        stored = stored_report(
            store,
            list(dict.fromkeys(store.find_sweep(name) for name in sources or (sweep,))),
            rows=rows,
            allow_mixed=allow_mixed,
            preset=Preset(preset) if preset else None,
            terms=terms,
        )
        built = stored.report
        require(built, paper.style)
        if figures is not None:
            write_figures(figures, stored, store)
    write_papers(built, paper, figures.directory if figures else None)
    if page is not None:
        write_page(page, built, readable(database))
    if prints:
        print_report(built, form, paper.style)
    return 0


def _check_together(
    *,
    part: Mapping[str, object],
    files: Mapping[str, object],
    raw: RawFiles | None,
    by_category: bool,
    spec_bench: Path | None,
    form: str | None,
    terms: Terms,
    paper: Paper,
) -> None:
    """Raise UsageError where options were given that make no report together.

    `part` are the options for a part of a sweep, or for several; `files` those that write one.
    """
    if raw is not None:
        _refuse_beside(_first(raw.files), part, "takes one whole sweep")
        if raw.on_stdout and (form is not None or by_category):
            raise click.UsageError("a file named - goes to stdout, where nothing else can be printed then")
        if form is None and not by_category and spec_bench is None and _first(files) is None:
            _refuse_beside(
                _first(raw.files), terms_given(terms), "holds what was measured, on whatever terms"
            )
    if by_category or spec_bench is not None:
        own = "--by-category" if by_category else "--spec-bench"
        _refuse_beside(own, {**part, "--chosen": terms.chosen}, "takes one whole sweep")
        _refuse_beside(
            own, {**files, "--prose": form == "prose"}, "stands beside no figures, web page or paper"
        )
    if by_category:
        _refuse_beside("--by-category", paper.looks, "has columns of its own")


def _first(options: Mapping[str, object]) -> str | None:
    """Return the first option that was given; None where none was."""
    return next((name for name, value in options.items() if value not in (None, False, ())), None)


def _refuse_beside(option: str | None, others: Mapping[str, object], why: str) -> None:
    """Raise UsageError where one of the others was given, too; it names the first of them."""
    if (other := _first(others)) is not None:
        raise click.UsageError(f"{option} {why}; leave out {other}")


def _write_whole_sweep(
    sweep: str | None,
    database: str,
    *,
    raw: RawFiles | None,
    spec_bench: Path | None,
    by_category: bool,
    terms: Terms,
    form: str | None,
    mixed: bool,
) -> None:
    """Write or print what is of one whole sweep that was measured here."""
    from dyna_eval.reports.terms import with_terms

    with open_to_read(database) as store:
        sweep_id = find_measured(store, sweep)
        if raw is not None:
            write_raw(raw, store, sweep_id)
        if spec_bench is None and not by_category:
            return
        record = with_terms(store.record(sweep_id), terms)
        if spec_bench is not None:
            write_answers(store, record, spec_bench, allow_mixed=mixed)
    if by_category:
        print_by_category(record, form, allow_mixed=mixed)


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


def print_by_category(record: SweepRecord, form: str | None, *, allow_mixed: bool) -> None:
    """Print a sweep's report broken down by category, in one of the report's forms."""
    from dyna_eval.latex.categories import categories_latex
    from dyna_eval.reports.categories import categorized_report
    from dyna_eval.tables import categories as tables

    built = categorized_report(record, allow_mixed=allow_mixed)
    if form == "json":
        print_json(tables.categories_json(built))
    elif form == "latex":
        click.echo(categories_latex(built), nl=False)
    elif form == "markdown":
        click.echo(tables.categories_markdown(built), nl=False)
    elif form == "csv":
        click.echo(tables.categories_csv(built), nl=False)
    else:
        tables.print_categories(built, sys.stdout)
