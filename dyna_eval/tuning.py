"""The tuning split: the best row is chosen on some prompts, and reported on the others.

The highest of many noisy figures is too high. Where a sweep is used to choose a configuration,
`measure.tune_fraction` sets prompts aside for the choice, so that the reported figure of the chosen row is
one that it was not chosen by.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from dyna_eval.jobs import SampleTotals, SweepRecord, digest
from dyna_eval.samples import SampleTable


def tuning_prompts(prompts: Collection[int], fraction: float, seed: int) -> frozenset[int]:
    """Return the prompts to choose on, by index: a seeded share of them, at least one, and never all."""
    order = sorted(prompts, key=lambda index: digest(["tuning", seed, index]))
    return frozenset(order[: min(max(1, round(fraction * len(order))), len(order) - 1)])


def split_record(record: SweepRecord) -> tuple[SweepRecord, SweepRecord]:
    """Return a sweep as measured on its tuning prompts, and as measured on the others."""
    tables = [SampleTable.of(job.samples) for job in record.jobs]
    prompts = {int(index) for table in tables for index in table.column("prompt_index")}
    tuning = tuning_prompts(prompts, record.measure.tune_fraction, record.seed)
    return _on_prompts(record, tuning), _on_prompts(record, prompts - tuning)


def _on_prompts(record: SweepRecord, prompts: Collection[int]) -> SweepRecord:
    def kept(samples: Sequence[SampleTotals]) -> SampleTable:
        return SampleTable.of(samples).on_prompts(prompts)

    return replace(
        record,
        jobs=tuple(replace(job, samples=kept(job.samples)) for job in record.jobs),
        sentinels=tuple(replace(own, samples=kept(own.samples)) for own in record.sentinels),
        measure=replace(record.measure, tune_fraction=0.0),
    )
