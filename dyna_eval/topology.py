"""The shape of a draft tree that is the same in every round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

NodePath = tuple[int, ...]
"""A draft node by the ranks on its path: (0, 1) is the second-best child of the root's best child."""


@dataclass(frozen=True, slots=True)
class Topology:
    """The draft nodes of a tree, ascending by level and then by rank; the parent of each is one of them."""

    nodes: tuple[NodePath, ...]

    @classmethod
    def of_expansion(cls, counts: Sequence[int]) -> Topology:
        """Return the tree whose nodes of level i have `counts[i]` children each; level 0 is the root."""
        level: list[NodePath] = [()]
        nodes: list[NodePath] = []
        for count in counts:
            level = [(*path, rank) for path in level for rank in range(count)]
            nodes += level
        return cls(tuple(nodes))

    @classmethod
    def of_paths(cls, paths: Iterable[NodePath]) -> Topology:
        """Return the tree of these nodes. Raises ValueError where one stands twice or lacks its parent."""
        given = list(paths)
        known = {(), *given}
        for path in given:
            if path[:-1] not in known:
                raise ValueError(f"has node {written(path)} without its parent; add {written(path[:-1])}")
        if len(known) <= len(given):
            twice = next(path for path in given if given.count(path) > 1)
            raise ValueError(f"has node {written(twice)} twice")
        return cls(tuple(sorted(given, key=lambda path: (len(path), path))))

    @property
    def levels(self) -> int:
        return len(self.nodes[-1]) if self.nodes else 0

    @property
    def text(self) -> str:
        """The nodes as a sweep file may write them: `0 1 0.0 0.1`."""
        return " ".join(map(written, self.nodes))

    @property
    def expansion(self) -> tuple[int, ...] | None:
        """How many children all nodes of each level have, from the root on; None where they differ."""
        sizes = [0] * self.levels
        widest = [0] * self.levels
        for path in self.nodes:
            sizes[len(path) - 1] += 1
            widest[len(path) - 1] = max(widest[len(path) - 1], path[-1] + 1)
        return tuple(widest) if list(accumulate(widest, mul)) == sizes else None


def written(path: NodePath) -> str:
    return ".".join(map(str, path))


def expansion_size(counts: Sequence[int]) -> int:
    """Return how many draft nodes `Topology.of_expansion` would make."""
    return sum(accumulate(counts, mul))
