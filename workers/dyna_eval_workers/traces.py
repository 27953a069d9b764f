"""The draft trees of rounds that are kept to be looked at.

In the loop only references are taken; the tree is built from them after the measured time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dyna_eval.measurements import DraftTree, TreeNode
from dyna_eval_workers.growth import Candidates, Selection
from dyna_eval_workers.tree import ROOT, Tree

MAX_KEPT_NODES = 512
"""Nodes kept of one tree; of a larger one the accepted path and what was grown first."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What the loop keeps of a round.

    grown: the tree before any reranking; verified: its nodes that the target saw, None for all; levels: the
    candidates of each level and which were selected; choices: the target's token after every verified node;
    path: the accepted nodes among the verified ones, root first; emitted: tokens that count.
    """

    grown: Tree
    verified: Sequence[int] | None
    levels: Sequence[tuple[Candidates, Selection]]
    choices: Sequence[int]
    path: Sequence[int]
    emitted: int


@dataclass(frozen=True, slots=True)
class _Node:
    token: int
    parent: int
    joint: float
    verified: bool
    accepted: bool


def draft_tree(trace: Trace, text_of: Callable[[int], str]) -> DraftTree:
    """Build the tree of a round, pruned nodes included; `text_of` gives a token's text."""
    nodes = _nodes(trace)
    kept = _kept(nodes)
    position_of = {index: position for position, index in enumerate(kept)}
    bonus = trace.choices[trace.path[-1]] if trace.emitted == len(trace.path) else None
    return DraftTree(
        nodes=tuple(
            TreeNode(
                token=nodes[index].token,
                text=text_of(nodes[index].token),
                parent=position_of.get(nodes[index].parent, -1),
                probability=_probability(nodes, index),
                joint=_chance(nodes[index].joint),
                verified=nodes[index].verified,
                accepted=nodes[index].accepted,
            )
            for index in kept
        ),
        bonus=bonus,
        bonus_text="" if bonus is None else text_of(bonus),
        omitted=len(nodes) - len(kept),
    )


def _nodes(trace: Trace) -> list[_Node]:
    """List what grew, then what no level took: a parent always stands before its children."""
    tree = trace.grown
    verified = list(range(len(tree)) if trace.verified is None else trace.verified)
    accepted = {verified[node] for node in trace.path[: trace.emitted + 1]}
    seen = set(verified)
    nodes = [
        _Node(tree.token[i], tree.parent[i], tree.log_probability[i], i in seen, i in accepted)
        for i in range(len(tree))
    ]
    for candidates, selection in trace.levels:
        taken = set(selection.kept)
        nodes += [
            _Node(candidates.token[i], candidates.parent[i], candidates.log_probability[i], False, False)
            for i in range(len(candidates))
            if i not in taken
        ]
    return nodes


def _kept(nodes: Sequence[_Node]) -> list[int]:
    if len(nodes) <= MAX_KEPT_NODES:
        return list(range(len(nodes)))
    path = {index for index, node in enumerate(nodes) if node.accepted}
    others = [index for index in range(len(nodes)) if index not in path]
    chosen = path | set(others[: MAX_KEPT_NODES - len(path)])
    return [index for index in sorted(chosen) if index == ROOT or nodes[index].parent in chosen]


def _probability(nodes: Sequence[_Node], index: int) -> float:
    node = nodes[index]
    return 1.0 if index == ROOT else _chance(min(0.0, node.joint - nodes[node.parent].joint))


def _chance(log_probability: float) -> float:
    """Return a probability; 0 for one that is not a number, as a draft's may be that overflows."""
    return 0.0 if math.isnan(log_probability) else math.exp(log_probability)
