"""Forward passes that are captured as CUDA graphs and replayed, so that the host launches no kernel of them.

A pass of N nodes over the first C rows of the cache is padded to one of few shapes. All that differs from
one pass to the next goes to the device in one copy: tokens, positions, the rows to write, and a bit for
every node and row that it sees, of which the mask is made there. On other devices the same functions are
just called.

Memory: the graphs of a runner share one pool, which holds what the largest pass computes on its way, and
passes of one N share their logits, (N, vocabulary). A graph adds its inputs, 24 + C/8 bytes per node, and
what the driver keeps of its launches.

Tried on a CPU alone, where recorded operations are replayed: on a GPU it was neither run nor measured.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache

from dyna_eval.errors import DecodingError
from dyna_eval_workers.cache import PreallocatedCache
from dyna_eval_workers.runner import TorchRunner
from dyna_eval_workers.sampling import Chooser

_ROWS = 256  # C is a multiple of it, and it is one of _WORD
_WORD = 64  # rows whose bits stand in one integer
_BRANCH = 8  # proposals that a graph ranks
_MOST_GRAPHS = 64
_WARM_UPS = 2  # runs before a capture, in which libraries allocate and choose their kernels


class CaptureError(DecodingError):
    """The passes of a model cannot be captured, say because the host decides inside; the text says why."""


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


@dataclass(frozen=True, slots=True)
class _Static:
    """Work between tensors at fixed addresses."""

    inputs: Tensor
    outputs: Tensor
    run: Callable[[], object]


class GraphRunner(TorchRunner):
    """Runs a transformers model by replaying graphs; prompts and sampling run eagerly.

    The first pass of a shape captures its graph, and raises CaptureError where the model does not allow it. A
    graph lives until the cache grows, or `_MOST_GRAPHS` others were used since. The cache has a spare last
    row, which padding writes and nothing reads.
    """

    backend = "cudagraph"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._kept: OrderedDict[tuple[str, tuple[int, ...]], _Static] = OrderedDict()
        self._logits_of: dict[int, Tensor] = {}
        self._latest = (0, slice(0))  # the padded size of the latest pass, and the nodes that are asked about
        bits = np.left_shift(np.uint64(1), np.arange(_WORD, dtype=np.uint64)).view(np.int64)
        self._bits = torch.from_numpy(bits).to(self.device)
        self._side: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            self._side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]  # torch's own

    def reserve(self, capacity: int) -> None:
        rows = _multiple(capacity, _ROWS) + 1
        if rows > self.cache.capacity:
            self._kept.clear()
        super().reserve(rows)

    @torch.inference_mode()
    def warm_up(
        self, nodes: Iterable[int], *, shortest: int, longest: int, proposable: int | None = None
    ) -> None:
        """Capture the passes of these sizes that end at `shortest` to `longest` rows of the reserved ones.

        With them what follows when greedy: `rank` under `proposable`, or where that is None `choose`. Of more
        than `_MOST_GRAPHS` only the last stay: the largest sizes.
        """
        for size in sorted({_padded(count) for count in nodes}):
            for rows in range(_multiple(shortest, _ROWS), _multiple(longest, _ROWS) + 1, _ROWS):
                self._static(self._pass, size, rows)
            if proposable is None:
                self._static(self._choice, size)
            else:
                self._static(self._ranking, size, proposable)

    @torch.inference_mode()
    def extend(self, tokens: Sequence[int], parents: Sequence[int], *, last_only: bool = False) -> None:
        count, first = len(tokens), len(self._written.positions)
        end = self.cache.written + count
        if end >= self.cache.capacity:
            raise DecodingError(f"a pass ends at row {end} of {self.cache.capacity - 1}: reserve more")
        self._written.add(parents, self.length)
        size, rows = _padded(count), _multiple(end, _ROWS)
        step = self._static(self._pass, size, rows)
        header = self._header(size, tokens, self._written.positions[first:])
        packed = np.concatenate([header, _bits(size, rows, self.length, self._written.seen(first))])
        step.inputs.copy_(self._pinned(packed), non_blocking=True)
        step.run()
        self.cache.advance(count)
        self._latest = size, slice(count - 1 if last_only else 0, count)
        self._logits = step.outputs[self._latest[1]]

    @torch.inference_mode()
    def choose(self, chooser: Chooser) -> list[int]:
        if chooser.temperature > 0:
            return super().choose(chooser)
        size, asked = self._latest
        choice = self._static(self._choice, size)
        choice.run()
        chosen: list[int] = choice.outputs[asked].tolist()
        return chosen

    @torch.inference_mode()
    def rank(
        self, branch: int, chooser: Chooser, proposable: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        if chooser.temperature > 0 or branch > _BRANCH:
            return super().rank(branch, chooser, proposable)
        size, asked = self._latest
        ranking = self._static(self._ranking, size, proposable)
        ranking.run()
        best = ranking.outputs[asked].cpu()[..., :branch]
        return best[:, 0].tolist(), best[:, 1].view(torch.float32).tolist()

    def _static(self, build: Callable[..., _Static], *sizes: int) -> _Static:
        """Return what was built for these sizes; what was unused for longest makes room for what is new."""
        key = build.__name__, sizes
        if key not in self._kept:
            self._kept[key] = build(*sizes)
            if len(self._kept) > _MOST_GRAPHS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _pass(self, nodes: int, rows: int) -> _Static:
        """Return a forward pass from its packed inputs, as yet of padding alone, to logits, (nodes, V)."""
        nobody = np.zeros((0, 0), dtype=np.bool_)
        packed = np.concatenate([self._header(nodes, [], []), _bits(nodes, rows, 0, nobody)])
        inputs = torch.from_numpy(packed).to(self.device)
        tokens, positions, written = inputs[: 3 * nodes].view(3, 1, nodes)
        seen = inputs[3 * nodes :].view(nodes, rows // _WORD, 1)
        window = Window(self.cache, written[0], rows)
        logits = self._logits_for(nodes)

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

        return _Static(inputs, logits, self._captured(forward))

    def _choice(self, nodes: int) -> _Static:
        """Return the step from logits to the best token of every node, (nodes,)."""
        logits = self._logits_for(nodes)
        tokens = torch.zeros(nodes, dtype=torch.int64, device=self.device)
        return _Static(logits, tokens, self._captured(lambda: tokens.copy_(logits.argmax(dim=-1))))

    def _ranking(self, nodes: int, proposable: int) -> _Static:
        """Return the step from logits to the best tokens and the bits of their log-probabilities.

        They come in one tensor, (nodes, 2, branch), so that they are one copy to the host.
        """
        logits = self._logits_for(nodes)
        branch = min(_BRANCH, proposable)
        packed = torch.zeros(nodes, 2, branch, dtype=torch.int32, device=self.device)

        def rank() -> None:
            best = logits[:, :proposable].float().log_softmax(dim=-1).topk(branch, dim=-1)
            packed[:, 0] = best.indices
            packed[:, 1] = best.values.view(torch.int32)

        return _Static(logits, packed, self._captured(rank))

    def _logits_for(self, nodes: int) -> Tensor:
        if nodes not in self._logits_of:
            shape = nodes, self.vocabulary
            self._logits_of[nodes] = torch.zeros(shape, dtype=self.dtype, device=self.device)
        return self._logits_of[nodes]

    def _captured(self, function: Callable[[], object]) -> Callable[[], object]:
        """Return what does the same as a function over static tensors: on CUDA, the replay of its graph."""
        if self._side is None:
            return function
        if not self._kept:  # a pool ends with its last graph, and its handle is not to be used again
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self.device)
        self._side.wait_stream(current)
        try:
            # The outer stream context is left even where ending a failed capture raises inside the inner one.
            with torch.cuda.device(self.device), torch.cuda.stream(self._side):
                for _ in range(_WARM_UPS):
                    function()
                with torch.cuda.graph(
                    graph, pool=self._pool, stream=self._side, capture_error_mode="thread_local"
                ):
                    function()
        except RuntimeError as error:
            raise CaptureError(f"cannot be captured as a CUDA graph: {error}") from error
        current.wait_stream(self._side)
        return graph.replay

    def _on_device(self, array: NDArray[np.int64]) -> Tensor:
        return self._pinned(array).to(self.device, non_blocking=True)

    def _header(self, nodes: int, tokens: Sequence[int], positions: Sequence[int]) -> NDArray[np.int64]:
        """Return tokens, positions and the rows to write, (3 * nodes,); padding writes the spare row."""
        count, first = len(tokens), self.cache.written
        header = np.zeros((3, nodes), dtype=np.int64)
        header[0, :count], header[1, :count] = tokens, positions
        header[2] = self.cache.capacity - 1
        header[2, :count] = range(first, first + count)
        return header.ravel()

    def _pinned(self, array: NDArray[np.int64]) -> Tensor:
        """Return an array in memory that a copy may still read after it is freed: torch waits to reuse it."""
        tensor = torch.from_numpy(array)
        return tensor if self._side is None else tensor.pin_memory()


def _bits(nodes: int, rows: int, committed: int, seen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return a bit for every node and row that it sees, flat; `seen` is (real nodes, written rows).

    Padding sees row 0, which always holds numbers: a node that sees nothing may become NaN.
    """
    count, written = seen.shape
    whole, part = divmod(committed, _WORD)
    tail = np.zeros((count, _multiple(part + written, _WORD)), dtype=np.bool_)
    tail[:, :part] = True
    tail[:, part : part + written] = seen
    words = np.packbits(tail, axis=1, bitorder="little").view("<i8")
    bits = np.zeros((nodes, rows // _WORD), dtype=np.int64)
    bits[count:, 0] = 1
    bits[:count, :whole] = -1
    bits[:count, whole : whole + words.shape[1]] = words
    return bits.ravel()


def _padded(count: int) -> int:
    """Return the size of a pass that has room for so many nodes: 1, 2, 4, 8, 16, 24, 32, 48, 64, 96, ..."""
    power = 1 << (count - 1).bit_length()
    return power * 3 // 4 if power > 16 and count <= power * 3 // 4 else power


def _multiple(count: int, unit: int) -> int:
    """Return the smallest multiple of a unit that is at least a count."""
    return -(-count // unit) * unit
