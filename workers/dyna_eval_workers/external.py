"""Growth policies of other packages at work: their answers are checked before the loop acts on them.

The kernels do not check sizes and parents, so a wrong policy must fail its job here, and not write out of the
cache's bounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dyna_eval.errors import PolicyError
from dyna_eval.jobs import Configuration
from dyna_eval.measurements import Calibration
from dyna_eval.methods import MAX_LEVELS, MAX_NODES
from dyna_eval.policies import PolicyParameters, configured
from dyna_eval_workers.growth import Candidates, GrowthPolicy, Selection
from dyna_eval_workers.tree import ROOT, Tree


def external_policy(configuration: Configuration, calibration: Calibration) -> CheckedPolicy:
    """Make the policy of a configuration whose method another package brings.

    Raises PolicyError where the package is not installed here in the version that the configuration was made
    for, or does not return a `GrowthPolicy`.
    """
    parameters = configured(configuration)
    name = configuration.method.value
    if not isinstance(parameters, PolicyParameters):
        raise PolicyError(f"method {name!r} is no policy of another package")
    made = parameters.policy(calibration)
    if not isinstance(made, GrowthPolicy):
        kind = type(made).__name__
        raise PolicyError(f"method {name!r} made a {kind}, which is no dyna_eval_workers.growth.GrowthPolicy")
    return CheckedPolicy(name, made)


class CheckedPolicy(GrowthPolicy):
    """A policy whose answers are checked against `GrowthPolicy`; PolicyError where one breaks its contract.

    Its bounds are read once: the caches are sized by them.
    """

    def __init__(self, name: str, policy: GrowthPolicy) -> None:
        self._name, self._policy = name, policy
        self.max_nodes = self._integer("max_nodes", policy.max_nodes, 1, MAX_NODES)
        self.depth = self._integer("depth", policy.depth, 0, MAX_LEVELS)
        self._max_rows = self._integer("max_rows", policy.max_rows, self.max_nodes, MAX_NODES * 16)
        self._expanded = 0

    @property
    def reranks(self) -> bool:  # type: ignore[override]  # the policy's own
        return self._policy.reranks

    @property
    def max_rows(self) -> int:
        return self._max_rows

    @property
    def max_branch(self) -> int:
        self.reset()  # no policy is asked before a prompt starts
        return super().max_branch

    def reset(self) -> None:
        self._policy.reset()

    def branch(self, level: int) -> int:
        return self._integer("branch", self._policy.branch(level), 1, MAX_NODES)

    def select(self, candidates: Candidates, level: int, tree: Tree) -> Selection:
        chosen = self._policy.select(candidates, level, tree)
        if len(chosen.kept) != len(chosen.grows):
            self._refuse(
                f"kept {len(chosen.kept)} candidates but says of {len(chosen.grows)} whether they grow"
            )
        self._check_ascending("kept", chosen.kept, len(candidates))
        if not self.reranks and len(tree) - 1 + len(chosen.kept) > self.max_nodes:
            self._refuse(f"kept more than its max_nodes, {self.max_nodes}")
        if level == 1:
            self._expanded = 0
        if level < self.depth:  # the last level's nodes have no children, whatever is said of them
            self._expanded += sum(map(bool, chosen.grows))
        if self._expanded > self._max_rows:
            self._refuse(f"grows more nodes than its max_rows, {self._max_rows}")
        return chosen

    def rerank(self, tree: Tree) -> Sequence[int]:
        nodes = self._policy.rerank(tree)
        self._check_ascending("verified", nodes, len(tree))
        chosen = set(nodes)
        if not nodes or nodes[0] != ROOT or any(tree.parent[node] not in chosen for node in nodes[1:]):
            self._refuse("verified a node without its parent")
        if len(nodes) - 1 > self.max_nodes:
            self._refuse(f"verified more than its max_nodes, {self.max_nodes}")
        return nodes

    def learn(self, tree: Tree, path: Sequence[int]) -> None:
        self._policy.learn(tree, path)

    def _check_ascending(self, what: str, indices: Iterable[int], count: int) -> None:
        before = -1
        for index in indices:
            if not before < index < count:
                self._refuse(f"{what} number {index} of {count}, after {before}; they have to ascend")
            before = index

    def _integer(self, what: str, value: Any, least: int, most: int) -> int:
        if type(value) is not int or not least <= value <= most:
            self._refuse(f"has {what} {value!r}, which should be a whole number from {least} to {most}")
        return int(value)

    def _refuse(self, what: str) -> None:
        raise PolicyError(f"policy {self._name!r} {what}")
