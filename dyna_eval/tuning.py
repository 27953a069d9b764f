"""The tuning split: the best row is chosen on some prompts, and reported on the others.

The highest of many noisy figures is too high. Where a sweep is used to choose a configuration,
`measure.tune_fraction` sets prompts aside for the choice, so that the reported figure of the chosen row is
one that it was not chosen by.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from dyna_eval.jobs import SampleTotals, SweepRecord, digest


def tuning_prompts(prompts: Collection[int], fraction: float, seed: int) -> frozenset[int]:
    """Return the prompts to choose on, by index: a seeded share of them, at least one, and never all."""
    order = sorted(prompts, key=lambda index: digest(["tuning", seed, index]))
    return frozenset(order[: min(max(1, round(fraction * len(order))), len(order) - 1)])


def split_record(record: SweepRecord) -> tuple[SweepRecord, SweepRecord]:
    """Return a sweep as measured on its tuning prompts, and as measured on the others."""
    prompts = {sample.prompt_index for job in record.jobs for sample in job.samples}
    tuning = tuning_prompts(prompts, record.measure.tune_fraction, record.seed)
    return (
        _on_prompts(record, lambda sample: sample.prompt_index in tuning),
        _on_prompts(record, lambda sample: sample.prompt_index not in tuning),
    )


def _on_prompts(record: SweepRecord, keep: Callable[[SampleTotals], bool]) -> SweepRecord:
    return replace(
        record,
        jobs=tuple(replace(job, samples=tuple(filter(keep, job.samples))) for job in record.jobs),
        sentinels=tuple(replace(own, samples=tuple(filter(keep, own.samples))) for own in record.sentinels),
        measure=replace(record.measure, tune_fraction=0.0),
    )
