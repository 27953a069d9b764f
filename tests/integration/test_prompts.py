"""Prompts from every kind of file that `datasets` reads, and the packaged ones."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pytest
import torch
from click.testing import CliRunner
from dyna_eval_workers.model_files import demo_folder
from dyna_eval_workers.prompts import check_fit, load_prompts
from dyna_eval_workers.resolution import resolve_sweep
from dyna_eval_workers.session import DecodingSession
from transformers import AutoTokenizer

from dyna_eval.cli import cli
from dyna_eval.errors import PromptError
from dyna_eval.jobs import Method, Prompt, PromptSet, PromptSpec, ResolvedSweep, SweepSpec, prompt_digest
from dyna_eval.measurements import Exactness
from dyna_eval.sweeps.config import load_sweep, parse_sweep
from dyna_eval.wording import count
from tests.models import END, VOCABULARY, byte_tokenizer, save_model, tiny_gpt_neox

ROOT = Path(__file__).parents[2]
WIKITEXT = ROOT.parent / "shared" / "data" / "wikitext-2" / "test.parquet"
TEXTS = ["short", "a line of twenty-four ch", "", "another line, which is the longest of all", "é" * 10]
KINDS = ["one", "two", "one", "two", "one"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` keeps what it read; not in the home of whoever runs the tests."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_tokenizer()


def _write_jsonl(folder: Path) -> Path:
    path = folder / "prompts.jsonl"
    rows = [{"text": text, "kind": kind} for text, kind in zip(TEXTS, KINDS, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _write_parquet(folder: Path) -> Path:
    path = folder / "prompts.parquet"
    datasets.Dataset.from_dict({"text": TEXTS, "kind": KINDS}).to_parquet(path)
    return path


def _write_csv(folder: Path) -> Path:
    path = folder / "prompts.csv"
    rows = [f'"{text}",{kind}\n' for text, kind in zip(TEXTS, KINDS, strict=True)]
    path.write_text("".join(["text,kind\n", *rows]))
    return path


def _write_text(folder: Path) -> Path:
    path = folder / "prompts.txt"
    path.write_text("".join(f"{text}\n" for text in TEXTS))
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "json": _write_jsonl,
    "parquet": _write_parquet,
    "csv": _write_csv,
    "text": _write_text,
}


def spec_of(path: Path, dataset: str = "json", **changes: Any) -> PromptSpec:
    return replace(PromptSpec(dataset=dataset, split="train", data_files=(str(path),)), **changes)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return _write_jsonl(tmp_path)


def refusal(action: Callable[[], object]) -> str:
    """Return the reason that an action is refused with; it must be one line."""
    with pytest.raises(PromptError) as caught:
        action()
    reason = str(caught.value)
    assert "\n" not in reason
    return reason


# ------------------------------------------------------------------- from files


@pytest.mark.parametrize("dataset", WRITERS)
def test_rows_of_every_kind_of_file_become_prompts(dataset: str, tmp_path: Path, tokenizer: Any) -> None:
    prompts = load_prompts(spec_of(WRITERS[dataset](tmp_path), dataset), tokenizer).prompts
    assert [prompt.text for prompt in prompts] == [text for text in TEXTS if text]
    assert [prompt.index for prompt in prompts] == [0, 1, 2, 3]
    assert all(prompt.digest == prompt_digest(prompt.text, prompt.token_ids) for prompt in prompts)
    assert all(tokenizer.decode(prompt.token_ids) == prompt.text for prompt in prompts)


def test_the_digest_depends_on_the_content_alone(tmp_path: Path, tokenizer: Any) -> None:
    digests = {
        load_prompts(spec_of(write(tmp_path), dataset), tokenizer).digest
        for dataset, write in WRITERS.items()
    }
    assert len(digests) == 1
    other = tmp_path / "other.jsonl"
    other.write_text((tmp_path / "prompts.jsonl").read_text().replace("longest", "largest"))
    assert load_prompts(spec_of(other), tokenizer).digest not in digests


def test_a_file_that_was_changed_is_read_again(rows: Path, tokenizer: Any) -> None:
    """`datasets` caches what it read; the cache must not outlive the content."""
    before = load_prompts(spec_of(rows), tokenizer)
    rows.write_text(rows.read_text().replace("short", "shirt"))
    after = load_prompts(spec_of(rows), tokenizer)
    assert after.prompts[0].text == "shirt"
    assert after.digest != before.digest


def test_short_rows_are_left_out(rows: Path, tokenizer: Any) -> None:
    prompts = load_prompts(spec_of(rows, min_chars=24), tokenizer).prompts
    assert [prompt.text for prompt in prompts] == [TEXTS[1], TEXTS[3]]


def test_characters_are_counted_not_bytes(rows: Path, tokenizer: Any) -> None:
    texts = [prompt.text for prompt in load_prompts(spec_of(rows, min_chars=10), tokenizer).prompts]
    assert TEXTS[4] in texts
    texts = [prompt.text for prompt in load_prompts(spec_of(rows, min_chars=11), tokenizer).prompts]
    assert TEXTS[4] not in texts


def test_the_limit_counts_usable_rows(rows: Path, tokenizer: Any) -> None:
    prompts = load_prompts(spec_of(rows, min_chars=24, limit=2), tokenizer).prompts
    assert [(prompt.index, prompt.text) for prompt in prompts] == [(0, TEXTS[1]), (1, TEXTS[3])]
    assert len(load_prompts(spec_of(rows, limit=3), tokenizer).prompts) == 3
    assert len(load_prompts(spec_of(rows, limit=99), tokenizer).prompts) == 4


def test_prompts_are_cut_and_their_text_with_them(rows: Path, tokenizer: Any) -> None:
    prompts = load_prompts(spec_of(rows, max_prompt_tokens=7), tokenizer).prompts
    assert [len(prompt.token_ids) for prompt in prompts] == [5, 7, 7, 7]
    assert prompts[1].text == "a line "
    assert prompts[0].text == "short"


def test_a_category_column_is_kept(rows: Path, tokenizer: Any) -> None:
    prompts = load_prompts(spec_of(rows, category="kind"), tokenizer).prompts
    assert [prompt.category for prompt in prompts] == ["one", "two", "two", "one"]
    assert load_prompts(spec_of(rows), tokenizer).prompts[0].category is None


SPEC_BENCH = [
    {"question_id": 81, "category": "writing", "turns": ["Write a blog post.", "Rewrite it."]},
    {
        "question_id": 101,
        "category": "reasoning",
        "turns": ["Who won?", "And now?"],
        "reference": ["You.", ""],
    },
    {"question_id": 241, "category": "translation", "turns": ["Übersetze: Guten Tag."]},
]


def write_rows(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_question_file_with_turns_gives_the_first_turn_of_each_with_its_category(
    tmp_path: Path, tokenizer: Any
) -> None:
    """The form of Spec-Bench's question file, some of whose rows have references."""
    spec = spec_of(write_rows(tmp_path, *SPEC_BENCH), column="turns", category="category")
    prompts = load_prompts(spec, tokenizer).prompts
    assert [prompt.text for prompt in prompts] == [row["turns"][0] for row in SPEC_BENCH]
    assert [prompt.category for prompt in prompts] == ["writing", "reasoning", "translation"]


