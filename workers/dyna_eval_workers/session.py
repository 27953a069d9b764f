"""A loaded pair at work: warm-up, sentinels, jobs, and the comparison of every sample with AR."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import torch

from dyna_eval.errors import DecodingError
from dyna_eval.jobs import (
    Environment,
    Exactness,
    GenerationSpec,
    Job,
    JobResult,
    Pair,
    Prompt,
    PromptSet,
    Sample,
    Sentinel,
)
from dyna_eval_workers.decoding import Decoded
from dyna_eval_workers.environment import capture_environment, peak_memory_bytes, reset_peak_memory
from dyna_eval_workers.exactness import Comparison, compare
from dyna_eval_workers.pairs import LoadedPair, load_pair
from dyna_eval_workers.policies import GrowthPolicy, policy_for

_TEXT_LIMIT = 20_000  # characters of model output kept per sample
_WARM_UP_TOKENS = 32


@dataclass(slots=True)
class _Reference:
    """The target's own tokens for one prompt set and generation, and how long ago they were measured."""

    tokens: dict[int, tuple[int, ...]] = field(default_factory=dict)
    jobs_since: int = 0
    undelivered: tuple[Sentinel, ...] = ()
    """Sentinels that no result has carried yet: a job may fail after its sentinel was run."""


class DecodingSession:
    """Runs jobs one after another on one device, with one pair loaded at a time."""

    def __init__(self, *, actor: str, node: str, device: torch.device) -> None:
        self.actor, self.node, self.device = actor, node, device
        self.environment: Environment = capture_environment(device)
        self._loaded: LoadedPair | None = None
        self._references: dict[tuple[str, GenerationSpec], _Reference] = {}
        self._sentinels = 0

    def run(self, job: Job, prompts: PromptSet) -> JobResult:
        """Decode every prompt of the set with the job's configuration.

        Before its first job of a pair and prompt set, and again every `measure.sentinel_every` jobs, the
        session runs the target alone over the prompts: those sentinels are the reference for exactness
        and the yardstick of this machine's speed.

        Raises PairError where the pair does not load, DecodingError where the output is not the target's.
        """
        pair = self._use(job.pair)
        policy = policy_for(job.configuration)
        reference = self._references.setdefault((prompts.digest, job.generation), _Reference())
        self._measure_sentinel(pair, job, prompts, reference)
        self._warm_up(pair, job, prompts, policy)
        reset_peak_memory(self.device)
        started = time.perf_counter()
        samples = tuple(
            self._sample(pair, prompt, job.generation, policy, reference.tokens[prompt.index])
            for prompt in prompts.prompts
        )
        wall_seconds = time.perf_counter() - started
        reference.jobs_since += 1
        _refuse_violations(samples)
        sentinels, reference.undelivered = reference.undelivered, ()
        return JobResult(
            job_key=job.key,
            repeat=job.repeat,
            actor=self.actor,
            node=self.node,
            environment=self.environment,
            sentinels=sentinels,
            samples=samples,
            wall_seconds=wall_seconds,
            peak_memory_bytes=peak_memory_bytes(self.device),
        )

    def _use(self, pair: Pair) -> LoadedPair:
        if self._loaded is None or self._loaded.pair != pair:
            self._loaded = None  # frees the memory before the next pair needs it
            self._references.clear()
            self._loaded = load_pair(pair, self.device)
        return self._loaded

    def _measure_sentinel(
        self, pair: LoadedPair, job: Job, prompts: PromptSet, reference: _Reference
    ) -> None:
        """Run the target alone where a reference is missing or old; the first run sets the tokens."""
        if reference.tokens and reference.jobs_since < job.measure.sentinel_every:
            return
        self._warm_up(pair, job, prompts, None)
        samples = tuple(
            self._sample(pair, prompt, job.generation, None, reference.tokens.get(prompt.index))
            for prompt in prompts.prompts
        )
        if not reference.tokens:
            reference.tokens = {sample.prompt_index: sample.token_ids for sample in samples}
        sentinel = Sentinel(actor=self.actor, sequence=self._sentinels, samples=samples)
        self._sentinels += 1
        reference.undelivered += (sentinel,)
        reference.jobs_since = 0

    def _warm_up(self, pair: LoadedPair, job: Job, prompts: PromptSet, policy: GrowthPolicy | None) -> None:
        """Decode a little outside the measured prompts: the first prompt's tokens in reverse order."""
        tokens = prompts.prompts[0].token_ids[::-1]
        short = replace(
            job.generation,
            max_new_tokens=min(job.generation.max_new_tokens, _WARM_UP_TOKENS),
            stop_at_eos=False,
        )
        for number in range(job.measure.warmup):
            pair.decoder.decode(tokens, short, policy, seed=f"warm-up:{number}")

    def _sample(
        self,
        pair: LoadedPair,
        prompt: Prompt,
        generation: GenerationSpec,
        policy: GrowthPolicy | None,
        reference: tuple[int, ...] | None,
    ) -> Sample:
        seed = f"{generation.seed}:{prompt.index}"
        decoded = pair.decoder.decode(prompt.token_ids, generation, policy, seed=seed)
        comparison = None
        if reference is not None:
            comparison = compare(
                pair.decoder.target,
                prompt=prompt.token_ids,
                reference=reference,
                emitted=decoded.token_ids,
                generation=generation,
                seed=seed,
            )
        text: str = pair.tokenizer.decode(decoded.token_ids)
        return _to_sample(prompt, decoded, comparison, text[:_TEXT_LIMIT])


def _to_sample(prompt: Prompt, decoded: Decoded, comparison: Comparison | None, text: str) -> Sample:
    return Sample(
        prompt_index=prompt.index,
        prompt_digest=prompt.digest,
        prompt_tokens=len(prompt.token_ids),
        token_ids=decoded.token_ids,
        text=text,
        prefill_seconds=decoded.prefill_seconds,
        decode_seconds=decoded.decode_seconds,
        ttft_seconds=decoded.ttft_seconds,
        exactness=comparison.exactness if comparison else None,
        divergence_index=comparison.divergence_index if comparison else None,
        divergence_margin_ulp=comparison.margin_ulp if comparison else None,
        distinct_2=distinct_n(decoded.token_ids, 2),
        rounds=decoded.rounds,
    )


def distinct_n(token_ids: tuple[int, ...], n: int) -> float | None:
    """Return the share of different n-grams among all n-grams; None for fewer than n tokens.

    Low values mean that the text repeats itself, which flatters every draft.
    Source: Li et al. 2016, "A diversity-promoting objective function".
    """
    grams = [token_ids[start : start + n] for start in range(len(token_ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def _refuse_violations(samples: tuple[Sample, ...]) -> None:
    broken = [sample for sample in samples if sample.exactness is Exactness.VIOLATION]
    if not broken:
        return
    first = broken[0]
    margin = (
        "" if first.divergence_margin_ulp is None else f", {first.divergence_margin_ulp:.0f} ulp from a tie"
    )
    raise DecodingError(
        f"{len(broken)} of {len(samples)} samples are not what the target alone emits; the first is prompt "
        f"{first.prompt_index}, from new token {first.divergence_index} on{margin}"
    )
