"""What `report` does beside its table: a breakdown by category, and answer files for Spec-Bench."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dyna_eval.commands.output import print_json
from dyna_eval.errors import InputError
from dyna_eval.whole_file import write_whole

if TYPE_CHECKING:
    from dyna_eval_db.store import Store

    from dyna_eval.records import SweepRecord


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


def write_answers(store: Store, record: SweepRecord, folder: Path, *, allow_mixed: bool) -> None:
    """Write a Spec-Bench answer file for each row that has results, and say on stderr what is left out."""
    from dyna_eval.reports.measured_report import build_report
    from dyna_eval.reports.spec_bench import answer_files

    written = 0
    for file in answer_files(record, build_report(record, allow_mixed=allow_mixed), store.samples):
        lines = list(file.lines)
        if not lines:
            click.echo(f"left out '{file.label}': no result", err=True)
            continue
        path = folder / file.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, "".join(f"{line}\n" for line in lines).encode())
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}; choose another folder") from error
        click.echo(f"wrote {path}", err=True)
        written += 1
    if not written:
        raise InputError(f"sweep {record.id} has no result yet that could be written as an answer file")
