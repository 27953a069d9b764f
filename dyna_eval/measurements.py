"""What was measured: rounds and samples of a job, the actor's own AR runs, and where it ran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import linear_regression

from dyna_eval.jobs import Params, Scalar

HEAVY_LOAD = 0.3
"""Others that take more than 30 % of an actor's cores, or clocks held down for so much of the time, put the
speed of a run in doubt: without so many of its cores a pass takes 1.4 times as long at best, as much as
whole methods differ by."""

SENTINEL = "sentinel_"
"""What the names of conditions begin with that are of the sentinels in a result, not of its job."""


class Exactness(StrEnum):
    """How a sample's tokens compare with those of the target alone."""

    EXACT = "exact"
    TIE = "tie"  # at the first difference both tokens' scores were the target's best, within rounding
    VIOLATION = "violation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One verification round.

    drafted: nodes the draft proposed, pruned ones included; verified: draft nodes the target saw;
    depth: levels among the verified nodes; accepted: draft tokens taken; emitted: tokens that count,
    bonus token included and overrun left out; capped: the node cap kept nodes out; draft_steps and
    draft_rows: forward passes of the draft model, and the tokens that went through them.

    Seconds: draft is the draft's forward passes, grow the policy's choice among their candidates and what it
    learns of the outcome, verify the target's forward pass, walk the acceptance and the compaction of the
    caches. What a round takes beyond them is the host's. A phase that a method does not have, or that cannot
    be seen, is None.
    """

    drafted: int
    verified: int
    depth: int
    accepted: int
    emitted: int
    capped: bool
    draft_steps: int
    draft_rows: int
    draft_seconds: float | None
    grow_seconds: float | None
    verify_seconds: float | None
    walk_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeNode:
    """A node of a stored draft tree. Node 0 is the pending token, whose `parent` is -1 and probabilities 1.

    parent: the index of a node before it; probability: the draft's, after its parent; joint: of the whole
    path; verified: whether the target saw it, or it was pruned; accepted: whether the target took it.
    When sampling, probabilities are the softmax of the draft's logits / T plus the target's noise.
    """

    token: int
    text: str
    parent: int
    probability: float
    joint: float
    verified: bool
    accepted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftTree:
    """What a round drafted and what became of it. `bonus` is the target's own token after the accepted path,
    None where an end token came before it."""

    nodes: tuple[TreeNode, ...]
    bonus: int | None
    bonus_text: str
    omitted: int = 0
    """Nodes of a very large tree that were not kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One prompt decoded once. `decode_seconds` excludes prefill; `rounds` may be left out on reading."""

    prompt_index: int
    prompt_digest: str
    prompt_tokens: int
    token_ids: tuple[int, ...]
    text: str
    prefill_seconds: float
    decode_seconds: float
    ttft_seconds: float
    exactness: Exactness | None
    """None where the sample is itself the reference."""
    divergence_index: int | None = None
    divergence_margin_ulp: float | None = None
    distinct_2: float | None = None
    rounds: tuple[Round, ...] = field(default=(), repr=False)
    trees: tuple[DraftTree, ...] = field(default=(), repr=False)
    """Of the first `measure.store_trees` rounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentinel:
    """An actor's own AR run over the prompts: reference tokens, and the yardstick of its speed."""

    actor: str
    sequence: int
    """0 for the run before the actor's first job, then 1, 2, ..."""
    samples: tuple[Sample, ...]


GPU_SHARE = "gpu_share"

