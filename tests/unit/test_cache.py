"""The preallocated cache holds what transformers' own cache would hold after the same tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from dyna_eval_workers.cache import PreallocatedCache
from dyna_eval_workers.runner import COMMITTED, TorchRunner, UncommittedRows, unpack
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from tests.models import tiny_gpt_neox, tiny_llama, tiny_model
from tests.runners import rows_of

PREFIX = [17, 5, 250, 31]
MAKERS: dict[str, Callable[..., Any]] = {"gpt_neox": tiny_gpt_neox, "llama": tiny_llama}


@pytest.fixture(params=MAKERS)
def runner(request: pytest.FixtureRequest) -> TorchRunner:
    runner = TorchRunner(MAKERS[request.param](seed=1))
    runner.reserve(24)
    runner.prefill(PREFIX)
    return runner


@torch.inference_mode()
def recomputed(runner: TorchRunner, tokens: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return keys and values per layer after plain decoding with a DynamicCache."""
    cache = DynamicCache()
    runner.model(input_ids=torch.tensor([tokens]), past_key_values=cache, use_cache=True)
    return [(layer.keys, layer.values) for layer in cache.layers]


def assert_holds(runner: TorchRunner, tokens: list[int]) -> None:
    """Check every layer's committed rows, and that the model goes on from them as it should."""
    cache = runner.cache
    assert runner.length == cache.length == cache.written == cache.get_seq_length() == len(tokens)
    for index, (keys, values) in enumerate(recomputed(runner, tokens)):
        torch.testing.assert_close(rows_of(cache)[index, 0, :, :, : len(tokens)], keys)
        torch.testing.assert_close(rows_of(cache)[index, 1, :, :, : len(tokens)], values)


def write_tree(runner: TorchRunner) -> None:
    """Write the rows of a root 9 with children 11 and 12, and the child 13 of 12."""
    runner.extend([9, 11, 12, 13], [COMMITTED, 0, 0, 2])


def test_prefill_commits_the_rows_of_the_prompt(runner: TorchRunner) -> None:
    assert_holds(runner, PREFIX)


@pytest.mark.parametrize(("multi_query", "heads"), [(True, 1), (False, 4)])
def test_a_cache_has_as_many_heads_as_the_model_caches(multi_query: bool, heads: int) -> None:
    """Falcon's configuration says it by a flag of its own."""
    config = {"num_attention_heads": 4, "alibi": False, "multi_query": multi_query, "ffn_hidden_size": 64}
    runner = TorchRunner(tiny_model("falcon", seed=1, **config))
    runner.reserve(24)
    assert rows_of(runner.cache).shape == (2, 2, 1, heads, 24, 8)
    runner.prefill(PREFIX)
    assert_holds(runner, PREFIX)


def test_rows_are_written_behind_the_committed_ones_and_not_committed(runner: TorchRunner) -> None:
    write_tree(runner)
    assert (runner.cache.length, runner.cache.written) == (4, 8)


def test_keep_commits_the_accepted_path_alone(runner: TorchRunner) -> None:
    write_tree(runner)
    runner.keep([0, 2, 3])
    assert_holds(runner, [*PREFIX, 9, 12, 13])


def test_keep_of_a_path_whose_rows_are_already_in_place(runner: TorchRunner) -> None:
    write_tree(runner)
    runner.keep([0, 1])
    assert_holds(runner, [*PREFIX, 9, 11])


def test_rows_that_trade_places_are_read_before_they_are_written(runner: TorchRunner) -> None:
    write_tree(runner)
    before = rows_of(runner.cache).clone()
    runner.cache.move(torch.tensor([5, 6, 4]), torch.tensor([4, 5, 6]))
    assert torch.equal(rows_of(runner.cache)[..., [6, 4, 5], :], before[..., [4, 5, 6], :])


def test_keep_of_nothing_forgets_what_was_written(runner: TorchRunner) -> None:
    write_tree(runner)
    runner.keep([])
    assert_holds(runner, PREFIX)


