"""The report of a stored sweep, in all its forms."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dyna_eval.commands.importing import stored_report
from dyna_eval.commands.options import database_option, open_store, print_json, which_sweep

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
@click.option("--from", "sources", multiple=True, metavar="SWEEP", help="Join the rows of these sweeps.")
@click.option(
    "--row",
    "rows",
    multiple=True,
    metavar="ROW",
    help="Show this row: its label, configuration (* is any text) or step, as SWEEP:ROW of one sweep alone.",
)
@click.option("--allow-mixed", is_flag=True, help="Print rows that were not measured alike, marked as such.")
@database_option
def report(
    *,
    sweep: str | None,
    form: str | None,
    plots: Path | None,
    sources: tuple[str, ...],
    rows: tuple[str, ...],
    allow_mixed: bool,
    database: str,
) -> None:
    """Print the ablation table of a sweep, measured or imported, or of several joined with --from."""
    if sweep is not None and sources:
        raise click.UsageError("name one SWEEP, or several with --from")
    with open_store(database) as store:
        built = stored_report(store, sources or (sweep,), rows=rows, allow_mixed=allow_mixed)
    if plots is not None:
        from dyna_eval.plots import ablation_bars

        for path in ablation_bars(built, plots):
            click.echo(f"wrote {path}", err=True)
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
