"""Result files of DynaTree: aggregates, one row per configuration, in three layouts of one kind.

    {benchmark_info or experiment_info, results: [{method, config, throughput_tps, ...}], ...}
    {experiment_info, all_results: [{method, experiment, config, throughput_tps, throughput_std, ...}], ...}
    {experiment_info, config_definitions, all_results: [{category, config_name, config_params, ...}], ...}

Their acceptance rate counts the bonus token and divides by a depth that differs from method to method; their
times are means. Both stay foreign. A count of 0 means that it was not recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

from pydantic import AliasChoices, Field

from dyna_eval.importers.reading import Content, Count, FileSection, Rate, Recorded, Setting, Text
from dyna_eval.jobs import Method, Scalar
from dyna_eval.reports.imported import PAIR_NOT_RECORDED, Claims, Counts, ImportedFile, ImportedRow, Source
from dyna_eval.reports.labels import numbered_labels
from dyna_eval.reports.statistics import Acceptance, Agreement, Figures, Latency, Shares, Throughput

NAME = "dynatree"
SUMMARY = "DynaTree's aggregates: experiment_info or benchmark_info with results or all_results"

_INFO, _ROWS = ("experiment_info", "benchmark_info"), ("results", "all_results")
_NAMES = {
    "K": "k",
    "tree_depth": "depth",
    "branch_factor": "branch",
    "probability_threshold": "threshold",
    "max_tree_nodes": "max_nodes",
    "base_depth": "depth",
    "high_conf_threshold": "confidence_high",
    "low_conf_threshold": "confidence_low",
    "min_branch": "branch_min",
    "max_branch": "branch_max",
}
_SPEEDUP_TOLERANCE = 0.005
_MOST_DECIMALS = 17


class _Info(FileSection):
    target_model: Text | None = None
    draft_model: Text | None = None
    dataset: Text | None = None
    num_samples: Count | None = None
    max_prompt_length: Count | None = None
    max_new_tokens: Count | None = None


class _Row(FileSection):
    label: Text = Field(validation_alias=AliasChoices("method", "config_name"))
    config: dict[Text, Setting] = Field(validation_alias=AliasChoices("config", "config_params"))
    throughput_tps: Rate
    speedup: Recorded = None
    total_rounds: Recorded = None
    total_tokens_generated: Recorded = None
    avg_path_length: Recorded = None
    tokens_per_round: Recorded = None
    acceptance_rate: Recorded = None
    ttft_ms: Recorded = None
    tpot_ms: Recorded = None
    peak_memory_mb: Recorded = None
    throughput_std: Recorded = None
    acceptance_std: Recorded = None
    path_length_std: Recorded = None
    ttft_std: Recorded = None
    tpot_std: Recorded = None


_OF_A_DRAFT = ("acceptance_rate", "acceptance_std", "avg_path_length", "path_length_std", "tokens_per_round")
_FOREIGN = (*_OF_A_DRAFT, "ttft_ms", "ttft_std", "tpot_ms", "tpot_std", "peak_memory_mb")


def recognises(content: Content) -> bool:
    document = content.document
    return any(isinstance(document.get(key), dict) for key in _INFO) and any(key in document for key in _ROWS)


def read(content: Content) -> ImportedFile:
    """Raises ImportFileError where a row lacks its name, its configuration or its throughput."""
    document = content.document
    info_key = next((key for key in _INFO if isinstance(document.get(key), dict)), _INFO[0])
    rows_key = next((key for key in _ROWS if key in document), _ROWS[0])
    info = content.check(_Info, document.get(info_key), info_key)
    listed = document.get(rows_key)
    if not isinstance(listed, list) or not listed:
        content.refuse(f"{rows_key} holds no rows")
    rows = [content.check(_Row, row, f"{rows_key}[{index}]") for index, row in enumerate(listed)]
    claims = Claims(
        target=info.target_model and _last_name(info.target_model),
        draft=info.draft_model and _last_name(info.draft_model),
        dataset=info.dataset,
        prompts=info.num_samples,
        max_prompt_length=info.max_prompt_length,
        max_new_tokens=_max_new_tokens(info, rows),
    )
    return ImportedFile(
        source=Source(file=content.file, format=NAME, sha256=content.sha256),
        claims=claims,
        rows=tuple(_imported(rows, claims)),
        notes=tuple(_notes(rows)),
    )


def _imported(rows: list[_Row], claims: Claims) -> list[ImportedRow]:
    methods = [_method(row) for row in rows]
    base = methods.index(Method.AR) if Method.AR in methods else None
    pair = "/".join(filter(None, (claims.target, claims.draft))) or PAIR_NOT_RECORDED
    decimals = max(_decimals(row.speedup) for row in rows)
    imported = []
    for index, (row, method, label) in enumerate(
        zip(rows, methods, numbered_labels([row.label or "no name" for row in rows]), strict=True)
    ):
        params = _params(row.config, method)
        length = _tokens_per_round(row)
        most = _most_per_round(method, params)
        impossible = length is not None and most is not None and length > most
        notes = [*_speedup_notes(row, None if base is None else rows[base], decimals)]
        if impossible:
            notes.append(
                f"its counts give {length:.2f} tokens per round, more than the {most} that it can emit,"
                " so they are not taken for an acceptance length"
            )
        imported.append(
            ImportedRow(
                pair=pair,
                label=label,
                method=method,
                params=params,
                is_baseline=index == base,
                figures=_figures(
                    row,
                    prompts=claims.prompts,
                    mean_length=1.0 if method is Method.AR else None if impossible else length,
                ),
                counts=_counts(row, method),
                foreign=_foreign(row, method),
                notes=tuple(notes),
            )
        )
    return imported


def _figures(row: _Row, *, prompts: int | None, mean_length: float | None) -> Figures:
    """Return a row's figures; hardly more than its mean throughput is known."""
    rate, std = row.throughput_tps, row.throughput_std
    return Figures(
        prompts=prompts,
        repeats=None,
        tokens=None,
        throughput=Throughput(mean=rate, interval=None, std=std, pooled=None, end_to_end=None),
        acceptance=Acceptance(mean_length=mean_length),
        shares=Shares(),
        latency=Latency(),
        agreement=Agreement(),
        distinct_2=None,
        predicted_speedup=None,
    )


