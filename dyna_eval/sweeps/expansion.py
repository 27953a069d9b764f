"""From the rows of a sweep file to jobs: lists are expanded, equal rows merged, jobs put in order.

Pure: values in, values out. Nothing here reads a file, a clock or global random state.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dyna_eval.errors import PairError
from dyna_eval.jobs import (
    Configuration,
    Job,
    MeasureSpec,
    MergedConfiguration,
    Pair,
    PromptSet,
    ResolvedSweep,
    SweepSpec,
    canonical_json,
    digest,
    job_key,
)
from dyna_eval.methods import Meaning
from dyna_eval.policies import configured

# ------------------------------------------------------------------- expansion


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Parameters that are swept together: every row gives each of them one value."""

    names: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One combination of an entry's lists. `items` are the indices of the values taken from lists."""

    label: str
    parameters: Mapping[str, object]
    items: Mapping[str | int, int]


def axes_of(parameters: Mapping[str, object], linked: Sequence[Sequence[str]] = ()) -> tuple[Axis, ...]:
    """Return what an entry sweeps over, in the order of its keys.

    A list is an axis of its own unless it is linked with others; linked lists must have equal lengths.
    """
    group_of = {name: tuple(group) for group in linked for name in group}
    lists = {name: value for name, value in parameters.items() if isinstance(value, list)}
    groups = dict.fromkeys(group_of.get(name, (name,)) for name in lists)
    return tuple(
        Axis(names=names, rows=tuple(zip(*(lists[name] for name in names), strict=True))) for names in groups
    )


def count_points(axes: Sequence[Axis]) -> int:
    """Return how many points axes span, without making any."""
    return math.prod(len(axis.rows) for axis in axes)


def expand(label: str, parameters: Mapping[str, object], axes: Sequence[Axis]) -> Iterator[Point]:
    """Yield every combination of the axes' rows, the last axis fastest.

    The label names the swept parameters in the order of the entry's keys: `Sweep (depth=4, branch=2)`.
    """
    for indices in itertools.product(*(range(len(axis.rows)) for axis in axes)):
        chosen: dict[str, object] = {}
        items: dict[str | int, int] = {}
        for axis, index in zip(axes, indices, strict=True):
            chosen.update(zip(axis.names, axis.rows[index], strict=True))
            items.update(dict.fromkeys(axis.names, index))
        swept = ", ".join(f"{name}={_written(chosen[name])}" for name in parameters if name in chosen)
        yield Point(
            label=f"{label} ({swept})" if swept else label,
            parameters={**parameters, **chosen},
            items=items,
        )


