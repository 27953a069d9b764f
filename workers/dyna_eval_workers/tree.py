"""A draft tree as flat arrays in breadth-first order, and the target's walk through it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class Tree:
    """A growing draft tree. Node 0 is the pending token: committed, but not yet seen by the target.

    Shapes, with capacity C and `size` nodes in use:
    token, parent, depth are (C,) int64; log_probability is (C,) float32, the draft's joint log-probability
    of the path from the root; ancestors is (C, C) bool, row i marks node i and every node above it.
    """

    token: Tensor
    parent: Tensor
    depth: Tensor
    log_probability: Tensor
    ancestors: Tensor
    size: int = 0
    levels: int = 0

    @classmethod
    def allocate(cls, capacity: int, device: torch.device) -> Tree:
        return cls(
            token=torch.zeros(capacity, dtype=torch.long, device=device),
            parent=torch.zeros(capacity, dtype=torch.long, device=device),
            depth=torch.zeros(capacity, dtype=torch.long, device=device),
            log_probability=torch.zeros(capacity, device=device),
            ancestors=torch.zeros(capacity, capacity, dtype=torch.bool, device=device),
        )

    def plant(self, token: int) -> None:
        """Start over with the pending token as the root."""
        self.token[0] = token
        self.ancestors[0, 0] = True
        self.size, self.levels = 1, 0

    def add_level(self, token: Tensor, parent: Tensor, log_probability: Tensor) -> Tensor:
        """Append one level below its parents; all shapes (L,). Returns the new nodes' indices."""
        start, end = self.size, self.size + token.shape[0]
        self.levels += 1
        self.token[start:end] = token
        self.parent[start:end] = parent
        self.depth[start:end] = self.levels
        self.log_probability[start:end] = log_probability
        self.ancestors[start:end] = self.ancestors[parent]
        nodes = torch.arange(start, end, device=token.device)
        self.ancestors[nodes, nodes] = True
        self.size = end
        return nodes

    @property
    def is_chain(self) -> bool:
        return self.size == self.levels + 1


def walk(tree: Tree, choices: Tensor) -> Tensor:
    """Follow the target's choices from the root and return the accepted path.

    A node is accepted if it and all nodes above it are what the target chose at their parents. Siblings
    hold different tokens, so the accepted nodes form one path, and breadth-first order lists it root first.

    Shapes: choices is (N,), the target's token after every node; the result is (A + 1,) node indices.
    `choices[path]` are the A accepted tokens and the bonus token.
    Source: SpecInfer (Miao et al. 2024), section 4.
    """
    size = tree.size
    agrees = tree.token[:size] == choices[tree.parent[:size]]
    agrees[0] = True
    refused_above = (tree.ancestors[:size, :size] & ~agrees).any(dim=1)
    return (~refused_above).nonzero().squeeze(1)