def _method(row: _Row) -> Method:
    """Tell the method by the keys of its configuration."""
    keys = row.config.keys()
    if "base_depth" in keys or "phase" in keys:
        return Method.DYNATREE
    if "tree_depth" in keys:
        return Method.TREE
    if "num_assistant_tokens" in keys:
        return Method.HF_ASSISTED
    if "K" in keys:
        return Method.LINEAR if keys <= {"K", "max_new_tokens"} else Method.OTHER
    drafts = row.acceptance_rate is not None or (row.tokens_per_round or 1.0) != 1.0
    return Method.OTHER if drafts or keys - {"max_new_tokens"} else Method.AR


def _params(config: Mapping[str, Scalar], method: Method) -> dict[str, Scalar]:
    """Return the settings under our names; how much to generate is no setting of a method."""
    params = {_NAMES.get(name, name): value for name, value in config.items() if name != "max_new_tokens"}
    if "threshold" in params and "pruning_enabled" in params:
        del params["pruning_enabled"]  # says the same as the threshold
    phase = params.pop("phase", None)
    if method is Method.DYNATREE and phase is not None:
        number = phase if isinstance(phase, int) else 0
        params |= {"branch_phase": number >= 1, "depth_phase": number >= 2, "history_phase": number >= 3}
    return params


def _counts(row: _Row, method: Method) -> Counts:
    if method is Method.AR:
        return Counts(tokens=row.total_tokens_generated)
    return Counts(
        rounds=row.total_rounds,
        tokens=row.total_tokens_generated,
        path_length=row.avg_path_length,
        tokens_per_round=row.tokens_per_round,
        acceptance_rate=row.acceptance_rate,
    )


def _foreign(row: _Row, method: Method) -> dict[str, float]:
    values = {name: getattr(row, name) for name in _FOREIGN}
    if method is Method.AR:
        values |= dict.fromkeys(_OF_A_DRAFT)
    return {name: value for name, value in values.items() if value is not None}


def _tokens_per_round(row: _Row) -> float | None:
    """Return emitted tokens per round, from the counts where both are there."""
    if row.total_tokens_generated and row.total_rounds:
        return row.total_tokens_generated / row.total_rounds
    return row.tokens_per_round


def _most_per_round(method: Method, params: Mapping[str, Scalar]) -> int | None:
    """Return the most tokens that a round can emit: every level of the draft, and the bonus token."""
    levels = params.get({Method.LINEAR: "k", Method.TREE: "depth"}.get(method, ""))
    return levels + 1 if isinstance(levels, int) else None


def _speedup_notes(row: _Row, base: _Row | None, decimals: int) -> list[str]:
    """Say where a row's speedup is not that of its throughputs, as rounded to so many decimals."""
    if base is None or row.speedup is None:
        return []
    ratio = row.throughput_tps / base.throughput_tps
    rounding = 0.5 * 10.0**-decimals + 1e-12 * ratio
    if abs(row.speedup - ratio) <= max(rounding, _SPEEDUP_TOLERANCE * ratio):
        return []
    shown = 2
    while shown < _MOST_DECIMALS and f"{row.speedup:.{shown}f}" == f"{ratio:.{shown}f}":
        shown += 1
    stated, given = (f"{value:.{shown}f}" for value in (row.speedup, ratio))
    return [f"its file states a speedup of {stated}, but its throughputs give {given}"]


def _decimals(value: float | None) -> int:
    """Return the decimals that a number was written with, but for zeros at its end."""
    return 0 if value is None else max(0, -int(Decimal(repr(value)).normalize().as_tuple().exponent))


def _notes(rows: list[_Row]) -> list[str]:
    texts = ["rows are means over prompts without intervals, so no difference between them is separable"]
    if any(row.acceptance_rate is not None for row in rows):
        texts.append(
            "DynaTree's acceptance rates count the bonus token and are divided by a depth: they are kept as"
            " foreign, and not comparable"
        )
    if any(row.throughput_std is not None for row in rows):
        texts.append("standard deviations are those of the file, between prompts")
    return texts


def _max_new_tokens(info: _Info, rows: list[_Row]) -> int | None:
    """Return the one number of tokens that the file names, in its head or in every row that has one."""
    named: set[Any] = {row.config["max_new_tokens"] for row in rows if "max_new_tokens" in row.config}
    if info.max_new_tokens is not None:
        named.add(info.max_new_tokens)
    number = named.pop() if len(named) == 1 else None
    return number if isinstance(number, int) else None


def _last_name(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).name or path
