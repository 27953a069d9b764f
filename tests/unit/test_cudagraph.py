"""Passes over static buffers compute what eager passes do, and nothing but the buffers reaches a replay."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from dyna_eval_workers import cudagraph
from dyna_eval_workers.architecture import plain_logits, self_test
from dyna_eval_workers.cudagraph import GraphRunner
from dyna_eval_workers.decoding import Decoder
from dyna_eval_workers.drafting import Drafting
from dyna_eval_workers.growth.trees import BestFirst, TopBranches
from dyna_eval_workers.runner import COMMITTED, Runner, TorchRunner, UncommittedRows, unpack
from dyna_eval_workers.sampling import Sampler
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dyna_eval.errors import DecodingError
from dyna_eval.jobs import GenerationSpec
from tests.models import SUPPORTED, VOCABULARY, near, tiny_gpt_neox, tiny_llama, tiny_model
from tests.runners import rows_of

TREE = ([9, 11, 12, 13, 14, 15, 16], [COMMITTED, 0, 0, 1, 1, 2, 2])  # tokens and parents, padded to 8 nodes
LONG_PROMPT = tuple((7 * index + 5) % VOCABULARY for index in range(50))
GREEDY = Sampler(temperature=0.0, seed="", vocabulary=VOCABULARY)
POLICIES: dict[str, Drafting] = {
    "linear": TopBranches(depth=6, branches=1, root_branches=1, threshold=0.0, max_nodes=6),
    "full tree": TopBranches(depth=4, branches=3, root_branches=3, threshold=0.0, max_nodes=120),
    "pruned tree": TopBranches(depth=5, branches=2, root_branches=2, threshold=0.02, max_nodes=62),
    "best first": BestFirst(depth=5, width=3, max_nodes=12),
}


class _Recording(TorchDispatchMode):
    """What a CUDA graph is, on the CPU: operations on fixed memory, without the Python around them."""

    def __init__(self) -> None:
        super().__init__()
        self._done: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in {"item", "_local_scalar_dense", "nonzero", "is_nonzero"}, "asks the device"
        assert name not in {"lift_fresh", "scalar_tensor", "_to_cpu"}, "copies from or to the host"
        result = func(*args, **(kwargs or {}))
        self._done.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        for func, args, kwargs, result in self._done:
            for old, new in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True):
                if old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():  # no view of the old
                    old.copy_(new)


class RecordedRunner(GraphRunner):
    """A runner that replays recordings, and counts them."""

    captures = 0

    def _capture(self, function: Callable[[], object]) -> Callable[[], object]:
        self.captures += 1
        function()
        with _Recording() as recording:
            function()
        return torch.no_grad()(recording.replay)


RUNNERS: dict[str, Callable[[Any], GraphRunner]] = {"called": GraphRunner, "replayed": RecordedRunner}


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny models have 128 positions, and a border is to be crossed among them."""
    monkeypatch.setattr(cudagraph, "_ROWS", 64)


@pytest.fixture(params=RUNNERS)
def make(request: pytest.FixtureRequest) -> Callable[[Any], GraphRunner]:
    return RUNNERS[request.param]


def decoder(make: Callable[[Any], Runner], target: Any, draft: Any = None) -> Decoder:
    return Decoder(make(target), None if draft is None else make(draft), vocabulary=VOCABULARY, end_tokens=())


def run(runner: TorchRunner, tokens: Sequence[int], parents: Sequence[int]) -> None:
    """Let a pass that nobody asks about run all the same."""
    runner.extend(tokens, parents)
    runner.logits()


def started(runner: TorchRunner, committed: int) -> TorchRunner:
    """Return a runner with so many rows committed and room for a tree behind them."""
    runner.reserve(committed + 20)
    runner.prefill([(13 * index + 3) % VOCABULARY for index in range(committed)])
    return runner


# ------------------------------------------------------------------------------------ the same tokens


