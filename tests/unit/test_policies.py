"""Which candidates of a level join the draft tree, which of them grow on, and which nodes are verified."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations, product
from typing import Any, NamedTuple

import numpy as np
import pytest
from dyna_eval_workers.drafting import PromptLookup, drafting_for
from dyna_eval_workers.growth import Candidates, GrowthPolicy, Selection, top_nodes
from dyna_eval_workers.growth.cost_aware import AcceptanceModel, CostAware
from dyna_eval_workers.growth.trees import BestFirst, DynaTree, StaticTree, TopBranches
from dyna_eval_workers.tree import ROOT, Tree
from hypothesis import given, settings
from hypothesis import strategies as st

from dyna_eval.jobs import Configuration, Method, Params
from dyna_eval.measurements import Calibration
from dyna_eval.methods import METHODS
from dyna_eval.topology import NodePath, Topology, expansion_size

PENDING = 9
DraftModel = Callable[[tuple[int, ...]], Sequence[float]]
"""A draft's probabilities of the next token, by the draft tokens before it."""


def policy(**changes: Any) -> TopBranches:
    settings: dict[str, Any] = {
        "depth": 4,
        "branches": 2,
        "root_branches": 2,
        "threshold": 0.0,
        "max_nodes": 30,
    }
    return TopBranches(**(settings | changes))


def dynatree(**changes: Any) -> DynaTree:
    """A tree without any phase; a test switches on the one that it is about."""
    settings: dict[str, Any] = {
        "depth_target": 2,
        "max_depth": 4,
        "branch_min": 1,
        "branch_mid": 2,
        "branch_max": 3,
        "confidence_high": 0.75,
        "confidence_low": 0.25,
        "stop_probability": 0.1,
        "deep_probability": 0.5,
        "history_window": 2,
        "history_target": 0.5,
        "history_step": 0.125,
        "max_nodes": 100,
        "branch_phase": False,
        "depth_phase": False,
        "history_phase": False,
    }
    made = DynaTree(**(settings | changes))
    made.reset()
    return made


def siblings(*families: Sequence[float]) -> Candidates:
    """Return candidates under the root: of each family the probabilities, best first."""
    found = Candidates([], [], [], [], [])
    for parent, family in enumerate(families):
        for rank, probability in enumerate(family):
            found.parent.append(ROOT)
            found.token.append(10 * parent + rank)
            found.log_probability.append(math.log(probability) if probability else -math.inf)
            found.rank.append(rank)
            found.confidence.append(family[0])
    return found


def select(policy: GrowthPolicy, *probabilities: float, level: int = 1) -> Selection:
    """Select among children of a root that nothing has grown from yet."""
    return policy.select(siblings(probabilities), level, Tree.with_root(PENDING))


class Grown(NamedTuple):
    """All that a draft grew, what of it is verified, what was asked for children, and whether a cap bound."""

    whole: Tree
    verified: Tree
    expanded: list[int]
    capped: bool


def grow(policy: GrowthPolicy, model: DraftModel) -> Grown:
    """Ask a policy level by level, as the decoding loop does, with probabilities from a model."""
    tree, frontier, expanded, capped = Tree.with_root(PENDING), [ROOT], list[int](), False
    for level in range(1, policy.depth + 1):
        candidates = Candidates([], [], [], [], [])
        for node in frontier:
            probabilities = model(path_of(tree, node))
            ranked = sorted(range(len(probabilities)), key=lambda token: -probabilities[token])
            for rank, token in enumerate(ranked[: policy.branch(level)]):
                candidates.parent.append(node)
                candidates.token.append(token)
                candidates.log_probability.append(
                    tree.log_probability[node] + math.log(max(probabilities[token], 1e-30))
                )
                candidates.rank.append(rank)
                candidates.confidence.append(probabilities[ranked[0]])
        expanded += frontier
        selection = policy.select(candidates, level, tree)
        capped = capped or selection.capped
        frontier = []
        for index, grows in zip(selection.kept, selection.grows, strict=True):
            node = tree.add(
                candidates.parent[index], candidates.token[index], candidates.log_probability[index]
            )
            if grows:
                frontier.append(node)
        if not frontier:
            break
    return Grown(tree, tree.subset(policy.rerank(tree)), expanded, capped)


def path_of(tree: Tree, node: int) -> tuple[int, ...]:
    """Return the draft tokens up to a node."""
    tokens: list[int] = []
    while node != ROOT:
        tokens.insert(0, tree.token[node])
        node = tree.parent[node]
    return tuple(tokens)


def paths_of(tree: Tree) -> set[tuple[int, ...]]:
    return {path_of(tree, node) for node in range(1, len(tree))}


@st.composite
def draft_models(
    draw: st.DrawFn, vocabulary: int = 5, flatness: Sequence[float] = (0.1, 0.5, 2.0)
) -> DraftModel:
    """A draft that is sure in some places and unsure in others."""
    seed, spread = draw(st.integers(0, 10_000)), draw(st.sampled_from(flatness))

    def model(path: tuple[int, ...]) -> list[float]:
        generator = np.random.default_rng([seed, *path])
        return list(generator.dirichlet([spread] * vocabulary).tolist())

    return model


def certain(path: tuple[int, ...]) -> list[float]:
    """A draft that knows every next token, so that every child is as likely as its parent."""
    return [1.0 if token == len(path) % 3 else 0.0 for token in range(5)]


# --------------------------------------------------------------- the top branches


