"""The values that travel through dyna-eval: what to run, one job, and what was measured.

Standard library only: every other module may import this one. Unknown is `None`, never 0.
Times are seconds on a monotonic clock, counts are plain integers, digests are SHA-256 in hex.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum

IDENTITY_VERSION = 2
"""Version of the job identity; it changes when `job_key` hashes other facts."""

DECODER_VERSION = 4
"""Version of the decoding loops' semantics; results of another version are not reused."""

PACKAGED_PAIRS = ("demo", "demo-large")
"""Pairs that come with the package; `demo` also names its prompts."""

MAX_CONFIGURATIONS = 10_000
"""Most configurations that a sweep file may expand to, unless the command line says otherwise."""

Scalar = bool | int | float | str | None
Params = Mapping[str, Scalar]

PACKAGE = "package"
"""The parameter that holds the package, version and source of a method that is not dyna-eval's own."""

_METHOD_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


class Method(StrEnum):
    """How the next tokens are found. All methods emit what the target alone would emit.

    The members are dyna-eval's own. Any other name in lower case, `Method("my_policy")`, is the growth policy
    that a package brings under it (`dyna_eval.policies`); whether one is installed here does not matter to
    results that were measured with it.
    """

    AR = "ar"
    LINEAR = "linear"
    TREE = "tree"
    BEST_FIRST = "best_first"
    DYNATREE = "dynatree"
    COST_AWARE = "cost_aware"
    PROMPT_LOOKUP = "prompt_lookup"
    HF_GENERATE = "hf_generate"
    HF_ASSISTED = "hf_assisted"
    OTHER = "other"  # of another tool, in imported rows alone

    @property
    def is_peer(self) -> bool:
        """Whether transformers' own loop decodes, not ours."""
        return self in (Method.HF_GENERATE, Method.HF_ASSISTED)

    @property
    def is_target_alone(self) -> bool:
        """Whether nothing is drafted, in our loop or in transformers': a round is a token."""
        return self in (Method.AR, Method.HF_GENERATE)

    @property
    def is_external(self) -> bool:
        """Whether it is the growth policy of another package."""
        return self.name not in Method.__members__

    @classmethod
    def _missing_(cls, value: object) -> Method | None:
        """Name a method of another package; the same object each time, so that `is` and pickling work."""
        if not isinstance(value, str) or not _METHOD_NAME.fullmatch(value):
            return None
        external = str.__new__(cls, value)
        external._name_, external._value_ = value, value
        return cls._value2member_map_.setdefault(value, external)  # type: ignore[return-value]


class Backend(StrEnum):
    """What runs a model's forward passes. `auto` is the fastest that is known to work on the machine."""

    AUTO = "auto"
    EAGER = "eager"
    COMPILE = "compile"
    CUDAGRAPH = "cudagraph"


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Exactness(StrEnum):
    """How a sample's tokens compare with those of the target alone."""

    EXACT = "exact"
    TIE = "tie"  # the target's two best logits were within rounding at the first difference
    VIOLATION = "violation"


