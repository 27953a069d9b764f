"""From a validated sweep file to jobs: look at the models and the prompts that it names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from dyna_eval.errors import PromptError
from dyna_eval.jobs import Pair, PairSpec, PromptSet, ResolvedSweep, SweepSpec
from dyna_eval.sweeps.expansion import resolved
from dyna_eval_workers.pairs import InspectedPair, available_device, inspect_pair
from dyna_eval_workers.prompts import check_fit, check_known, check_split, load_prompts


def resolve_sweep(spec: SweepSpec, *, device: str | None = None) -> ResolvedSweep:
    """Inspect every pair, load its prompts, and make the jobs; `inspect_sweep` says more."""
    return resolved(spec, *inspect_sweep(spec, device=device))


def inspect_sweep(
    spec: SweepSpec, *, device: str | None = None
) -> tuple[tuple[Pair, ...], dict[str, PromptSet]]:
    """Inspect every pair and load its prompts, by the pair's name; no weights are read into memory.

    `device` is where the jobs will run, "cpu" or "cuda"; None asks this machine. Raises PairError or
    PromptError for whatever would make a job fail later.
    """
    pairs: list[Pair] = []
    prompt_sets: dict[str, PromptSet] = {}
    known: dict[PairSpec, InspectedPair] = {}
    for pair_spec in spec.pairs:
        models = replace(pair_spec, name="", prompts=None, generation=None)
        if models not in known:
            where = device or available_device()
            known[models] = inspect_pair(pair_spec, device=where, backend=spec.engine.backend)
        inspected = known[models]
        with _told_of(pair_spec, spec):
            prompt_set = load_prompts(pair_spec.prompts or spec.prompts, inspected.tokenizer)
            check_split(prompt_set.prompts, tune_fraction=spec.measure.tune_fraction)
            check_known(prompt_set.prompts, vocabulary=inspected.vocabulary)
            check_fit(
                prompt_set.prompts,
                max_new_tokens=spec.generation_of(pair_spec).max_new_tokens,
                position_limit=inspected.position_limit,
            )
        spec_here = replace(
            inspected.pair.spec,
            name=pair_spec.name,
            prompts=pair_spec.prompts,
            generation=pair_spec.generation,
        )
        pairs.append(replace(inspected.pair, spec=spec_here))
        prompt_sets[pair_spec.name] = prompt_set
    return tuple(pairs), prompt_sets


@contextlib.contextmanager
def _told_of(pair: PairSpec, spec: SweepSpec) -> Iterator[None]:
    """Say of which of several pairs a mistake in its prompts is; its name says which prompts and settings."""
    try:
        yield
    except PromptError as error:
        if len(spec.pairs) == 1:
            raise
        raise PromptError(f"pair {pair.name}: {error}") from error
