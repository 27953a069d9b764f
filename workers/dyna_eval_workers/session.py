"""A loaded pair at work: warm-up, sentinels, jobs, and the comparison of every sample with AR."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import torch

from dyna_eval.errors import DecodingError
from dyna_eval.jobs import TARGET_ALONE, Configuration, GenerationSpec, Job, Pair, Prompt, PromptSet
from dyna_eval.measurements import (
    HEAVY_LOAD,
    SENTINEL,
    Calibration,
    Environment,
    Exactness,
    JobResult,
    Sample,
    Sentinel,
)
from dyna_eval_workers import collector
from dyna_eval_workers.calibration import calibrate
from dyna_eval_workers.conditions import Watch, others_shares
from dyna_eval_workers.decoding import Decoded
from dyna_eval_workers.drafting import drafting_for
from dyna_eval_workers.environment import capture_environment, peak_memory_bytes, reset_peak_memory
from dyna_eval_workers.exactness import TokenComparison, compare_tokens
from dyna_eval_workers.external import external_policy
from dyna_eval_workers.loading import LoadedPair, load_pair
from dyna_eval_workers.memory import free_unreachable
from dyna_eval_workers.peers import PeerDecoder
from dyna_eval_workers.traces import draft_tree

_TEXT_LIMIT = 20_000  # characters of model output kept per sample
_WARM_UP_TOKENS = 32
_SENTINEL_TRIES = 3
_CALMER = 0.9  # a try under so much of the load of the one before is calmer
_PROCESSORS = torch.device("cpu")  # a watch of which asks no GPU's driver
_SENTINEL_TIME = 0.25  # of a job's limit at most, for more than one try
_TOLD_SECONDS = 0.2  # cores' times are in hundredths of a second: of less, the load of others is a guess


@dataclass(slots=True)
class _Reference:
    """The target's own tokens for one prompt set and generation, and how long ago they were measured."""

    tokens: dict[int, tuple[int, ...]] = field(default_factory=dict)
    jobs_since: int = 0
    undelivered: tuple[Sentinel, ...] = ()
    """Sentinels that no result has carried yet: a job may fail after its sentinel was run."""
    others: dict[str, float] = field(default_factory=dict)
    """What others had of the cores during those sentinels, the worst of them."""


class Decode(Protocol):
    """Continues one prompt by a configuration's loop."""

    def __call__(self, prompt: Sequence[int], generation: GenerationSpec, *, seed: str) -> Decoded: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """A configuration's decoding loop on a loaded pair."""

    decode: Decode
    reset: Callable[[], None] = lambda: None
    """Drops what the loop learnt from earlier prompts; our own learn within a prompt only."""


@dataclass(frozen=True, slots=True)
class _Lengths:
    """Tokens of a job's shortest prompt, and of its longest sequence."""

    shortest: int
    longest: int


