"""A sweep file means what it says; a mistake in one is a single line: where, what, and what to do."""

from __future__ import annotations

import json
import os
import string
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from dyna_eval.cli import cli
from dyna_eval.errors import SweepFileError
from dyna_eval.jobs import (
    Backend,
    EngineSpec,
    GenerationSpec,
    MeasureSpec,
    Method,
    PairSpec,
    PromptSpec,
    SweepSpec,
)
from dyna_eval.methods import METHODS, OTHER_NAMES
from dyna_eval.sweeps.config import load_sweep, parse_sweep
from dyna_eval.sweeps.sections import GenerationSection, json_schema

AR = "  - {label: Baseline, method: ar}\n"


def sweep(rows: str = "", *, head: str = "", pair: str = "demo", prompts: str = "{dataset: demo}") -> str:
    """Return a sweep file: `pair` on line 1, `prompts` on line 2, then the head, `configs`, AR, the rows."""
    return f"pair: {pair}\nprompts: {prompts}\n{head}configs:\n{AR}{rows}"


def parse(text: str, **options: object) -> SweepSpec:
    return parse_sweep(text, file="sweep.yaml", **options)  # type: ignore[arg-type]


def mistake_in(text: str, **options: object) -> str:
    """Return the message for a text, which is one line."""
    with pytest.raises(SweepFileError) as caught:
        parse(text, **options)
    message = str(caught.value)
    assert message.splitlines() == [message]
    return message


# ------------------------------------------------------------------------ meaning


def test_defaults_are_resolved() -> None:
    spec = parse(sweep("  - {label: T, method: tree, depth: 7, branch: 2}\n"))

    assert spec.name == "sweep"
    assert spec.pairs == (PairSpec(name="demo", target="demo", draft="demo"),)
    assert spec.prompts == PromptSpec(dataset="demo", split="test")
    assert (spec.generation, spec.measure, spec.engine) == (GenerationSpec(), MeasureSpec(), EngineSpec())
    assert spec.baseline == "Baseline"
    assert dict(spec.configurations[1].params) == {
        "depth": 7,
        "branch": 2,
        "threshold": 0.0,
        "prune": "node",
        "root_branch": 2,
        "max_nodes": 254,
    }


RESOLVED = {
    "static_tree, expansion: 03-2": {"expansion": "3-2", "paths": None},
    "static_tree, paths: 1 0.1 0": {"expansion": None, "paths": "0 1 0.1"},
    "best_first": {"max_nodes": 32, "depth": 8, "width": 8},
    "dynatree": {
        "branch_phase": True,
        "depth_phase": True,
        "history_phase": True,
        "depth": 5,
        "max_depth": 8,
        "branch_min": 1,
        "branch_mid": 2,
        "branch_max": 3,
        "confidence_low": 0.4,
        "confidence_high": 0.9,
        "stop_probability": 0.05,
        "deep_probability": 0.3,
        "history_window": 8,
        "history_target": 0.6,
        "history_step": 0.05,
        "max_nodes": 64,
    },
    "cost_aware": {"max_nodes": 64, "depth": 12, "width": 8},
    "prompt_lookup, k: 10": {"k": 10, "ngram": 3},
    "hf_generate": {"cache": "dynamic"},
    "hf_assisted": {"num_assistant_tokens": 20, "schedule": "constant", "confidence_threshold": 0.4},
}


@pytest.mark.parametrize("method", RESOLVED)
def test_the_defaults_of_every_method_are_resolved(method: str) -> None:
    spec = parse(sweep(f"  - {{label: X, method: {method}}}\n"))

    assert dict(spec.configurations[1].params) == RESOLVED[method]


def test_the_engines_dtype_is_that_of_pairs_which_name_none() -> None:
    pairs = "[demo, {target: org/a, draft: org/b}, {target: org/c, draft: org/d, dtype: float16}]"
    spec = parse(sweep(pair=pairs, head="engine: {backend: compile, dtype: bfloat16}\n"))

    assert spec.engine == EngineSpec(backend=Backend.COMPILE, dtype="bfloat16")
    assert [pair.dtype for pair in spec.pairs] == ["bfloat16", "bfloat16", "float16"]
    assert parse(sweep(), overrides=["engine.backend=eager"]).engine.backend is Backend.EAGER


def test_automatic_repeats_begin_small_and_have_a_limit_and_an_aim() -> None:
    def measure(text: str) -> MeasureSpec:
        return parse(sweep(head=f"measure: {{{text}}}\n")).measure

    assert measure("repeats: auto") == MeasureSpec(repeats=3, max_repeats=10, precision=0.03)
    assert measure("repeats: auto, max_repeats: 5, precision: 0.1, tune_fraction: 0.25") == MeasureSpec(
        repeats=3, max_repeats=5, precision=0.1, tune_fraction=0.25
    )
    assert (measure("repeats: 2").most_repeats, measure("repeats: auto").most_repeats) == (2, 10)


@pytest.mark.parametrize(
    ("parameters", "nodes"),
    [
        ("depth: 9, branch: 2", 1022),
        ("depth: 10, branch: 2", 1024),
        ("depth: 3, branch: 2, root_branch: 1", 7),
        ("depth: 1024, branch: 1024", 1024),
        ("depth: 2, branch: 2, max_nodes: 5", 5),
    ],
)
def test_the_node_cap_is_the_whole_tree_up_to_1024_unless_given(parameters: str, nodes: int) -> None:
    spec = parse(sweep(f"  - {{label: T, method: tree, {parameters}}}\n"))

    assert spec.configurations[1].params["max_nodes"] == nodes


def test_equal_settings_resolve_to_equal_values() -> None:
    rows = "  - {label: T, method: tree, depth: 2, branch: 2, threshold: %s}\n"

    for zero in ("0", "-0.0", "0.0", "0e0"):
        threshold = parse(sweep(rows % zero)).configurations[1].params["threshold"]
        assert repr(threshold) == "0.0"
    assert parse(sweep(rows % "1e-3")).configurations[1].params["threshold"] == 0.001


def test_only_true_and_false_are_booleans() -> None:
    spec = parse(sweep("  - {label: no, method: linear, k: 1}\n  - {label: off, method: linear, k: 2}\n"))
    assert [row.label for row in spec.configurations] == ["Baseline", "no", "off"]

    assert parse(sweep(head="generation: {stop_at_eos: true}\n")).generation.stop_at_eos is True
    message = mistake_in(sweep(head="generation: {stop_at_eos: yes}\n"))
    assert message == "sweep.yaml:3: 'stop_at_eos' should be true or false, not 'yes'"


