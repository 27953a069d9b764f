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

from dyna_eval.errors import NoKernelsError, first_line
from dyna_eval_workers.cudagraph import WORD, GraphRunner, bits_of
from dyna_eval_workers.families import (
    Activation,
    Block,
    Residual,
    Stack,
    is_rms,
    rotary_size,
    rotary_tables,
    stack_of,
)
from dyna_eval_workers.runner import COMMITTED
from dyna_eval_workers.sampling import Sampler

# Found on an H200, for models of 70 M to 2.8 B parameters.
_MIN_PROGRAMS = 80  # split-K programs per product, so that all SMs read weights
_MIN_SPLIT_INPUTS = 512  # inputs per split-K program
_RANKED = 2048  # logits that a program ranks
_BLOCK_ROWS = 64  # rows of the cache that a program of `attend` takes at once, of numbers of 16 bits
_MOST_SPLITS = 8  # programs of `attend` that share the cache of a key/value head
_MOST_ATTENDING = 128  # programs of `attend` for all key/value heads together
_ATTEND_SLOTS = 16  # query heads times nodes that a program of `attend` takes
_ATTEND_WARPS = 8  # warps of a program of `attend`
_PROMPT_PASS = 64  # tokens of a prompt in one pass
_COUNTERS = 1 << 16  # groups of programs that add up parts, at most
_SAMPLING_WORDS = 2  # integers of a pass's inputs that say how its tokens are chosen
_GREEDY = bytes(8 * _SAMPLING_WORDS)  # temperature 0, for which no key is needed


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
    """What a pass reads, on the device: see `FusedRunner._packed`."""

    nodes: int
    span: Tensor
    tokens: Tensor
    positions: Tensor
    bits: Tensor
    sampling: Tensor

    @classmethod
    def of(cls, packed: Tensor, nodes: int) -> _Inputs:
        """Return the parts of what `FusedRunner._packed` packed."""
        places = _even(nodes)
        bits = len(packed) - 2 - 2 * places - _SAMPLING_WORDS
        return cls(nodes, *torch.split(packed, [2, places, places, bits, _SAMPLING_WORDS]))


