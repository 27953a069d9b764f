"""Growth policies: which children of a level join the draft tree, and which of them grow on.

A policy is asked once per level with the joint log-probabilities of all candidate children. It only
shapes the prediction: the target decides every token, so any policy is lossless.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dyna_eval.jobs import Configuration, Method, Params


@dataclass(frozen=True, slots=True)
class Selection:
    """Which candidates of a level to use.

    kept: (L,) indices into the flattened candidates, in breadth-first order; grows: (L,) bool, which of
    them get children; capped: the node cap left a candidate out.
    """

    kept: Tensor
    grows: Tensor
    capped: bool


class GrowthPolicy(Protocol):
    @property
    def depth(self) -> int: ...

    @property
    def max_nodes(self) -> int: ...

    def branch(self, level: int) -> int:
        """Return how many children each open node proposes; level 1 is the root's children."""
        ...

    def select(self, log_probability: Tensor, room: int) -> Selection:
        """Choose among the candidates' joint log-probabilities, (F * branch,), with `room` nodes left."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TopBranches:
    """The top `branch` children of every node, pruned by a threshold on the joint probability.

    With `drop_pruned`, a node under the threshold leaves the tree; without, it stays as a leaf (the rule of
    DynaTree's own implementation). A linear chain is the case branch = 1, threshold = 0.
    """

    depth: int
    branches: int
    root_branches: int
    threshold: float
    max_nodes: int
    drop_pruned: bool = True

    def branch(self, level: int) -> int:
        return self.root_branches if level == 1 else self.branches

    def select(self, log_probability: Tensor, room: int) -> Selection:
        kept = torch.arange(log_probability.shape[0], device=log_probability.device)
        likely = torch.ones_like(kept, dtype=torch.bool)
        if self.threshold > 0:
            likely = log_probability >= math.log(self.threshold)
            if self.drop_pruned:
                kept, likely = kept[likely], likely[likely]
        capped = kept.shape[0] > room
        if capped:
            best = log_probability[kept].topk(room).indices.sort().values
            kept, likely = kept[best], likely[best]
        return Selection(kept=kept, grows=likely, capped=capped)


def policy_for(configuration: Configuration) -> GrowthPolicy | None:
    """Return the growth policy of a configuration; None for AR, which drafts nothing."""
    params = configuration.params
    if configuration.method is Method.AR:
        return None
    if configuration.method is Method.LINEAR:
        k = _integer(params, "k")
        return TopBranches(depth=k, branches=1, root_branches=1, threshold=0.0, max_nodes=k)
    return TopBranches(
        depth=_integer(params, "depth"),
        branches=_integer(params, "branch"),
        root_branches=_integer(params, "root_branch"),
        threshold=float(params["threshold"] or 0.0),
        max_nodes=_integer(params, "max_nodes"),
        drop_pruned=params["prune"] == "node",
    )


def _integer(params: Params, name: str) -> int:
    value = params[name]
    if not isinstance(value, int):
        raise TypeError(f"parameter {name} must be resolved to an integer, not {value!r}")
    return value
