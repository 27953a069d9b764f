"""From a loaded transformers model to the structures that the kernels read."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dyna_eval_workers.families import stack_of
from dyna_eval_workers.memory import give_back_freed
from dyna_eval_workers.stack import Block, Linear, Stack, is_rms, rotary_size

_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


class _Matrix(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("outputs", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("kind", ctypes.c_int32),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_void_p)
            for name in (
                "norm_weight",
                "norm_bias",
                "mlp_norm_weight",
                "mlp_norm_bias",
                "query_norm",
                "key_norm",
                "attention_out_norm",
                "mlp_out_norm",
            )
        ),
        *((name, _Matrix) for name in ("qkv", "out", "up", "down")),
        ("table", ctypes.c_int32),
        ("normed", ctypes.c_int32),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in ("hidden", "heads", "kv_heads", "head", "rotary", "inner", "vocabulary", "layers")
        ),
        *(
            (name, ctypes.c_int32)
            for name in (
                "root_mean_square",
                "activation",
                "gated",
                "residual",
                "threads",
                "rounds",
                "tables",
                "joint_head_norms",
            )
        ),
        *(
            (name, ctypes.c_float)
            for name in (
                "epsilon",
                "scale",
                "embedding_scale",
                "residual_scale",
                "logits_scale",
                "score_cap",
                "logits_cap",
            )
        ),
        ("embedding_kind", ctypes.c_int32),
        *(
            (name, ctypes.c_void_p)
            for name in ("embedding", "positions", "cosine", "sine", "norm_weight", "norm_bias")
        ),
        ("head_matrix", _Matrix),
    ]


class _Memory:
    """Memory for tensors, one after the other in huge pages where the system has them.

    Translating the address of a small page (a TLB miss) takes longer than reading the page.
    """

    _PIECE = 64 << 20  # bytes that are reserved at once; a page of them is taken when it is first written
    _HUGE = 2 << 20
    _LINE = 64  # bytes of a cache line, which tensors begin at

    def __init__(self) -> None:
        self._piece = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def copy_of(self, tensor: Tensor) -> Tensor:
        """Return a contiguous copy of a tensor."""
        size = tensor.numel() * tensor.element_size()
        if self._used + size > len(self._piece):
            self._reserve(size)
        copy = self._piece[self._used : self._used + size]
        self._used = -(-(self._used + size) // self._LINE) * self._LINE
        return copy.view(tensor.dtype).view(tensor.shape).copy_(tensor)

    def _reserve(self, size: int) -> None:
        room = -(-max(size, self._PIECE) // self._HUGE) * self._HUGE + self._HUGE
        try:
            piece = mmap.mmap(-1, room, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError(f"no memory for {size} bytes of weights") from error
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without them
                piece.madvise(mmap.MADV_HUGEPAGE)
        whole = torch.frombuffer(piece, dtype=torch.uint8)
        self._piece, self._used = whole[-whole.data_ptr() % self._HUGE :], 0


class Weights:
    """A model's weights in panels of so many outputs; `model` and `layers` live as long as this.

    With `takes_model` each layer of the transformers model is freed once it is copied.
    """

    def __init__(self, model: Any, *, threads: int, panel: int, takes_model: bool = False) -> None:
        stack = stack_of(model)
        if takes_model:
            give_back_freed()  # what it joined, matrix by matrix
        count = len(stack.blocks)
        self._panel = panel
        self._memory = _Memory()
        self._kept: list[Tensor] = []
        self.rotary = stack.rotary
        self.vocabulary = int(stack.head[0].shape[0])
        tied = stack.embedding.data_ptr() == stack.head[0].data_ptr()
        self.layers = (_Layer * count)(*self._layers(stack, frees=takes_model))
        embedding = None if tied else _narrowest(stack.embedding.detach())
        self.model = _Model(
            hidden=stack.embedding.shape[1],
            heads=stack.heads,
            kv_heads=stack.kv_heads,
            head=stack.head_size,
            rotary=rotary_size(stack),
            inner=stack.inner,
            vocabulary=self.vocabulary,
            layers=count,
            root_mean_square=is_rms(stack.norm),
            activation=stack.activation,
            gated=stack.gated,
            residual=stack.residual,
            threads=threads,
            rounds=next(model.parameters()).dtype is torch.bfloat16,
            tables=len(stack.rotary),
            joint_head_norms=stack.joint_head_norms,
            epsilon=stack.epsilon,
            scale=stack.score_scale,
            embedding_scale=stack.embedding_scale,
            residual_scale=stack.residual_scale,
            logits_scale=stack.logits_scale,
            score_cap=stack.score_cap or 0.0,
            logits_cap=stack.logits_cap or 0.0,
            embedding_kind=_KINDS[embedding.dtype] if embedding is not None else 0,
            embedding=self._keep(embedding),
            positions=self._keep(
                None if stack.position_embedding is None else stack.position_embedding.detach().float()
            ),
            norm_weight=self._vector(stack.norm.weight),
            norm_bias=self._vector(getattr(stack.norm, "bias", None)),
            head_matrix=self._matrix(*stack.head),
        )
        if takes_model:
            _free(model)

    def _layers(self, stack: Stack, *, frees: bool) -> Iterator[_Layer]:
        while stack.blocks:
            block = stack.blocks.pop(0)  # the matrices that were joined for it go with it
            yield self._layer(stack, block)
            if frees:
                _free(block.layer)

    def _layer(self, stack: Stack, block: Block) -> _Layer:
        up = _interleaved(*block.up, half=self._panel // 2) if stack.gated else block.up
        return _Layer(
            norm_weight=self._vector(getattr(block.norm, "weight", None)),
            norm_bias=self._vector(getattr(block.norm, "bias", None)),
            mlp_norm_weight=self._vector(getattr(block.mlp_norm, "weight", None)),
            mlp_norm_bias=self._vector(getattr(block.mlp_norm, "bias", None)),
            query_norm=self._head_norm(stack, block.query_norm),
            key_norm=self._head_norm(stack, block.key_norm),
            attention_out_norm=self._vector(getattr(block.attention_out_norm, "weight", None)),
            mlp_out_norm=self._vector(getattr(block.mlp_out_norm, "weight", None)),
            qkv=self._matrix(*_as_the_kernels_read(stack, block.qkv)),
            out=self._matrix(*block.out),
            up=self._matrix(*up),
            down=self._matrix(*block.down),
            table=-1 if block.rotary is None else block.rotary,
            normed=block.norm is not None,
        )

    def _matrix(self, weight: Tensor, bias: Tensor | None) -> _Matrix:
        weight = _narrowest(weight.detach())
        outputs, inputs = weight.shape
        return _Matrix(
            data=self._keep(_panels(weight, self._panel)),
            bias=self._vector(bias),
            outputs=outputs,
            inputs=inputs,
            kind=_KINDS[weight.dtype],
        )

    def _head_norm(self, stack: Stack, norm: Any) -> int | None:
        """Keep the weights of one head, or where there are some for every head, those padded head by head."""
        weight = getattr(norm, "weight", None)
        if weight is None or not stack.joint_head_norms:
            return self._vector(weight)
        heads = weight.detach().view(-1, stack.head_size)
        return self._vector(torch.nn.functional.pad(heads, (0, -stack.head_size % self._panel)).flatten())

    def _vector(self, values: Tensor | None) -> int | None:
        """Keep a vector in float32, padded with zeros to whole panels."""
        if values is None:
            return None
        vector = values.detach().float()
        return self._keep(torch.nn.functional.pad(vector, (0, -len(vector) % self._panel)))

    def _keep(self, tensor: Tensor | None) -> int | None:
        """Keep a contiguous copy, and return its address."""
        if tensor is None:
            return None
        self._kept.append(self._memory.copy_of(tensor))
        return self._kept[-1].data_ptr()


def _free(module: Any) -> None:
    for parameter in module.parameters():
        parameter.data = parameter.data.new_empty(0)
    give_back_freed()


def _narrowest(weight: Tensor) -> Tensor:
    """Return the weight in 16 bits where that loses nothing: a checkpoint stored so, run in float32."""
    if weight.dtype is not torch.float32:
        return weight
    for dtype in (torch.bfloat16, torch.float16):
        narrow = weight.to(dtype)
        if torch.equal(narrow.float(), weight):
            return narrow
    return weight


def _as_the_kernels_read(stack: Stack, qkv: Linear) -> tuple[Tensor, Tensor | None]:
    if stack.by_head:
        return _by_kind(stack, *qkv)
    return _by_halves(stack, *qkv) if stack.rotates_neighbours else qkv


def _by_halves(stack: Stack, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Put what rotary positions turn together half a rotary size apart, where it stands side by side.

    Queries and keys of a head have one order then as before, in which their products are the same.
    """
    size, heads = rotary_size(stack), stack.heads + stack.kv_heads
    within = torch.arange(stack.head_size)
    within[:size] = torch.arange(size).view(-1, 2).t().flatten()
    turned = (torch.arange(heads)[:, None] * stack.head_size + within).flatten()
    order = torch.cat([turned, torch.arange(len(turned), len(weight))])
    return weight[order], None if bias is None else bias[order]


