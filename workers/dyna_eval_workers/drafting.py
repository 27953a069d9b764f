"""How each method drafts: by a growth policy with the draft model, or by lookup in the text so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from dyna_eval import methods
from dyna_eval.jobs import Configuration, Method, Params
from dyna_eval.measurements import Calibration
from dyna_eval_workers.growth import GrowthPolicy
from dyna_eval_workers.growth.cost_aware import CostAware
from dyna_eval_workers.growth.trees import BestFirst, DynaTree, StaticTree, TopBranches
from dyna_eval_workers.tree import Tree


@dataclass(kw_only=True)
class PromptLookup:
    """Draft what followed an earlier occurrence of the last n-gram, the longest that occurred before.

    The latest occurrence that `k` tokens follow is taken: in a repetitive text hardly any follow the latest
    one of all. Where none has as many, it is the earliest, which has most.

    The text is kept as a string, a character per token, where a search takes about a nanosecond per token.

    Source: prompt lookup decoding (Saxena 2023).
    """

    k: int
    ngram: int

    _text: str = field(init=False, compare=False, default="")

    max_branch: ClassVar[int] = 0
    """Of the draft model, which is not asked."""

    @property
    def max_rows(self) -> int:
        """Return how many uncommitted cache rows a round may write."""
        return self.k

    def reset(self) -> None:
        """Forget the text, as a new prompt starts."""
        self._text = ""

    def learn(self, tree: Tree, path: Sequence[int]) -> None:
        """Do nothing: drafts depend on the text so far alone."""

    def propose(self, tokens: Sequence[int], limit: int) -> list[int]:
        """Return at most `k` and at most `limit` draft tokens; until `reset`, `tokens` only grows."""
        self._text += "".join(map(chr, tokens[len(self._text) :]))  # no vocabulary has a million ids
        wanted = min(self.k, limit)
        last_end = max(len(tokens) - wanted, 0)  # of an occurrence that `wanted` tokens follow
        for size in range(min(self.ngram, len(tokens) - 1), 0, -1):
            tail = self._text[-size:]
            start = self._text.rfind(tail, 0, last_end)
            if start < 0:
                start = self._text.find(tail, max(last_end - size, 0), -1)
            if start >= 0:
                return list(tokens[start + size : start + size + wanted])
        return []


Drafting = GrowthPolicy | PromptLookup
"""How a speculative method drafts."""


def drafting_for(configuration: Configuration, calibration: Calibration | None = None) -> Drafting | None:
    """Return how a configuration drafts; None for AR, which does not."""
    make = _DRAFTING.get(configuration.method)
    return None if make is None else make(configuration.params, calibration)


def _linear(params: Params, _: Calibration | None) -> TopBranches:
    k = _integer(params, "k")
    return TopBranches(depth=k, branches=1, root_branches=1, threshold=0.0, max_nodes=k)


def _tree(params: Params, _: Calibration | None) -> TopBranches:
    return TopBranches(
        depth=_integer(params, "depth"),
        branches=_integer(params, "branch"),
        root_branches=_integer(params, "root_branch"),
        threshold=_number(params, "threshold"),
        max_nodes=_integer(params, "max_nodes"),
        drop_pruned=params["prune"] == "node",
    )


def _static_tree(params: Params, _: Calibration | None) -> StaticTree:
    return StaticTree(methods.StaticTree.model_validate(dict(params)).topology)


def _best_first(params: Params, _: Calibration | None) -> BestFirst:
    return BestFirst(**{name: _integer(params, name) for name in ("depth", "width", "max_nodes")})


def _cost_aware(params: Params, calibration: Calibration | None) -> CostAware:
    if calibration is None:
        raise ValueError("a cost-aware tree needs a calibration")
    bounds: dict[str, Any] = {name: _integer(params, name) for name in ("depth", "width", "max_nodes")}
    return CostAware(**bounds, calibration=calibration)


def _prompt_lookup(params: Params, _: Calibration | None) -> PromptLookup:
    return PromptLookup(k=_integer(params, "k"), ngram=_integer(params, "ngram"))


def _dynatree(params: Params, _: Calibration | None) -> DynaTree:
    counts = ("max_depth", "branch_min", "branch_mid", "branch_max", "history_window", "max_nodes")
    shares = (
        "confidence_high",
        "confidence_low",
        "stop_probability",
        "deep_probability",
        "history_target",
        "history_step",
    )
    phases = ("branch_phase", "depth_phase", "history_phase")
    settings: dict[str, Any] = {name: _integer(params, name) for name in counts}
    settings |= {name: _number(params, name) for name in shares}
    settings |= {name: bool(params[name]) for name in phases}
    return DynaTree(depth_target=_integer(params, "depth"), **settings)


def _integer(params: Params, name: str) -> int:
    value = params[name]
    if not isinstance(value, int):
        raise TypeError(f"parameter {name} must be resolved to an integer, not {value!r}")
    return value


def _number(params: Params, name: str) -> float:
    value = params[name]
    if not isinstance(value, int | float):
        raise TypeError(f"parameter {name} must be resolved to a number, not {value!r}")
    return float(value)


_DRAFTING: dict[Method, Callable[[Params, Calibration | None], Drafting]] = {
    Method.LINEAR: _linear,
    Method.TREE: _tree,
    Method.STATIC_TREE: _static_tree,
    Method.BEST_FIRST: _best_first,
    Method.DYNATREE: _dynatree,
    Method.COST_AWARE: _cost_aware,
    Method.PROMPT_LOOKUP: _prompt_lookup,
}