def test_without_a_threshold_every_candidate_joins_and_grows() -> None:
    selection = select(policy(), 0.5, 1e-30, 0.2, 0.0)
    assert list(selection.kept) == [0, 1, 2, 3]
    assert list(selection.grows) == [True] * 4
    assert not selection.capped


def test_a_node_under_the_threshold_leaves_the_tree() -> None:
    selection = select(policy(threshold=0.1), 0.5, 0.01, 0.2, 0.099)
    assert list(selection.kept) == [0, 2]
    assert list(selection.grows) == [True, True]


def test_pruned_by_expansion_a_node_under_the_threshold_stays_as_a_leaf() -> None:
    selection = select(policy(threshold=0.1, drop_pruned=False), 0.5, 0.01, 0.2, 0.099)
    assert list(selection.kept) == [0, 1, 2, 3]
    assert list(selection.grows) == [True, False, True, False]


def test_a_node_on_the_threshold_is_kept() -> None:
    assert list(select(policy(threshold=0.25), 0.25).kept) == [0]


def test_a_threshold_that_no_candidate_reaches_keeps_none() -> None:
    selection = select(policy(threshold=0.9), 0.5, 0.4)
    assert list(selection.kept) == []
    assert list(selection.grows) == []
    assert not selection.capped


def test_a_cap_keeps_the_likeliest_in_breadth_first_order() -> None:
    selection = select(policy(max_nodes=2), 0.1, 0.4, 0.05, 0.3)
    assert list(selection.kept) == [1, 3]
    assert selection.capped


def test_a_cap_counts_the_nodes_that_are_there_already() -> None:
    """The root is the pending token, and no draft node."""
    tree = Tree.with_root(PENDING)
    for token in (1, 2):
        tree.add(ROOT, token, -1.0)
    assert list(policy(max_nodes=4).select(siblings([0.1, 0.4, 0.05, 0.3]), 2, tree).kept) == [1, 3]


def test_a_cap_that_is_just_met_does_not_bind() -> None:
    assert not select(policy(max_nodes=2), 0.1, 0.4).capped


def test_a_threshold_comes_before_the_cap() -> None:
    """Pruned nodes take no room, so a cap that only they would overrun does not bind."""
    selection = select(policy(threshold=0.2, max_nodes=2), 0.1, 0.4, 0.05, 0.3)
    assert list(selection.kept) == [1, 3]
    assert not selection.capped


PROBABILITIES = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=24)


@settings(deadline=None, max_examples=300)
@given(
    probabilities=PROBABILITIES,
    threshold=st.sampled_from([0.0, 0.05, 0.3]),
    room=st.integers(1, 30),
    drop_pruned=st.booleans(),
)
def test_every_selection_follows_the_rule_as_written(
    probabilities: list[float], threshold: float, room: int, drop_pruned: bool
) -> None:
    """The rule over again: prune, then the `room` likeliest, in the order they came."""
    joint = [math.log(probability) for probability in probabilities]
    made = policy(threshold=threshold, drop_pruned=drop_pruned, max_nodes=room)
    chosen = select(made, *probabilities)
    bound = math.log(threshold) if threshold else -math.inf
    likely = [value >= bound for value in joint]
    candidates = [i for i in range(len(probabilities)) if likely[i] or not drop_pruned]
    kept = list(chosen.kept)
    assert chosen.capped == (len(candidates) > room)
    assert len(kept) == min(room, len(candidates))
    assert kept == sorted(set(kept))
    assert set(kept) <= set(candidates)
    left_out = [joint[i] for i in candidates if i not in kept]
    assert not left_out or max(left_out) <= min(joint[i] for i in kept)
    assert list(chosen.grows) == [likely[i] for i in kept]


def test_the_root_may_have_a_branch_of_its_own() -> None:
    narrow = policy(branches=3, root_branches=1)
    assert [narrow.branch(level) for level in (1, 2, 3)] == [1, 3, 3]


# --------------------------------------------------------------------- best first


@settings(deadline=None, max_examples=100)
@given(model=draft_models(), width=st.integers(1, 5), depth=st.integers(1, 4), max_nodes=st.integers(1, 30))
def test_best_first_verifies_the_likeliest_of_all_that_grew(
    model: DraftModel, width: int, depth: int, max_nodes: int
) -> None:
    grown = grow(BestFirst(depth=depth, width=width, max_nodes=max_nodes), model)
    whole, verified = grown.whole, paths_of(grown.verified)
    joint = {path_of(whole, node): whole.log_probability[node] for node in range(len(whole))}
    assert len(verified) == min(max_nodes, len(whole) - 1)
    assert all(path[:-1] in verified for path in verified if len(path) > 1), "a node without its parent"
    left_out = [value for path, value in joint.items() if path and path not in verified]
    assert not left_out or max(left_out) <= min(joint[path] for path in verified)


@settings(deadline=None, max_examples=100)
@given(model=draft_models(), width=st.integers(1, 5), depth=st.integers(1, 4))
def test_best_first_expands_the_likeliest_of_every_level(model: DraftModel, width: int, depth: int) -> None:
    whole, _, expanded, _ = grow(BestFirst(depth=depth, width=width, max_nodes=12), model)
    assert expanded[0] == ROOT
    for level in range(1, depth):
        nodes = [node for node in range(len(whole)) if whole.depth[node] == level]
        chosen = [node for node in expanded if whole.depth[node] == level]
        assert len(chosen) == min(width, len(nodes))
        others = [whole.log_probability[node] for node in nodes if node not in chosen]
        assert not others or max(others) <= min(whole.log_probability[node] for node in chosen)


