"""Two sweeps row by row: which rows belong together, how many times faster B is, and what else differs.

`compare_reports` is pure and reads two `Report`s, wherever these come from. Rows belong together by method
and parameters, those that are left by their label. The ratio is throughput of B / throughput of A; where both
ran on the same prompts it is taken over the prompts that both have, paired by their index, with an interval
over prompts and what runs differ by. It is never corrected for the machine: other environments are told
beside it. Nothing is called faster or slower where the work differs, or where a row is doubtful in its own
sweep.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum

from dyna_eval.errors import InputError
from dyna_eval.jobs import GenerationSpec, canonical_json, generation_digest
from dyna_eval.reports.cells import configuration_text
from dyna_eval.reports.claims import is_explained_by_load
from dyna_eval.reports.deferred import Deferred
from dyna_eval.reports.integrity import Environments, environment_difference
from dyna_eval.reports.intervals import Bootstrap, Interval
from dyna_eval.reports.report import Report, Row, baseline_of, noise_as_measured
from dyna_eval.reports.same_counts import CountsCompared, compare_counts
from dyna_eval.reports.speedup_change import SpeedupChange, WithBaseline, speedup_change
from dyna_eval.reports.statistics import Comparison, compare, ratio_of_means
from dyna_eval.reports.workloads import OTHER_MODELS, has_other_models
from dyna_eval.wording import count, listed

NOISE_UNKNOWN = "the interval is over prompts alone: it is not known what runs differ by"

_MOST_NAMED = 4  # pairs, in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of two sweeps."""

    report: Report
    origin: str = ""
    """Where the sweep is kept, for people to read."""


class SpeedVerdict(StrEnum):
    """What may be said of B against A."""

    FASTER = "faster"
    SLOWER = "slower"
    NOT_SEPARABLE = "not separable"
    IN_DOUBT = "in doubt"
    """The slower one alone was slowed down by heavy load while it was measured, or it is not known what runs
    differ by."""
    NO_INTERVAL = "no interval"
    NOT_COMPARABLE = "not comparable"
    NO_RESULT = "no result"


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A row of A and the row of B that belongs to it."""

    a: Row
    b: Row
    by_label: bool
    """Whether only the label is the same, not the method with its parameters."""
    ratio: Comparison | None
    """B / A; None where one has no result."""
    differences: tuple[str, ...]
    """What differs beside the speed, B instead of A."""
    deferred_speedup: Deferred[SpeedupChange] = field(repr=False)
    """What `speedup` reads."""
    unproven: tuple[str, ...] = ()
    """What cannot be shown to be the same, since it is not known, or several."""
    obstacles: tuple[str, ...] = ()
    """Why neither may be called faster: other work, mixed rows, or output that is not the target's."""
    noise_unknown: bool = False
    """Whether its intervals are over prompts alone: neither sweep tells what runs differ by."""
    other_work: tuple[str, ...] = ()
    """Those of them that concern counts as well, not times alone: all but mixed rows."""

    @property
    def prompts(self) -> int:
        """Prompts that the ratio is over; 0 where it is of the two means alone."""
        return self.ratio.prompts if self.ratio else 0

    @property
    def intervals(self) -> list[Interval]:
        """Those of the ratio, as far as there are any: of the ratio of means, and of the paired ratio."""
        return self.ratio.intervals if self.ratio else []

    @property
    def counts(self) -> CountsCompared:
        """How their tokens per round compare, in which no clock is."""
        return compare_counts(self.a, self.b)

    @property
    def speedup(self) -> SpeedupChange:
        """How their speedups compare; computed when it is first read, as tables for people do not show it."""
        return self.deferred_speedup.value

    @property
    def verdict(self) -> SpeedVerdict:
        """`faster` and `slower` need every interval of the ratio to be on one side of 1, no obstacle, no load
        that slowed the slower one alone, and that it is known what runs differ by."""
        if self.ratio is None:
            return SpeedVerdict.NO_RESULT
        if self.obstacles:
            return SpeedVerdict.NOT_COMPARABLE
        intervals = self.intervals
        if not intervals:
            return SpeedVerdict.NO_INTERVAL
        if all(interval.low > 1.0 for interval in intervals):
            return SpeedVerdict.IN_DOUBT if self._is_doubtful(self.a, self.b) else SpeedVerdict.FASTER
        if all(interval.high < 1.0 for interval in intervals):
            return SpeedVerdict.IN_DOUBT if self._is_doubtful(self.b, self.a) else SpeedVerdict.SLOWER
        return SpeedVerdict.NOT_SEPARABLE

    def _is_doubtful(self, slower: Row, faster: Row) -> bool:
        return self.noise_unknown or is_explained_by_load(slower, faster)


@dataclass(frozen=True, slots=True, kw_only=True)
class Baselines:
    """The baselines' throughputs on one pair, in tokens per second; None without a result."""

    pair_a: str
    pair_b: str
    a: float | None
    b: float | None

    @property
    def percent(self) -> float | None:
        """How much more B's has than A's, in percent of A's."""
        return (self.b / self.a - 1.0) * 100.0 if self.a and self.b else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepComparison:
    a: Side
    b: Side
    confidence: float
    matches: tuple[Match, ...]
    """In the order of A's rows."""
    only_a: tuple[Row, ...]
    only_b: tuple[Row, ...]
    baselines: tuple[Baselines, ...]
    """One for each pair that both have."""


