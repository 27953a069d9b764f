"""The decoding methods a sweep may name, each with its parameters, their bounds and their defaults.

A new method is one more subclass of `MethodParameters` and its name in `jobs.Method`: the sweep file, its
JSON Schema and the merging of equal rows follow from the class. Other packages bring theirs by
`dyna_eval.policies`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from dyna_eval.jobs import Method, Params, canonical_json
from dyna_eval.topology import Topology, expansion_size

DEFAULT_MAX_NODES = 1024
"""The largest tree that grows whole unless `max_nodes` says otherwise, in draft nodes."""

MAX_LEVELS = 1024
"""Of a tree or a chain, as any method may have; no node has more children either."""

MAX_NODES = 4096
"""Draft nodes of a round, as any method may verify."""

SYMBOLS: Mapping[str, str] = {
    "k": "K",
    "num_assistant_tokens": "K",
    "depth": "D",
    "branch": "B",
    "threshold": "τ",
}
"""What tables, figures and footnotes call parameters."""

_DRAFT_TOKENS = ("num_draft_tokens", "num_speculative_tokens", "max_draft_len")
"""The length of a chain; of a tree its nodes, or its depth."""

_CHAIN_LENGTHS = (
    "gamma",
    "γ",
    "lookahead",
    "draft_len",
    "draft_length",
    "speculation_length",
    *_DRAFT_TOKENS,
)

_PRUNING = ("tau", "τ", "p_min", "prune_threshold", "pruning_threshold", "prob_threshold")

_CHILDREN = (
    "b",
    "topk",
    "top_k",
    "eagle_topk",
    "branching",
    "branching_factor",
    "branch_factor",
    "beam_size",
    "beam_width",
)

OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "k": (*_CHAIN_LENGTHS, "num_assistant_tokens", "prompt_lookup_num_tokens"),
    "num_assistant_tokens": (*_CHAIN_LENGTHS, "k"),
    "depth": (
        *_CHAIN_LENGTHS,
        "num_assistant_tokens",
        "d",
        "levels",
        "max_depth",
        "tree_depth",
        "speculative_num_steps",
    ),
    "branch": (*_CHILDREN, "width"),
    "branch_mid": (*_CHILDREN, "width", "branch"),
    "width": (*_CHILDREN, "branch"),
    "threshold": (*_PRUNING, "stop_probability", "confidence_threshold"),
    "stop_probability": (*_PRUNING, "threshold"),
    "confidence_threshold": (*_PRUNING, "threshold", "assistant_confidence_threshold"),
    "max_nodes": (
        *_DRAFT_TOKENS,
        "n",
        "nodes",
        "num_nodes",
        "budget",
        "tree_size",
        "tree_budget",
        "total_token",
        "total_tokens",
        "speculative_num_draft_tokens",
    ),
    "expansion": ("expansion_config", "branches", "widths"),
    "paths": ("choices", "tree_choices", "medusa_choices"),
    "ngram": ("ngram_size", "max_ngram_size", "max_matching_ngram_size", "prompt_lookup_max"),
    "schedule": ("num_assistant_tokens_schedule",),
}
"""What papers and other tools call parameters, in lower case.