@settings(deadline=None, max_examples=40)
@given(model=draft_models(vocabulary=3), max_nodes=st.integers(1, 12))
def test_best_first_without_bounds_finds_the_best_of_all_trees(model: DraftModel, max_nodes: int) -> None:
    """Three levels of three tokens, all of them expanded: no tree of so many nodes is accepted further."""
    verified = grow(BestFirst(depth=3, width=9, max_nodes=max_nodes), model).verified
    chances = sorted(
        (
            math.prod(model(path[:depth])[token] for depth, token in enumerate(path))
            for length in (1, 2, 3)
            for path in product(range(3), repeat=length)
        ),
        reverse=True,
    )
    expected = sum(math.exp(value) for value in verified.log_probability[1:])
    assert expected == pytest.approx(sum(chances[:max_nodes]))


def test_best_first_keeps_parents_of_children_that_are_certain() -> None:
    """A child that is as likely as its parent must not take its place."""
    grown = grow(BestFirst(depth=4, width=2, max_nodes=3), certain)
    assert paths_of(grown.verified) == {(0,), (0, 1), (0, 1, 2)}


# ----------------------------------------------------------------------- dynatree


@settings(deadline=None, max_examples=50)
@given(model=draft_models())
def test_dynatree_without_its_phases_is_an_unpruned_tree(model: DraftModel) -> None:
    plain = policy(depth=3, branches=2, root_branches=2, max_nodes=100)
    assert grow(dynatree(depth_target=3), model).verified == grow(plain, model).verified


@pytest.mark.parametrize(
    ("confidence", "children"), [(0.76, 1), (0.75, 1), (0.74, 2), (0.26, 2), (0.25, 2), (0.24, 3)]
)
def test_in_the_branch_phase_the_unsure_have_more_children(confidence: float, children: int) -> None:
    phased = dynatree(branch_phase=True)
    assert phased.branch(1) == 3
    assert len(select(phased, confidence, 0.1, 0.05).kept) == children


def test_every_node_has_as_many_children_as_its_own_confidence_says() -> None:
    candidates = siblings([0.9, 0.05, 0.01], [0.5, 0.4, 0.01], [0.2, 0.15, 0.1])
    selection = dynatree(branch_phase=True).select(candidates, 1, Tree.with_root(PENDING))
    assert list(selection.kept) == [0, 3, 4, 6, 7, 8]


def test_without_the_branch_phase_every_node_has_as_many_children() -> None:
    assert dynatree().branch(1) == 2
    for confidence in (0.9, 0.5, 0.1):
        assert list(select(dynatree(), confidence, 0.05, 0.01).kept) == [0, 1]


def test_in_the_depth_phase_an_unlikely_path_ends() -> None:
    phased = dynatree(depth_phase=True)
    assert list(select(phased, 0.2, 0.1).kept) == [0, 1]
    assert list(select(phased, 0.2, 0.0999).kept) == [0]


def test_in_the_depth_phase_only_a_likely_path_goes_on_beyond_its_depth() -> None:
    phased = dynatree(depth_phase=True)
    assert phased.depth == 4
    assert list(select(phased, 0.6, 0.4, level=1).grows) == [True, True]
    for level in (2, 3):
        assert list(select(phased, 0.5, 0.4999, level=level).grows) == [True, False]
        assert list(select(phased, 0.5, 0.4999, level=level).kept) == [0, 1]


def test_without_the_depth_phase_all_paths_are_as_long() -> None:
    assert dynatree().depth == 2
    selection = select(dynatree(), 0.01, 0.001)
    assert (list(selection.kept), list(selection.grows)) == ([0, 1], [True, True])


def test_a_probability_of_zero_switches_its_rule_off() -> None:
    phased = dynatree(depth_phase=True, stop_probability=0.0, deep_probability=0.0)
    selection = select(phased, 1e-9, 1e-12, level=3)
    assert (list(selection.kept), list(selection.grows)) == ([0, 1], [True, True])


def test_dynatree_keeps_to_its_cap() -> None:
    selection = select(dynatree(max_nodes=1), 0.3, 0.4)
    assert (list(selection.kept), selection.capped) == ([1], True)
    assert not select(dynatree(max_nodes=2), 0.3, 0.4).capped


def round_of(policy: GrowthPolicy, accepted: int, *, levels: int = 4) -> None:
    """Let a policy hear that so many levels of a chain were accepted."""
    tree = Tree.with_root(PENDING)
    for node in range(levels):
        tree.add(node, 1, -0.1 * (node + 1))
    policy.learn(tree, range(accepted + 1))


def children_at(policy: DynaTree, confidence: float) -> int:
    return len(select(policy, confidence, 0.01, 0.001).kept)


def test_in_the_history_phase_refusals_bring_branches_and_acceptance_saves_them() -> None:
    phased = dynatree(branch_phase=True, history_phase=True)
    assert children_at(phased, 0.8) == 1
    round_of(phased, 1)
    assert children_at(phased, 0.8) == 2, "both bounds moved up by a step of 0.125"
    assert children_at(phased, 0.3) == 3
    phased.reset()
    assert children_at(phased, 0.65) == 2
    round_of(phased, 4)
    assert children_at(phased, 0.65) == 1, "both bounds moved down"
    assert children_at(phased, 0.15) == 2


def test_history_is_the_share_of_levels_over_a_window_of_rounds() -> None:
    """Of a window of two: nothing and all of it is on target, so it counts as acceptance."""
    phased = dynatree(branch_phase=True, history_phase=True)
    for accepted, shift in ((0, 0.125), (4, 0.0), (4, -0.125), (0, -0.25), (0, -0.125), (0, 0.0)):
        round_of(phased, accepted)
        assert children_at(phased, 0.75 + shift) == 1
        assert children_at(phased, 0.75 + shift - 0.001) == 2