def compare_reports(a: Side, b: Side) -> SweepComparison:
    """Compare two sweeps; raises InputError where they have no row in common.

    Intervals have the higher one of the two sweeps' confidences.
    """
    confidence = max(a.report.confidence, b.report.confidence)
    bootstrap = Bootstrap(confidence=confidence)
    pairs = _common_pairs(a.report, b.report)
    found = [
        partners
        for pair_a, pair_b in pairs
        for partners in _partners(a.report.rows_of(pair_a), b.report.rows_of(pair_b))
    ]
    if not found:
        raise InputError(
            f"{_named(a)} and {_named(b)} have no row in common: neither a method with the same parameters"
            " nor a label, on a pair that both have"
            f" (the one has {_pairs_text(a)}, the other {_pairs_text(b)})"
        )
    facts = _Facts(
        environments={**a.report.environments, **b.report.environments},
        generations={
            generation_digest(spec): spec for side in (a, b) for spec in side.report.generations.values()
        },
    )
    taken = {id(row) for partners in found for row in (partners.a, partners.b)}
    return SweepComparison(
        a=a,
        b=b,
        confidence=confidence,
        matches=tuple(_match(partners, bootstrap, facts) for partners in found),
        only_a=tuple(row for row in a.report.rows if id(row) not in taken),
        only_b=tuple(row for row in b.report.rows if id(row) not in taken),
        baselines=tuple(_baselines(a.report, b.report, *pair) for pair in pairs),
    )


# -------------------------------------------------------------------------- matching


def _common_pairs(a: Report, b: Report) -> list[tuple[str, str]]:
    """Return the pairs of both by name; two sweeps of one pair each are compared whatever its name."""
    if len(a.pairs) == len(b.pairs) == 1:
        return [(a.pairs[0], b.pairs[0])]
    return [(pair, pair) for pair in a.pairs if pair in b.pairs]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Partners:
    """A row of A and one of B that belong together."""

    a: Row
    b: Row
    by_label: bool
    """Whether only their label says so."""
    other_models: bool
    """Whether any two rows of the same work show that the two sweeps ran other models on the pair."""
    base_a: Row | None
    base_b: Row | None
    """Their pairs' baselines."""


def _partners(a: Sequence[Row], b: Sequence[Row]) -> list[_Partners]:
    """Return the rows of a pair that belong together, in the order of A.

    Of several with the same method and parameters, those of the same label come first.
    """
    other_models = has_other_models(b, a) is True
    base_a, base_b = baseline_of(a), baseline_of(b)
    partners: dict[int, _Partners] = {}
    taken: set[int] = set()
    for key, by_label in ((_row_key, False), (_configuration_key, False), (_label_key, True)):
        free: dict[Hashable, deque[int]] = defaultdict(deque)
        for place, row in enumerate(b):
            if place not in taken:
                free[key(row)].append(place)
        for place, row in enumerate(a):
            if place not in partners and free[key(row)]:
                other = free[key(row)].popleft()
                partners[place] = _Partners(
                    a=row,
                    b=b[other],
                    by_label=by_label,
                    other_models=other_models,
                    base_a=base_a,
                    base_b=base_b,
                )
                taken.add(other)
    return [partners[place] for place in sorted(partners)]


def _configuration_key(row: Row) -> Hashable:
    return row.method, canonical_json(dict(row.params))


def _label_key(row: Row) -> Hashable:
    return row.label


def _row_key(row: Row) -> Hashable:
    return row.label, _configuration_key(row)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What rows' digests stand for, by digest, as far as it is known."""

    environments: Environments
    generations: Mapping[str, GenerationSpec]


def _match(partners: _Partners, bootstrap: Bootstrap, facts: _Facts) -> Match:
    a, b = partners.a, partners.b
    ratio, work = _ratio(a, b, bootstrap), _work_differences(partners, facts)
    output = (*_output_doubts("A", a), *_output_doubts("B", b))
    differences = [*work, *_environment_difference(a, b, facts)]
    if ratio and ratio.prompts and a.figures and b.figures:
        measured = [len(row.throughput.by_prompt) for row in (a.figures, b.figures)]
        if ratio.prompts < max(measured):
            differences.append(
                f"prompts that were measured ({measured[1]} instead of {measured[0]};"
                f" the ratio is over the {ratio.prompts} that both have)"
            )
    obstacles = (*work, *_mixed("A", a), *_mixed("B", b), *output)
    return Match(
        a=a,
        b=b,
        by_label=partners.by_label,
        ratio=ratio,
        differences=tuple(differences),
        deferred_speedup=Deferred(lambda: _speedup(partners, bootstrap, obstacles)),
        unproven=_unproven(a, b),
        obstacles=obstacles,
        noise_unknown=bool(ratio and ratio.interval) and noise_as_measured(b, a) is None,
        other_work=(*work, *output),
    )


