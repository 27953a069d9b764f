"""The report of a stored sweep, in all its forms."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dyna_eval.commands.options import database_option, open_store, print_json, which_sweep
from dyna_eval.errors import InputError

if TYPE_CHECKING:
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
@click.option(
    "--html",
    "page",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write one self-contained web page.",
)
@click.option("--allow-mixed", is_flag=True, help="Print rows that were not measured alike, marked as such.")
@database_option
def report(
    *,
    sweep: str | None,
    form: str | None,
    plots: Path | None,
    page: Path | None,
    allow_mixed: bool,
    database: str,
) -> None:
    """Print the ablation table of a sweep."""
    from dyna_eval.report import build_report

    with open_store(database) as store:
        record = store.record(store.find_sweep(sweep))
    built = build_report(record, allow_mixed=allow_mixed)
    if page is not None:
        _write_page(built, page)
    if plots is not None:
        from dyna_eval.plots import ablation_bars

        for path in ablation_bars(built, plots):
            click.echo(f"wrote {path}", err=True)
    if form is not None or (plots is None and page is None):
        print_report(built, form)


def _write_page(built: Report, page: Path) -> None:
    from dyna_eval_dashboards.export import to_html

    try:
        page.write_text(to_html(built), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {page}: {error.strerror}; choose another file") from error
    click.echo(f"wrote {page}", err=True)


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