def test_bounds_stay_between_0_and_1() -> None:
    phased = dynatree(branch_phase=True, history_phase=True)
    for _ in range(20):
        round_of(phased, 0)
    assert [children_at(phased, value) for value in (1.0, 0.99, 0.5, 0.49)] == [1, 2, 2, 3]
    for _ in range(20):
        round_of(phased, 4)
    assert [children_at(phased, value) for value in (0.5, 0.49, 0.001)] == [1, 2, 2]


def test_a_tree_of_the_pending_token_alone_teaches_nothing() -> None:
    phased = dynatree(branch_phase=True, history_phase=True)
    round_of(phased, 0, levels=0)
    assert children_at(phased, 0.75) == 1


def test_without_the_history_phase_nothing_is_learnt() -> None:
    phased = dynatree(branch_phase=True)
    for _ in range(5):
        round_of(phased, 0)
    assert children_at(phased, 0.75) == 1


def test_history_is_forgotten_at_the_next_prompt() -> None:
    phased = dynatree(branch_phase=True, history_phase=True)
    for _ in range(3):
        round_of(phased, 0)
    assert children_at(phased, 0.75) == 2
    phased.reset()
    assert children_at(phased, 0.75) == 1
    round_of(phased, 4)
    assert children_at(phased, 0.625) == 1, "rounds of the prompt before are out of the window too"


# --------------------------------------------------------------------- cost aware


def cost_aware(*, draft: float = 0.0, verify: float = 1.0, node: float = 0.0, **changes: Any) -> CostAware:
    """Return a policy for draft steps of `draft` seconds, target steps of `verify`, and `node` per node."""
    calibration = Calibration(
        draft_seconds=((1, draft),), verify_seconds=((1, verify), (65, verify + 64 * node))
    )
    bounds: dict[str, Any] = {"depth": 4, "width": 3, "max_nodes": 20}
    made = CostAware(**(bounds | changes), calibration=calibration)
    made.reset()
    return made


def steps(grown: Grown) -> int:
    """Return how many levels were asked for, which is how many steps the draft took."""
    return len({grown.whole.depth[node] for node in grown.expanded})


@settings(deadline=None, max_examples=60)
@given(model=draft_models(flatness=[2.0]))
def test_where_drafting_is_free_a_tree_grows_to_its_bounds(model: DraftModel) -> None:
    grown = grow(cost_aware(), model)
    assert grown.whole.levels == 4
    widths = Counter(grown.whole.depth[node] for node in grown.expanded)
    assert [widths[level] for level in range(4)] == [1, 3, 3, 3]
    assert len(grown.verified) - 1 == 20


@settings(deadline=None, max_examples=60)
@given(model=draft_models())
def test_a_draft_as_slow_as_its_target_is_not_asked(model: DraftModel) -> None:
    """Not even drafts that are always right would pay."""
    for slow in (1.0, 30.0):
        grown = grow(cost_aware(draft=slow), model)
        assert (len(grown.verified), grown.expanded) == (1, [])


def test_where_a_node_costs_most_of_a_pass_only_the_certain_is_verified() -> None:
    grown = grow(cost_aware(node=0.7), lambda _: [0.4, 0.35, 0.25])
    assert len(grown.verified) == 1
    assert steps(grown) == 1, "what follows an unlikely token is less likely still"
    assert (0,) in paths_of(grow(cost_aware(node=0.7), certain).verified)


def test_a_best_child_is_thought_likelier_at_first_than_the_draft_says_and_no_other_is() -> None:
    made = cost_aware(depth=1)
    grow(made, lambda _: [0.5, 0.3, 0.2])
    [root, best, *others] = made._path_acceptance
    assert (root, others) == (1.0, pytest.approx([0.3, 0.2]))
    assert best == pytest.approx(math.e / (1 + math.e))  # odds of 1, times the prior's factor


COSTS = st.floats(0.0, 1.0)


@settings(deadline=None, max_examples=150)
@given(model=draft_models(), draft=COSTS, node=COSTS, max_nodes=st.integers(1, 12), width=st.integers(1, 6))
def test_no_more_than_the_bounds_is_verified(
    model: DraftModel, draft: float, node: float, max_nodes: int, width: int
) -> None:
    made = cost_aware(draft=draft, node=node, max_nodes=max_nodes, width=width)
    for accepted in (0, 3, 0):
        grown = grow(made, model)
        assert len(grown.verified) - 1 <= max_nodes
        assert max(Counter(grown.whole.depth[node] for node in grown.expanded).values(), default=0) <= width
        made.learn(grown.verified, first_path(grown.verified, accepted))


@settings(deadline=None, max_examples=60)
@given(model=draft_models(vocabulary=3), draft=st.floats(0.0, 0.4), node=st.floats(0.0, 0.4))
def test_what_is_verified_is_the_best_of_all_trees_in_what_grew(
    model: DraftModel, draft: float, node: float
) -> None:
    """By trying them all: none is worth more, in expected tokens less what its seconds cost at AR's rate."""
    made = cost_aware(draft=draft, node=node, depth=2, width=2, max_nodes=5)
    grown = grow(made, model)
    whole, ar_rate = grown.whole, 1.0 / made.calibration.verify(1)

    def worth(nodes: Sequence[int]) -> float:
        tokens = 1 + sum(made._path_acceptance[node] for node in nodes)
        return tokens - ar_rate * made.calibration.verify(1 + len(nodes))

    worths = [
        worth(nodes)
        for size in range(6)
        for nodes in combinations(range(1, len(whole)), size)
        if all(whole.parent[node] in (ROOT, *nodes) for node in nodes)
    ]
    verified = [node for node in range(1, len(whole)) if path_of(whole, node) in paths_of(grown.verified)]
    assert worth(verified) == pytest.approx(max(worths))