They are the symbols of Leviathan et al. and of our tables, and options of transformers, vLLM, SGLang,
TensorRT-LLM, llama.cpp, EAGLE and Medusa.
"""

PositiveZero = AfterValidator(lambda number: number + 0.0)
"""-0.0 becomes 0.0, so that equal settings have equal digests."""

Probability = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), PositiveZero]
"""In [0, 1)."""

Size = Annotated[int, Field(ge=1, le=MAX_LEVELS)]
"""Levels, branches, and whatever else is bounded as they are."""

NodeCap = Annotated[int, Field(ge=1, le=MAX_NODES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What a configuration does, apart from how it was written: two with equal keys do the same.

    Parameters that change nothing are None. `notes` say why the written form may differ; they are empty where
    it cannot.
    """

    method: Method
    params: Params
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return canonical_json([self.method, dict(self.params)])


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeShape:
    """An unpruned tree: its levels, the children of every node, and those of the root."""

    depth: int
    branch: int
    root_branch: int

    @classmethod
    def of(cls, params: Params) -> TreeShape | None:
        """Return the shape that parameters give; None where a size is unknown, or no sweep file may name it.

        A file of another tool may name any number.
        """
        depth, branch = params.get("depth"), params.get("branch")
        root = params.get("root_branch") or branch
        sizes = [size for size in (depth, branch, root) if isinstance(size, int)]
        if len(sizes) < 3 or not all(1 <= size <= MAX_LEVELS for size in sizes):
            return None
        return cls(depth=sizes[0], branch=sizes[1], root_branch=sizes[2])

    @property
    def nodes(self) -> int:
        """All draft nodes: R (B^D - 1) / (B - 1) with B children of a node, R of the root and D levels."""
        if self.branch == 1:
            return self.root_branch * self.depth
        whole: int = self.branch**self.depth
        return self.root_branch * (whole - 1) // (self.branch - 1)


class MethodParameters(BaseModel):
    """The parameters of one method as a sweep file gives them; `resolved` fills in the defaults."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    method: ClassVar[Method]
    needs_draft: ClassVar[bool] = True
    package: ClassVar[str | None] = None
    """Package, version and source where the method is not dyna-eval's own."""

    def resolved(self) -> Params:
        """Return every parameter that decides what the decoder does, as plain scalars."""
        return self.model_dump()

    def meaning(self) -> Meaning:
        return Meaning(method=self.method, params=self.resolved())


class Ar(MethodParameters):
    """The target alone, one token per round: what every other row is compared with."""

    method = Method.AR
    needs_draft = False


class Linear(MethodParameters):
    """A chain of `k` draft tokens per round.

    Source: speculative decoding (Leviathan et al. 2023; Chen et al. 2023).
    """

    method = Method.LINEAR

    k: Size = Field(description="Draft tokens per round.")


class Tree(MethodParameters):
    """The draft's `branch` best children at every node, down to `depth`, pruned by cumulative probability.

    Source: SpecInfer (Miao et al. 2024), sections 3 and 4.
    """

    method = Method.TREE

    depth: Size = Field(
        description="Levels of draft nodes below the root: depth 7 with branch 2 is 254 nodes, unless capped."
    )
    branch: Size = Field(description="Children of every node.")
    threshold: Probability = Field(
        0.0, description="Nodes of a lower cumulative draft probability are pruned; 0 prunes nothing."
    )
    prune: Literal["node", "expansion"] = Field(
        "node", description="node: a pruned node is dropped; expansion: it stays as a leaf."
    )
    root_branch: Size | None = Field(
        None, description="Children of the root; the same as branch unless given."
    )
    max_nodes: NodeCap | None = Field(
        None,
        description=f"Most draft nodes per round; unless given the whole tree, up to {DEFAULT_MAX_NODES}.",
    )

    def resolved(self) -> Params:
        return {
            "depth": self.depth,
            "branch": self.branch,
            "threshold": self.threshold,
            "prune": self.prune,
            "root_branch": self._root_branch,
            "max_nodes": self._resolved_max_nodes,
        }

    def meaning(self) -> Meaning:
        """Leave out of the key what provably changes nothing; a threshold above 0 may always prune."""
        params, notes = dict(self.resolved()), list[str]()
        size = self._size_up_to(self._resolved_max_nodes + 1)
        if self._resolved_max_nodes >= size:
            params["max_nodes"] = None
            if self._resolved_max_nodes != size:
                notes.append(
                    f"a cap of {self._resolved_max_nodes} cannot bind in a tree of {size} draft nodes"
                )
        if self.depth == 1:
            params["branch"] = None
            notes.append("at depth 1 only the root has children")
        if self.threshold == 0 or (self.depth == 1 and self.prune == "expansion"):
            params["threshold"] = params["prune"] = None
            if self.threshold > 0:
                notes.append("at depth 1 prune: expansion drops nothing")
            elif self.prune != "node":
                notes.append("threshold 0 prunes nothing")
        unpruned_chain = dict.fromkeys(params) | {"depth": self.depth, "root_branch": 1}
        if params == unpruned_chain or params == unpruned_chain | {"branch": 1}:
            notes.append(f"an unpruned tree of branch 1 is linear with k={self.depth}")
            return Meaning(method=Method.LINEAR, params={"k": self.depth}, notes=tuple(notes))
        return Meaning(method=self.method, params=params, notes=tuple(notes))

    @property
    def _root_branch(self) -> int:
        return self.branch if self.root_branch is None else self.root_branch

    @property
    def _resolved_max_nodes(self) -> int:
        return self._size_up_to(DEFAULT_MAX_NODES) if self.max_nodes is None else self.max_nodes

    def _size_up_to(self, limit: int) -> int:
        """Return the draft nodes of the unpruned tree, or `limit` where there are more."""
        shape = TreeShape(depth=self.depth, branch=self.branch, root_branch=self._root_branch)
        return min(shape.nodes, limit)


