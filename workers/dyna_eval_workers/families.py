"""The families of models that our own forward passes know: each becomes a stack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch

from dyna_eval.errors import UnsupportedModelError
from dyna_eval_workers.stack import Activation, Block, Linear, Norm, Residual, Rotary, Stack

_ACTIVATIONS = {  # by the names that transformers has for them
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "relu": Activation.RELU,
    "silu": Activation.SILU,
    "swish": Activation.SILU,
}
_FIXED_ROTARY = {"default", "linear", "llama3", "yarn", "longrope"}
"""Kinds of rotary positions that one table holds; the others change with the length of the sequence."""


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
    for rotary in stack.rotary:
        if rotary.kind not in _FIXED_ROTARY:
            raise UnsupportedModelError(f"no kernel for rotary positions of type {rotary.kind}")
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


def _from_one(norm: Any) -> Norm:
    """Return a norm of Gemma's, whose weights are kept less 1."""
    return Norm(1.0 + norm.weight.detach().float())


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
        rotary=(Rotary(module=base.rotary_emb),),
    )


def _qkv(attention: Any) -> Linear:
    return _linear(attention.q_proj, attention.k_proj, attention.v_proj)


def _llama_block(
    layer: Any, *, qkv: Linear | None = None, up: Linear | None = None, down: Linear | None = None
) -> Block:
    """Return a layer of llama, or of a family that names its parts alike, but for matrices that are given."""
    attention, mlp = layer.self_attn, layer.mlp
    return Block(
        layer=layer,
        norm=layer.input_layernorm,
        mlp_norm=layer.post_attention_layernorm,
        qkv=qkv or _qkv(attention),
        out=_single(attention.o_proj),
        up=up or _linear(mlp.gate_proj, mlp.up_proj),
        down=down or _single(mlp.down_proj),
        query_norm=getattr(attention, "q_norm", None),
        key_norm=getattr(attention, "k_norm", None),
    )


def _llama(
    model: Any,
    config: Any,
    block: Callable[[Any], Block] = _llama_block,
    *,
    activation: str | None = None,
    epsilon: float | None = None,
    gated: bool = True,
) -> Stack:
    """Return the stack of llama, or of a family that names its parts alike, but for those of its blocks."""
    return Stack(
        blocks=[block(layer) for layer in model.model.layers],
        embedding=model.model.embed_tokens.weight,
        head=_single(model.get_output_embeddings()),
        norm=model.model.norm,
        activation=_activation(activation or config.hidden_act),
        epsilon=config.rms_norm_eps if epsilon is None else epsilon,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        inner=config.intermediate_size,
        gated=gated,
        rotary=(Rotary(module=model.model.rotary_emb),),
    )


def _phi3(model: Any, config: Any) -> Stack:
    def block(layer: Any) -> Block:
        return _llama_block(layer, qkv=_single(layer.self_attn.qkv_proj), up=_single(layer.mlp.gate_up_proj))

    return _llama(model, config, block)


def _llama_of_neighbours(model: Any, config: Any) -> Stack:
    return replace(_llama(model, config), rotates_neighbours=True)


def _glm(model: Any, config: Any) -> Stack:
    def block(layer: Any) -> Block:
        return replace(
            _llama_block(layer, up=_single(layer.mlp.gate_up_proj)),
            attention_out_norm=getattr(layer, "post_self_attn_layernorm", None),
            mlp_out_norm=getattr(layer, "post_mlp_layernorm", None),
        )

    return replace(_llama(model, config, block), rotates_neighbours=True)


def _olmo2_block(layer: Any) -> Block:
    attention, mlp = layer.self_attn, layer.mlp
    return Block(
        layer=layer,
        norm=None,
        mlp_norm=None,
        attention_out_norm=layer.post_attention_layernorm,
        mlp_out_norm=layer.post_feedforward_layernorm,
        qkv=_qkv(attention),
        out=_single(attention.o_proj),
        up=_linear(mlp.gate_proj, mlp.up_proj),
        down=_single(mlp.down_proj),
        query_norm=attention.q_norm,
        key_norm=attention.k_norm,
    )


def _olmo2(model: Any, config: Any) -> Stack:
    return replace(_llama(model, config, _olmo2_block), joint_head_norms=True)


def _olmo3(model: Any, config: Any) -> Stack:
    kinds = sorted(set(config.layer_types))

    def block(layer: Any) -> Block:
        return replace(_olmo2_block(layer), rotary=kinds.index(layer.self_attn.attention_type))

    return replace(
        _llama(model, config, block),
        joint_head_norms=True,
        rotary=tuple(Rotary(module=model.model.rotary_emb, layers=kind) for kind in kinds),
    )