@settings(deadline=None, max_examples=150)
@given(model=draft_models(), draft=COSTS, node=st.floats(0.0, 0.3), max_nodes=st.integers(1, 36))
def test_a_cap_is_noted_where_without_it_more_were_verified(
    model: DraftModel, draft: float, node: float, max_nodes: int
) -> None:
    """And where it is not noted, it changed nothing."""
    capped = grow(cost_aware(draft=draft, node=node, max_nodes=max_nodes), model)
    free = grow(cost_aware(draft=draft, node=node, max_nodes=4096), model)
    assert capped.capped == (len(free.verified) - 1 > max_nodes)
    assert capped.capped or capped == free
    assert not free.capped


def test_a_cap_before_a_dear_node_is_noted_where_those_behind_it_pay_for_it() -> None:
    """The third node costs 0.7 tokens of time, and those after it nothing.

    Of a level of four nodes 0.5 tokens are behind the cap, and of the next level a whole one.
    """
    points = ((1, 1.0), (3, 1.0), (4, 1.7), (20, 1.7), (64, 1.7))

    def verified(depth: int) -> tuple[int, bool]:
        calibration = Calibration(draft_seconds=((1, 0.0),), verify_seconds=points)
        made = CostAware(depth=depth, width=4, max_nodes=2, calibration=calibration)
        made.reset()
        grown = grow(made, lambda _: [0.25] * 4)
        return len(grown.verified) - 1, grown.capped

    assert verified(1) == (2, False)
    assert verified(2) == (2, True)


@settings(deadline=None, max_examples=150)
@given(model=draft_models(), cheap=COSTS, dearer=COSTS, node=st.floats(0.0, 0.3))
def test_a_dearer_draft_takes_no_more_steps(
    model: DraftModel, cheap: float, dearer: float, node: float
) -> None:
    few, many = (steps(grow(cost_aware(draft=c, node=node), model)) for c in (cheap + dearer, cheap))
    assert few <= many


@settings(deadline=None, max_examples=150)
@given(model=draft_models(), draft=st.floats(0.0, 0.5), cheap=COSTS, dearer=COSTS)
def test_the_dearer_a_node_the_fewer_are_verified(
    model: DraftModel, draft: float, cheap: float, dearer: float
) -> None:
    few, many = (len(grow(cost_aware(draft=draft, node=c), model).verified) for c in (cheap + dearer, cheap))
    assert few <= many


@settings(deadline=None, max_examples=60)
@given(model=draft_models(), draft=st.floats(0.0, 0.3), node=st.floats(0.0, 0.2), depth=st.integers(1, 4))
def test_only_steps_that_were_taken_are_paid_for(
    model: DraftModel, draft: float, node: float, depth: int
) -> None:
    """The bound on levels ends a tree whose nodes would have grown: that step costs nothing."""
    made = cost_aware(draft=draft, node=node, depth=depth)
    spent = 1.0  # a step of the target alone, from which the rate starts
    for _ in range(3):
        grown = grow(made, model)
        made.learn(grown.verified, [ROOT])
        spent += draft * steps(grown) + made.calibration.verify(len(grown.verified))
        assert made._spent_seconds == pytest.approx(spent)


def test_a_draft_that_promises_too_much_is_trusted_less_until_the_next_prompt() -> None:
    made = cost_aware(draft=0.1, node=0.05)
    trusted = grow(made, certain)
    made.learn(trusted.verified, [ROOT])
    for _ in range(20):
        made.learn(grow(made, certain).verified, [ROOT])
    distrusted = grow(made, certain)
    assert len(distrusted.verified) < len(trusted.verified)
    assert steps(distrusted) < steps(trusted)
    made.reset()
    assert grow(made, certain).verified == trusted.verified


def test_a_draft_that_keeps_its_promises_stays_trusted() -> None:
    made = cost_aware(draft=0.1, node=0.05)
    trusted = grow(made, certain)
    made.learn(trusted.verified, first_path(trusted.verified))
    for _ in range(20):
        grown = grow(made, certain)
        made.learn(grown.verified, first_path(grown.verified))
    assert grow(made, certain).verified == trusted.verified


def test_a_draft_that_promises_too_little_is_soon_followed_further() -> None:
    """As a greedy target makes it: it takes the draft's best token, of probability 0.3, every time."""
    made = cost_aware(draft=0.1, node=0.05)

    def modest(_: Sequence[int]) -> list[float]:
        return [0.3, 0.05, 0.05]

    before = grow(made, modest)
    for _ in range(10):
        grown = grow(made, modest)
        made.learn(grown.verified, first_path(grown.verified))
    after = grow(made, modest)
    assert steps(before) < steps(after) == 4
    assert (0, 0, 0, 0) in paths_of(after.verified)
    assert (1,) not in paths_of(after.verified), "its other proposals were never taken"


@settings(deadline=None, max_examples=60)
@given(likely=st.floats(0.05, 0.9), more=st.floats(0.0, 0.09), draft=COSTS, node=st.floats(0.0, 0.2))
def test_a_better_draft_is_followed_no_less_far(
    likely: float, more: float, draft: float, node: float
) -> None:
    near, far = (
        steps(grow(cost_aware(draft=draft, node=node), lambda _, p=p: [p, 0.01, 0.01]))  # type: ignore[misc]
        for p in (likely, likely + more)
    )
    assert near <= far


