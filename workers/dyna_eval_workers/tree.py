"""A draft tree as flat lists, and the target's walk through it.

The tree lives on the host: a policy decides level by level what grows, so the draft's candidates have to come
to the host anyway, and lists of some dozens of nodes are handled there faster than tensors on any device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

ROOT = 0
NOT_FED = -1


@dataclass(slots=True)
class Tree:
    """A growing draft tree. Node 0 is the pending token: committed, but not yet seen by the target.

    Parallel lists, an entry per node. A node's `parent` has a smaller index; the root's is -1.
    `log_probability` is the draft's joint log-probability of the path from the root. `row` is the node's
    uncommitted row in the draft's cache, or NOT_FED where the draft did not read the node.
    """

    token: list[int]
    parent: list[int] = field(default_factory=lambda: [-1])
    depth: list[int] = field(default_factory=lambda: [0])
    log_probability: list[float] = field(default_factory=lambda: [0.0])
    row: list[int] = field(default_factory=lambda: [NOT_FED])
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    @classmethod
    def with_root(cls, token: int) -> Tree:
        """Return a tree of the pending token alone."""
        return cls([token])

    def __len__(self) -> int:
        return len(self.token)

    @property
    def levels(self) -> int:
        return max(self.depth)

    def add(self, parent: int, token: int, log_probability: float) -> int:
        """Append a child, whose token none of its siblings has, and return its index."""
        node = len(self.token)
        self.token.append(token)
        self.parent.append(parent)
        self.depth.append(self.depth[parent] + 1)
        self.log_probability.append(log_probability)
        self.row.append(NOT_FED)
        self._children[parent, token] = node
        return node

    def subset(self, nodes: Sequence[int]) -> Tree:
        """Return the tree of these nodes, which are ascending: the root, and others each with its parent."""
        smaller = Tree.with_root(self.token[ROOT])
        new_index = {ROOT: ROOT}
        for node in nodes[1:]:
            new_index[node] = smaller.add(
                new_index[self.parent[node]], self.token[node], self.log_probability[node]
            )
            smaller.row[-1] = self.row[node]
        return smaller

    def walk(self, choices: Sequence[int]) -> list[int]:
        """Follow the target's choices from the root and return the accepted path, root first.

        `choices` holds the target's token after every node, (len(tree),). The choices along the path are the
        accepted tokens and, last, the bonus token. Source: SpecInfer (Miao et al. 2024), section 4.
        """
        path = [ROOT]
        while (child := self._children.get((path[-1], choices[path[-1]]))) is not None:
            path.append(child)
        return path
