"""An enlarged model computes what the small one does, at the cost of a larger one."""

from __future__ import annotations

import pytest
import torch
from dyna_eval_workers.enlarged import enlarge

from tests.models import POSITIONS, VOCABULARY, tiny_gpt_neox


@pytest.mark.parametrize(("width", "layers"), [(1, 2), (1, 5), (2, 2), (4, 3)])
def test_the_logits_stay_what_they_were(width: int, layers: int) -> None:
    small = tiny_gpt_neox(seed=1)
    large = enlarge(small, width=width, layers=layers)
    tokens = torch.arange(POSITIONS)[None] * 7 % VOCABULARY
    with torch.inference_mode():
        torch.testing.assert_close(large(tokens).logits, small(tokens).logits, rtol=1e-4, atol=1e-4)
    assert large.config.hidden_size == width * small.config.hidden_size
    assert len(large.gpt_neox.layers) == large.config.num_hidden_layers == layers


def test_layers_that_add_nothing_are_no_cheaper() -> None:
    """Their first matrices are the model's own, so that no time is saved on zeros."""
    small = tiny_gpt_neox(seed=1)
    first, *_, last = enlarge(small, width=1, layers=3).gpt_neox.layers
    assert torch.equal(last.mlp.dense_h_to_4h.weight, first.mlp.dense_h_to_4h.weight)
    assert not last.mlp.dense_4h_to_h.weight.any()


def test_nothing_is_drawn_for_it() -> None:
    before, small = torch.random.get_rng_state(), tiny_gpt_neox(seed=1)
    torch.random.set_rng_state(before)
    enlarge(small, width=2, layers=4)
    assert torch.equal(torch.random.get_rng_state(), before)
