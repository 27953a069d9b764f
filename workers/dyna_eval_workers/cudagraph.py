"""Forward passes that are captured as CUDA graphs and replayed, so that the host launches no kernel of them.

A pass of N nodes over the first C rows of the cache is padded to one of few shapes. All that differs from
one pass to the next goes to the device in one copy: tokens, positions, the rows to write, and a bit for
every node and row that it sees, of which the mask is made there. A graph does that copy, the pass, what is
asked about it, and the copy of the answer. Another one moves the accepted rows of a tree together. On other
devices the same functions are just called.

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
WORD = 64  # rows whose bits stand in one integer
_BRANCH = 8  # proposals that a graph ranks
_MOST_GRAPHS = 128
_FEWEST_MOVED = 8  # rows that a graph moves, padding among them
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


class _Tail(StrEnum):
    """What a graph does behind its pass."""

    NOTHING = "nothing"
    CHOOSE = "choose"
    RANK = "rank"


class _Shape(NamedTuple):
    """What a graph is captured for: so many nodes and rows, and what is asked of how many tokens."""

    nodes: int
    rows: int
    tail: _Tail
    proposable: int


@dataclass(frozen=True, slots=True)
class _Static:
    """Work between tensors at fixed addresses: the host fills `inputs`, runs it, and reads `answer`."""

    inputs: memoryview
    answer: NDArray[Any]
    run: Callable[[], object]
    between: tuple[Tensor, ...]
    """What lies on the device, whose memory nobody else may have meanwhile."""


@dataclass(slots=True)
class _Latest:
    """The latest pass: its sizes, the nodes that are asked about, and whether it is still to be run."""

    nodes: int
    rows: int
    asked: slice
    packed: bytes
    waits: bool = True


class GraphRunner(TorchRunner):
    """Runs a transformers model by replaying graphs; prompts run eagerly, and so do sampled choices here.

    A pass waits for what is asked about it, since one graph does both, with the copies to and from the host.
    The first pass of a shape captures its graph, and raises CaptureError where the model does not allow it. A
    graph lives until the cache grows, or `_MOST_GRAPHS` other passes were used since. The cache has a spare
    last row, which padding writes and nothing reads.
    """

    backend = "cudagraph"
    passes = "CUDA graphs"
    """What a reason calls them, as in: they fail the self-test."""
    _samples_in_graphs = False
    """Whether graphs answer where tokens are sampled too."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._kept: OrderedDict[_Shape, _Static] = OrderedDict()
        self._moves: dict[int, _Static] = {}
        self._logits_of: dict[int, Tensor] = {}
        self._latest = _Latest(0, 0, slice(0), b"", waits=False)
        bits = np.left_shift(np.uint64(1), np.arange(WORD, dtype=np.uint64)).view(np.int64)
        self._bits = torch.from_numpy(bits).to(self.device)
        self._side: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            self._side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]  # torch's own

    def reserve(self, capacity: int) -> None:
        self._latest.waits = False
        rows = _multiple(capacity, _ROWS) + 1
        if rows > self.cache.capacity:
            self._wait()  # a move may still read its inputs, which go with its graph
            self._kept.clear()
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
    ) -> None:
        """Capture passes of `nodes` tokens whose cache ends between `shortest` and `longest`, and moves.

        With `proposable`, capture top-k over those ids with each pass; otherwise the choice, sampled only
        where graphs can sample. Of more than `_MOST_GRAPHS` passes the smallest are captured: every method
        needs them.
        """
        tail = _Tail.CHOOSE if proposable is None else _Tail.RANK
        if not greedy and not self._samples_in_graphs:
            tail = _Tail.NOTHING
        lengths = sorted({self._rows_read(end) for end in range(shortest, longest + 1)})
        sizes = sorted({_padded(count) for count in nodes})
        for size in sizes:
            self._move_of(max(size, _FEWEST_MOVED))
        smallest = [(size, rows) for size in sizes for rows in lengths][:_MOST_GRAPHS]
        for size, rows in reversed(smallest):  # those used last are dropped last
            self._static(size, rows, tail, proposable if tail is _Tail.RANK and proposable else 0)

    def extend(self, tokens: Sequence[int], parents: Sequence[int], *, last_only: bool = False) -> None:
        self._catch_up()
        count, first = len(tokens), len(self._written.positions)
        end = self.cache.written + count
        if end >= self.cache.capacity:
            raise DecodingError(f"a pass ends at row {end} of {self.cache.capacity - 1}: reserve more")
        self._written.add(parents, self.length)
        size, rows = _padded(count), self._rows_read(end)
        positions, seen = self._written.positions[first:], self._written.seen[first:]
        packed = self._packed(size, rows, tokens, positions, seen)
        self._latest = _Latest(size, rows, slice(count - 1 if last_only else 0, count), packed)
        self.cache.advance(count)

    def keep(self, rows: Sequence[int]) -> None:
        if len(rows) > 0:
            self._catch_up()
        self._latest.waits = False  # of a pass that is forgotten nothing was asked
        super().keep(rows)

    def choose(self, sampler: Sampler) -> list[int]:
        if sampler.temperature > 0 and not self._samples_in_graphs:
            self.logits()  # which `_logits` are from then on
            return super().choose(sampler)
        chosen: list[int] = self._asked(_Tail.CHOOSE, sampler).tolist()
        return chosen

    def rank(
        self, branch: int, sampler: Sampler, proposable: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        if branch > _BRANCH or (sampler.temperature > 0 and not self._samples_in_graphs):
            self.logits()
            return super().rank(branch, sampler, proposable)
        best = self._asked(_Tail.RANK, sampler, proposable)
        return best[:, 0, :branch].tolist(), best[:, 1, :branch].view(np.float32).tolist()

    def logits(self) -> Tensor:
        self._catch_up()
        self._logits = self._logits_for(self._latest.nodes)[self._latest.asked]
        return self._logits

    def _catch_up(self) -> None:
        """Run the latest pass if it waits, as nothing is asked about it that a graph could answer.

        A graph of its size that answers a question does as well as another one, which had to be captured.
        """
        if self._latest.waits:
            nodes, rows = self._latest.nodes, self._latest.rows
            alike = (shape for shape in self._kept if (shape.nodes, shape.rows) == (nodes, rows))
            shape = next(alike, _Shape(nodes, rows, _Tail.NOTHING, 0))
            self._run(shape.tail, shape.proposable)

    def _asked(self, tail: _Tail, sampler: Sampler, proposable: int = 0) -> NDArray[Any]:
        """Return the answer about the nodes that are asked about, on the host."""
        self._latest.packed = self._with_sampler(self._latest.packed, sampler)
        answer = self._run(tail, proposable) if self._latest.waits else self._asked_late(tail, proposable)
        return answer[self._latest.asked]

    def _with_sampler(self, packed: bytes, sampler: Sampler) -> bytes:  # noqa: ARG002  # fused kernels read it
        """Return the inputs of a pass with how to choose its tokens, where the inputs say that."""
        return packed

    @torch.no_grad()
    def _asked_late(self, tail: _Tail, proposable: int) -> NDArray[Any]:
        """Return the answer about all nodes of the latest pass, which ran before it was asked."""
        found = self._room_for(self._latest.nodes, tail, proposable)
        inputs = torch.tensor(np.frombuffer(self._latest.packed, dtype=np.int64), device=self.device)
        with nullcontext() if self._side is None else torch.cuda.device(self.device):
            self._find(found, tail, proposable, inputs)
        return found.cpu().numpy()

    def _run(self, tail: _Tail, proposable: int) -> NDArray[Any]:
        """Run the latest pass and what stands behind it, and wait; return the answer about all its nodes."""
        latest = self._latest
        latest.waits = False
        step = self._static(latest.nodes, latest.rows, tail, proposable)
        step.inputs[:] = latest.packed
        step.run()
        self._wait()
        return step.answer

    def _move(self, sources: Sequence[int], places: Sequence[int]) -> None:
        """Copy rows without waiting: the next pass waits for it, before another move fills its inputs."""
        size = max(_padded(len(sources)), _FEWEST_MOVED)
        step, length = self._move_of(size), self.length
        padding = [self.cache.capacity - 1] * (size - len(sources))
        rows = array("q", [length + row for row in sources])
        rows.extend(padding)
        rows.extend(length + row for row in places)
        rows.extend(padding)
        step.inputs[:] = rows.tobytes()
        step.run()

    def _move_of(self, count: int) -> _Static:
        """Return what copies so many rows, padding among them, which copies the spare row onto itself."""
        if count not in self._moves:
            self._moves[count] = self._built_move(count)
        return self._moves[count]

    def _wait(self) -> None:
        if self._side is not None:
            torch.cuda.current_stream(self.device).synchronize()

    def _rows_read(self, end: int) -> int:
        """Return how many rows a pass that ends at `end` is built for."""
        return _multiple(end, _ROWS)

    def _static(self, nodes: int, rows: int, tail: _Tail, proposable: int) -> _Static:
        """Return what was built for these sizes; what was unused for longest makes room for what is new."""
        shape = _Shape(nodes, rows, tail, proposable)
        if shape not in self._kept:
            self._kept[shape] = self._built(*shape)
            if len(self._kept) > _MOST_GRAPHS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(shape)
        return self._kept[shape]

    @torch.inference_mode(False)  # what that mode makes cannot be written outside of it
    @torch.no_grad()
    def _built(self, nodes: int, rows: int, tail: _Tail, proposable: int) -> _Static:
        """Return a pass from its packed inputs, as yet of padding alone, to its answer, both on the host."""
        padding = np.frombuffer(self._packed(nodes, rows, [], [], []), dtype=np.int64)
        staged = self._pinned(torch.tensor(padding))
        inputs = staged.to(self.device)
        found = self._room_for(nodes, tail, proposable)
        answer = self._pinned(torch.zeros_like(found, device="cpu"))
        forward = self._pass(nodes, rows, inputs, self._logits_for(nodes))

        def run() -> None:
            inputs.copy_(staged, non_blocking=True)
            forward()
            self._find(found, tail, proposable, inputs)
            answer.copy_(found, non_blocking=True)

        return _Static(_bytes_of(staged), answer.numpy(), self._captured(run), (inputs, found))

    @torch.inference_mode(False)
    @torch.no_grad()
    def _built_move(self, count: int) -> _Static:
        """Return what copies rows: its inputs are their numbers, and those of their places."""
        staged = self._pinned(torch.full((2 * count,), self.cache.capacity - 1))
        inputs = staged.to(self.device)

        def run() -> None:
            inputs.copy_(staged, non_blocking=True)
            self.cache.move(inputs[:count], inputs[count:])

        return _Static(_bytes_of(staged), np.zeros(0), self._captured(run), (inputs,))

    def _pass(self, nodes: int, rows: int, inputs: Tensor, logits: Tensor) -> Callable[[], object]:
        """Return a forward pass from packed inputs to logits, (nodes, V)."""
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

    def _room_for(self, nodes: int, tail: _Tail, proposable: int) -> Tensor:
        """Return a tensor for the answer about all nodes.

        It is the best token of each, (nodes,), or its best tokens and the bits of their log-probabilities,
        (nodes, 2, branch), or nothing.
        """
        if tail is _Tail.RANK:
            shape: tuple[int, ...] = nodes, 2, min(_BRANCH, proposable)
            return torch.zeros(shape, dtype=torch.int32, device=self.device)
        return torch.zeros(nodes if tail is _Tail.CHOOSE else 0, dtype=torch.int64, device=self.device)

    def _find(self, found: Tensor, tail: _Tail, proposable: int, inputs: Tensor) -> None:
        """Write the answer about all nodes of a pass that was run over such inputs."""
        if tail is _Tail.CHOOSE:
            self._choose_into(found, self._logits_for(len(found)), inputs)
        elif tail is _Tail.RANK:
            self._rank_into(found, self._logits_for(len(found))[:, :proposable], inputs)

    def _choose_into(
        self,
        tokens: Tensor,
        logits: Tensor,
        inputs: Tensor,  # noqa: ARG002  # fused kernels read them
    ) -> None:
        """Write the best token of every node, (nodes,)."""
        tokens.copy_(logits.argmax(dim=-1))

    def _rank_into(
        self,
        found: Tensor,
        logits: Tensor,
        inputs: Tensor,  # noqa: ARG002  # fused kernels read them
    ) -> None:
        """Write the best tokens of every node and the bits of their log-probabilities, (nodes, 2, branch)."""
        best = logits.float().log_softmax(dim=-1).topk(found.shape[-1], dim=-1)
        found[:, 0] = best.indices
        found[:, 1] = best.values.view(torch.int32)

    def _logits_for(self, nodes: int) -> Tensor:
        if nodes not in self._logits_of:
            shape = nodes, self.vocabulary
            self._logits_of[nodes] = torch.zeros(shape, dtype=self.dtype, device=self.device)
        return self._logits_of[nodes]

    def _captured(self, function: Callable[[], object]) -> Callable[[], object]:
        """Return what does the same as a function over static tensors: on CUDA, the replay of its graph."""
        if self._side is None:
            return torch.no_grad()(function)
        if not (self._kept or self._moves):  # a pool ends with its last graph: its handle is not used again
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self.device)
        self._side.wait_stream(current)
        try:
            # The outer stream context is left even where ending a failed capture raises inside the inner one.
            with torch.cuda.device(self.device), torch.cuda.stream(self._side):
                for _ in range(_WARM_UPS):
                    function()
                # So that they come from the graph's own memory: others may free those of the process.
                torch._C._cuda_clearCublasWorkspaces()
                with torch.cuda.graph(
                    graph, pool=self._pool, stream=self._side, capture_error_mode="thread_local"
                ):
                    function()
        except Exception as error:
            self._forget_capture()
            if not isinstance(error, RuntimeError) or ran_out(error):
                raise
            raise CaptureError(f"its passes cannot run or be captured: {error}") from error
        current.wait_stream(self._side)
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

    def _packed(
        self, nodes: int, rows: int, tokens: Sequence[int], positions: Sequence[int], seen: Sequence[int]
    ) -> bytes:
        """Return what a pass reads: tokens, positions, rows to write, and the bits of the rows that are seen.

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
        return tensor if self._side is None else tensor.pin_memory()


def bits_of(nodes: int, rows: int, committed: int, seen: Sequence[int]) -> bytes:
    """Return one bit for every node and row of the cache: whether the node sees the row, lowest bit first.

    `seen` has an integer for every real node, whose bit r stands for row r behind the committed ones. Padding
    sees row 0, which always holds numbers: a node that sees nothing may become NaN.
    """
    size = rows // 8
    before = (1 << committed) - 1
    real = b"".join((before | bits << committed).to_bytes(size, "little") for bits in seen)
    return real + (1).to_bytes(size, "little") * (nodes - len(seen))


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
