"""Prompts: rows of a data set, tokenized and cut."""

from __future__ import annotations

import contextlib
import glob
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import datasets
from datasets.packaged_modules.cache.cache import Cache

from dyna_eval.errors import PromptError, first_line
from dyna_eval.jobs import DEMO, Prompt, PromptSet, PromptSpec, digest, prompt_digest
from dyna_eval.sweeps.templates import columns_of, filled
from dyna_eval_workers.chat import Messages, messages_in, renderer
from dyna_eval_workers.model_files import demo_folder

_Render = Callable[[Messages], str]

_BY_COMMAS = "columns are separated by commas, and a text with a comma stands in double quotes"
_ADVICE = {"Unknown split": "; set prompts.split", "Error tokenizing data": f"; {_BY_COMMAS}"}
"""What to do where `datasets` says these words."""


def load_prompts(spec: PromptSpec, tokenizer: Any) -> PromptSet:
    """Load, filter, tokenize and cut the prompts of a sweep.

    A row is used if its text is not blank and has at least `min_chars` characters and one token; the first
    `limit` such rows become prompts, cut to their first `max_prompt_tokens` tokens. Of a column of lists, the
    turns of a conversation, the first turn is the text; with `template` it is made of several columns. A cell
    that holds anything else is refused, but a missing value is a row without a prompt. With
    `chat_template` conversations go through the tokenizer's template, whose end must not be cut: rows with
    more tokens are left out. With `shuffle` rows are taken in a random order, with `per_category` at most so
    many of each category. Raises PromptError.
    """
    render = None
    if spec.chat_template is not None:
        render = renderer(tokenizer, spec.chat_template, spec.chat_template_text)
    rows = _load_rows(spec)
    _check_columns(spec, rows.column_names)
    prompts: list[Prompt] = []
    taken = Counter[str | None]()
    for number, row in _in_order(rows, spec):
        if spec.limit is not None and len(prompts) == spec.limit:
            break
        if spec.per_category is not None and taken[_category_of(row, number, spec)] == spec.per_category:
            continue
        prompt = _prompt_from(row, number, spec, tokenizer, render, index=len(prompts))
        if prompt is not None:
            prompts.append(prompt)
            taken[prompt.category] += 1
    if not prompts:
        raise PromptError(_nothing_usable(spec, len(rows)))
    return PromptSet(digest=digest([prompt.digest for prompt in prompts]), prompts=tuple(prompts))


def _in_order(rows: Any, spec: PromptSpec) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows with their numbers from 1, as they stand, or in the random order of a seed.

    Rows are ranked by a digest of the seed and their number, so that the order depends on no library's random
    numbers, and more prompts begin with the same ones.
    """
    if spec.shuffle is None:
        yield from enumerate(rows, start=1)
        return
    for number in sorted(range(1, len(rows) + 1), key=lambda one: digest(["shuffle", spec.shuffle, one])):
        yield number, rows[number - 1]


def _nothing_usable(spec: PromptSpec, rows: int) -> str:
    """Return why a data set has no prompt, and which settings might be changed."""
    where = f"column {spec.column!r}" if spec.template is None else "the text of prompts.template"
    other = "another column" if spec.template is None else "other columns"
    most = spec.max_prompt_tokens if spec.chat_template is not None else None
    return (
        f"{_source(spec)} has no usable prompt: none of its {rows} rows has at least "
        f"{spec.min_chars} characters in {where}"
        f"{f' and at most {most} tokens with the chat template' if most else ''}; "
        f"lower prompts.min_chars{', raise prompts.max_prompt_tokens' if most else ''} "
        f"or choose {other}"
    )


def check_fit(prompts: Sequence[Prompt], *, max_new_tokens: int, position_limit: int | None) -> None:
    """Raise PromptError where a prompt and its continuation exceed the positions of the pair's models."""
    longest = max(prompts, key=lambda prompt: len(prompt.token_ids))
    if position_limit is None or len(longest.token_ids) + max_new_tokens <= position_limit:
        return
    room = position_limit - max_new_tokens
    advice = (
        f"set prompts.max_prompt_tokens to at most {room}" if room > 0 else "lower generation.max_new_tokens"
    )
    raise PromptError(
        f"prompt {longest.index} has {len(longest.token_ids)} tokens and {max_new_tokens} new ones do not "
        f"fit in the {position_limit} positions in which the models can be verified; {advice}"
    )


