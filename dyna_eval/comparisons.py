"""Rows of any origin in one table: compared with each other, named apart, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dyna_eval.errors import MixedRowsError
from dyna_eval.report import Row, best_row
from dyna_eval.statistics import Bootstrap, Comparison, compare


def with_comparisons(rows: Sequence[Row], bootstrap: Bootstrap) -> list[Row]:
    """Compare each row with the baseline, and with the nearest and the fastest row above with figures."""
    base = next((row for row in rows if row.is_baseline), None)
    compared: list[Row] = []
    previous = fastest = None
    for row in rows:
        compared.append(
            replace(
                row,
                versus_baseline=None if base is None else compare_rows(row, base, bootstrap),
                versus_previous=None if previous is None else compare_rows(row, previous, bootstrap),
                fastest_before=None if fastest is None else fastest.step,
                versus_fastest_before=None if fastest is None else compare_rows(row, fastest, bootstrap),
            )
        )
        previous = row if row.figures is not None else previous
        fastest = best_row([fastest, row] if fastest else [row])
    return compared


def compare_rows(row: Row, base: Row, bootstrap: Bootstrap | None) -> Comparison | None:
    """Compare prompt by prompt where both rows have the prompts; by their means alone where not."""
    if row.figures is None or base.figures is None:
        return None
    if any(one.source is None and not one.rates for one in (row, base)):
        return None  # an actor of unknown pace
    if bootstrap is not None and row.rates and base.rates and (row.source is None) == (base.source is None):
        same = row.prompt_set is not None and row.prompt_set == base.prompt_set
        found = compare(row.rates, base.rates, bootstrap, same_prompts=same)
        if found is not None and row is base:
            return Comparison(ratio=found.ratio, interval=found.interval, paired=found.paired)
        return found
    if base.figures.throughput.mean <= 0.0:
        return None
    return Comparison(ratio=row.figures.throughput.mean / base.figures.throughput.mean)


def distinct_labels(labels: Sequence[tuple[str, str]]) -> list[str]:
    """Return labels of which equal ones name where they come from, and a number where that is not enough."""
    seen: set[str] = set()
    result = []
    for label, origin in labels:
        own, number = label, 1
        if own in seen:
            own = f"{label} ({origin})"
        while own in seen:
            number += 1
            own = f"{label} ({origin}, {number})"
        seen.add(own)
        result.append(own)
    return result


def refuse_mixed(rows: Sequence[Row]) -> None:
    for row in rows:
        if row.mixed:
            where = f" of {row.source.file}" if row.source else ""
            raise MixedRowsError(
                f"row {row.label!r}{where} must not stand beside the others: it differs in"
                f" {'; '.join(row.mixed)}; --allow-mixed prints it with a mark"
            )
