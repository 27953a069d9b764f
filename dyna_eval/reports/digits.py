"""A row's figures as digits, rounded once for all tables, macros and pages; None where one is not known."""

from __future__ import annotations

from dyna_eval.reports.intervals import Interval
from dyna_eval.reports.report import Row
from dyna_eval.reports.statistics import Comparison
from dyna_eval.wording import rate_decimals, rate_text

_SMALL = 0.5
"""A ratio that is less may look like 0, another one like 1; a loss that is more may look like 100 %."""


def factor(value: float, decimals: int = 2) -> str:
    """Return a ratio with so many decimals, or with the few more that keep it from looking like 1 or 0."""
    return _unlike(1.0, value, decimals, 6) if value >= _SMALL else _unlike(0.0, value, decimals, 12)


def percent(share: float, *, sign: str = "-") -> str:
    """Return a share in percent with one decimal, or with the few more that keep it from looking like 0.

    Nor does one look like -100 that is not. With `sign` + a share above 0 has one, too.
    """
    return _unlike(0.0 if share > -_SMALL else -100.0, share * 100.0, 1, 5, sign)


def throughput(row: Row) -> str | None:
    """Return the mean tokens per second."""
    return rate_text(row.figures.throughput.mean) if row.figures else None


def throughput_std(row: Row) -> str | None:
    """Return the deviation of the tokens per second, with as many decimals as their mean has."""
    known = row.figures.throughput if row.figures else None
    return _rounded(known.std, rate_decimals(known.mean)) if known else None


def speedup(row: Row) -> str | None:
    return factor(row.versus_baseline.ratio) if row.versus_baseline else None


def speedup_interval(row: Row) -> str | None:
    return bounds(row.speedup_interval)


def speedup_low(row: Row) -> str | None:
    return factor(row.speedup_interval.low) if row.speedup_interval else None


def speedup_high(row: Row) -> str | None:
    return factor(row.speedup_interval.high) if row.speedup_interval else None


def bounds(interval: Interval | None, decimals: int = 2) -> str | None:
    """Return the interval of a ratio as `[1.20, 1.40]`."""
    return f"[{factor(interval.low, decimals)}, {factor(interval.high, decimals)}]" if interval else None


def gain(comparison: Comparison | None, *, sign: str = "-") -> str | None:
    """Return by how many percent a row is faster than another one; with `sign` + gains have one, too."""
    return None if comparison is None else percent(comparison.ratio - 1.0, sign=sign)


def gain_over_previous(row: Row) -> str | None:
    """Return by how many percent a row is faster than the step before it, with its sign."""
    return gain(row.versus_previous, sign="+")


def acceptance_length(row: Row) -> str | None:
    """Return the tokens that a round emits."""
    return _rounded(row.figures.acceptance.mean_length, 2) if row.figures else None


def acceptance_rate(row: Row) -> str | None:
    """Return accepted draft tokens in percent of drafted levels."""
    return _scaled(row.figures.acceptance.draft_rate, 100.0) if row.figures else None


def prefill(row: Row) -> str | None:
    """Return the median prefill in milliseconds."""
    latency = row.figures.latency.prefill if row.figures else None
    return _scaled(latency.p50, 1000.0) if latency else None


def ttft(row: Row) -> str | None:
    """Return the median time to first token in milliseconds."""
    latency = row.figures.latency.ttft if row.figures else None
    return _scaled(latency.p50, 1000.0) if latency else None


def end_to_end(row: Row) -> str | None:
    """Return the mean tokens per second, prefill included."""
    known = row.figures.throughput.end_to_end if row.figures else None
    return None if known is None else rate_text(known)


def end_to_end_speedup(row: Row) -> str | None:
    """Return the speedup over the baseline, prefill included."""
    return factor(row.end_to_end.ratio) if row.end_to_end else None


def nodes(row: Row) -> str | None:
    """Return the draft nodes that a round verifies."""
    return _rounded(row.figures.acceptance.mean_tree_nodes, 1) if row.figures else None


def exact_percent(row: Row) -> str | None:
    """Return the share of samples that are the target's own; only all of them are 100."""
    rate = row.figures.agreement.exact_match_rate if row.figures else None
    if rate is None:
        return None
    return "100" if rate == 1.0 else f"{min(rate * 100, 99.9):.1f}"


def predicted_speedup(row: Row) -> str | None:
    """Return the speedup that acceptance and the calibrated cost of passes promise."""
    known = row.figures.predicted_speedup if row.figures else None
    return None if known is None else _unlike(0.0, known, 2, 12)


def distinct_2(row: Row) -> str | None:
    """Return the share of different pairs of neighbouring tokens."""
    return _rounded(row.figures.distinct_2, 2) if row.figures else None


def memory(row: Row) -> str | None:
    """Return the peak memory in GiB."""
    return None if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 2**30:.2f}"


def _unlike(other: float, value: float, decimals: int, most: int, sign: str = "-") -> str:
    """Return a number with the fewest decimals that tell it from another one; with the fewest of all, and as
    that one, where `most` do not."""
    for tried in range(decimals, most + 1):
        text = f"{value:{sign}.{tried}f}"
        if float(text) != other:
            return text
    return f"{other:{sign}.{decimals}f}"


def _scaled(value: float | None, by: float) -> str | None:
    return None if value is None else f"{value * by:.1f}"


def _rounded(value: float | None, decimals: int) -> str | None:
    return None if value is None else f"{value:.{decimals}f}"
