"""Answer files for Spec-Bench, as `report` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dyna_eval.errors import InputError
from dyna_eval.whole_file import write_whole

if TYPE_CHECKING:
    from dyna_eval_db.store import Store

    from dyna_eval.records import SweepRecord


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
