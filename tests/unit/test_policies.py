"""Which candidates of a level join the draft tree, and which of them grow on."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from dyna_eval_workers.policies import Selection, TopBranches, policy_for
from hypothesis import given, settings
from hypothesis import strategies as st

from dyna_eval.jobs import Configuration, Method, Params


def policy(**changes: Any) -> TopBranches:
    settings: dict[str, Any] = {
        "depth": 4,
        "branches": 2,
        "root_branches": 2,
        "threshold": 0.0,
        "max_nodes": 30,
    }
    return TopBranches(**(settings | changes))


def select(policy: TopBranches, probabilities: list[float], room: int = 30) -> Selection:
    return policy.select(torch.tensor(probabilities).log(), room)


def test_without_a_threshold_every_candidate_joins_and_grows() -> None:
    selection = select(policy(), [0.5, 1e-30, 0.2, 0.0])
    assert selection.kept.tolist() == [0, 1, 2, 3]
    assert selection.grows.tolist() == [True] * 4
    assert not selection.capped


def test_a_node_under_the_threshold_leaves_the_tree() -> None:
    selection = select(policy(threshold=0.1), [0.5, 0.01, 0.2, 0.099])
    assert selection.kept.tolist() == [0, 2]
    assert selection.grows.tolist() == [True, True]


def test_pruned_by_expansion_a_node_under_the_threshold_stays_as_a_leaf() -> None:
    selection = select(policy(threshold=0.1, drop_pruned=False), [0.5, 0.01, 0.2, 0.099])
    assert selection.kept.tolist() == [0, 1, 2, 3]
    assert selection.grows.tolist() == [True, False, True, False]


def test_a_node_on_the_threshold_is_kept() -> None:
    selection = policy(threshold=0.25).select(torch.tensor([math.log(0.25)], dtype=torch.float64), 5)
    assert selection.kept.tolist() == [0]


def test_a_threshold_that_no_candidate_reaches_keeps_none() -> None:
    selection = select(policy(threshold=0.9), [0.5, 0.4])
    assert selection.kept.tolist() == []
    assert selection.grows.tolist() == []
    assert not selection.capped


def test_a_cap_keeps_the_likeliest_in_breadth_first_order() -> None:
    selection = select(policy(), [0.1, 0.4, 0.05, 0.3], room=2)
    assert selection.kept.tolist() == [1, 3]
    assert selection.capped


def test_a_cap_that_is_just_met_does_not_bind() -> None:
    assert not select(policy(), [0.1, 0.4], room=2).capped


def test_a_threshold_comes_before_the_cap() -> None:
    """Pruned nodes take no room, so a cap that only they would overrun does not bind."""
    selection = select(policy(threshold=0.2), [0.1, 0.4, 0.05, 0.3], room=2)
    assert selection.kept.tolist() == [1, 3]
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
    """The rule over again in plain Python: prune, then the `room` likeliest, in the order they came."""
    joint = torch.tensor(probabilities).log()
    chosen = policy(threshold=threshold, drop_pruned=drop_pruned).select(joint, room)
    bound = float(torch.tensor(math.log(threshold))) if threshold else -math.inf  # float32, as the others
    likely = [value >= bound for value in joint.tolist()]
    candidates = [i for i in range(len(probabilities)) if likely[i] or not drop_pruned]
    kept = chosen.kept.tolist()
    assert chosen.capped == (len(candidates) > room)
    assert len(kept) == min(room, len(candidates))
    assert kept == sorted(set(kept))
    assert set(kept) <= set(candidates)
    left_out = [float(joint[i]) for i in candidates if i not in kept]
    assert not left_out or max(left_out) <= min(float(joint[i]) for i in kept)
    assert chosen.grows.tolist() == [likely[i] for i in kept]


def test_the_root_may_have_a_branch_of_its_own() -> None:
    narrow = policy(branches=3, root_branches=1)
    assert [narrow.branch(level) for level in (1, 2, 3)] == [1, 3, 3]


def test_ar_has_no_policy() -> None:
    assert policy_for(Configuration(label="Baseline", method=Method.AR, params={})) is None


def test_linear_is_a_tree_of_one_branch() -> None:
    configuration = Configuration(label="+ Draft model", method=Method.LINEAR, params={"k": 6})
    assert policy_for(configuration) == policy(depth=6, branches=1, root_branches=1, max_nodes=6)


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
    assert policy_for(Configuration(label="Tree", method=Method.TREE, params=params)) == TopBranches(
        depth=7, branches=3, root_branches=1, threshold=0.05, max_nodes=99, drop_pruned=drop_pruned
    )


def test_a_parameter_that_was_not_resolved_is_a_mistake_of_ours() -> None:
    with pytest.raises(TypeError, match="k must be resolved"):
        policy_for(Configuration(label="Linear", method=Method.LINEAR, params={"k": None}))