@pytest.mark.parametrize(
    ("key", "bad", "says"),
    [
        ("turns", [], "column 'turns' holds an empty list"),
        ("turns", [None], "column 'turns' holds a list that begins with None"),
        ("category", None, None),
    ],
)
def test_a_row_without_a_first_turn_is_refused_by_its_number(
    key: str, bad: object, says: str | None, tmp_path: Path, tokenizer: Any
) -> None:
    path = write_rows(tmp_path, SPEC_BENCH[0], {**SPEC_BENCH[1], key: bad}, SPEC_BENCH[2])
    spec = spec_of(path, column="turns", category="category")
    if says is None:
        assert load_prompts(spec, tokenizer).prompts[1].category is None
    else:
        assert refusal(lambda: load_prompts(spec, tokenizer)).startswith(f"row 2 of {path}: {says}")


def test_lists_of_numbers_are_no_turns_and_lists_are_no_categories(tmp_path: Path, tokenizer: Any) -> None:
    path = write_rows(tmp_path, {"text": "words", "turns": [1, 2]})
    reason = refusal(lambda: load_prompts(spec_of(path, column="turns"), tokenizer))
    assert reason.startswith(f"row 1 of {path}: column 'turns' holds a list that begins with 1;")
    reason = refusal(lambda: load_prompts(spec_of(path, category="turns"), tokenizer))
    assert reason.startswith(f"row 1 of {path}: column 'turns' holds [1, 2], which is no category")


def test_categories_may_be_numbers_and_blank_ones_are_none(tmp_path: Path, tokenizer: Any) -> None:
    rows = write_rows(tmp_path, {"text": "one", "level": 1}, {"text": "two", "level": 2})
    found = load_prompts(spec_of(rows, category="level"), tokenizer).prompts
    assert [prompt.category for prompt in found] == ["1", "2"]
    blank = write_rows(tmp_path, {"text": "one", "level": " "}, {"text": "two", "level": "a "})
    found = load_prompts(spec_of(blank, category="level"), tokenizer).prompts
    assert [prompt.category for prompt in found] == [None, "a"]


def test_rows_without_text_are_left_out(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": null}\n{"text": "words"}\n')
    assert [prompt.text for prompt in load_prompts(spec_of(path), tokenizer).prompts] == ["words"]


@pytest.mark.parametrize("key", ["column", "category"])
def test_a_column_that_is_not_there_is_refused_with_those_that_are(
    key: str, rows: Path, tokenizer: Any
) -> None:
    reason = refusal(lambda: load_prompts(spec_of(rows, **{key: "txt"}), tokenizer))
    assert reason == f"{rows} has no column 'txt', only text, kind; name one of them with prompts.{key}"


def test_a_data_set_without_a_usable_prompt_is_refused_with_advice(rows: Path, tokenizer: Any) -> None:
    reason = refusal(lambda: load_prompts(spec_of(rows, min_chars=1000), tokenizer))
    assert "none of its 5 rows has at least 1000 characters in column 'text'" in reason
    assert "lower prompts.min_chars" in reason
    assert reason.startswith(str(rows))


def test_blank_rows_are_no_prompts(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": ""}\n{"text": " \\n "}\n')
    assert "no usable prompt" in refusal(lambda: load_prompts(spec_of(path), tokenizer))


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ((1, 2), (1, "1")),
        (("words", 5), (2, "5")),
        ((None, True), (2, "True")),
        (({"a": 1},), (1, "{'a': 1}")),
    ],
    ids=["numbers", "mixed", "truth", "mapping"],
)
@pytest.mark.parametrize("chat_template", [None, {}], ids=["text", "chat"])
def test_a_cell_that_is_no_text_is_refused_by_its_row(
    cells: tuple[object, ...],
    says: tuple[int, str],
    chat_template: dict[str, object] | None,
    tmp_path: Path,
    chat_tokenizer: Any,
) -> None:
    """Dropped, it would be missing from the prompts without a word."""
    number, shown = says
    path = write_rows(tmp_path, *({"text": cell} for cell in cells))
    reason = refusal(lambda: load_prompts(spec_of(path, chat_template=chat_template), chat_tokenizer))
    assert reason.startswith(f"row {number} of {path}: column 'text' holds {shown}, which is no text; ")
    assert "name a column of texts with prompts.column" in reason


def test_numbers_become_texts_by_a_template(tmp_path: Path, tokenizer: Any) -> None:
    path = write_rows(tmp_path, {"n": 1}, {"n": 2})
    assert "prompts.template makes texts of numbers" in refusal(
        lambda: load_prompts(spec_of(path, column="n"), tokenizer)
    )
    assert texts_of(spec_of(path, template="{n}"), tokenizer) == ["1", "2"]