def _ratio(a: Row, b: Row, bootstrap: Bootstrap) -> Comparison | None:
    """Return B / A, of their means alone where no prompt is known to be the same."""
    if a.figures is None or b.figures is None:
        return None
    ours, base = b.figures.throughput, a.figures.throughput
    paired = (
        compare(ours.by_prompt, base.by_prompt, bootstrap, noise_as_measured(b, a))
        if b.has_prompts_of(a)
        else None
    )
    return paired or ratio_of_means(ours.mean, base.mean)


def _speedup(partners: _Partners, bootstrap: Bootstrap, obstacles: Sequence[str]) -> SpeedupChange:
    """Compare two rows' speedups, which what is wrong with either baseline keeps from being compared too."""
    a, b = partners.base_a, partners.base_b
    found = [*obstacles, *_other_baselines(a, b)]
    for letter, base in (("A", a), ("B", b)):
        if base is not None and base is not partners.a and base is not partners.b:
            found += (*_mixed(f"{letter}'s baseline", base), *_output_doubts(f"{letter}'s baseline", base))
    return speedup_change(
        WithBaseline(row=partners.a, base=a), WithBaseline(row=partners.b, base=b), bootstrap, found
    )


# ------------------------------------------------------------------------ differences


def _work_differences(partners: _Partners, facts: _Facts) -> list[str]:
    """Name what two rows that have results were not both measured on: prompts, settings or models.

    Rows of other methods or parameters do not tell by themselves whether the models are the same.
    """
    a, b = partners.a, partners.b
    if a.figures is None or b.figures is None:
        return []
    texts = [
        f"{what} ({_changed(here, there, facts.generations)})"
        for what, here, there in _settings(a, b)
        if here is not None and there is not None and here != there
    ]
    same_work = a.key is not None and a.key == b.key
    return [*texts, OTHER_MODELS] if partners.other_models and not same_work else texts


def _environment_difference(a: Row, b: Row, facts: _Facts) -> list[str]:
    if a.figures is None or b.figures is None or a.environment is None or b.environment is None:
        return []
    if a.environment == b.environment:
        return []
    return [f"environment ({environment_difference(b.environment, a.environment, facts.environments)})"]


def _other_baselines(a: Row | None, b: Row | None) -> list[str]:
    """Say that two baselines, so far as there are any, are not of one method with the same parameters."""
    if a is None or b is None or _configuration_key(a) == _configuration_key(b):
        return []
    ours, theirs = (configuration_text(row.method, row.params) for row in (b, a))
    return [f"baseline ({ours} instead of {theirs})"]


def _mixed(letter: str, row: Row) -> list[str]:
    """Say that the times of a row with a result do not belong with those that it stands with."""
    if row.figures is None or not row.mixed:
        return []
    return [f"{letter} differs from the rows it stands with in {'; '.join(row.mixed)}"]


def _output_doubts(letter: str, row: Row) -> list[str]:
    """Say that the output of a row with a result is not known to be the target's.

    Whose output an imported row has is seldom known; that stands in its footnotes.
    """
    if row.figures is None:
        return []
    if row.figures.agreement.violations:
        return [f"{letter}'s output is not the target's"]
    if row.source is None and not row.is_exact:
        return [f"{letter}'s output was not compared with the target's"]
    return []


def _changed(here: str, there: str, generations: Mapping[str, GenerationSpec]) -> str:
    """Return which settings differ between two digests, and how; the digests where they are not known."""
    if here not in generations or there not in generations:
        return f"{there[:12]} instead of {here[:12]}"
    ours, theirs = asdict(generations[here]), asdict(generations[there])
    return ", ".join(
        f"{name} {theirs[name]} instead of {ours[name]}" for name in ours if theirs[name] != ours[name]
    )


def _unproven(a: Row, b: Row) -> tuple[str, ...]:
    if a.figures is None or b.figures is None:
        return ()
    facts = (*_settings(a, b), ("environment", a.environment, b.environment))
    return tuple(what for what, here, there in facts if here is None or there is None)


def _settings(a: Row, b: Row) -> tuple[tuple[str, str | None, str | None], ...]:
    return (
        ("prompt set", a.prompt_set, b.prompt_set),
        ("generation settings", a.generation_digest, b.generation_digest),
    )


def _baselines(a: Report, b: Report, pair_a: str, pair_b: str) -> Baselines:
    def rate(report: Report, pair: str) -> float | None:
        base = baseline_of(report.rows_of(pair))
        return base.figures.throughput.mean if base and base.figures else None

    return Baselines(pair_a=pair_a, pair_b=pair_b, a=rate(a, pair_a), b=rate(b, pair_b))


def _pairs_text(side: Side) -> str:
    pairs = side.report.pairs
    more = [count(len(pairs) - _MOST_NAMED, "pair") + " more"] if len(pairs) > _MOST_NAMED else []
    return listed([*(f"pair {name}" for name in pairs[:_MOST_NAMED]), *more])


def _named(side: Side) -> str:
    return f"sweep {side.report.sweep_id} ({side.report.name!r})"