@pytest.mark.parametrize("said", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("taken", [0.3, 0.6, 0.9])
@pytest.mark.parametrize(("draft", "node"), [(0.03, 0.0), (0.05, 0.1), (0.3, 0.01)])
def test_it_is_about_as_fast_as_the_best_fixed_length(
    said: float, taken: float, draft: float, node: float
) -> None:
    """Whatever probability the draft states for its only proposal: by what is really taken, tokens per second
    are 95 % of what the best of all lengths, AR included, comes to on average."""
    made = cost_aware(draft=draft, node=node, depth=10, width=1, max_nodes=10)

    def expected(length: int) -> float:
        tokens = sum(taken**level for level in range(length + 1))
        return tokens / (length * draft + made.calibration.verify(length + 1))

    fixed = max(expected(length) for length in range(11))
    chance = random.Random(0)
    tokens, seconds = 0, 0.0
    for _ in range(2000):
        grown = grow(made, lambda _: [said])
        accepted = 0
        while accepted < grown.verified.levels and chance.random() < taken:
            accepted += 1
        tokens += accepted + 1
        seconds += draft * steps(grown) + made.calibration.verify(len(grown.verified))
        made.learn(grown.verified, range(accepted + 1))
    assert tokens / seconds >= 0.95 * fixed


OUTCOMES = st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), max_size=60)


@given(outcomes=OUTCOMES, less=st.floats(0.0, 1.0), more=st.floats(0.0, 1.0))
def test_what_was_taken_orders_no_proposals_anew(
    outcomes: list[tuple[float, bool]], less: float, more: float
) -> None:
    fitted = AcceptanceModel()
    for probability, accepted in outcomes:
        before = fitted.acceptance(probability)
        fitted.learn(probability, accepted=accepted)
        after = fitted.acceptance(probability)
        assert before <= after if accepted else after <= before
    low, high = sorted((less, more))
    assert 0.0 <= fitted.acceptance(low) <= fitted.acceptance(high) <= 1.0


@pytest.mark.parametrize(("said", "taken"), [(0.25, 0.6), (0.9, 0.4), (0.5, 0.5), (0.03, 0.2), (1.0, 0.3)])
def test_what_was_taken_outweighs_what_was_said(said: float, taken: float) -> None:
    fitted = AcceptanceModel()
    for outcome in range(200):
        fitted.learn(said, accepted=int((outcome + 1) * taken) > int(outcome * taken))
    assert fitted.acceptance(said) == pytest.approx(taken, abs=0.06)


def first_path(tree: Tree, most: int = 99) -> list[int]:
    """Return the path of first children, from the root, down to a level."""
    path = [ROOT]
    while len(path) <= most and path[-1] in tree.parent:
        path.append(tree.parent.index(path[-1]))
    return path


# ------------------------------------------------------------------ prompt lookup


def looked_up(tokens: str, *, k: int = 3, ngram: int = 3, limit: int = 99) -> str:
    """Look up letters in place of tokens."""
    found = PromptLookup(k=k, ngram=ngram).propose([ord(letter) for letter in tokens], limit)
    return "".join(map(chr, found))


def test_the_longest_n_gram_wins() -> None:
    assert looked_up("abcdef bcuvw cxyz abc") == "def"
    assert looked_up("abcdef bcuvw cxyz abc", ngram=2) == "uvw"
    assert looked_up("abcdef bcuvw cxyz abc", ngram=1) == "xyz"


def test_of_equal_n_grams_the_latest_one_with_enough_behind_it() -> None:
    assert looked_up("ab123 ab456 ab", ngram=2) == "456"
    assert looked_up("ab123456 ab7 ab", k=6, ngram=2) == "123456"


def test_where_none_has_enough_behind_it_the_one_with_most() -> None:
    assert looked_up("ababab", k=9, ngram=2) == "abab"


def test_a_shorter_n_gram_is_tried_where_a_longer_one_never_came() -> None:
    assert looked_up("xc123 abc") == "123"


def test_no_more_is_proposed_than_can_be_emitted() -> None:
    assert looked_up("abcdef abc", limit=2) == "de"
    assert looked_up("abcdef abc", limit=0) == ""


def test_what_never_came_before_proposes_nothing() -> None:
    assert looked_up("abcdef") == ""
    assert looked_up("a") == ""


@settings(deadline=None, max_examples=300)
@given(
    tokens=st.lists(st.integers(0, 2), min_size=1, max_size=20),
    k=st.integers(1, 5),
    ngram=st.integers(1, 4),
    limit=st.integers(0, 6),
)
def test_every_lookup_follows_the_rule_as_written(tokens: list[int], k: int, ngram: int, limit: int) -> None:
    """The rule over again: all occurrences of the longest n-gram that has any, and the best of them."""
    wanted, expected = min(k, limit), list[int]()
    for size in range(1, ngram + 1):
        followers = [
            tokens[start + size :][:wanted]
            for start in range(len(tokens) - size)
            if tokens[start : start + size] == tokens[len(tokens) - size :]
        ]
        if followers:
            longest = max(map(len, followers))
            expected = [found for found in followers if len(found) == longest][-1]
    assert PromptLookup(k=k, ngram=ngram).propose(tokens, limit) == expected


