"""What a failure means, by its real exception."""

from __future__ import annotations

import copy
import runpy
from pathlib import Path

import pytest

from dyna_eval.errors import CaptureError, DecodingError, ForeignError, PairError, StuckWorkerError
from dyna_eval.running.verdicts import (
    judge_contradiction,
    judge_error,
    judge_loss,
    judge_unloaded,
    judge_unstarted,
)


def test_a_job_s_own_fault_is_final_at_once_and_the_actor_goes_on() -> None:
    verdict = judge_error(DecodingError("3 of 8 samples differ\nmore"))
    assert (verdict.final, verdict.actor_ends, verdict.pair_fails) == (True, False, False)
    assert (verdict.error_class, verdict.message) == ("DecodingError", "3 of 8 samples differ")


@pytest.mark.parametrize(
    "cause",
    [
        RuntimeError("CUDA error: an illegal memory access"),
        ForeignError("RuntimeError", "CUDA error"),
        CaptureError("its passes cannot run or be captured: CUDA error: an illegal memory access"),
    ],
)
def test_an_actor_ends_after_an_error_that_is_not_our_own(cause: Exception) -> None:
    """A process whose CUDA context is lost fails every further job, also where a capture met it first."""
    verdict = judge_error(cause)
    assert (verdict.final, verdict.actor_ends, verdict.pair_fails) == (True, True, False)
    name = "CaptureError" if isinstance(cause, CaptureError) else "RuntimeError"
    assert (verdict.error_class, verdict.message) == (name, str(cause))


def test_an_actor_ends_with_its_refused_result_whose_sentinels_are_lost() -> None:
    verdict = judge_contradiction(["prompt 0: no rounds were recorded", "wall time of nan s"])
    assert (verdict.final, verdict.actor_ends, verdict.error_class) == (True, True, "InvariantError")
    assert verdict.message == "its result contradicts itself: prompt 0: no rounds were recorded (and 1 more)"


@pytest.mark.parametrize(("here", "elsewhere"), [(True, False), (False, True), (True, True)])
def test_a_pair_that_does_not_load_is_not_its_job_s_fault_while_a_place_is_left(
    *, here: bool, elsewhere: bool
) -> None:
    error = PairError("m: there is no such folder\nmore")
    verdict = judge_unloaded(error, host="b", here=here, elsewhere=elsewhere)
    assert (verdict.blamed, verdict.final, verdict.pair_fails) == (False, False, False)
    assert verdict.actor_ends
    assert verdict.message.startswith("on b: m: there is no such folder")
    assert ("elsewhere" in verdict.message) is not here


def test_a_pair_that_loads_nowhere_fails_as_a_whole() -> None:
    error = PairError("the weights hold NaN")
    verdict = judge_unloaded(error, host="b", here=False, elsewhere=False)
    assert (verdict.blamed, verdict.final, verdict.pair_fails) == (True, True, True)
    assert (verdict.error_class, verdict.message) == ("PairError", "the weights hold NaN")


TRACEBACK = """The actor died because of an error in its creation task, \x1b[36mray::A.__init__()\x1b[39m
  File "/dyna_eval_workers/actor.py", line 25, in __init__
    import torch
    ^^^^^^^^^^^^
ImportError: libcudart.so.12: cannot open shared object file
Install the driver.
"""


@pytest.mark.parametrize("again", [True, False])
def test_an_actor_that_does_not_start_is_told_by_its_own_error_and_costs_the_job_nothing(
    *, again: bool
) -> None:
    verdict = judge_unstarted(RuntimeError(TRACEBACK), host="b", again=again)
    assert (verdict.blamed, verdict.final, verdict.actor_ends) == (False, False, True)
    reason = "no worker starts on b: ImportError: libcudart.so.12: cannot open shared object file"
    assert verdict.message == (reason if again else f"{reason}; it gets no more jobs")


@pytest.mark.parametrize("error", [MemoryError("48 GB"), ForeignError("OutOfMemoryError", "48 GB")])
def test_memory_that_runs_out_gets_one_retry_on_a_fresh_actor(error: Exception) -> None:
    """torch's own error for GPUs is known by its name."""
    first, second = judge_error(error), judge_error(error, failures=["MemoryError"])
    assert (first.final, first.actor_ends, first.error_class) == (False, True, "MemoryError")
    assert (second.final, second.pair_fails) == (True, False)


def test_tries_of_one_kind_are_not_those_of_another() -> None:
    """A worker that died, whosever fault, takes nothing from the retry that memory gets, and the reverse."""
    assert not judge_error(MemoryError("48 GB"), failures=["ActorDiedError", "OutOfMemoryError"]).final
    lost = StuckWorkerError("its worker has not answered for 30 s")
    assert not judge_loss(lost, failures=["ActorDiedError", "MemoryError"], node_lives=True).final


def test_a_job_that_took_three_workers_with_it_is_poison() -> None:
    """One of them Ray ended for its memory."""
    lost = StuckWorkerError("its worker has not answered for 30 s")
    failures = ["ActorDiedError", "OutOfMemoryError"]
    verdicts = [judge_loss(lost, failures=failures[:tries], node_lives=True) for tries in range(3)]
    assert [verdict.final for verdict in verdicts] == [False, False, True]
    assert all(verdict.blamed and verdict.actor_ends for verdict in verdicts)
    assert verdicts[2].message.startswith("failed after it lost 3 workers; ")


def test_a_node_that_went_away_costs_the_job_nothing() -> None:
    verdict = judge_loss(RuntimeError("gone"), failures=["ActorDiedError"] * 2, node_lives=False)
    assert (verdict.blamed, verdict.final) == (False, False)


def test_a_job_under_which_ten_nodes_went_away_is_poison() -> None:
    ninth, tenth = (judge_loss(RuntimeError("gone"), node_lives=False, nodes_lost=lost) for lost in (8, 9))
    assert (ninth.blamed, ninth.final) == (False, False)
    assert (tenth.blamed, tenth.final) == (True, True)
    assert tenth.message == "failed after 10 nodes went away under it; its node is gone: gone"


def test_what_another_package_raises_is_told_with_its_place(tmp_path: Path) -> None:
    """Also as the controller gets it, which may not have the package."""
    policy = tmp_path / "my_policy.py"
    policy.write_text("def select(children):\n    return children[7]\n")
    with pytest.raises(IndexError) as raised:
        runpy.run_path(str(policy))["select"]([])

    verdict = judge_error(copy.copy(ForeignError.of(raised.value)))

    assert (verdict.error_class, verdict.message) == (
        "IndexError",
        "list index out of range (my_policy.py:2)",
    )
