"""The sweep files that a user starts from are valid, and are the published four-step ablation."""

from __future__ import annotations

from pathlib import Path

import pytest

from dyna_eval.jobs import Method
from dyna_eval.sweeps.config import load_sweep

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_an_example_is_a_valid_sweep_named_like_its_file(path: Path) -> None:
    assert load_sweep(path).name == path.stem


@pytest.mark.parametrize("name", ["four-step", "pythia-wikitext2"])
def test_the_four_steps_add_a_draft_a_tree_and_pruning(name: str) -> None:
    spec = load_sweep(EXAMPLES / f"{name}.yaml")

    assert spec.merged == ()
    assert [(row.label, row.method) for row in spec.configurations] == [
        ("Baseline", Method.AR),
        ("+ Draft model", Method.LINEAR),
        ("+ Tree structure", Method.TREE),
        ("+ Adaptive pruning", Method.TREE),
    ]
    assert spec.baseline == "Baseline"
    unpruned, pruned = (row.params for row in spec.configurations[2:])
    assert (unpruned["threshold"], unpruned["max_nodes"]) == (0.0, 255)
    threshold = pruned["threshold"]
    assert isinstance(threshold, float)
    assert threshold > 0
    same = ("depth", "branch", "root_branch", "prune")
    assert [unpruned[key] for key in same] == [pruned[key] for key in same]


def test_the_published_setting_is_kept() -> None:
    spec = load_sweep(EXAMPLES / "pythia-wikitext2.yaml")

    (pair,) = spec.pairs
    assert (pair.target, pair.draft, pair.dtype) == (
        "EleutherAI/pythia-2.8b",
        "EleutherAI/pythia-70m",
        "float16",
    )
    assert (spec.prompts.dataset, spec.prompts.name, spec.prompts.split) == (
        "Salesforce/wikitext",
        "wikitext-2-raw-v1",
        "test",
    )
    assert (spec.prompts.limit, spec.prompts.max_prompt_tokens) == (10, 200)
    assert spec.generation.max_new_tokens == 500


def test_the_fixed_tree_sweep_is_the_published_grid_and_chooses_on_other_prompts() -> None:
    spec = load_sweep(EXAMPLES / "fixed-tree.yaml")
    trees = [row.params for row in spec.configurations if row.method is Method.TREE]

    assert len({(row["depth"], row["branch"], row["threshold"]) for row in trees}) == len(trees) == 6 * 3 * 5
    assert spec.measure.tune_fraction == 0.5


def test_sensitivity_links_its_lists_instead_of_multiplying_them() -> None:
    spec = load_sweep(EXAMPLES / "sensitivity.yaml")
    rows = len(spec.configurations) + len(spec.merged)

    assert rows == 2 + 12 + 5 + 6
    assert [merged.into for merged in spec.merged] == ["Default"]


def test_the_three_steps_are_the_four_without_the_unpruned_tree() -> None:
    three, four = (load_sweep(EXAMPLES / f"{name}-step.yaml") for name in ("three", "four"))
    assert three.configurations == (*four.configurations[:2], four.configurations[3])
    assert (three.pairs, three.prompts, three.generation) == (four.pairs, four.prompts, four.generation)


def test_the_trees_of_the_memory_example_are_whole() -> None:
    spec = load_sweep(EXAMPLES / "memory.yaml")
    sizes = [
        2 ** (int(str(row.params["depth"])) + 1) - 2 for row in spec.configurations if "depth" in row.params
    ]
    assert (min(sizes), max(sizes)) == (14, 1022)
    assert spec.merged == ()


def test_the_main_table_sets_transformers_own_loops_beside_ours_on_two_data_sets() -> None:
    spec = load_sweep(EXAMPLES / "main-table.yaml")

    assert len(spec.pairs) == 2
    assert {pair.prompts.dataset for pair in spec.pairs if pair.prompts} == {
        "Salesforce/wikitext",
        "emozilla/pg19-test",
    }
    assert {Method.HF_GENERATE, Method.HF_ASSISTED} <= {row.method for row in spec.configurations}
