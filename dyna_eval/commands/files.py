"""Commands that look at a sweep file alone, without its models, its data or a database."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dyna_eval.commands.options import json_option, limit_option, overrides_option
from dyna_eval.commands.output import print_json
from dyna_eval.wording import count, one_line

if TYPE_CHECKING:
    from dyna_eval.jobs import SweepSpec


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@overrides_option
@limit_option
@click.option("--schema", is_flag=True, help="Print the JSON Schema of sweep files, for editors.")
@json_option
def validate(
    *, file: Path | None, overrides: tuple[str, ...], max_configurations: int, schema: bool, as_json: bool
) -> None:
    """Check a sweep file, without its models and data."""
    from dyna_eval.sweeps.config import load_sweep
    from dyna_eval.sweeps.sections import json_schema

    if schema:
        print_json(json_schema())
        return
    if file is None:
        raise click.UsageError("name a sweep file, or ask for --schema")
    spec = load_sweep(file, overrides, max_configurations=max_configurations)
    warn(file, spec)
    rows = len(spec.configurations) * len(spec.pairs)
    jobs, most = rows * spec.measure.repeats, rows * spec.measure.most_repeats
    if as_json:
        print_json(
            {"name": spec.name, "configurations": len(spec.configurations), "jobs": jobs, "most_jobs": most}
        )
    else:
        more = f", up to {most:,} where repeats are added" if most > jobs else ""
        configurations = count(len(spec.configurations), "configuration")
        click.echo(f"{file}: {spec.name}: {configurations}, {count(jobs, 'job')}{more}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@overrides_option
@limit_option
@json_option
def expand(*, file: Path, overrides: tuple[str, ...], max_configurations: int, as_json: bool) -> None:
    """List the rows of a sweep file, with every default."""
    from dyna_eval.sweeps.config import load_sweep

    spec = load_sweep(file, overrides, max_configurations=max_configurations)
    if as_json:
        print_json(plan(spec))
    else:
        print_configurations(spec)


def warn(file: Path, spec: SweepSpec) -> None:
    """Say on stderr what a valid sweep file asks for that its author may not want."""
    if spec.past_answers:
        click.echo(
            one_line(
                f"{file}: warning: prompts are in a chat template, but generation.stop_at_eos is false: text"
                " behind the end of an answer repeats itself, which inflates acceptance; set"
                " 'stop_at_eos: true', and 'max_new_tokens' to what answers need"
            ),
            err=True,
        )


def plan(spec: SweepSpec) -> dict[str, Any]:
    """Return what a sweep stands for as plain JSON values."""
    return {
        "name": spec.name,
        "pairs": [pair.name for pair in spec.pairs],
        "generations": {pair.name: asdict(spec.generation_of(pair)) for pair in spec.pairs},
        "repeats": spec.measure.repeats,
        "max_repeats": spec.measure.most_repeats,
        "configurations": [
            {"label": row.label, "method": str(row.method), "params": dict(row.params)}
            for row in spec.configurations
        ],
        "merged": [{"label": row.label, "into": row.into, "reason": row.reason} for row in spec.merged],
    }


def print_configurations(spec: SweepSpec) -> None:
    for row in spec.configurations:
        settings = ", ".join(f"{name}={value}" for name, value in row.params.items() if value is not None)
        click.echo(f"{row.label}: {row.method} {settings}".rstrip())
    for merged in spec.merged:
        click.echo(f"{merged.label}: left out, the same as {merged.into}: {merged.reason}")
