"""Whether rows of two sweeps come from the same work: by digests, by counts, or by what files say.

Rows of our own have digests of prompts, settings and environment. An imported row has what its file says and
counts; where those do not show that the work was the same, that is a difference.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from dyna_eval.jobs import canonical_json
from dyna_eval.reports.counts import doubted_prompts, shared_counts
from dyna_eval.reports.imported import PAIR_NOT_RECORDED, Claims, ImportedFile
from dyna_eval.reports.report import Row

_AGREEING = 0.1  # 10 %, which runs of the same work on one machine may well differ by
_NOT_RECORDED = "not recorded"
OTHER_MODELS = "models, dtype, backend or warm-up"
"""What differs where rows of the same work have other identities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcedRow:
    """A row and, where it was imported, its file."""

    row: Row
    file: ImportedFile | None


def workload_differences(one: SourcedRow, base: SourcedRow, known: Sequence[ImportedFile]) -> list[str]:
    """Name what differs, or cannot be shown to be the same, between rows of which one at least was imported.

    `known` are all imported files: their counts may tell what the two really ran on.
    """
    prompts, alike = _prompts_difference(one, base, known)
    found = {
        "models": _models_doubt(one, base),
        "prompt set": prompts,
        "generation settings": _generation_difference(one, base, alike=alike),
        "environment": _digest_difference(one.row.environment, base.row.environment),
    }
    unrecorded = [what for what, difference in found.items() if difference == _NOT_RECORDED]
    texts = [
        f"{what} ({difference})"
        for what, difference in found.items()
        if difference is not None and difference != _NOT_RECORDED
    ]
    return [*texts, f"{', '.join(unrecorded)} ({_NOT_RECORDED})"] if unrecorded else texts


def _models_doubt(one: SourcedRow, base: SourcedRow) -> str | None:
    if one.row.pair == PAIR_NOT_RECORDED:
        return _NOT_RECORDED
    named = any(origin.file is not None and origin.file.pair_named for origin in (one, base))
    return "as whoever imported them named the pair" if named else None


def models_difference(own: Row | None, base: Row | None) -> list[str]:
    """Compare rows of the same work: their identities differ where models, or how they run, do."""
    if own is None or base is None or own.key is None or base.key is None or own.key == base.key:
        return []
    return [OTHER_MODELS] if _work(own) == _work(base) else []


def sweeps_models_difference(own: Sequence[Row], base: Sequence[Row]) -> list[str]:
    """Compare the models of two sweeps on a pair, as `has_other_models` does.

    Without a row of the same work nothing shows that the models are the same.
    """
    other = has_other_models(own, base)
    if other is None:
        return ["models (not shown to be the same: the sweeps have no row in common)"]
    return [OTHER_MODELS] if other else []


def has_other_models(own: Sequence[Row], base: Sequence[Row]) -> bool | None:
    """Whether two sweeps ran other models on a pair, by all rows of the same work that both have.

    A sweep's rows share their pair's models, so that one such row speaks for all. None without any.
    """
    keys = {_work(row): row.key for row in base if row.key is not None}
    same = [row.key == keys[_work(row)] for row in own if row.key is not None and _work(row) in keys]
    return not all(same) if same else None


def _work(row: Row) -> Hashable:
    """Return what a row ran, but for the models: rows that agree in it have one identity per models."""
    return row.method, canonical_json(dict(row.params)), row.prompt_set, row.generation_digest


def _prompts_difference(
    one: SourcedRow, base: SourcedRow, known: Sequence[ImportedFile]
) -> tuple[str | None, bool]:
    """Return how prompt sets differ, and whether counts show that all the work was the same."""
    if one.row.prompt_set is not None and base.row.prompt_set is not None:
        return _digest_difference(one.row.prompt_set, base.row.prompt_set), False
    for file in (one.file, base.file):
        if file is not None and (doubt := doubted_prompts(file, known)):
            return doubt.short, False
    if one.file is None or base.file is None:
        return _NOT_RECORDED, False
    return _counted_difference(one.file, base.file)


def _counted_difference(file: ImportedFile, base_file: ImportedFile) -> tuple[str | None, bool]:
    """Compare the work of two files by their counts; where these say nothing, by what the files say."""
    shared = shared_counts(file, base_file)
    if shared.differing:
        return (
            f"or a setting: of {shared.compared} configurations that both files have, {len(shared.differing)}"
            f" have other counts, as '{shared.differing[0]}'"
        ), False
    if shared.equal:
        return None, True
    here, there = _workload(file.claims), _workload(base_file.claims)
    if here is None or there is None:
        return _NOT_RECORDED, False
    return (f"{here} instead of {there}" if here != there else f"{here}, by name alone"), False


def _workload(claims: Claims) -> str | None:
    """Return in words which prompts a file says it used."""
    if claims.dataset is None:
        return None
    texts = [repr(claims.dataset)]
    if claims.prompts is not None:
        texts.append(f"{claims.prompts} prompts")
    if claims.max_prompt_length is not None:
        texts.append(f"cut at {claims.max_prompt_length}")
    return ", ".join(texts)


def _generation_difference(one: SourcedRow, base: SourcedRow, *, alike: bool) -> str | None:
    if one.row.generation_digest is not None and base.row.generation_digest is not None:
        return _digest_difference(one.row.generation_digest, base.row.generation_digest)
    here, there = (origin.file.claims.max_new_tokens if origin.file else None for origin in (one, base))
    if here is not None and there is not None and here != there:
        return f"{here} instead of {there} new tokens"
    return None if alike else _NOT_RECORDED


def _digest_difference(here: str | None, there: str | None) -> str | None:
    if here is None or there is None:
        return _NOT_RECORDED
    return None if here == there else f"{here[:12]} instead of {there[:12]}"


def what_baselines_show(one: float, other: float) -> str:
    """Return what the throughputs of two baselines, above 0, say of their work: nothing where they agree."""
    if max(one, other) / min(one, other) - 1.0 <= _AGREEING:
        return "that baselines agree does not show that the work was the same"
    return "that far apart, the machine, its load or the work was another"
