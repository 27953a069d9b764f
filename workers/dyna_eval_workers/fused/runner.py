"""A runner whose forward passes are the kernels of `kernels.py`, captured as CUDA graphs."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from struct import pack
from subprocess import SubprocessError
from typing import Any

import torch
from torch import Tensor

from dyna_eval.errors import NoKernelsError, UnsupportedModelError, first_line
from dyna_eval_workers.cudagraph import WORD, GraphRunner, bits_of
from dyna_eval_workers.families import stack_of
from dyna_eval_workers.runner import COMMITTED
from dyna_eval_workers.sampling import Sampler
from dyna_eval_workers.stack import (
    Activation,
    Block,
    Residual,
    Stack,
    is_rms,
    rotary_size,
    rotary_tables,
)

# Found on an H200, for models of 70 M to 2.8 B parameters.
_MIN_PROGRAMS = 80  # split-K programs per product, so that all SMs read weights
_MIN_SPLIT_INPUTS = 512  # inputs per split-K program
_TOP_K_BLOCK = 2048  # logits that a program ranks
_BLOCK_ROWS = 64  # rows of the cache that a program of `attend` takes at once, of numbers of 16 bits
_MAX_ATTEND_SPLITS = 8  # programs of `attend` that share the cache of a key/value head
_MAX_ATTEND_PROGRAMS = 128  # programs of `attend` for all key/value heads together
_ATTEND_SLOTS = 16  # query heads times nodes that a program of `attend` takes
_ATTEND_WARPS = 8  # warps of a program of `attend`
_PREFILL_TOKENS = 64  # tokens of a prompt in one pass
_COUNTERS = 1 << 16  # groups of programs that reduce partial sums, at most
_SAMPLING_WORDS = 2  # integers of a pass's inputs that say how its tokens are chosen
_GREEDY = bytes(8 * _SAMPLING_WORDS)  # temperature 0, for which no key is needed
_COMPILED = {"enable_fp_fusion": True}  # a * b + c is rounded once: the default depends on Triton's version


@dataclass(frozen=True, slots=True)
class _Tile:
    """What a program of `multiply` takes at once, and how it is run.

    The order of each sum, and so `inputs`, is one for all numbers of nodes.
    """

    nodes: int
    outputs: int
    inputs: int
    warps: int
    stages: int


_TILES = (_Tile(16, 64, 128, 4, 4), _Tile(32, 64, 128, 4, 4), _Tile(64, 64, 128, 4, 3))
"""For numbers of 16 bits, by the most nodes; the last one is repeated for more."""
_WIDE_TILE = _Tile(16, 64, 64, 4, 4)
"""For float32, of which no larger one fits into the registers."""


def _tile_for(nodes: int, dtype: torch.dtype, *, gated: bool) -> _Tile:
    """Return the tile for a number of nodes; a gated one has room for the outputs of both halves."""
    tile = _WIDE_TILE
    if dtype.itemsize == 2:
        tile = next((tile for tile in _TILES if nodes <= tile.nodes), _TILES[-1])
    return replace(tile, outputs=tile.outputs // 2) if gated else tile


@dataclass(frozen=True, slots=True)
class _Matrix:
    """A linear layer of (outputs, inputs) weights, whose inputs are split among some programs."""

    weight: Tensor
    bias: Tensor | None
    outputs: int
    inputs: int
    splits: int


@dataclass(frozen=True, slots=True)
class _Layer:
    block: Block
    qkv: _Matrix
    out: _Matrix
    up: _Matrix
    down: _Matrix


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What a pass reads, on the device: see `FusedRunner._pack`."""

    nodes: int
    span: Tensor
    tokens: Tensor
    positions: Tensor
    bits: Tensor
    sampling: Tensor

    @classmethod
    def of(cls, packed: Tensor, nodes: int) -> _Inputs:
        """Return the parts of what `FusedRunner._pack` packed."""
        padded = _even(nodes)
        bits = len(packed) - 2 - 2 * padded - _SAMPLING_WORDS
        return cls(nodes, *torch.split(packed, [2, padded, padded, bits, _SAMPLING_WORDS]))