def _written(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


# --------------------------------------------------------------------- merging


def merge_equal(
    configurations: Sequence[Configuration], *, baseline: str, expanded: Collection[str] = ()
) -> tuple[tuple[Configuration, ...], tuple[MergedConfiguration, ...]]:
    """Keep one of the configurations that do the same, and say which were left out and why.

    The baseline stays; else a row that was written out stays before one of the `expanded` labels, and an
    earlier one before a later one. What is kept keeps its place.
    """
    meanings = {row.label: meaning_of(row) for row in configurations}
    kept: dict[str, str] = {}
    for row in sorted(configurations, key=lambda row: (row.label != baseline, row.label in expanded)):
        kept.setdefault(meanings[row.label].key, row.label)
    merged = tuple(
        MergedConfiguration(label=row.label, into=into, reason=_reason(meanings[row.label], meanings[into]))
        for row in configurations
        if (into := kept[meanings[row.label].key]) != row.label
    )
    left_out = {row.label for row in merged}
    return tuple(row for row in configurations if row.label not in left_out), merged


def meaning_of(configuration: Configuration) -> Meaning:
    return configured(configuration).meaning()


def _reason(left_out: Meaning, kept: Meaning) -> str:
    notes = dict.fromkeys((*left_out.notes, *kept.notes))
    return "; ".join(notes) or "the same method and parameters"


# ------------------------------------------------------------------------ jobs


def jobs_for(spec: SweepSpec, pairs: Sequence[Pair], prompt_sets: Mapping[str, str]) -> tuple[Job, ...]:
    """Return the sweep's jobs in the order to run them; `prompt_sets` are digests by the name of the pair.

    All jobs of a pair stand together, so that it is loaded once. Within a pair each repeat, counted from 0,
    is a block of all configurations in random order, so that a machine's drift hits all of them alike. The
    order depends on the seed of the pair's generation and the repeat alone.

    Raises PairError where two pairs are the same models, prompts and generation settings: their jobs could
    not be told apart.
    """
    jobs: list[Job] = []
    owners: dict[str, str] = {}
    for pair in pairs:
        keys = _keys(spec, pair, prompt_sets[pair.spec.name])
        for key in keys.values():
            if owners.setdefault(key, pair.spec.name) != pair.spec.name:
                raise PairError(
                    f"pairs {owners[key]!r} and {pair.spec.name!r} are the same models, prompts and"
                    " generation settings; leave one of them out"
                )
        for repeat in range(spec.measure.repeats):
            jobs += _jobs_of_repeat(
                spec, pair, prompt_sets[pair.spec.name], keys, repeat=repeat, first_position=len(jobs)
            )
    return tuple(jobs)


def block_of_jobs(
    spec: SweepSpec, pair: Pair, prompt_set: str, *, repeat: int, first_position: int
) -> list[Job]:
    """Return one repeat of all configurations on a pair, in the random order that the repeat has."""
    keys = _keys(spec, pair, prompt_set)
    return _jobs_of_repeat(spec, pair, prompt_set, keys, repeat=repeat, first_position=first_position)


def _jobs_of_repeat(
    spec: SweepSpec,
    pair: Pair,
    prompt_set: str,
    keys: Mapping[str, str],
    *,
    repeat: int,
    first_position: int,
) -> list[Job]:
    return [
        Job(
            key=keys[configuration.label],
            pair=pair,
            prompt_set=prompt_set,
            generation=spec.generation_of(pair.spec),
            measure=spec.measure,
            configuration=configuration,
            repeat=repeat,
            position=position,
        )
        for position, configuration in enumerate(_block(spec, pair, repeat), start=first_position)
    ]


def resolved(spec: SweepSpec, pairs: Sequence[Pair], prompt_sets: Mapping[str, PromptSet]) -> ResolvedSweep:
    """Return a sweep with its jobs, over inspected pairs and their prompts by the name of the pair."""
    jobs = jobs_for(spec, pairs, {name: prompts.digest for name, prompts in prompt_sets.items()})
    return ResolvedSweep(
        spec=spec,
        digest=sweep_digest(spec, jobs),
        pairs=tuple(pairs),
        prompt_sets=prompt_sets,
        jobs=jobs,
    )


def sweep_digest(spec: SweepSpec, jobs: Sequence[Job]) -> str:
    """Return a sweep's identity: the same rows of the same work, in the same order, under the same name."""
    keys = {canonical_json([job.pair.spec.name, job.configuration.label]): job.key for job in jobs}
    return digest(
        {
            "name": spec.name,
            "baseline": spec.baseline,
            "labels": [configuration.label for configuration in spec.configurations],
            "pairs": [pair.name for pair in spec.pairs],
            "jobs": keys,
            "repeats": spec.measure.repeats,
            "confidence": spec.measure.confidence,
            "sentinel_every": spec.measure.sentinel_every,
            **_beyond_first_version(spec.measure),
        }
    )


def _beyond_first_version(measure: MeasureSpec) -> dict[str, object]:
    """Return settings that came later, where they are used: sweeps without them keep their identity."""
    used = {
        "max_repeats": measure.max_repeats,
        "precision": measure.precision,
        "tune_fraction": measure.tune_fraction,
        "store_trees": measure.store_trees,
    }
    return {name: value for name, value in used.items() if value}


def _keys(spec: SweepSpec, pair: Pair, prompt_set: str) -> dict[str, str]:
    """Return the key of every configuration on a pair, by label."""
    return {
        configuration.label: job_key(
            pair=pair,
            prompt_set=prompt_set,
            generation=spec.generation_of(pair.spec),
            measure=spec.measure,
            configuration=configuration,
        )
        for configuration in spec.configurations
    }


def _block(spec: SweepSpec, pair: Pair, repeat: int) -> list[Configuration]:
    """Return all configurations in the random order of one repeat on a pair."""
    order = random.Random(digest(["block", spec.generation_of(pair.spec).seed, repeat]))
    return order.sample(spec.configurations, k=len(spec.configurations))