def _exaone4(model: Any, config: Any) -> Stack:
    def block(layer: Any) -> Block:
        rotates = config.sliding_window is None or layer.self_attn.is_sliding
        return replace(_olmo2_block(layer), rotary=0 if rotates else None)

    return _llama(model, config, block)


def _gemma(model: Any, config: Any) -> Stack:
    _check_causal(config)

    def block(layer: Any) -> Block:
        described = _llama_block(layer)
        return replace(described, norm=_from_one(described.norm), mlp_norm=_from_one(described.mlp_norm))

    return replace(
        _llama(model, config, block),
        norm=_from_one(model.model.norm),
        embedding_scale=_embedding_scale(model.model.embed_tokens),
    )


def _gemma2_block(layer: Any) -> Block:
    return replace(
        _llama_block(layer),
        norm=_from_one(layer.input_layernorm),
        attention_out_norm=_from_one(layer.post_attention_layernorm),
        mlp_norm=_from_one(layer.pre_feedforward_layernorm),
        mlp_out_norm=_from_one(layer.post_feedforward_layernorm),
    )


def _gemma2(model: Any, config: Any, block: Callable[[Any], Block] = _gemma2_block) -> Stack:
    _check_causal(config)
    return replace(
        _llama(model, config, block, activation=config.hidden_activation),
        norm=_from_one(model.model.norm),
        embedding_scale=_embedding_scale(model.model.embed_tokens),
        attention_scale=config.query_pre_attn_scalar**-0.5,
        score_cap=config.attn_logit_softcapping,
        logits_cap=config.final_logit_softcapping,
    )


def _gemma3(model: Any, config: Any) -> Stack:
    kinds = sorted(set(config.layer_types))

    def block(layer: Any) -> Block:
        return replace(
            _gemma2_block(layer),
            query_norm=_from_one(layer.self_attn.q_norm),
            key_norm=_from_one(layer.self_attn.k_norm),
            rotary=kinds.index(layer.self_attn.layer_type),
        )

    return replace(
        _gemma2(model, config, block),
        score_cap=None,  # transformers has no cap here, whatever the configuration says
        rotary=tuple(Rotary(module=model.model.rotary_emb, layers=kind) for kind in kinds),
    )


def _check_causal(config: Any) -> None:
    if getattr(config, "use_bidirectional_attention", None):
        raise UnsupportedModelError(f"no kernel for {config.model_type} that sees later tokens")


def _embedding_scale(embedding: Any) -> float:
    """Return what Gemma multiplies embeddings with, which is rounded to their dtype."""
    return float(embedding.embed_scale.to(embedding.weight.dtype))


def _smollm3(model: Any, config: Any) -> Stack:
    def block(layer: Any) -> Block:
        return replace(_llama_block(layer), rotary=0 if layer.self_attn.use_rope else None)

    return _llama(model, config, block)


def _granite(model: Any, config: Any) -> Stack:
    return replace(
        _llama(model, config),
        embedding_scale=config.embedding_multiplier,
        attention_scale=config.attention_multiplier,
        residual_scale=config.residual_multiplier,
        logits_scale=1 / config.logits_scaling,
    )


def _starcoder2(model: Any, config: Any) -> Stack:
    def block(layer: Any) -> Block:
        return _llama_block(layer, up=_single(layer.mlp.c_fc), down=_single(layer.mlp.c_proj))

    return _llama(model, config, block, epsilon=config.norm_epsilon, gated=False)


def _stablelm(model: Any, config: Any) -> Stack:
    if config.qk_layernorm:
        raise UnsupportedModelError("no kernel for stablelm with normalised queries")

    def block(layer: Any) -> Block:
        described = _llama_block(layer)
        if config.use_parallel_residual:
            return replace(described, mlp_norm=layer.input_layernorm)
        return described

    return replace(
        _llama(model, config, block, epsilon=config.layer_norm_eps),
        residual=Residual.PARALLEL_SHARED_NORM if config.use_parallel_residual else Residual.SEQUENTIAL,
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
            qkv=_qkv(attention),
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
        rotary=(Rotary(module=model.model.rotary_emb),),
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
            qkv=_qkv(attention),
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
    "phi3": _phi3,
    "seed_oss": _llama,
    "ernie4_5": _llama_of_neighbours,
    "helium": _llama_of_neighbours,
    "glm": _glm,
    "glm4": _glm,
    "olmo2": _olmo2,
    "olmo3": _olmo3,
    "exaone4": _exaone4,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "smollm3": _smollm3,
    "granite": _granite,
    "ministral": _llama,
    "starcoder2": _starcoder2,
    "stablelm": _stablelm,
    "gpt2": _gpt2,
    "opt": _opt,
}
