"""A sample is compared with the target's own tokens, and a numeric tie told from a violation."""

from __future__ import annotations

import pytest
import torch
from dyna_eval_workers.decoding import Decoder
from dyna_eval_workers.exactness import Comparison, compare
from dyna_eval_workers.runner import Runner
from dyna_eval_workers.session import distinct_n

from dyna_eval.jobs import Exactness, GenerationSpec
from tests.models import tiny_gpt_neox

PROMPT = (3, 99, 120)
GREEDY = GenerationSpec(max_new_tokens=8)


@pytest.fixture(scope="module")
def target() -> Runner:
    return Runner(tiny_gpt_neox(seed=1))


@pytest.fixture(scope="module")
def reference(target: Runner) -> tuple[int, ...]:
    return (
        Decoder(target, None, vocabulary=300, end_of_text=None)
        .decode(PROMPT, GREEDY, None, seed="0")
        .token_ids
    )


def compared(target: Runner, reference: tuple[int, ...], emitted: tuple[int, ...]) -> Comparison:
    return compare(target, prompt=PROMPT, reference=reference, emitted=emitted, generation=GREEDY, seed="0")


def test_equal_tokens_are_exact(target: Runner, reference: tuple[int, ...]) -> None:
    assert compared(target, reference, reference) == Comparison(exactness=Exactness.EXACT)


def test_another_token_is_a_violation_with_its_place_and_margin(
    target: Runner, reference: tuple[int, ...]
) -> None:
    wrong = (*reference[:4], (reference[4] + 1) % 300, *reference[5:])
    comparison = compared(target, reference, wrong)
    assert comparison.exactness is Exactness.VIOLATION
    assert comparison.divergence_index == 4
    assert comparison.margin_ulp is not None
    assert comparison.margin_ulp > 64


def test_a_text_that_stops_early_is_a_violation(target: Runner, reference: tuple[int, ...]) -> None:
    comparison = compared(target, reference, reference[:5])
    assert (comparison.exactness, comparison.divergence_index) == (Exactness.VIOLATION, 5)


def test_the_other_of_two_equal_logits_is_a_tie(reference: tuple[int, ...]) -> None:
    """Two tokens with the same output row have the same logit everywhere."""
    model = tiny_gpt_neox(seed=1)
    best = reference[4]
    twin = (best + 1) % 300
    with torch.no_grad():
        model.lm_head.weight[twin] = model.lm_head.weight[best]
    comparison = compared(Runner(model), reference, (*reference[:4], twin, *reference[5:]))
    assert comparison.exactness is Exactness.TIE
    assert comparison.margin_ulp == pytest.approx(0.0)


def test_distinct_n_is_the_share_of_different_n_grams() -> None:
    assert distinct_n((1, 2, 1, 2, 1), 2) == pytest.approx(0.5)
    assert distinct_n((1, 2, 3), 2) == pytest.approx(1.0)
    assert distinct_n((1,), 2) is None