# ---------------------------------------------------------------- what to run


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSpec:
    """Where prompts come from: the arguments of `datasets.load_dataset`, and how rows become prompts."""

    dataset: str
    name: str | None = None
    split: str = "test"
    column: str = "text"
    data_files: tuple[str, ...] = ()
    min_chars: int = 1
    limit: int | None = None
    max_prompt_tokens: int | None = None
    category: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSpec:
    """A target/draft pair as the user named it. A model is a folder, a hub id, or None for no draft."""

    name: str
    target: str
    draft: str | None
    dtype: str = "auto"
    target_revision: str | None = None
    draft_revision: str | None = None
    prompts: PromptSpec | None = None
    """Of this pair alone, where a sweep has several prompt sets: the pair then stands there once for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSpec:
    """How much to generate, and by which law. Temperature 0 is greedy."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    stop_at_eos: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """What runs the forward passes, and in which dtype where a pair names none of its own."""

    backend: Backend = Backend.AUTO
    dtype: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureSpec:
    """How to measure: repeats per configuration, warm-up prompts, and how often an actor runs AR itself.

    With `max_repeats`, `repeats` is how many there are at first: more are added until every speedup is known
    to within `precision` (`dyna_eval.repeats`), or there are so many. `tune_fraction` is the share of the
    prompts on which the best row is chosen; figures are then over the others.
    """

    repeats: int = 3
    warmup: int = 1
    confidence: float = 0.95
    sentinel_every: int = 8
    max_repeats: int | None = None
    precision: float | None = None
    tune_fraction: float = 0.0
    store_trees: int = 0
    """Rounds of each sample whose draft tree is kept."""
    job_timeout_s: float | None = None
    """None: generous, by what the pair's passes were found to cost."""

    @property
    def most_repeats(self) -> int:
        return self.max_repeats or self.repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One row of the ablation: a method with every parameter resolved."""

    label: str
    method: Method
    params: Params


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedConfiguration:
    """A configuration left out because it means the same as another one."""

    label: str
    into: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSpec:
    """A validated and expanded sweep file. `source` is the file's text, kept for the record."""

    name: str
    pairs: tuple[PairSpec, ...]
    """With several prompt sets, every pair once for each of them."""
    prompts: PromptSpec
    """Of the pairs that name none of their own."""
    generation: GenerationSpec
    measure: MeasureSpec
    engine: EngineSpec = EngineSpec()
    baseline: str
    configurations: tuple[Configuration, ...]
    merged: tuple[MergedConfiguration, ...] = ()
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A pair whose files were found and read: digests of their content and the dtype to run in."""

    spec: PairSpec
    dtype: str
    backend: Backend = Backend.AUTO
    """As asked for; what an actor really used is among the facts of its environment."""
    target_digest: str
    draft_digest: str | None
    tokenizer_digest: str

    def same_models(self, other: Pair) -> bool:
        """Whether an actor that holds one of two pairs can run the other: they differ in prompts at most."""
        alike = replace(other.spec, name=self.spec.name, prompts=self.spec.prompts)
        return replace(other, spec=alike) == self


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt, tokenized and cut; `index` is its place in the prompt set."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    digest: str
    category: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    digest: str
    prompts: tuple[Prompt, ...]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(prompt.token_ids) for prompt in self.prompts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One configuration and one repeat over all prompts of a set, on one pair."""

    key: str
    pair: Pair
    prompt_set: str
    generation: GenerationSpec
    measure: MeasureSpec
    configuration: Configuration
    repeat: int
    position: int
    """Place in the sweep's seeded random order; a block holds all configurations of one repeat."""

    @property
    def is_current(self) -> bool:
        """Whether the job was made for these very decoding loops, and not for those of another version."""
        return self.key == job_key(
            pair=self.pair,
            prompt_set=self.prompt_set,
            generation=self.generation,
            measure=self.measure,
            configuration=self.configuration,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedSweep:
    """A sweep whose models and prompts were looked at: everything a store needs to keep it."""

    spec: SweepSpec
    digest: str
    pairs: tuple[Pair, ...]
    prompt_sets: Mapping[str, PromptSet]
    """By the name of the pair whose tokenizer made them."""
    jobs: tuple[Job, ...]


# ------------------------------------------------------------ what was measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One verification round.

    drafted: nodes the draft proposed, pruned ones included; verified: draft nodes the target saw;
    depth: levels among the verified nodes; accepted: draft tokens taken; emitted: tokens that count,
    bonus token included and overrun left out; capped: the node cap stopped growth; draft_steps and
    draft_rows: forward passes of the draft model, and the tokens that went through them.

    Seconds: draft is the draft's forward passes, grow the policy's choice among their candidates, verify the
    target's forward pass, walk the acceptance and the compaction of the caches. What a round takes beyond
    them is the host's. A phase that a method does not have, or that cannot be seen, is None.
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
    """Interpolate linearly between measured (size, seconds), and go on along the last two beyond them."""
    if len(points) == 1 or size <= points[0][0]:
        return points[0][1]
    index = next((i for i, (measured, _) in enumerate(points) if measured >= size), len(points) - 1)
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


# ---------------------------------------------------------- what a watcher is told


class Happening(StrEnum):
    """What a watcher of a running sweep is told."""

    STARTED = "started"
    LANDED = "landed"
    RETRIED = "retried"
    FAILED = "failed"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One thing that happened to a job. `seconds` is the job's wall time, where it landed."""

    happening: Happening
    job_id: int
    label: str
    repeat: int
    pair: str
    actor: str
    detail: str = ""
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standstill:
    """The sweep waits for its database or for a node, for a reason; None where it goes on again."""

    waits_for: str
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at on a machine. `advice` is empty where all is well."""

    what: str
    told: str
    advice: str = ""
    fatal: bool = False
    """Nothing can be measured before this is mended."""


# ------------------------------------------------------------- what a report reads


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
    samples: Sequence[SampleTotals] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSentinel:
    actor: str
    sequence: int
    pair: str
    samples: Sequence[SampleTotals] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRecord:
    """A stored sweep and everything measured in it. `state` is derived from its jobs."""

    id: int
    name: str
    digest: str
    state: str
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
    calibrations: Mapping[tuple[str, str], Calibration] = field(default_factory=dict, repr=False)
    """By the name of the pair and the digest of the environment."""
    measure: MeasureSpec = MeasureSpec()
    seed: int = 0
    categories: Mapping[str, Mapping[int, str]] = field(default_factory=dict, repr=False)
    """Prompt index to category, by the digest of the prompt set. What has none is left out."""
    generation: GenerationSpec | None = field(default=None, repr=False)


# --------------------------------------------------------------------- identity


def canonical_json(value: object) -> str:
    """Return the one JSON text for a value: sorted keys, no spaces, shortest floats, NaN refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def digest(value: object) -> str:
    """Return the SHA-256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def job_key(
    *,
    pair: Pair,
    prompt_set: str,
    generation: GenerationSpec,
    measure: MeasureSpec,
    configuration: Configuration,
) -> str:
    """Return the identity of a configuration's runs: equal keys mean the same tokens by the same loop.

    Labels, names and paths do not enter: only contents do. Nor does hardware, which is the environment's.
    """
    return digest(
        {
            "version": IDENTITY_VERSION,
            "decoder": DECODER_VERSION,
            "method": configuration.method,
            "params": dict(configuration.params),
            "target": pair.target_digest,
            "draft": pair.draft_digest,
            "tokenizer": pair.tokenizer_digest,
            "dtype": pair.dtype,
            "backend": pair.backend,
            "prompt_set": prompt_set,
            "generation": asdict(generation),
            "warmup": measure.warmup,
        }
    )


def calibration_key(pair: Pair) -> str:
    """Return the identity of a pair's calibrations: the cost of a step follows weights, dtype and backend."""
    return digest([pair.target_digest, pair.draft_digest, pair.dtype, pair.backend])


def generation_digest(generation: GenerationSpec) -> str:
    return digest(asdict(generation))


def prompt_digest(text: str, token_ids: tuple[int, ...]) -> str:
    return digest([text, list(token_ids)])


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
