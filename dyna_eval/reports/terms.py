"""The terms of one report where they are not those of the sweep file: its baseline, its confidence."""

from __future__ import annotations

import difflib
from dataclasses import replace

from dyna_eval.errors import InputError
from dyna_eval.jobs import Configuration
from dyna_eval.records import SweepRecord, Terms
from dyna_eval.reports.cells import configuration_text


def with_terms(record: SweepRecord, terms: Terms) -> SweepRecord:
    """Return a sweep that is reported on other terms; those that are its file's anyway are no others.

    Raises InputError where the baseline names no row, or where there are no prompts to choose rows on.
    """
    if terms.chosen and not record.measure.tune_fraction:
        raise InputError(
            f"--chosen: sweep {record.name!r} sets no prompts aside to choose on, and on those that it was"
            " chosen by, the fastest of many looks faster than it is; submit it with"
            " measure.tune_fraction, such as 0.3"
        )
    baseline = record.baseline if terms.baseline is None else _find(record, terms.baseline)
    confidence = terms.confidence or record.confidence
    others = Terms(
        baseline=None if baseline == record.baseline else baseline,
        confidence=None if confidence == record.confidence else confidence,
        chosen=terms.chosen,
    )
    return replace(record, baseline=baseline, confidence=confidence, terms=others)


def _find(record: SweepRecord, text: str) -> str:
    """Return the label of the one row that has this label, configuration or step."""
    steps = {str(step): row for step, row in enumerate(record.configurations, start=1)}
    found = [row for row in record.configurations if row.label == text]
    found = found or [row for row in record.configurations if _told(row) == text]
    found = found or [row for step, row in steps.items() if step == text]
    if len(found) == 1:
        return found[0].label
    if found:
        labels = ", ".join(repr(row.label) for row in found)
        raise InputError(f"--baseline {text!r} is the configuration of several rows; name one of {labels}")
    names = [name for row in record.configurations for name in (row.label, _told(row))]
    near = difflib.get_close_matches(text, dict.fromkeys(names), n=2)
    hint = " or ".join(map(repr, near))
    raise InputError(
        f"--baseline {text!r} names no row; "
        + (f"did you mean {hint}?" if near else "`dyna-eval report SWEEP` lists labels and steps")
    )


def _told(row: Configuration) -> str:
    return configuration_text(row.method, row.params)
