"""In which words a sweep differs from an earlier one of its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dyna_eval import jobs
from dyna_eval.jobs import Pair, PairSpec, PromptSet, ResolvedSweep, SweepSpec
from dyna_eval.sweeps.config import parse_sweep
from dyna_eval.sweeps.differences import differences, named
from dyna_eval.sweeps.expansion import resolved

FILE = """\
name: mine
pair: [{target: org/big, draft: org/small, name: first}, {target: org/big, draft: org/tiny, name: second}]
prompts: {dataset: demo, limit: 4}
generation: {max_new_tokens: 8, seed: 0}
measure: {repeats: 2, confidence: 0.95}
baseline: Baseline
configs:
  - {label: Baseline, method: ar}
  - {label: + Draft, method: linear, k: 4}
  - {label: Trees, method: tree, depth: [3, 4], branch: 2, threshold: 0.05}
"""


def sweep(text: str = FILE, **changed: Any) -> ResolvedSweep:
    """Resolve a file without models: digests are of their names, but what is changed of the first pair."""
    spec: SweepSpec = parse_sweep(text, file="sweep.yaml")
    pairs = [inspected(pair) for pair in spec.pairs]
    pairs[0] = replace(pairs[0], **changed)
    prompts = {
        pair.name: PromptSet(digest=jobs.digest(str(pair.prompts or spec.prompts)), prompts=())
        for pair in spec.pairs
    }
    return resolved(spec, pairs, prompts)


def inspected(spec: PairSpec) -> Pair:
    return Pair(
        spec=spec,
        dtype="float32",
        target_digest=jobs.digest(spec.target),
        draft_digest=jobs.digest(spec.draft),
        tokenizer_digest=jobs.digest("tokenizer"),
    )


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("confidence: 0.95", "confidence: 0.9", ["measure.confidence"]),
        ("repeats: 2,", "repeats: 3,", ["measure.repeats"]),
        ("seed: 0", "seed: 1", ["generation.seed"]),
        ("limit: 4", "limit: 5", ["prompts.limit"]),
        ("org/tiny", "org/less", ["pair.draft"]),
        ("name: second", "name: third", ["the name of a pair ('third' instead of 'second')"]),
        (
            "prompts: {dataset: demo, limit: 4}",
            "prompts: [{dataset: demo, label: a}, {dataset: demo, label: b, limit: 4}]",
            ["prompts"],
        ),
        ("seed: 0}", "temperature: [0, 1]}", ["generation"]),
        ("k: 4", "k: 5", ["k of '+ Draft'"]),
        ("method: linear, k: 4", "method: tree, depth: 4, branch: 3", ["method of '+ Draft'"]),
        ("+ Draft,", "+ Drafts,", ["the label of '+ Drafts', which was '+ Draft'"]),
        (
            "[3, 4]",
            "[3, 5]",
            ["the new row 'Trees (depth=5)'", "the row 'Trees (depth=4)', which is gone"],
        ),
        ("baseline: Baseline", "baseline: + Draft", ["baseline"]),
        ("measure: {", "engine: {dtype: float16}\nmeasure: {", ["pair.dtype", "engine.dtype"]),
    ],
)
def test_a_change_of_the_file_is_named_by_its_key(before: str, after: str, said: list[str]) -> None:
    now = sweep(FILE.replace(before, after))
    assert differences(sweep(), now) == said


def test_a_change_of_one_generation_of_several_is_named_by_its_key() -> None:
    several = FILE.replace("seed: 0}", "temperature: [0, 1]}")
    assert differences(sweep(several), sweep(several.replace("_tokens: 8", "_tokens: 9"))) == [
        "generation.max_new_tokens"
    ]


def test_beside_another_name_of_a_pair_the_rest_is_compared() -> None:
    text = FILE.replace("name: first", "name: new").replace("limit: 4", "limit: 5").replace("k: 4", "k: 5")
    assert differences(sweep(), sweep(text)) == [
        "the name of a pair ('new' instead of 'first')",
        "prompts.limit",
        "k of '+ Draft'",
    ]
    text = FILE.replace("name: second", "name: new").replace("org/tiny", "org/less")
    assert differences(sweep(), sweep(text)) == [
        "pair.draft",
        "the name of a pair ('new' instead of 'second')",
    ]


def test_another_name_of_a_pair_is_told_once_however_many_prompt_sets_it_has() -> None:
    sets = "[{dataset: demo, label: a}, {dataset: demo, label: b, limit: 4}]"
    before = FILE.replace("{dataset: demo, limit: 4}", sets)
    renamed = before.replace("name: first", "name: new")
    assert differences(sweep(before), sweep(renamed)) == ["the name of a pair ('new' instead of 'first')"]
    labelled = before.replace("label: b", "label: c")
    assert differences(sweep(before), sweep(labelled)) == ["a label of prompts or generation"]
    hot = before.replace("seed: 0}", "temperature: [0, 1]}")
    renamed = hot.replace("name: first", "name: new")
    assert differences(sweep(hot), sweep(renamed)) == ["the name of a pair ('new' instead of 'first')"]


@pytest.mark.parametrize("name", ["first on cpu", "first at home"])
def test_a_pairs_own_name_may_look_as_if_there_were_labels_in_it(name: str) -> None:
    sets = "[{dataset: demo, label: math on x}, {dataset: demo, label: math at y, limit: 4}]"
    for parts in (
        FILE,
        FILE.replace("{dataset: demo, limit: 4}", sets),
        FILE.replace("seed: 0}", "temperature: [0, 1]}"),
    ):
        before = parts.replace("name: first", f"name: {name}")
        now = parts.replace("name: first", f"name: {name}s")
        assert differences(sweep(before), sweep(now)) == [
            f"the name of a pair ('{name}s' instead of '{name}')"
        ]
    labelled = FILE.replace("{dataset: demo, limit: 4}", sets).replace("name: first", f"name: {name}")
    assert differences(sweep(labelled), sweep(labelled.replace("on x", "on z"))) == [
        "a label of prompts or generation"
    ]


def test_a_name_that_follows_from_other_models_or_settings_is_no_difference_of_its_own() -> None:
    unnamed = FILE.replace(", name: first", "").replace(", name: second", "")
    assert differences(sweep(unnamed), sweep(unnamed.replace("org/tiny", "org/less"))) == ["pair.draft"]
    moved = sweep(unnamed.replace("org/tiny", "org/less"))
    same = replace(moved.pairs[1], draft_digest=jobs.digest("org/tiny"))
    moved = replace(moved, pairs=(moved.pairs[0], same))
    assert differences(sweep(unnamed), moved) == ["the name of a pair ('big/less' instead of 'big/tiny')"]
    several = FILE.replace("seed: 0}", "temperature: [0, 1]}")
    assert differences(sweep(several), sweep(several.replace("[0, 1]", "[0, 2]"))) == [
        "generation.temperature"
    ]


def test_pairs_in_another_order_are_named() -> None:
    pairs = FILE.splitlines()[1].removeprefix("pair: [{").removesuffix("}]").split("}, {")
    turned = FILE.replace("}, {".join(pairs), "}, {".join(reversed(pairs)))
    assert differences(sweep(), sweep(turned)) == ["the order of pairs"]
    several = "temperature: [0, 1]}"
    assert differences(
        sweep(FILE.replace("seed: 0}", several)), sweep(turned.replace("seed: 0}", several))
    ) == ["the order of pairs"]


def test_prompts_or_settings_in_another_order_are_not_called_pairs() -> None:
    hot = FILE.replace("seed: 0}", "temperature: [0, 1]}")
    order = ["the order of prompts or generation"]
    assert differences(sweep(hot), sweep(hot.replace("[0, 1]", "[1, 0]"))) == order
    one, other = "{dataset: demo, label: a}", "{dataset: demo, label: b, limit: 4}"
    before = FILE.replace("{dataset: demo, limit: 4}", f"[{one}, {other}]")
    assert differences(sweep(before), sweep(before.replace(f"{one}, {other}", f"{other}, {one}"))) == order


def test_as_many_pairs_made_of_other_numbers_of_parts_are_told_by_the_parts() -> None:
    pairs = FILE.splitlines()[1].removeprefix("pair: ")
    alone = FILE.replace(pairs, "{target: org/big, draft: org/small, name: first}")
    sets = "[{dataset: demo, label: a}, {dataset: demo, label: b, limit: 4}]"
    by_sets = alone.replace("{dataset: demo, limit: 4}", sets)
    by_heat = alone.replace("seed: 0}", "temperature: [0, 1]}")
    assert differences(sweep(by_sets), sweep(by_heat)) == ["prompts", "generation"]
    assert differences(sweep(FILE), sweep(by_sets)) == ["pair", "prompts"]
    assert differences(sweep(by_heat), sweep(FILE)) == ["pair", "generation"]


def test_of_another_number_of_pairs_each_difference_is_told_once() -> None:
    more = FILE.replace("name: second}", "name: second}, {target: org/big, draft: org/less, name: third}")
    assert differences(sweep(), sweep(more)) == ["pair"]
    assert differences(sweep(), sweep(more.replace("limit: 4", "limit: 5"))) == ["pair", "prompts"]
    assert differences(sweep(), sweep(more.replace("seed: 0", "seed: 1"))) == ["pair", "generation"]


def test_rows_in_another_order_are_named() -> None:
    lines = FILE.splitlines(keepends=True)
    lines[-1], lines[-2] = lines[-2], lines[-1]
    assert differences(sweep(), sweep("".join(lines))) == ["the order of configs"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"target_digest": "0" * 64}, "the files of the target"),
        ({"draft_digest": "0" * 64}, "the files of the draft"),
        ({"tokenizer_digest": "0" * 64}, "the tokenizer"),
        ({"dtype": "bfloat16"}, "the dtype that the pair runs in"),
    ],
)
def test_files_that_changed_under_an_unchanged_sweep_file_are_named(
    changed: dict[str, str], said: str
) -> None:
    assert differences(sweep(), sweep(**changed)) == [said]


def test_other_prompts_out_of_the_same_file_are_named() -> None:
    now = sweep()
    other = PromptSet(digest="0" * 64, prompts=())
    assert differences(sweep(), replace(now, prompt_sets=dict.fromkeys(now.prompt_sets, other))) == [
        "the prompts themselves"
    ]


def test_a_temperature_more_beside_several_prompt_sets_is_no_change_of_prompts() -> None:
    sets = "[{dataset: demo, label: a}, {dataset: demo, label: b, limit: 4}]"
    before = FILE.replace("{dataset: demo, limit: 4}", sets)
    now = before.replace("seed: 0}", "temperature: [0, 1]}")
    assert differences(sweep(before), sweep(now)) == ["generation"]


def test_what_a_file_says_of_prompts_and_models_counts_only_where_they_are_others() -> None:
    """A moved file is the same prompt set, a moved folder the same model."""
    before = sweep()
    moved = sweep(
        FILE.replace("limit: 4", "limit: 5").replace("org/big", "other/big").replace("k: 4", "k: 5")
    )
    same = [
        replace(pair, target_digest=jobs.digest("org/big"), draft_digest=known.draft_digest)
        for pair, known in zip(moved.pairs, before.pairs, strict=True)
    ]
    moved = replace(moved, pairs=tuple(same), prompt_sets=before.prompt_sets)
    assert differences(before, moved) == ["k of '+ Draft'"]


def test_another_version_of_the_loops_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sweep()
    monkeypatch.setattr(jobs, "DECODER_VERSION", jobs.DECODER_VERSION + 1)
    assert differences(before, sweep()) == ["the version of dyna-eval, whose decoding loops differ"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("confidence: 0.95", "confidence: 0.95, job_timeout_s: 60"),
        lambda text: f"# a comment\n{text}",
    ],
)
def test_what_is_no_part_of_a_sweeps_identity_is_not_named(change: Callable[[str], str]) -> None:
    now = sweep(change(FILE))
    assert now.digest == sweep().digest
    both = change(FILE).replace("seed: 0", "seed: 1")
    assert differences(sweep(), sweep(both)) == ["generation.seed"]


def test_only_a_few_are_named() -> None:
    assert named(["a"]) == "a"
    assert named(list("abcd")) == "a, b, c and d"
    assert named(list("abcdef")) == "a, b, c, d and 2 more"
