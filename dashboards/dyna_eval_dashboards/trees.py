"""The drawing of a draft tree: where its nodes and edges stand, and how they are said in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dyna_eval.jobs import DraftTree, TreeNode

_LEVEL, _ROW, _MARGIN, _TEXT = 150.0, 24.0, 24.0, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnNode:
    """A node in the units of its drawing. `kind`: root, accepted, verified, pruned or bonus."""

    x: float
    y: float
    kind: str
    text: str
    probability: float | None
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    x: float
    y: float
    to_x: float
    to_y: float
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """A node in words, with those below it."""

    words: str
    kind: str
    children: tuple[Outline, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    nodes: tuple[DrawnNode, ...]
    edges: tuple[Edge, ...]
    outline: Outline
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
    children = _children(tree.nodes)
    heights = _heights(tree, children)
    depths = _depths(tree.nodes)
    end = max(index for index, node in enumerate(tree.nodes) if node.accepted)
    places = {index: (_MARGIN + depths[index] * _LEVEL, _MARGIN + heights[index] * _ROW) for index in heights}
    nodes = [
        _drawn(node, places[index], index == 0) for index, node in enumerate(tree.nodes) if index in places
    ]
    edges = [
        _edge(places[node.parent], places[index], _kind(node, is_root=False))
        for index, node in enumerate(tree.nodes)
        if node.parent >= 0
    ]
    if tree.bonus is not None:
        place = (places[end][0] + _LEVEL, _MARGIN + heights[-1] * _ROW)
        title = f"{visible(tree.bonus_text)}, token {tree.bonus}: the target's own, the bonus token"
        nodes.append(
            DrawnNode(
                x=place[0],
                y=place[1],
                kind="bonus",
                text=visible(tree.bonus_text),
                probability=None,
                title=title,
            )
        )
        edges.append(_edge(places[end], place, "bonus"))
    return Drawing(
        nodes=tuple(nodes),
        edges=tuple(edges),
        outline=_outline(tree, 0, children, end),
        width=max(node.x for node in nodes) + _LEVEL,
        height=max(node.y for node in nodes) + _MARGIN,
        accepted=sum(node.accepted for node in tree.nodes) - 1,
        pruned=sum(not node.verified for node in tree.nodes),
    )


def _children(nodes: Sequence[TreeNode]) -> Mapping[int, list[int]]:
    """Return each node's children: accepted ones first, pruned ones last, likelier ones before others."""
    found: defaultdict[int, list[int]] = defaultdict(list)
    for index, node in enumerate(nodes):
        if node.parent >= 0:
            found[node.parent].append(index)
    for own in found.values():
        own.sort(key=lambda i: (not nodes[i].accepted, not nodes[i].verified, -nodes[i].probability))
    return found


def _depths(nodes: Sequence[TreeNode]) -> list[int]:
    depths: list[int] = []
    for node in nodes:
        depths.append(depths[node.parent] + 1 if node.parent >= 0 else 0)
    return depths


def _heights(tree: DraftTree, children: Mapping[int, list[int]]) -> dict[int, float]:
    """Return each node's row: that of its first child; leaves follow each other. -1 is the bonus token."""
    end = max(index for index, node in enumerate(tree.nodes) if node.accepted)
    rows: dict[int, float] = {}
    free = 0

    def place(index: int) -> float:
        nonlocal free
        own = ([-1] if index == end and tree.bonus is not None else []) + children.get(index, [])
        if not own:
            rows[index] = float(free)
            free += 1
        else:
            below = [place(child) if child >= 0 else place_bonus() for child in own]
            rows[index] = below[0]
        return rows[index]

    def place_bonus() -> float:
        nonlocal free
        rows[-1] = float(free)
        free += 1
        return rows[-1]

    place(0)
    return rows


def _kind(node: TreeNode, *, is_root: bool) -> str:
    if is_root:
        return "root"
    return "accepted" if node.accepted else "verified" if node.verified else "pruned"


def _drawn(node: TreeNode, place: tuple[float, float], is_root: bool) -> DrawnNode:
    return DrawnNode(
        x=place[0],
        y=place[1],
        kind=_kind(node, is_root=is_root),
        text=visible(node.text),
        probability=None if is_root else node.probability,
        title=_words(node, is_root=is_root),
    )


def _edge(start: tuple[float, float], end: tuple[float, float], kind: str) -> Edge:
    return Edge(x=start[0], y=start[1], to_x=end[0], to_y=end[1], kind=kind)


def _words(node: TreeNode, *, is_root: bool) -> str:
    if is_root:
        return f"{visible(node.text)}, token {node.token}: the pending token"
    likely = f"probability {node.probability:.3f}, of the whole path {node.joint:.3f}"
    return f"{visible(node.text)}, token {node.token}: {_kind(node, is_root=False)}, {likely}"


def _outline(tree: DraftTree, index: int, children: Mapping[int, list[int]], end: int) -> Outline:
    node = tree.nodes[index]
    below = tuple(_outline(tree, child, children, end) for child in children.get(index, []))
    if index == end and tree.bonus is not None:
        words = f"{visible(tree.bonus_text)}, token {tree.bonus}: the bonus token, the target's own"
        below = (Outline(words=words, kind="bonus", children=()), *below)
    return Outline(
        words=_words(node, is_root=index == 0), kind=_kind(node, is_root=index == 0), children=below
    )
