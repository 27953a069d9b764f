"""What a running sweep tells Prometheus through Ray: which metrics there are, and who exports them when.

Ray's agents serve them, with `ray_` before each name and `_total` behind a counter's. Tags have few values:
numbers of sweeps, names of pairs, methods, states. Exporting happens between jobs, and a failure of it is
logged and goes no further: the store has everything that counts.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from statistics import fmean
from typing import Any

from ray.util import metrics

from dyna_eval.errors import first_line
from dyna_eval.jobs import Job, JobState
from dyna_eval.measurements import JobResult, SampleTotals, sum_rounds
from dyna_eval.notices import Happening
from dyna_eval.reports.statistics import Run, acceptance, prompt_throughputs

_TAG_CHARACTERS = 80
_log = logging.getLogger(__name__)


class Kind(StrEnum):
    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One name that Prometheus sees."""

    name: str
    kind: Kind
    description: str
    tags: tuple[str, ...]
    boundaries: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets."""

    @property
    def exported_name(self) -> str:
        """The name that Ray's agents serve; a histogram's series end in `_bucket`, `_sum` or `_count`."""
        return f"ray_{self.name}" + ("_total" if self.kind is Kind.COUNTER else "")


JOBS = Metric(
    name="dyna_eval_jobs",
    kind=Kind.GAUGE,
    description="Jobs of a sweep by state, as the store has them.",
    tags=("sweep", "state"),
)
QUEUE_AGE = Metric(
    name="dyna_eval_queue_age_seconds",
    kind=Kind.GAUGE,
    description="How long the next queued job has been first in line; 0 when nothing is queued.",
    tags=("sweep",),
)
ACTORS = Metric(
    name="dyna_eval_actors",
    kind=Kind.GAUGE,
    description="Places for actors, by whether one works there.",
    tags=("sweep", "state"),
)
DATABASE_AWAY = Metric(
    name="dyna_eval_database_away",
    kind=Kind.GAUGE,
    description="1 while results wait in memory for a database that does not answer, else 0.",
    tags=("sweep",),
)
ATTEMPTS = Metric(
    name="dyna_eval_attempts",
    kind=Kind.COUNTER,
    description="Attempts at jobs that ended, by how: landed, retried, failed or discarded.",
    tags=("sweep", "pair", "method", "outcome"),
)
TOKENS_PER_SECOND = Metric(
    name="dyna_eval_tokens_per_second",
    kind=Kind.GAUGE,
    description="Mean over prompts of emitted tokens per decode second, of the job that landed last.",
    tags=("sweep", "pair", "method"),
)
ACCEPTANCE_LENGTH = Metric(
    name="dyna_eval_acceptance_length",
    kind=Kind.GAUGE,
    description="Emitted tokens per verification round, of the job that landed last; 1 for the target alone.",
    tags=("sweep", "pair", "method"),
)
JOB_SECONDS = Metric(
    name="dyna_eval_job_seconds",
    kind=Kind.HISTOGRAM,
    description="Wall seconds of the decoding of jobs that landed, warm-up and sentinels apart.",
    tags=("sweep", "pair", "method"),
    boundaries=(1.0, 3.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 10800.0),
)
ACTOR_LOAD_SECONDS = Metric(
    name="dyna_eval_actor_load_seconds",
    kind=Kind.GAUGE,
    description="How long an actor took to load and calibrate the pair that it holds.",
    tags=("pair",),
)
ACTOR_TARGET_TOKENS_PER_SECOND = Metric(
    name="dyna_eval_actor_target_tokens_per_second",
    kind=Kind.GAUGE,
    description="Tokens per decode second of the target alone, in the latest of an actor's own AR runs.",
    tags=("pair",),
)
ACTOR_TOKENS = Metric(
    name="dyna_eval_actor_tokens",
    kind=Kind.COUNTER,
    description="Tokens that actors emitted in jobs that they finished, warm-up and sentinels apart.",
    tags=("pair", "method"),
)

METRICS = (
    JOBS,
    QUEUE_AGE,
    ACTORS,
    DATABASE_AWAY,
    ATTEMPTS,
    TOKENS_PER_SECOND,
    ACCEPTANCE_LENGTH,
    JOB_SECONDS,
    ACTOR_LOAD_SECONDS,
    ACTOR_TARGET_TOKENS_PER_SECOND,
    ACTOR_TOKENS,
)


def tag_text(text: str) -> str:
    """Return a name from a sweep file as a tag: short, and ASCII, which is all that Ray takes.

    Letters, digits and the signs of model names stay; any other character becomes `_`.
    """
    return re.sub(r"[^A-Za-z0-9 ._/@:+-]", "_", text[:_TAG_CHARACTERS])


@dataclass(slots=True, kw_only=True)
class _Exported:
    """Ray's own objects for the metrics that this process has exported, made at the first use of each."""

    _made: dict[str, Any] = field(default_factory=dict)

    def set(self, metric: Metric, value: float, **tags: str) -> None:
        self._of(metric).set(value, tags)

    def add(self, metric: Metric, value: float, **tags: str) -> None:
        if value:  # Ray refuses to add nothing
            self._of(metric).inc(value, tags)

    def observe(self, metric: Metric, value: float, **tags: str) -> None:
        self._of(metric).observe(value, tags)

    def _of(self, metric: Metric) -> Any:
        if metric.name not in self._made:
            self._made[metric.name] = _made_by_ray(metric)
        return self._made[metric.name]


