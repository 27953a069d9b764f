"""Imported files, on their way into the database and out of it.

An imported sweep is a row of `sweep` without jobs, whose files are in `imported_file`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from dyna_eval.jobs import digest
from dyna_eval.reports.imported import ImportedFile, ImportedRow, ImportedSample, ImportedSweep
from dyna_eval_db.columns import insert_missing
from dyna_eval_db.models import ImportedFileRow, ImportedRowRow, ImportedSampleRow, SweepRow

_FILE = TypeAdapter(ImportedFile)
_ROW = TypeAdapter(ImportedRow)
_SAMPLE_COLUMNS = (
    ImportedSampleRow.prompt,
    ImportedSampleRow.category,
    ImportedSampleRow.tokens,
    ImportedSampleRow.seconds,
    ImportedSampleRow.rounds,
    ImportedSampleRow.emitted,
)


# --------------------------------------------------------------------- writing


def find_import(session: Session, sha256: str) -> int | None:
    """Return the sweep that a file was imported into; None where it was not."""
    return session.scalar(select(ImportedFileRow.sweep_id).where(ImportedFileRow.sha256 == sha256))


def file_digests(session: Session, sweep_id: int) -> list[str]:
    """Return the SHA-256 of every file of a sweep, in the order of import; none of one that was measured."""
    own = select(ImportedFileRow.sha256).where(ImportedFileRow.sweep_id == sweep_id)
    return list(session.scalars(own.order_by(ImportedFileRow.id)))


def insert_import(session: Session, file: ImportedFile, name: str) -> int | None:
    """Store a file under a name and return its sweep; None where the file is known.

    A file that is one part of a table joins the latest sweep of that name, if that is made of such parts.
    """
    joined = _sweep_of_parts(session, name) if file.in_parts else None
    sweep_id = joined or _insert_sweep(session, file, name)
    if sweep_id is None:
        return None
    if not _insert_file(session, file, sweep_id):  # another process was faster
        if joined is None:
            session.execute(delete(SweepRow).where(SweepRow.id == sweep_id))
        return None
    if joined is not None:
        _update_digest(session, sweep_id)
    file_id = session.scalars(select(ImportedFileRow.id).where(ImportedFileRow.sha256 == file.digest)).one()
    for row in file.rows:
        _insert_row(session, row, file_id)
    return sweep_id


def name_pair(session: Session, file: ImportedFile) -> bool:
    """Give a stored file the pair that whoever imports it again names, where it has none yet.

    Return whether that changed it; its figures stay as they are.
    """
    stored = session.scalars(select(ImportedFileRow).where(ImportedFileRow.sha256 == file.digest)).one()
    named = _read_file(session, stored, with_samples=False).of_pair(file.rows[0].pair)
    if not file.pair_named or named is None:
        return False
    stored.content = to_jsonable_python(replace(named, rows=()))
    for row in session.scalars(select(ImportedRowRow).filter_by(file_id=stored.id)):
        row.content = {**row.content, "pair": file.rows[0].pair}
    return True


def _sweep_of_parts(session: Session, name: str) -> int | None:
    latest = session.scalar(select(func.max(SweepRow.id)).where(SweepRow.name == name))
    files = session.scalars(select(ImportedFileRow).where(ImportedFileRow.sweep_id == latest)).all()
    return latest if files and all(_FILE.validate_python(row.content).in_parts for row in files) else None


def _insert_sweep(session: Session, file: ImportedFile, name: str) -> int | None:
    own = digest(["imported", file.digest])
    if not insert_missing(session, SweepRow, name=name, digest=own, spec={}, pairs=[], prompt_sets={}):
        return None
    return session.scalars(select(SweepRow.id).where(SweepRow.digest == own)).one()


def _update_digest(session: Session, sweep_id: int) -> None:
    """Give a sweep that got one more file the digest of all its files: `ImportedSweep.digest`."""
    changed = update(SweepRow).where(SweepRow.id == sweep_id)
    files = file_digests(session, sweep_id)
    session.execute(changed.values(digest=digest(["imported", *files])))


def _insert_file(session: Session, file: ImportedFile, sweep_id: int) -> bool:
    return insert_missing(
        session,
        ImportedFileRow,
        sweep_id=sweep_id,
        sha256=file.digest,
        format=file.source.format,
        content=to_jsonable_python(replace(file, rows=())),
    )


def _insert_row(session: Session, row: ImportedRow, file_id: int) -> None:
    content = to_jsonable_python(replace(row, samples=()), fallback=dict)
    stored = ImportedRowRow(file_id=file_id, label=row.label, content=content)
    session.add(stored)
    session.flush()
    samples = [{"row_id": stored.id, **asdict(sample)} for sample in row.samples]
    if samples:
        session.execute(insert(ImportedSampleRow), samples)


# --------------------------------------------------------------------- reading


def count_imported(session: Session) -> Mapping[int, int]:
    """Count the rows of every imported sweep."""
    grouped = (
        select(ImportedFileRow.sweep_id, func.count())
        .join(ImportedRowRow, ImportedRowRow.file_id == ImportedFileRow.id)
        .group_by(ImportedFileRow.sweep_id)
    )
    return {row[0]: row[1] for row in session.execute(grouped)}


def is_imported(session: Session, sweep_id: int) -> bool:
    return session.scalar(select(ImportedFileRow.id).filter_by(sweep_id=sweep_id).limit(1)) is not None


def read_import(session: Session, sweep: SweepRow, *, with_samples: bool = True) -> ImportedSweep | None:
    """Read an imported sweep with all its files; None where jobs measured it."""
    statement = select(ImportedFileRow).filter_by(sweep_id=sweep.id).order_by(ImportedFileRow.id)
    files = session.scalars(statement).all()
    if not files:
        return None
    return ImportedSweep(
        id=sweep.id,
        name=sweep.name,
        created_at=sweep.created_at.isoformat(timespec="seconds"),
        files=tuple(_read_file(session, row, with_samples=with_samples) for row in files),
    )


def read_imports(session: Session) -> list[ImportedSweep]:
    """Read all imported sweeps without their samples, the oldest first."""
    statement = select(SweepRow).where(SweepRow.id.in_(select(ImportedFileRow.sweep_id)))
    sweeps = session.scalars(statement.order_by(SweepRow.id))
    read = (read_import(session, sweep, with_samples=False) for sweep in sweeps)
    return [sweep for sweep in read if sweep is not None]


def _read_file(session: Session, row: ImportedFileRow, *, with_samples: bool) -> ImportedFile:
    rows = session.scalars(select(ImportedRowRow).filter_by(file_id=row.id).order_by(ImportedRowRow.id)).all()
    samples = _read_samples(session, row.id) if with_samples else {}
    return replace(
        _FILE.validate_python(row.content),
        rows=tuple(
            replace(_ROW.validate_python(stored.content), samples=samples.get(stored.id, ()))
            for stored in rows
        ),
    )


def _read_samples(session: Session, file_id: int) -> dict[int, tuple[ImportedSample, ...]]:
    statement = (
        select(ImportedSampleRow.row_id, *_SAMPLE_COLUMNS)
        .join(ImportedRowRow, ImportedRowRow.id == ImportedSampleRow.row_id)
        .where(ImportedRowRow.file_id == file_id)
        .order_by(ImportedSampleRow.row_id, ImportedSampleRow.prompt)
    )
    rows = session.execute(statement).mappings()
    return {
        row_id: tuple(_sample(dict(row)) for row in group)
        for row_id, group in itertools.groupby(rows, key=lambda row: row["row_id"])
    }


def _sample(values: dict[str, Any]) -> ImportedSample:
    return ImportedSample(**{name: value for name, value in values.items() if name != "row_id"})
