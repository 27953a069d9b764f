"""Forward passes that are captured as CUDA graphs and replayed, so that the host launches no kernel of them.

A pass of N nodes over the first C rows of the cache is padded to one of few shapes. All that differs from
one pass to the next goes to the device in one copy: tokens, positions, the rows to write, and the attention
mask, a bit for every node and row. A graph holds that copy, the pass, the choice or top-k, and the copy of
its result to the host. Another one moves the accepted rows of a tree together. On other devices the same
functions are just called.

The passes of a small draft are so short that what the host does between them counts: so that is plain Python
over a few integers and bytes, where even a view of a tensor would take longer.

Memory: the graphs of a runner share one pool, which holds what the largest pass computes on its way, and
passes of one N share their logits, (N, vocabulary). A graph adds its inputs, 24 + C/8 bytes per node
(16 + C/8 for fused kernels, whose C is the whole cache), and what the driver keeps of its launches.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache

from dyna_eval.errors import CaptureError, DecodingError
from dyna_eval_workers.cache import PreallocatedCache
from dyna_eval_workers.memory import ran_out
from dyna_eval_workers.runner import TorchRunner
from dyna_eval_workers.sampling import Sampler

_ROWS = 256  # C is a multiple of it, and it is one of WORD
WORD = 64  # rows whose mask bits are in one integer
_TOP_KS = 8, 16, 32  # the k that graphs compute, of which a caller may take fewer; more are ranked after them
_MAX_GRAPHS = 128
_MIN_MOVED = 8  # rows that the smallest graph moves, padding included
_WARM_UPS = 2  # runs before a capture, in which libraries allocate and choose their kernels


class Window(Cache):  # type: ignore[misc]  # transformers is not typed
    """The first `size` rows of a cache; a pass writes those that a tensor names when it runs, (N,)."""

    def __init__(self, cache: PreallocatedCache, written: Tensor, size: int) -> None:
        super().__init__(layers=cache.layers)
        self.written, self.size = written, size

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = self.layers[layer_idx].keys, self.layers[layer_idx].values
        keys.index_copy_(-2, self.written, key_states)
        values.index_copy_(-2, self.written, value_states)
        return keys[:, :, : self.size], values[:, :, : self.size]


class _Kind(StrEnum):
    NONE = "none"
    CHOOSE = "choose"
    TOP_K = "top_k"


class _Query(NamedTuple):
    """What is asked about a pass, which its graph answers too; top-k is of the first `proposable` ids."""

    kind: _Kind
    proposable: int = 0
    k: int = 0


class _Shape(NamedTuple):
    """What a graph is captured for: nodes N, rows C, and a query."""

    nodes: int
    rows: int
    query: _Query


@dataclass(frozen=True, slots=True)
class _Captured:
    """Captured work over tensors at fixed addresses: the host fills `inputs`, runs it, and reads `answer`."""

    inputs: memoryview
    answer: NDArray[Any]
    run: Callable[[], object]
    between: tuple[Tensor, ...]
    """Tensors on the device that the graph uses, kept alive with it."""


@dataclass(slots=True)
class _Latest:
    """The latest pass: its sizes, the nodes that queries are about, and whether it has yet to be run."""

    nodes: int
    rows: int
    queried: slice
    packed: bytes
    deferred: bool = True


class GraphRunner(TorchRunner):
    """Runs a transformers model by replaying graphs; prompts run eagerly, and so do sampled choices here.

    A pass is deferred until it is queried, since one graph does both, with the copies to and from the host.
    The first pass of a shape captures its graph, and raises CaptureError where the model does not allow it. A
    graph lives until the cache grows, or `_MAX_GRAPHS` other passes were used since. The cache has a spare
    last row, which padding writes and nothing reads.
    """

    backend = "cudagraph"
    passes = "CUDA graphs"
    """Their name in messages, as in "CUDA graphs fail the self-test"."""
    _samples_in_graphs = False
    """Whether graphs answer queries where tokens are sampled too."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._graphs: OrderedDict[_Shape, _Captured] = OrderedDict()
        self._moves: dict[int, _Captured] = {}
        self._logits_of: dict[int, Tensor] = {}
        self._latest = _Latest(0, 0, slice(0), b"", deferred=False)
        bits = np.left_shift(np.uint64(1), np.arange(WORD, dtype=np.uint64)).view(np.int64)
        self._bits = torch.from_numpy(bits).to(self.device)
        self._capture_stream: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            self._capture_stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]  # torch's own

    def reserve(self, capacity: int) -> None:
        self._latest.deferred = False
        rows = _multiple(capacity, _ROWS) + 1
        if rows > self.cache.capacity:
            self._wait()  # a move may still read its inputs, which go with its graph
            self._graphs.clear()
            self._moves.clear()
        super().reserve(rows)

    def warm_up(
        self,
        nodes: Iterable[int],
        *,
        shortest: int,
        longest: int,
        greedy: bool = True,
        proposable: int | None = None,
        branch: int = 1,
    ) -> None:
        """Capture passes of `nodes` tokens whose cache ends between `shortest` and `longest`, and moves.

        With `proposable`, capture top-k over those ids with each pass, for `branch` of the best where graphs
        compute so many; otherwise the choice, sampled only where graphs can sample. Of more than
        `_MAX_GRAPHS` passes the smallest are captured: every method needs them.
        """
        query = _Query(_Kind.CHOOSE)
        if proposable is not None:
            query = _Query(_Kind.TOP_K, proposable, _enough(branch)[0])
        if not greedy and not self._samples_in_graphs:
            query = _Query(_Kind.NONE)
        lengths = sorted({self._rows_read(end) for end in range(shortest, longest + 1)})
        sizes = sorted({_padded(count) for count in nodes})
        for size in sizes:
            self._move_for(max(size, _MIN_MOVED))
        smallest = [(size, rows) for size in sizes for rows in lengths][:_MAX_GRAPHS]
        for size, rows in reversed(smallest):  # those used last are dropped last
            self._captured_for(_Shape(size, rows, query))

    def extend(self, tokens: Sequence[int], parents: Sequence[int], *, last_only: bool = False) -> None:
        self._run_deferred()
        count, first = len(tokens), len(self._uncommitted.positions)
        end = self.cache.written + count
        if end >= self.cache.capacity:
            raise DecodingError(f"a pass ends at row {end} of {self.cache.capacity - 1}: reserve more")
        self._uncommitted.add(parents, self.length)
        size, rows = _padded(count), self._rows_read(end)
        positions, seen = self._uncommitted.positions[first:], self._uncommitted.seen[first:]
        packed = self._pack(size, rows, tokens, positions, seen)
        self._latest = _Latest(size, rows, slice(count - 1 if last_only else 0, count), packed)
        self.cache.advance(count)

    def keep(self, rows: Sequence[int]) -> None:
        if len(rows) > 0:
            self._run_deferred()
        self._latest.deferred = False  # a pass that was never queried, and is now forgotten
        super().keep(rows)

    def choose(self, sampler: Sampler) -> list[int]:
        if sampler.temperature > 0 and not self._samples_in_graphs:
            self.logits()  # which `_logits` are from then on
            return super().choose(sampler)
        chosen: list[int] = self._answer(_Query(_Kind.CHOOSE), sampler).tolist()
        return chosen

    def top_k(
        self, branch: int, sampler: Sampler, proposable: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        if branch > _TOP_KS[-1] or (sampler.temperature > 0 and not self._samples_in_graphs):
            self.logits()
            return super().top_k(branch, sampler, proposable)
        best = self._answer(self._top_k_query(branch, proposable), sampler)
        return best[:, 0, :branch].tolist(), best[:, 1, :branch].view(np.float32).tolist()

    def _top_k_query(self, branch: int, proposable: int) -> _Query:
        """Return a query for the `branch` best, one that a graph of the latest pass answers, if there is."""
        nodes, rows = self._latest.nodes, self._latest.rows
        queries = [_Query(_Kind.TOP_K, proposable, k) for k in _enough(branch)]
        captured = (query for query in queries if _Shape(nodes, rows, query) in self._graphs)
        return next(captured, queries[0])

    def logits(self) -> Tensor:
        self._run_deferred()
        self._logits = self._logits_for(self._latest.nodes)[self._latest.queried]
        return self._logits

    def _run_deferred(self) -> None:
        """Run the latest pass if it is deferred, without a query.

        A graph of its size that answers some query is taken rather than captured anew.
        """
        if self._latest.deferred:
            nodes, rows = self._latest.nodes, self._latest.rows
            alike = (shape for shape in self._graphs if (shape.nodes, shape.rows) == (nodes, rows))
            self._run(next(alike, _Shape(nodes, rows, _Query(_Kind.NONE))).query)

    def _answer(self, query: _Query, sampler: Sampler) -> NDArray[Any]:
        """Return the answer to a query about the latest pass, for the nodes asked about, on the host."""
        self._latest.packed = self._with_sampler(self._latest.packed, sampler)
        answer = self._run(query) if self._latest.deferred else self._answer_afterwards(query)
        return answer[self._latest.queried]

    def _with_sampler(self, packed: bytes, sampler: Sampler) -> bytes:  # noqa: ARG002  # fused kernels read it
        """Return the inputs of a pass with how to choose its tokens, where the inputs say that."""
        return packed

    @torch.no_grad()
    def _answer_afterwards(self, query: _Query) -> NDArray[Any]:
        """Answer a query about all nodes of the latest pass, which has run already."""
        found = self._new_answer(self._latest.nodes, query)
        inputs = torch.tensor(np.frombuffer(self._latest.packed, dtype=np.int64), device=self.device)
        with nullcontext() if self._capture_stream is None else torch.cuda.device(self.device):
            self._answer_into(found, query, inputs)
        return found.cpu().numpy()

    def _run(self, query: _Query) -> NDArray[Any]:
        """Run the latest pass with a query, wait, and return the answer for all its nodes."""
        latest = self._latest
        latest.deferred = False
        captured = self._captured_for(_Shape(latest.nodes, latest.rows, query))
        captured.inputs[:] = latest.packed
        captured.run()
        self._wait()
        return captured.answer

    def _move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy rows without waiting: the next pass waits for it, before another move fills its inputs."""
        size = max(_padded(len(sources)), _MIN_MOVED)
        captured, length = self._move_for(size), self.length
        padding = [self.cache.capacity - 1] * (size - len(sources))
        rows = array("q", [length + row for row in sources])
        rows.extend(padding)
        rows.extend(length + row for row in targets)
        rows.extend(padding)
        captured.inputs[:] = rows.tobytes()
        captured.run()

    def _move_for(self, count: int) -> _Captured:
        """Return the move of so many rows; padding copies the spare row onto itself."""
        if count not in self._moves:
            self._moves[count] = self._build_move(count)
        return self._moves[count]

    def _wait(self) -> None:
        if self._capture_stream is not None:
            torch.cuda.current_stream(self.device).synchronize()

    def _rows_read(self, end: int) -> int:
        """Return the rows C of a pass whose last row is before `end`."""
        return _multiple(end, _ROWS)

    def _captured_for(self, shape: _Shape) -> _Captured:
        """Return the graph of a shape; a new one replaces the least recently used of too many."""
        if shape not in self._graphs:
            self._graphs[shape] = self._build_pass(*shape)
            if len(self._graphs) > _MAX_GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(shape)
        return self._graphs[shape]

    @torch.inference_mode(False)  # what that mode makes cannot be written outside of it
    @torch.no_grad()
    def _build_pass(self, nodes: int, rows: int, query: _Query) -> _Captured:
        """Capture a pass with a query, from packed inputs (at first padding) to the answer on the host."""
        padding = np.frombuffer(self._pack(nodes, rows, [], [], []), dtype=np.int64)
        staged = self._pinned(torch.tensor(padding))
        inputs = staged.to(self.device)
        found = self._new_answer(nodes, query)
        answer = self._pinned(torch.zeros_like(found, device="cpu"))
        forward = self._make_forward(nodes, rows, inputs, self._logits_for(nodes))

        def run() -> None:
            inputs.copy_(staged, non_blocking=True)
            forward()
            self._answer_into(found, query, inputs)
            answer.copy_(found, non_blocking=True)

        return _Captured(_bytes_of(staged), answer.numpy(), self._capture(run), (inputs, found))

    @torch.inference_mode(False)
    @torch.no_grad()
    def _build_move(self, count: int) -> _Captured:
        """Capture a move of rows; the inputs are (2 count,): sources, then targets."""
        staged = self._pinned(torch.full((2 * count,), self.cache.capacity - 1))
        inputs = staged.to(self.device)

        def run() -> None:
            inputs.copy_(staged, non_blocking=True)
            self.cache.move(inputs[:count], inputs[count:])

        return _Captured(_bytes_of(staged), np.zeros(0), self._capture(run), (inputs,))

    def _make_forward(self, nodes: int, rows: int, inputs: Tensor, logits: Tensor) -> Callable[[], object]:
        """Return a function that runs the model on packed inputs and writes logits, (nodes, V)."""
        tokens, positions, written = inputs[: 3 * nodes].view(3, 1, nodes)
        seen = inputs[3 * nodes :].view(nodes, rows // WORD, 1)
        window = Window(self.cache, written[0], rows)

        def forward() -> None:
            hidden = ((seen & self._bits) == 0).view(nodes, rows)
            mask = torch.zeros(1, 1, nodes, rows, dtype=self.dtype, device=self.device)
            output = self.model(
                input_ids=tokens,
                position_ids=positions,
                attention_mask=mask.masked_fill_(hidden, self._blocked),
                past_key_values=window,
                use_cache=True,
            )
            logits.copy_(output.logits[0])

        return forward

    def _new_answer(self, nodes: int, query: _Query) -> Tensor:
        """Allocate the answer to a query about all nodes.

        Chosen tokens are (nodes,); the k best tokens and the bits of their log-probabilities (nodes, 2, k);
        without a query it is empty.
        """
        if query.kind is _Kind.TOP_K:
            shape = nodes, 2, min(query.k, query.proposable)
            return torch.zeros(shape, dtype=torch.int32, device=self.device)
        return torch.zeros(nodes if query.kind is _Kind.CHOOSE else 0, dtype=torch.int64, device=self.device)

    def _answer_into(self, found: Tensor, query: _Query, inputs: Tensor) -> None:
        """Write the answer to a query about all nodes of a pass that has run on these inputs."""
        if query.kind is _Kind.CHOOSE:
            self._choose_into(found, self._logits_for(len(found)), inputs)
        elif query.kind is _Kind.TOP_K:
            self._top_k_into(found, self._logits_for(len(found))[:, : query.proposable], inputs)

    def _choose_into(
        self,
        tokens: Tensor,
        logits: Tensor,
        inputs: Tensor,  # noqa: ARG002  # fused kernels read them
    ) -> None:
        """Write the chosen token of every node, (nodes,)."""
        tokens.copy_(logits.argmax(dim=-1))

    def _top_k_into(
        self,
        found: Tensor,
        logits: Tensor,
        inputs: Tensor,  # noqa: ARG002  # fused kernels read them
    ) -> None:
        """Write the k best tokens of every node and the bits of their log-probabilities, (nodes, 2, k)."""
        best = logits.float().log_softmax(dim=-1).topk(found.shape[-1], dim=-1)
        found[:, 0] = best.indices
        found[:, 1] = best.values.view(torch.int32)

    def _logits_for(self, nodes: int) -> Tensor:
        if nodes not in self._logits_of:
            shape = nodes, self.vocabulary
            self._logits_of[nodes] = torch.zeros(shape, dtype=self.dtype, device=self.device)
        return self._logits_of[nodes]

    def _capture(self, function: Callable[[], object]) -> Callable[[], object]:
        """Return a replacement for a function over static tensors: on CUDA, the replay of its graph."""
        if self._capture_stream is None:
            return torch.no_grad()(function)
        if not (self._graphs or self._moves):  # a pool ends with its last graph: its handle is not used again
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self.device)
        self._capture_stream.wait_stream(current)
        try:
            # The outer stream context is left even where ending a failed capture raises inside the inner one.
            with torch.cuda.device(self.device), torch.cuda.stream(self._capture_stream):
                for _ in range(_WARM_UPS):
                    function()
                # So that they come from the graph's own memory: others may free those of the process.
                torch._C._cuda_clearCublasWorkspaces()
                with torch.cuda.graph(
                    graph, pool=self._pool, stream=self._capture_stream, capture_error_mode="thread_local"
                ):
                    function()
        except Exception as error:
            self._forget_capture()
            if not isinstance(error, RuntimeError) or ran_out(error):
                raise
            raise CaptureError(f"its passes cannot run or be captured: {error}") from error
        current.wait_stream(self._capture_stream)
        return graph.replay

    def _forget_capture(self) -> None:
        """End what torch leaves on where a capture fails: it would fail all later ones, and sampling."""
        index = self.device.index or 0
        with suppress(RuntimeError):
            torch.cuda.synchronize(self.device)  # a run that failed halfway may still write its tensors
        with suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(index, self._pool)
        self._pool = torch.cuda.graph_pool_handle()  # the old one may count as being recorded to
        generator = torch.cuda.default_generators[index]
        with suppress(RuntimeError):
            generator.graphsafe_set_state(generator.clone_state())  # or it draws for the capture

    def _pack(
        self, nodes: int, rows: int, tokens: Sequence[int], positions: Sequence[int], seen: Sequence[int]
    ) -> bytes:
        """Pack the inputs of a pass as int64: tokens, positions, rows to write, and the mask's bits.

        The first three are (nodes,); padding writes the spare row.
        """
        count, first = len(tokens), self.cache.written
        header = array("q", tokens)
        padding = [0] * (nodes - count)
        header.extend(padding)
        header.extend(positions)
        header.extend(padding)
        header.extend(range(first, first + count))
        header.extend([self.cache.capacity - 1] * (nodes - count))
        return header.tobytes() + bits_of(nodes, rows, self.length, seen)

    def _pinned(self, tensor: Tensor) -> Tensor:
        """Return a tensor in page-locked memory, which a device reads or writes while the host goes on.

        It has to be kept until that is done.
        """
        return tensor if self._capture_stream is None else tensor.pin_memory()


def bits_of(nodes: int, rows: int, committed: int, seen: Sequence[int]) -> bytes:
    """Return the attention mask, (nodes, rows), as one bit each, lowest first: 1 where the node sees the row.

    `seen` has an integer for every real node, whose bit r is for uncommitted row r. Padding sees row 0, which
    always holds numbers: the output of a node that sees nothing may be NaN.
    """
    size = rows // 8
    before = (1 << committed) - 1
    real = b"".join((before | bits << committed).to_bytes(size, "little") for bits in seen)
    return real + (1).to_bytes(size, "little") * (nodes - len(seen))


def _enough(branch: int) -> list[int]:
    """Return which k of the graphs are enough for so many of the best tokens, ascending; all if none is."""
    return [k for k in _TOP_KS if branch <= k] or list(_TOP_KS)


def _bytes_of(tensor: Tensor) -> memoryview:
    """Return the memory of a tensor on the host."""
    return tensor.numpy().data.cast("B")


def _padded(count: int) -> int:
    """Return the size of a pass that has room for so many nodes: 1, 2, 4, 8, 16, 24, 32, 48, 64, 96, ..."""
    power = 1 << (count - 1).bit_length()
    return power * 3 // 4 if power > 16 and count <= power * 3 // 4 else power


def _multiple(count: int, unit: int) -> int:
    """Return the smallest multiple of a unit that is at least a count."""
    return -(-count // unit) * unit
