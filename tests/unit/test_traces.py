"""The tree of a round, built of what the loop kept: which nodes it has, and what became of them."""

from __future__ import annotations

from typing import Any

import pytest
from dyna_eval_workers.growth import Candidates, Selection
from dyna_eval_workers.growth.cost_aware import CostAware
from dyna_eval_workers.growth.trees import BestFirst
from dyna_eval_workers.traces import MAX_KEPT_NODES, Trace, draft_tree
from dyna_eval_workers.tree import ROOT, Tree

from dyna_eval.jobs import GenerationSpec
from dyna_eval.measurements import Calibration, DraftTree
from tests.models import near, tiny_gpt_neox
from tests.runners import decoder

PROMPT = (17, 5, 250, 31, 8)
CHEAP_DRAFT = Calibration(draft_seconds=((1, 1e-4), (16, 2e-4)), verify_seconds=((1, 1e-3), (64, 2e-3)))


def accepted_after_one_left_out(tree: DraftTree) -> bool:
    """Whether an accepted node has another place among all that grew than among those that were verified."""
    last = max(index for index, node in enumerate(tree.nodes) if node.accepted)
    return not all(node.verified for node in tree.nodes[:last])


@pytest.mark.parametrize(
    "policy",
    [
        BestFirst(depth=6, width=3, max_nodes=6),
        CostAware(calibration=CHEAP_DRAFT, depth=6, width=3, max_nodes=6),
    ],
    ids=lambda policy: type(policy).__name__,
)
def test_the_accepted_nodes_of_a_reranked_tree_spell_what_was_emitted(policy: Any) -> None:
    """They are counted among the verified ones, which stand elsewhere among all that grew."""
    target = tiny_gpt_neox(seed=1)
    decoded = decoder(target, near(target, noise=0.02), end_tokens=()).decode(
        PROMPT, GenerationSpec(max_new_tokens=40, temperature=1.0), policy, seed="1", kept_traces=100
    )
    trees = [draft_tree(trace, str) for trace in decoded.traces]
    assert any(accepted_after_one_left_out(tree) for tree in trees)
    spelt = [
        token
        for tree in trees
        for token in (*(node.token for node in tree.nodes[1:] if node.accepted), tree.bonus)
    ]
    assert tuple(spelt) == decoded.token_ids
    for tree in trees:
        assert all(node.verified for node in tree.nodes if node.accepted)
        assert all(tree.nodes[node.parent].accepted for node in tree.nodes[1:] if node.accepted)


def test_of_a_very_large_tree_the_accepted_path_is_kept_and_what_grew_first() -> None:
    """Of 600 nodes: the pending token, 299 children, 200 children of the last of them, 100 that none took."""
    tree = Tree.with_root(9)
    children = [tree.add(ROOT, token, -1.0) for token in range(299)]
    last = [tree.add(children[-1], token, -2.0) for token in range(200)][-1]
    left_out = Candidates(
        parent=[children[0]] * 100,
        token=list(range(100)),
        log_probability=[-3.0] * 100,
        rank=list(range(100)),
        confidence=[0.5] * 100,
    )
    nothing = Selection(kept=[], grows=[])
    path = [ROOT, children[-1], last]
    choices = [0] * len(tree)
    choices[ROOT], choices[children[-1]], choices[last] = 298, 199, 77
    built = draft_tree(Trace(tree, None, [(left_out, nothing)], choices, path, emitted=3), str)

    assert (len(built.nodes), built.omitted) == (MAX_KEPT_NODES, 600 - MAX_KEPT_NODES) == (512, 88)
    assert [(node.token, node.text) for node in built.nodes if node.accepted] == [
        (9, "9"),
        (298, "298"),
        (199, "199"),
    ]
    assert (built.bonus, built.bonus_text) == (77, "77")
    assert all(-1 <= node.parent < index for index, node in enumerate(built.nodes))
    assert [node.token for node in built.nodes[:500]] == tree.token
    assert [built.nodes[node.parent].token for node in built.nodes[500:]] == [0] * 12


def test_the_accepted_path_is_kept_wherever_in_a_very_large_tree_it_ends() -> None:
    tree = Tree.with_root(9)
    children = [tree.add(ROOT, token, -1.0) for token in range(299)]
    last = [tree.add(children[-1], token, -2.0) for token in range(300)][-1]
    choices = [0] * len(tree)
    choices[ROOT], choices[children[-1]] = 298, 299
    built = draft_tree(Trace(tree, None, [], choices, [ROOT, children[-1], last], emitted=2), str)

    assert (len(built.nodes), built.omitted) == (512, 88)
    assert [node.token for node in built.nodes if node.accepted] == [9, 298, 299]
    assert built.nodes[built.nodes[-1].parent].token == 298
    assert built.bonus is None, "an end token came before it"
