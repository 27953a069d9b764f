"""A sample is compared with the target's own tokens, and a numeric tie told from a violation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from dyna_eval_workers.exactness import TokenComparison, _Scores, compare_tokens
from dyna_eval_workers.runner import Runner
from dyna_eval_workers.session import distinct_n

from dyna_eval.jobs import GenerationSpec
from dyna_eval.measurements import Exactness
from tests.models import tiny_gpt_neox
from tests.runners import RUNNERS, decoder

PROMPT = (3, 99, 120)
GREEDY = GenerationSpec(max_new_tokens=8)


@pytest.fixture(scope="module", params=RUNNERS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def target(backend: str) -> Runner:
    return RUNNERS[backend](tiny_gpt_neox(seed=1))


@pytest.fixture(scope="module")
def reference() -> tuple[int, ...]:
    alone = decoder(tiny_gpt_neox(seed=1), None, end_tokens=())
    return alone.decode(PROMPT, GREEDY, None, seed="0").token_ids


def compared(
    target: Runner, reference: tuple[int, ...], emitted: tuple[int, ...], **changes: Any
) -> TokenComparison:
    settings: dict[str, Any] = {"generation": GREEDY, "seed": "0"} | changes
    return compare_tokens(target, prompt=PROMPT, reference=reference, emitted=emitted, **settings)


def test_equal_tokens_are_exact(target: Runner, reference: tuple[int, ...]) -> None:
    assert compared(target, reference, reference) == TokenComparison(exactness=Exactness.EXACT)


def test_another_token_is_a_violation_with_its_place_and_margin(
    target: Runner, reference: tuple[int, ...]
) -> None:
    wrong = (*reference[:4], (reference[4] + 1) % 300, *reference[5:])
    comparison = compared(target, reference, wrong)
    assert comparison.exactness is Exactness.VIOLATION
    assert comparison.divergence_index == 4
    assert comparison.margin_ulp is not None
    assert comparison.margin_ulp > 64


def test_a_reference_that_is_not_the_targets_best_is_a_violation_as_far_as_its_token_lies_below(
    target: Runner, reference: tuple[int, ...]
) -> None:
    """Not 0 from a tie because what was emitted is the best token: the margin is that of the lower one."""
    wrong = (*reference[:4], (reference[4] + 1) % 300, *reference[5:])
    comparison = compared(target, wrong, reference)
    assert (comparison.exactness, comparison.divergence_index) == (Exactness.VIOLATION, 4)
    assert comparison.margin_ulp == compared(target, reference, wrong).margin_ulp


def test_a_text_that_stops_early_is_a_violation(target: Runner, reference: tuple[int, ...]) -> None:
    comparison = compared(target, reference, reference[:5])
    assert (comparison.exactness, comparison.divergence_index) == (Exactness.VIOLATION, 5)


def test_the_other_of_two_equal_logits_is_a_tie(reference: tuple[int, ...], backend: str) -> None:
    """Two tokens with the same output row have the same logit everywhere."""
    model = tiny_gpt_neox(seed=1)
    best = reference[4]
    twin = (best + 1) % 300
    with torch.no_grad():
        model.lm_head.weight[twin] = model.lm_head.weight[best]
    comparison = compared(RUNNERS[backend](model), reference, (*reference[:4], twin, *reference[5:]))
    assert comparison.exactness is Exactness.TIE
    assert comparison.margin_ulp == pytest.approx(0.0)


def test_a_sampled_text_is_judged_by_the_noise_of_its_own_seed(backend: str) -> None:
    """What one seed draws is wrong by another; the margin is that of the scores, noise included."""
    model, sampled = tiny_gpt_neox(seed=1), replace(GREEDY, temperature=1.0)
    pair = decoder(model, None, backend=backend)
    one, other = (pair.decode(PROMPT, sampled, None, seed=seed).token_ids for seed in "ab")
    target = RUNNERS[backend](model)
    assert compared(target, one, one, generation=sampled, seed="a").exactness is Exactness.EXACT
    comparison = compared(target, one, other, generation=sampled, seed="a")
    assert comparison.exactness is Exactness.VIOLATION
    assert comparison.divergence_index is not None
    assert one[comparison.divergence_index] != other[comparison.divergence_index]
    assert one[: comparison.divergence_index] == other[: comparison.divergence_index]
    assert compared(target, one, other, generation=sampled, seed="c").margin_ulp != comparison.margin_ulp


NEAR_AND_FAR = {
    ("eager", torch.float32): (30, 150),
    ("eager", torch.float16): (7, 40),
    ("eager", torch.bfloat16): (7, 40),
    ("compile", torch.float32): (30, 150),
    ("compile", torch.float16): (1, 5),
    ("compile", torch.bfloat16): (1, 5),
}
"""By how many eps a logit may be smaller and still tie, and by how many not; an eps is at most 2 ulp"""


def compared_with_a_twin(
    backend: str, dtype: torch.dtype, eps: int, *, rounding_eps: float | None = None, **changes: Any
) -> TokenComparison:
    """Compare with a token whose logit is by so many eps smaller than that of the best.

    `rounding_eps`: what the self-test found for the target, where it is not as every model's.
    """
    model = tiny_gpt_neox(seed=1).to(dtype)
    alone = decoder(model, None, backend=backend, end_tokens=())
    reference = alone.decode(PROMPT, GREEDY, None, seed="0").token_ids
    best, twin = reference[0], (reference[0] + 1) % 300
    with torch.no_grad():
        model.lm_head.weight[twin] = model.lm_head.weight[best] * (1 - eps * torch.finfo(dtype).eps)
    target = RUNNERS[backend](model)
    if rounding_eps is not None:
        target.rounding_eps = rounding_eps
    return compared(target, reference, (twin, *reference[1:]), **changes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_only_what_rounding_explains_is_a_tie(dtype: torch.dtype, backend: str) -> None:
    """In 16 bits less where trees and single tokens have the same bits, as by our kernels for CPUs."""
    near, far = NEAR_AND_FAR[backend, dtype]
    tie, violation = (compared_with_a_twin(backend, dtype, eps) for eps in (near, far))
    assert tie.margin_ulp is not None
    assert violation.margin_ulp is not None
    assert 0 < tie.margin_ulp <= 2 * near
    assert far / 2 < violation.margin_ulp <= 2.5 * far
    assert (tie.exactness, violation.exactness) == (Exactness.TIE, Exactness.VIOLATION)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_target_that_reacts_more_to_rounding_has_wider_ties_but_to_the_bit(
    dtype: torch.dtype, backend: str
) -> None:
    _, far = NEAR_AND_FAR["eager", dtype]
    ours, by_peer = (
        compared_with_a_twin(backend, dtype, far, rounding_eps=3 * far, by_peer=peer)
        for peer in (False, True)
    )
    assert by_peer.exactness is Exactness.TIE
    assert ours.exactness is (Exactness.TIE if backend == "eager" else Exactness.VIOLATION)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_peer_has_the_ties_of_passes_that_are_not_exact_to_the_bit(
    dtype: torch.dtype, backend: str
) -> None:
    near, far = NEAR_AND_FAR["eager", dtype]
    assert compared_with_a_twin(backend, dtype, near, by_peer=True).exactness is Exactness.TIE
    assert compared_with_a_twin(backend, dtype, far, by_peer=True).exactness is Exactness.VIOLATION


def test_noise_that_brings_large_logits_near_0_makes_their_rounding_no_smaller() -> None:
    """A unit in the last place is that of the logits, which were rounded: at 8 it is 0.0625 in bfloat16."""
    scaled = torch.tensor([-8.0, -8.0625, -9.0])
    noise = torch.tensor([8.01, 8.01, 0.0])
    scores = _Scores(scaled, scaled + noise, torch.bfloat16)
    assert scores.margin_ulp(0, 1) == pytest.approx(1.0, rel=1e-3)
    greedy = _Scores(scaled, scaled, torch.bfloat16)
    assert greedy.margin_ulp(0, 1) == pytest.approx(1.0, rel=1e-3)


def test_distinct_n_is_the_share_of_different_n_grams() -> None:
    assert distinct_n((1, 2, 1, 2, 1), 2) == pytest.approx(0.5)
    assert distinct_n((1, 2, 3), 2) == pytest.approx(1.0)
    assert distinct_n((1,), 2) is None
