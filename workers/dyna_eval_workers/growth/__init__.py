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

    kept: indices of those that join the tree, ascending; grows: for each of these, whether it is to be
    expanded; capped: whether the node cap left one out, or will keep one from being verified.
    """

    kept: Sequence[int]
    grows: Sequence[bool]
    capped: bool = False


@dataclass(frozen=True, slots=True)
class Candidates:
    """The draft's proposals for the next level, best first under each parent: parallel lists.

    `parent` is a node of the tree; `log_probability` is joint, of the path from the root; `rank` counts
    siblings from 0; `confidence` is the draft's probability of the best sibling. When sampling these are of
    the softmax of logits / T plus the noise that the target samples with, of which a threshold keeps other
    nodes than at T = 0.
    """

    parent: list[int]
    token: list[int]
    log_probability: list[float]
    rank: list[int]
    confidence: list[float]

    def __len__(self) -> int:
        return len(self.token)


class GrowthPolicy(ABC):
    """How a tree grows: which proposals join it, and which nodes are expanded.

    A policy that `reranks` chooses the nodes to verify among all that grew; `max_nodes` then bounds what is
    verified, not what grows.
    """

    max_nodes: int
    """Most draft nodes of a verified tree; the pending token is not one of them."""
    depth: int
    """Most levels of draft nodes."""
    reranks: ClassVar[bool] = False

    @property
    def max_rows(self) -> int:
        """Return how many uncommitted cache rows a round may write, in either cache."""
        return self.max_nodes

    @property
    def max_branch(self) -> int:
        """Return the most children that are proposed for a node."""
        return max((self.branch(level) for level in range(1, self.depth + 1)), default=1)

    def reset(self) -> None:  # noqa: B027  # most learn nothing
        """Forget what was learnt, as a new prompt starts."""

    @abstractmethod
    def branch(self, level: int) -> int:
        """Return how many children to propose for each expanded node; level 1 is the root's children."""

    @abstractmethod
    def select(self, candidates: Candidates, level: int, tree: Tree) -> Selection:
        """Choose among the candidates of a level; `tree` holds the levels before it."""

    def rerank(self, tree: Tree) -> Sequence[int]:
        """Return the nodes to verify: the root and others, ascending, each with its parent."""
        return range(len(tree))

    def learn(self, tree: Tree, path: Sequence[int]) -> None:  # noqa: B027  # most learn nothing
        """Take note of the accepted path of a verified tree: its nodes, root first."""


def top_nodes(nodes: Sequence[int], likelihood: Sequence[float], count: int) -> list[int]:
    """Return the `count` likeliest of ascending nodes, ascending.

    Of equals the first are taken. So where no node is likelier than its parent, they form a tree.
    """
    return sorted(sorted(nodes, key=likelihood.__getitem__, reverse=True)[:count])