def _made_by_ray(metric: Metric) -> Any:
    match metric.kind:
        case Kind.GAUGE:
            return metrics.Gauge(metric.name, metric.description, metric.tags)
        case Kind.COUNTER:
            return metrics.Counter(metric.name, metric.description, metric.tags)
        case Kind.HISTOGRAM:
            return metrics.Histogram(metric.name, metric.description, list(metric.boundaries), metric.tags)


@contextmanager
def _harmless() -> Iterator[None]:
    """Log whatever goes wrong in a block: a metric must never cost a job."""
    try:
        yield
    except Exception as error:
        _warn_once(f"{type(error).__name__}: {first_line(error)}")


@cache
def _warn_once(what: str) -> None:
    """Say what went wrong, not again every second."""
    _log.warning("a metric was not exported: %s", what)


@dataclass(slots=True, kw_only=True)
class SweepExport:
    """What a controller exports of its sweep. Times are the caller's, in seconds of any one clock."""

    sweep: str
    _waiting_since: float | None = None
    _queued: int = 0
    _exported: _Exported = field(default_factory=_Exported)

    def jobs(self, counts: Mapping[JobState, int]) -> None:
        """Export how many jobs are in each state."""
        with _harmless():
            self._queued = counts[JobState.QUEUED]
            for state, count in counts.items():
                self._exported.set(JOBS, count, sweep=self.sweep, state=state.value)

    def started(self, now: float) -> None:
        """Note that a job left the queue; the next one is first in line from now on."""
        self._waiting_since = now

    def moment(self, now: float, *, working: int, places: int, away: bool) -> None:
        """Export what the controller sees at a moment, without asking the store."""
        with _harmless():
            if self._waiting_since is None or not self._queued:
                self._waiting_since = now
            self._exported.set(QUEUE_AGE, now - self._waiting_since, sweep=self.sweep)
            self._exported.set(ACTORS, working, sweep=self.sweep, state="working")
            self._exported.set(ACTORS, max(0, places - working), sweep=self.sweep, state="idle")
            self._exported.set(DATABASE_AWAY, int(away), sweep=self.sweep)

    def ended(self, job: Job, outcome: Happening) -> None:
        """Count an attempt that ended."""
        with _harmless():
            self._exported.add(ATTEMPTS, 1, outcome=outcome.value, **self._tags(job))

    def landed(self, job: Job, result: JobResult) -> None:
        """Export the figures of a result that the store took."""
        with _harmless():
            tags, totals = self._tags(job), [sum_rounds(sample) for sample in result.samples]
            self._exported.observe(JOB_SECONDS, result.wall_seconds, **tags)
            speed = _tokens_per_second(totals)
            if speed is not None:
                self._exported.set(TOKENS_PER_SECOND, speed, **tags)
            length = acceptance(job.configuration.method, totals).mean_length
            if length is not None:
                self._exported.set(ACCEPTANCE_LENGTH, length, **tags)

    def _tags(self, job: Job) -> dict[str, str]:
        return {"sweep": self.sweep, **_job_tags(job)}


@dataclass(slots=True, kw_only=True)
class ActorExport:
    """What an actor exports of itself, beside the node and process that Ray names."""

    _exported: _Exported = field(default_factory=_Exported)

    def finished(self, job: Job, result: JobResult, *, load_seconds: float | None) -> None:
        """Export what a job showed, once it is over; `load_seconds` are those of the pair that is loaded."""
        with _harmless():
            pair = tag_text(job.pair.spec.name)
            if load_seconds is not None:
                self._exported.set(ACTOR_LOAD_SECONDS, load_seconds, pair=pair)
            for sentinel in result.sentinels:
                speed = _tokens_per_second([sum_rounds(sample) for sample in sentinel.samples])
                if speed is not None:
                    self._exported.set(ACTOR_TARGET_TOKENS_PER_SECOND, speed, pair=pair)
            tokens = sum(len(sample.token_ids) for sample in result.samples)
            self._exported.add(ACTOR_TOKENS, tokens, **_job_tags(job))


def _job_tags(job: Job) -> dict[str, str]:
    return {"pair": tag_text(job.pair.spec.name), "method": job.configuration.method.value}


def _tokens_per_second(totals: Sequence[SampleTotals]) -> float | None:
    """Return the throughput as reports define it, of one run; None where no decode time was measured."""
    run = Run(repeat=0, samples=totals)
    return fmean(rates.values()) if (rates := prompt_throughputs([run])) else None