def test_rows_of_several_passes_stand_behind_each_other(runner: TorchRunner) -> None:
    """A draft grows a tree level by level, and nothing is committed until the target has spoken."""
    runner.extend([9], [COMMITTED])
    runner.extend([11, 12], [0, 0])
    assert (runner.cache.length, runner.cache.written) == (4, 7)
    runner.keep([0, 2])
    assert_holds(runner, [*PREFIX, 9, 12])


def test_commit_keeps_the_first_rows_and_forgets_the_rest(runner: TorchRunner) -> None:
    runner.extend([9, 11, 12], [COMMITTED, 0, 1])
    runner.cache.commit(2)
    assert_holds(runner, [*PREFIX, 9, 11])


def test_a_tree_over_kept_rows_is_as_over_fresh_ones(runner: TorchRunner) -> None:
    """Rows left behind by a refused branch must not reach the next round."""
    write_tree(runner)
    runner.keep([0, 2])
    runner.extend([40], [COMMITTED])
    with torch.inference_mode():
        plain = runner.model(input_ids=torch.tensor([[*PREFIX, 9, 12, 40]]), use_cache=False).logits[0, -1:]
    torch.testing.assert_close(runner.logits(), plain, rtol=1e-4, atol=1e-4)
    runner.keep([0])
    assert_holds(runner, [*PREFIX, 9, 12, 40])


def test_clear_forgets_every_row(runner: TorchRunner) -> None:
    runner.cache.clear()
    assert (runner.cache.length, runner.cache.written, runner.cache.get_seq_length()) == (0, 0, 0)


def test_all_layers_share_one_buffer() -> None:
    """Compaction moves the rows of every layer at once, so the layers must be views."""
    cache = PreallocatedCache(
        heads=2, head_size=4, capacity=6, dtype=torch.float32, devices=[torch.device("cpu")] * 3
    )
    for index, layer in enumerate(cache.layers):
        layer.update(torch.full((1, 2, 1, 4), index + 1.0), torch.full((1, 2, 1, 4), -index - 1.0))
    assert rows_of(cache)[:, 0, 0, 0, 0, 0].tolist() == [1.0, 2.0, 3.0]
    assert rows_of(cache)[:, 1, 0, 0, 0, 0].tolist() == [-1.0, -2.0, -3.0]


def test_more_room_is_made_where_a_sequence_needs_it() -> None:
    runner = TorchRunner(tiny_gpt_neox(seed=1))
    runner.reserve(8)
    runner.reserve(4)
    assert runner.cache.capacity == 8
    runner.reserve(20)
    assert (runner.cache.capacity, runner.cache.length) == (20, 0)


# --------------------------------------------------- which rows a row sees, and where it stands


@st.composite
def parents(draw: st.DrawFn) -> list[int]:
    """The parents of up to 100 rows: more than a machine's integer has bits."""
    return [draw(st.integers(COMMITTED, row - 1)) for row in range(draw(st.integers(1, 100)))]


@settings(deadline=None, max_examples=100)
@given(parents=parents(), data=st.data())
def test_a_row_sees_itself_and_its_parents_up_to_the_committed_rows(
    parents: list[int], data: st.DataObject
) -> None:
    """However many passes wrote the rows, and whatever the rows of the round before were."""
    rows = UncommittedRows()
    rows.add(data.draw(st.sampled_from([[], [COMMITTED, 0, 1, 2], [COMMITTED] * 80])), 3)
    rows.clear()
    cut = data.draw(st.integers(0, len(parents)))
    for part in (parents[:cut], parents[cut:]):
        rows.add(part, 7)
    seen = unpack(rows.seen[cut:], len(rows.seen))
    assert seen.shape == (len(parents) - cut, len(parents))
    for row in range(len(parents)):
        expected, above = {row}, row
        while parents[above] != COMMITTED:
            above = parents[above]
            expected.add(above)
        assert rows.positions[row] == 7 + len(expected) - 1
        assert row < cut or set(seen[row - cut].nonzero()[0].tolist()) == expected
