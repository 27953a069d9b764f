"""The report of a stored sweep, in all its forms."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dyna_eval.commands.options import database_option, open_store, print_json, which_sweep

if TYPE_CHECKING:
    from dyna_eval_db.store import Store

    from dyna_eval.jobs import SweepRecord
    from dyna_eval.report import Report


@click.command()
@which_sweep
@click.option("--latex", "form", flag_value="latex", help="Print a booktabs table.")
@click.option("--markdown", "form", flag_value="markdown", help="Print a Markdown table.")
@click.option("--csv", "form", flag_value="csv", help="Print comma-separated values.")
@click.option("--json", "form", flag_value="json", help="Print every figure as JSON.")
@click.option(
    "--plots", type=click.Path(path_type=Path, file_okay=False), help="Write the figure to this folder."
)
@click.option("--by-category", is_flag=True, help="Break the table down by the category of its prompts.")
@click.option(
    "--spec-bench",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the rows to this folder, as answer files that Spec-Bench's speed.py reads.",
)
@click.option("--allow-mixed", is_flag=True, help="Print rows that were not measured alike, marked as such.")
@database_option
def report(
    *,
    sweep: str | None,
    form: str | None,
    plots: Path | None,
    by_category: bool,
    spec_bench: Path | None,
    allow_mixed: bool,
    database: str,
) -> None:
    """Print the ablation table of a sweep."""
    from dyna_eval.report import build_report

    with open_store(database) as store:
        record = store.record(store.find_sweep(sweep))
        if spec_bench is not None:
            write_answers(store, record, spec_bench, allow_mixed=allow_mixed)
    if by_category:
        print_by_category(record, form, allow_mixed=allow_mixed)
    if by_category or (spec_bench is not None and form is None and plots is None):
        return
    built = build_report(record, allow_mixed=allow_mixed)
    if plots is not None:
        from dyna_eval.plots import ablation_bars

        for path in ablation_bars(built, plots):
            click.echo(f"wrote {path}", err=True)
        if form is None:
            return
    print_report(built, form)


def print_by_category(record: SweepRecord, form: str | None, *, allow_mixed: bool) -> None:
    """Print a sweep's report broken down by category, in one of the report's forms."""
    from dyna_eval import category_tables as tables
    from dyna_eval.categories import categorized_report

    built = categorized_report(record, allow_mixed=allow_mixed)
    if form == "json":
        print_json(tables.categories_json(built))
    elif form == "latex":
        click.echo(tables.categories_latex(built), nl=False)
    elif form == "markdown":
        click.echo(tables.categories_markdown(built), nl=False)
    elif form == "csv":
        click.echo(tables.categories_csv(built), nl=False)
    else:
        tables.print_categories(built, sys.stdout)


def write_answers(store: Store, record: SweepRecord, folder: Path, *, allow_mixed: bool) -> None:
    """Write a Spec-Bench answer file for each row that has results, and say on stderr which are left out."""
    from dyna_eval.errors import InputError
    from dyna_eval.report import build_report
    from dyna_eval.spec_bench import answer_files

    written = 0
    for file in answer_files(record, build_report(record, allow_mixed=allow_mixed), store.samples):
        lines = list(file.lines)
        if not lines:
            click.echo(f"left out '{file.label}': no result", err=True)
            continue
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / file.name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        click.echo(f"wrote {path}", err=True)
        written += 1
    if not written:
        raise InputError(f"sweep {record.id} has no result yet that could be written as an answer file")


def print_report(built: Report, form: str | None) -> None:
    """Print a report on stdout as `json`, `latex`, `markdown` or `csv`; None is the terminal's table."""
    from dyna_eval import latex, report, tables

    if form == "json":
        print_json(report.to_json(built))
    elif form == "latex":
        click.echo(latex.to_latex(built), nl=False)
    elif form == "markdown":
        click.echo(tables.to_markdown(built), nl=False)
    elif form == "csv":
        click.echo(tables.to_csv(built), nl=False)
    else:
        tables.print_table(built, sys.stdout)