def test_anchors_and_merge_keys_work_for_reuse() -> None:
    rows = (
        "  - &tree {label: A, method: tree, depth: 3, branch: 2}\n  - {<<: *tree, label: B, threshold: 0.1}\n"
    )
    first, second = parse(sweep(rows)).configurations[1:]

    assert (second.label, second.params) == ("B", {**first.params, "threshold": 0.1})


def test_the_text_and_the_overrides_are_kept_for_the_record() -> None:
    text = sweep()

    assert parse(text).source == text
    assert parse(text, overrides=["measure.repeats=5"]).source == f"{text}\n# --set measure.repeats=5"


def test_a_baseline_may_be_any_row() -> None:
    spec = parse(sweep("  - {label: L, method: linear, k: 2}\n", head="baseline: L\n"))

    assert spec.baseline == "L"


# ---------------------------------------------------------------- models and prompts


def test_folders_are_found_beside_the_sweep_file(tmp_path: Path) -> None:
    for folder in ("models/big", "models/small"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "sweep.yaml").write_text(
        sweep(pair="{target: models/big, draft: ./models/small, dtype: float32}")
    )

    (pair,) = load_sweep(tmp_path / "sweep.yaml").pairs

    models = tmp_path.resolve() / "models"
    assert pair == PairSpec(
        name="big/small", target=str(models / "big"), draft=str(models / "small"), dtype="float32"
    )


def test_hub_ids_and_revisions_are_kept() -> None:
    spec = parse(sweep(pair="[demo, {target: org/big, draft: org/small, revision: step3}]"))

    assert spec.pairs == (
        PairSpec(name="demo", target="demo", draft="demo"),
        PairSpec(
            name="big/small",
            target="org/big",
            draft="org/small",
            target_revision="step3",
            draft_revision="step3",
        ),
    )


def test_a_pair_needs_no_draft_where_every_row_is_ar() -> None:
    assert parse(sweep(pair="{target: org/big}")).pairs[0].draft is None

    without = "  - {label: P, method: prompt_lookup, k: 2}\n  - {label: G, method: hf_generate}\n"
    assert len(parse(sweep(without, pair="{target: org/big}")).configurations) == 3

    message = mistake_in(sweep("  - {label: L, method: linear, k: 2}\n", pair="{target: org/big}"))
    assert message == "sweep.yaml:1: pair 'big' has no draft, which row 'L' needs; add 'draft'"


def test_data_files_are_found_beside_the_sweep_file(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").touch()
    prompts = "{dataset: parquet, data_files: [a.parquet, 'b-*.parquet', 'https://example.org/c.parquet']}"

    spec = parse(sweep(prompts=prompts), folder=tmp_path)

    folder = tmp_path.resolve()
    files = (str(folder / "a.parquet"), str(folder / "b-*.parquet"), "https://example.org/c.parquet")
    assert (spec.prompts.data_files, spec.prompts.split) == (files, "train")


def test_what_save_to_disk_wrote_is_found_beside_the_sweep_file(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    spec = parse(sweep(prompts="{dataset: arrow, data_files: 'saved/*.arrow'}"), folder=tmp_path)
    found = (str(tmp_path.resolve() / "saved" / "*.arrow"),)
    assert (spec.prompts.data_files, spec.prompts.split) == (found, "train")
    several = sweep(prompts="[{dataset: demo}, {dataset: arrow, data_files: 'saved/*.arrow'}]")
    names = [pair.name for pair in parse(several, folder=tmp_path).pairs]
    assert names == ["demo on demo", "demo on arrow"], "its files are called alike: no name for their data"


def test_a_folder_is_no_data_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    said = mistake_in(sweep(prompts="{dataset: json, data_files: data}"), folder=tmp_path)
    assert said.endswith("'data' is a folder; name its files in 'data_files', as 'data/*'")


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (
            "{target: ./gone, draft: demo}",
            "there is no folder './gone' in ",
        ),
        (
            "{target: a/b/c, draft: demo}",
            "there is no folder 'a/b/c' in ",
        ),
        ("{target: ~nobody-here/x, draft: demo}", "there is no folder '~nobody-here/x'"),
        ("{target: 'a b', draft: demo}", "'a b' is neither a folder nor a hub id such as org/name"),
        (
            "demmo",
            "unknown pair 'demmo'; write demo or demo-large, or {target: FOLDER_OR_HUB_ID, draft: ...}",
        ),
        ("5", "unknown pair 5; write demo"),
        ("[]", "'pair' should list 1 to 100 pairs, not 0"),
        ("[demo, demo]", "duplicate pair 'demo'; give each its own 'name'"),
        ("{draft: demo}", "'target' is missing; add it"),
        ("{traget: org/a, draft: org/b}", "unknown key 'traget'; did you mean 'target'?"),
        (
            "{target: org/a, draft: org/b, dtype: int8}",
            "'dtype' should be 'auto', 'float32', 'bfloat16' or 'float16'",
        ),
        (
            "{target: org/a, draft: org/b, revision: 1, name: x}",
            "'revision' should be text, not 1; put it in quotes",
        ),
        ("{target: org/a, draft: org/b, revision: v, draft_revision: w}", "'revision' is for both models"),
        ("{target: demo, draft: demo, revision: v}", "'revision' is for models on a hub; leave it out"),
    ],
)
def test_a_wrong_pair_is_named(pair: str, message: str) -> None:
    assert mistake_in(sweep(pair=pair)).startswith(f"sweep.yaml:1: {message}")


def test_every_pair_stands_once_for_each_of_several_prompt_sets() -> None:
    prompts = "[{dataset: org/wikitext, name: wikitext-2}, {dataset: demo, limit: 4, label: code}]"
    spec = parse(sweep(pair="[demo, demo-large]", prompts=prompts))

    assert [pair.name for pair in spec.pairs] == [
        "demo on wikitext-2",
        "demo on code",
        "demo-large on wikitext-2",
        "demo-large on code",
    ]
    first, second = (pair.prompts for pair in spec.pairs[:2])
    assert first == spec.prompts == PromptSpec(dataset="org/wikitext", name="wikitext-2")
    assert second == PromptSpec(dataset="demo", limit=4)