"""A fact of an environment: which share of a GPU an actor had, where it had not a whole one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where an actor ran. `facts` are plain scalars; two actors with the same digest are comparable."""

    digest: str
    facts: Mapping[str, Scalar]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a forward pass costs on one machine, for one pair, dtype and backend.

    `draft_seconds` by the number of tokens that go through the draft at once (empty without a draft),
    `verify_seconds` by the number of tokens that go through the target; both ascending, (size, seconds).
    """

    draft_seconds: tuple[tuple[int, float], ...]
    verify_seconds: tuple[tuple[int, float], ...]

    def draft(self, width: float) -> float:
        """Return the seconds of a draft step over `width` tokens."""
        return interpolate(self.draft_seconds, width)

    def verify(self, nodes: float) -> float:
        """Return the seconds of a target step over `nodes` tokens, the pending one included."""
        return interpolate(self.verify_seconds, nodes)


def interpolate(points: tuple[tuple[int, float], ...], size: float) -> float:
    """Interpolate linearly between measured (size, seconds), ascending.

    Beyond the largest size, go on from it with the slope of the least-squares line through all sizes from a
    quarter of it on: the last two alone differ by noise, which a long extrapolation multiplies.
    """
    if len(points) == 1 or size <= points[0][0]:
        return points[0][1]
    largest, seconds = points[-1]
    if size > largest:
        near = [point for point in points if point[0] >= largest / 4]
        slope = linear_regression(*zip(*(near if len(near) > 1 else points[-2:]), strict=True)).slope
        return seconds + slope * (size - largest)
    index = next(i for i, (measured, _) in enumerate(points) if measured >= size)
    (x0, y0), (x1, y1) = points[index - 1], points[index]
    return y0 + (y1 - y0) * (size - x0) / (x1 - x0)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """What an actor returns for a job. `sentinels` are those it ran since its previous result."""

    job_key: str
    repeat: int
    actor: str
    node: str
    environment: Environment
    sentinels: tuple[Sentinel, ...]
    samples: tuple[Sample, ...]
    wall_seconds: float
    peak_memory_bytes: int | None
    calibration: Calibration | None = None
    conditions: Params = field(default_factory=dict)
    """What the machine did meanwhile, and which code ran: facts of this one run, none of which tells
    whether two runs are comparable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleTotals:
    """One stored sample with its rounds summed: all that the statistics need."""

    prompt_index: int
    prompt_tokens: int
    tokens: int
    prefill_seconds: float
    decode_seconds: float
    ttft_seconds: float
    exactness: Exactness | None
    distinct_2: float | None
    rounds: int
    drafted_nodes: int
    verified_nodes: int
    drafted_levels: int
    accepted_tokens: int
    capped_rounds: int
    draft_steps: int
    draft_rows: int
    draft_seconds: float | None
    grow_seconds: float | None
    verify_seconds: float | None
    walk_seconds: float | None
    accepted_by_depth: tuple[int, ...]
    """Rounds that accepted at least 1, 2, ... draft tokens."""


def sum_rounds(sample: Sample) -> SampleTotals:
    """Sum a sample's rounds; phase times are None if any round lacks them."""
    rounds = sample.rounds
    deepest = max((r.accepted for r in rounds), default=0)
    return SampleTotals(
        prompt_index=sample.prompt_index,
        prompt_tokens=sample.prompt_tokens,
        tokens=len(sample.token_ids),
        prefill_seconds=sample.prefill_seconds,
        decode_seconds=sample.decode_seconds,
        ttft_seconds=sample.ttft_seconds,
        exactness=sample.exactness,
        distinct_2=sample.distinct_2,
        rounds=len(rounds),
        drafted_nodes=sum(r.drafted for r in rounds),
        verified_nodes=sum(r.verified for r in rounds),
        drafted_levels=sum(r.depth for r in rounds),
        accepted_tokens=sum(r.accepted for r in rounds),
        capped_rounds=sum(r.capped for r in rounds),
        draft_steps=sum(r.draft_steps for r in rounds),
        draft_rows=sum(r.draft_rows for r in rounds),
        draft_seconds=_sum_known([r.draft_seconds for r in rounds]),
        grow_seconds=_sum_known([r.grow_seconds for r in rounds]),
        verify_seconds=_sum_known([r.verify_seconds for r in rounds]),
        walk_seconds=_sum_known([r.walk_seconds for r in rounds]),
        accepted_by_depth=tuple(sum(r.accepted >= depth for r in rounds) for depth in range(1, deepest + 1)),
    )


def _sum_known(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