_EXPANSION = re.compile(r"^[0-9]{1,4}(-[0-9]{1,4})*$")
_PATHS = re.compile(r"^ *[0-9]{1,4}([.][0-9]{1,4})*( +[0-9]{1,4}([.][0-9]{1,4})*)* *$")


class StaticTree(MethodParameters):
    """The same tree in every round, whatever the draft's probabilities: by level, or node by node.

    Sources: expansion: SpecInfer (Miao et al. 2024), section 3; trees given node by node: Medusa (Cai et al.
    2024), Sequoia (Chen et al. 2024).
    """

    method = Method.STATIC_TREE

    expansion: str | None = Field(
        None,
        json_schema_extra={"pattern": _EXPANSION.pattern},
        description="Children of every node, level by level: 3-2-1 gives the root 3, each of these 2, "
        "each of those 1.",
    )
    paths: str | None = Field(
        None,
        json_schema_extra={"pattern": _PATHS.pattern},
        description='Instead of expansion, every node by the ranks on its path, from 0: "0 1 0.0" gives the '
        "root two children, and the likelier one of them one.",
    )

    @field_validator("expansion")
    @classmethod
    def _expands(cls, text: str | None) -> str | None:
        if text is None:
            return None
        if not _EXPANSION.search(text):
            raise ValueError(f"should be the children of every node, level by level, as 3-2-1, not {text!r}")
        counts = [int(count) for count in text.split("-")]
        if min(counts) < 1 or max(counts) > MAX_LEVELS or len(counts) > MAX_LEVELS:
            raise ValueError(f"should have at most {MAX_LEVELS} levels, of 1 to {MAX_LEVELS} children each")
        _fits(expansion_size(counts))
        return "-".join(map(str, counts))

    @field_validator("paths")
    @classmethod
    def _is_a_tree(cls, text: str | None) -> str | None:
        if text is None:
            return None
        if not _PATHS.search(text):
            raise ValueError(f'should be nodes by the ranks on their paths, as "0 1 0.0", not {text!r}')
        paths = [tuple(map(int, path.split("."))) for path in text.split()]
        _fits(len(paths))
        if max(max(path) for path in paths) >= MAX_LEVELS or max(map(len, paths)) > MAX_LEVELS:
            raise ValueError(f"should have at most {MAX_LEVELS} levels, and ranks under {MAX_LEVELS}")
        return Topology.of_paths(paths).text

    @model_validator(mode="after")
    def _has_one_shape(self) -> Self:
        if (self.expansion is None) == (self.paths is None):
            raise ValueError("should have either 'expansion' or 'paths'")
        return self

    @property
    def topology(self) -> Topology:
        if self.expansion is not None:
            return Topology.of_expansion([int(count) for count in self.expansion.split("-")])
        return Topology.of_paths(tuple(map(int, path.split("."))) for path in (self.paths or "").split())

    def meaning(self) -> Meaning:
        """Return a chain or a tree where this is one, and otherwise its nodes, however they are written."""
        topology = self.topology
        counts = topology.expansion
        if counts is not None and len(set(counts[1:])) <= 1:
            same = {
                "depth": len(counts),
                "branch": counts[-1],
                "root_branch": counts[0],
                "max_nodes": len(topology.nodes),
            }
            plain = Tree.model_validate(same).meaning()
            note = "a static tree of equal levels is an unpruned tree"
            return replace(plain, notes=(note, *plain.notes))
        note = "its nodes are the same"
        params = {"expansion": None, "paths": topology.text}
        return Meaning(method=self.method, params=params, notes=(note,))