def test_a_single_prompt_set_changes_no_pair() -> None:
    assert parse(sweep(prompts="[{dataset: demo, limit: 4}]")).pairs == parse(sweep()).pairs


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("{}", "'dataset' is missing; add it"),
        ("demo", "'prompts' should be a mapping of keys to values, not 'demo'"),
        ("[]", "'prompts' should list 1 to 100 prompt sets, not 0"),
        ("[{dataset: demo}, 5]", "an item of 'prompts' should be a mapping of keys to values, not 5"),
        (
            "[{dataset: demo}, {dataset: demo, limit: 3}]",
            "duplicate prompts 'demo'; give each its own 'label'",
        ),
        (
            "[{dataset: demo}, {dataset: json}]",
            "data set 'json' is read from files; name them with 'data_files'",
        ),
        (
            "{dataset: jsonl, data_files: x.jsonl}",
            "'jsonl' is no data set; write 'dataset: json', and the file in 'data_files'",
        ),
        ("{dataset: arrow}", "data set 'arrow' is read from files; name them with 'data_files'"),
        ("{dataset: parquet}", "data set 'parquet' is read from files; name them with 'data_files'"),
        ("{dataset: json, data_files: gone.json}", "there is no file 'gone.json'; correct 'data_files'"),
        ("{dataset: ./gone}", "there is no folder './gone' in "),
        ("{dataset: demo, limit: 0}", "'limit' should be at least 1, not 0"),
        ("{dataset: demo, colunm: text}", "unknown key 'colunm'; did you mean 'column'?"),
        (
            "{dataset: demo, template: '{a'}",
            "'template' has a '{' alone; write {column}, or '{{' for a brace",
        ),
        ("{dataset: demo, template: text}", "'template' should name a column, as {question};"),
        (
            '{dataset: demo, template: "{a}\\a"}',
            "'template' should be text without control characters",
        ),
        (
            "{dataset: demo, template: '{a}', column: a}",
            "'template' names its columns itself; leave out 'column', or 'template'",
        ),
        (
            "{dataset: demo, per_category: 2}",
            "'per_category' needs to know the categories; name their column with 'category'",
        ),
        ("{dataset: demo, category: a, per_category: 0}", "'per_category' should be at least 1, not 0"),
        ("{dataset: demo, shuffle: true}", "'shuffle' should be a whole number, not true"),
        ("{dataset: demo, shuffle: -1}", "'shuffle' should be at least 0, not -1"),
        ("{dataset: demo, revision: v1}", "'revision' is for data sets on a hub; leave it out"),
        ("{dataset: ., revision: v1}", "'revision' is for data sets on a hub; leave it out"),
        (
            "{dataset: json, data_files: '*.json', revision: v1}",
            "'revision' is for data sets on a hub; leave it out",
        ),
        ("{dataset: org/data, revision: 12}", "'revision' should be text, not 12; put it in quotes"),
        (
            "{dataset: demo, chat_template_file: gone.jinja}",
            "there is no file 'gone.jinja'; correct 'chat_template_file'",
        ),
    ],
)
def test_wrong_prompts_are_named(prompts: str, message: str) -> None:
    assert mistake_in(sweep(prompts=prompts)).startswith(f"sweep.yaml:2: {message}")


# --------------------------------------------------------------------- generation


def test_every_pair_stands_once_for_each_of_several_generation_settings() -> None:
    head = "generation: [{temperature: 0}, {temperature: 1, label: sampled}]\n"
    spec = parse(sweep(head=head, pair="[demo, demo-large]"))

    assert [(pair.name, pair.generation) for pair in spec.pairs] == [
        ("demo at T=0", GenerationSpec()),
        ("demo at sampled", GenerationSpec(temperature=1.0)),
        ("demo-large at T=0", GenerationSpec()),
        ("demo-large at sampled", GenerationSpec(temperature=1.0)),
    ]
    assert [spec.generation_of(pair) for pair in spec.pairs] == [pair.generation for pair in spec.pairs]
    assert spec.generation == GenerationSpec()


def test_with_several_prompt_sets_a_name_tells_both_and_settings_stand_in_blocks() -> None:
    prompts = "[{dataset: org/wikitext, name: wikitext-2}, {dataset: demo, label: code}]"
    spec = parse(sweep(head="generation: {temperature: [0, 1]}\n", prompts=prompts))

    assert [pair.name for pair in spec.pairs] == [
        "demo on wikitext-2 at T=0",
        "demo on code at T=0",
        "demo on wikitext-2 at T=1",
        "demo on code at T=1",
    ]
    assert [pair.prompts and pair.prompts.dataset for pair in spec.pairs] == ["org/wikitext", "demo"] * 2


@pytest.mark.parametrize(
    ("written", "labels"),
    [
        ("{temperature: [0, 0.75, 1]}", ["T=0", "T=0.75", "T=1"]),
        ("{max_new_tokens: [32, 64], temperature: 1}", ["32 new tokens", "64 new tokens"]),
        (
            "{temperature: [0, 1], max_new_tokens: [32, 64], seed: 3}",
            ["T=0, 32 new tokens", "T=0, 64 new tokens", "T=1, 32 new tokens", "T=1, 64 new tokens"],
        ),
        (
            "[{temperature: 0, label: greedy}, {temperature: [0.5, 1], label: warm}]",
            ["greedy", "warm (T=0.5)", "warm (T=1)"],
        ),
        ("[{stop_at_eos: true}, {seed: 1}]", ["seed=0, stop_at_eos=true", "seed=1, stop_at_eos=false"]),
        ("{temperature: [0.1234567, 0.1234568]}", ["T=0.1234567", "T=0.1234568"]),
    ],
)
def test_a_generation_setting_is_named_by_what_differs_unless_it_has_a_label(
    written: str, labels: list[str]
) -> None:
    spec = parse(sweep(head=f"generation: {written}\n"))
    assert [pair.name for pair in spec.pairs] == [f"demo at {label}" for label in labels]


def test_every_key_of_generation_can_be_told_in_a_name() -> None:
    for name, values in (
        ("max_new_tokens", "[1, 2]"),
        ("temperature", "[1, 2]"),
        ("seed", "[1, 2]"),
        ("stop_at_eos", "[true, false]"),
    ):
        first, second = parse(sweep(head=f"generation: {{{name}: {values}}}\n")).pairs
        assert first.name != second.name
    assert {field.name for field in fields(GenerationSpec)} == {
        "max_new_tokens",
        "temperature",
        "seed",
        "stop_at_eos",
    }


