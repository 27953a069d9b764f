"""Samples and rounds as flat lines of CSV, for one's own statistics; docs/metrics.md defines the columns.

A line of rounds names its sample by the number of the sample, and by what a reader knows it by. What is not
known is empty; yes is 1 and no is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from dyna_eval.jobs import canonical_json
from dyna_eval.measurements import Round
from dyna_eval.records import MeasuredRun, StoredSample
from dyna_eval.tables.formats import escape_csv


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSample:
    """A sample with what its sweep, its run and its prompt are."""

    sweep: str
    run: MeasuredRun
    sample: StoredSample
    category: str | None
    is_tuning: bool
    """Whether its prompt is one that a row is chosen on, and no figure of a report is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRound:
    """A round with its sample. `number` counts from 0."""

    of: RawSample
    number: int
    round: Round


@lru_cache(maxsize=1000)
def _text(text: str | None) -> str | None:
    """Return text for a cell; the same few come again on every line."""
    return None if text is None else escape_csv(text)


_KEYS: dict[str, Callable[[RawSample], object]] = {
    "sample": lambda one: one.sample.id,
    "sweep": lambda one: _text(one.sweep),
    "pair": lambda one: _text(one.run.pair),
    "label": lambda one: _text(one.run.label),
    "sentinel": lambda one: one.run.sequence,
    "job": lambda one: one.run.job_id,
    "repeat": lambda one: one.run.repeat,
    "prompt_index": lambda one: one.sample.totals.prompt_index,
}

SAMPLE_COLUMNS: dict[str, Callable[[RawSample], object]] = {
    **_KEYS,
    "method": lambda one: one.run.method.value,
    "params": lambda one: canonical_json(dict(one.run.params)),
    "job_key": lambda one: one.run.key,
    "actor": lambda one: _text(one.run.actor),
    "node": lambda one: _text(one.run.node),
    "environment": lambda one: one.run.environment,
    "prompt_set": lambda one: one.run.prompt_set,
    "prompt_digest": lambda one: one.sample.prompt_digest,
    "category": lambda one: _text(one.category),
    "tuning": lambda one: int(one.is_tuning),
    "prompt_tokens": lambda one: one.sample.totals.prompt_tokens,
    "new_tokens": lambda one: one.sample.totals.tokens,
    "prefill_seconds": lambda one: one.sample.totals.prefill_seconds,
    "decode_seconds": lambda one: one.sample.totals.decode_seconds,
    "ttft_seconds": lambda one: one.sample.totals.ttft_seconds,
    "rounds": lambda one: one.sample.totals.rounds,
    "drafted_nodes": lambda one: one.sample.totals.drafted_nodes,
    "verified_nodes": lambda one: one.sample.totals.verified_nodes,
    "drafted_levels": lambda one: one.sample.totals.drafted_levels,
    "accepted_tokens": lambda one: one.sample.totals.accepted_tokens,
    "capped_rounds": lambda one: one.sample.totals.capped_rounds,
    "draft_steps": lambda one: one.sample.totals.draft_steps,
    "draft_rows": lambda one: one.sample.totals.draft_rows,
    "draft_seconds": lambda one: one.sample.totals.draft_seconds,
    "grow_seconds": lambda one: one.sample.totals.grow_seconds,
    "verify_seconds": lambda one: one.sample.totals.verify_seconds,
    "walk_seconds": lambda one: one.sample.totals.walk_seconds,
    "exactness": lambda one: (known := one.sample.totals.exactness) and known.value,
    "divergence_index": lambda one: one.sample.divergence_index,
    "divergence_margin_ulp": lambda one: one.sample.divergence_margin_ulp,
    "distinct_2": lambda one: one.sample.totals.distinct_2,
}


def _of_sample(read: Callable[[RawSample], object]) -> Callable[[RawRound], object]:
    return lambda one: read(one.of)


ROUND_COLUMNS: dict[str, Callable[[RawRound], object]] = {
    **{name: _of_sample(read) for name, read in _KEYS.items()},
    "round": lambda one: one.number,
    "drafted_nodes": lambda one: one.round.drafted,
    "verified_nodes": lambda one: one.round.verified,
    "drafted_levels": lambda one: one.round.depth,
    "accepted_tokens": lambda one: one.round.accepted,
    "emitted_tokens": lambda one: one.round.emitted,
    "capped": lambda one: int(one.round.capped),
    "draft_steps": lambda one: one.round.draft_steps,
    "draft_rows": lambda one: one.round.draft_rows,
    "draft_seconds": lambda one: one.round.draft_seconds,
    "grow_seconds": lambda one: one.round.grow_seconds,
    "verify_seconds": lambda one: one.round.verify_seconds,
    "walk_seconds": lambda one: one.round.walk_seconds,
}
"""Named as the sums of them are in a line of samples."""
