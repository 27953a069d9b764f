"""What a failure means, by its real exception."""

from __future__ import annotations

import pytest

from dyna_eval.errors import DecodingError, PairError, StuckWorkerError
from dyna_eval.verdicts import judge_error, judge_loss


@pytest.mark.parametrize("tries", [0, 1])
def test_a_job_s_own_fault_is_final_at_once_and_the_actor_goes_on(tries: int) -> None:
    verdict = judge_error(DecodingError("3 of 8 samples differ\nmore"), tries=tries)
    assert (verdict.final, verdict.actor_ends, verdict.pair_fails) == (True, False, False)
    assert (verdict.error_class, verdict.message) == ("DecodingError", "3 of 8 samples differ")


def test_a_pair_that_does_not_load_fails_as_a_whole_at_the_second_try() -> None:
    first, second = (judge_error(PairError("the weights hold NaN"), tries=tries) for tries in (0, 1))
    assert (first.final, first.pair_fails, first.actor_ends) == (False, False, True)
    assert (second.final, second.pair_fails, second.actor_ends) == (True, True, True)


def test_memory_that_runs_out_gets_one_retry_on_a_fresh_actor() -> None:
    first, second = (judge_error(MemoryError("48 GB"), tries=tries) for tries in (0, 1))
    assert (first.final, first.actor_ends, first.error_class) == (False, True, "MemoryError")
    assert (second.final, second.pair_fails) == (True, False)


def test_a_job_that_took_three_workers_with_it_is_poison() -> None:
    lost = StuckWorkerError("its worker has not answered for 30 s")
    verdicts = [judge_loss(lost, tries=tries, node_lives=True) for tries in range(3)]
    assert [verdict.final for verdict in verdicts] == [False, False, True]
    assert all(verdict.blamed and verdict.actor_ends for verdict in verdicts)
    assert verdicts[2].message.startswith("failed after it lost 3 workers; ")


def test_a_node_that_went_away_costs_the_job_nothing() -> None:
    verdict = judge_loss(RuntimeError("gone"), tries=2, node_lives=False)
    assert (verdict.blamed, verdict.final) == (False, False)