@pytest.mark.parametrize(
    "written",
    [
        "{temperature: 1, seed: 3}",
        "[{temperature: 1, seed: 3}]",
        "{temperature: [1], seed: 3}",
        "{temperature: 1, seed: 3, label: sampled}",
    ],
)
def test_a_single_generation_setting_changes_no_pair(written: str) -> None:
    spec = parse(sweep(head=f"generation: {written}\n"))
    assert spec.pairs == parse(sweep()).pairs
    assert spec.generation == GenerationSpec(temperature=1.0, seed=3)


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        ("5", "'generation' should be a mapping of keys to values, not 5"),
        ("[]", "'generation' should list 1 to 100 settings, not 0"),
        ("[{seed: 1}, 5]", "an item of 'generation' should be a mapping of keys to values, not 5"),
        ("{temperature: []}", "'temperature' lists no value; give it at least one"),
        ("{temperature: [0, -1]}", "'temperature' should be at least 0, not -1"),
        ("{temperature: [0, 0.0]}", "these settings of 'generation' stand there twice; leave one out"),
        (
            "[{seed: 1}, {temperature: 0, seed: 1}]",
            "these settings of 'generation' stand there twice; leave one out",
        ),
        (
            "[{temperature: 0, label: T=1}, {temperature: 1}]",
            "duplicate generation 'T=1'; give each its own 'label'",
        ),
        ("[{seed: 1, label: [a, b]}, {seed: 2}]", "'label' should be text, not a list"),
        ("{max_tokens: [32, 64]}", "unknown key 'max_tokens'; did you mean 'max_new_tokens'?"),
        ("{temperature: [[0, 1], [1, 2]]}", "'temperature' should be a number, not a list"),
    ],
)
def test_wrong_generation_settings_are_named(generation: str, message: str) -> None:
    assert mistake_in(sweep(head=f"generation: {generation}\n")) == f"sweep.yaml:3: {message}"


def test_a_duplicate_generation_setting_is_placed_at_its_own_line() -> None:
    head = "generation:\n  - temperature: 0\n  - temperature: 1\n  - temperature: 0.0\n"
    assert mistake_in(sweep(head=head)).startswith("sweep.yaml:6: these settings of 'generation'")
    listed = "generation:\n  temperature:\n    - 0\n    - 1\n    - 0.0\n"
    assert mistake_in(sweep(head=listed)).startswith("sweep.yaml:7: these settings of 'generation'")


def test_pairs_whose_names_become_the_same_are_refused() -> None:
    pair = "[{target: demo, draft: demo, name: a}, {target: demo, draft: demo, name: a at x}]"
    head = "generation: [{seed: 1, label: x at y}, {seed: 2, label: y}]\n"
    told = "sweep.yaml:1: two tables would be named 'a at x at y'; give a pair another 'name'"
    assert mistake_in(sweep(pair=pair, head=head)).startswith(told)


@pytest.mark.parametrize(
    ("written", "read"),
    [("false", None), ("true", {}), ("{}", {}), ("{enable_thinking: false}", {"enable_thinking": False})],
)
def test_a_chat_template_is_asked_for_by_true_or_by_its_variables(
    written: str, read: dict[str, object] | None
) -> None:
    spec = parse(sweep(prompts=f"{{dataset: demo, chat_template: {written}}}"))
    assert spec.prompts.chat_template == read


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("1", "'chat_template' should be a mapping of keys to values, not 1"),
        ("yes please", "'chat_template' should be a mapping of keys to values, not 'yes please'"),
        ("[a]", "'chat_template' should be a mapping of keys to values, not a list"),
        ("{thinking: [no]}", "'thinking' should be a text, a number, true or false"),
    ],
)
def test_a_chat_template_is_neither_text_nor_list(written: str, says: str) -> None:
    text = sweep(prompts=f"{{dataset: demo, chat_template: {written}}}")
    assert mistake_in(text) == f"sweep.yaml:2: {says}"


def test_how_rows_become_prompts_is_kept() -> None:
    template = '"Question: {question}\\nAnswer:"'
    rows = f"template: {template}, shuffle: 0, category: subject, per_category: 3"
    spec = parse(sweep(prompts=f"{{dataset: org/data, revision: v1.0, split: 'test[:10%]', {rows}}}"))
    assert spec.prompts == PromptSpec(
        dataset="org/data",
        revision="v1.0",
        split="test[:10%]",
        template="Question: {question}\nAnswer:",
        shuffle=0,
        category="subject",
        per_category=3,
    )


