"""Lists become rows, rows that do the same become one, and jobs come in blocks of one repeat."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dyna_eval.errors import PairError
from dyna_eval.jobs import (
    Backend,
    Configuration,
    MergedConfiguration,
    Method,
    Pair,
    PairSpec,
    Prompt,
    PromptSet,
    ResolvedSweep,
    SweepSpec,
    digest,
)
from dyna_eval.measurements import Calibration
from dyna_eval.methods import METHODS, MethodParameters, StaticTree, Tree
from dyna_eval.sweeps.config import parse_sweep
from dyna_eval.sweeps.expansion import (
    axes_of,
    block_of_jobs,
    count_points,
    expand,
    jobs_for,
    merge_equal,
    sweep_digest,
)
from dyna_eval.time_left import Basis, planned_time

HEAD = "pair: [demo, {target: org/big, draft: org/small}]\nprompts: {dataset: demo}\nconfigs:\n"
AR = "  - {label: Baseline, method: ar}\n"


def sweep_of(*rows: str, head: str = "") -> SweepSpec:
    return parse_sweep(head + HEAD + AR + "".join(f"  - {row}\n" for row in rows), file="sweep.yaml")


def labels(spec: SweepSpec) -> list[str]:
    return [row.label for row in spec.configurations]


def pair(name: str, content: str) -> Pair:
    return Pair(
        spec=PairSpec(name=name, target=name, draft=name),
        dtype="float32",
        target_digest=content,
        draft_digest=content,
        tokenizer_digest="tokenizer",
    )


PAIRS = (pair("demo", "a"), pair("big/small", "b"))
PROMPTS = {"demo": "prompts-a", "big/small": "prompts-b"}


# ------------------------------------------------------------------------ expansion


def test_several_lists_multiply_and_the_label_names_what_was_swept() -> None:
    spec = sweep_of("{label: Sweep, method: tree, depth: [4, 6], branch: [2, 3], threshold: 0.05}")

    assert labels(spec)[1:] == [
        "Sweep (depth=4, branch=2)",
        "Sweep (depth=4, branch=3)",
        "Sweep (depth=6, branch=2)",
        "Sweep (depth=6, branch=3)",
    ]
    assert [(row.params["depth"], row.params["branch"]) for row in spec.configurations[1:]] == [
        (4, 2),
        (4, 3),
        (6, 2),
        (6, 3),
    ]


def test_zip_links_lists() -> None:
    spec = sweep_of(
        "{label: Z, method: tree, depth: [4, 6], threshold: [0.1, 0.2], branch: [3, 2], zip: [depth, branch]}"
    )

    assert labels(spec)[1:] == [
        "Z (depth=4, threshold=0.1, branch=3)",
        "Z (depth=4, threshold=0.2, branch=3)",
        "Z (depth=6, threshold=0.1, branch=2)",
        "Z (depth=6, threshold=0.2, branch=2)",
    ]


def test_zip_may_link_several_groups() -> None:
    groups = "zip: [[depth, branch], [threshold, prune]]"
    lists = "depth: [4, 6], branch: [3, 2], threshold: [0.1, 0.2], prune: [node, expansion]"
    spec = sweep_of(f"{{label: Z, method: tree, {lists}, {groups}}}")

    assert len(spec.configurations) == 1 + 2 * 2
    assert {(row.params["threshold"], row.params["prune"]) for row in spec.configurations[1:]} == {
        (0.1, "node"),
        (0.2, "expansion"),
    }


swept = st.dictionaries(
    st.sampled_from(["depth", "branch", "threshold", "max_nodes", "root_branch"]),
    st.integers(1, 9) | st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True),
    max_size=5,
)


@settings(database=None, deadline=None)
@given(swept)
def test_expansion_yields_every_combination_once(parameters: dict[str, object]) -> None:
    axes = axes_of(parameters)
    points = list(expand("X", parameters, axes))

    choices = [value if isinstance(value, list) else [value] for value in parameters.values()]
    assert [tuple(point.parameters.values()) for point in points] == list(itertools.product(*choices))
    assert count_points(axes) == len(points) == len({point.label for point in points})


# --------------------------------------------------------------------------- merging


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("method: linear, k: 3", "method: linear, k: 3", "the same method and parameters"),
        (
            "method: linear, k: 3",
            "method: tree, depth: 3, branch: 1",
            "an unpruned tree of branch 1 is linear with k=3",
        ),
        (
            "method: linear, k: 3",
            "method: tree, depth: 3, branch: 1, max_nodes: 9, prune: expansion",
            "a cap of 9 cannot bind in a tree of 3 draft nodes; threshold 0 prunes nothing; "
            "an unpruned tree of branch 1 is linear with k=3",
        ),
        (
            "method: linear, k: 1",
            "method: tree, depth: 1, branch: 5, root_branch: 1",
            "at depth 1 only the root has children; an unpruned tree of branch 1 is linear with k=1",
        ),
        (
            "method: static_tree, expansion: 2-1-2",
            "method: static_tree, paths: 1 0 1.0 0.0 0.0.0 0.0.1 1.0.1 1.0.0",
            "its nodes are the same",
        ),
        (
            "method: tree, depth: 3, branch: 2, root_branch: 4",
            "method: static_tree, expansion: 4-2-2",
            "a static tree of equal levels is an unpruned tree",
        ),
        (
            "method: linear, k: 3",
            "method: static_tree, paths: 0 0.0 0.0.0",
            "a static tree of equal levels is an unpruned tree; "
            "an unpruned tree of branch 1 is linear with k=3",
        ),
        (
            "method: tree, depth: 7, branch: 2",
            "method: tree, depth: 7, branch: 2, max_nodes: 255",
            "a cap of 255 cannot bind in a tree of 254 draft nodes",
        ),
        (
            "method: tree, depth: 2, branch: 2",
            "method: tree, depth: 2, branch: 2, threshold: 0.0, prune: expansion, root_branch: 2",
            "threshold 0 prunes nothing",
        ),
        (
            "method: dynatree, depth_phase: false, history_phase: false",
            "method: dynatree, depth_phase: false, history_phase: false, max_depth: 9, history_window: 2",
            "a phase that is switched off leaves its parameters unused",
        ),
        (
            "method: dynatree, branch_phase: false",
            "method: dynatree, branch_phase: false, history_phase: false",
            "without branch_phase there are no confidence bounds for history_phase to move",
        ),
        (
            "method: tree, depth: 5, branch: 2",
            "method: dynatree, branch_phase: false, depth_phase: false, branch_max: 7",
            "dynatree without its phases is an unpruned tree of branch 2; "
            "a cap of 64 cannot bind in a tree of 62 draft nodes",
        ),
        (
            "method: linear, k: 5",
            "method: dynatree, branch_phase: false, depth_phase: false, branch_mid: 1, max_nodes: 5",
            "dynatree without its phases is an unpruned tree of branch 1; "
            "an unpruned tree of branch 1 is linear with k=5",
        ),
        (
            "method: tree, depth: 1, branch: 4",
            "method: tree, depth: 1, branch: 4, threshold: 0.3, prune: expansion",
            "at depth 1 only the root has children; at depth 1 prune: expansion drops nothing",
        ),
    ],
)
def test_rows_that_do_the_same_are_merged_into_the_earlier(first: str, second: str, reason: str) -> None:
    spec = sweep_of(f"{{label: A, {first}}}", f"{{label: B, {second}}}")

    assert labels(spec) == ["Baseline", "A"]
    assert spec.merged == (MergedConfiguration(label="B", into="A", reason=reason),)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("method: linear, k: 3", "method: tree, depth: 3, branch: 1, threshold: 0.000001"),
        ("method: linear, k: 3", "method: tree, depth: 3, branch: 1, max_nodes: 2"),
        ("method: linear, k: 2", "method: tree, depth: 3, branch: 1, max_nodes: 2"),
        ("method: linear, k: 3", "method: tree, depth: 3, branch: 1, root_branch: 2"),
        ("method: tree, depth: 7, branch: 2", "method: tree, depth: 7, branch: 2, max_nodes: 253"),
        (
            "method: tree, depth: 2, branch: 2, threshold: 0.1",
            "method: tree, depth: 2, branch: 2, threshold: 0.1, prune: expansion",
        ),
        (
            "method: tree, depth: 1, branch: 2, threshold: 0.1",
            "method: tree, depth: 1, branch: 2",
        ),
        ("method: dynatree, history_phase: false", "method: dynatree"),
        ("method: dynatree, depth_phase: false", "method: dynatree"),
        ("method: dynatree, depth_phase: false", "method: dynatree, depth_phase: false, history_window: 2"),
        ("method: dynatree, branch_phase: false", "method: dynatree, branch_phase: false, max_depth: 9"),
        (
            "method: tree, depth: 5, branch: 2",
            "method: dynatree, branch_phase: false, depth_phase: false, max_nodes: 61",
        ),
        ("method: hf_generate", "method: hf_generate, cache: static"),
    ],
)
def test_rows_that_may_differ_are_kept(first: str, second: str) -> None:
    spec = sweep_of(f"{{label: A, {first}}}", f"{{label: B, {second}}}")

    assert labels(spec) == ["Baseline", "A", "B"]
    assert spec.merged == ()


def test_a_row_that_was_written_out_is_kept_before_one_from_a_list() -> None:
    spec = sweep_of("{label: S, method: linear, k: [2, 3]}", "{label: Mine, method: linear, k: 3}")

    assert labels(spec) == ["Baseline", "S (k=2)", "Mine"]
    assert [(row.label, row.into) for row in spec.merged] == [("S (k=3)", "Mine")]


def test_the_baseline_is_kept_before_any_other_row() -> None:
    spec = sweep_of("{label: AR again, method: ar}", head="baseline: AR again\n")

    assert labels(spec) == ["AR again"]
    assert [(row.label, row.into) for row in spec.merged] == [("Baseline", "AR again")]


def unpruned_nodes(depth: int, branch: int, root_branch: int) -> int:
    return sum(root_branch * branch ** (level - 1) for level in range(1, depth + 1))


trees = st.builds(
    Tree,
    depth=st.integers(1, 4),
    branch=st.integers(1, 3),
    threshold=st.sampled_from([0.0, 0.1]),
    prune=st.sampled_from(["node", "expansion"]),
    root_branch=st.none() | st.integers(1, 3),
    max_nodes=st.none() | st.integers(1, 130),
)


@settings(database=None, deadline=None)
@given(st.lists(trees, min_size=1, max_size=30))
def test_merging_loses_no_row_and_merges_into_kept_rows_only(models: list[Tree]) -> None:
    rows = [
        Configuration(label=str(i), method=Method.TREE, params=model.resolved())
        for i, model in enumerate(models)
    ]
    kept, merged = merge_equal(rows, baseline="0")

    assert "0" in {row.label for row in kept}
    assert sorted([row.label for row in kept] + [row.label for row in merged]) == sorted(
        row.label for row in rows
    )
    assert {row.into for row in merged} <= {row.label for row in kept}
    assert merge_equal(kept, baseline="0") == (kept, ())
    for row in merged:  # what is merged has trees of one size and one cap that binds, or none
        first, second = models[int(row.label)], models[int(row.into)]
        assert _grown(first) == _grown(second)


def _grown(tree: Tree) -> tuple[object, ...]:
    params = tree.resolved()
    depth, branch, root = int(params["depth"]), int(params["branch"]), int(params["root_branch"])  # type: ignore[arg-type]
    nodes = unpruned_nodes(depth, branch, root)
    return depth, root, nodes, min(nodes, int(params["max_nodes"]))  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_the_resolved_parameters_of_every_method_are_valid_and_mean_the_same(
    method: type[MethodParameters],
) -> None:
    required: dict[str, object] = {
        name: 2 for name, field in method.model_fields.items() if field.is_required()
    }
    if method is StaticTree:
        required = {"expansion": "3-1-2"}
    given = method.model_validate(required)
    again = method.model_validate(dict(given.resolved()))

    assert (again.resolved(), again.meaning()) == (given.resolved(), given.meaning())


@settings(database=None, deadline=None)
@given(trees)
def test_resolving_twice_changes_nothing(tree: Tree) -> None:
    params = tree.resolved()

    assert METHODS[Method.TREE].model_validate(dict(params)).resolved() == params
    nodes = unpruned_nodes(tree.depth, tree.branch, tree.root_branch or tree.branch)
    assert params["max_nodes"] == (tree.max_nodes or nodes)


# ------------------------------------------------------------------------------ jobs


@pytest.fixture(name="spec", scope="module")
def _spec() -> SweepSpec:
    return sweep_of("{label: L, method: linear, k: [1, 2, 3, 4, 5, 6, 7, 8]}")


def test_every_configuration_runs_once_per_repeat_and_pair(spec: SweepSpec) -> None:
    jobs = jobs_for(spec, PAIRS, PROMPTS)

    assert [job.position for job in jobs] == list(range(2 * 3 * 9))
    assert [job.pair.spec.name for job in jobs] == ["demo"] * 27 + ["big/small"] * 27
    assert [job.repeat for job in jobs] == ([0] * 9 + [1] * 9 + [2] * 9) * 2
    for start in range(0, len(jobs), 9):
        block = Counter(job.configuration.label for job in jobs[start : start + 9])
        assert block == Counter(labels(spec))
    assert len({(job.key, job.repeat) for job in jobs}) == len(jobs)
    assert {job.prompt_set for job in jobs[:27]} == {"prompts-a"}


def test_the_order_is_random_but_follows_from_the_seed(spec: SweepSpec) -> None:
    def order(of: SweepSpec) -> list[str]:
        return [job.configuration.label for job in jobs_for(of, PAIRS[:1], PROMPTS)]

    reseeded = replace(spec, generation=replace(spec.generation, seed=1))

    assert order(spec) == order(spec) != order(reseeded)
    assert order(spec)[:9] != order(spec)[9:18] != labels(spec)


def test_pairs_of_the_same_models_are_refused(spec: SweepSpec) -> None:
    with pytest.raises(PairError, match="'demo' and 'copy' are the same models, prompts and generation"):
        jobs_for(spec, (PAIRS[0], pair("copy", "a")), {"demo": "p", "copy": "p"})


def test_the_digest_of_a_sweep_follows_what_it_runs(spec: SweepSpec) -> None:
    def identity(of: SweepSpec, pairs: tuple[Pair, ...] = PAIRS) -> str:
        return sweep_digest(of, jobs_for(of, pairs, PROMPTS))

    same = replace(spec, source="other text")
    slower = replace(spec, measure=replace(spec.measure, job_timeout_s=600.0))
    assert identity(spec) == identity(same) == identity(slower)

    others = [
        replace(spec, name="other"),
        replace(spec, baseline="L (k=1)"),
        replace(spec, configurations=spec.configurations[::-1]),
        replace(spec, configurations=spec.configurations[:-1]),
        replace(spec, measure=replace(spec.measure, repeats=2)),
        replace(spec, measure=replace(spec.measure, confidence=0.9)),
        replace(spec, measure=replace(spec.measure, store_trees=2)),
        replace(spec, generation=replace(spec.generation, max_new_tokens=2)),
    ]
    digests = {identity(spec), *(identity(other) for other in others)}
    digests.add(identity(spec, (PAIRS[0], pair("big/small", "other content"))))
    digests.add(identity(spec, (PAIRS[0], replace(PAIRS[1], backend=Backend.EAGER))))
    digests.add(identity(spec, (PAIRS[0], replace(PAIRS[1], dtype="float16"))))
    assert len(digests) == len(others) + 4


def test_the_end_token_is_part_of_a_job_where_generation_stops_at_it(spec: SweepSpec) -> None:
    stopping = replace(spec, generation=replace(spec.generation, stop_at_eos=True))
    known, more, none = (replace(PAIRS[0], end_tokens=tokens) for tokens in ((0,), (0, 7), ()))

    def keys(of: SweepSpec, of_pair: Pair) -> list[str]:
        return [job.key for job in jobs_for(of, (of_pair,), PROMPTS)]

    assert keys(spec, known) == keys(spec, more) == keys(spec, none)
    assert not set(keys(stopping, known)) & set(keys(stopping, more))
    assert not set(keys(stopping, known)) & set(keys(stopping, none))


def test_one_pair_may_run_in_two_dtypes_or_on_two_backends(spec: SweepSpec) -> None:
    for changes in ({"dtype": "float16"}, {"backend": Backend.EAGER}):
        copy = replace(pair("copy", "a"), **changes)
        jobs = jobs_for(spec, (PAIRS[0], copy), {"demo": "p", "copy": "p"})
        assert len({job.key for job in jobs}) == 2 * len(spec.configurations)


SETTINGS = "generation: {max_new_tokens: [16, 64], temperature: 1, seed: 5}\n"
"""Two generation settings, of which each pair is there once for each."""


def of_settings(spec: SweepSpec) -> tuple[tuple[Pair, ...], dict[str, str]]:
    """Return the pairs of a sweep as if they had been inspected, and their prompts."""
    models = {"demo": PAIRS[0], "big/small": PAIRS[1]}
    pairs = tuple(replace(models[own.name.partition(" at ")[0]], spec=own) for own in spec.pairs)
    return pairs, {own.name: PROMPTS[own.name.partition(" at ")[0]] for own in spec.pairs}


def test_a_job_of_one_setting_among_several_is_the_job_of_a_sweep_of_that_setting_alone() -> None:
    row = "{label: L, method: linear, k: [1, 2, 3, 4, 5, 6, 7, 8]}"
    both = sweep_of(row, head=SETTINGS)
    jobs = jobs_for(both, *of_settings(both))

    assert [job.pair.spec.name for job in jobs[:: 3 * 9]] == [
        "demo at 16 new tokens",
        "demo at 64 new tokens",
        "big/small at 16 new tokens",
        "big/small at 64 new tokens",
    ]
    for tokens in (16, 64):
        alone = sweep_of(row, head=SETTINGS.replace("[16, 64]", str(tokens)))
        own = [job for job in jobs if job.generation.max_new_tokens == tokens]
        assert [(job.key, job.repeat, job.configuration) for job in own] == [
            (job.key, job.repeat, job.configuration) for job in jobs_for(alone, *of_settings(alone))
        ]
        assert {job.generation for job in own} == {alone.generation}
    assert len({(job.key, job.repeat) for job in jobs}) == len(jobs)


@pytest.mark.parametrize("tokens", ["16", "[16]"])
def test_a_file_of_one_setting_has_the_identity_that_it_had_before_there_could_be_several(
    tokens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dyna_eval.jobs.IDENTITY_VERSION", 2)
    monkeypatch.setattr("dyna_eval.jobs.DECODER_VERSION", 8)
    spec = sweep_of("{label: L, method: linear, k: 2}", head=SETTINGS.replace("[16, 64]", tokens))
    jobs = jobs_for(spec, PAIRS, PROMPTS)

    assert sweep_digest(spec, jobs)[:16] == "feb8c65d87208e61"
    assert digest([job.key for job in jobs])[:16] == "9e7e6a23241a5a1f"


def test_a_block_that_is_added_has_the_settings_of_its_pair() -> None:
    spec = sweep_of(head=SETTINGS)
    pairs, prompts = of_settings(spec)
    for own in pairs:
        [job] = block_of_jobs(spec, own, prompts[own.spec.name], repeat=7, first_position=0)
        assert job.generation == own.spec.generation
        assert job.is_current


def test_actors_go_from_one_setting_of_a_pair_to_the_next_without_loading_it_again() -> None:
    (short, long, other, _), _ = of_settings(sweep_of(head=SETTINGS))
    assert short.same_models(long)
    assert not short.same_models(other)


# -------------------------------------------------------------------------- estimates


def resolved_sweep(spec: SweepSpec) -> ResolvedSweep:
    prompts = tuple(Prompt(index=i, text="", token_ids=(1,), digest=str(i)) for i in range(4))
    return ResolvedSweep(
        spec=spec,
        digest="d",
        pairs=PAIRS,
        prompt_sets={name: PromptSet(digest=digest, prompts=prompts) for name, digest in PROMPTS.items()},
        jobs=jobs_for(spec, PAIRS, PROMPTS),
    )


def test_a_sweep_is_estimated_at_the_speed_of_each_pairs_target_alone(spec: SweepSpec) -> None:
    """27 jobs per pair, a run of the actor's own before every eighth: 31 times 4 prompts of 128 tokens."""
    fast = Calibration(draft_seconds=(), verify_seconds=((1, 0.001), (8, 0.5)))
    slow = Calibration(draft_seconds=(), verify_seconds=((1, 0.010),))
    found = planned_time(resolved_sweep(spec), {"demo": fast, "big/small": slow})

    assert found
    assert (found.seconds, found.basis) == (pytest.approx(31 * 4 * 128 * (0.001 + 0.010)), Basis.CALIBRATION)