def check_known(prompts: Sequence[Prompt], *, vocabulary: int) -> None:
    """Raise PromptError where a prompt holds a token that the target, with so many tokens, does not have."""
    for prompt in prompts:
        if (beyond := max(prompt.token_ids)) >= vocabulary:
            raise PromptError(
                f"prompt {prompt.index} holds token {beyond}, but the target knows {vocabulary} tokens only: "
                "its tokenizer was given more; take the prompt out, or enlarge the model's embeddings"
            )


def check_split(prompts: Sequence[Prompt], *, tune_fraction: float) -> None:
    """Raise PromptError where there are too few prompts to choose on some and to report the others."""
    if tune_fraction and len(prompts) < 2:
        raise PromptError(
            "one prompt cannot be split; raise prompts.limit, or leave out measure.tune_fraction"
        )


def _load_rows(spec: PromptSpec) -> Any:
    if spec.dataset == DEMO:
        arguments: dict[str, Any] = {
            "path": "json",
            "data_files": {"test": str(demo_folder() / "prompts.jsonl")},
            "split": spec.split,
        }
    else:
        arguments = {"path": spec.dataset, "name": spec.name, "split": spec.split}
        if spec.data_files:
            arguments["data_files"] = list(spec.data_files)
    with _quiet_datasets():
        try:
            return (
                datasets.load_dataset(**arguments) if spec.revision is None else _at_revision(spec, arguments)
            )
        except PromptError:
            raise
        except Exception as error:  # the builders raise OSError, ValueError, DatasetGenerationError, ...
            form = f" as {spec.dataset}" if spec.data_files else ""
            raise PromptError(f"{_source(spec)} cannot be loaded{form}: {_reason(error, spec)}") from error


def _at_revision(spec: PromptSpec, arguments: dict[str, Any]) -> Any:
    """Load what `load_dataset` would of a revision, but never another one.

    Where it does not reach the hub it takes the commit that it read last, whatever revision is asked for.
    """
    split = arguments.pop("split")
    builder = datasets.load_dataset_builder(**arguments, revision=spec.revision)
    if isinstance(builder, Cache) and builder.hash != spec.revision:
        raise PromptError(
            f"data set {spec.dataset!r} cannot be loaded at revision {spec.revision!r}: the hub is not"
            f" reached, and the latest commit that was loaded here before is {builder.hash}; name that one"
            " with prompts.revision, or try again with a network"
        )
    builder.download_and_prepare()
    return builder.as_dataset(split=split)


def _reason(error: Exception, spec: PromptSpec) -> str:
    """Return in one line what the library says, with what to do; or what is wrong where it says it badly."""
    cause = error.__cause__ or error
    said = first_line(cause).rstrip(".")
    if isinstance(cause, StopIteration) or "at least one example" in said:
        return _nothing_found(spec)
    if "save_to_disk" in said:
        files = str(Path(spec.dataset) / "*.arrow")
        return f"it was saved with save_to_disk; write 'dataset: arrow', and in 'data_files' {files!r}"
    if isinstance(cause, UnicodeDecodeError):
        return f"{said}; save it as UTF-8"
    return said + next((advice for words, advice in _ADVICE.items() if words in said), "")


def _nothing_found(spec: PromptSpec) -> str:
    """Return why files gave no row: a pattern that no file matches, or files that are empty."""
    for pattern in spec.data_files:
        if not glob.has_magic(pattern) or "://" in pattern:
            continue
        found = glob.iglob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute patterns
        if not any(Path(path).is_file() for path in found):
            return f"no file matches {pattern!r}; correct prompts.data_files"
    return "it holds no row"


def _check_columns(spec: PromptSpec, columns: Sequence[str]) -> None:
    texts = [("column", spec.column)]
    if spec.template is not None:
        texts = [("template", name) for name in columns_of(spec.template)]
    for key, name in (*texts, ("category", spec.category)):
        if name is not None and name not in columns:
            known = ", ".join(columns)
            advice = f"name one of them with prompts.{key}"
            if spec.dataset == "csv" and len(columns) == 1 and re.search(r"[;\t]", known):
                advice = _BY_COMMAS
            raise PromptError(f"{_source(spec)} has no column {name!r}, only {known}; {advice}")


def _prompt_from(
    row: dict[str, Any],
    number: int,
    spec: PromptSpec,
    tokenizer: Any,
    render: _Render | None,
    *,
    index: int,
) -> Prompt | None:
    if render is None:
        text, token_ids = _text_prompt(row, number, spec, tokenizer)
    else:
        text, token_ids = _chat_prompt(row, number, spec, tokenizer, render)
    if not token_ids:
        return None
    return Prompt(
        index=index,
        text=text,
        token_ids=token_ids,
        digest=prompt_digest(text, token_ids),
        category=_category_of(row, number, spec),
    )