@pytest.mark.parametrize(
    ("more", "variables"),
    [("", {}), (", chat_template: true", {}), (", chat_template: {thinking: false}", {"thinking": False})],
)
def test_a_chat_template_is_read_from_its_file(
    more: str, variables: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the sweep file, or in the current folder."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "chat.jinja").write_bytes(b"\xef\xbb\xbf{{ messages }}\n")
    text = sweep(prompts=f"{{dataset: demo, chat_template_file: chat.jinja{more}}}")
    beside = parse(text, folder=tmp_path / "here").prompts
    monkeypatch.chdir(tmp_path / "here")
    assert parse(text, folder=tmp_path).prompts == beside
    assert beside == PromptSpec(
        dataset="demo", chat_template=variables, chat_template_text="{{ messages }}\n"
    )


@pytest.mark.parametrize(
    ("content", "more", "says"),
    [
        (b"\xff", "", "'chat.jinja' cannot be read: it is not UTF-8 text; name a chat template in Jinja"),
        (b" \n", "", "'chat.jinja' is empty; name a chat template in Jinja"),
        (b"x" * 1_000_001, "", "'chat.jinja' is larger than 1,000,000 bytes; name a chat template in Jinja"),
        (None, "", "there is no file 'chat.jinja'; correct 'chat_template_file'"),
        (
            b"{{ messages }}",
            ", chat_template: false",
            "'chat_template: false' leaves no use for 'chat_template_file'; leave out one of the two",
        ),
    ],
    ids=["no text", "empty", "large", "a folder", "and none"],
)
def test_what_is_no_chat_template_is_told(
    content: bytes | None, more: str, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "chat.jinja"
    path.mkdir() if content is None else path.write_bytes(content)
    text = sweep(prompts=f"{{dataset: demo, chat_template_file: chat.jinja{more}}}")
    assert mistake_in(text, folder=tmp_path) == f"sweep.yaml:2: {says}"


@pytest.mark.parametrize("stops", [False, True])
def test_answers_that_do_not_end_are_warned_of(tmp_path: Path, *, stops: bool) -> None:
    """In a chat template alone; any of several prompt sets counts."""
    head = f"generation: {{stop_at_eos: {str(stops).lower()}}}\n"
    file = tmp_path / "sweep.yaml"
    for chats, warned in (("", False), (", chat_template: true", not stops)):
        file.write_text(sweep(head=head, prompts=f"[{{dataset: demo, label: a}}, {{dataset: demo{chats}}}]"))
        done = CliRunner().invoke(cli, ["validate", str(file)])
        assert (done.exit_code, done.stdout) == (0, f"{file}: sweep: 1 configuration, 6 jobs\n")
        assert done.stderr.startswith(f"{file}: warning: prompts are in a chat template, but") == warned
        assert done.stderr.count("\n") == warned


def test_a_folder_that_is_not_there_is_told_with_the_place_where_it_was_looked_for(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    for written, place in (("./gone", f" in {tmp_path.resolve()}, where the sweep file is"), ("/gone", "")):
        file.write_text(sweep(pair=f"{{target: {written}, draft: demo}}"))
        with pytest.raises(SweepFileError) as caught:
            load_sweep(file)
        assert str(caught.value).endswith(f": there is no folder '{written}'{place}")


def test_a_file_in_the_place_of_a_data_set_is_told_how_to_be_named(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("{}")
    file = tmp_path / "sweep.yaml"
    file.write_text(sweep(prompts="{dataset: mine.jsonl}"))
    with pytest.raises(SweepFileError, match=r"'mine.jsonl' is no data set; write 'dataset: json'"):
        load_sweep(file)


# ------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{label: X, method: lineer, k: 1}", "unknown method 'lineer'; did you mean 'linear'?"),
        ("{label: X, method: TREE, depth: 1, branch: 1}", "unknown method 'TREE'; did you mean 'tree'?"),
        ("{label: X, method: 7}", "'method' should be text, not 7; put it in quotes"),
        ("{label: X, methud: ar}", "unknown key 'methud'; did you mean 'method'?"),
        ("{label: X}", "'method' is missing; add it"),
        ("{method: ar}", "'label' is missing; add it"),
        ("{label: X, method: linear}", "'k' is missing; add it"),
        ("{label: X, method: linear, kk: 3}", "unknown key 'kk'; did you mean 'k'?"),
        ("{label: X, method: linear, gamma: 3}", "unknown key 'gamma'; did you mean 'k'?"),
        (
            "{label: X, method: linear, num-speculative-tokens: 3}",
            "unknown key 'num-speculative-tokens'; did you mean 'k'?",
        ),
        ("{label: X, method: hf_assisted, k: 3}", "unknown key 'k'; did you mean 'num_assistant_tokens'?"),
        ("{label: X, method: tree, D: 3, branch: 2}", "unknown key 'D'; did you mean 'depth'?"),
        ("{label: X, method: tree, depth: 3, B: 2}", "unknown key 'B'; did you mean 'branch'?"),
        ("{label: X, method: tree, depth: 3, width: 2}", "unknown key 'width'; did you mean 'branch'?"),
        (
            "{label: X, method: tree, depth: 3, branch: 2, tau: 0.05}",
            "unknown key 'tau'; did you mean 'threshold'?",
        ),
        (
            "{label: X, method: tree, depth: 3, branch: 2, τ: 0.05}",
            "unknown key 'τ'; did you mean 'threshold'?",
        ),
        ("{label: X, method: dynatree, tau: 0.05}", "unknown key 'tau'; did you mean 'stop_probability'?"),
        (
            "{label: X, method: tree, depth: 3, branch: 2, num_speculative_tokens: 60}",
            "unknown key 'num_speculative_tokens'; did you mean 'depth' or 'max_nodes'?",
        ),
        ("{label: X, method: best_first, top_k: 4}", "unknown key 'top_k'; did you mean 'width'?"),
        (
            "{label: X, method: best_first, total_token: 60}",
            "unknown key 'total_token'; did you mean 'max_nodes'?",
        ),
        (
            "{label: X, tau: 0.1}",
            "unknown key 'tau'; did you mean 'threshold' or 'stop_probability' or 'confidence_threshold'?",
        ),
        ("{label: X, method: ar, k: 3}", "unknown key 'k'; known: label, method, zip"),
        ("{label: X, method: linear, k: 0}", "'k' should be at least 1, not 0"),
        ("{label: X, method: linear, k: six}", "'k' should be a whole number, not 'six'"),
        ("{label: X, method: linear, k: 3.0}", "'k' should be a whole number, not 3.0"),
        ("{label: X, method: linear, k: true}", "'k' should be a whole number, not true"),
        ("{label: X, method: linear, k: '3'}", "'k' should be a whole number, not '3'"),
        ("{label: X, method: linear, k: 010}", "'k' should be a whole number, not '010'"),
        ("{label: X, method: linear, k: 1_000}", "'k' should be a whole number, not '1_000'"),
        ("{label: X, method: linear, k: }", "'k' should be a whole number, not nothing"),
        ("{label: X, method: linear, k: {a: 1}}", "'k' should be a whole number, not a mapping"),
        ("{label: X, method: linear, k: [[1]]}", "'k' should be a whole number, not a list"),
        ("{label: X, method: linear, k: []}", "'k' lists no value; give it at least one"),
        ("{label: X, method: linear, k: [2, 2]}", "'k' should not repeat a value; keep one of each"),
        ("{label: X, method: tree, depth: -1, branch: 2}", "'depth' should be at least 1, not -1"),
        (
            "{label: X, method: tree, depth: 1, branch: 2, threshold: 1}",
            "'threshold' should be less than 1, not 1",
        ),
        (
            "{label: X, method: tree, depth: 1, branch: 2, threshold: -0.1}",
            "'threshold' should be at least 0, not -0.1",
        ),
        (
            "{label: X, method: tree, depth: 1, branch: 2, threshold: .nan}",
            ".nan is not a number to compute with",
        ),
        ("{label: X, method: tree, depth: 1, branch: 2, threshold: 1e999}", "1e999 is too large a number"),
        (
            "{label: X, method: tree, depth: 1, branch: 2, threshold: nan}",
            "'threshold' should be a number, not 'nan'",
        ),
        (
            "{label: X, method: tree, depth: 1, branch: 2, prune: leaf}",
            "'prune' should be 'node' or 'expansion', not 'leaf'",
        ),
        (
            "{label: X, method: static_tree}",
            "an item of 'configs' should have either 'expansion' or 'paths'",
        ),
        (
            "{label: X, method: static_tree, expansion: 2-2, paths: '0'}",
            "an item of 'configs' should have either 'expansion' or 'paths'",
        ),
        (
            "{label: X, method: static_tree, expansion: 3}",
            "'expansion' should be text, not 3; put it in quotes",
        ),
        (
            "{label: X, method: static_tree, expansion: 3x2}",
            "'expansion' should be the children of every node, level by level, as 3-2-1, not '3x2'",
        ),
        (
            "{label: X, method: static_tree, expansion: 3-0}",
            "'expansion' should have at most 1024 levels, of 1 to 1024 children each",
        ),
        (
            "{label: X, method: static_tree, expansion: 64-64-2}",
            "'expansion' should have at most 4096 draft nodes, not 12352",
        ),
        (
            "{label: X, method: static_tree, paths: 0 1.x}",
            "'paths' should be nodes by the ranks on their paths, as \"0 1 0.0\", not '0 1.x'",
        ),
        (
            "{label: X, method: static_tree, paths: 0 0.1.1}",
            "'paths' has node 0.1.1 without its parent; add 0.1",
        ),
        ("{label: X, method: static_tree, paths: 0 1 0}", "'paths' has node 0 twice"),
        (
            "{label: X, method: static_tree, paths: 0 1024}",
            "'paths' should have at most 1024 levels, and ranks under 1024",
        ),
        ("{label: X, method: best_first, max_nodes: 4097}", "'max_nodes' should be at most 4096, not 4097"),
        ("{label: X, method: best_first, with: 4}", "unknown key 'with'; did you mean 'width'?"),
        ("{label: X, method: dynatri}", "unknown method 'dynatri'; did you mean 'dynatree'?"),
        ("{label: X, method: dynatree, history_target: 0}", "'history_target' should be more than 0, not 0"),
        ("{label: X, method: dynatree, history_step: 1.0}", "'history_step' should be less than 1, not 1.0"),
        (
            "{label: X, method: dynatree, depth_phase: 1}",
            "'depth_phase' should be true or false, not 1",
        ),
        (
            "{label: X, method: dynatree, depth: 9}",
            "'max_depth' should be at least 'depth', which is 9, not 8",
        ),
        (
            "{label: X, method: dynatree, depth: [3, 9]}",
            "'max_depth' should be at least 'depth', which is 9, not 8",
        ),
        (
            "{label: X, method: dynatree, branch_min: 3}",
            "'branch_mid' should be at least 'branch_min', which is 3, not 2",
        ),
        (
            "{label: X, method: dynatree, branch_max: 1}",
            "'branch_max' should be at least 'branch_mid', which is 2, not 1",
        ),
        (
            "{label: X, method: dynatree, confidence_high: 0.25}",
            "'confidence_high' should be at least 'confidence_low', which is 0.4, not 0.25",
        ),
        ("{label: X, method: prompt_lookup, ngram: 2}", "'k' is missing; add it"),
        ("{label: X, method: prompt_lookup, k: 2, ngram: 65}", "'ngram' should be at most 64, not 65"),
        (
            "{label: X, method: hf_generate, cache: paged}",
            "'cache' should be 'dynamic' or 'static', not 'paged'",
        ),
        ("{label: X, method: hf_assisted, cache: dynamic}", "unknown key 'cache'"),
        (
            "{label: X, method: hf_assisted, schedule: steady}",
            "'schedule' should be 'constant', 'heuristic' or 'heuristic_transient', not 'steady'",
        ),
        ("{label: '', method: ar}", "'label' should not be empty"),
        ("{label: 5, method: ar}", "'label' should be text, not 5; put it in quotes"),
        ("{label: true, method: ar}", "'label' should be text, not true; put it in quotes"),
        (r'{label: "a\nb", method: ar}', "'label' should be one line without control characters"),
        (r'{label: "a\u202Eb", method: ar}', "'label' should be one line without control characters"),
        (r'{label: "\u200B", method: ar}', "'label' should have a character that can be seen"),
        (r'{label: "\u2800 \u3164", method: ar}', "'label' should have a character that can be seen"),
        (r'{label: "\u0301\uFE0F", method: ar}', "'label' should have a character that can be seen"),
        (f"{{label: {'x' * 81}, method: ar}}", "'label' should have at most 80 characters; shorten it"),
        (
            "{label: Baseline, method: ar}",
            "duplicate label 'Baseline', first on line 4; give every row its own",
        ),
        ("{label: X, label: Y, method: ar}", "duplicate key 'label', first on line 5; keep one of them"),
        ("tree", "an item of 'configs' should be a mapping of keys to values, not 'tree'"),
        (
            "{label: X, method: linear, k: [2, 3], zip: [k, q]}",
            "'zip' links lists of this row: unknown key 'q'",
        ),
        ("{label: X, method: linear, k: 2, zip: [k]}", "'zip' takes the names of two or more lists"),
        (
            "{label: X, method: tree, depth: [1, 2], branch: 3, zip: [depth, branch]}",
            "'zip' links lists, but 'branch' is 3; make it a list",
        ),
        (
            "{label: X, method: tree, depth: [1, 2], branch: [3], zip: [depth, branch]}",
            "'zip' links lists of equal length, but 'depth' has 2 and 'branch' has 1; make them equal",
        ),
        (
            "{label: X, method: tree, depth: [1], branch: [3], zip: [[depth, branch], [branch, depth]]}",
            "'zip' names a parameter twice; name each once",
        ),
    ],
)
def test_a_wrong_row_is_named_with_its_line(row: str, message: str) -> None:
    assert mistake_in(sweep(f"  - {row}\n")).startswith(f"sweep.yaml:5: {message}")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("genaration: {}", "unknown key 'genaration'; did you mean 'generation'?"),
        ("generation: {max_new_tokens: 0}", "'max_new_tokens' should be at least 1, not 0"),
        ("generation: {temperature: -1}", "'temperature' should be at least 0, not -1"),
        (
            "generation: {temperature: 1.0e-30}",
            "'temperature' should be 0, which is greedy, or at least 0.000001, not 1e-30",
        ),
        ("generation: {seed: 9223372036854775808}", "'seed' should be less than 9223372036854775808"),
        ("measure: []", "'measure' should be a mapping of keys to values, not a list"),
        ("measure: {repeats: 0}", "'repeats' should be at least 1, not 0"),
        ("measure: {repeats: often}", "'repeats' should be a whole number, not 'often'"),
        ("measure: {repeats: auto, max_repeats: 2}", "'max_repeats' should be at least 3, not 2"),
        ("measure: {max_repeats: 5}", "'max_repeats' is for 'repeats: auto'; leave it out, or write that"),
        ("measure: {repeats: 3, precision: 0.1}", "'precision' is for 'repeats: auto'"),
        ("measure: {repeats: auto, precision: 0}", "'precision' should be more than 0, not 0"),
        ("measure: {tune_fraction: 1}", "'tune_fraction' should be less than 1, not 1"),
        ("measure: {confidence: 1.0}", "'confidence' should be less than 1, not 1.0"),
        ("measure: {warmup: true}", "'warmup' should be a whole number, not true"),
        ("engine: {backand: eager}", "unknown key 'backand'; did you mean 'backend'?"),
        (
            "engine: {backend: cuda}",
            "'backend' should be 'auto', 'eager', 'compile' or 'cudagraph', not 'cuda'",
        ),
        (
            "engine: {dtype: int8}",
            "'dtype' should be 'auto', 'float32', 'bfloat16' or 'float16', not 'int8'",
        ),
        ("engine: eager", "'engine' should be a mapping of keys to values, not 'eager'"),
        ("engin: {}", "unknown key 'engin'; did you mean 'engine'?"),
        ("name: 12", "'name' should be text, not 12; put it in quotes"),
        ("name: '12'", "'name' would be taken for a sweep's number; add a letter to it"),
        ("baseline: Basline", "unknown row 'Basline'; did you mean 'Baseline'?"),
        ("pair: demo", "duplicate key 'pair', first on line 1; keep one of them"),
        ("name: !!python/object:os.system x", "unsupported tag '!!python/object:os.system'; leave it out"),
        ("name: *nowhere", "alias *nowhere has no anchor of that name before it"),
        ("name: &x [*x]", "alias *x has no anchor of that name before it"),
        ("measure: {<<: 5}", "'<<' takes a mapping, or a list of mappings"),
        ("? [a]\n: b", "a key must be a single word"),
        ("\tname: x", "a tab stands where YAML wants spaces; indent with spaces"),
        ("name: \x07", "holds the control character U+0007; a sweep file is plain text"),
        ("name: a: b", "not valid YAML: mapping values are not allowed in this context"),
    ],
)
def test_a_wrong_section_is_named_with_its_line(head: str, message: str) -> None:
    assert mistake_in(sweep(head=f"{head}\n")).startswith(f"sweep.yaml:3: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "sweep.yaml:1: the file is empty; examples/four-step.yaml shows what belongs in it"),
        ("# only a comment\n", "sweep.yaml:1: the file is empty"),
        ("- a\n", "sweep.yaml:1: a sweep file is a mapping with keys such as 'configs', not a list"),
        ("just text", "sweep.yaml:1: a sweep file is a mapping with keys such as 'configs', not 'just text'"),
        ("a: 1\n---\nb: 2\n", "sweep.yaml:2: a second document begins here; write one sweep per file"),
        ("a: [1,\n", "sweep.yaml:1: not valid YAML"),
        ("prompts: {dataset: demo}\npair: demo\n", "sweep.yaml:1: 'configs' is missing; add it"),
        (
            "pair: demo\nprompts: {dataset: demo}\nconfigs: []\n",
            "sweep.yaml:3: 'configs' should not be empty",
        ),
        (
            "pair: demo\nprompts: {dataset: demo}\nconfigs: x\n",
            "sweep.yaml:3: 'configs' should be a list, not 'x'",
        ),
        (
            "pair: demo\nprompts: {dataset: demo}\nconfigs:\n  - {label: L, method: linear, k: 2}\n",
            "sweep.yaml:3: no row to compare with; add {label: Baseline, method: ar}",
        ),
    ],
)
def test_a_file_that_is_no_sweep_is_refused(text: str, message: str) -> None:
    assert mistake_in(text).startswith(message)