class DecodingSession:
    """Runs jobs one after another on one device, with one pair loaded at a time.

    `gpus` is how many GPUs the session was given, or which share of one. Over several the target is spread;
    `device` is then the first of them, where the draft is.
    """

    def __init__(self, *, actor: str, node: str, device: torch.device, gpus: float = 0) -> None:
        self.actor, self.node, self.device, self.gpus = actor, node, device, gpus
        self.environment: Environment | None = None
        """What jobs run in, its backend unknown while no pair is loaded; None before the first job."""
        self._active: _ActivePair | None = None
        self._references: dict[tuple[str, GenerationSpec], _Reference] = {}
        self._sentinels = 0

    @property
    def load_seconds(self) -> float | None:
        """How long the pair at work took to load and calibrate; None before the first job."""
        return self._active.load_seconds if self._active else None

    def run(self, job: Job, prompts: PromptSet) -> JobResult:
        """Decode every prompt of the set with the job's configuration.

        Before its first job of a pair, prompt set and generation, and again every `measure.sentinel_every`
        jobs, the session runs the target alone over the prompts: those sentinels are the reference for
        exactness and for this machine's speed.

        Raises PairError where the pair does not load, DecodingError where the output is not the target's, or
        where the target alone does not repeat its own.
        """
        try:
            return self._run(job, prompts)
        finally:
            if job.configuration.method.is_peer:
                free_unreachable()  # a compiled model refers to itself

    def _run(self, job: Job, prompts: PromptSet) -> JobResult:
        active = self._use(job.pair)
        loop = active.loop(
            job.configuration,
            lengths=_lengths(job, prompts),
            greedy=job.generation.temperature == 0,
            kept_traces=job.measure.store_trees,
        )
        reference = self._references.setdefault((prompts.digest, job.generation), _Reference())
        self._measure_sentinel(active, job, prompts, reference)
        _warm_up(loop, job, prompts)
        reset_peak_memory(self.device)
        watch = Watch(self.device)
        started = time.perf_counter()
        decoded = _decode_all(loop, job, prompts)
        wall_seconds = time.perf_counter() - started
        peak_memory = peak_memory_bytes(self.device)
        conditions = watch.conditions()
        reference.jobs_since += 1
        samples = _samples(
            active, job, prompts, decoded, configuration=job.configuration, reference=reference
        )
        _refuse_violations(samples, "are not what the target alone emits")
        sentinels, reference.undelivered = reference.undelivered, ()
        others, reference.others = reference.others, {}
        return JobResult(
            job_key=job.key,
            repeat=job.repeat,
            actor=self.actor,
            node=self.node,
            environment=active.environment,
            sentinels=sentinels,
            samples=samples,
            wall_seconds=wall_seconds,
            peak_memory_bytes=peak_memory,
            calibration=active.calibration,
            conditions=conditions | {SENTINEL + name: share for name, share in others.items()},
        )

    def _use(self, pair: Pair) -> _ActivePair:
        if self._active is None or not self._active.pair.pair.same_models(pair):
            self._active = None
            self.environment = capture_environment(self.device, None, gpus=self.gpus)
            free_unreachable()  # before the next pair needs the memory
            self._references.clear()
            self._active = _ActivePair.load(pair, self.device, self.gpus)
            self.environment = self._active.environment
        return self._active

    def _measure_sentinel(
        self, active: _ActivePair, job: Job, prompts: PromptSet, reference: _Reference
    ) -> None:
        """Run the target alone where a reference is missing or old; the first run sets the tokens."""
        if reference.tokens and reference.jobs_since < job.measure.sentinel_every:
            return
        greedy = job.generation.temperature == 0
        loop = active.loop(TARGET_ALONE, lengths=_lengths(job, prompts), greedy=greedy)
        _warm_up(loop, job, prompts)
        decoded, others = self._least_disturbed(loop, job, prompts)
        samples = _samples(active, job, prompts, decoded, configuration=TARGET_ALONE, reference=reference)
        _refuse_violations(samples, "are not what the target alone emitted at first on this worker")
        if not reference.tokens:
            reference.tokens = {sample.prompt_index: sample.token_ids for sample in samples}
        sentinel = Sentinel(actor=self.actor, sequence=self._sentinels, samples=samples)
        self._sentinels += 1
        reference.undelivered += (sentinel,)
        for name, share in others.items():
            reference.others[name] = max(share, reference.others.get(name, 0.0))
        reference.jobs_since = 0

    def _least_disturbed(
        self, loop: Loop, job: Job, prompts: PromptSet
    ) -> tuple[list[Decoded], dict[str, float]]:
        """Decode the prompts, again while others are heavily at work on the machine, up to three times.

        The run that they disturbed least is returned whole, with what they had of the cores meanwhile: many
        rows are compared with it, and a slowed one makes all of them look fast. A try that is no calmer than
        the one before is the last: the load is there to stay, as that of other actors is.
        """
        tries = list[tuple[float, list[Decoded], dict[str, float]]]()
        began = time.perf_counter()
        limit = job.measure.job_timeout_s or math.inf
        while True:
            watch, started = Watch(_PROCESSORS), time.perf_counter()
            decoded = _decode_all(loop, job, prompts)
            seconds = time.perf_counter() - started
            others = others_shares(watch.conditions()) if seconds >= _TOLD_SECONDS else {}
            load = max(others.values(), default=0.0)
            lasts = bool(tries) and load > _CALMER * tries[-1][0]
            tries.append((load, decoded, others))
            after_another = time.perf_counter() - began + seconds
            if load <= HEAVY_LOAD or lasts or len(tries) == _SENTINEL_TRIES:
                break
            if after_another > _SENTINEL_TIME * limit:
                break
        _, decoded, others = min(tries, key=lambda one: one[0])
        return decoded, others


