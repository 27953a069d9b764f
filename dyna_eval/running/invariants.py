"""What must hold of a result before it lands. A result that breaks one is wrong, and its job fails.

Pure: values in, texts out. The figures of a report rest on these relations, so they are checked once, on
landing, instead of being hoped for in every formula.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from dyna_eval.jobs import TARGET_ALONE, GenerationSpec, Job, Method, PromptSet
from dyna_eval.measurements import JobResult, Round, Sample

CLOCK_SLACK = 1e-6
"""Seconds by which sums of clock readings may exceed the time around them."""


def broken_invariants(job: Job, prompts: PromptSet, result: JobResult) -> list[str]:
    """Return what is wrong with a job's result, one text per kind and place; empty where all holds."""
    runs = [(job.configuration, "", result.samples)]
    runs += [(TARGET_ALONE, f"AR run {own.sequence}, ", own.samples) for own in result.sentinels]
    texts = []
    for configuration, where, samples in runs:
        texts += _wrong_prompts(prompts, samples, where)
        for sample in samples:
            wrong = [*_of_sample(sample, job.generation), *_of_rounds(sample, configuration.method)]
            texts += [f"{where}prompt {sample.prompt_index}: {text}" for text in wrong]
    if not (math.isfinite(result.wall_seconds) and result.wall_seconds >= 0.0):
        texts.append(f"wall time of {result.wall_seconds} s")
    return texts


def _wrong_prompts(prompts: PromptSet, samples: tuple[Sample, ...], where: str) -> list[str]:
    expected = [(prompt.index, prompt.digest, len(prompt.token_ids)) for prompt in prompts.prompts]
    found = [(sample.prompt_index, sample.prompt_digest, sample.prompt_tokens) for sample in samples]
    if found == expected:
        return []
    return [f"{where}its {len(found)} samples are not those of the {len(expected)} prompts"]


def _of_sample(sample: Sample, generation: GenerationSpec) -> Iterator[str]:
    tokens, most = len(sample.token_ids), generation.max_new_tokens
    if not 0 < tokens <= most:
        yield f"{tokens} tokens where 1 to {most} were asked for"
    elif tokens < most and not generation.stop_at_eos:
        yield f"{tokens} tokens where {most} were asked for"
    times = (sample.prefill_seconds, sample.decode_seconds, sample.ttft_seconds)
    if not all(math.isfinite(seconds) and seconds >= 0.0 for seconds in times):
        yield f"times that are no times: {times}"
    elif sample.ttft_seconds > sample.prefill_seconds + sample.decode_seconds + CLOCK_SLACK:
        yield "its first token came after its last"


def _of_rounds(sample: Sample, method: Method) -> Iterator[str]:
    if not sample.rounds:
        if not method.is_peer:
            yield "no rounds were recorded"
        return
    emitted = sum(round_.emitted for round_ in sample.rounds)
    if emitted != len(sample.token_ids):
        yield f"its rounds emitted {emitted} tokens, not the {len(sample.token_ids)} of its text"
    if method.is_peer:
        return
    for number, round_ in enumerate(sample.rounds):
        last = number == len(sample.rounds) - 1
        if not _is_sound(round_, last=last):
            yield f"round {number} contradicts itself: {round_}"
            return
    phases = [phase for round_ in sample.rounds for phase in _phases(round_)]
    if not all(math.isfinite(seconds) and seconds >= 0.0 for seconds in phases):
        yield "a phase of a round took no possible time"
    elif sum(phases) > sample.decode_seconds + CLOCK_SLACK:
        yield f"its phases took {sum(phases):.6f} s of {sample.decode_seconds:.6f} s"


def _is_sound(round_: Round, *, last: bool) -> bool:
    """Say whether a round's counts fit together; only the last one may emit less than it accepted and one."""
    return (
        0 <= round_.accepted <= round_.depth <= round_.verified <= round_.drafted
        and round_.accepted <= round_.emitted <= round_.accepted + 1
        and (last or round_.emitted == round_.accepted + 1)
        and round_.emitted > 0
        and 0 <= round_.draft_steps <= round_.draft_rows
    )


def _phases(round_: Round) -> list[float]:
    phases = (round_.draft_seconds, round_.grow_seconds, round_.verify_seconds, round_.walk_seconds)
    return [seconds for seconds in phases if seconds is not None]