def test_a_file_without_keys_is_refused_as_such_whatever_options_would_set_in_it() -> None:
    for options in ({"name": "x"}, {"overrides": ["generation.seed=1"]}):
        assert mistake_in("- a\n", **options).startswith("sweep.yaml:1: a sweep file is a mapping")


def test_the_first_of_several_mistakes_is_reported() -> None:
    rows = "  - {label: X, method: linear, k: 0}\n  - {label: Y, method: lineer}\n"
    assert mistake_in(sweep(rows)).startswith("sweep.yaml:5: 'k'")
    assert mistake_in(sweep(rows, head="measure: {repeats: 0}\n")).startswith("sweep.yaml:3: 'repeats'")

    top_down = "generation:\n  temperature: -1\n  max_new_tokens: 0\n"
    assert mistake_in(sweep(rows, head=top_down)).startswith("sweep.yaml:4: 'temperature'")


def test_names_from_elsewhere_lead_to_parameters_that_there_are() -> None:
    parameters = {name for method in METHODS.values() for name in method.model_fields}
    assert set(OTHER_NAMES) <= parameters
    assert all(name == name.lower() for names in OTHER_NAMES.values() for name in names)


def test_a_mistake_in_a_list_is_on_the_line_of_its_item() -> None:
    rows = "  - label: X\n    method: linear\n    k:\n      - 3\n      - 0\n"

    assert mistake_in(sweep(rows)) == "sweep.yaml:9: 'k' should be at least 1, not 0"


