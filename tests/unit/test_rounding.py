"""By how much two right passes may differ, by a model's own reaction to noise of the size of rounding."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from dyna_eval_workers.architecture import plain_logits, self_test
from dyna_eval_workers.rounding import ROUNDING_EPS, difference_eps, rounding_eps, rounding_noise, ulp
from dyna_eval_workers.runner import TorchRunner

from dyna_eval.errors import PairError
from tests.models import tiny_model

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_model_that_hardly_reacts_has_the_room_of_all(dtype: torch.dtype) -> None:
    assert rounding_eps(dtype, 1.0) == ROUNDING_EPS[dtype]
    assert rounding_eps(dtype, math.nan) == rounding_eps(dtype, math.inf) == ROUNDING_EPS[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_model_that_reacts_more_has_more_room_up_to_a_quarter_of_its_logits(dtype: torch.dtype) -> None:
    most = 0.25 / torch.finfo(dtype).eps
    assert ROUNDING_EPS[dtype] < rounding_eps(dtype, 10.0) < rounding_eps(dtype, 15.0) < most
    assert rounding_eps(dtype, 1e9) == most


def test_a_difference_is_in_eps_of_the_largest_logit_and_of_1_at_least() -> None:
    expected = torch.tensor([1.0, -8.0, 2.0])
    found = expected + torch.tensor([0.0, 0.0, 2.0**-20])
    assert difference_eps(found, expected, torch.float32) == 2**-20 / (8 * 2**-23)
    assert difference_eps(found / 64, expected / 64, torch.float32) == 2**-26 / 2**-23
    assert math.isnan(difference_eps(found * math.nan, expected, torch.float32))


@pytest.mark.parametrize("kind", ["gpt_neox", "gpt2", "qwen3"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_noise_moves_the_logits_of_passes_within_alone_and_each_time_alike(
    kind: str, dtype: torch.dtype
) -> None:
    model = tiny_model(kind, seed=1).to(dtype)

    @torch.no_grad()
    def logits() -> torch.Tensor:
        whole: torch.Tensor = model(input_ids=torch.tensor([[5, 9, 17]]), use_cache=False).logits[0].float()
        return whole

    before = logits()
    moved = []
    for _ in range(2):
        with rounding_noise(model):
            moved.append(logits())
    assert torch.equal(moved[0], moved[1])
    assert 0.5 < difference_eps(moved[0], before, dtype) < 16
    with pytest.raises(RuntimeError, match="in between"), rounding_noise(model):
        raise RuntimeError("in between")
    assert torch.equal(logits(), before)


def test_the_self_test_tells_the_runner_how_much_rounding_may_do() -> None:
    """The wider a model, the more terms its sums have, and the more its logits differ."""
    bounds = []
    for hidden in (32, 256, 1024):
        model = tiny_model("llama", seed=1, hidden_size=hidden)
        runner = TorchRunner(model)
        self_test(runner, plain_logits(model), "llama")
        bounds.append(runner.rounding_eps)
    assert ROUNDING_EPS[torch.float32] <= bounds[0] < bounds[1] < bounds[2]


@pytest.mark.parametrize("ignored", ["position_ids", "attention_mask"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_that_reacts_much_is_caught_all_the_same_where_its_passes_are_wrong(
    dtype: torch.dtype, ignored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("gpt_neox", seed=1, hidden_size=256, num_hidden_layers=12).to(dtype)
    plain = plain_logits(model)
    assert plain.rounding_eps > 1.5 * ROUNDING_EPS[dtype]
    self_test(TorchRunner(model), plain, "right")
    passes = model.forward
    monkeypatch.setattr(model, "forward", lambda **given: passes(**(given | {ignored: None})))
    with pytest.raises(PairError, match="more than rounding allows"):
        self_test(TorchRunner(model), plain, "wrong")


def test_what_one_token_jumps_by_is_not_a_models_reaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a mixture of experts, where noise may send a token to another expert."""
    model = tiny_model("llama", seed=1)
    quiet = plain_logits(model).rounding_eps
    passes = model.forward

    def jumping(**given: Any) -> Any:
        output = passes(**given)
        if model.model.norm._forward_hooks:
            output.logits[:, -3] += 1.0
        return output

    monkeypatch.setattr(model, "forward", jumping)
    assert plain_logits(model).rounding_eps < 1.5 * quiet


def test_an_ulp_is_that_of_the_next_power_of_two_below() -> None:
    assert ulp(torch.float32, 5.0) == 4 * 2**-23
    assert ulp(torch.bfloat16, -0.75) == 0.5 * 2**-7
    assert ulp(torch.float16, 0.0) == ulp(torch.float16, 2.0**-14)
