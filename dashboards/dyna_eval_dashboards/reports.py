"""Built reports, shared by everyone who watches: one is made at a time, and no more often than pays."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from dyna_eval_db.watched import CommonPulse, Pulse
from dyna_eval_db.watching import WatchedStore

from dyna_eval.jobs import SweepState
from dyna_eval.reports.imported_report import imported_report
from dyna_eval.reports.measured_report import build_report
from dyna_eval.reports.report import Report

_KEPT = 8
_PAUSE = 50.0
"""Times as long as a report took to build, no newer one is begun: that costs a run 2 % of a core at most.
Once it has ended, the next report is its last and begun at once."""
_SHARE = 0.02
"""Of one core, which all who watch may cost together: pages, reports and answers to their scripts."""
_BEAT = 2.0
"""Seconds for which a pulse that was read serves all who watch; longer where they cost more, ..."""
_SLOWEST_BEAT = 10.0
"""... but no longer than this."""
_Beat = TypeVar("_Beat", Pulse, CommonPulse)
_ALL = None
"""What stands for all sweeps among the numbers of sweeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A report as of one pulse of its sweep."""

    pulse: Pulse
    report: Report
    at: float
    seconds: float
    """What it took to build, and to complete where that was asked for."""
    is_complete: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """A pulse, when it was read, and the processor time that this process had used by then."""

    pulse: Any
    at: float
    used: float

    def until(self, used: float) -> float:
        """Return when to read it anew, if so much processor time is used by now."""
        return self.at + min(_SLOWEST_BEAT, max(_BEAT, (used - self.used) / _SHARE))


@dataclass(slots=True)
class Reports:
    """Reports by sweep. Methods may be called from several threads."""

    store: WatchedStore
    clock: Callable[[], float] = time.monotonic
    processor: Callable[[], float] = time.process_time
    _built: OrderedDict[int, Built] = field(default_factory=OrderedDict)
    _pulses: dict[int | None, _Held] = field(default_factory=dict)
    _coming: dict[int, Future[Built]] = field(default_factory=dict)
    _pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=1, thread_name_prefix="report")
    )
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def pulse(self, sweep_id: int) -> Pulse:
        """Return what changes within some seconds after anything happened to a sweep.

        Everyone who watches fetches the page anew when it changes, so it is held until what that cost is no
        more than a small share of a core.
        """
        return self._held(sweep_id, lambda: self.store.pulse(sweep_id))

    def pulse_of_all(self) -> CommonPulse:
        """Return what changes within some seconds after anything happened to any sweep, held likewise."""
        return self._held(_ALL, self.store.pulse_of_all)

    def _held(self, whose: int | None, read: Callable[[], _Beat]) -> _Beat:
        now, used = self.clock(), self.processor()
        held = self._pulses.get(whose)
        if held is None or now >= held.until(used):
            held = _Held(pulse=read(), at=now, used=used)
            self._pulses[whose] = held
        pulse: _Beat = held.pulse
        return pulse

    def seconds_to_next_pulse(self, *sweep_ids: int) -> float:
        """Return in how many seconds it pays to ask again for the pulses of these sweeps; without, of all."""
        held = [found for whose in sweep_ids or (_ALL,) if (found := self._pulses.get(whose))]
        used, now = self.processor(), self.clock()
        return max([_BEAT, *(one.until(used) - now for one in held)])

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
                running = pulse.state is SweepState.RUNNING
                if known and running and self.clock() < known.at + _PAUSE * known.seconds:
                    return known
                coming = self._coming[sweep_id] = self._pool.submit(self._build, sweep_id, pulse)
        if wait([coming], timeout=patience).done:
            return coming.result()
        return known

    def complete(self, sweep_id: int, *, patience: float) -> Built | None:
        """Return what `latest` does, with all computed that a report puts off until it is read: the speedups
        with the prefill, which only files show.

        That takes its turn in the thread that builds reports, so it is done once for all who ask, and counts
        as part of building. `patience` holds for the report, and again for this.
        """
        built = self.latest(sweep_id, patience=patience)
        if built is None or built.is_complete:
            return built
        coming = self._pool.submit(self._complete, sweep_id, built)
        return coming.result() if wait([coming], timeout=patience).done else None

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _report(self, sweep_id: int) -> Report:
        imported = self.store.imported(sweep_id)
        if imported is not None:
            return imported_report(imported, self.store.imports(), allow_mixed=True)
        return build_report(self.store.record(sweep_id), allow_mixed=True)

    def _build(self, sweep_id: int, pulse: Pulse) -> Built:
        try:
            begun = self.clock()
            report = self._report(sweep_id)
            ended = self.clock()
            built = Built(pulse=pulse, report=report, at=ended, seconds=ended - begun)
            with self._lock:
                self._built[sweep_id] = built
                while len(self._built) > _KEPT:
                    self._built.popitem(last=False)
            return built
        finally:
            with self._lock:
                self._coming.pop(sweep_id, None)

    def _complete(self, sweep_id: int, built: Built) -> Built:
        begun = self.clock()
        for row in built.report.rows:
            _ = row.end_to_end  # which is kept
        seconds = self.clock() - begun
        with self._lock:
            known = self._built.get(sweep_id)
            if known is not None and known.report is built.report:
                self._built[sweep_id] = replace(known, seconds=known.seconds + seconds, is_complete=True)
        return built
