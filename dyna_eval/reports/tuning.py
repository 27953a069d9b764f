"""The tuning split: the best row is chosen on some prompts, and reported on the others.

The highest of many noisy figures is too high. Where a sweep is used to choose a configuration,
`measure.tune_fraction` sets prompts aside for the choice, so that the chosen row is not reported on the
prompts that it happened to be fast on. Both are of the same runs: what moves a whole run is in both, which
a caveat says (`dyna_eval.reports.chosen`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from dyna_eval.jobs import digest
from dyna_eval.measurements import SampleTotals
from dyna_eval.records import SweepRecord
from dyna_eval.reports.samples import SampleTable


def tuning_prompts(prompts: Collection[int], fraction: float, seed: int) -> frozenset[int]:
    """Return the prompts to choose on, by index: a seeded share of them, at least one, and never all."""
    order = sorted(prompts, key=lambda index: digest(["tuning", seed, index]))
    return frozenset(order[: min(max(1, round(fraction * len(order))), len(order) - 1)])


def split_record(record: SweepRecord) -> tuple[SweepRecord, SweepRecord]:
    """Return a sweep as measured on its tuning prompts, and as measured on the others; each set is split."""
    tuning = split_prompts(record)
    others = {name: prompts - tuning[name] for name, prompts in measured_prompts(record).items()}
    return on_prompts(record, tuning), on_prompts(record, others)


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