@pytest.mark.parametrize("temperature", [0.0, pytest.param(1.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", SUPPORTED)
def test_every_method_emits_the_tokens_of_eager_ar(
    kind: str, temperature: float, make: Callable[[Any], GraphRunner]
) -> None:
    """One pair decodes a long prompt, whose cache grows past row 64, and short ones, one after another.

    The draft is near its target: some of what it proposes is taken, some is not.
    """
    target = tiny_model(kind, seed=1)
    generation = GenerationSpec(max_new_tokens=16, temperature=temperature)
    eager, ours = decoder(TorchRunner, target), decoder(make, target, near(target, noise=0.1))
    taken, refused = 0, 0
    for prompt in (LONG_PROMPT, (9,), LONG_PROMPT[:11]):
        expected = eager.decode(prompt, generation, None, seed="3").token_ids
        assert ours.decode(prompt, generation, None, seed="3").token_ids == expected
        for name, policy in POLICIES.items():
            decoded = ours.decode(prompt, generation, policy, seed="3")
            assert decoded.token_ids == expected, name
            taken += sum(played.accepted for played in decoded.rounds)
            refused += sum(played.depth - played.accepted for played in decoded.rounds)
    assert taken > 0
    assert refused > 0


def test_a_draft_that_is_the_target_is_always_accepted(make: Callable[[Any], GraphRunner]) -> None:
    """So draft and target agree on every row, though their passes have other sizes."""
    model = tiny_llama(seed=1)
    decoded = decoder(make, model, model).decode(
        LONG_PROMPT, GenerationSpec(max_new_tokens=21), POLICIES["linear"], seed="0"
    )
    assert [r.accepted for r in decoded.rounds] == [6, 6, 6]


# ------------------------------------------------------------------------------------- the same numbers


@pytest.mark.parametrize("committed", [0, 1, 56, 57, 58, 63, 64, 65, 100])
@pytest.mark.parametrize("kind", ["gpt_neox", "llama"])
def test_a_tree_of_seven_has_the_logits_of_an_eager_pass(
    kind: str, committed: int, make: Callable[[Any], GraphRunner]
) -> None:
    """On both sides of the borders: of a word of bits, and of the rows that a pass reads."""
    model = tiny_model(kind, seed=1)
    eager, ours = started(TorchRunner(model), committed), started(make(model), committed)
    for runner in (eager, ours):
        runner.extend(*TREE)
    torch.testing.assert_close(ours.logits(), eager.logits(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        rows_of(ours.cache)[..., : committed + 7, :], rows_of(eager.cache)[..., : committed + 7, :]
    )
    for runner in (eager, ours):
        runner.keep([0, 2, 5])
        runner.extend([40, 41], [COMMITTED, COMMITTED])
        runner.extend([42, 43, 44], [0, 1, 1])
    torch.testing.assert_close(ours.logits(), eager.logits(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("last_only", [False, True])
def test_choose_and_top_k_answer_as_the_eager_runner_does(
    last_only: bool, make: Callable[[Any], GraphRunner]
) -> None:
    """Padded vocabularies: `rank` among the first 100 ids, and more proposals than a graph ranks."""
    model = tiny_gpt_neox(seed=1)
    eager, ours = started(TorchRunner(model), 5), started(make(model), 5)
    for runner in (eager, ours):
        runner.extend(*TREE, last_only=last_only)
    assert ours.logits().shape == (1 if last_only else 7, VOCABULARY)
    for sampler in (GREEDY, Sampler(temperature=0.7, seed="1", vocabulary=VOCABULARY)):
        assert ours.choose(sampler) == eager.choose(sampler)
        for branch, proposable in (
            (1, VOCABULARY),
            (3, 100),
            (8, 100),
            (12, 100),
            (32, 100),
            (33, 100),
            (2, 2),
        ):
            tokens, values = ours.top_k(branch, sampler, proposable)
            expected_tokens, expected_values = eager.top_k(branch, sampler, proposable)
            assert tokens == expected_tokens
            np.testing.assert_allclose(values, expected_values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["gpt_neox", "llama"])
def test_the_tree_self_test_passes_in_every_dtype(
    kind: str, dtype: torch.dtype, make: Callable[[Any], GraphRunner]
) -> None:
    model = tiny_model(kind, seed=1).to(dtype)
    self_test(make(model), plain_logits(model), kind)


@pytest.mark.parametrize("count", [1, 5, 8, 17, 33])
def test_a_pass_writes_its_own_rows_and_the_spare_one_alone(count: int) -> None:
    runner = started(GraphRunner(tiny_llama(seed=1)), 40)
    runner.reserve(120)
    rows_of(runner.cache).fill_(0.5)
    runner.prefill(LONG_PROMPT[:40])
    before = rows_of(runner.cache).clone()
    run(runner, [7] * count, [COMMITTED] * count)
    changed = (rows_of(runner.cache) != before).any(dim=-1).any(dim=(0, 1, 2, 3)).nonzero()[:, 0].tolist()
    padding = [] if count in (1, 8) else [runner.cache.capacity - 1]
    assert changed == [*range(40, 40 + count), *padding]


def test_what_the_spare_row_holds_does_not_matter() -> None:
    """Not even if padding overflowed in half precision: no pass reads that row."""
    runner = started(GraphRunner(tiny_llama(seed=1)), 63)
    runner.reserve(128)
    runner.prefill(LONG_PROMPT)
    rows_of(runner.cache)[..., -1, :] = float("nan")
    runner.extend([7] * 78, [COMMITTED] * 78)
    assert runner.cache.written == runner.cache.capacity - 1
    assert runner.logits().isfinite().all()


@pytest.mark.parametrize("committed", [0, 1, 63, 64, 65, 130])
def test_the_bits_say_which_rows_a_node_sees(committed: int) -> None:
    written = UncommittedRows()
    written.add(*(TREE[1], committed))
    written.add([3, COMMITTED], committed)
    seen = unpack(written.seen[7:], 9)
    packed = np.frombuffer(cudagraph.bits_of(4, 192, committed, written.seen[7:]), dtype=np.uint8)
    bits = np.unpackbits(packed.reshape(4, 24), axis=1, bitorder="little").astype(np.bool_)
    assert bits[:2, :committed].all()
    assert (bits[:2, committed : committed + 9] == seen).all()
    assert not bits[:2, committed + 9 :].any()
    assert bits[2:].nonzero()[1].tolist() == [0, 0]


# ------------------------------------------------------------------------------- what is captured, and kept


def test_sizes_are_padded_to_few_ones() -> None:
    sizes = [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536]
    assert sorted({cudagraph._padded(count) for count in range(1, 1537)}) == sizes
    assert all(cudagraph._padded(size) == size for size in sizes)


def test_graphs_and_addresses_outlive_a_prompt_and_end_where_the_cache_grows() -> None:
    runner = RecordedRunner(tiny_llama(seed=1))
    run(started(runner, 40), *TREE)
    address = rows_of(runner.cache).data_ptr()
    run(started(runner, 20), *TREE)
    assert (runner.captures, rows_of(runner.cache).data_ptr()) == (1, address)
    eager = started(TorchRunner(runner.model), 90)
    eager.extend(*TREE)
    run(started(runner, 90), *TREE)
    assert runner.captures == 2
    torch.testing.assert_close(runner.logits(), eager.logits(), rtol=1e-4, atol=1e-4)
    run(started(runner, 40), *TREE)
    assert runner.captures == 3
    run(started(runner, 90), *TREE)
    assert runner.captures == 3


def test_a_warm_runner_captures_nothing_while_it_decodes() -> None:
    pair = decoder(RecordedRunner, tiny_gpt_neox(seed=1), tiny_gpt_neox(seed=2, hidden=16, layers=1))
    target, draft = pair.target, pair.draft
    assert isinstance(target, RecordedRunner)
    assert isinstance(draft, RecordedRunner)
    for runner in (target, draft):
        runner.reserve(100)
    target.warm_up(range(1, 13), shortest=1, longest=100)
    draft.warm_up(range(1, 4), shortest=1, longest=100, proposable=VOCABULARY)
    captures = target.captures, draft.captures
    assert captures == (5 * 2 + 2, 3 * 2 + 1)  # passes, and moves of 8 and 16 rows
    pair.decode(LONG_PROMPT, GenerationSpec(max_new_tokens=24), POLICIES["best first"], seed="0")
    run(target, *TREE)
    target.keep([0, 2, 5])
    assert (target.captures, draft.captures) == captures


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_prepared_decoder_captures_nothing_while_it_decodes(temperature: float) -> None:
    target, draft = RecordedRunner(tiny_gpt_neox(seed=1)), RecordedRunner(tiny_gpt_neox(seed=2))
    pair = Decoder(target, draft, vocabulary=VOCABULARY, end_tokens=())
    pair.prepare(80, greedy=temperature == 0)
    captures = target.captures, draft.captures
    generation = GenerationSpec(max_new_tokens=24, temperature=temperature)
    for policy in (None, POLICIES["linear"], POLICIES["pruned tree"]):
        pair.decode(LONG_PROMPT, generation, policy, seed="0")
    assert (target.captures, draft.captures) == captures


@pytest.mark.parametrize("width", [8, 10, 17, 32])
def test_a_wide_tree_is_ranked_by_the_graphs_that_were_prepared_for_it(width: int) -> None:
    """Also where AR was prepared after it, as for an actor's own run; all its levels share their graphs."""
    target, draft = RecordedRunner(tiny_gpt_neox(seed=1)), RecordedRunner(tiny_gpt_neox(seed=2))
    pair = Decoder(target, draft, vocabulary=VOCABULARY, end_tokens=())
    policies = (
        BestFirst(depth=3, width=width, max_nodes=40),
        TopBranches(depth=2, branches=width, root_branches=3, threshold=0.0, max_nodes=60),
    )
    for policy in policies:
        pair.prepare(80, max_rows=policy.max_rows, branch=policy.max_branch)
        captured = draft.captures
        pair.prepare(80, branch=0)
        assert draft.captures == captured, "AR asks no draft"
    captures = draft.captures
    generation = GenerationSpec(max_new_tokens=8)
    expected = decoder(TorchRunner, target.model).decode(LONG_PROMPT, generation, None, seed="0").token_ids
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TorchRunner, "top_k", _refused)
        for policy in policies:
            assert pair.decode(LONG_PROMPT, generation, policy, seed="0").token_ids == expected
    assert draft.captures == captures


def _refused(*_: Any) -> Any:
    raise AssertionError("ranked by launches of its own")


def test_no_pass_is_prepared_over_fewer_rows_than_the_shortest_prompt_has() -> None:
    """So that larger passes over more rows are kept ready; a prompt's first pass ends with its last token."""
    target, draft = RecordedRunner(tiny_gpt_neox(seed=1)), RecordedRunner(tiny_gpt_neox(seed=2))
    pair = Decoder(target, draft, vocabulary=VOCABULARY, end_tokens=())
    pair.prepare(100, shortest=65)
    captures = target.captures, draft.captures
    assert {shape.rows for runner in (target, draft) for shape in runner._graphs} == {128, 192}
    prompt = (*LONG_PROMPT, *LONG_PROMPT[:15])
    pair.decode(prompt, GenerationSpec(max_new_tokens=24), POLICIES["linear"], seed="0")
    assert (target.captures, draft.captures) == captures
    pair.decode(prompt[:-1], GenerationSpec(max_new_tokens=1), None, seed="0")
    assert target.captures == captures[0] + 1


class _Forgetful(GraphRunner):
    """A runner whose replays hold nothing of what was captured, as those of CUDA graphs."""

    def _capture(self, function: Callable[[], object]) -> Callable[[], object]:
        function()
        return lambda: None


def test_a_runner_that_is_dropped_frees_its_model_at_once() -> None:
    """Garbage that refers to itself would wait on a GPU that the next pair needs."""
    runner = started(_Forgetful(tiny_llama(seed=1)), 5)
    runner.extend(*TREE)
    runner.choose(GREEDY)
    runner.keep([0, 2, 5])
    model = weakref.ref(runner.model)
    gc.disable()
    try:
        del runner
        assert model() is None
    finally:
        gc.enable()


def test_only_so_many_graphs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ones used last; what was dropped is captured again, and decoding stays exact."""
    monkeypatch.setattr(cudagraph, "_MAX_GRAPHS", 2)
    runner = RecordedRunner(tiny_llama(seed=1))
    started(runner, 5)
    for tokens, captures in ((1, 1), (2, 2), (1, 2), (4, 3), (1, 3), (2, 4)):
        run(runner, [7] * tokens, [COMMITTED] * tokens)
        runner.keep([])
        assert runner.captures == captures
    generation = GenerationSpec(max_new_tokens=24)
    expected = decoder(TorchRunner, runner.model).decode(LONG_PROMPT, generation, None, seed="0")
    ours = decoder(RecordedRunner, runner.model, tiny_llama(seed=2))
    decoded = ours.decode(LONG_PROMPT, generation, POLICIES["full tree"], seed="0")
    assert decoded.token_ids == expected.token_ids


def test_where_not_all_fit_the_smallest_passes_are_ready_so_that_ar_captures_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cudagraph, "_MAX_GRAPHS", 4)
    runner = RecordedRunner(tiny_llama(seed=1))
    runner.reserve(100)
    runner.warm_up(range(1, 13), shortest=1, longest=100)
    assert runner.captures == 2 * 2 + 2  # passes of 1 and 2 tokens over 64 and 128 rows, and two moves
    run(runner, *TREE)  # one that was not captured takes the place of the largest one that was
    runner.keep([])
    captures = runner.captures
    generation = GenerationSpec(max_new_tokens=24)
    Decoder(runner, None, vocabulary=VOCABULARY, end_tokens=()).decode(
        LONG_PROMPT, generation, None, seed="0"
    )
    assert runner.captures == captures


@pytest.mark.parametrize("ask", ["choose, then top_k", "top_k", "logits", "nothing"])
def test_a_pass_runs_once_however_it_is_asked(ask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that is forgotten unasked does not run at all."""
    runner = started(RecordedRunner(tiny_llama(seed=1)), 5)
    runs: list[object] = []
    run = runner._run
    monkeypatch.setattr(runner, "_run", lambda *asked: runs.append(asked) or run(*asked))
    for kept in ([], [0, 2]):
        runs.clear()
        runner.extend(*TREE)
        rows_of(runner.cache)[..., 5:, :] = 0.5
        before = rows_of(runner.cache).clone()
        if ask == "choose, then top_k":
            runner.choose(GREEDY)
            runner.top_k(2, GREEDY, VOCABULARY)
        elif ask == "top_k":
            runner.top_k(2, GREEDY, VOCABULARY)
        elif ask == "logits":
            runner.logits()
        asked = rows_of(runner.cache).clone()
        assert torch.equal(asked, before) == (ask == "nothing")
        runner.keep(kept)
        assert len(runs) == (0 if ask == "nothing" and not kept else 1)
    eager = started(TorchRunner(runner.model), 5)
    eager.extend(*TREE)
    eager.keep([0, 2])
    torch.testing.assert_close(rows_of(runner.cache)[..., :7, :], rows_of(eager.cache)[..., :7, :])


@pytest.mark.parametrize("path", [[1], [0, 2], [3, 5, 7], [0, 1, 2, 9], range(3, 12), range(0, 20, 2)])
def test_accepted_rows_are_moved_together_by_a_graph(
    path: Sequence[int], make: Callable[[Any], GraphRunner]
) -> None:
    """Also rows whose places are sources too, and more than the smallest graph moves."""
    model = tiny_llama(seed=1).to("cuda" if torch.cuda.is_available() and make is GraphRunner else "cpu")
    eager, ours = TorchRunner(model), make(model)
    for runner in (eager, ours):
        runner.reserve(120)
        runner.prefill(LONG_PROMPT)
        for parents in ([COMMITTED] * 20, range(COMMITTED, 19)):  # the second one through the same graph
            run(runner, [(11 * index + 7) % VOCABULARY for index in range(20)], parents)
            runner.keep(path)
    assert list(ours._moves) == [8 if len(path) <= 8 else 16]
    kept = eager.length
    assert ours.length == kept == 50 + 2 * len(path)
    torch.testing.assert_close(rows_of(ours.cache)[..., :kept, :], rows_of(eager.cache)[..., :kept, :])


def test_a_size_first_seen_while_sampling_serves_greedy_choices_too(
    make: Callable[[Any], GraphRunner],
) -> None:
    """What the eager choice computes in inference mode is not what a graph writes."""
    model = tiny_llama(seed=1)
    sampling = Sampler(temperature=1.0, seed="3", vocabulary=VOCABULARY)
    eager, ours = started(TorchRunner(model), 50), started(make(model), 50)
    for sampler in (sampling, GREEDY):
        for runner in (eager, ours):
            runner.extend(*TREE)
        assert ours.choose(sampler) == eager.choose(sampler)
        for runner in (eager, ours):
            runner.keep([])


def test_a_pass_beyond_the_reserved_rows_is_refused() -> None:
    runner = started(GraphRunner(tiny_llama(seed=1)), 40)
    with pytest.raises(DecodingError, match="ends at row 65 of 64: reserve more"):
        runner.extend([7] * 25, [COMMITTED] * 25)


# ----------------------------------------------------------------------------------------------- on a GPU

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@needs_cuda
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("kind", SUPPORTED)
def test_graphs_on_a_gpu_emit_the_tokens_of_eager_ar(kind: str, temperature: float) -> None:
    """With a draft near its target, so that rows of accepted nodes are moved."""
    target = tiny_model(kind, seed=1).to("cuda")
    generation = GenerationSpec(max_new_tokens=24, temperature=temperature)
    eager, ours = decoder(TorchRunner, target), decoder(GraphRunner, target, near(target, noise=0.1))
    taken = 0
    for prompt in (LONG_PROMPT, (9,), LONG_PROMPT[:11]):
        expected = eager.decode(prompt, generation, None, seed="3").token_ids
        for policy in (None, *POLICIES.values()):
            decoded = ours.decode(prompt, generation, policy, seed="3")
            assert decoded.token_ids == expected
            taken += sum(played.accepted for played in decoded.rounds)
    assert taken > 0


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_graphs_on_a_gpu_pass_the_tree_self_test(dtype: torch.dtype) -> None:
    model = tiny_llama(seed=1).to("cuda", dtype)
    self_test(GraphRunner(model), plain_logits(model), "llama")
