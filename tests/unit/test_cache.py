"""The preallocated cache holds what transformers' own cache would hold after the same tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from dyna_eval_workers.cache import PreallocatedCache
from dyna_eval_workers.runner import Runner
from transformers import DynamicCache

from tests.models import tiny_gpt_neox, tiny_llama

PREFIX = [17, 5, 250, 31]
MAKERS: dict[str, Callable[..., Any]] = {"gpt_neox": tiny_gpt_neox, "llama": tiny_llama}


@pytest.fixture(params=MAKERS)
def runner(request: pytest.FixtureRequest) -> Runner:
    runner = Runner(MAKERS[request.param](seed=1))
    runner.reserve(24)
    with torch.inference_mode():
        runner.prefill(PREFIX)
    return runner


@torch.inference_mode()
def recomputed(runner: Runner, tokens: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return keys and values per layer after plain decoding with a DynamicCache."""
    cache = DynamicCache()
    runner.model(input_ids=torch.tensor([tokens]), past_key_values=cache, use_cache=True)
    return [(layer.keys, layer.values) for layer in cache.layers]


def assert_holds(runner: Runner, tokens: list[int]) -> None:
    """Check every layer's committed rows, and that the model goes on from them as it should."""
    cache = runner.cache
    assert cache.length == cache.written == cache.get_seq_length() == len(tokens)
    for index, (keys, values) in enumerate(recomputed(runner, tokens)):
        torch.testing.assert_close(cache.rows[index, 0, :, :, : len(tokens)], keys)
        torch.testing.assert_close(cache.rows[index, 1, :, :, : len(tokens)], values)


@torch.inference_mode()
def write_tree(runner: Runner) -> None:
    """Write the rows of a root 9 with children 11 and 12, and the child 13 of 12."""
    visible = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]]).bool()
    positions = torch.tensor([0, 1, 1, 2]) + len(PREFIX)
    runner.forward(torch.tensor([9, 11, 12, 13]), positions, visible)


def test_prefill_commits_the_rows_of_the_prompt(runner: Runner) -> None:
    assert_holds(runner, PREFIX)


def test_rows_are_written_behind_the_committed_ones_and_not_committed(runner: Runner) -> None:
    write_tree(runner)
    assert (runner.cache.length, runner.cache.written) == (4, 8)


def test_keep_commits_the_accepted_path_alone(runner: Runner) -> None:
    write_tree(runner)
    runner.cache.keep(torch.tensor([0, 2, 3]))
    assert_holds(runner, [*PREFIX, 9, 12, 13])


def test_keep_of_a_path_whose_rows_are_already_in_place(runner: Runner) -> None:
    write_tree(runner)
    runner.cache.keep(torch.tensor([0, 1]))
    assert_holds(runner, [*PREFIX, 9, 11])


def test_keep_of_nothing_forgets_what_was_written(runner: Runner) -> None:
    write_tree(runner)
    runner.cache.keep(torch.zeros(0, dtype=torch.long))
    assert_holds(runner, PREFIX)


def test_rows_of_several_passes_stand_behind_each_other(runner: Runner) -> None:
    """A draft grows a tree level by level, and nothing is committed until the target has spoken."""
    with torch.inference_mode():
        runner.forward(torch.tensor([9]), torch.tensor([4]), None)
        runner.forward(
            torch.tensor([11, 12]), torch.tensor([5, 5]), torch.tensor([[1, 1, 0], [1, 0, 1]]).bool()
        )
    assert (runner.cache.length, runner.cache.written) == (4, 7)
    runner.cache.keep(torch.tensor([0, 2]))
    assert_holds(runner, [*PREFIX, 9, 12])


def test_commit_keeps_the_first_rows_and_forgets_the_rest(runner: Runner) -> None:
    with torch.inference_mode():
        runner.forward(torch.tensor([9, 11, 12]), torch.tensor([4, 5, 6]), torch.ones(3, 3).tril().bool())
    runner.cache.commit(2)
    assert_holds(runner, [*PREFIX, 9, 11])


def test_a_tree_over_kept_rows_is_as_over_fresh_ones(runner: Runner) -> None:
    """Rows left behind by a refused branch must not reach the next round."""
    write_tree(runner)
    runner.cache.keep(torch.tensor([0, 2]))
    with torch.inference_mode():
        ours = runner.forward(torch.tensor([40]), torch.tensor([6]), None)
        plain = runner.model(input_ids=torch.tensor([[*PREFIX, 9, 12, 40]]), use_cache=False).logits[0, -1:]
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
    runner.cache.commit(1)
    assert_holds(runner, [*PREFIX, 9, 12, 40])


def test_clear_forgets_every_row(runner: Runner) -> None:
    runner.cache.clear()
    assert (runner.cache.length, runner.cache.written, runner.cache.get_seq_length()) == (0, 0, 0)


def test_all_layers_share_one_buffer() -> None:
    """Compaction moves the rows of every layer at once, so the layers must be views."""
    cache = PreallocatedCache(
        layers=3, heads=2, head_size=4, capacity=6, dtype=torch.float32, device=torch.device("cpu")
    )
    for index, layer in enumerate(cache.layers):
        layer.update(torch.full((1, 2, 1, 4), index + 1.0), torch.full((1, 2, 1, 4), -index - 1.0))
    assert cache.rows[:, 0, 0, 0, 0, 0].tolist() == [1.0, 2.0, 3.0]
    assert cache.rows[:, 1, 0, 0, 0, 0].tolist() == [-1.0, -2.0, -3.0]


def test_more_room_is_made_where_a_sequence_needs_it() -> None:
    runner = Runner(tiny_gpt_neox(seed=1))
    runner.reserve(8)
    runner.reserve(4)
    assert runner.cache.capacity == 8
    runner.reserve(20)
    assert (runner.cache.capacity, runner.cache.length) == (20, 0)
