"""The options of `report` that say which figures to draw, and drawing them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dyna_eval.commands.options import with_options
from dyna_eval.jobs import JobState

if TYPE_CHECKING:
    from dyna_eval_db.store import Store

    from dyna_eval.commands.reading import StoredReport
    from dyna_eval.plots import Wish
    from dyna_eval.series.measured import Measured

FIGURE_NAMES = ("ablation", "curves", "heat", "cost-model", "phases", "depth", "tree-size", "prompts")
MEASURES = ("throughput", "speedup", "acceptance")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Where figures go, and which."""

    directory: Path
    wish: Wish


def figure_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of figures; the command gets them as one `figures`, None where none are wanted."""

    @functools.wraps(command)
    def with_figures(
        *,
        plots: Path | None,
        plot: tuple[str, ...],
        var_x: str | None,
        curve_by: tuple[str, ...],
        row_by: str | None,
        col_by: str | None,
        measure: str | None,
        heat: str | None,
        phase_unit: str | None,
        **others: Any,
    ) -> Any:
        spanned = bool(var_x or curve_by or row_by or col_by)
        asked = [("curves", spanned), ("heat", heat is not None)]
        names = tuple(dict.fromkeys([*plot, *(name for name, given in asked if given)]))
        if plots is None and (names or measure or phase_unit):
            raise click.UsageError("options of figures need the folder to write them to: --plots DIR")
        if plots is None:
            return command(figures=None, **others)

        from dyna_eval.plots import Wish
        from dyna_eval.series.swept import Measure

        wish = Wish(
            names=names,
            x=var_x,
            curves=curve_by,
            row=row_by,
            column=col_by,
            measure=Measure(measure or "speedup"),
            heat=_two(heat),
            phases_as_shares=phase_unit == "share",
        )
        return command(figures=Figures(directory=plots, wish=wish), **others)

    options = [
        click.option(
            "--plots",
            metavar="DIR",
            type=click.Path(path_type=Path, file_okay=False),
            help="Write the figures that the sweep holds data for to this folder, as PDF, SVG and PNG.",
        ),
        click.option(
            "--plot",
            multiple=True,
            type=click.Choice(FIGURE_NAMES),
            help="Write only this figure, and others named.",
        ),
        click.option("--var-x", metavar="NAME", help="Curves against this swept parameter."),
        click.option(
            "--curve-by", metavar="NAME", multiple=True, help="A curve per value of this parameter."
        ),
        click.option("--row-by", metavar="NAME", help="A row of panels per value of this parameter."),
        click.option("--col-by", metavar="NAME", help="A column of panels per value of this parameter."),
        click.option("--heat", metavar="X,Y", help="A heat map over these two parameters."),
        click.option(
            "--measure",
            type=click.Choice(MEASURES),
            help="What curves and heat map show.  [default: speedup]",
        ),
        click.option(
            "--phase-unit", type=click.Choice(["ms", "share"]), help="Phase times per token.  [default: ms]"
        ),
    ]
    return with_options(with_figures, options)


def _two(heat: str | None) -> tuple[str, str] | None:
    if heat is None:
        return None
    names = [name.strip() for name in heat.split(",")]
    if len(names) != 2 or not all(names):
        raise click.UsageError(f"--heat takes two parameters with a comma between, such as X,Y, not {heat!r}")
    return names[0], names[1]


def write_figures(figures: Figures, stored: StoredReport, store: Store) -> None:
    """Write the wished figures, and tell on stderr which files there are and what was left out.

    Raises InputError before anything is written, unless the folder cannot be.
    """
    from dyna_eval import plots

    sizes = _tree_sizes(stored, store) if figures.wish.wants("tree-size") else {}
    prepared = plots.plan(_measured(stored), figures.wish, sizes)
    for paths in plots.write(prepared.drawings, stored.report, figures.directory):
        endings = [path.suffix for path in paths]
        click.echo(f"wrote {paths[0]}, {', '.join(endings[1:-1])} and {endings[-1]}", err=True)
    for reason in prepared.left_out:
        click.echo(reason, err=True)


def _measured(stored: StoredReport) -> Measured:
    """Return a report with its record, if it is of one sweep that was measured here."""
    from dyna_eval.series.measured import Measured

    if stored.report.joined or not stored.records:
        return Measured(report=stored.report)
    return Measured.of(stored.report, stored.records[0])


def _tree_sizes(stored: StoredReport, store: Store) -> dict[int, dict[int, int]]:
    """Count rounds by job and by nodes, of the jobs that the report has as done.

    With a tuning split they are those of the reported prompts alone.
    """
    from dyna_eval.reports.joined_report import with_split_of
    from dyna_eval.reports.tuning import measured_prompts, reported_record

    records = [reported_record(with_split_of(stored.records[0], own)) for own in stored.records]
    done = {job.id for record in records for job in record.jobs if job.state is JobState.DONE}
    counted = [
        store.tree_sizes(record.id, measured_prompts(record) if stored.report.split else None)
        for record in records
    ]
    return {job: sizes for each in counted for job, sizes in each.items() if job in done}
