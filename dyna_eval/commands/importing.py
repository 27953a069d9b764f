"""The command that brings results of other tools into the store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dyna_eval.commands.database import database_option, open_store
from dyna_eval.commands.options import json_option
from dyna_eval.commands.output import print_json
from dyna_eval.errors import ImportFileError
from dyna_eval.wording import count, listed, one_line

if TYPE_CHECKING:
    from dyna_eval.reports.imported import ImportedFile


@click.command("import")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--format", "format_name", metavar="NAME", help="Read the files as this format, and no other.")
@click.option("--formats", is_flag=True, help="List the known formats.")
@click.option("--name", help="Name of the sweep; answer files of one name become the rows of one table.")
@click.option("--pair", metavar="PAIR", help="Name of the pair of models, for files that do not record it.")
@database_option
@json_option
def import_results(
    *,
    files: tuple[Path, ...],
    format_name: str | None,
    formats: bool,
    name: str | None,
    pair: str | None,
    database: str,
    as_json: bool,
) -> int:
    """Bring result files of other tools into the database.

    They stay marked as imported. A file's format is known by what it holds. One that cannot be read is named
    and left out whole; the others are imported. A file that was imported before stays as it is, except that
    --pair names a pair that it has not got yet.
    """
    from dyna_eval_db.store import Store

    from dyna_eval.importers import FORMATS

    if formats:
        known = {name: module.SUMMARY for name, module in FORMATS.items()}
        print_json(known) if as_json else click.echo(
            "\n".join(f"{name}: {what}" for name, what in known.items())
        )
        return 0
    if not files:
        raise click.UsageError("name a result file, or ask for --formats")
    if format_name is not None and format_name not in FORMATS:
        raise click.UsageError(f"unknown format {format_name!r}; known: {', '.join(FORMATS)}")
    sweep_name = None if name is None else _checked_name(name)
    pair_name = None if pair is None else _checked_pair(pair)
    Store.check(database)
    outcomes = []
    asked = _Asked(database=database, files=len(files), format=format_name, name=sweep_name, pair=pair_name)
    for file in files:
        outcomes.append(_import(file, asked))
        _say(outcomes[-1], as_json=as_json)
    if as_json:
        print_json(outcomes)
    return 2 if any(outcome["error"] for outcome in outcomes) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """How files are to be imported."""

    database: str
    files: int
    format: str | None
    name: str | None
    pair: str | None


def _import(path: Path, asked: _Asked) -> dict[str, Any]:
    """Import one file, and return what became of it as plain JSON values."""
    from dyna_eval.importers import import_file
    from dyna_eval.reports.imported_report import findings

    outcome: dict[str, Any] = {"file": str(path), "sweep": None, "name": None, "format": None}
    outcome |= {"rows": 0, "new": False}
    try:
        file = import_file(path, asked.format)
        if asked.name is not None and asked.files > 1 and not file.in_parts:
            raise ImportFileError(
                f"{file.source.file}: holds a whole sweep, which cannot share the name"
                f" {asked.name!r} with other files; import it by itself"
            )
        if asked.pair is not None:
            file = _of_pair(file, asked.pair)
    except ImportFileError as error:
        return outcome | {"error": str(error), "findings": []}
    with open_store(asked.database, create=True) as store:
        sweep_id, new = store.add_import(file, asked.name or _name_of(path))
        sweep = store.imported(sweep_id)
        assert sweep is not None  # noqa: S101 - it was just stored
        found = findings(sweep, store.imports())
    stored = next(one for one in sweep.files if one.digest == file.digest)
    pair = stored.rows[0].pair
    if asked.pair not in (None, pair):
        what = (
            f"{file.source.file}: was imported before, as sweep {sweep_id} {sweep.name!r}, for the pair"
            f" {pair!r}; a database keeps a file once: import it into another one"
        )
        return outcome | {"error": what, "findings": []}
    outcome |= {"sweep": sweep_id, "name": sweep.name, "format": file.source.format}
    return outcome | {"rows": len(file.rows), "new": new, "error": None, "findings": found}


def _say(outcome: dict[str, Any], *, as_json: bool) -> None:
    """Print what became of a file: what was imported on stdout, what could not be on stderr."""
    if outcome["error"]:
        click.echo(one_line(f"dyna-eval: {outcome['error']}"), err=True)
    elif not as_json:
        where = f"sweep {outcome['sweep']} {outcome['name']!r}"
        rows = count(outcome["rows"], "row")
        became = (
            f"{rows} ({outcome['format']}) imported into" if outcome["new"] else "was imported before, see"
        )
        click.echo(one_line(f"{outcome['file']}: {became} {where}"))
        for text in outcome["findings"]:
            click.echo(f"  {one_line(text)}")


def _of_pair(file: ImportedFile, pair: str) -> ImportedFile:
    named = file.of_pair(pair)
    if named is None:
        recorded = listed([repr(name) for name in dict.fromkeys(row.pair for row in file.rows)])
        raise ImportFileError(
            f"{file.source.file}: records its pair, {recorded}; --pair is for files that do not"
        )
    return named


def _checked_name(name: str) -> str:
    """Return a name that may be a sweep's; raises a usage error where it may not."""
    from dyna_eval.sweeps.sections import SweepName

    return _checked("--name", name, SweepName)


def _checked_pair(pair: str) -> str:
    """Return a name that may be a pair's; raises a usage error where it may not."""
    from dyna_eval.reports.imported import PAIR_NOT_RECORDED
    from dyna_eval.sweeps.sections import Text

    if pair == PAIR_NOT_RECORDED:
        raise click.UsageError(f"--pair {pair!r} is what stands there anyway; name the pair")
    return _checked("--pair", pair, Text)


def _checked(option: str, text: str, kind: Any) -> str:
    from pydantic import TypeAdapter, ValidationError

    try:
        return str(TypeAdapter(kind).validate_python(text))
    except ValidationError as error:
        what = error.errors(include_url=False)[0]
        reason = what.get("ctx", {}).get("error") or f"{what['msg'][0].lower()}{what['msg'][1:]}"
        raise click.UsageError(f"{option} {text!r} {reason}") from error


def _name_of(path: Path) -> str:
    """Return the name that a file gives its sweep: without its ending, unless that leaves only a number."""
    from dyna_eval.importers.reading import plain

    stem = plain(path.stem, 80)
    return f"imported {stem}" if not stem or stem.isdecimal() else stem
