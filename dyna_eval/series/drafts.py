"""How deep drafts are accepted, and how large their trees are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dyna_eval.errors import NothingToDrawError
from dyna_eval.reports.intervals import Interval
from dyna_eval.reports.report import Row
from dyna_eval.reports.samples import Floats, SampleTable
from dyna_eval.series.measured import Entry, Estimate, Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthRates:
    """`marginal[i]` is the share of rounds that accepted depth i + 1, `conditional[i]` the share of those
    that had accepted depth i."""

    entry: Entry
    marginal: tuple[Estimate, ...]
    conditional: tuple[Estimate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeSizes:
    """How many rounds verified so many draft nodes."""

    entry: Entry
    rounds: tuple[tuple[int, int], ...]
    """(nodes, rounds), by ascending nodes."""
    capped_share: float | None
    """Share of the rounds in which the cap stopped growth."""

    @property
    def total(self) -> int:
        return sum(rounds for _, rounds in self.rounds)

    @property
    def mean(self) -> float:
        return sum(nodes * rounds for nodes, rounds in self.rounds) / self.total

    def quantile(self, share: float) -> int:
        """Return the fewest nodes that at least a share of the rounds does not exceed."""
        seen = 0
        for nodes, rounds in self.rounds:
            seen += rounds
            if seen >= share * self.total:
                return nodes
        return self.rounds[-1][0]


def depth_rates(measured: Measured, pair: str) -> tuple[DepthRates, ...]:
    """Return the acceptance by depth of every row that has a draft whose rounds are known."""
    found = []
    for row in measured.finished(pair):
        known = row.figures.acceptance if row.figures else None
        if known is None or not known.marginal_rates or known.conditional_rates is None:
            continue
        marginal = tuple(
            _rate(measured, row, rate, depth, 0) for depth, rate in enumerate(known.marginal_rates, start=1)
        )
        conditional = tuple(
            _rate(measured, row, rate, depth, depth - 1)
            for depth, rate in enumerate(known.conditional_rates, start=1)
        )
        found.append(DepthRates(entry=Entry.of(row, timed=False), marginal=marginal, conditional=conditional))
    if not found:
        raise NothingToDrawError("no row has a draft that was accepted, with rounds that are known")
    return tuple(found)


def why_no_rates(row: Row) -> str:
    """Say what a row lacks that has figures and no rates by depth; nothing of one without a draft."""
    if row.method.is_target_alone or row.figures is None:
        return ""
    known = row.figures.acceptance.marginal_rates
    return "acceptance by depth unknown" if known is None else "no draft token accepted"


def tree_sizes(
    measured: Measured, pair: str, by_job: Mapping[int, Mapping[int, int]]
) -> tuple[TreeSizes, ...]:
    """Return the distribution of verified nodes of every row that drafts.

    `by_job` is the number of rounds by job and by verified nodes, as `Store.tree_sizes` returns it.
    """
    found = []
    for row in measured.finished(pair):
        if row.figures is None or row.figures.acceptance.mean_tree_nodes is None:
            continue
        counts: dict[int, int] = {}
        for job_id in row.job_ids:
            for nodes, rounds in by_job.get(job_id, {}).items():
                counts[nodes] = counts.get(nodes, 0) + rounds
        if counts:
            found.append(
                TreeSizes(
                    entry=Entry.of(row, timed=False),
                    rounds=tuple(sorted(counts.items())),
                    capped_share=row.figures.acceptance.node_cap_bound_rate,
                )
            )
    if not found:
        raise NothingToDrawError("no rounds of a method that drafts are stored")
    return tuple(found)


def why_no_sizes(row: Row) -> str:
    """Say what a row lacks that has figures and no tree sizes; nothing of one without a draft."""
    return "" if row.method.is_target_alone else "tree sizes unknown"


def _rate(measured: Measured, row: Row, rate: float, depth: int, before: int) -> Estimate:
    """Return the share of a row's rounds with the depth among those with the depth `before`, at most 1."""
    interval = measured.interval_of_ratio(row, _reached(depth), _reached(before))
    return Estimate(
        value=rate, interval=interval and Interval(low=interval.low, high=min(interval.high, 1.0))
    )


def _reached(depth: int) -> Callable[[SampleTable], Floats]:
    """Return what counts each sample's rounds that accepted at least so many draft tokens."""
    return lambda samples: samples.accepted_by_depth[depth - 1] if depth else samples.column("rounds")