class FusedRunner(GraphRunner):
    """Runs a model of a known family on a GPU; raises NoKernelsError or UnsupportedModelError if it cannot.

    Prompts run through the same passes, so that a token's logits do not depend on what of it was the prompt.
    Where tokens are sampled, the noise is computed beside the logits.
    What a pass computes on its way has room of its own, which passes of one number of nodes share.
    """

    backend = "cudagraph, fused kernels"
    passes = "the kernels"
    """What a reason calls them, as in: they fail the self-test."""
    _samples_in_graphs = True

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        try:
            from dyna_eval_workers.fused import kernels  # noqa: PLC0415  # not every system has Triton
        except (ImportError, OSError, AssertionError) as error:  # it looks for the driver's library
            raise NoKernelsError(f"there is no Triton that works ({first_line(error)})") from error
        self._kernels = kernels
        self._stack = stack = stack_of(model)
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
        self._beside: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            self._beside = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]  # torch's own
        self._rooms: dict[tuple[str, tuple[int, ...], torch.dtype], Tensor] = {}
        self._main_counters, self._counters_beside = (
            torch.zeros(_COUNTERS, dtype=torch.int32, device=self.device) for _ in range(2)
        )
        self._arrived = self._main_counters

    def reserve(self, capacity: int) -> None:
        before = self.cache.capacity
        super().reserve(capacity)
        if self.cache.capacity != before:
            self._tables = rotary_tables(self._stack.rotary, self.cache.capacity, self.device)

    def prefill(self, tokens: Sequence[int]) -> None:
        for start in range(0, len(tokens), _PROMPT_PASS):
            part = tokens[start : start + _PROMPT_PASS]
            self.extend(part, range(COMMITTED, len(part) - 1), last_only=True)
            self.keep(range(len(part)))

    def _rows_read(self, end: int) -> int:  # noqa: ARG002
        """Return the rows there are: one pass serves all lengths, and reads from the device where it ends."""
        return self.cache.capacity - 1

    def _packed(
        self, nodes: int, rows: int, tokens: Sequence[int], positions: Sequence[int], seen: Sequence[int]
    ) -> bytes:
        """Return what a pass reads: the first row it writes, the row behind its last, and what each node is.

        That is tokens and positions, with room for an even number of nodes, and the bits of the rows seen.
        Last comes how tokens are chosen, at first greedily: the bits of the temperature, as of float32, and
        the key of the noise.
        """
        count, first = len(tokens), self.cache.written
        padding = [0] * (_even(nodes) - count)
        header = array("q", [first, first + count, *tokens, *padding, *positions, *padding])
        return header.tobytes() + bits_of(nodes, rows, self.length, seen) + _GREEDY

    def _with_sampler(self, packed: bytes, sampler: Sampler) -> bytes:
        return packed[: -len(_GREEDY)] + pack("<fiQ", sampler.temperature, 0, sampler.key)

    def _pass(
        self,
        nodes: int,
        rows: int,  # noqa: ARG002
        inputs: Tensor,
        logits: Tensor,
    ) -> Callable[[], object]:
        return partial(self._forward, _Inputs.of(inputs, nodes), logits)

    def _choose_into(self, tokens: Tensor, logits: Tensor, inputs: Tensor) -> None:
        best = self._room("best", len(logits), 2, 1, dtype=torch.int32)
        self._rank_into(best, logits, inputs)
        tokens.copy_(best[:, 0, 0])

    def _rank_into(self, found: Tensor, logits: Tensor, inputs: Tensor) -> None:
        nodes, proposable = logits.shape
        own = _Inputs.of(inputs, nodes)
        branch = found.shape[-1]
        parts = ceil(proposable / _RANKED)
        values = self._room("values", nodes, parts, branch + 2, dtype=torch.float32)
        tokens = self._room("tokens", nodes, parts, branch, dtype=torch.int32)
        self._kernels.rank_parts[(parts, nodes)](
            logits,
            own.positions,
            own.sampling,
            values,
            tokens,
            logits.stride(0),
            proposable,
            BRANCH=branch,
            BLOCK=_RANKED,
        )
        self._kernels.rank_all[(nodes,)](
            values,
            tokens,
            found,
            parts,
            BRANCH=branch,
            BLOCK_PARTS=_power_of_two(parts),
            BLOCK_BRANCH=_power_of_two(branch),
        )

    def _forward(self, inputs: _Inputs, logits: Tensor) -> None:
        hidden = self._embedded(inputs)
        if self._stack.residual is Residual.SEQUENTIAL:
            self._one_behind_the_other(hidden, inputs)
            added = None
        else:
            added = self._side_by_side(hidden, inputs)
        (normed,) = self._normalised(hidden, added, self._stack.norm)
        self._product("logits", normed, self._head, into=logits)

    def _one_behind_the_other(self, hidden: Tensor, inputs: _Inputs) -> None:
        """Pass through layers whose MLP follows their attention; both add to the hidden values."""
        for layer, rows in zip(self._layers, self.cache.layers, strict=True):
            (normed,) = self._normalised(hidden, None, layer.block.norm)
            qkv = self._product("qkv", normed, layer.qkv)
            mixed = self._attention(qkv, rows, layer.block, inputs)
            self._product("out", mixed, layer.out, onto=hidden)
            (normed,) = self._normalised(hidden, None, layer.block.mlp_norm)
            self._product("down", self._inner(normed, layer), layer.down, onto=hidden)

    def _side_by_side(self, hidden: Tensor, inputs: _Inputs) -> Tensor | None:
        """Pass through layers whose attention and MLP read the same hidden values, and so run at once.

        Returns what the last MLP adds to the hidden values.
        """
        added = None
        for layer, rows in zip(self._layers, self.cache.layers, strict=True):
            norms = dict.fromkeys([layer.block.norm, layer.block.mlp_norm])  # some have one for both
            normed = self._normalised(hidden, added, *norms)
            with self._at_once():
                added = self._product("added", self._inner(normed[-1], layer), layer.down)
            qkv = self._product("qkv", normed[0], layer.qkv)
            mixed = self._attention(qkv, rows, layer.block, inputs)
            self._product("out", mixed, layer.out, onto=hidden)
            if self._beside is not None:
                torch.cuda.current_stream(self.device).wait_stream(self._beside)
        return added

    @contextmanager
    def _at_once(self) -> Iterator[None]:
        """Let what is launched inside run beside what comes after it, until that waits for it."""
        if self._beside is None:
            yield
            return
        self._beside.wait_stream(torch.cuda.current_stream(self.device))
        self._arrived = self._counters_beside
        try:
            with torch.cuda.stream(self._beside):
                yield
        finally:
            self._arrived = self._main_counters

    def _inner(self, normed: Tensor, layer: _Layer) -> Tensor:
        return self._product(
            "inner", normed, layer.up, activation=self._stack.activation, gated=self._stack.gated
        )

    def _embedded(self, inputs: _Inputs) -> Tensor:
        stack = self._stack
        width = stack.embedding.shape[1]
        hidden = self._room("hidden", inputs.nodes, width)
        positions = stack.embedding if stack.positions is None else stack.positions
        self._kernels.embed[(inputs.nodes,)](
            inputs.tokens,
            inputs.positions,
            stack.embedding,
            positions,
            hidden,
            width,
            HAS_POSITIONS=stack.positions is not None,
            BLOCK=_power_of_two(width),
        )
        return hidden

    def _normalised(
        self, hidden: Tensor, added: Tensor | None, norm: Any, second: Any = None
    ) -> list[Tensor]:
        """Add to the hidden values, and return them after a norm, (nodes, hidden), or after each of two."""
        nodes, width = hidden.shape
        norms = [norm] if second is None else [norm, second]
        outputs = [self._room(f"normed {place}", nodes, width) for place in range(len(norms))]
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
        )
        return outputs

    def _product(
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
            out = self._room(name, nodes, matrix.outputs)
        tile = _tile_for(nodes, self.dtype, gated=gated)
        parts = 0 if matrix.splits == 1 else matrix.splits * (2 if gated else 1)
        partial_sums = self._room(f"parts of {name}", parts, nodes, matrix.outputs, dtype=torch.float32)
        grid = ceil(nodes / tile.nodes), ceil(matrix.outputs / tile.outputs), matrix.splits
        self._check_counters(grid[0] * grid[1] if matrix.splits > 1 else 0)
        self._kernels.multiply[grid](
            x,
            matrix.weight,
            matrix.weight if matrix.bias is None else matrix.bias,
            out,
            partial_sums,
            self._arrived,
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
        )
        return out

    def _attention(self, qkv: Tensor, rows: Any, block: Block, inputs: _Inputs) -> Tensor:
        """Return each node's attention, (nodes, heads times head size), and write its row into the cache."""
        stack, nodes = self._stack, len(qkv)
        size = stack.head_size
        out = self._room("mixed", nodes, stack.heads * size)
        group = stack.heads // stack.key_heads
        slots, columns = max(_ATTEND_SLOTS, _power_of_two(group)), max(16, _power_of_two(size))
        splits = max(1, min(_MOST_SPLITS, _MOST_ATTENDING // stack.key_heads))
        grid = ceil(nodes / (slots // group)), stack.key_heads, splits
        self._check_counters(grid[0] * grid[1])
        parts = self._room("parts of mixed", *grid, slots, columns + 2, dtype=torch.float32)
        starts = (0, size, 2 * size, 3 * size) if stack.by_head else _starts(stack)
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
            self._arrived,
            nodes,
            qkv.shape[1],
            len(inputs.bits) // nodes,
            rows.keys.stride(-2),
            rows.keys.stride(-3),
            *starts,
            size**-0.5,
            stack.epsilon,
            GROUP=group,
            HEAD=size,
            ROTATED=rotary_size(stack),
            NORMED=block.query_norm is not None,
            SPLITS=splits,
            WORD=WORD,
            BLOCK_Q=slots,
            BLOCK_R=_BLOCK_ROWS if self.dtype.itemsize == 2 else _BLOCK_ROWS // 2,
            BLOCK_D=columns,
            num_warps=_ATTEND_WARPS,
            num_stages=1,
        )
        return out

    def _room(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return the tensor of this name and shape, in the model's dtype unless another is given.

        All graphs share it, and it stays: what a second stream allocates while a graph is captured, torch may
        give to others.
        """
        key = name, shape, dtype or self.dtype
        if key not in self._rooms:
            self._rooms[key] = torch.empty(*shape, dtype=key[2], device=self.device)
        return self._rooms[key]

    def _captured(self, function: Callable[[], object]) -> Callable[[], object]:
        from triton import TritonError  # noqa: PLC0415  # the constructor made sure of it

        try:
            return super()._captured(function)
        except (TritonError, SubprocessError, OSError, AssertionError) as error:  # of its C compiler, say
            raise NoKernelsError(f"the kernels cannot run on this device: {first_line(error)}") from error

    def _check_counters(self, count: int) -> None:
        if count > len(self._arrived):
            raise NoKernelsError(f"{count} programs wait for each other, more than there are counters")


def _matrix(weight: Tensor, bias: Tensor | None, *, halves: int = 1) -> _Matrix:
    weight = weight.detach()
    outputs, inputs = weight.shape
    outputs //= halves
    programs = ceil(outputs / _tile_for(1, weight.dtype, gated=halves == 2).outputs)
    splits = max(1, min(_power_of_two(ceil(_MIN_PROGRAMS / programs)), inputs // _MIN_SPLIT_INPUTS))
    return _Matrix(weight, bias, outputs, inputs, splits)


def _starts(stack: Stack) -> tuple[int, int, int, int]:
    """Return where queries, keys and values begin among the outputs of `qkv`, and one head behind another."""
    size = stack.head_size
    return 0, stack.heads * size, (stack.heads + stack.key_heads) * size, size


def _power_of_two(count: int) -> int:
    """Return the smallest power of two that is at least a count."""
    return 1 << (count - 1).bit_length()


def _even(count: int) -> int:
    """Return a count or the next one: places of pairs of integers are what a device reads best."""
    return count + count % 2
