"""The report of a stored sweep, in all its forms."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from dyna_eval.commands.options import database_option, open_store, print_json, which_sweep
from dyna_eval.commands.plotting import Figures, figure_options, write_figures

if TYPE_CHECKING:
    from dyna_eval.report import Report


@click.command()
@which_sweep
@click.option("--latex", "form", flag_value="latex", help="Print a booktabs table.")
@click.option("--markdown", "form", flag_value="markdown", help="Print a Markdown table.")
@click.option("--csv", "form", flag_value="csv", help="Print comma-separated values.")
@click.option("--json", "form", flag_value="json", help="Print every figure as JSON.")
@figure_options
@click.option("--allow-mixed", is_flag=True, help="Print rows that were not measured alike, marked as such.")
@database_option
def report(
    *, sweep: str | None, form: str | None, figures: Figures | None, allow_mixed: bool, database: str
) -> None:
    """Print the ablation table of a sweep, or write its figures with --plots."""
    from dyna_eval.report import build_report

    with open_store(database) as store:
        record = store.record(store.find_sweep(sweep))
        built = build_report(record, allow_mixed=allow_mixed)
        if figures is not None:
            write_figures(figures, built, record, store)
            if form is None:
                return
    print_report(built, form)


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
