"""The figures of docs/metrics.md, computed by their definitions from what `dyna-eval show JOB --json` prints.

Plain loops over plain values, and none of the code that reports are made by. One actor is assumed, so that
the speeds of rows need no correction.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import fmean, quantiles, stdev
from typing import Any

Sample = dict[str, Any]
"""One prompt decoded once, with its rounds; its job's repeat, peak memory and calibration are added."""


def by_prompt(samples: Sequence[Sample]) -> dict[int, list[Sample]]:
    groups = defaultdict(list)
    for sample in samples:
        groups[sample["prompt_index"]].append(sample)
    return dict(groups)


def tokens(samples: Sequence[Sample]) -> int:
    return sum(len(sample["token_ids"]) for sample in samples)


def seconds(samples: Sequence[Sample], *names: str) -> float:
    return sum(float(sample[name]) for sample in samples for name in names)


def rounds(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    return [each for sample in samples for each in sample["rounds"]]


def total(samples: Sequence[Sample], name: str) -> float:
    return sum(each[name] for each in rounds(samples))


def prompt_rates(samples: Sequence[Sample]) -> dict[int, float]:
    return {
        prompt: tokens(own) / seconds(own, "decode_seconds") for prompt, own in by_prompt(samples).items()
    }


def throughput(samples: Sequence[Sample]) -> float:
    return fmean(prompt_rates(samples).values())


def throughput_std(samples: Sequence[Sample]) -> float:
    repeats = {sample["repeat"] for sample in samples}
    return stdev(throughput([s for s in samples if s["repeat"] == repeat]) for repeat in repeats)


def end_to_end(samples: Sequence[Sample]) -> float:
    return fmean(
        tokens(own) / seconds(own, "prefill_seconds", "decode_seconds") for own in by_prompt(samples).values()
    )


def accepted_at_least(samples: Sequence[Sample], depth: int) -> int:
    return sum(each["accepted"] >= depth for each in rounds(samples))


def depths(samples: Sequence[Sample]) -> range:
    return range(1, 1 + max(each["accepted"] for each in rounds(samples)))


def percentiles(values: Sequence[float]) -> dict[str, float]:
    cuts = quantiles(values, n=20, method="inclusive")
    return {"p50": cuts[9], "p95": cuts[18]}


def later_token(sample: Sample) -> float:
    after_first = sample["prefill_seconds"] + sample["decode_seconds"] - sample["ttft_seconds"]
    return float(after_first / (len(sample["token_ids"]) - 1))


def number_of(samples: Sequence[Sample], *outcomes: str) -> int:
    return sum(sample["exactness"] in outcomes for sample in samples)


def share(phase: str) -> Callable[[Sequence[Sample]], float]:
    return lambda samples: total(samples, phase) / seconds(samples, "decode_seconds")


def host_share(samples: Sequence[Sample]) -> float:
    return 1.0 - sum(share(f"{phase}_seconds")(samples) for phase in ("draft", "grow", "verify", "walk"))


def pass_seconds(points: Sequence[tuple[int, float]], size: float) -> float:
    """Read the cost of a pass of any size off those of ascending sizes, each with its seconds."""
    if len(points) == 1 or size <= points[0][0]:
        return points[0][1]
    largest, at_largest = points[-1]
    if size > largest:
        near = [point for point in points if 4 * point[0] >= largest]
        near = near if len(near) > 1 else list(points[-2:])
        middle, at_middle = fmean(x for x, _ in near), fmean(y for _, y in near)
        rise = sum((x - middle) * (y - at_middle) for x, y in near) / sum((x - middle) ** 2 for x, _ in near)
        return at_largest + rise * (size - largest)
    (left, at_left), (right, at_right) = next(ends for ends in pairwise(points) if size <= ends[1][0])
    return at_left + (at_right - at_left) * (size - left) / (right - left)


def predicted_speedup(samples: Sequence[Sample]) -> float:
    calibration = samples[0]["calibration"]  # one actor, so that all have the same

    def per_round(name: str) -> float:
        return total(samples, name) / len(rounds(samples))

    def verify(size: float) -> float:
        return pass_seconds(calibration["verify_seconds"], size)

    steps = per_round("draft_steps")
    draft = steps * pass_seconds(calibration["draft_seconds"], per_round("draft_rows") / steps)
    return per_round("emitted") * verify(1) / (draft + verify(per_round("verified") + 1))


OF_A_ROW: dict[str, Callable[[Sequence[Sample]], Any]] = {
    "prompts": lambda s: len(by_prompt(s)),
    "repeats": lambda s: len({sample["repeat"] for sample in s}),
    "tokens": tokens,
    "throughput_tokens_per_s": throughput,
    "throughput_std": throughput_std,
    "throughput_pooled": lambda s: tokens(s) / seconds(s, "decode_seconds"),
    "end_to_end_tokens_per_s": end_to_end,
    "mean_acceptance_length": lambda s: tokens(s) / len(rounds(s)),
    "mean_acceptance_length_per_request": lambda s: fmean(
        tokens(own) / len(rounds(own)) for own in by_prompt(s).values()
    ),
    "draft_acceptance_rate": lambda s: total(s, "accepted") / total(s, "depth"),
    "path_acceptance": lambda s: total(s, "accepted") / total(s, "depth"),
    "node_acceptance": lambda s: total(s, "accepted") / total(s, "verified"),
    "marginal_accept_rates": lambda s: [accepted_at_least(s, d) / len(rounds(s)) for d in depths(s)],
    "conditional_accept_rates": lambda s: [
        accepted_at_least(s, d) / accepted_at_least(s, d - 1) for d in depths(s)
    ],
    "mean_tree_nodes": lambda s: total(s, "verified") / len(rounds(s)),
    "node_cap_bound_rate": lambda s: total(s, "capped") / len(rounds(s)),
    "draft_share": share("draft_seconds"),
    "grow_share": share("grow_seconds"),
    "verify_share": share("verify_seconds"),
    "walk_share": share("walk_seconds"),
    "host_share": host_share,
    "predicted_speedup": predicted_speedup,
    "ttft_s": lambda s: percentiles([sample["ttft_seconds"] for sample in s]),
    "tpot_s": lambda s: percentiles([later_token(sample) for sample in s]),
    "prefill_s": lambda s: percentiles([sample["prefill_seconds"] for sample in s]),
    "compared": lambda s: number_of(s, "exact", "tie", "violation"),
    "exact_match_rate": lambda s: number_of(s, "exact") / number_of(s, "exact", "tie", "violation"),
    "ties": lambda s: number_of(s, "tie"),
    "violations": lambda s: number_of(s, "violation"),
    "distinct_2": lambda s: fmean(distinct_pairs(sample["token_ids"]) for sample in s),
    "peak_memory_bytes": lambda s: max(sample["peak_memory_bytes"] for sample in s),
}


def distinct_pairs(ids: Sequence[int]) -> float:
    pairs = list(pairwise(ids))
    return len(set(pairs)) / len(pairs)


def paired(samples: Sequence[Sample], base: Sequence[Sample]) -> float:
    ours, theirs = prompt_rates(samples), prompt_rates(base)
    return math.exp(fmean(math.log(ours[prompt] / theirs[prompt]) for prompt in ours))


AGAINST_THE_BASELINE: dict[str, Callable[[Sequence[Sample], Sequence[Sample]], float]] = {
    "speedup": lambda s, base: throughput(s) / throughput(base),
    "speedup_paired": paired,
    "end_to_end_speedup": lambda s, base: end_to_end(s) / end_to_end(base),
    "gain_over_baseline": lambda s, base: throughput(s) / throughput(base) - 1.0,
}

AGAINST_THE_PREVIOUS: dict[str, Callable[[Sequence[Sample], Sequence[Sample]], float]] = {
    "gain_over_previous": lambda s, previous: throughput(s) / throughput(previous) - 1.0,
    "paired_over_previous": paired,
}