class FusedRunner(GraphRunner):
    """Runs a model of a known family on a GPU; raises NoKernelsError or UnsupportedModelError if it cannot.

    Prompts run through the same passes, so that a token's logits do not depend on what of it was the prompt.
    Where tokens are sampled, the noise is computed on the device.
    Activations have buffers of their own, which passes of the same number of nodes share.
    """

    backend = "cudagraph, fused kernels"
    passes = "the kernels"
    """Their name in messages, as in "the kernels fail the self-test"."""
    _samples_in_graphs = True

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        try:
            from dyna_eval_workers.fused import kernels  # noqa: PLC0415  # not every system has Triton
        except (ImportError, OSError, AssertionError) as error:  # it looks for the driver's library
            raise NoKernelsError(f"there is no Triton that works ({first_line(error)})") from error
        self._kernels = kernels
        self._stack = stack = stack_of(model)
        _check(stack)
        self._tables: tuple[Tensor, Tensor] | None = None
        self._layers = [
            _Layer(
                block,
                qkv=_matrix(*block.qkv),
                out=_matrix(*block.out),
                up=_matrix(*block.up, halves=2 if stack.gated else 1),
                down=_matrix(*block.down),
            )
            for block in stack.blocks
        ]
        self._head = _matrix(*stack.head)
        self._side_stream: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            self._side_stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]  # torch's own
        self._buffers: dict[tuple[str, tuple[int, ...], torch.dtype], Tensor] = {}
        self._main_counters, self._side_counters = (
            torch.zeros(_COUNTERS, dtype=torch.int32, device=self.device) for _ in range(2)
        )
        self._counters = self._main_counters

    def reserve(self, capacity: int) -> None:
        before = self.cache.capacity
        super().reserve(capacity)
        if self.cache.capacity != before:
            self._tables = rotary_tables(self._stack.rotary, self.cache.capacity, self.device)

    def prefill(self, tokens: Sequence[int]) -> None:
        for start in range(0, len(tokens), _PREFILL_TOKENS):
            part = tokens[start : start + _PREFILL_TOKENS]
            self.extend(part, range(COMMITTED, len(part) - 1), last_only=True)
            self.keep(range(len(part)))

    def _rows_read(self, end: int) -> int:  # noqa: ARG002
        """Return all rows: one graph serves all lengths, and reads from its inputs where the cache ends."""
        return self.cache.capacity - 1

    def _pack(
        self, nodes: int, rows: int, tokens: Sequence[int], positions: Sequence[int], seen: Sequence[int]
    ) -> bytes:
        """Pack the inputs of a pass as int64.

        In this order: the first row that it writes, and the one after its last; tokens and positions, padded
        to an even number of nodes; the mask bits; the sampler, at first a greedy one: the float32 bits of the
        temperature, and the key of the noise.
        """
        count, first = len(tokens), self.cache.written
        padding = [0] * (_even(nodes) - count)
        header = array("q", [first, first + count, *tokens, *padding, *positions, *padding])
        return header.tobytes() + bits_of(nodes, rows, self.length, seen) + _GREEDY

    def _with_sampler(self, packed: bytes, sampler: Sampler) -> bytes:
        return packed[: -len(_GREEDY)] + pack("<fiQ", sampler.temperature, 0, sampler.key)

    def _make_forward(
        self,
        nodes: int,
        rows: int,  # noqa: ARG002
        inputs: Tensor,
        logits: Tensor,
    ) -> Callable[[], object]:
        return partial(self._forward, _Inputs.of(inputs, nodes), logits)

    def _choose_into(self, tokens: Tensor, logits: Tensor, inputs: Tensor) -> None:
        best = self._buffer("best", len(logits), 2, 1, dtype=torch.int32)
        self._top_k_into(best, logits, inputs)
        tokens.copy_(best[:, 0, 0])

    def _top_k_into(self, found: Tensor, logits: Tensor, inputs: Tensor) -> None:
        nodes, proposable = logits.shape
        own = _Inputs.of(inputs, nodes)
        branch = found.shape[-1]
        parts = ceil(proposable / _TOP_K_BLOCK)
        values = self._buffer("values", nodes, parts, branch + 2, dtype=torch.float32)
        tokens = self._buffer("tokens", nodes, parts, branch, dtype=torch.int32)
        self._kernels.top_k_of_parts[(parts, nodes)](
            logits,
            own.positions,
            own.sampling,
            values,
            tokens,
            logits.stride(0),
            proposable,
            BRANCH=branch,
            BLOCK=_TOP_K_BLOCK,
            **_COMPILED,
        )
        self._kernels.top_k_of_all[(nodes,)](
            values,
            tokens,
            found,
            parts,
            BRANCH=branch,
            BLOCK_PARTS=_power_of_two(parts),
            BLOCK_BRANCH=_power_of_two(branch),
            **_COMPILED,
        )

    def _forward(self, inputs: _Inputs, logits: Tensor) -> None:
        hidden = self._embed(inputs)
        if self._stack.residual is Residual.SEQUENTIAL:
            self._sequential_layers(hidden, inputs)
            added = None
        else:
            added = self._parallel_layers(hidden, inputs)
        (normed,) = self._normalise(hidden, added, self._stack.norm)
        self._linear("logits", normed, self._head, into=logits)

    def _sequential_layers(self, hidden: Tensor, inputs: _Inputs) -> None:
        """Run the layers of a model whose MLP follows the attention; both add to `hidden`, (nodes, H)."""
        for layer, rows in zip(self._layers, self.cache.layers, strict=True):
            (normed,) = self._normalise(hidden, None, layer.block.norm)
            qkv = self._linear("qkv", normed, layer.qkv)
            attended = self._attention(qkv, rows, layer.block, inputs)
            self._linear("out", attended, layer.out, onto=hidden)
            (normed,) = self._normalise(hidden, None, layer.block.mlp_norm)
            self._linear("down", self._inner(normed, layer), layer.down, onto=hidden)

    def _parallel_layers(self, hidden: Tensor, inputs: _Inputs) -> Tensor | None:
        """Run the layers of a model whose attention and MLP read the same hidden values, concurrently.

        Returns what the last MLP is to add to `hidden`, both (nodes, H).
        """
        added = None
        for layer, rows in zip(self._layers, self.cache.layers, strict=True):
            norms = dict.fromkeys([layer.block.norm, layer.block.mlp_norm])  # some have one for both
            normed = self._normalise(hidden, added, *norms)
            with self._on_side_stream():
                added = self._linear("added", self._inner(normed[-1], layer), layer.down)
            qkv = self._linear("qkv", normed[0], layer.qkv)
            attended = self._attention(qkv, rows, layer.block, inputs)
            self._linear("out", attended, layer.out, onto=hidden)
            if self._side_stream is not None:
                torch.cuda.current_stream(self.device).wait_stream(self._side_stream)
        return added

    @contextmanager
    def _on_side_stream(self) -> Iterator[None]:
        """Launch on the side stream, concurrently with what follows until the main stream waits for it."""
        if self._side_stream is None:
            yield
            return
        self._side_stream.wait_stream(torch.cuda.current_stream(self.device))
        self._counters = self._side_counters
        try:
            with torch.cuda.stream(self._side_stream):
                yield
        finally:
            self._counters = self._main_counters

    def _inner(self, normed: Tensor, layer: _Layer) -> Tensor:
        return self._linear(
            "inner", normed, layer.up, activation=self._stack.activation, gated=self._stack.gated
        )

    def _embed(self, inputs: _Inputs) -> Tensor:
        stack = self._stack
        width = stack.embedding.shape[1]
        hidden = self._buffer("hidden", inputs.nodes, width)
        positions = stack.embedding if stack.position_embedding is None else stack.position_embedding
        self._kernels.embed[(inputs.nodes,)](
            inputs.tokens,
            inputs.positions,
            stack.embedding,
            positions,
            hidden,
            width,
            HAS_POSITIONS=stack.position_embedding is not None,
            BLOCK=_power_of_two(width),
            **_COMPILED,
        )
        return hidden

    def _normalise(self, hidden: Tensor, added: Tensor | None, norm: Any, second: Any = None) -> list[Tensor]:
        """Add to the hidden values, and return them normalised, (nodes, H), by each of one or two norms."""
        nodes, width = hidden.shape
        norms = [norm] if second is None else [norm, second]
        outputs = [self._buffer(f"normed {index}", nodes, width) for index in range(len(norms))]
        arguments = [
            (own.weight, getattr(own, "bias", own.weight), out)
            for own, out in zip(norms, outputs, strict=True)
        ]
        self._kernels.normalise[(nodes,)](
            hidden,
            hidden if added is None else added,
            *arguments[0],
            *arguments[-1],
            width,
            self._stack.epsilon,
            ROOT_MEAN_SQUARE=is_rms(norm),
            ADD=added is not None,
            TWO=second is not None,
            BLOCK=_power_of_two(width),
            **_COMPILED,
        )
        return outputs

    def _linear(
        self,
        name: str,
        x: Tensor,
        matrix: _Matrix,
        *,
        activation: Activation = Activation.LINEAR,
        gated: bool = False,
        onto: Tensor | None = None,
        into: Tensor | None = None,
    ) -> Tensor:
        """Return activation(x weight' + bias), (nodes, outputs), added `onto` a tensor or put `into` one."""
        nodes = len(x)
        out = onto if onto is not None else into
        if out is None:
            out = self._buffer(name, nodes, matrix.outputs)
        tile = _tile_for(nodes, self.dtype, gated=gated)
        parts = 0 if matrix.splits == 1 else matrix.splits * (2 if gated else 1)
        partial_sums = self._buffer(f"parts of {name}", parts, nodes, matrix.outputs, dtype=torch.float32)
        grid = ceil(nodes / tile.nodes), ceil(matrix.outputs / tile.outputs), matrix.splits
        self._check_counters(grid[0] * grid[1] if matrix.splits > 1 else 0)
        self._kernels.multiply[grid](
            x,
            matrix.weight,
            matrix.weight if matrix.bias is None else matrix.bias,
            out,
            partial_sums,
            self._counters,
            nodes,
            matrix.outputs,
            matrix.inputs,
            *matrix.weight.stride(),
            matrix.splits,
            ACTIVATION=activation.value,
            GATED=gated,
            ADD=onto is not None,
            HAS_BIAS=matrix.bias is not None,
            EVEN=matrix.inputs % tile.inputs == 0 and matrix.outputs % tile.outputs == 0,
            BLOCK_M=tile.nodes,
            BLOCK_N=tile.outputs,
            BLOCK_K=tile.inputs,
            num_warps=tile.warps,
            num_stages=tile.stages,
            **_COMPILED,
        )
        return out

    def _attention(self, qkv: Tensor, rows: Any, block: Block, inputs: _Inputs) -> Tensor:
        """Return each node's attention, (nodes, heads times head size), and write its row into the cache."""
        stack, nodes = self._stack, len(qkv)
        size = stack.head_size
        out = self._buffer("attended", nodes, stack.heads * size)
        group = stack.heads // stack.kv_heads
        slots, columns = max(_ATTEND_SLOTS, _power_of_two(group)), max(16, _power_of_two(size))
        splits = max(1, min(_MAX_ATTEND_SPLITS, _MAX_ATTEND_PROGRAMS // stack.kv_heads))
        grid = ceil(nodes / (slots // group)), stack.kv_heads, splits
        self._check_counters(grid[0] * grid[1])
        parts = self._buffer("parts of attended", *grid, slots, columns + 2, dtype=torch.float32)
        starts = (0, size, 2 * size, 3 * size) if stack.by_head else _qkv_offsets(stack)
        cosine, sine = self._tables or (inputs.span, inputs.span)
        self._kernels.attend[grid](
            qkv,
            out,
            rows.keys,
            rows.values,
            inputs.positions,
            inputs.bits,
            inputs.span,
            cosine,
            sine,
            qkv if block.query_norm is None else block.query_norm.weight,
            qkv if block.key_norm is None else block.key_norm.weight,
            parts,
            self._counters,
            nodes,
            qkv.shape[1],
            len(inputs.bits) // nodes,
            rows.keys.stride(-2),
            rows.keys.stride(-3),
            *starts,
            stack.score_scale,
            stack.epsilon,
            GROUP=group,
            HEAD=size,
            ROTATED=0 if block.rotary is None else rotary_size(stack),
            NORMED=block.query_norm is not None,
            SPLITS=splits,
            WORD=WORD,
            BLOCK_Q=slots,
            BLOCK_R=_BLOCK_ROWS if self.dtype.itemsize == 2 else _BLOCK_ROWS // 2,
            BLOCK_D=columns,
            num_warps=_ATTEND_WARPS,
            num_stages=1,
            **_COMPILED,
        )
        return out

    def _buffer(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return the buffer of this name and shape, in the model's dtype unless another is given.

        All graphs share it, and it is never freed: torch may reuse what a second stream allocates during a
        capture.
        """
        key = name, shape, dtype or self.dtype
        if key not in self._buffers:
            self._buffers[key] = torch.empty(*shape, dtype=key[2], device=self.device)
        return self._buffers[key]

    def _capture(self, function: Callable[[], object]) -> Callable[[], object]:
        from triton import TritonError  # noqa: PLC0415  # the constructor made sure of it

        try:
            return super()._capture(function)
        except (TritonError, SubprocessError, OSError, AssertionError) as error:  # of its C compiler, say
            raise NoKernelsError(f"the kernels cannot run on this device: {first_line(error)}") from error

    def _check_counters(self, count: int) -> None:
        if count > len(self._counters):
            raise NoKernelsError(f"{count} programs wait for each other, more than there are counters")


def _check(stack: Stack) -> None:
    """Raise UnsupportedModelError for a stack with parts that the kernels for CPUs alone know."""
    unknown = {
        "scaled embeddings": stack.embedding_scale != 1,
        "scaled residuals": stack.residual_scale != 1,
        "scaled logits": stack.logits_scale != 1,
        "caps on scores or logits": bool(stack.score_cap or stack.logits_cap),
        "heads that are normalised together": stack.joint_head_norms,
        "norms behind attention and MLP": stack.blocks[0].attention_out_norm is not None,
        "rotary positions that turn neighbours": stack.rotates_neighbours,
        "several tables of rotary positions": len(stack.rotary) > 1,
    }
    if missing := [part for part, is_there in unknown.items() if is_there]:
        raise UnsupportedModelError(f"no kernels for GPUs with {', '.join(missing)}")


def _matrix(weight: Tensor, bias: Tensor | None, *, halves: int = 1) -> _Matrix:
    weight = weight.detach()
    outputs, inputs = weight.shape
    outputs //= halves
    programs = ceil(outputs / _tile_for(1, weight.dtype, gated=halves == 2).outputs)
    splits = max(1, min(_power_of_two(ceil(_MIN_PROGRAMS / programs)), inputs // _MIN_SPLIT_INPUTS))
    return _Matrix(weight, bias, outputs, inputs, splits)


def _qkv_offsets(stack: Stack) -> tuple[int, int, int, int]:
    """Return where queries, keys and values begin among the outputs of `qkv`, and the stride of heads."""
    size = stack.head_size
    return 0, stack.heads * size, (stack.heads + stack.kv_heads) * size, size


def _power_of_two(count: int) -> int:
    """Return the smallest power of two that is at least a count."""
    return 1 << (count - 1).bit_length()


def _even(count: int) -> int:
    """Round up to an even count, so that what follows is aligned to 16 bytes."""
    return count + count % 2
