"""The tuning split: the best row is chosen on some prompts, and reported on the others.

The highest of many noisy figures is too high. Where a sweep is used to choose a configuration,
`measure.tune_fraction` sets prompts aside for the choice, so that the reported figure of the chosen row is
one that it was not chosen by.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from dyna_eval.errors import SweepFileError
from dyna_eval.jobs import Configuration, digest
from dyna_eval.measurements import SampleTotals
from dyna_eval.records import SweepRecord
from dyna_eval.reports.samples import SampleTable
from dyna_eval.yaml_source import apply_override, read_yaml


def tuning_prompts(prompts: Collection[int], fraction: float, seed: int) -> frozenset[int]:
    """Return the prompts to choose on, by index: a seeded share of them, at least one, and never all."""
    order = sorted(prompts, key=lambda index: digest(["tuning", seed, index]))
    return frozenset(order[: min(max(1, round(fraction * len(order))), len(order) - 1)])


def split_record(record: SweepRecord) -> tuple[SweepRecord, SweepRecord]:
    """Return a sweep as measured on its tuning prompts, and as measured on the others; each set is split."""
    tuning = split_prompts(record)
    others = {name: prompts - tuning[name] for name, prompts in measured_prompts(record).items()}
    return on_prompts(record, tuning), on_prompts(record, others)


_SWEPT = re.compile(r"(.+) \((\w+=[^=]*(?:, \w+=[^=]*)*)\)", re.DOTALL)


def entries_of(record: SweepRecord) -> dict[str, str]:
    """Return, by the label of a row, that of the entry of the sweep file that it was expanded from."""
    written = _written_labels(record.source)
    return {row.label: entry_of(row, written) for row in record.configurations}


def entry_of(configuration: Configuration, written: Collection[str] | None = None) -> str:
    """Return the label of the entry of the sweep file that a row was expanded from: its own, without lists.

    Expanded rows are known by their labels, which name swept parameters: `Sweep (depth=4, branch=2)`.
    `written` are the labels of the file's entries, where they are known: people write such labels, too.
    """
    label = configuration.label
    found = _SWEPT.fullmatch(label)
    names = re.findall(r"(\w+)=", found[2]) if found else []
    if not found or not all(name in configuration.params for name in names):
        return label
    is_written = written is not None and (label in written or found[1] not in written)
    return label if is_written else found[1]


_OVERRIDE = "# --set "
"""Begins the comments below a stored file's text that say what the command line changed."""


def _written_labels(source: str) -> frozenset[str] | None:
    """Return the labels of a sweep file's entries; None where its text cannot be read."""
    lines = source.split("\n")
    overrides = list(itertools.takewhile(lambda line: line.startswith(_OVERRIDE), reversed(lines)))
    try:
        document = read_yaml(source, file="the stored sweep file")
        for line in reversed(overrides):
            document = apply_override(document, line.removeprefix(_OVERRIDE))
    except SweepFileError:
        return None
    entries = document.value.get("configs") if isinstance(document.value, dict) else None
    if not isinstance(entries, list):
        return None
    labels = [entry.get("label") for entry in entries if isinstance(entry, dict)]
    return frozenset(label.strip() for label in labels if isinstance(label, str))


def split_prompts(record: SweepRecord) -> dict[str, frozenset[int]]:
    """Return the tuning prompts of each prompt set, by index."""
    fraction = record.measure.tune_fraction
    return {
        name: tuning_prompts(prompts, fraction, record.seed)
        for name, prompts in measured_prompts(record).items()
    }


def reported_record(record: SweepRecord) -> SweepRecord:
    """Return a sweep as measured on the prompts that its figures are over: all but the tuning ones."""
    return split_record(record)[1] if record.measure.tune_fraction else record


def measured_prompts(record: SweepRecord) -> dict[str, set[int]]:
    """Return the indices of the prompts that jobs have measured, by prompt set."""
    found: dict[str, set[int]] = {}
    for job in record.jobs:
        found.setdefault(job.prompt_set, set()).update(SampleTable.of(job.samples).prompts())
    return found


def on_prompts(record: SweepRecord, prompts: Mapping[str, Collection[int]]) -> SweepRecord:
    """Return a sweep as measured on some prompts of each set alone; sentinels have their pair's set."""
    sets = {job.pair: job.prompt_set for job in record.jobs}

    def kept(samples: Sequence[SampleTotals], prompt_set: str) -> SampleTable:
        return SampleTable.of(samples).on_prompts(prompts.get(prompt_set, ()))

    return replace(
        record,
        jobs=tuple(replace(job, samples=kept(job.samples, job.prompt_set)) for job in record.jobs),
        sentinels=tuple(
            replace(own, samples=kept(own.samples, sets.get(own.pair, ""))) for own in record.sentinels
        ),
        measure=replace(record.measure, tune_fraction=0.0),
    )
