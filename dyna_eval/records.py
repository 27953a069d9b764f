"""What a report reads: a stored sweep, its jobs, and everything that was measured in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dyna_eval import wording
from dyna_eval.jobs import (
    Configuration,
    GenerationSpec,
    JobState,
    MeasureSpec,
    MergedConfiguration,
    Method,
    Pair,
    Params,
    Scalar,
    SweepState,
)
from dyna_eval.measurements import Calibration, SampleTotals


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredJob:
    """A job as the store knows it; `samples` is empty unless it is done."""

    id: int
    key: str
    pair: str
    label: str
    method: Method
    params: Params
    repeat: int
    state: JobState
    tries: int
    error: str | None
    prompt_set: str
    generation_digest: str
    environment: str | None
    actor: str | None
    conditions: Params | None = None
    """None where no result is stored, or one of an earlier version."""
    peak_memory_bytes: int | None = None
    """The most that it took while it decoded; None where no result is stored, or where that was not seen."""
    calibration: Calibration | None = field(default=None, repr=False)
    """What its actor had found passes to cost; None where no result is stored, or where that is not known."""
    samples: Sequence[SampleTotals] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSentinel:
    actor: str
    sequence: int
    pair: str
    samples: Sequence[SampleTotals] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """What the samples of a finished job have in common, or those of an AR run that an actor made for itself.

    `job_id`, `key` and `repeat` are a job's, `sentinel_id` and `sequence` an actor's own run's; those of the
    other kind are None.
    """

    pair: str
    label: str
    method: Method
    params: Params
    prompt_set: str
    actor: str
    node: str | None
    """None for an actor's own run where results do not say on which one node the actor is."""
    environment: str
    job_id: int | None = None
    key: str | None = None
    repeat: int | None = None
    sentinel_id: int | None = None
    sequence: int | None = None
    """0 for the run before the actor's first job, then 1, 2, ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSample:
    """A sample without what it emitted. `id` is its number in its database."""

    id: int
    prompt_digest: str
    divergence_index: int | None
    divergence_margin_ulp: float | None
    totals: SampleTotals


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where something was measured, by the facts of the environment, and when."""

    facts: Mapping[str, Scalar]
    measured_at: str

    @property
    def machine(self) -> str:
        """The GPU's name, or the processor's with its cores."""
        return wording.machine(self.facts, "an unknown processor")

    @property
    def origin(self) -> str:
        """When and where it was measured, for people: `of 2026-11-26 on NVIDIA H100`."""
        return f"of {self.measured_at[:10]} on {self.machine}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCalibration(Origin):
    """A calibration with where and when it was measured."""

    calibration: Calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultOrigin(Origin):
    """An environment in which finished jobs of a pair were measured, and when the last of them landed."""

    pair: str
    environment: str
    """Its digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What one report is made by where it is not what its sweep file says."""

    baseline: str | None = None
    """The label of the row that the others are compared with; None for the file's."""
    confidence: float | None = None
    """Of all intervals; None for the file's."""
    chosen: bool = False
    """Whether it shows, of each entry of the file, the row alone that was chosen on the tuning prompts."""


AS_IN_THE_FILE = Terms()


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRecord:
    """A stored sweep and everything measured in it. `state` is derived from its jobs."""

    id: int
    name: str
    digest: str
    state: SweepState
    baseline: str
    confidence: float
    created_at: str
    configurations: tuple[Configuration, ...]
    """In the order of the sweep file."""
    merged: tuple[MergedConfiguration, ...]
    pairs: tuple[str, ...]
    jobs: tuple[StoredJob, ...] = field(repr=False)
    sentinels: tuple[StoredSentinel, ...] = field(repr=False)
    environments: Mapping[str, Mapping[str, Scalar]] = field(repr=False)
    measure: MeasureSpec = field(default_factory=MeasureSpec)
    seed: int = 0
    categories: Mapping[str, Mapping[int, str]] = field(default_factory=dict, repr=False)
    """Prompt index to category, by the digest of the prompt set. What has none is left out."""
    equal_prompts: Mapping[str, Mapping[int, int]] = field(default_factory=dict, repr=False)
    """Index of each prompt that equals an earlier one to that of the first such, by the digest of the set."""
    generations: Mapping[str, GenerationSpec] = field(default_factory=dict, repr=False)
    """By the name of the pair."""
    models: Mapping[str, Pair] = field(default_factory=dict, repr=False)
    """Likewise."""
    past_answers: tuple[str, ...] = ()
    """Pairs that wrote on behind the ends of answers; see `SweepSpec`."""
    source: str = field(default="", repr=False)
    """The sweep file's text."""
    terms: Terms = AS_IN_THE_FILE
    """By which a report was asked for; `baseline` and `confidence` above are what they say."""
