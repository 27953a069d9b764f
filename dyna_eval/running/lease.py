"""The right to work on a sweep: one controller at a time holds it, from before Ray starts to the end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from dyna_eval_db.store import Store

from dyna_eval.errors import DatabaseError, LeaseLostError
from dyna_eval.holder import is_gone, own_name

LEASE_SECONDS = 60.0
"""How long a claim and the controller's own lease live without a renewal."""


@contextlib.contextmanager
def leased(store: Store, sweep_id: int) -> Iterator[str]:
    """Hold a sweep's lease for the time of a block, which is given the holder's name.

    Raises LeaseLostError where another controller works on the sweep.
    """
    holder = own_name()
    if not _acquire(store, sweep_id, holder):
        raise LeaseLostError(
            f"sweep {sweep_id} is being run by another controller;"
            f" try again in {LEASE_SECONDS:.0f} s if it died"
        )
    try:
        yield holder
    finally:
        with contextlib.suppress(DatabaseError):  # it runs out by itself where the database is away
            store.release_lease(sweep_id, holder)


def _acquire(store: Store, sweep_id: int, holder: str) -> bool:
    """Take the lease, also from a controller that was killed on this machine while it held it."""
    if store.acquire_lease(sweep_id, holder, LEASE_SECONDS):
        return True
    other = store.lease_holder(sweep_id)
    if other is not None and is_gone(other):
        store.release_lease(sweep_id, other)
    return store.acquire_lease(sweep_id, holder, LEASE_SECONDS)
