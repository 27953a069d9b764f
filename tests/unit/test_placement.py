"""A target that is spread over several devices decodes as one that lies on a single one.

There is one device here; blocks of the cache and hooks of accelerate are the real ones, over it twice.
"""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
import torch
from accelerate import dispatch_model
from dyna_eval_workers.cache import PreallocatedCache
from dyna_eval_workers.placement import check_spread, is_spread, layer_devices, spreading
from dyna_eval_workers.runner import COMMITTED, TorchRunner

from dyna_eval.errors import PairError
from tests.models import tiny_gpt_neox, tiny_llama

CPU, SAME = torch.device("cpu"), torch.device("cpu", 0)
PREFIX = [17, 5, 250, 31]


def test_layers_of_one_device_after_the_other_share_a_buffer_each_and_move_together() -> None:
    assert CPU != SAME
    cache = PreallocatedCache(
        heads=2, head_size=4, capacity=6, dtype=torch.float32, devices=[CPU, CPU, SAME, SAME, SAME]
    )
    assert [len(block) for block in cache.blocks] == [2, 3]
    for index, layer in enumerate(cache.layers):
        rows = torch.arange(4.0).reshape(1, 1, 4, 1).expand(1, 2, 4, 4) + 10 * index
        layer.update(rows, -rows)
    cache.advance(4)
    cache.move(torch.tensor([1, 3]), torch.tensor([0, 1]))
    cache.commit(2)
    for index, layer in enumerate(cache.layers):
        assert layer.keys[0, 0, :2, 0].tolist() == [10.0 * index + 1, 10.0 * index + 3]
        assert layer.values[0, 1, :2, 3].tolist() == [-10.0 * index - 1, -10.0 * index - 3]
        assert layer.get_seq_length() == 2


def tree_logits(runner: TorchRunner) -> torch.Tensor:
    """Return the logits of a tree, after one of its paths was kept and the last row of another came."""
    runner.reserve(32)
    runner.prefill(PREFIX)
    runner.extend([9, 11, 12, 13], [COMMITTED, 0, 0, 2])
    runner.keep([0, 2, 3])
    runner.extend([40, 41], [COMMITTED, 0])
    return runner.logits()


@pytest.mark.parametrize("make", [tiny_gpt_neox, tiny_llama])
def test_hooks_of_accelerate_leave_trees_and_cache_as_they_are(make: object) -> None:
    assert callable(make)
    plain = tree_logits(TorchRunner(make(seed=1)))
    hooked = dispatch_model(make(seed=1), {"": "cpu"}, main_device="cpu", force_hooks=True)
    torch.testing.assert_close(tree_logits(TorchRunner(hooked)), plain)


def test_a_layer_lies_where_its_parameters_do() -> None:
    model = tiny_gpt_neox(seed=1)
    layers = model.config.num_hidden_layers
    assert layer_devices(model, layers) == [CPU] * layers
    assert not is_spread(model)
    model.gpt_neox.layers[layers - 1].to("meta")
    assert layer_devices(model, layers) == [CPU] * (layers - 1) + [torch.device("meta")]
    assert is_spread(model)


def test_without_accelerate_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert spreading("big") == {"device_map": "balanced"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        PairError, match=r"^big: .*pip install '\.\[multi-gpu\]'` in the checkout on every node"
    ):
        spreading("big")


def test_parts_that_found_no_room_are_not_left_on_the_host() -> None:
    check_spread(SimpleNamespace(hf_device_map={"embed": 0, "layers.0": 1}), "big", gpus=2)
    with pytest.raises(PairError, match=r"^big: 2 GPUs have no room for 1 parts of it, such as layers.1"):
        check_spread(SimpleNamespace(hf_device_map={"embed": 0, "layers.1": "cpu"}), "big", gpus=2)
