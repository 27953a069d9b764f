"""What those who watch a sweep are told while it runs, and what its metrics export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dyna_eval_db.store import Claim

from dyna_eval.jobs import Pair
from dyna_eval.measurements import Environment
from dyna_eval.monitoring import SweepExport
from dyna_eval.notices import Happening, Notice, Standstill, Watcher
from dyna_eval.records import ResultOrigin
from dyna_eval.reports.integrity import backend_caveats, elsewhere_warning
from dyna_eval.running.outbox import Failed, Finished


@dataclass(slots=True, kw_only=True)
class News:
    """Tells of one sweep's jobs, and once each of what it waits for and of what its pairs run in."""

    sweep_id: int
    watch: Watcher
    export: SweepExport = field(init=False)
    _standing: set[str] = field(default_factory=set, init=False)
    """What the sweep waits for."""
    _slower: set[tuple[str, str]] = field(default_factory=set, init=False)
    """The pairs that run in slower code than ours, with why; what is in it was told."""
    _earlier: dict[str, list[ResultOrigin]] = field(default_factory=dict, init=False)
    """Where results of before this run were measured, by pairs of which no other place was told yet."""

    def __post_init__(self) -> None:
        self.export = SweepExport(sweep=str(self.sweep_id))

    def began_before(self, origins: Sequence[ResultOrigin]) -> None:
        """Take note of where the results were measured that an earlier controller landed."""
        for origin in origins:
            self._earlier.setdefault(origin.pair, []).append(origin)

    def waits_for(self, what: str, reason: str) -> None:
        if what not in self._standing:
            self._standing.add(what)
            self.watch(Standstill(waits_for=what, reason=reason))

    def goes_on_with(self, what: str) -> None:
        if what in self._standing:
            self._standing.remove(what)
            self.watch(Standstill(waits_for=what, reason=None))

    def started(self, actor: str, claim: Claim, *, now: float) -> None:
        self.export.started(now)
        self._tell(Happening.STARTED, actor, claim)

    def landed(self, finished: Finished) -> None:
        """Tell of a result that the store has taken."""
        job, result = finished.claim.job, finished.result
        self.export.landed(job, result)
        found = (
            self._slower_passes(job.pair, result.environment),
            self._elsewhere(job.pair, result.environment),
        )
        detail = "; ".join(filter(None, found))
        self._tell(
            Happening.LANDED, finished.actor, finished.claim, detail=detail, seconds=result.wall_seconds
        )

    def failed(self, failed: Failed, *, further: int) -> None:
        """Tell of a failure that the store has taken, or discarded; `further` jobs failed with it."""
        happening, detail = Happening.RETRIED, failed.verdict.message
        if failed.late:
            happening, detail = Happening.DISCARDED, f"it failed late: {detail}"
        elif failed.verdict.final:
            happening = Happening.FAILED
        self._tell(happening, failed.actor, failed.claim, detail=detail, further=further)

    def discarded(self, actor: str, claim: Claim, *, detail: str) -> None:
        self._tell(Happening.DISCARDED, actor, claim, detail=detail)

    def _slower_passes(self, pair: Pair, environment: Environment) -> str:
        """Return why a pair runs in slower code than ours, unless that was told already or is not so."""
        caveats = backend_caveats([environment.digest], {environment.digest: environment.facts})
        text = "; ".join(caveat.text for caveat in caveats)
        if (pair.spec.name, text) in self._slower:
            return ""
        self._slower.add((pair.spec.name, text))
        return text

    def _elsewhere(self, pair: Pair, environment: Environment) -> str:
        """Return that a pair goes on in an environment that is not that of its results of before this run,
        unless that was told already or is not so."""
        warning = elsewhere_warning(environment, self._earlier.get(pair.spec.name, ()))
        if warning:
            del self._earlier[pair.spec.name]
        return warning

    def _tell(
        self,
        happening: Happening,
        actor: str,
        claim: Claim,
        *,
        detail: str = "",
        seconds: float | None = None,
        further: int = 0,
    ) -> None:
        job = claim.job
        if happening is not Happening.STARTED:
            self.export.ended(job, happening)
        self.watch(
            Notice(
                happening=happening,
                job_id=claim.job_id,
                label=job.configuration.label,
                repeat=job.repeat,
                pair=job.pair.spec.name,
                actor=actor,
                detail=detail,
                seconds=seconds,
                further=further,
            )
        )