def test_a_mistake_between_two_parameters_is_on_the_line_of_the_later_one_where_it_is_given() -> None:
    rows = "  - label: X\n    method: dynatree\n    depth: 4\n    max_depth:\n      - 6\n      - 3\n"

    assert mistake_in(sweep(rows)) == (
        "sweep.yaml:10: 'max_depth' should be at least 'depth', which is 4, not 3"
    )


def test_parameters_of_a_phase_that_is_switched_off_need_not_fit_together() -> None:
    off = "depth: 12, depth_phase: false, branch_mid: 5, confidence_low: 0.95, branch_phase: false"
    spec = parse(sweep(f"  - {{label: X, method: dynatree, {off}}}\n"))

    assert (spec.configurations[1].params["depth"], spec.configurations[1].params["max_depth"]) == (12, 8)


def test_a_baseline_that_stands_for_several_rows_is_told_one_of_them() -> None:
    message = mistake_in(sweep("  - {label: L, method: linear, k: [2, 3]}\n", head="baseline: L\n"))

    assert message == "sweep.yaml:3: unknown row 'L'; known: L (k=2)"


# ------------------------------------------------------------------- command line


def test_overrides_replace_values_and_add_sections() -> None:
    spec = parse(
        sweep(head="generation: {seed: 3}\n"),
        overrides=["generation.max_new_tokens=64", "measure.repeats=5", "prompts={dataset: demo, limit: 2}"],
        name="other",
    )

    assert spec.generation == GenerationSpec(max_new_tokens=64, seed=3)
    assert (spec.measure.repeats, spec.prompts.limit, spec.name) == (5, 2, "other")


