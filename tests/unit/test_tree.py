"""A draft tree in flat lists, and the target's walk through it, against the same done node by node."""

from __future__ import annotations

from itertools import pairwise

from dyna_eval_workers.tree import NOT_FED, ROOT, Tree
from hypothesis import given, settings
from hypothesis import strategies as st

PENDING = 7
TOKENS = 4  # few, so that the target often agrees


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """A tree of up to 5 levels in breadth-first order; siblings hold different tokens, as ranked ones do."""
    tree = Tree.with_root(PENDING)
    frontier = [ROOT]
    for _ in range(draw(st.integers(0, 5))):
        proposed = [
            (node, token)
            for node in frontier
            for token in draw(st.lists(st.integers(0, TOKENS - 1), unique=True, max_size=3))
        ]
        nodes = [
            tree.add(parent, token, tree.log_probability[parent] - draw(st.floats(0, 3)))
            for parent, token in proposed[: 40 - len(tree)]
        ]
        frontier = [node for node in nodes if draw(st.booleans())]
        for row, node in enumerate(frontier, start=sum(row != NOT_FED for row in tree.row)):
            tree.row[node] = row
    return tree


def test_a_planted_tree_is_the_pending_token_certain_and_in_no_row_of_the_draft() -> None:
    tree = Tree.with_root(PENDING)
    assert (tree.token, tree.depth, tree.log_probability, tree.row) == ([PENDING], [0], [0.0], [NOT_FED])
    assert NOT_FED < 0


def path_to(tree: Tree, node: int) -> list[int]:
    path = [node]
    while path[0] != ROOT:
        path.insert(0, tree.parent[path[0]])
    return path


def tokens_to(tree: Tree, node: int) -> tuple[int, ...]:
    return tuple(tree.token[passed] for passed in path_to(tree, node))


def walked_node_by_node(tree: Tree, choices: list[int]) -> list[int]:
    path = [ROOT]
    while True:
        here = path[-1]
        children = [node for node in range(1, len(tree)) if tree.parent[node] == here]
        agreeing = [node for node in children if tree.token[node] == choices[here]]
        if not agreeing:
            return path
        path.append(agreeing[0])


@settings(deadline=None, max_examples=300)
@given(tree=trees(), data=st.data())
def test_the_walk_is_the_one_taken_node_by_node(tree: Tree, data: st.DataObject) -> None:
    choices = data.draw(st.lists(st.integers(0, TOKENS - 1), min_size=len(tree), max_size=len(tree)))
    assert tree.walk(choices) == walked_node_by_node(tree, choices)


@settings(deadline=None, max_examples=200)
@given(tree=trees(), data=st.data())
def test_a_target_that_agrees_with_a_node_all_the_way_reaches_it(tree: Tree, data: st.DataObject) -> None:
    path = path_to(tree, data.draw(st.integers(0, len(tree) - 1)))
    choices = [TOKENS] * len(tree)  # a token that no node holds
    for above, node in pairwise(path):
        choices[above] = tree.token[node]
    assert tree.walk(choices) == path


@settings(deadline=None, max_examples=200)
@given(tree=trees())
def test_a_node_is_as_deep_as_it_has_ancestors(tree: Tree) -> None:
    for node in range(len(tree)):
        assert tree.depth[node] == len(path_to(tree, node)) - 1
        assert node == ROOT or tree.parent[node] < node
    assert tree.levels == max(len(path_to(tree, node)) for node in range(len(tree))) - 1


def test_a_planted_tree_is_the_pending_token_alone() -> None:
    """Whatever grew before it: the next tree starts from nothing."""
    before = Tree.with_root(PENDING)
    for parent in (0, 1, 2):
        before.add(parent, 1, -1.0)
    tree = Tree.with_root(5)
    assert (len(tree), tree.levels, tree.token, tree.parent, tree.row) == (1, 0, [5], [-1], [NOT_FED])
    assert tree.walk([1]) == [ROOT]
    for token in (6, 7, 8):
        tree.add(ROOT, token, -1.0)
    assert tree.depth == [0, 1, 1, 1]
    assert tree.walk([8, 0, 0, 0]) == [0, 3]


# ------------------------------------------------------------------------- subset


@settings(deadline=None, max_examples=300)
@given(tree=trees(), data=st.data())
def test_a_subset_holds_its_nodes_as_they_were(tree: Tree, data: st.DataObject) -> None:
    """Any set closed under parents: every node keeps its path, probability, depth and row of the draft."""
    leaves = data.draw(st.sets(st.integers(0, len(tree) - 1)))
    nodes = sorted({ROOT}.union(*(path_to(tree, leaf) for leaf in leaves)))
    smaller = tree.subset(nodes)
    assert len(smaller) == len(nodes)
    for place, node in enumerate(nodes):
        assert tokens_to(smaller, place) == tokens_to(tree, node)
        assert smaller.depth[place] == tree.depth[node]
        assert smaller.row[place] == tree.row[node]
        assert smaller.log_probability[place] == tree.log_probability[node]


@settings(deadline=None, max_examples=200)
@given(tree=trees(), data=st.data())
def test_a_walk_of_a_subset_goes_as_far_as_the_whole_one_stays_inside(
    tree: Tree, data: st.DataObject
) -> None:
    leaves = data.draw(st.sets(st.integers(0, len(tree) - 1)))
    nodes = sorted({ROOT}.union(*(path_to(tree, leaf) for leaf in leaves)))
    choices = data.draw(st.lists(st.integers(0, TOKENS - 1), min_size=len(tree), max_size=len(tree)))
    path = tree.subset(nodes).walk([choices[node] for node in nodes])
    whole = tree.walk(choices)
    assert [nodes[place] for place in path] == [node for node in whole if node in nodes]


def test_a_subset_may_be_grown_on_and_leaves_the_whole_tree_alone() -> None:
    tree = Tree.with_root(PENDING)
    for parent, token in ((0, 1), (0, 2), (2, 3)):
        tree.add(parent, token, -1.0)
    smaller = tree.subset([0, 2])
    assert smaller.add(1, 9, -2.0) == 2
    assert smaller.walk([2, 9, 0]) == [0, 1, 2]
    assert len(tree) == 4
    assert tree.walk([2, 9, 9, 0]) == [0, 2]
    assert tree.walk([2, 9, 3, 0]) == [0, 2, 3]


def test_the_subset_of_the_root_is_a_planted_tree() -> None:
    tree = Tree.with_root(PENDING)
    tree.add(ROOT, 1, -1.0)
    assert tree.subset([ROOT]) == Tree.with_root(PENDING)
    assert tree.subset([0, 1]) == tree