def test_a_split_that_is_not_there_is_refused_with_its_key(rows: Path, tokenizer: Any) -> None:
    said = "cannot be loaded: Unknown split \"test\". Should be one of ['train']; set prompts.split"
    folder = PromptSpec(dataset=str(rows.parent))
    assert refusal(lambda: load_prompts(folder, tokenizer)) == f"data set {str(rows.parent)!r} {said}"
    assert "set prompts.split" in refusal(lambda: load_prompts(spec_of(rows, split="test"), tokenizer))
    assert load_prompts(replace(folder, split="train"), tokenizer) == load_prompts(spec_of(rows), tokenizer)


def test_a_data_set_that_was_saved_to_disk_is_read_as_its_error_says(tmp_path: Path, tokenizer: Any) -> None:
    saved = tmp_path / "saved"
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(saved)
    reason = refusal(lambda: load_prompts(PromptSpec(dataset=str(saved)), tokenizer))
    pattern = str(saved / "*.arrow")
    assert reason.endswith(
        f"it was saved with save_to_disk; write 'dataset: arrow', and in 'data_files' {pattern!r}"
    )
    assert texts_of(spec_of(Path(pattern), "arrow"), tokenizer) == [text for text in TEXTS if text]


def test_a_pattern_that_no_file_matches_is_told_from_an_empty_file(tmp_path: Path, tokenizer: Any) -> None:
    gone, empty = tmp_path / "gone*.jsonl", tmp_path / "empty*.jsonl"
    (tmp_path / "empty.jsonl").touch()
    reason = refusal(lambda: load_prompts(spec_of(gone), tokenizer))
    assert reason.endswith(f": no file matches {str(gone)!r}; correct prompts.data_files")
    assert refusal(lambda: load_prompts(spec_of(empty), tokenizer)).endswith(": it holds no row")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("text\nÄpfel\n".encode("latin-1"), "; save it as UTF-8"),
        (b"text;kind\nWho?;a\nWho, what?;b\n", "; columns are separated by commas"),
        (b"text;kind\nWho?;a\n", "only text;kind; columns are separated by commas"),
    ],
    ids=["latin-1", "semicolons", "semicolons alone"],
)
def test_a_csv_file_of_another_form_is_refused_with_what_to_do(
    content: bytes, says: str, tmp_path: Path, tokenizer: Any
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    reason = refusal(lambda: load_prompts(spec_of(path, "csv"), tokenizer))
    assert reason.startswith(str(path))
    assert says in reason


def test_a_file_that_is_not_what_it_should_be_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "rows.parquet"
    path.write_text("no parquet")
    reason = refusal(lambda: load_prompts(spec_of(path, "parquet"), tokenizer))
    assert reason.startswith(f"{path} cannot be loaded as parquet: ")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    missing = tmp_path / "missing.jsonl"
    assert str(missing) in refusal(lambda: load_prompts(spec_of(missing), tokenizer))


def test_an_unknown_data_set_without_a_network_is_refused(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    reason = refusal(lambda: load_prompts(PromptSpec(dataset="nobody/never-heard-of"), tokenizer))
    assert reason.startswith("data set 'nobody/never-heard-of' cannot be loaded: ")


# ---------------------------------------------------------- texts of several columns


@pytest.mark.parametrize("dataset", ["json", "parquet", "csv"])
def test_a_text_is_made_of_several_columns(dataset: str, tmp_path: Path, tokenizer: Any) -> None:
    spec = spec_of(WRITERS[dataset](tmp_path), dataset, template="{kind}: {text}\n{{A}}:", limit=2)
    prompts = load_prompts(spec, tokenizer).prompts
    assert [prompt.text for prompt in prompts] == [f"one: {TEXTS[0]}\n{{A}}:", f"two: {TEXTS[1]}\n{{A}}:"]
    assert [tokenizer.decode(prompt.token_ids) for prompt in prompts] == [prompt.text for prompt in prompts]


def test_a_template_of_one_column_gives_the_prompts_of_that_column(rows: Path, tokenizer: Any) -> None:
    """But for rows that are blank in it: with other text around it they would be prompts."""
    assert load_prompts(spec_of(rows, template="{text}"), tokenizer) == load_prompts(spec_of(rows), tokenizer)
    assert len(load_prompts(spec_of(rows, template="Q: {text}"), tokenizer).prompts) == len(TEXTS)


def test_values_are_not_read_as_templates_and_may_be_numbers(tmp_path: Path, tokenizer: Any) -> None:
    path = write_rows(tmp_path, {"a": "{b} {{", "b": 5}, {"a": None, "b": 6}, {"a": "x", "b": 7})
    prompts = load_prompts(spec_of(path, template="{a} {b}"), tokenizer).prompts
    assert [prompt.text for prompt in prompts] == ["{b} {{ 5", "x 7"], "and a row without a value is left out"


def test_characters_of_the_whole_text_are_counted_and_it_is_cut(rows: Path, tokenizer: Any) -> None:
    spec = spec_of(rows, template="Q: {text}", min_chars=14, max_prompt_tokens=6)
    texts = [prompt.text for prompt in load_prompts(spec, tokenizer).prompts]
    assert texts == ["Q: a l", "Q: ano"]


@pytest.mark.parametrize("template", ["{quesion}", "{text} {text.kind}", "{text[0]}", "{text!r}"])
def test_what_a_template_names_must_be_a_column(template: str, rows: Path, tokenizer: Any) -> None:
    name = template.rpartition("{")[2].removesuffix("}")
    reason = refusal(lambda: load_prompts(spec_of(rows, template=template), tokenizer))
    assert reason == f"{rows} has no column {name!r}, only text, kind; name one of them with prompts.template"


def test_a_list_is_no_text_of_a_template(tmp_path: Path, tokenizer: Any) -> None:
    path = write_rows(tmp_path, SPEC_BENCH[0])
    reason = refusal(lambda: load_prompts(spec_of(path, template="{turns}"), tokenizer))
    assert reason.startswith(f"row 1 of {path}: column 'turns' holds ['Write a blog post.', 'Rewrite it.'], ")


def test_a_template_without_a_usable_text_is_told_with_advice(rows: Path, tokenizer: Any) -> None:
    reason = refusal(lambda: load_prompts(spec_of(rows, template="{text}", min_chars=99), tokenizer))
    assert reason.endswith("in the text of prompts.template; lower prompts.min_chars or choose other columns")


# ------------------------------------------------------------------ some rows of many


def numbered(folder: Path, count: int) -> Path:
    """A file whose rows are sorted by kind, as many data sets are; every eleventh one is blank."""
    rows = ({"text": "" if n % 11 == 0 else f"row {n}", "kind": f"k{3 * n // count}"} for n in range(count))
    return write_rows(folder, *rows)


def texts_of(spec: PromptSpec, tokenizer: Any) -> list[str]:
    return [prompt.text for prompt in load_prompts(spec, tokenizer).prompts]


def test_shuffled_rows_are_ranked_by_the_hash_of_seed_and_number(tmp_path: Path, tokenizer: Any) -> None:
    """Written out here, since the order must outlive every library."""
    spec = spec_of(numbered(tmp_path, 40), shuffle=7)

    def rank(number: int) -> str:
        return hashlib.sha256(f'["shuffle",7,{number}]'.encode()).hexdigest()

    expected = [f"row {number - 1}" for number in sorted(range(1, 41), key=rank) if (number - 1) % 11]
    assert texts_of(spec, tokenizer) == expected != texts_of(replace(spec, shuffle=None), tokenizer)
    assert texts_of(replace(spec, limit=9), tokenizer) == expected[:9]
    assert texts_of(replace(spec, shuffle=8), tokenizer) != expected
    assert sorted(texts_of(replace(spec, shuffle=8), tokenizer)) == sorted(expected)


def test_rows_are_shuffled_alike_in_every_kind_of_file(tmp_path: Path, tokenizer: Any) -> None:
    digests = {
        load_prompts(spec_of(write(tmp_path), dataset, shuffle=3), tokenizer).digest
        for dataset, write in WRITERS.items()
    }
    assert len(digests) == 1
    assert digests != {load_prompts(spec_of(_write_jsonl(tmp_path)), tokenizer).digest}


def test_a_slice_of_a_split_is_taken_and_shuffled_by_itself(tmp_path: Path, tokenizer: Any) -> None:
    spec = spec_of(numbered(tmp_path, 40), split="train[12:18]")
    expected = [f"row {number}" for number in range(12, 18)]
    assert texts_of(spec, tokenizer) == expected
    assert expected != texts_of(replace(spec, shuffle=1), tokenizer)
    assert sorted(texts_of(replace(spec, shuffle=1), tokenizer)) == expected
    assert texts_of(replace(spec, split="train[:5%]+train[-1:]"), tokenizer) == ["row 1", "row 39"]


@pytest.mark.parametrize("shuffle", [None, 5])
def test_so_many_prompts_are_taken_of_each_category(
    shuffle: int | None, tmp_path: Path, tokenizer: Any
) -> None:
    """The first ones of the order that there is without the bound; rows that are no prompts do not count."""
    every = spec_of(numbered(tmp_path, 60), category="kind", shuffle=shuffle)
    ordered = load_prompts(every, tokenizer).prompts
    chosen = load_prompts(replace(every, per_category=4), tokenizer).prompts
    assert Counter(prompt.category for prompt in chosen) == {"k0": 4, "k1": 4, "k2": 4}
    for kind in ("k0", "k1", "k2"):
        alike = [prompt.text for prompt in ordered if prompt.category == kind]
        assert [prompt.text for prompt in chosen if prompt.category == kind] == alike[:4]
    assert [prompt.index for prompt in chosen] == list(range(12))
    limited = load_prompts(replace(every, per_category=4, limit=6), tokenizer).prompts
    assert limited == chosen[:6]
    assert len(load_prompts(replace(every, per_category=99), tokenizer).prompts) == len(ordered)


def test_rows_without_a_category_are_one_of_their_own(tmp_path: Path, tokenizer: Any) -> None:
    kinds = [None, "a", " ", "a", None]
    path = write_rows(tmp_path, *({"text": f"row {n}", "kind": kind} for n, kind in enumerate(kinds)))
    spec = spec_of(path, category="kind", per_category=1)
    assert texts_of(spec, tokenizer) == ["row 0", "row 1"]


# ------------------------------------------------------------- revisions of the hub

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def loaded_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that does not reach the hub, and has loaded two commits of a data set from there."""
    for commit, texts in ((OLD, ["old"]), (NEW, ["new"])):
        folder = Path(datasets.config.HF_DATASETS_CACHE) / "org___data" / "default" / "0.0.0" / commit
        prepared = datasets.load_dataset_builder(
            "json",
            data_files={"test": str(write_rows(tmp_path, *({"text": text} for text in texts)))},
            cache_dir=str(tmp_path / commit),
        )
        prepared.download_and_prepare()
        shutil.copytree(prepared.cache_dir, folder)
        (folder / "json-test.arrow").rename(folder / "data-test.arrow")
        info = json.loads((folder / "dataset_info.json").read_text())
        info |= {"config_name": "default", "dataset_name": "data"}
        (folder / "dataset_info.json").write_text(json.dumps(info))
        os.utime(folder, (1, 1) if commit == OLD else (2, 2))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("loaded_before")
def test_a_revision_is_never_another_commit_that_was_loaded_before(tokenizer: Any) -> None:
    """`load_dataset` would take the latest one, and say nothing."""
    spec = PromptSpec(dataset="org/data")
    assert texts_of(spec, tokenizer) == ["new"]
    assert texts_of(replace(spec, revision=NEW), tokenizer) == ["new"]
    for revision in (OLD, "main", "v1.0"):
        reason = refusal(lambda at=revision: load_prompts(replace(spec, revision=at), tokenizer))
        assert reason == (
            f"data set 'org/data' cannot be loaded at revision {revision!r}: the hub is not reached, and the"
            f" latest commit that was loaded here before is {NEW}; name that one with prompts.revision, or"
            " try again with a network"
        )


def test_a_revision_of_an_unknown_data_set_is_refused(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    spec = PromptSpec(dataset="nobody/never-heard-of", revision="v1.0")
    reason = refusal(lambda: load_prompts(spec, tokenizer))
    assert reason.startswith("data set 'nobody/never-heard-of' cannot be loaded: ")


# ------------------------------------------------------------------ chat templates

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'tool' %}"
    "{{ raise_exception('no tools here') }}{% endif %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>"
    "{% if thinking is defined and not thinking %}-{% endif %}{% endif %}"
)
ASKED = [{"role": "user", "content": "Who won?"}]


@pytest.fixture
def chat_tokenizer() -> Any:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def chat_of(folder: Path, *cells: object, **changes: Any) -> PromptSpec:
    path = write_rows(folder, *({"messages": cell} for cell in cells))
    return spec_of(path, column="messages", **{"chat_template": {}, **changes})


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("Who won?", "<user>Who won?\n"),
        (["Who won?", "And now?"], "<user>Who won?\n"),
        (ASKED, "<user>Who won?\n"),
        ([{"role": "system", "content": "Be brief."}, *ASKED], "<system>Be brief.\n<user>Who won?\n"),
        (
            [*ASKED, {"role": "assistant", "content": "You."}, {"role": "user", "content": "And now?"}],
            "<user>Who won?\n",
        ),
    ],
    ids=["text", "turns", "messages", "system", "up to the answer"],
)
def test_a_conversation_goes_through_the_chat_template_up_to_its_first_answer(
    cell: object, text: str, tmp_path: Path, chat_tokenizer: Any
) -> None:
    (prompt,) = load_prompts(chat_of(tmp_path, cell), chat_tokenizer).prompts
    assert prompt.text == f"{END}{text}<assistant>"
    assert prompt.token_ids[0] == chat_tokenizer.bos_token_id, "a special token, and not its letters"
    assert prompt.token_ids.count(chat_tokenizer.bos_token_id) == 1
    assert chat_tokenizer.decode(prompt.token_ids) == prompt.text


def test_tokens_of_a_template_are_those_that_transformers_gives(tmp_path: Path, chat_tokenizer: Any) -> None:
    (prompt,) = load_prompts(chat_of(tmp_path, ASKED), chat_tokenizer).prompts
    theirs = chat_tokenizer.apply_chat_template(ASKED, add_generation_prompt=True)["input_ids"]
    assert list(prompt.token_ids) == theirs


def test_variables_of_a_template_can_be_set(tmp_path: Path, chat_tokenizer: Any) -> None:
    spec = chat_of(tmp_path, ASKED, chat_template={"thinking": False})
    assert load_prompts(spec, chat_tokenizer).prompts[0].text.endswith("<assistant>-")


@pytest.mark.parametrize("name", ["thinkin", "messages", "tokenize", "add_generation_prompt"])
def test_a_variable_that_would_change_nothing_or_too_much_is_refused(
    name: str, tmp_path: Path, chat_tokenizer: Any
) -> None:
    spec = chat_of(tmp_path, ASKED, chat_template={name: False})
    reason = refusal(lambda: load_prompts(spec, chat_tokenizer))
    assert reason == f"the target's chat template has no variable {name!r} that could be set"


def test_a_template_that_tells_the_date_gives_the_same_prompts_every_day(
    tmp_path: Path, chat_tokenizer: Any
) -> None:
    asked = "{% if strftime_now is defined %}{{ strftime_now('%-d %B %Y, %e %H:%M %%') }}{% endif %}. "
    chat_tokenizer.chat_template = f"\n  {asked}{TEMPLATE}"
    (prompt,) = load_prompts(chat_of(tmp_path, ASKED), chat_tokenizer).prompts
    assert prompt.text.startswith("\n1 January 2025,  1 00:00 %. <|end|><user>")


def test_a_template_whose_date_cannot_be_fixed_is_refused(tmp_path: Path, chat_tokenizer: Any) -> None:
    chat_tokenizer.chat_template = "{% set how = '%Y' %}{{ strftime_now(how) }}" + TEMPLATE
    reason = refusal(lambda: load_prompts(chat_of(tmp_path, ASKED), chat_tokenizer))
    assert "asks for the time in a format that it computes" in reason


def test_a_chat_prompt_is_never_cut_and_longer_ones_are_left_out(tmp_path: Path, chat_tokenizer: Any) -> None:
    spec = chat_of(tmp_path, "Who?", "Who won the match?")
    short, long = load_prompts(spec, chat_tokenizer).prompts
    least = len(short.token_ids)
    assert load_prompts(replace(spec, max_prompt_tokens=least), chat_tokenizer).prompts == (short,)
    assert (
        load_prompts(replace(spec, max_prompt_tokens=len(long.token_ids)), chat_tokenizer).prompts[1] == long
    )
    reason = refusal(lambda: load_prompts(replace(spec, max_prompt_tokens=least - 1), chat_tokenizer))
    assert reason.endswith(
        f"at least 1 characters in column 'messages' and at most {least - 1} tokens with the chat template; "
        "lower prompts.min_chars, raise prompts.max_prompt_tokens or choose another column"
    )


def test_characters_of_the_question_alone_are_counted(tmp_path: Path, chat_tokenizer: Any) -> None:
    spec = chat_of(tmp_path, "Who?", " ", "Who won?", min_chars=5)
    assert [prompt.text for prompt in load_prompts(spec, chat_tokenizer).prompts] == [
        f"{END}<user>Who won?\n<assistant>"
    ]


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ([{"role": "assistant", "content": "You."}], "which asks the model nothing"),
        ([{"from": "human", "value": "Who won?"}], "which asks the model nothing"),
        ([{"role": "user", "content": 5}], "which asks the model nothing"),
        ([[1]], "which asks the model nothing"),
        ([], "which asks the model nothing"),
        ([*ASKED, {"role": "tool", "content": "x"}], "the target's chat template refuses it: no tools here"),
    ],
)
def test_what_is_no_conversation_is_refused_by_its_row(
    cell: object, says: str, tmp_path: Path, chat_tokenizer: Any
) -> None:
    spec = chat_of(tmp_path, cell)
    reason = refusal(lambda: load_prompts(spec, chat_tokenizer))
    assert reason.startswith(f"row 1 of {tmp_path / 'questions.jsonl'}: ")
    assert says in reason


def test_a_tokenizer_without_a_template_is_refused_with_what_to_do(tmp_path: Path, tokenizer: Any) -> None:
    reason = refusal(lambda: load_prompts(chat_of(tmp_path, ASKED), tokenizer))
    assert reason.startswith("the target's tokenizer has no chat template; leave out prompts.chat_template")
    several = byte_tokenizer()
    several.chat_template = {"rag": TEMPLATE, "tool_use": TEMPLATE}
    reason = refusal(lambda: load_prompts(chat_of(tmp_path, ASKED), several))
    assert reason.startswith("the target's tokenizer has no default chat template: ")


def test_a_text_of_several_columns_is_the_turn_of_the_user(tmp_path: Path, chat_tokenizer: Any) -> None:
    path = write_rows(tmp_path, {"a": "Who", "b": "won?"}, {"a": None, "b": "lost?"})
    spec = spec_of(path, template="{a} {b}", chat_template={})
    (prompt,) = load_prompts(spec, chat_tokenizer).prompts
    assert prompt.text == f"{END}<user>Who won?\n<assistant>"


def test_a_template_that_is_given_takes_the_place_of_the_tokenizers(
    tmp_path: Path, tokenizer: Any, chat_tokenizer: Any
) -> None:
    """Prompts are what came of it: equal ones are the same set, whoever brought the template."""
    own = load_prompts(chat_of(tmp_path, ASKED), chat_tokenizer)
    given = chat_of(tmp_path, ASKED, chat_template_text=TEMPLATE)
    assert load_prompts(given, tokenizer) == own
    brief = replace(given, chat_template_text=TEMPLATE.replace("assistant", "model"))
    (other,) = load_prompts(brief, chat_tokenizer).prompts
    assert other.text == f"{END}<user>Who won?\n<model>"
    assert load_prompts(brief, chat_tokenizer).digest != own.digest
    spec = replace(given, chat_template={"thinking": False})
    assert load_prompts(spec, tokenizer).prompts[0].text.endswith("<assistant>-")


@pytest.mark.parametrize(
    ("template", "variables", "says"),
    [
        ("a,b\n1,2", {}, "never uses messages, so that all prompts would be alike"),
        ("{{ messages }}\n{% for %}", {}, "is not valid Jinja in line 2: Expected an expression"),
        ("{{ messages }}{{ raise_exception('not so') }}", {}, "refuses it: not so"),
        ("{{ messages }}", {"thinking": False}, "has no variable 'thinking' that could be set"),
        ("{{ strftime_now(how) }}", {}, "asks for the time in a format that it computes"),
    ],
)
def test_a_template_of_a_file_that_cannot_be_used_is_told_as_such(
    template: str, variables: dict[str, object], says: str, tmp_path: Path, tokenizer: Any
) -> None:
    spec = chat_of(tmp_path, ASKED, chat_template=variables, chat_template_text=template)
    reason = refusal(lambda: load_prompts(spec, tokenizer))
    assert f"the template of prompts.chat_template_file {says}" in reason


def test_the_template_of_vicuna_writes_what_fastchat_does(tmp_path: Path, tokenizer: Any) -> None:
    """Its `get_conversation_template("vicuna")`, behind the token that the tokenizer puts before a text."""
    file = tmp_path / "sweep.yaml"
    write_rows(tmp_path, {"turns": ["Who won?", "And now?"]})
    file.write_text(
        "pair: demo\nprompts: {dataset: json, data_files: questions.jsonl, column: turns, "
        f"chat_template_file: {ROOT / 'examples' / 'vicuna.jinja'}}}\n"
        "configs:\n  - {label: Baseline, method: ar}\n"
    )
    (prompt,) = load_prompts(load_sweep(file).prompts, tokenizer).prompts
    assert prompt.text == (
        f"{END}A chat between a curious user and an artificial intelligence assistant. The assistant gives "
        "helpful, detailed, and polite answers to the user's questions. USER: Who won? ASSISTANT:"
    )
    assert prompt.token_ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.usefixtures("looked_at_here")
def test_a_dry_run_warns_of_answers_that_do_not_end(tmp_path: Path) -> None:
    """As a user has it: a template of a file, for a tokenizer without one."""
    model = save_model(tiny_gpt_neox(seed=1), tmp_path / "model")
    byte_tokenizer().save_pretrained(model)
    write_rows(tmp_path, {"question": "Who won?"}, {"question": "Who lost?"})
    (tmp_path / "chat.jinja").write_text(TEMPLATE + "\n")
    file = tmp_path / "sweep.yaml"
    file.write_text(
        f"pair: {{target: {model}}}\n"
        "prompts: {dataset: json, data_files: questions.jsonl, template: '{question}', shuffle: 1,"
        " chat_template_file: chat.jinja}\n"
        "generation: {max_new_tokens: 8}\nconfigs:\n  - {label: Baseline, method: ar}\n"
    )
    database = f"sqlite:///{tmp_path / 'dyna-eval.db'}"
    done = CliRunner().invoke(cli, ["submit", str(file), "--dry-run", "--db", database])
    assert done.exit_code == 0, done.output
    (first, second) = (f"<user>{asked}\n<assistant>" for asked in ("Who won?", "Who lost?"))
    assert f"2 prompts with {len(first) + len(second) + 2} tokens" in done.stdout
    assert done.stderr.startswith(f"{file}: warning: prompts are in a chat template")


@pytest.mark.usefixtures("looked_at_here")
@pytest.mark.parametrize(
    ("texts", "prompts", "said"),
    [
        (
            [f"{'Q: 2 + 2? A: 4. ' * 40} Q: {n} + 1?" for n in range(5)],
            "max_prompt_tokens: 16",
            "pair demo: only 1 of 5 prompts is distinct, and intervals, which take all for independent, will"
            " be too narrow; they are cut after 16 tokens, where they may still be alike: raise"
            " prompts.max_prompt_tokens\n",
        ),
        (
            ["One", "Two", "One"],
            "max_prompt_tokens: 16",
            "pair demo: only 2 of 3 prompts are distinct, and intervals, which take all for independent, will"
            " be too narrow; rows of the data set are alike: take them out, or take others with"
            " prompts.shuffle\n",
        ),
        (["One", "Two"], "max_prompt_tokens: 16", ""),
        (["One"], "max_prompt_tokens: 16", ""),
    ],
    ids=["cut within what they share", "rows that are the same", "distinct", "one"],
)
def test_prompts_that_are_the_same_are_told_before_anything_runs(
    texts: list[str], prompts: str, said: str, tmp_path: Path
) -> None:
    write_rows(tmp_path, *({"text": text} for text in texts))
    file = tmp_path / "sweep.yaml"
    file.write_text(
        f"pair: demo\nprompts: {{dataset: json, data_files: questions.jsonl, column: text, {prompts}}}\n"
        "generation: {max_new_tokens: 8}\nconfigs:\n  - {label: Baseline, method: ar}\n"
    )
    database = f"sqlite:///{tmp_path / 'dyna-eval.db'}"
    done = CliRunner().invoke(cli, ["submit", str(file), "--dry-run", "--db", database])
    assert done.exit_code == 0, done.output
    assert done.stderr == said
    assert f", {count(len(texts), 'prompt')} with " in done.stdout


def test_messages_without_a_template_are_refused_with_the_key_that_they_need(
    tmp_path: Path, chat_tokenizer: Any
) -> None:
    spec = chat_of(tmp_path, ASKED, chat_template=None)
    assert "with 'prompts.chat_template: true', messages with role and content" in refusal(
        lambda: load_prompts(spec, chat_tokenizer)
    )


def test_a_sweep_over_conversations_is_decoded_exactly(tmp_path: Path, chat_tokenizer: Any) -> None:
    model = save_model(tiny_gpt_neox(seed=1), tmp_path / "model")
    chat_tokenizer.save_pretrained(model)
    write_rows(tmp_path, {"messages": ASKED})
    file = tmp_path / "sweep.yaml"
    file.write_text(
        f"pair: {{target: {model}, draft: {model}}}\n"
        "prompts:\n  dataset: json\n  data_files: questions.jsonl\n  column: messages\n"
        "  chat_template: {thinking: false}\n"
        "generation: {max_new_tokens: 8}\nmeasure: {repeats: 1}\n"
        "configs:\n  - {label: Baseline, method: ar}\n  - {label: Linear, method: linear, k: 2}\n"
    )
    resolved = resolve_sweep(load_sweep(file), device="cpu")
    (prompts,) = resolved.prompt_sets.values()
    assert prompts.prompts[0].text.endswith("<assistant>-")
    job = next(job for job in resolved.jobs if job.configuration.method is Method.LINEAR)
    result = DecodingSession(actor="a", node="n", device=torch.device("cpu")).run(job, prompts)
    assert [sample.exactness for sample in result.samples] == [Exactness.EXACT]


# ------------------------------------------------------------------ fit to models


def a_prompt(tokens: int) -> Prompt:
    ids = tuple(range(tokens))
    return Prompt(index=0, text="", token_ids=ids, digest=prompt_digest("", ids))


def test_the_hub_is_not_told_of_local_files_that_are_loaded(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that nobody answers would take seconds, at every load."""
    asked: list[str] = []
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", True)
    monkeypatch.setattr(
        "datasets.load.get_session", lambda: SimpleNamespace(head=lambda url, **_: asked.append(url))
    )
    assert load_prompts(spec_of(_write_jsonl(tmp_path)), tokenizer).prompts
    assert not asked
    assert datasets.config.HF_UPDATE_DOWNLOAD_COUNTS


def test_a_prompt_that_just_fits_is_accepted() -> None:
    check_fit([a_prompt(28)], max_new_tokens=100, position_limit=128)
    check_fit([a_prompt(5000)], max_new_tokens=5000, position_limit=None)


def test_a_prompt_that_does_not_fit_comes_with_the_cut_that_would() -> None:
    prompts = [a_prompt(3), a_prompt(29)]
    reason = refusal(lambda: check_fit(prompts, max_new_tokens=100, position_limit=128))
    assert "29 tokens and 100 new ones do not fit in the 128 positions in which the models can be" in reason
    assert reason.endswith("set prompts.max_prompt_tokens to at most 28")
    check_fit([a_prompt(28)], max_new_tokens=100, position_limit=128)


def test_a_continuation_longer_than_the_model_is_to_be_shortened() -> None:
    reason = refusal(lambda: check_fit([a_prompt(1)], max_new_tokens=128, position_limit=128))
    assert reason.endswith("lower generation.max_new_tokens")


def test_a_token_that_the_target_does_not_have_is_refused_before_anything_runs(tmp_path: Path) -> None:
    """As where a token was added to a tokenizer, and the model was not enlarged for it."""
    model = save_model(tiny_gpt_neox(seed=1), tmp_path / "model")
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([f"<{number}>" for number in range(VOCABULARY - len(tokenizer) + 1)])
    tokenizer.save_pretrained(model)
    last = f"<{VOCABULARY - len(byte_tokenizer())}>"

    def resolve(text: str) -> ResolvedSweep:
        (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "a"}) + "\n" + json.dumps({"text": text}))
        file = tmp_path / "sweep.yaml"
        file.write_text(
            f"pair: {{target: {model}}}\nprompts: {{dataset: json, data_files: rows.jsonl}}\n"
            "generation: {max_new_tokens: 4}\nconfigs:\n  - {label: Baseline, method: ar}\n"
        )
        return resolve_sweep(load_sweep(file), device="cpu")

    assert resolve("b <0> c").jobs
    assert refusal(lambda: resolve(f"b {last} c")).startswith(
        f"prompt 1 holds token {VOCABULARY}, but the target knows {VOCABULARY} tokens only"
    )