def test_an_override_reaches_into_a_row() -> None:
    assert parse(sweep("  - {label: L, method: linear, k: 2}\n"), overrides=["configs.1.k=4"]).configurations[
        1
    ].params == {"k": 4}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("generation.max_new_tokens=many", "'max_new_tokens' should be a whole number, not 'many'"),
        ("generation.max_new_tokns=4", "unknown key 'max_new_tokns'; did you mean 'max_new_tokens'?"),
        ("generation.max_new_tokens", "is not KEY=VALUE; write it as generation.max_new_tokens=64"),
        ("measure..repeats=3", "is not KEY=VALUE"),
        ("pair.dtype=float32", "the sweep file has no place for 'dtype' there; set the value around it"),
        ("configs.7.k=3", "the sweep file has no place for 7 there; set the value around it"),
        ("name=[1,", "not valid YAML"),
        ("generation.seed=", "'seed' should be a whole number, not nothing"),
        ("generation.max_tokens.x=1", "unknown key 'max_tokens'; did you mean 'max_new_tokens'?"),
        ("mesure.repeats=1", "unknown key 'mesure'; did you mean 'measure'?"),
        ("measure.warm.up=1", "unknown key 'warm'; did you mean 'warmup'?"),
    ],
)
def test_a_wrong_override_is_named_instead_of_a_line(override: str, message: str) -> None:
    assert mistake_in(sweep(), overrides=[override]).startswith(f"--set {override}: {message}")


def test_a_wrong_name_option_is_named() -> None:
    assert (
        mistake_in(sweep(), name="7")
        == "--name: 'name' would be taken for a sweep's number; add a letter to it"
    )


# ----------------------------------------------------------------------- files


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    def refused(data: bytes | None) -> str:
        path = tmp_path / "sweep.yaml"
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(SweepFileError) as caught:
            load_sweep(path)
        return str(caught.value).removeprefix(str(path))

    assert refused(None) == ": cannot be read: No such file or directory"
    assert refused(b"name: x\nlabel: \xff\n") == ":2: is not UTF-8 text; save it as UTF-8"
    assert refused(b"\x00\x01\x02") == ":1: holds the control character U+0000; a sweep file is plain text"
    assert refused(b"#" * 1_000_001).startswith(":1: is larger than 1,000,000 bytes")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a POSIX feature")
def test_what_is_not_a_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(SweepFileError, match="is not a file; name a sweep file in YAML"):
            load_sweep(path)


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + sweep().replace("\n", "\r\n").encode())

    assert load_sweep(path).baseline == "Baseline"


# --------------------------------------------------------------------- hostile files


def _billion_configurations() -> str:
    thousand = ", ".join(str(i) for i in range(1, 1001))
    lists = f"depth: [{thousand}], branch: [{thousand}], root_branch: [{thousand}]"
    return sweep(f"  - {{label: X, method: tree, {lists}}}\n")


def _alias_bomb() -> str:
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    return "\n".join(["a0: &a0 [x, x, x]", *levels])


def _merge_bomb() -> str:
    keys = ", ".join(f"k{i}: 1" for i in range(9000))
    return f"a: &a {{{keys}}}\nb: {{<<: [{'*a, ' * 100_000}]}}"


def _billion_generations() -> str:
    thousand = ", ".join(str(i) for i in range(1, 1001))
    return sweep(
        head=f"generation: {{max_new_tokens: [{thousand}], temperature: [{thousand}], seed: [{thousand}]}}\n"
    )


HOSTILE = {
    "deep flow lists": ("[" * 900_000, "nested more than 64 deep"),
    "deep block lists": ("- " * 400_000, "nested more than 64 deep"),
    "deep mappings": ("{a: " * 200_000, "nested more than 64 deep"),
    "alias bomb": (_alias_bomb(), "more than 100,000 values"),
    "merge key bomb": (_merge_bomb(), "more than 100,000 values"),
    "half a million values": (f"[{'1,' * 490_000}]", "more than 100,000 values"),
    "a billion configurations": (
        _billion_configurations(),
        "would make 1,000,000,001 configurations; the limit is 10,000 (raise it with --max-configurations)",
    ),
    "a million digits": (f"name: {'9' * 990_000}", "at most 80 characters"),
    "45,000 unknown keys": ("\n".join(f"k{i}: 1" for i in range(45_000)), "unknown key 'k0'"),
    "20,000 wrong rows": (sweep("  - {label: X, method: lineer}\n" * 20_000), "values; write it shorter"),
    "90,000 missing files": (
        sweep(prompts=f"{{dataset: json, data_files: [{'x, ' * 90_000}]}}"),
        "'data_files' should have at most 1000 items",
    ),
    "a billion generation settings": (
        _billion_generations(),
        "'generation' should make at most 100 settings, not 1,000,000,000",
    ),
    "many jobs": (
        sweep(
            f"  - {{label: X, method: linear, k: [{', '.join(str(i) for i in range(1, 1025))}]}}\n",
            head="measure: {repeats: 1000}\n",
        ),
        "would make 1,025,000 jobs; the limit is 1,000,000",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str) -> None:
    text, message = HOSTILE[name]

    assert message in mistake_in(text)


def test_the_limit_on_configurations_can_be_raised() -> None:
    row = "  - {label: X, method: linear, k: [1, 2, 3]}\n"

    assert "would make 4 configurations; the limit is 3" in mistake_in(sweep(row), max_configurations=3)
    assert len(parse(sweep(row), max_configurations=4).configurations) == 4


yaml_like = st.text(alphabet="[]{}:,-&*!|>'\"#%?<\n\t 0159.e~ka" + string.ascii_letters[:6], max_size=60)


@settings(database=None, deadline=None, max_examples=200)
@given(yaml_like)
def test_any_text_is_a_sweep_or_a_mistake_of_one_line(text: str) -> None:
    """No other exception escapes, whatever is in a section."""
    for candidate in (text, sweep(f"  - {text}\n"), sweep(head=f"{text}\n")):
        try:
            parse(candidate)
        except SweepFileError as error:
            assert len(str(error).splitlines()) == 1
            assert error.line


# ----------------------------------------------------------------------- schema


def test_every_method_has_its_parameters() -> None:
    assert set(METHODS) == set(Method) - {Method.OTHER}  # of imported rows alone


def test_the_schema_names_every_section_method_and_parameter() -> None:
    schema = json.loads(json.dumps(json_schema()))

    assert set(schema["properties"]) == {
        "name",
        "pair",
        "prompts",
        "generation",
        "measure",
        "engine",
        "baseline",
        "configs",
    }
    assert set(schema["required"]) == {"pair", "prompts", "configs"}
    rows = {
        row["properties"]["method"]["const"]: row for row in schema["properties"]["configs"]["items"]["oneOf"]
    }
    for method, model in METHODS.items():
        assert set(model.model_fields) <= set(rows[method]["properties"])
        assert rows[method]["additionalProperties"] is False
    assert rows["linear"]["required"] == ["label", "method", "k"]
    single, several = schema["properties"]["generation"]["anyOf"]
    assert several["items"] == single
    assert single["properties"].keys() == GenerationSection.model_fields.keys()
    lists = {name for name, value in single["properties"].items() if value["anyOf"][1]["type"] == "array"}
    assert lists == single["properties"].keys() - {"label"}
