"""The families of models that our own forward passes know, in one form.

One description serves all of them: normalisation, attention with or without rotary positions, grouped heads
and normalised queries, and an MLP with or without a gate, one after the other or in parallel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dyna_eval.errors import UnsupportedModelError


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


_ACTIVATIONS = {  # by the names that transformers has for them
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "relu": Activation.RELU,
    "silu": Activation.SILU,
    "swish": Activation.SILU,
}
_FIXED_ROTARY = {"default", "linear", "llama3", "yarn"}  # the others change with the length of the sequence


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
    """Return cosine and sine for so many positions, each (positions, rotary size) float32; None without."""
    if rotary is None:
        return None
    with torch.inference_mode():
        cosine, sine = rotary(torch.zeros(1, device=device), torch.arange(positions, device=device)[None])
    return cosine[0].contiguous(), sine[0].contiguous()


def stack_of(model: Any) -> Stack:
    """Return a transformers model in the form of all families.

    The tensors are the model's own: matrices that belong together are joined, and the model's become views of
    them. Their biases are copied.

    Raises UnsupportedModelError where it is of no known family, or differs from it.
    """
    config = model.config
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise UnsupportedModelError(f"no kernels for {config.model_type}")
    stack = family(model, config)
    if stack.rotary is not None and stack.rotary.rope_type not in _FIXED_ROTARY:
        raise UnsupportedModelError(f"no kernel for rotary positions of type {stack.rotary.rope_type}")
    return stack


# ---------------------------------------------------------------------- the families


def _linear(*modules: Any) -> Linear:
    """Return linear layers as one, with concatenated outputs; their weights become views of it."""
    weight = torch.cat([module.weight.detach() for module in modules])
    ends = list(accumulate(len(module.weight) for module in modules))
    for module, part in zip(modules, torch.tensor_split(weight, ends[:-1]), strict=True):
        module.weight.data = part
    if all(module.bias is None for module in modules):
        return Linear(weight, None)
    biases = [m.bias if m.bias is not None else m.weight.new_zeros(len(m.weight)) for m in modules]
    return Linear(weight, torch.cat([bias.detach() for bias in biases]))


def _single(module: Any) -> Linear:
    return Linear(module.weight, module.bias)


def _conv1d(module: Any) -> Linear:
    return Linear(module.weight.t(), module.bias)


def _activation(name: str) -> Activation:
    if name not in _ACTIVATIONS:
        raise UnsupportedModelError(f"no kernel for the activation {name}")
    return _ACTIVATIONS[name]


def _gpt_neox(model: Any, config: Any) -> Stack:
    def block(layer: Any) -> Block:
        return Block(
            layer=layer,
            norm=layer.input_layernorm,
            mlp_norm=layer.post_attention_layernorm,
            qkv=_single(layer.attention.query_key_value),
            out=_single(layer.attention.dense),
            up=_single(layer.mlp.dense_h_to_4h),
            down=_single(layer.mlp.dense_4h_to_h),
        )

    base = model.gpt_neox
    return Stack(
        blocks=[block(layer) for layer in base.layers],
        embedding=base.embed_in.weight,
        head=_single(model.get_output_embeddings()),
        norm=base.final_layer_norm,
        activation=_activation(config.hidden_act),
        epsilon=config.layer_norm_eps,
        head_size=config.hidden_size // config.num_attention_heads,
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads,
        inner=config.intermediate_size,
        by_head=True,
        residual=Residual.PARALLEL if config.use_parallel_residual else Residual.SEQUENTIAL,
        rotary=base.rotary_emb,
    )


def _llama(model: Any, config: Any) -> Stack:
    def block(layer: Any) -> Block:
        attention, mlp = layer.self_attn, layer.mlp
        return Block(
            layer=layer,
            norm=layer.input_layernorm,
            mlp_norm=layer.post_attention_layernorm,
            qkv=_linear(attention.q_proj, attention.k_proj, attention.v_proj),
            out=_single(attention.o_proj),
            up=_linear(mlp.gate_proj, mlp.up_proj),
            down=_single(mlp.down_proj),
            query_norm=getattr(attention, "q_norm", None),
            key_norm=getattr(attention, "k_norm", None),
        )

    return Stack(
        blocks=[block(layer) for layer in model.model.layers],
        embedding=model.model.embed_tokens.weight,
        head=_single(model.get_output_embeddings()),
        norm=model.model.norm,
        activation=_activation(config.hidden_act),
        epsilon=config.rms_norm_eps,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        inner=config.intermediate_size,
        gated=True,
        rotary=model.model.rotary_emb,
    )


def _phi(model: Any, config: Any) -> Stack:
    if config.qk_layernorm:
        raise UnsupportedModelError("no kernel for phi with normalised queries")

    def block(layer: Any) -> Block:
        attention = layer.self_attn
        return Block(
            layer=layer,
            norm=layer.input_layernorm,
            mlp_norm=layer.input_layernorm,
            qkv=_linear(attention.q_proj, attention.k_proj, attention.v_proj),
            out=_single(attention.dense),
            up=_single(layer.mlp.fc1),
            down=_single(layer.mlp.fc2),
        )

    return Stack(
        blocks=[block(layer) for layer in model.model.layers],
        embedding=model.model.embed_tokens.weight,
        head=_single(model.get_output_embeddings()),
        norm=model.model.final_layernorm,
        activation=_activation(config.hidden_act),
        epsilon=config.layer_norm_eps,
        head_size=config.hidden_size // config.num_attention_heads,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        inner=config.intermediate_size,
        residual=Residual.PARALLEL_SHARED_NORM,
        rotary=model.model.rotary_emb,
    )


def _gpt2(model: Any, config: Any) -> Stack:
    if not config.scale_attn_weights or config.scale_attn_by_inverse_layer_idx:
        raise UnsupportedModelError("no kernel for gpt2 with attention scaled by layer")

    def block(layer: Any) -> Block:
        return Block(
            layer=layer,
            norm=layer.ln_1,
            mlp_norm=layer.ln_2,
            qkv=_conv1d(layer.attn.c_attn),
            out=_conv1d(layer.attn.c_proj),
            up=_conv1d(layer.mlp.c_fc),
            down=_conv1d(layer.mlp.c_proj),
        )

    base = model.transformer
    return Stack(
        blocks=[block(layer) for layer in base.h],
        embedding=base.wte.weight,
        head=_single(model.get_output_embeddings()),
        norm=base.ln_f,
        activation=_activation(config.activation_function),
        epsilon=config.layer_norm_epsilon,
        head_size=config.hidden_size // config.num_attention_heads,
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads,
        inner=config.n_inner or 4 * config.hidden_size,
        position_embedding=base.wpe.weight,
    )


def _opt(model: Any, config: Any) -> Stack:
    base = model.model.decoder
    if not config.do_layer_norm_before or base.project_in is not None or base.final_layer_norm is None:
        raise UnsupportedModelError("no kernel for opt with projected embeddings or late normalisation")

    def block(layer: Any) -> Block:
        attention = layer.self_attn
        return Block(
            layer=layer,
            norm=layer.self_attn_layer_norm,
            mlp_norm=layer.final_layer_norm,
            qkv=_linear(attention.q_proj, attention.k_proj, attention.v_proj),
            out=_single(attention.out_proj),
            up=_single(layer.fc1),
            down=_single(layer.fc2),
        )

    return Stack(
        blocks=[block(layer) for layer in base.layers],
        embedding=base.embed_tokens.weight,
        head=_single(model.get_output_embeddings()),
        norm=base.final_layer_norm,
        activation=_activation(config.activation_function),
        epsilon=base.final_layer_norm.eps,
        head_size=config.hidden_size // config.num_attention_heads,
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads,
        inner=config.ffn_dim,
        position_embedding=base.embed_positions.weight[base.embed_positions.offset :],
    )


FAMILIES: dict[str, Callable[[Any, Any], Stack]] = {
    "gpt_neox": _gpt_neox,
    "llama": _llama,
    "mistral": _llama,
    "qwen2": _llama,
    "qwen3": _llama,
    "phi": _phi,
    "gpt2": _gpt2,
    "opt": _opt,
}
