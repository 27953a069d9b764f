"""A decoder-only transformer as our own forward passes see it, whatever family it is of.

One description serves all of them: normalisation, attention with or without rotary positions, grouped heads
and normalised queries, and an MLP with or without a gate, one after the other or in parallel.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Activation(IntEnum):
    """The activations, by the numbers that the kernels know them by."""

    GELU = 0
    GELU_TANH = 1
    RELU = 2
    SILU = 3
    LINEAR = 4  # none


class Residual(IntEnum):
    """Whether the MLP follows the attention, or both read the same values, each after its own norm or one."""

    SEQUENTIAL = 0
    PARALLEL = 1
    PARALLEL_SHARED_NORM = 2


class Linear(NamedTuple):
    """A linear layer: weight (N, K), and bias (N,) where it has one."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One layer: its norms, and its matrices.

    The outputs of `qkv` are all queries, then all keys, then all values; where the stack is `by_head`, those
    of each head stand together.
    """

    layer: Any
    """The module of transformers' whose weights these are."""
    norm: Any
    mlp_norm: Any
    qkv: Linear
    out: Linear
    up: Linear
    down: Linear
    query_norm: Any = None
    key_norm: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A whole model as the kernels see it."""

    blocks: list[Block]
    embedding: Tensor
    head: Linear
    norm: Any
    activation: Activation
    epsilon: float
    head_size: int
    heads: int
    kv_heads: int
    inner: int
    residual: Residual = Residual.SEQUENTIAL
    gated: bool = False
    """The outputs of `up` are those of the gate, then those that it multiplies."""
    by_head: bool = False
    position_embedding: Tensor | None = None
    """Learned, (positions, hidden); None where positions are rotary."""
    rotary: Any = None


def is_rms(norm: Any) -> bool:
    """Whether a norm divides by the root mean square, else it is a LayerNorm."""
    return not isinstance(norm, torch.nn.LayerNorm)


def rotary_size(stack: Stack) -> int:
    """Return how many values of a head are rotated."""
    return 0 if stack.rotary is None else 2 * int(stack.rotary.inv_freq.shape[0])


def rotary_tables(rotary: Any, positions: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Return cosine and sine for so many positions, each (positions, rotary size) float32; None without.

    LongRoPE turns *all* tokens of a pass otherwise once one is past its original positions. `position_limit`
    keeps every pass before them, so what stands behind them is never read: it is 0.
    """
    if rotary is None:
        return None
    known = positions
    if rotary.rope_type == "longrope":
        known = min(positions, rotary.config.rope_parameters["original_max_position_embeddings"])
    with torch.inference_mode():
        tables = rotary(torch.zeros(1, device=device), torch.arange(known, device=device)[None])
        cosine, sine = (torch.nn.functional.pad(table[0], (0, 0, 0, positions - known)) for table in tables)
    return cosine.contiguous(), sine.contiguous()
