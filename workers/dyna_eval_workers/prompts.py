"""Prompts: rows of a data set, tokenized and cut."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import datasets

from dyna_eval.errors import PromptError, first_line
from dyna_eval.jobs import Prompt, PromptSet, PromptSpec, digest, prompt_digest
from dyna_eval_workers.pairs import DEMO, demo_folder


def load_prompts(spec: PromptSpec, tokenizer: Any) -> PromptSet:
    """Load, filter, tokenize and cut the prompts of a sweep.

    A row is used if its text is not blank and has at least `min_chars` characters and one token; the first
    `limit` such rows become prompts, cut to their first `max_prompt_tokens` tokens. Raises PromptError.
    """
    rows = _load_rows(spec)
    _check_columns(spec, rows.column_names)
    prompts: list[Prompt] = []
    for row in rows:
        if spec.limit is not None and len(prompts) == spec.limit:
            break
        prompt = _prompt_from(row, spec, tokenizer, index=len(prompts))
        if prompt is not None:
            prompts.append(prompt)
    if not prompts:
        raise PromptError(
            f"data set {spec.dataset!r} has no usable prompt: none of its {len(rows)} rows has at least "
            f"{spec.min_chars} characters in column {spec.column!r}; "
            "lower prompts.min_chars or choose another column"
        )
    return PromptSet(digest=digest([prompt.digest for prompt in prompts]), prompts=tuple(prompts))


def check_fit(prompts: Sequence[Prompt], *, max_new_tokens: int, positions: int | None) -> None:
    """Raise PromptError where a prompt and its continuation exceed the positions of the pair's models."""
    longest = max(prompts, key=lambda prompt: len(prompt.token_ids))
    if positions is None or len(longest.token_ids) + max_new_tokens <= positions:
        return
    room = positions - max_new_tokens
    advice = (
        f"set prompts.max_prompt_tokens to at most {room}" if room > 0 else "lower generation.max_new_tokens"
    )
    raise PromptError(
        f"prompt {longest.index} has {len(longest.token_ids)} tokens and {max_new_tokens} new ones do not "
        f"fit in the models' {positions} positions; {advice}"
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
            return datasets.load_dataset(**arguments)
        except Exception as error:  # the builders raise OSError, ValueError, DatasetGenerationError, ...
            raise PromptError(f"data set {spec.dataset!r} cannot be loaded: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return what the library says in one line; what it says about a file without rows helps nobody."""
    cause = error.__cause__ or error
    if isinstance(cause, StopIteration) or "at least one example" in str(cause):
        return "it holds no row"
    return first_line(cause)


def _check_columns(spec: PromptSpec, columns: Sequence[str]) -> None:
    for name in (spec.column, spec.category):
        if name is not None and name not in columns:
            known = ", ".join(columns)
            raise PromptError(f"data set {spec.dataset!r} has no column {name!r}; its columns are {known}")


def _prompt_from(row: dict[str, Any], spec: PromptSpec, tokenizer: Any, *, index: int) -> Prompt | None:
    text = row[spec.column]
    if not isinstance(text, str) or not text.strip() or len(text) < spec.min_chars:
        return None
    ids = tokenizer(text, verbose=False)["input_ids"][: spec.max_prompt_tokens]
    if not ids:
        return None
    token_ids = tuple(int(token) for token in ids)
    if len(token_ids) == spec.max_prompt_tokens:
        text = tokenizer.decode(token_ids)
    category = row[spec.category] if spec.category is not None else None
    return Prompt(
        index=index,
        text=text,
        token_ids=token_ids,
        digest=prompt_digest(text, token_ids),
        category=None if category is None else str(category),
    )


@contextlib.contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Keep progress bars and log lines of a load away from the user's terminal."""
    shown, level = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # errors are raised as well
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not shown:
            datasets.enable_progress_bars()