def _fits(nodes: int) -> None:
    if nodes > MAX_NODES:
        raise ValueError(f"should have at most {MAX_NODES} draft nodes, not {nodes}")


class BestFirst(MethodParameters):
    """The likeliest nodes of every level are expanded, and the likeliest of all that grew are verified.

    Source: EAGLE-2 (Li et al. 2024), sections 4.1 and 4.2.
    """

    method = Method.BEST_FIRST

    max_nodes: NodeCap = Field(32, description="Draft nodes verified per round.")
    depth: Size = Field(8, description="Levels of draft nodes.")
    width: Size = Field(8, description="Nodes expanded per level, and children of each.")


class DynaTree(MethodParameters):
    """A tree in three phases, each of which can be switched off.

    Branch phase: a node has fewer children where the draft is confident. Depth phase: an unlikely path ends,
    a likely one goes on beyond `depth`. History phase: recent acceptance moves both confidence bounds.
    Only the branch phase reads these: without it, the history phase changes nothing, and a row with it is
    merged with the same row without it.

    Source: DynaTree (the repository cny123222/DynaTree on GitHub).
    """

    method = Method.DYNATREE

    branch_phase: bool = Field(True, description="Off: every node has branch_mid children.")
    depth_phase: bool = Field(True, description="Off: the tree has exactly depth levels.")
    history_phase: bool = Field(
        True, description="Off: the confidence bounds stay as given. Without branch_phase it changes nothing."
    )
    depth: Size = Field(5, description="Levels of draft nodes, unless the depth phase decides.")
    max_depth: Size = Field(8, validate_default=True, description="Levels of a path that stays likely.")
    branch_min: Size = Field(1, description="Children of a node of high confidence.")
    branch_mid: Size = Field(
        2,
        validate_default=True,
        description="Children of a node in between; of every node where branch_phase is off.",
    )
    branch_max: Size = Field(3, validate_default=True, description="Children of a node of low confidence.")
    confidence_low: Probability = Field(
        0.4, description="Under this probability of the draft's best token, confidence is low."
    )
    confidence_high: Probability = Field(
        0.9, validate_default=True, description="From this probability on, confidence is high."
    )
    stop_probability: Probability = Field(
        0.05, description="A path of a lower cumulative draft probability ends; 0 ends none."
    )
    deep_probability: Probability = Field(
        0.3, description="A path of at least this cumulative probability goes on beyond depth."
    )
    history_window: Size = Field(8, description="Rounds that recent acceptance is over.")
    history_target: float = Field(
        0.6,
        gt=0,
        lt=1,
        allow_inf_nan=False,
        description="Accepted share of drafted levels under which trees get more branches.",
    )
    history_step: float = Field(
        0.05, gt=0, lt=1, allow_inf_nan=False, description="What a round moves the confidence bounds by."
    )
    max_nodes: NodeCap = Field(64, description="Most draft nodes per round.")

    @field_validator("max_depth", "branch_mid", "branch_max", "confidence_high")
    @classmethod
    def _not_under_its_floor(cls, value: float, info: ValidationInfo) -> float:
        phase, floor = _DYNATREE_FLOORS[info.field_name or ""]
        least = info.data.get(floor, value)  # one that is itself wrong is reported by itself
        if value < least and info.data.get(phase):
            raise ValueError(f"should be at least {floor!r}, which is {least}, not {value}")
        return value

    def meaning(self) -> Meaning:
        """Leave out of the key what a phase that is switched off makes unused."""
        if not self.branch_phase and not self.depth_phase:
            same = {"depth": self.depth, "branch": self.branch_mid, "max_nodes": self.max_nodes}
            plain = Tree.model_validate(same).meaning()
            note = f"dynatree without its phases is an unpruned tree of branch {self.branch_mid}"
            return replace(plain, notes=(note, *plain.notes))
        notes = []
        if self.history_phase and not self.branch_phase:
            notes.append("without branch_phase there are no confidence bounds for history_phase to move")
        unusual = {
            name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default
        }
        if unusual.intersection(self.idle) - {"history_phase"}:
            notes.append("a phase that is switched off leaves its parameters unused")
        used = {**self.resolved(), **dict.fromkeys(self.idle)}
        return Meaning(method=self.method, params=used, notes=tuple(notes))

    @property
    def idle(self) -> tuple[str, ...]:
        """The parameters that a phase that is switched off leaves unused."""
        idle: tuple[str, ...] = ()
        if not self.branch_phase:
            idle += ("branch_min", "branch_max", "confidence_low", "confidence_high", "history_phase")
        if not self.depth_phase:
            idle += ("max_depth", "stop_probability", "deep_probability")
        if not self.history_phase or not self.branch_phase:
            idle += ("history_window", "history_target", "history_step")
        return idle


