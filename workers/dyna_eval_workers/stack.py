"""A decoder-only transformer as our own forward passes see it, whatever family it is of.

One description serves all of them: normalisation, attention with or without rotary positions, grouped heads
and normalised queries, and an MLP with or without a gate, one after the other or in parallel.
"""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """An RMSNorm whose module keeps its weights in another form."""

    weight: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One layer: its norms, and its matrices.

    The outputs of `qkv` are all queries, then all keys, then all values; where the stack is `by_head`, those
    of each head stand together.
    """

    layer: Any
    """The module of transformers' whose weights these are."""
    norm: Any
    """Of what the attention reads; None where it reads the hidden values as they are, and so does the MLP."""
    mlp_norm: Any
    qkv: Linear
    out: Linear
    up: Linear
    down: Linear
    query_norm: Any = None
    key_norm: Any = None
    attention_out_norm: Any = None
    """Of what the attention adds; None where it is added as it is."""
    mlp_out_norm: Any = None
    rotary: int | None = 0
    """Which of the stack's rotary positions turn queries and keys; None where none do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """Rotary positions: the module of transformers' that makes their angles, and for which kind of layer."""

    module: Any
    layers: str | None = None
    """By transformers' name for these layers; None where the module makes one table for all."""

    @property
    def kind(self) -> str:
        kind: str = self.module.rope_type if self.layers is None else self.module.rope_type[self.layers]
        return kind

    @property
    def size(self) -> int:
        """How many values of a head are rotated."""
        name = "inv_freq" if self.layers is None else f"{self.layers}_inv_freq"
        return 2 * len(getattr(self.module, name))

    def table(self, positions: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return cosine and sine for so many positions, each (positions, size) float32.

        LongRoPE turns *all* tokens of a pass otherwise once one is past its original positions.
        `position_limit` keeps every pass before them, so what stands behind them is never read: it is 0.
        """
        known = positions
        if self.kind == "longrope":
            parameters = self.module.config.rope_parameters
            parameters = parameters if self.layers is None else parameters[self.layers]
            known = min(positions, parameters["original_max_position_embeddings"])
        which = () if self.layers is None else (self.layers,)
        with torch.inference_mode():
            tables = self.module(
                torch.zeros(1, device=device), torch.arange(known, device=device)[None], *which
            )
            cosine, sine = (
                torch.nn.functional.pad(table[0], (0, 0, 0, positions - known)) for table in tables
            )
        return cosine, sine


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
    joint_head_norms: bool = False
    """All heads of a token are normalised together, by weights for all of them; otherwise one by one."""
    by_head: bool = False
    position_embedding: Tensor | None = None
    """Learned, (positions, hidden); None where positions are rotary."""
    rotary: tuple[Rotary, ...] = ()
    rotates_neighbours: bool = False
    """Rotary positions turn together what stands side by side in a head, else half the rotary size apart."""
    embedding_scale: float = 1.0
    """What tokens' embeddings are multiplied with."""
    attention_scale: float | None = None
    """What scores are multiplied with before softmax; None for 1 / sqrt(head size)."""
    residual_scale: float = 1.0
    """What the outputs of attention and MLP are multiplied with before they are added."""
    logits_scale: float = 1.0
    score_cap: float | None = None
    """What scores, scaled, stay below: a score s becomes cap tanh(s / cap)."""
    logits_cap: float | None = None

    @property
    def score_scale(self) -> float:
        return self.head_size**-0.5 if self.attention_scale is None else self.attention_scale


def is_rms(norm: Any) -> bool:
    """Whether a norm divides by the root mean square, else it is a LayerNorm."""
    return not isinstance(norm, torch.nn.LayerNorm)


def rotary_size(stack: Stack) -> int:
    """Return how many values of a head are rotated."""
    return stack.rotary[0].size if stack.rotary else 0


def rotary_tables(
    rotary: Sequence[Rotary], positions: int, device: torch.device
) -> tuple[Tensor, Tensor] | None:
    """Return cosine and sine for so many positions, each (positions, tables, rotary size) float32.

    None where there are no tables.
    """
    if not rotary:
        return None
    cosines, sines = zip(*(each.table(positions, device) for each in rotary), strict=True)
    return torch.stack(cosines, dim=1), torch.stack(sines, dim=1)