# ------------------------------------------------------------- the packaged prompts


def test_the_packaged_prompts_are_many_and_long() -> None:
    prompts = demo_prompts()
    assert len(prompts.prompts) >= 32
    assert min(len(prompt.token_ids) for prompt in prompts.prompts) >= 128


def test_the_packaged_prompts_are_all_different() -> None:
    prompts = demo_prompts().prompts
    assert len({prompt.token_ids[:64] for prompt in prompts}) == len(prompts)


def demo_prompts() -> PromptSet:
    tokenizer = AutoTokenizer.from_pretrained(demo_folder() / "target")
    return load_prompts(PromptSpec(dataset="demo"), tokenizer)


# ----------------------------------------------------- a published sweep, end to end


@pytest.mark.skipif(not WIKITEXT.is_file(), reason="the WikiText-2 parquet files are not beside the checkout")
def test_the_published_sweep_runs_on_local_models_and_files(tmp_path: Path) -> None:
    """examples/pythia-wikitext2.yaml as it stands, but for the models, the file, and the amount."""
    save_model(tiny_gpt_neox(seed=1), tmp_path / "target")
    save_model(tiny_gpt_neox(seed=2, hidden=16, layers=1), tmp_path / "draft")
    published = load_sweep(ROOT / "examples" / "pythia-wikitext2.yaml")
    spec = replace(
        published,
        pairs=(
            replace(
                published.pairs[0],
                target=str(tmp_path / "target"),
                draft=str(tmp_path / "draft"),
                dtype="float32",
            ),
        ),
        prompts=replace(
            published.prompts,
            dataset="parquet",
            name=None,
            split="train",
            data_files=(str(WIKITEXT),),
            max_prompt_tokens=100,
        ),
        generation=replace(published.generation, max_new_tokens=8),
    )
    resolved = resolve_sweep(spec, device="cpu")
    (prompts,) = resolved.prompt_sets.values()
    assert len(prompts.prompts) == 10
    assert all(len(prompt.token_ids) == 100 for prompt in prompts.prompts)
    assert len(resolved.jobs) == 4 * 3
    job = next(
        job
        for job in resolved.jobs
        if job.configuration.method is Method.TREE and job.configuration.params["threshold"] == 0.05
    )
    result = DecodingSession(actor="a", node="n", device=torch.device("cpu")).run(job, prompts)
    assert [sample.exactness for sample in result.samples] == [Exactness.EXACT] * 10


