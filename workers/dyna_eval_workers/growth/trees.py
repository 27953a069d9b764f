"""Trees by the draft's probabilities: top-k with a threshold, of a fixed shape, best-first, and DynaTree."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from dyna_eval.topology import NodePath, Topology
from dyna_eval_workers.growth import Candidates, GrowthPolicy, Selection, top_nodes
from dyna_eval_workers.tree import ROOT, Tree


@dataclass(frozen=True, kw_only=True)
class TopBranches(GrowthPolicy):
    """The top `branches` children of every node, pruned by a threshold on the joint probability.

    With `drop_pruned`, a node below the threshold does not join the tree; without, it is a leaf (the rule of
    DynaTree's own implementation). A linear chain is the case branches = 1, threshold = 0.
    """

    depth: int
    branches: int
    root_branches: int
    threshold: float
    max_nodes: int
    drop_pruned: bool = True

    def branch(self, level: int) -> int:
        return self.root_branches if level == 1 else self.branches

    def select(self, candidates: Candidates, level: int, tree: Tree) -> Selection:
        joint = candidates.log_probability
        kept: Sequence[int] = range(len(candidates))
        likely = [True] * len(candidates)
        if self.threshold > 0:
            bound = math.log(self.threshold)
            likely = [value >= bound for value in joint]
            if self.drop_pruned:
                kept = [index for index in kept if likely[index]]
        kept, capped = _capped(kept, joint, self.max_nodes + 1 - len(tree))
        return Selection(kept, [likely[index] for index in kept], capped)


def _capped(kept: Sequence[int], joint: Sequence[float], room: int) -> tuple[Sequence[int], bool]:
    """Return the likeliest `room` candidates, and whether that left some out."""
    if len(kept) <= room:
        return kept, False
    return top_nodes(kept, joint, room), True


class StaticTree(GrowthPolicy):
    """The same tree in every round: which of the draft's proposals join it, their ranks alone decide."""

    def __init__(self, topology: Topology) -> None:
        self.max_nodes, self.depth = len(topology.nodes), topology.levels
        parents = {path[:-1] for path in topology.nodes}
        self._expanded = {path: path in parents for path in topology.nodes}
        self._branches = [0] * topology.levels
        for path in topology.nodes:
            self._branches[len(path) - 1] = max(self._branches[len(path) - 1], path[-1] + 1)
        self._paths: list[NodePath] = []
        """Of every node of the growing tree."""

    def branch(self, level: int) -> int:
        return self._branches[level - 1]

    def select(self, candidates: Candidates, level: int, tree: Tree) -> Selection:
        if level == 1:
            self._paths = [()]
        paths = [
            (*self._paths[parent], rank)
            for parent, rank in zip(candidates.parent, candidates.rank, strict=True)
        ]
        kept = [index for index, path in enumerate(paths) if path in self._expanded]
        self._paths += [paths[index] for index in kept]
        return Selection(kept, [self._expanded[paths[index]] for index in kept])


@dataclass(frozen=True, kw_only=True)
class BestFirst(GrowthPolicy):
    """Expand the `width` likeliest nodes of every level, then verify the `max_nodes` likeliest of all.

    Source: EAGLE-2 (Li et al. 2024), sections 4.1 and 4.2.
    """

    depth: int
    width: int
    max_nodes: int
    reranks: ClassVar[bool] = True

    @property
    def max_rows(self) -> int:
        return max(self.max_nodes, self.depth * self.width)

    def branch(self, level: int) -> int:
        return self.width

    def select(self, candidates: Candidates, level: int, tree: Tree) -> Selection:
        kept = range(len(candidates))
        chosen = set(top_nodes(kept, candidates.log_probability, self.width))
        return Selection(kept, [index in chosen for index in kept])

    def rerank(self, tree: Tree) -> Sequence[int]:
        return [ROOT, *top_nodes(range(1, len(tree)), tree.log_probability, self.max_nodes)]


@dataclass(kw_only=True)
class DynaTree(GrowthPolicy):
    """DynaTree's three phases, each of which can be switched off.

    1. Branching: a node gets few children where the draft is confident of the best one, else many.
    2. Depth: a path whose joint probability is under `stop_probability` ends; one that is still at least
       `deep_probability` at `depth` goes on, down to `max_depth`.
    3. History: the share of drafted levels that was accepted over the last `history_window` rounds moves both
       confidences by `history_step` per round: more branches where it is under `history_target`, fewer above.
    """

    depth_target: int
    max_depth: int
    branch_min: int
    branch_mid: int
    branch_max: int
    confidence_high: float
    confidence_low: float
    stop_probability: float
    deep_probability: float
    history_window: int
    history_target: float
    history_step: float
    max_nodes: int
    branch_phase: bool
    depth_phase: bool
    history_phase: bool
    _shift: float = 0.0
    _history: deque[float] = field(default_factory=deque)

    @property
    def depth(self) -> int:  # type: ignore[override]  # read-only here
        return self.max_depth if self.depth_phase else self.depth_target

    def reset(self) -> None:
        self._shift = 0.0
        self._history = deque(maxlen=self.history_window)

    def branch(self, level: int) -> int:
        return self.branch_max if self.branch_phase else self.branch_mid

    def select(self, candidates: Candidates, level: int, tree: Tree) -> Selection:
        joint = candidates.log_probability
        kept: Sequence[int] = [
            index
            for index in range(len(candidates))
            if candidates.rank[index] < self._children(candidates.confidence[index])
        ]
        if self.depth_phase and self.stop_probability > 0:
            bound = math.log(self.stop_probability)
            kept = [index for index in kept if joint[index] >= bound]
        kept, capped = _capped(kept, joint, self.max_nodes + 1 - len(tree))
        bound = math.log(self.deep_probability) if self.deep_probability > 0 else -math.inf
        deeper = level < self.depth_target
        return Selection(kept, [deeper or joint[index] >= bound for index in kept], capped)

    def learn(self, tree: Tree, path: Sequence[int]) -> None:
        if not self.history_phase or tree.levels == 0:
            return
        self._history.append((len(path) - 1) / tree.levels)
        below_target = sum(self._history) / len(self._history) < self.history_target
        self._shift += self.history_step if below_target else -self.history_step
        self._shift = min(max(self._shift, -self.confidence_low), 1.0 - self.confidence_high)

    def _children(self, confidence: float) -> int:
        """Return how many children a node gets; a higher shift asks for more confidence to give it fewer."""
        if not self.branch_phase:
            return self.branch_mid
        if confidence >= self.confidence_high + self._shift:
            return self.branch_min
        return self.branch_mid if confidence >= self.confidence_low + self._shift else self.branch_max
