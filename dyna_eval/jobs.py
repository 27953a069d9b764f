"""What to run: a sweep's settings, one job, and the identity that says when two jobs are the same.

These and the values of `measurements`, `records` and `notices` travel through dyna-eval. They are made of the
standard library only, so every other module may import them. Unknown is `None`, never 0. Times are seconds on
a monotonic clock, counts are plain integers, digests are SHA-256 in hex.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

IDENTITY_VERSION = 2
"""Version of the job identity; it changes when `job_key` hashes other facts."""

DECODER_VERSION = 8
"""Version of the decoding loops' semantics; results of another version are not reused."""

DEMO, DEMO_LARGE = PACKAGED_PAIRS = ("demo", "demo-large")
"""Pairs that come with the package, the second one enlarged; DEMO also names the packaged data set."""

MAX_CONFIGURATIONS = 10_000
"""Most configurations that a sweep file may expand to, unless the command line says otherwise."""

Scalar = bool | int | float | str | None

Params = Mapping[str, Scalar]

PACKAGE = "package"
"""The parameter that holds the package, version and source of a method that is not dyna-eval's own."""

_METHOD_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


class Method(StrEnum):
    """How the next tokens are found.

    What our own loop decodes, also by the growth policies of other packages, is what the target alone would
    emit, but for numeric ties. `hf_generate` and `hf_assisted` are transformers' own loops: they round
    otherwise, so their greedy text may leave ours at more ties, and their sampled text is drawn by other
    random numbers.

    Any other name is that of a growth policy that another package brings; results that were measured with it
    can be read without the package.
    """

    AR = "ar"
    LINEAR = "linear"
    TREE = "tree"
    STATIC_TREE = "static_tree"
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
        """Name a method of another package, installed or not; the same object each time, so that `is` and
        pickling work.
        """
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


def open_jobs(counts: Mapping[JobState, int]) -> int:
    """Return how many of a sweep's jobs, counted by state, are queued or running."""
    return counts[JobState.QUEUED] + counts[JobState.RUNNING]


class SweepState(StrEnum):
    """Where a sweep stands; derived from its jobs and its controller's lease, never stored."""

    RUNNING = "running"
    DONE = "done"
    QUEUED = "queued"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    CANCELLED = "cancelled"
    IMPORTED = "imported"  # from files of other tools: it has no jobs


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
    chat_template: Mapping[str, object] | None = None
    """Variables of the chat template that conversations go through; None: texts are prompts as they are."""
    chat_template_text: str | None = None
    """The chat template in Jinja; None: the tokenizer's own."""
    template: str | None = None
    """Of texts from several columns, instead of `column`; see `dyna_eval.sweeps.templates`."""
    shuffle: int | None = None
    """Seed of the random order in which rows are taken; None: as they stand."""
    per_category: int | None = None
    """At most so many prompts of each category."""
    revision: str | None = None
    """Of a data set on the hub."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSpec:
    """How much to generate, and by which law. Temperature 0 is greedy."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    stop_at_eos: bool = False


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
    generation: GenerationSpec | None = None
    """Likewise, where a sweep has several generation settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """What runs the forward passes, and in which dtype where a pair names none of its own."""

    backend: Backend = Backend.AUTO
    dtype: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureSpec:
    """How to measure: repeats per configuration, warm-up runs, and how often an actor runs AR itself.

    With `max_repeats`, `repeats` is how many there are at first: more are added until every speedup is known
    to within `precision` (`dyna_eval.running.repeats`), or there are so many. `tune_fraction` is the share of
    the prompts on which the best row is chosen; figures are then over the others.
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
    """None: generous, by what the pair's passes were found to cost, see `dyna_eval.running.supervision`."""

    @property
    def most_repeats(self) -> int:
        return self.max_repeats or self.repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One row of the ablation: a method with every parameter resolved."""

    label: str
    method: Method
    params: Params


TARGET_ALONE = Configuration(label="target alone", method=Method.AR, params={})
"""What an actor runs for itself, as a sentinel."""


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
    """With several prompt sets or generation settings, every pair once for each of them."""
    prompts: PromptSpec
    """Of the pairs that name none of their own."""
    generation: GenerationSpec
    """Likewise; `generation_of` says which a pair has."""
    measure: MeasureSpec
    engine: EngineSpec = EngineSpec()
    baseline: str
    configurations: tuple[Configuration, ...]
    merged: tuple[MergedConfiguration, ...] = ()
    source: str = ""

    def generation_of(self, pair: PairSpec) -> GenerationSpec:
        """Return how the texts of one of the sweep's pairs are generated."""
        return pair.generation or self.generation

    @property
    def past_answers(self) -> tuple[str, ...]:
        """Names of the pairs that write on behind the end of an answer, where text repeats itself: their
        prompts are in a chat template, and samples do not stop at end tokens.
        """
        return tuple(
            pair.name
            for pair in self.pairs
            if (pair.prompts or self.prompts).chat_template is not None
            and not self.generation_of(pair).stop_at_eos
        )


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
    end_tokens: tuple[int, ...] = ()
    """Where `stop_at_eos` ends a sample: the tokenizer's end token, and those of the target's generation
    configuration, ascending."""

    def same_models(self, other: Pair) -> bool:
        """Whether an actor that holds one of two pairs can run the other: they differ at most in prompts
        and in how texts are generated.
        """
        own = self.spec
        alike = replace(other.spec, name=own.name, prompts=own.prompts, generation=own.generation)
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
    def distinct(self) -> int:
        """How many of the prompts differ from each other."""
        return len({prompt.digest for prompt in self.prompts})

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(prompt.token_ids) for prompt in self.prompts)

    @property
    def shortest(self) -> int:
        """Tokens of the shortest prompt."""
        return min(len(prompt.token_ids) for prompt in self.prompts)


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
            **_end_tokens(pair, generation),
        }
    )


def _end_tokens(pair: Pair, generation: GenerationSpec) -> dict[str, list[int]]:
    """Return the end tokens where generation stops at them: no digest of the pair's files covers them."""
    return {"end_tokens": list(pair.end_tokens)} if generation.stop_at_eos else {}


def calibration_key(pair: Pair) -> str:
    """Return the identity of a pair's calibrations: the cost of a step follows weights, dtype and backend."""
    return digest([pair.target_digest, pair.draft_digest, pair.dtype, pair.backend])


def generation_digest(generation: GenerationSpec) -> str:
    return digest(asdict(generation))


def prompt_digest(text: str, token_ids: tuple[int, ...]) -> str:
    return digest([text, list(token_ids)])