_DYNATREE_FLOORS = {
    "max_depth": ("depth_phase", "depth"),
    "branch_mid": ("branch_phase", "branch_min"),
    "branch_max": ("branch_phase", "branch_mid"),
    "confidence_high": ("branch_phase", "confidence_low"),
}
"""Parameters that in a phase must not be under another one; both stand before them."""


class CostAware(MethodParameters):
    """A tree that grows while expected tokens per second rise, by the calibrated cost of every step.

    Its parameters are bounds alone. Source: our own; what a round is worth follows Dinkelbach (1967).
    """

    method = Method.COST_AWARE

    max_nodes: NodeCap = Field(64, description="Most draft nodes verified per round.")
    depth: Size = Field(12, description="Most levels of draft nodes.")
    width: Size = Field(8, description="Most nodes expanded per level.")


class PromptLookup(MethodParameters):
    """A chain without a draft model: what followed the last tokens where they stood before.

    Source: prompt lookup decoding (Saxena 2023).
    """

    method = Method.PROMPT_LOOKUP
    needs_draft = False

    k: Size = Field(description="Draft tokens per round.")
    ngram: int = Field(3, ge=1, le=64, description="Longest n-gram that is looked up, in tokens.")


class HfGenerate(MethodParameters):
    """The target alone in transformers' own loop, `generate`, as a peer of ours in the same table.

    Source: transformers 5.
    """

    method = Method.HF_GENERATE
    needs_draft = False

    cache: Literal["dynamic", "static"] = Field(
        "dynamic", description="Kind of transformers' cache; static is compiled."
    )


class HfAssisted(MethodParameters):
    """Speculation in transformers' own loop, `generate` with an assistant; its cache is always dynamic.

    With scikit-learn installed, transformers adapts a confidence threshold above 0 from round to round.
    Source and defaults: `GenerationConfig` of transformers 5.
    """

    method = Method.HF_ASSISTED

    num_assistant_tokens: Size = Field(20, description="Draft tokens per round, at first.")
    schedule: Literal["constant", "heuristic", "heuristic_transient"] = Field(
        "constant", description="How num_assistant_tokens changes from round to round."
    )
    confidence_threshold: Probability = Field(
        0.4, description="Drafting stops at a token of a lower draft probability; 0 never stops it."
    )


METHODS: Mapping[Method, type[MethodParameters]] = {
    model.method: model for model in MethodParameters.__subclasses__()
}
"""dyna-eval's own methods."""


def needs_draft(method: Method) -> bool:
    """Whether a method drafts with the draft model, as all growth policies of other packages do."""
    return method not in METHODS or METHODS[method].needs_draft


def machine_in_counts(method: Method) -> str | None:
    """Return why a method's tokens per round may differ from machine to machine.

    None where they follow from models, prompts and settings alone, whatever runs them.
    """
    if method is Method.COST_AWARE:
        return "cost_aware grows its trees by what passes were found to cost there"
    if method.is_external:
        return f"'{method}' is the policy of another package, which may decide by what passes cost there"
    return None
