"""Claims of one job and landings of one result, for tests that have no use for several at once."""

from __future__ import annotations

from dyna_eval_db.store import Claim, Claimant, Landing, Store

from dyna_eval.measurements import JobResult


def claim_one(
    store: Store,
    sweep_id: int,
    *,
    pair: str,
    actor: str,
    lease_seconds: float,
    node: str | None = None,
) -> Claim | None:
    """Claim the next queued job of a pair; None where there is none."""
    claimants = [Claimant(actor=actor, node=node)]
    claims = store.claim_jobs(sweep_id, pair=pair, claimants=claimants, lease_seconds=lease_seconds)
    return claims[0] if claims else None


def land_one(store: Store, claim: Claim, result: JobResult) -> Landing:
    """Land a result, and return what became of it."""
    [landing] = store.land_results([(claim, result)])
    return landing