def _by_kind(stack: Stack, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Put all queries first, then all keys, then all values, where those of each head stand together."""

    def moved(values: Tensor) -> Tensor:
        by_head = values.view(stack.heads, 3, stack.head_size, -1)
        return by_head.transpose(0, 1).reshape(values.shape)

    return moved(weight), None if bias is None else moved(bias)


def _panels(weight: Tensor, size: int) -> Tensor:
    """Return (N, K) as (N / size, K, size); in bfloat16 as (N / size, K / 2, size, 2); padded with zeros."""
    pairs = weight.dtype is torch.bfloat16
    outputs, inputs = weight.shape
    padded = torch.nn.functional.pad(weight, (0, inputs % 2 if pairs else 0, 0, -outputs % size))
    if pairs:
        return padded.view(-1, size, padded.shape[1] // 2, 2).transpose(1, 2)
    return padded.view(-1, size, inputs).transpose(1, 2)


def _interleaved(weight: Tensor, bias: Tensor | None, *, half: int) -> tuple[Tensor, Tensor | None]:
    """Let half a panel of outputs of the gate and half of `up` alternate; both are padded to whole groups."""
    inner = weight.shape[0] // 2
    halves = torch.nn.functional.pad(weight.detach().view(2, inner, -1), (0, 0, 0, -inner % half))
    mixed = halves.view(2, -1, half, weight.shape[1]).transpose(0, 1).reshape(-1, weight.shape[1])
    if bias is None:
        return mixed, None
    biases = torch.nn.functional.pad(bias.detach().view(2, inner), (0, -inner % half))
    return mixed, biases.view(2, -1, half).transpose(0, 1).reshape(-1)