def scanned(tokens: Sequence[int], *, k: int, ngram: int, limit: int) -> list[int]:
    """Look up by going through the whole text, token by token, from its end."""
    wanted = min(k, limit)
    for size in range(min(ngram, len(tokens) - 1), 0, -1):
        found: list[int] = []
        for start in range(len(tokens) - size - 1, -1, -1):
            if tokens[start : start + size] == tokens[len(tokens) - size :]:
                found = list(tokens[start + size :][:wanted])
                if len(found) == wanted:
                    break
        if found:
            return found
    return []


@settings(deadline=None, max_examples=300)
@given(
    texts=st.lists(st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=12), min_size=1, max_size=2),
    k=st.integers(1, 7),
    ngram=st.integers(1, 5),
    lowest=st.sampled_from([0, 254, 0xD7FF, 0xFFFE, 300_000]),
    data=st.data(),
)
def test_a_text_that_grows_is_looked_up_as_if_it_were_read_anew(
    texts: list[list[list[int]]], k: int, ngram: int, lowest: int, data: st.DataObject
) -> None:
    """Round by round, and prompt by prompt: nothing of another text is proposed.

    Whatever characters stand for the tokens: of one byte and of more, and such as no real text has.
    """
    lookup = PromptLookup(k=k, ngram=ngram)
    for rounds in texts:
        lookup.reset()
        tokens: list[int] = []
        for emitted in rounds:
            tokens += [lowest + token for token in emitted]
            limit = data.draw(st.integers(0, 9))
            assert lookup.propose(tokens, limit) == scanned(tokens, k=k, ngram=ngram, limit=limit)


class Watched(Sequence[int]):
    """A text that counts how many of its tokens were read."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens, self.read = tokens, 0

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, place: Any) -> Any:
        found = self.tokens[place]
        self.read += len(found) if isinstance(place, slice) else 1
        return found


@pytest.mark.parametrize("alphabet", [1, 3, 1000])
def test_a_round_reads_no_more_of_a_long_text_than_of_a_short_one(alphabet: int) -> None:
    """It reads the tokens that are new, and those it proposes."""

    def most_read(length: int) -> int:
        chance = random.Random(0)
        text = Watched([chance.randrange(alphabet) for _ in range(length)])
        lookup = PromptLookup(k=5, ngram=3)
        lookup.reset()
        lookup.propose(text, 99)
        rounds = []
        for _ in range(50):
            text.tokens += [chance.randrange(alphabet) for _ in range(3)]
            text.read = 0
            lookup.propose(text, 99)
            rounds.append(text.read)
        return max(rounds)

    new, proposed = 3, 5
    assert max(most_read(20), most_read(2000)) <= new + proposed


# --------------------------------------------------------------- for every policy


@settings(deadline=None, max_examples=100)
@given(chances=st.lists(st.sampled_from([-3.0, -2.0, -1.0, -0.5]), max_size=12), count=st.integers(0, 14))
def test_the_best_are_the_likeliest_and_of_equals_the_first(chances: list[float], count: int) -> None:
    places = range(len(chances))
    chosen = top_nodes(places, chances, count)
    assert chosen == sorted(chosen)
    assert len(chosen) == min(count, len(chances))
    for left_out in set(places) - set(chosen):
        assert all((chances[node], -node) > (chances[left_out], -left_out) for node in chosen)
    order = sorted(chosen, key=lambda node: (-chances[node], node))
    assert sorted(order) == chosen
    assert [chances[node] for node in order] == sorted((chances[node] for node in chosen), reverse=True)


POLICIES: dict[str, Callable[[], GrowthPolicy]] = {
    "tree": lambda: policy(branches=3, max_nodes=17),
    "pruned tree": lambda: policy(threshold=0.1),
    "static tree": lambda: StaticTree(Topology.of_expansion([3, 1, 2])),
    "best first": lambda: BestFirst(depth=4, width=3, max_nodes=7),
    "dynatree": lambda: dynatree(
        branch_phase=True, depth_phase=True, history_phase=True, max_nodes=15, stop_probability=0.0
    ),
    "cost aware": lambda: cost_aware(max_nodes=7),
}


@pytest.mark.parametrize("name", POLICIES)
@settings(deadline=None, max_examples=50)
@given(model=draft_models())
def test_a_policy_keeps_to_the_rows_that_room_is_made_for(name: str, model: DraftModel) -> None:
    """The draft writes a row for every node it expands but the root; the target one for every node."""
    made = POLICIES[name]()
    made.reset()
    grown = grow(made, model)
    assert len(grown.expanded) - 1 <= made.max_rows
    assert len(grown.verified) - 1 <= made.max_nodes <= made.max_rows
    assert grown.whole.levels <= made.depth


# --------------------------------------------------------------------- static trees


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Any tree of up to 12 nodes, with gaps among its ranks."""
    nodes: list[NodePath] = []
    for _ in range(draw(st.integers(1, 12))):
        parent = draw(st.sampled_from([(), *nodes]))
        path = (*parent, draw(st.integers(0, 4)))
        if path not in nodes:
            nodes.append(path)
    return Topology.of_paths(nodes)


def ranks_of(grown: Grown) -> set[NodePath]:
    """Return every verified node by the ranks on its path, where `certain` proposed the tokens."""
    ranks = {
        length: sorted(range(5), key=lambda token: token != length % 3)
        for length in range(grown.whole.levels)
    }
    return {
        tuple(ranks[depth].index(token) for depth, token in enumerate(path))
        for path in paths_of(grown.verified)
    }


@settings(deadline=None, max_examples=100)
@given(topologies())
def test_a_static_tree_grows_its_nodes_and_no_other_in_round_after_round(topology: Topology) -> None:
    made = StaticTree(topology)
    for _ in range(2):
        grown = grow(made, certain)
        assert ranks_of(grown) == set(topology.nodes)
        assert len(grown.verified) - 1 == len(topology.nodes) == made.max_nodes
        assert not grown.capped
        assert len(grown.expanded) == len({path[:-1] for path in topology.nodes})


