"""Growth policies: which of the draft's candidates join the tree, and which of them get children.

A policy is asked once per level, and once more when the tree is grown. It only shapes the prediction: the
target decides every token, so any policy is lossless. What a policy learns while it decodes is forgotten at
the next prompt, so a result does not depend on the order of the prompts.

This is the interface, also for policies of other packages; dyna-eval's own are in `trees` and `cost_aware`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from dyna_eval_workers.tree import Tree


@dataclass(frozen=True, slots=True)
class Selection:
    """Which candidates of a level to use.

    kept: indices of those that join the tree, ascending; grows: which of these get children; capped: whether
    the node cap left one out, or will keep one from being verified.
    """

    kept: Sequence[int]
    grows: Sequence[bool]
    capped: bool = False


@dataclass(frozen=True, slots=True)
class Candidates:
    """The draft's proposals for the next level, best first under each parent: parallel lists.

    `log_probability` is joint, of the path from the root; `rank` the place among the parent's proposals, from
    0; `confidence` the draft's probability of the parent's best proposal.
    """

    parent: list[int]
    token: list[int]
    log_probability: list[float]
    rank: list[int]
    confidence: list[float]

    def __len__(self) -> int:
        return len(self.token)


class GrowthPolicy(ABC):
    """How a tree grows. The attributes are the bounds: draft nodes per tree, and levels.

    A policy that `reranks` chooses what to verify from all that grew; its cap stops no growth.
    """

    max_nodes: int
    depth: int
    reranks: ClassVar[bool] = False
    needs_draft: ClassVar[bool] = True
    """Whether a draft model proposes the tokens."""

    @property
    def most_rows(self) -> int:
        """Return how many rows a round may write behind the committed ones, in either cache."""
        return self.max_nodes

    def begin(self) -> None:  # noqa: B027  # most learn nothing
        """Forget what was learnt: a new prompt starts."""

    @abstractmethod
    def branch(self, level: int) -> int:
        """Return how many children to propose for each open node; level 1 is the root's children."""

    @abstractmethod
    def select(self, candidates: Candidates, level: int, tree: Tree) -> Selection:
        """Choose among the candidates of a level."""

    def finish(self, tree: Tree) -> Sequence[int]:
        """Return the nodes to verify, ascending and with their parents."""
        return range(len(tree))

    def learn(self, tree: Tree, path: Sequence[int]) -> None:  # noqa: B027  # most learn nothing
        """Hear which path of a verified tree was accepted, from the root."""


def best(nodes: Sequence[int], likelihood: Sequence[float], count: int) -> list[int]:
    """Return the `count` likeliest of ascending nodes, ascending; of equals the first: parents come along."""
    return sorted(sorted(nodes, key=likelihood.__getitem__, reverse=True)[:count])
