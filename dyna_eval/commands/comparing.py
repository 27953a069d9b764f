"""The comparison of two stored sweeps."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dyna_eval.commands.database import database_option, open_to_read, without_password
from dyna_eval.commands.options import form_options
from dyna_eval.commands.output import print_json
from dyna_eval.wording import count, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dyna_eval.reports.gate import Failed
    from dyna_eval.reports.sweep_comparison import Side, SweepComparison

_DATABASE_FILE = re.compile(r".*\.(db|sqlite3?)", re.IGNORECASE)


def read_percentage(
    ctx: click.Context | None, param: click.Parameter | None, text: str | None
) -> float | None:
    """Return the share that is written as `3%` or `2.5 %`: 0.03 or 0.025; from 0 % to less than 100 %."""
    if text is None:
        return None
    number = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+) ?%", text.strip())
    share = float(number[1]) / 100.0 if number else math.nan
    if not 0.0 <= share < 1.0:
        what = f"{text!r} is not a percentage from 0% to less than 100%; write it as 3%"
        raise click.BadParameter(what, ctx, param)
    return share


@click.command()
@click.argument("a")
@click.argument("b")
@form_options(
    markdown="Print a Markdown table.",
    csv="Print comma-separated values.",
    json="Print everything as JSON.",
)
@click.option(
    "--fail-on-regression",
    "allowed",
    callback=read_percentage,
    metavar="PERCENT",
    help="Exit with 1 where a row of B is more than PERCENT (such as 3%) slower, its interval included, has"
    " no result any more, or cannot be compared.",
)
@click.option(
    "--fail-on-speedup",
    "allowed_speedups",
    callback=read_percentage,
    metavar="PERCENT",
    help="Exit with 1 where a row of B has a speedup, over B's baseline, that is more than PERCENT (such as"
    " 3%) lower than in A, its interval included, has no result any more, or cannot be compared. A machine"
    " that is slower as a whole lowers no speedup.",
)
@click.option(
    "--fail-on-acceptance",
    "allowed_counts",
    callback=read_percentage,
    metavar="PERCENT",
    help="Exit with 1 where a row of B has tokens per round that differ by more than PERCENT (such as 1%), up"
    " or down, has no result any more, or cannot be compared. No clock is in them: another machine will do.",
)
@database_option
@click.option(
    "--db-b",
    "database_b",
    metavar="URL",
    callback=without_password,
    help="The database of B, where it is another one.",
)
def compare(
    *,
    a: str,
    b: str,
    form: str | None,
    allowed: float | None,
    allowed_speedups: float | None,
    allowed_counts: float | None,
    database: str,
    database_b: str | None,
) -> int:
    """Compare two sweeps row by row: B against A.

    A and B are each the name or number of a sweep; DATABASE#SWEEP for one of another database, which is a
    file or a URL; or DATABASE alone for its latest sweep.
    """
    from dyna_eval.reports.gate import lower_speedups, other_counts, regressions
    from dyna_eval.reports.sweep_comparison import compare_reports

    compared = compare_reports(read_side(a, database), read_side(b, database_b or database))
    regressed = None if allowed is None else regressions(compared, allowed)
    lower = None if allowed_speedups is None else lower_speedups(compared, allowed_speedups)
    other = None if allowed_counts is None else other_counts(compared, allowed_counts)
    _print(compared, regressed, lower=lower, other=other, form=form)
    if regressed:
        click.echo(_regression_text(regressed, allowed or 0.0), err=True)
    if lower:
        click.echo(_lower_speedups_text(lower, allowed_speedups or 0.0), err=True)
    if other:
        click.echo(_other_counts_text(other, allowed_counts or 0.0), err=True)
    return 1 if regressed or lower or other else 0


def read_side(text: str, database: str) -> Side:
    """Read the sweep that a word of the command line names, with its report.

    Raises DatabaseError or UnknownSweepError. Rows that do not belong into one table are let in: each is
    compared with its partner alone, and what it is doubted for is said beside it.
    """
    from dyna_eval_db.address import parse_address, shown

    from dyna_eval.reports.imported_report import imported_report
    from dyna_eval.reports.measured_report import build_report
    from dyna_eval.reports.sweep_comparison import Side

    url, sweep = split_side(text, database)
    origin = shown(parse_address(url))
    with open_to_read(url) as store:
        sweep_id = store.find_sweep(sweep)
        imported = store.imported(sweep_id)
        if imported is not None:
            report = imported_report(imported, store.imports(), allow_mixed=True)
            return Side(report=report, origin=origin)
        record = store.record(sweep_id)
    return Side(report=build_report(record, allow_mixed=True), origin=origin)


def split_side(text: str, database: str) -> tuple[str, str | None]:
    """Return the address and the sweep that `SWEEP`, `DATABASE#SWEEP` or `DATABASE` mean; None is the latest.

    What stands before the first `#`, or the whole text, is a database if it has `://`, or names a file that
    exists or ends as database files do. Any other text is a sweep of the given database, `#` and all.
    """
    before, _, after = text.partition("#")
    if "://" in before:
        return before, after or None
    if _DATABASE_FILE.fullmatch(before) or _is_file(before):
        return f"sqlite:///{Path(before).absolute()}", after or None
    return database, text


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or with a NUL
        return False


def _print(
    compared: SweepComparison,
    regressed: Sequence[Failed] | None,
    *,
    lower: Sequence[Failed] | None,
    other: Sequence[Failed] | None,
    form: str | None,
) -> None:
    from dyna_eval.tables import comparison as tables

    if form == "json":
        print_json(tables.comparison_json(compared, regressed, lower=lower, other=other))
    elif form == "markdown":
        click.echo(tables.comparison_markdown(compared), nl=False)
    elif form == "csv":
        click.echo(tables.comparison_csv(compared), nl=False)
    else:
        tables.print_comparison(compared, sys.stdout)


def _regression_text(regressed: Sequence[Failed], allowed: float) -> str:
    verb = "is" if len(regressed) == 1 else "are"
    slower = f"more than {allowed * 100:g} % slower than A"
    number = f"{count(len(regressed), 'row')} of B {verb}"
    return f"dyna-eval: {number} {slower}, without a result, or not comparable: {_failed_text(regressed)}"


def _lower_speedups_text(lower: Sequence[Failed], allowed: float) -> str:
    verb, noun = ("is", "speedup") if len(lower) == 1 else ("are", "speedups")
    number = f"the {noun} of {count(len(lower), 'row')} of B {verb}"
    than = f"more than {allowed * 100:g} % lower than A's"
    return f"dyna-eval: {number} {than}, not there, or not comparable: {_failed_text(lower)}"


def _other_counts_text(other: Sequence[Failed], allowed: float) -> str:
    number = f"the tokens per round of {count(len(other), 'row')} of B"
    differ = f"differ from A's by more than {allowed * 100:g} %"
    return f"dyna-eval: {number} {differ}, are not there, or not comparable: {_failed_text(other)}"


def _failed_text(failed: Sequence[Failed]) -> str:
    return "; ".join(one_line(f"'{one.row.label}' ({one.reason})") for one in failed)
