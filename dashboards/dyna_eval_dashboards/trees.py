"""The drawing of a draft tree: where its nodes and edges stand, and how they are said in words.

Nothing here calls itself: a chain of a thousand tokens is a tree of a thousand levels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dyna_eval.measurements import DraftTree

_LEVEL, _ROW, _MARGIN, _TEXT = 150.0, 24.0, 24.0, 16
_ROOT, _BONUS = 0, -1
"""Indices of the pending token, and of the target's own one, which is no node of the tree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnNode:
    """A node in the units of its drawing. `kind`: root, accepted, verified, pruned or bonus."""

    x: float
    y: float
    depth: int
    kind: str
    text: str
    probability: float | None
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    x: float
    y: float
    to_x: float
    to_y: float
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """Nodes stand before those below them; an edge for each but the root, in their order."""

    nodes: tuple[DrawnNode, ...]
    edges: tuple[Edge, ...]
    width: float
    height: float
    accepted: int
    pruned: int


def visible(token: str) -> str:
    """Return a token's text with its spaces and line breaks to be seen, cut to what fits."""
    shown = token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥").replace("\r", "␍")
    shown = "".join(character if character.isprintable() else "�" for character in shown) or "∅"
    return shown if len(shown) <= _TEXT else shown[: _TEXT - 1] + "…"


def draw(tree: DraftTree) -> Drawing:
    """Lay a tree out from left to right: a level per draft step, the accepted path on top of its siblings."""
    below = _below(tree)
    depths = _depths(below)
    rows = _rows(list(depths), below)
    nodes = {index: _drawn(tree, index, depth=depths[index], row=rows[index]) for index in depths}
    edges = {child: _edge(nodes[parent], nodes[child]) for parent in below for child in below[parent]}
    return Drawing(
        nodes=tuple(nodes.values()),
        edges=tuple(edges[index] for index in nodes if index in edges),
        width=max(node.x for node in nodes.values()) + _LEVEL,
        height=max(node.y for node in nodes.values()) + _MARGIN,
        accepted=sum(node.accepted for node in tree.nodes) - 1,
        pruned=sum(not node.verified for node in tree.nodes),
    )


def _below(tree: DraftTree) -> Mapping[int, list[int]]:
    """Return what follows each node: the bonus token or the accepted node first, pruned ones last, likelier
    ones before others."""
    nodes = tree.nodes
    found: defaultdict[int, list[int]] = defaultdict(list)
    for index, node in enumerate(nodes):
        if node.parent >= 0:
            found[node.parent].append(index)
    for own in found.values():
        own.sort(key=lambda i: (not nodes[i].accepted, not nodes[i].verified, -nodes[i].probability))
    if tree.bonus is not None:
        end = max(index for index, node in enumerate(nodes) if node.accepted)
        found[end].insert(0, _BONUS)
    return found


def _depths(below: Mapping[int, list[int]]) -> dict[int, int]:
    """Return each node's depth; the keys are in the order of reading, a node before those below it."""
    depths, waiting = {}, [(_ROOT, 0)]
    while waiting:
        index, depth = waiting.pop()
        depths[index] = depth
        waiting += [(child, depth + 1) for child in reversed(below.get(index, []))]
    return depths


def _rows(order: Sequence[int], below: Mapping[int, list[int]]) -> dict[int, int]:
    """Return each node's row: that of the first node below it; those that end a path follow each other."""
    ends = [index for index in order if not below.get(index)]
    rows = {index: row for row, index in enumerate(ends)}
    for index in reversed(order):
        if index not in rows:
            rows[index] = rows[below[index][0]]
    return rows


def _drawn(tree: DraftTree, index: int, *, depth: int, row: int) -> DrawnNode:
    kind = _kind(tree, index)
    return DrawnNode(
        x=_MARGIN + depth * _LEVEL,
        y=_MARGIN + row * _ROW,
        depth=depth,
        kind=kind,
        text=visible(tree.bonus_text if index == _BONUS else tree.nodes[index].text),
        probability=None if index in (_ROOT, _BONUS) else tree.nodes[index].probability,
        words=_words(tree, index, kind),
    )


def _kind(tree: DraftTree, index: int) -> str:
    if index in (_ROOT, _BONUS):
        return "root" if index == _ROOT else "bonus"
    node = tree.nodes[index]
    return "accepted" if node.accepted else "verified" if node.verified else "pruned"


def _words(tree: DraftTree, index: int, kind: str) -> str:
    if index == _BONUS:
        return f"{visible(tree.bonus_text)}, token {tree.bonus}: the bonus token, the target's own"
    node = tree.nodes[index]
    said = f"{visible(node.text)}, token {node.token}"
    if index == _ROOT:
        return f"{said}: the pending token"
    return f"{said}: {kind}, probability {node.probability:.3f}, of the whole path {node.joint:.3f}"


def _edge(start: DrawnNode, end: DrawnNode) -> Edge:
    return Edge(x=start.x, y=start.y, to_x=end.x, to_y=end.y, kind=end.kind)
