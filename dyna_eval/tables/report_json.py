"""A report as plain JSON values, for programs; what is not known is null."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from dyna_eval.jobs import GenerationSpec, Pair
from dyna_eval.reports.intervals import Interval
from dyna_eval.reports.report import Report, Row
from dyna_eval.reports.statistics import Figures


def to_json(report: Report) -> dict[str, object]:
    """Return the report as plain JSON values; what is not known is null."""
    return {
        "sweep": {
            "id": report.sweep_id,
            "name": report.name,
            "state": report.state,
            "digest": report.digest,
            "created_at": report.created_at,
            "confidence": report.confidence,
            "generation": _generation_json(report.generation),
            "measure": report.measure and asdict(report.measure),
            "file": report.sweep_file,
            "joined": [asdict(sweep) for sweep in report.joined],
        },
        "terms": asdict(report.terms),
        "pairs": [
            pair_json(report.models[name]) | {"generation": _generation_json(report.generations.get(name))}
            for name in report.pairs
            if name in report.models
        ],
        "environments": {name: dict(facts) for name, facts in report.environments.items()},
        "rows": [_row_json(row) for row in report.rows],
        "left_out": [
            asdict(entry) | {"state": str(entry.state), "job_ids": list(entry.job_ids)}
            for entry in report.left_out
        ],
        "chosen": [asdict(choice) for choice in report.chosen],
        "warnings": list(report.warnings),
    }


def _generation_json(generation: GenerationSpec | None) -> dict[str, object] | None:
    return None if generation is None else asdict(generation)


def _row_json(row: Row) -> dict[str, object]:
    return {
        "pair": row.pair,
        "step": row.step,
        "label": row.label,
        "method": row.method.value,
        "params": dict(row.params),
        "state": str(row.state),
        "baseline": row.is_baseline,
        **_figures_json(row.figures),
        **_comparison_json(row),
        "peak_memory_bytes": row.peak_memory_bytes,
        "prompt_set": row.prompt_set,
        "generation": row.generation_digest,
        "env": row.environment,
        "key": row.key,
        "mixed": list(row.mixed),
        "caveats": list(row.caveat_texts),
        "slowed": list(row.slowed),
        "job_ids": list(row.job_ids),
        "imported": row.source and asdict(row.source),
        "foreign": dict(row.foreign),
    }


def pair_json(pair: Pair) -> dict[str, object]:
    """Return a pair with what was resolved: dtype, commits of models on the hub, digests of all files."""
    return {
        "name": pair.spec.name,
        "target": pair.spec.target,
        "target_revision": pair.spec.target_revision,
        "target_digest": pair.target_digest,
        "draft": pair.spec.draft,
        "draft_revision": pair.spec.draft_revision,
        "draft_digest": pair.draft_digest,
        "tokenizer_digest": pair.tokenizer_digest,
        "dtype": pair.dtype,
        "backend": pair.backend,
    }


def _comparison_json(row: Row) -> dict[str, object]:
    base, previous = row.versus_baseline, row.versus_previous
    return {
        "speedup": base and base.ratio,
        "speedup_interval": interval_json(row.speedup_interval),
        "speedup_paired": base and base.paired,
        "speedup_paired_interval": base and interval_json(base.paired_interval),
        "end_to_end_speedup": row.end_to_end and row.end_to_end.ratio,
        "end_to_end_speedup_interval": interval_json(row.end_to_end_interval),
        "separable_from_baseline": base and base.separable,
        "gain_over_baseline": base and base.ratio - 1.0,
        "gain_over_previous": previous and previous.ratio - 1.0,
        "paired_over_previous": previous and previous.paired,
        "paired_over_previous_interval": previous and interval_json(previous.paired_interval),
        "separable_from_previous": previous and previous.separable,
    }


def _figures_json(known: Figures | None) -> dict[str, object]:
    """Flatten a row's figures. A pending row has the same keys, all null."""
    return {key: None if known is None else read(known) for key, read in _FIGURES.items()}


def _rates_json(rates: tuple[float, ...] | None) -> list[float] | None:
    return None if rates is None else list(rates)


def interval_json(interval: Interval | None) -> list[float] | None:
    """Return an interval as JSON has it: its two ends, or null."""
    return None if interval is None else [interval.low, interval.high]


_FIGURES: dict[str, Callable[[Figures], object]] = {
    "prompts": lambda f: f.prompts,
    "repeats": lambda f: f.repeats,
    "tokens": lambda f: f.tokens,
    "throughput_tokens_per_s": lambda f: f.throughput.mean,
    "throughput_interval": lambda f: interval_json(f.throughput.interval),
    "throughput_std": lambda f: f.throughput.std,
    "throughput_pooled": lambda f: f.throughput.pooled,
    "end_to_end_tokens_per_s": lambda f: f.throughput.end_to_end,
    "mean_acceptance_length": lambda f: f.acceptance.mean_length,
    "mean_acceptance_length_per_request": lambda f: f.acceptance.mean_length_per_request,
    "draft_acceptance_rate": lambda f: f.acceptance.draft_rate,
    "path_acceptance": lambda f: f.acceptance.draft_rate,
    "node_acceptance": lambda f: f.acceptance.node_rate,
    "mean_tree_nodes": lambda f: f.acceptance.mean_tree_nodes,
    "node_cap_bound_rate": lambda f: f.acceptance.node_cap_bound_rate,
    "marginal_accept_rates": lambda f: _rates_json(f.acceptance.marginal_rates),
    "conditional_accept_rates": lambda f: _rates_json(f.acceptance.conditional_rates),
    "draft_share": lambda f: f.shares.draft,
    "grow_share": lambda f: f.shares.grow,
    "verify_share": lambda f: f.shares.verify,
    "walk_share": lambda f: f.shares.walk,
    "host_share": lambda f: f.shares.host,
    "predicted_speedup": lambda f: f.predicted_speedup,
    "ttft_s": lambda f: f.latency.ttft and asdict(f.latency.ttft),
    "tpot_s": lambda f: f.latency.tpot and asdict(f.latency.tpot),
    "prefill_s": lambda f: f.latency.prefill and asdict(f.latency.prefill),
    "compared": lambda f: f.agreement.compared,
    "exact_match_rate": lambda f: f.agreement.exact_match_rate,
    "ties": lambda f: f.agreement.ties,
    "violations": lambda f: f.agreement.violations,
    "distinct_2": lambda f: f.distinct_2,
}