@dataclass(frozen=True, slots=True, kw_only=True)
class _ActivePair:
    """A loaded pair, with its calibration and environment on this machine."""

    pair: LoadedPair
    calibration: Calibration
    environment: Environment
    load_seconds: float

    @classmethod
    def load(cls, pair: Pair, device: torch.device, gpus: float) -> _ActivePair:
        started = time.perf_counter()
        loaded = load_pair(pair, device, gpus=max(1, int(gpus)))
        return cls(
            pair=loaded,
            calibration=calibrate(loaded.decoder, position_limit=loaded.position_limit),
            environment=capture_environment(device, loaded.backend, gpus=gpus),
            load_seconds=time.perf_counter() - started,
        )

    def loop(
        self, configuration: Configuration, *, lengths: _Lengths, greedy: bool, kept_traces: int = 0
    ) -> Loop:
        """Return the configuration's loop, ready for sequences of these lengths.

        `kept_traces` is the number of first rounds whose trees can be built; a peer shows none of its own. A
        peer's models are loaded for it, beside ours, and compiled where its method says so.
        """
        decoder = self.pair.decoder
        if configuration.method.is_peer:
            decoder.prepare(lengths.longest, shortest=lengths.shortest, greedy=greedy, branch=0)
            free_unreachable()  # models of a peer's job that failed, which its traceback held
            peer = PeerDecoder(
                *self.pair.peer_models(configuration),
                vocabulary=len(self.pair.tokenizer),
                end_tokens=decoder.end_tokens,
            )
            peer.warm_up(configuration, tokens=lengths.longest)
            return Loop(decode=partial(peer.decode, configuration=configuration), reset=peer.reset)
        make = external_policy if configuration.method.is_external else drafting_for
        drafting = make(configuration, self.calibration)
        decoder.prepare(
            lengths.longest,
            shortest=lengths.shortest,
            greedy=greedy,
            max_rows=drafting.max_rows if drafting else 0,
            branch=drafting.max_branch if drafting else 0,
        )
        return Loop(decode=partial(decoder.decode, drafting=drafting, kept_traces=kept_traces))


def _decode_all(loop: Loop, job: Job, prompts: PromptSet) -> list[Decoded]:
    decoded = []
    for prompt in prompts.prompts:
        with collector.paused():
            decoded.append(loop.decode(prompt.token_ids, job.generation, seed=_seed(job, prompt)))
    return decoded


def _samples(
    active: _ActivePair,
    job: Job,
    prompts: PromptSet,
    decoded: Sequence[Decoded],
    *,
    configuration: Configuration,
    reference: _Reference,
) -> tuple[Sample, ...]:
    """Compare what a configuration decoded with the reference, where there is one.

    A peer samples with random numbers of its own, which no comparison can follow.
    """
    peer = configuration.method.is_peer
    comparable = not (peer and job.generation.temperature > 0)
    samples = []
    for prompt, result in zip(prompts.prompts, decoded, strict=True):
        expected = reference.tokens.get(prompt.index) if comparable else None
        comparison = None
        if expected is not None:
            comparison = compare_tokens(
                active.pair.decoder.target,
                prompt=prompt.token_ids,
                reference=expected,
                emitted=result.token_ids,
                generation=job.generation,
                seed=_seed(job, prompt),
                by_peer=peer,
            )
        text: str = active.pair.tokenizer.decode(result.token_ids)
        sample = _to_sample(prompt, result, comparison, text[:_TEXT_LIMIT])
        trees = [draft_tree(trace, partial(_token_text, active.pair.tokenizer)) for trace in result.traces]
        samples.append(replace(sample, trees=tuple(trees)))
    return tuple(samples)


def _token_text(tokenizer: Any, token: int) -> str:
    text: str = tokenizer.decode([token])
    return text


def _warm_up(loop: Loop, job: Job, prompts: PromptSet) -> None:
    """Decode a little outside the measured prompts: the first prompt's tokens in reverse order.

    What the loop learns of it is forgotten.
    """
    tokens = prompts.prompts[0].token_ids[::-1]
    short = replace(
        job.generation,
        max_new_tokens=min(job.generation.max_new_tokens, _WARM_UP_TOKENS),
        stop_at_eos=False,
    )
    for number in range(job.measure.warmup):
        loop.decode(tokens, short, seed=f"warm-up:{number}")
    loop.reset()


def _lengths(job: Job, prompts: PromptSet) -> _Lengths:
    return _Lengths(prompts.shortest, prompts.longest + job.generation.max_new_tokens)


def _seed(job: Job, prompt: Prompt) -> str:
    return f"{job.generation.seed}:{prompt.index}"


def _to_sample(prompt: Prompt, decoded: Decoded, comparison: TokenComparison | None, text: str) -> Sample:
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


def _refuse_violations(samples: tuple[Sample, ...], what: str) -> None:
    """Raise DecodingError where samples differ from their reference by more than ties; `what` says how."""
    broken = [sample for sample in samples if sample.exactness is Exactness.VIOLATION]
    if not broken:
        return
    first = broken[0]
    margin = (
        "" if first.divergence_margin_ulp is None else f", {first.divergence_margin_ulp:.0f} ulp from a tie"
    )
    raise DecodingError(
        f"{len(broken)} of {len(samples)} samples {what}; the first is prompt {first.prompt_index}, "
        f"from new token {first.divergence_index} on{margin}"
    )
