"""A draft tree in flat arrays, and the target's walk through it, against the same done node by node."""

from __future__ import annotations

from itertools import pairwise

import torch
from dyna_eval_workers.tree import Tree, walk
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = 7
TOKENS = 4  # few, so that the target often agrees
CPU = torch.device("cpu")


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """A tree of up to 5 levels in breadth-first order; siblings hold different tokens, as topk gives them."""
    tree = Tree.allocate(40, CPU)
    tree.plant(ROOT)
    frontier = [0]
    for _ in range(draw(st.integers(0, 5))):
        parents, tokens = [], []
        for node in frontier:
            for token in draw(st.lists(st.integers(0, TOKENS - 1), unique=True, max_size=3)):
                parents.append(node)
                tokens.append(token)
        room = 40 - tree.size
        parents, tokens = parents[:room], tokens[:room]
        if not tokens:
            break
        nodes = tree.add_level(torch.tensor(tokens), torch.tensor(parents), torch.zeros(len(tokens)))
        frontier = [node for node in nodes.tolist() if draw(st.booleans())]
    return tree


def walked_node_by_node(tree: Tree, choices: list[int]) -> list[int]:
    path = [0]
    while True:
        here = path[-1]
        children = [node for node in range(1, tree.size) if int(tree.parent[node]) == here]
        agreeing = [node for node in children if int(tree.token[node]) == choices[here]]
        if not agreeing:
            return path
        path.append(agreeing[0])


@settings(deadline=None, max_examples=300)
@given(tree=trees(), data=st.data())
def test_the_walk_is_the_one_taken_node_by_node(tree: Tree, data: st.DataObject) -> None:
    choices = data.draw(st.lists(st.integers(0, TOKENS - 1), min_size=tree.size, max_size=tree.size))
    assert walk(tree, torch.tensor(choices)).tolist() == walked_node_by_node(tree, choices)


@settings(deadline=None, max_examples=200)
@given(tree=trees(), data=st.data())
def test_a_target_that_agrees_with_a_node_all_the_way_reaches_it(tree: Tree, data: st.DataObject) -> None:
    goal = data.draw(st.integers(0, tree.size - 1))
    path = tree.ancestors[goal, : tree.size].nonzero().squeeze(1).tolist()
    choices = torch.full((tree.size,), TOKENS)  # a token that no node holds
    for above, node in pairwise(path):
        choices[above] = tree.token[node]
    assert walk(tree, choices).tolist() == path


@settings(deadline=None, max_examples=200)
@given(tree=trees())
def test_ancestors_are_the_node_and_its_parents_up_to_the_root(tree: Tree) -> None:
    for node in range(tree.size):
        expected, above = {node}, node
        while above != 0:
            above = int(tree.parent[above])
            expected.add(above)
        assert set(tree.ancestors[node].nonzero().squeeze(1).tolist()) == expected
        assert int(tree.depth[node]) == len(expected) - 1


def test_a_planted_tree_has_forgotten_the_one_before() -> None:
    """The arrays are used again round after round; what the last tree left in them must not show."""
    tree = Tree.allocate(8, CPU)
    tree.plant(ROOT)
    for parent in (0, 1, 2):
        tree.add_level(torch.tensor([1]), torch.tensor([parent]), torch.zeros(1))
    tree.plant(5)
    assert (tree.size, tree.levels) == (1, 0)
    tree.add_level(torch.tensor([6, 7, 8]), torch.tensor([0, 0, 0]), torch.zeros(3))
    own_and_root = torch.eye(4, dtype=torch.bool)
    own_and_root[:, 0] = True
    assert torch.equal(tree.ancestors[:4, :4], own_and_root)
    assert tree.depth[:4].tolist() == [0, 1, 1, 1]
    assert walk(tree, torch.tensor([8, 0, 0, 0])).tolist() == [0, 3]


def test_a_chain_is_told_from_a_tree() -> None:
    tree = Tree.allocate(4, CPU)
    tree.plant(ROOT)
    assert tree.is_chain
    tree.add_level(torch.tensor([1]), torch.tensor([0]), torch.zeros(1))
    assert tree.is_chain
    tree.add_level(torch.tensor([1, 2]), torch.tensor([1, 1]), torch.zeros(2))
    assert not tree.is_chain