def test_several_prompt_sets_are_resolved_each_on_its_own() -> None:
    prompts = "[{dataset: demo, limit: 2, label: few}, {dataset: demo, limit: 3, label: more}]"
    rows = "  - {label: Baseline, method: ar}\n"
    spec = parse_sweep(f"pair: demo\nprompts: {prompts}\nconfigs:\n{rows}", file="sweep.yaml")
    resolved = resolve_sweep(spec, device="cpu")

    sizes = {name: len(prompt_set.prompts) for name, prompt_set in resolved.prompt_sets.items()}
    assert sizes == {"demo on few": 2, "demo on more": 3}
    assert [pair.spec.name for pair in resolved.pairs] == list(sizes)
    assert resolved.pairs[0].same_models(resolved.pairs[1])
    assert len({job.key for job in resolved.jobs}) == 2


def test_of_several_generation_settings_each_is_resolved_over_the_same_models_and_prompts() -> None:
    resolved = resolve_sweep(of_lengths("[8, 16]"), device="cpu")

    short, long = resolved.pairs
    assert [pair.spec.name for pair in resolved.pairs] == ["demo at 8 new tokens", "demo at 16 new tokens"]
    assert short.same_models(long)
    assert len({prompts.digest for prompts in resolved.prompt_sets.values()}) == 1
    told = [(job.pair.spec.name, job.generation.max_new_tokens) for job in resolved.jobs]
    assert told == [(short.spec.name, 8), (long.spec.name, 16)]


