"""The growth policy `min_p`: siblings that are far less likely than the best of them do not join the tree.

The rule is that of min-p sampling (Nguyen et al. 2024), applied to the draft's proposals.
"""

from __future__ import annotations

import math

from dyna_eval_workers.growth import Candidates, GrowthPolicy, Selection, top_nodes
from dyna_eval_workers.tree import Tree
from pydantic import Field

from dyna_eval.measurements import Calibration
from dyna_eval.policies import PolicyParameters


class MinP(PolicyParameters):
    """A node keeps those of its `branch` best children that are about as likely as the best one."""

    depth: int = Field(ge=1, le=64, description="Levels of draft nodes.")
    branch: int = Field(4, ge=1, le=64, description="Most children of a node.")
    min_p: float = Field(0.3, gt=0, le=1, description="Least share of the best sibling's probability.")
    max_nodes: int = Field(64, ge=1, le=4096, description="Most draft nodes per round.")

    def policy(self, calibration: Calibration) -> GrowthPolicy:
        return MinPGrowth(self)


class MinPGrowth(GrowthPolicy):
    def __init__(self, parameters: MinP) -> None:
        self.depth, self.max_nodes = parameters.depth, parameters.max_nodes
        self._branch = parameters.branch
        self._least = math.log(parameters.min_p)

    def branch(self, level: int) -> int:
        return self._branch

    def select(self, candidates: Candidates, level: int, tree: Tree) -> Selection:
        joint = candidates.log_probability
        kept, best_sibling = [], 0.0
        for index, rank in enumerate(candidates.rank):
            if rank == 0:
                best_sibling = joint[index]
            if joint[index] - best_sibling >= self._least:
                kept.append(index)
        room = self.max_nodes + 1 - len(tree)  # the tree's root is not a draft node
        capped = len(kept) > room
        if capped:
            kept = top_nodes(kept, joint, room)
        return Selection(kept, grows=[True] * len(kept), capped=capped)
