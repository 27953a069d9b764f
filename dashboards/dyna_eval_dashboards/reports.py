"""Built reports, shared by everyone who watches: one is made at a time, and no more often than pays."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from dyna_eval_db.values import SweepState
from dyna_eval_db.watching import WatchedStore

from dyna_eval.imported_report import imported_report
from dyna_eval.integrity import Environments
from dyna_eval.measured_report import build_report
from dyna_eval.report import Report

_KEPT = 8
_PAUSE = 50.0
"""Times as long as a report took to build, no newer one is begun: that costs a run 2 % of a core at most.
Once it has ended, the next report is its last and begun at once."""
_BEAT = 1.0
"""Seconds for which a pulse that was read serves all who watch; longer where its page costs much, ..."""
_SLOWEST_BEAT = 5.0
"""... but no longer than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A report, with the environments behind it, as of one pulse of its sweep."""

    pulse: str
    report: Report
    environments: Environments = field(repr=False)
    at: float
    seconds: float


@dataclass(slots=True)
class Reports:
    """Reports by sweep. Methods may be called from several threads."""

    store: WatchedStore
    clock: Callable[[], float] = time.monotonic
    _built: OrderedDict[int, Built] = field(default_factory=OrderedDict)
    _pulses: dict[int, tuple[float, str]] = field(default_factory=dict)
    _page_seconds: dict[int, float] = field(default_factory=dict)
    _coming: dict[int, Future[Built]] = field(default_factory=dict)
    _pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=1, thread_name_prefix="report")
    )
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def pulse(self, sweep_id: int) -> str:
        """Return a text that changes within some seconds after anything happened to a sweep.

        Everyone who watches fetches the page anew when it changes, so it is held for as long as making the
        page costs 2 % of a core at most.
        """
        now = self.clock()
        at, pulse = self._pulses.get(sweep_id, (float("-inf"), ""))
        beat = min(_SLOWEST_BEAT, max(_BEAT, _PAUSE * self._page_seconds.get(sweep_id, 0.0)))
        if now >= at + beat:
            pulse = self.store.pulse(sweep_id)
            self._pulses[sweep_id] = (now, pulse)
        return pulse

    def page_made(self, sweep_id: int, seconds: float) -> None:
        """Note how long the processor took to make a sweep's page."""
        self._page_seconds[sweep_id] = seconds

    def latest(self, sweep_id: int, *, patience: float) -> Built | None:
        """Return a sweep's report, waiting at most `patience` seconds for a newer one.

        It may be older than the store by some seconds while a sweep runs; None where the first one takes
        longer than the patience. Raises what reading the sweep raises.
        """
        pulse = self.pulse(sweep_id)
        with self._lock:
            known = self._built.get(sweep_id)
            if known is not None:
                self._built.move_to_end(sweep_id)
                if known.pulse == pulse:
                    return known
            coming = self._coming.get(sweep_id)
            if coming is None:
                running = pulse.endswith(f"-{SweepState.RUNNING}")
                if known and running and self.clock() < known.at + _PAUSE * known.seconds:
                    return known
                coming = self._coming[sweep_id] = self._pool.submit(self._build, sweep_id, pulse)
        if wait([coming], timeout=patience).done:
            return coming.result()
        return known

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _report(self, sweep_id: int) -> tuple[Report, Environments]:
        imported = self.store.imported(sweep_id)
        if imported is not None:
            return imported_report(imported, self.store.imports(), allow_mixed=True), {}
        record = self.store.record(sweep_id)
        return build_report(record, allow_mixed=True), record.environments

    def _build(self, sweep_id: int, pulse: str) -> Built:
        try:
            begun = self.clock()
            report, environments = self._report(sweep_id)
            ended = self.clock()
            built = Built(
                pulse=pulse,
                report=report,
                environments=environments,
                at=ended,
                seconds=ended - begun,
            )
            with self._lock:
                self._built[sweep_id] = built
                while len(self._built) > _KEPT:
                    self._built.popitem(last=False)
            return built
        finally:
            with self._lock:
                self._coming.pop(sweep_id, None)