def test_a_text_that_does_not_fit_at_one_of_several_lengths_is_refused() -> None:
    fits_not = (
        "pair demo at 100000 new tokens: prompt 0 .* and 100000 new ones do not fit in the 1024 positions"
    )
    with pytest.raises(PromptError, match=fits_not):
        resolve_sweep(of_lengths("[8, 100000]"), device="cpu")


def test_prompts_that_do_not_fit_are_told_by_their_set_and_their_pair_where_there_are_several() -> None:
    one = "{dataset: demo, limit: 2, max_prompt_tokens: 8, label: short}"
    several = f"[{one}, {{dataset: demo, limit: 2, max_prompt_tokens: 160, label: long}}]"
    pairs = "[demo, {target: demo, draft: demo, name: twin}]"
    text = (
        "pair: {}\nprompts: {}\ngeneration: {{max_new_tokens: {}}}\nconfigs:\n  - {{label: AR, method: ar}}\n"
    )

    def refused(*parts: object) -> str:
        return refusal(lambda: resolve_sweep(parse_sweep(text.format(*parts), file="s.yaml"), device="cpu"))

    assert refused(pairs, several, 900).startswith("pair demo on long: prompt 0 has 160 tokens and 900 new")
    assert refused(pairs, one, 1100).startswith("pair demo: prompt 0 has 8 tokens and 1100 new")
    assert refused("demo", one, 1100).startswith("prompt 0 has 8 tokens and 1100 new")


def of_lengths(lengths: str) -> SweepSpec:
    rows = "  - {label: Baseline, method: ar}\n"
    head = f"pair: demo\nprompts: {{dataset: demo, limit: 2}}\ngeneration: {{max_new_tokens: {lengths}}}\n"
    return parse_sweep(f"{head}measure: {{repeats: 1}}\nconfigs:\n{rows}", file="sweep.yaml")
