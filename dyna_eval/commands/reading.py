"""Reports of stored sweeps, whether they were measured here or imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dyna_eval.errors import InputError
from dyna_eval.records import AS_IN_THE_FILE, Terms

if TYPE_CHECKING:
    from dyna_eval_db.store import Store

    from dyna_eval.records import SweepRecord
    from dyna_eval.reports.imported import ImportedSweep
    from dyna_eval.reports.presets import Preset
    from dyna_eval.reports.report import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReport:
    """A report with the records that it was made from: what is told beside it is of the same moment."""

    report: Report
    records: tuple[SweepRecord, ...]
    """Those of its sweeps that were measured here."""


def stored_report(
    store: Store,
    ids: Sequence[int],
    *,
    rows: Sequence[str] = (),
    allow_mixed: bool = False,
    preset: Preset | None = None,
    terms: Terms = AS_IN_THE_FILE,
) -> StoredReport:
    """Return the report of the sweep of an id; of several sweeps, or of chosen rows, the joined one.

    `terms` are the first sweep's. Raises MixedRowsError as the reports do, and InputError where a preset or
    terms do not fit.
    """
    from dyna_eval.reports.imported import ImportedSweep
    from dyna_eval.reports.imported_report import imported_report
    from dyna_eval.reports.joined_report import joined_report
    from dyna_eval.reports.measured_report import build_report

    parts = [store.imported(sweep_id) or store.record(sweep_id) for sweep_id in ids]
    if terms != AS_IN_THE_FILE:
        parts[0] = _on_terms(parts[0], terms, whole=len(parts) == 1 and not rows)
    first = parts[0]
    others = store.imports() if any(isinstance(part, ImportedSweep) for part in parts) else []
    if preset is not None and (len(parts) > 1 or rows or isinstance(first, ImportedSweep)):
        raise InputError(f"preset {preset} is for one sweep that was measured here; choose rows with --row")
    if len(parts) > 1 or rows:
        report = joined_report(parts, rows=rows, others=others, allow_mixed=allow_mixed)
    elif isinstance(first, ImportedSweep):
        report = imported_report(first, others, allow_mixed=allow_mixed)
    else:
        report = build_report(first, allow_mixed=allow_mixed, preset=preset)
    records = tuple(part for part in parts if not isinstance(part, ImportedSweep))
    return StoredReport(report=report, records=records)


def _on_terms(part: SweepRecord | ImportedSweep, terms: Terms, *, whole: bool) -> SweepRecord:
    from dyna_eval.reports.imported import ImportedSweep
    from dyna_eval.reports.terms import with_terms

    if isinstance(part, ImportedSweep):
        raise InputError(
            f"sweep {part.id} ({part.name}) was imported: its baseline and intervals are those of its files;"
            " --baseline, --confidence and --chosen are for a sweep that was measured here"
        )
    if terms.chosen and not whole:
        raise InputError("--chosen is for one whole sweep; leave out --from and --row")
    return with_terms(part, terms)


def find_measured(store: Store, name_or_id: str | None) -> int:
    """Return the id of a sweep that was measured here; raises InputError for an imported one."""
    sweep_id = store.find_sweep(name_or_id)
    if store.imported(sweep_id) is not None:
        raise InputError(f"sweep {sweep_id} was imported and has no jobs; name one that was measured here")
    return sweep_id