def _text_prompt(
    row: dict[str, Any], number: int, spec: PromptSpec, tokenizer: Any
) -> tuple[str, tuple[int, ...]]:
    """Return a row's text and its tokens, cut; no tokens where it is no prompt."""
    text = _text_of(row, number, spec)
    if not _is_used(text, spec):
        return "", ()
    token_ids = tuple(tokenizer(text, verbose=False)["input_ids"][: spec.max_prompt_tokens])
    if len(token_ids) == spec.max_prompt_tokens:  # cut, or just as long
        text = tokenizer.decode(token_ids)
    return text, token_ids


def _chat_prompt(
    row: dict[str, Any], number: int, spec: PromptSpec, tokenizer: Any, render: _Render
) -> tuple[str, tuple[int, ...]]:
    """Return a row's conversation in the chat template and its tokens; no tokens where it is no prompt."""
    value = _cell(row, number, spec)
    messages = messages_in(value)
    if messages is None and isinstance(value, list):
        raise PromptError(
            f"row {number} of {_source(spec)}: column {spec.column!r} holds {_shown(value)}, which asks the "
            "model nothing; write texts, or lists of messages with role and content, the user's first"
        )
    if messages is None or not _is_used(messages[-1]["content"], spec):
        return "", ()
    try:
        text = render(messages)
    except PromptError as error:
        raise PromptError(f"row {number} of {_source(spec)}: {error}") from error
    token_ids = tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    too_long = spec.max_prompt_tokens is not None and len(token_ids) > spec.max_prompt_tokens
    return text, () if too_long else token_ids


def _is_used(text: str | None, spec: PromptSpec) -> TypeGuard[str]:
    return text is not None and bool(text.strip()) and len(text) >= spec.min_chars


def _text_of(row: dict[str, Any], number: int, spec: PromptSpec) -> str | None:
    """Return a row's text, or the first turn of a list of turns; None where the row holds no text."""
    value = _cell(row, number, spec)
    if isinstance(value, list):
        if not value or not isinstance(value[0], str):
            what = f"a list that begins with {_shown(value[0])}" if value else "an empty list"
            raise PromptError(
                f"row {number} of {_source(spec)}: column {spec.column!r} holds {what};"
                " a list should hold the turns of a conversation, of which the first is the prompt, or, with "
                "'prompts.chat_template: true', messages with role and content"
            )
        return value[0]
    return value


def _cell(row: dict[str, Any], number: int, spec: PromptSpec) -> str | list[Any] | None:
    """Return what a row's prompt is made of: its text or list in the column, or the text of the template.

    It is None where the row lacks a value.
    """
    if spec.template is None:
        value = row[spec.column]
        if value is None or isinstance(value, str | list):
            return value
        raise PromptError(
            f"row {number} of {_source(spec)}: column {spec.column!r} holds {_shown(value)}, which is no"
            " text; correct it, or name a column of texts with prompts.column; prompts.template makes texts"
            " of numbers"
        )
    values = {name: row[name] for name in columns_of(spec.template)}
    for name, value in values.items():
        if isinstance(value, list | dict):
            raise PromptError(
                f"row {number} of {_source(spec)}: column {name!r} holds {_shown(value)}, which is no text;"
                " name columns of texts or numbers in prompts.template"
            )
    if None in values.values():
        return None
    return filled(spec.template, {name: str(value) for name, value in values.items()})


def _category_of(row: dict[str, Any], number: int, spec: PromptSpec) -> str | None:
    """Return a row's category; None where none is asked for, or the row has none."""
    value = row[spec.category] if spec.category is not None else None
    if isinstance(value, list | dict):
        raise PromptError(
            f"row {number} of {_source(spec)}: column {spec.category!r} holds {_shown(value)}, which is no"
            " category; name a column of texts or numbers with prompts.category"
        )
    return None if value is None else str(value).strip() or None


def _source(spec: PromptSpec) -> str:
    return ", ".join(spec.data_files) or f"data set {spec.dataset!r}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@contextlib.contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Keep progress bars and log lines away from the user's terminal, and from the hub what is loaded.

    `datasets` counts loads there, of local files too, which takes seconds where there is no network.
    """
    shown, level = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    counted = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # errors are raised as well
    try:
        yield
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counted
        datasets.logging.set_verbosity(level)
        if not shown:
            datasets.enable_progress_bars()