@settings(deadline=None, max_examples=50)
@given(counts=st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_an_expansion_is_the_tree_that_its_numbers_say(counts: list[int]) -> None:
    topology = Topology.of_expansion(counts)
    expected = {path for depth in range(len(counts)) for path in product(*map(range, counts[: depth + 1]))}
    assert set(topology.nodes) == expected
    assert len(topology.nodes) == expansion_size(counts)
    assert topology.expansion == tuple(counts)


def test_only_a_tree_of_equal_nodes_has_an_expansion() -> None:
    assert Topology.of_paths([(0,), (1,), (0, 0)]).expansion is None
    assert Topology.of_paths([(0,), (2,)]).expansion is None
    assert Topology.of_paths([(1,), (0,), (1, 0), (0, 0)]).expansion == (2, 1)


# ------------------------------------------------------------ from configurations

FLAT = Calibration(draft_seconds=((1, 0.1),), verify_seconds=((1, 1.0),))


def test_ar_does_not_draft() -> None:
    assert drafting_for(Configuration(label="Baseline", method=Method.AR, params={})) is None


def test_linear_is_a_tree_of_one_branch() -> None:
    configuration = Configuration(label="+ Draft model", method=Method.LINEAR, params={"k": 6})
    assert drafting_for(configuration) == policy(depth=6, branches=1, root_branches=1, max_nodes=6)


@pytest.mark.parametrize(("prune", "drop_pruned"), [("node", True), ("expansion", False)])
def test_a_tree_follows_its_parameters(prune: str, drop_pruned: bool) -> None:
    params: Params = {
        "depth": 7,
        "branch": 3,
        "root_branch": 1,
        "threshold": 0.05,
        "max_nodes": 99,
        "prune": prune,
    }
    assert drafting_for(Configuration(label="Tree", method=Method.TREE, params=params)) == TopBranches(
        depth=7, branches=3, root_branches=1, threshold=0.05, max_nodes=99, drop_pruned=drop_pruned
    )


@pytest.mark.parametrize(
    ("params", "nodes"),
    [
        ({"expansion": "2-1", "paths": None}, [(0,), (1,), (0, 0), (1, 0)]),
        ({"expansion": None, "paths": "0 2 2.1"}, [(0,), (2,), (2, 1)]),
    ],
)
def test_a_static_tree_follows_its_parameters(params: Params, nodes: list[NodePath]) -> None:
    made = drafting_for(Configuration(label="", method=Method.STATIC_TREE, params=params))
    assert isinstance(made, StaticTree)
    assert ranks_of(grow(made, certain)) == set(nodes)


def test_the_other_methods_follow_their_parameters() -> None:
    bounds: Params = {"depth": 5, "width": 4, "max_nodes": 9}
    assert drafting_for(Configuration(label="", method=Method.BEST_FIRST, params=bounds)) == BestFirst(
        depth=5, width=4, max_nodes=9
    )
    assert drafting_for(Configuration(label="", method=Method.COST_AWARE, params=bounds), FLAT) == CostAware(
        depth=5, width=4, max_nodes=9, calibration=FLAT
    )
    lookup: Params = {"k": 5, "ngram": 2}
    assert drafting_for(Configuration(label="", method=Method.PROMPT_LOOKUP, params=lookup)) == PromptLookup(
        k=5, ngram=2
    )


def test_dynatree_follows_its_parameters() -> None:
    params: dict[str, Any] = {
        "depth": 3,
        "max_depth": 6,
        "branch_min": 1,
        "branch_mid": 2,
        "branch_max": 4,
        "confidence_high": 0.9,
        "confidence_low": 0.4,
        "stop_probability": 0.05,
        "deep_probability": 0.3,
        "history_window": 8,
        "history_target": 0.6,
        "history_step": 0.05,
        "max_nodes": 64,
        "branch_phase": True,
        "depth_phase": False,
        "history_phase": True,
    }
    made = drafting_for(Configuration(label="", method=Method.DYNATREE, params=params))
    expected = {"depth_target" if name == "depth" else name: value for name, value in params.items()}
    assert made == DynaTree(**expected)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_a_sweep_file_drafts_or_needs_none(method: Method) -> None:
    """With the defaults that the sweep file fills in: none of them is left for the engine to guess."""
    parameters = METHODS[method]
    given: dict[str, Any] = {"k": 4} if "k" in parameters.model_fields else {}
    if method is Method.TREE:
        given = {"depth": 3, "branch": 2}
    elif method is Method.STATIC_TREE:
        given = {"expansion": "3-2"}
    configuration = Configuration(label="", method=method, params=parameters.model_validate(given).resolved())
    drafts = drafting_for(configuration, FLAT) is not None
    assert drafts == (method is not Method.AR and not method.is_peer)


def test_a_cost_aware_tree_without_a_calibration_is_a_mistake_of_ours() -> None:
    bounds: Params = {"depth": 5, "width": 4, "max_nodes": 9}
    with pytest.raises(ValueError, match="needs a calibration"):
        drafting_for(Configuration(label="", method=Method.COST_AWARE, params=bounds))


def test_a_parameter_that_was_not_resolved_is_a_mistake_of_ours() -> None:
    with pytest.raises(TypeError, match="k must be resolved"):
        drafting_for(Configuration(label="Linear", method=Method.LINEAR, params={"k": None}))