def test_a_pair_without_a_calibration_is_left_out_of_an_estimate(spec: SweepSpec) -> None:
    known = {"demo": Calibration(draft_seconds=(), verify_seconds=((1, 0.001),))}

    found = planned_time(resolved_sweep(spec), known)
    assert found
    assert (found.seconds, found.unknown) == (pytest.approx(31 * 4 * 128 * 0.001), ("big/small",))
    assert planned_time(resolved_sweep(spec), {}) is None


def test_each_setting_is_estimated_by_its_own_length() -> None:
    """One row on two pairs, so a job for each repeat: 3 and a run of the actor's own, over 4 prompts."""
    spec = sweep_of(head=SETTINGS)
    pairs, prompts = of_settings(spec)
    prompt = Prompt(index=0, text="", token_ids=(1,), digest="0")
    sweep = ResolvedSweep(
        spec=spec,
        digest="d",
        pairs=pairs,
        prompt_sets={name: PromptSet(digest=own, prompts=(prompt,) * 4) for name, own in prompts.items()},
        jobs=jobs_for(spec, pairs, prompts),
    )
    known = dict.fromkeys(prompts, Calibration(draft_seconds=(), verify_seconds=((1, 0.001),)))

    found = planned_time(sweep, known)
    assert found
    assert found.seconds == pytest.approx(2 * (3 + 1) * 4 * (16 + 64) * 0.001)
