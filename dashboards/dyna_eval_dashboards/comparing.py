"""Comparisons of two sweeps for all who watch: computed once for each pair of reports, one at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from dyna_eval_db.watched import Pulse

from dyna_eval.errors import InputError
from dyna_eval.reports.sweep_comparison import Side, SweepComparison, compare_reports
from dyna_eval_dashboards.reports import Built, Reports

_KEPT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """How two sweeps compare by a report of each, or that they have no row in common."""

    seen: str
    """Of which pulses the two reports are, as `pulses_text` writes it."""
    outcome: SweepComparison | InputError


def pulses_text(a: Pulse, b: Pulse) -> str:
    """Return a text that is another one where either pulse is."""
    return f"{a.text}_{b.text}"


@dataclass(slots=True)
class Comparisons:
    """Comparisons by the numbers of their sweeps. Methods may be called from several threads."""

    reports: Reports
    _known: OrderedDict[tuple[int, int], tuple[Built, Built, Future[SweepComparison]]] = field(
        default_factory=OrderedDict
    )
    _pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=1, thread_name_prefix="comparison")
    )
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def latest(self, a: int, b: int, *, patience: float) -> Compared | None:
        """Return how B compares with A by their latest reports; None where that takes longer than `patience`
        seconds for either report, or for the comparison.

        Raises what reading the sweeps raises.
        """
        one, other = (self.reports.latest(sweep, patience=patience) for sweep in (a, b))
        if one is None or other is None:
            return None
        with self._lock:
            known = self._known.get((a, b))
            if known is None or known[0].report is not one.report or known[1].report is not other.report:
                if known is not None:
                    known[2].cancel()
                known = one, other, self._pool.submit(compare_reports, self._side(one), self._side(other))
                self._known[a, b] = known
            self._known.move_to_end((a, b))
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        coming = known[2]
        if not wait([coming], timeout=patience).done:
            return None
        if coming.cancelled():  # a newer report came while it waited for its turn
            return self.latest(a, b, patience=patience)
        seen = pulses_text(one.pulse, other.pulse)
        try:
            return Compared(seen=seen, outcome=coming.result())
        except InputError as error:
            return Compared(seen=seen, outcome=error)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _side(self, built: Built) -> Side:
        return Side(report=built.report, origin=self.reports.store.address)
