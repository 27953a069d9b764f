"""From a loaded transformers model to the structures that the kernels read.

One description serves all supported families: normalisation, attention with or without rotary positions,
grouped heads and normalised queries, and an MLP with or without a gate, one behind the other or side by side.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PANEL, _LANES = 32, 16
_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_ACTIVATIONS = {
    "gelu": 0,
    "gelu_new": 1,
    "gelu_pytorch_tanh": 1,
    "gelu_fast": 1,
    "relu": 2,
    "silu": 3,
    "swish": 3,
}
_SEQUENTIAL, _PARALLEL, _PARALLEL_SHARED_NORM = range(3)
_FIXED_ROTARY = {"default", "linear", "llama3", "yarn"}  # the others change with the length of the sequence


class UnsupportedModelError(Exception):
    """The kernels do not know this kind of model; the text says what about it."""


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
            )
        ),
        *((name, _Matrix) for name in ("qkv", "out", "up", "down")),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in ("hidden", "heads", "key_heads", "head", "rotary", "inner", "vocabulary", "layers")
        ),
        *(
            (name, ctypes.c_int32)
            for name in ("root_mean_square", "activation", "gated", "residual", "threads", "rounds")
        ),
        ("epsilon", ctypes.c_float),
        ("scale", ctypes.c_float),
        ("embedding_kind", ctypes.c_int32),
        *(
            (name, ctypes.c_void_p)
            for name in ("embedding", "positions", "cosine", "sine", "norm_weight", "norm_bias")
        ),
        ("head_matrix", _Matrix),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """One layer: its norms, and its matrices as (weight (N, K), bias or None)."""

    norm: Any
    mlp_norm: Any
    qkv: tuple[Tensor, Tensor | None]
    out: tuple[Tensor, Tensor | None]
    up: tuple[Tensor, Tensor | None]
    down: tuple[Tensor, Tensor | None]
    query_norm: Any = None
    key_norm: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stack:
    """A whole model as the kernels see it."""

    blocks: list[_Block]
    embedding: Tensor
    head: tuple[Tensor, Tensor | None]
    norm: Any
    activation: str
    epsilon: float
    head_size: int
    heads: int
    key_heads: int
    inner: int
    residual: int = _SEQUENTIAL
    gated: bool = False
    positions: Tensor | None = None
    rotary: Any = None


class _Memory:
    """Memory for tensors, side by side in huge pages where the system has them.

    To find the place of a small page takes longer than to read it.
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
        place = self._piece[self._used : self._used + size]
        self._used = -(-(self._used + size) // self._LINE) * self._LINE
        return place.view(tensor.dtype).view(tensor.shape).copy_(tensor)

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
    """A model's weights, packed; `model` and `layers` are for `dyna_open`, valid while this lives."""

    def __init__(self, model: Any, *, threads: int) -> None:
        stack = _stack_of(model)
        self._memory = _Memory()
        self._kept: list[Tensor] = []
        self._rotary = stack.rotary
        self.vocabulary = int(stack.head[0].shape[0])
        tied = stack.embedding.data_ptr() == stack.head[0].data_ptr()
        self.layers = (_Layer * len(stack.blocks))(*(self._layer(stack, block) for block in stack.blocks))
        embedding = None if tied else _narrowest(stack.embedding.detach())
        self.model = _Model(
            hidden=stack.embedding.shape[1],
            heads=stack.heads,
            key_heads=stack.key_heads,
            head=stack.head_size,
            rotary=_rotary_size(stack),
            inner=stack.inner,
            vocabulary=self.vocabulary,
            layers=len(stack.blocks),
            root_mean_square=_is_rms(stack.norm),
            activation=_ACTIVATIONS[stack.activation],
            gated=stack.gated,
            residual=stack.residual,
            threads=threads,
            rounds=next(model.parameters()).dtype is torch.bfloat16,
            epsilon=stack.epsilon,
            scale=stack.head_size**-0.5,
            embedding_kind=_KINDS[embedding.dtype] if embedding is not None else 0,
            embedding=self._keep(embedding),
            positions=self._keep(None if stack.positions is None else stack.positions.detach().float()),
            norm_weight=self._vector(stack.norm.weight),
            norm_bias=self._vector(getattr(stack.norm, "bias", None)),
            head_matrix=self._matrix(*stack.head),
        )

    def rotary_tables(self, positions: int) -> tuple[Tensor, Tensor] | None:
        """Return cosine and sine for so many positions, each (positions, rotary size) float32."""
        if self._rotary is None:
            return None
        with torch.inference_mode():
            cosine, sine = self._rotary(torch.zeros(1), torch.arange(positions)[None])
        return cosine[0].contiguous(), sine[0].contiguous()

    def _layer(self, stack: _Stack, block: _Block) -> _Layer:
        up = _interleaved(*block.up) if stack.gated else block.up
        return _Layer(
            norm_weight=self._vector(block.norm.weight),
            norm_bias=self._vector(getattr(block.norm, "bias", None)),
            mlp_norm_weight=self._vector(block.mlp_norm.weight),
            mlp_norm_bias=self._vector(getattr(block.mlp_norm, "bias", None)),
            query_norm=self._vector(getattr(block.query_norm, "weight", None)),
            key_norm=self._vector(getattr(block.key_norm, "weight", None)),
            qkv=self._matrix(*block.qkv),
            out=self._matrix(*block.out),
            up=self._matrix(*up),
            down=self._matrix(*block.down),
        )

    def _matrix(self, weight: Tensor, bias: Tensor | None) -> _Matrix:
        weight = _narrowest(weight.detach())
        outputs, inputs = weight.shape
        return _Matrix(
            data=self._keep(_panels(weight)),
            bias=self._vector(bias),
            outputs=outputs,
            inputs=inputs,
            kind=_KINDS[weight.dtype],
        )

    def _vector(self, values: Tensor | None) -> int | None:
        """Keep a vector in float32, padded with zeros to whole panels."""
        if values is None:
            return None
        vector = values.detach().float()
        return self._keep(torch.nn.functional.pad(vector, (0, -len(vector) % PANEL)))

    def _keep(self, tensor: Tensor | None) -> int | None:
        """Keep a contiguous copy, and return its address."""
        if tensor is None:
            return None
        self._kept.append(self._memory.copy_of(tensor))
        return self._kept[-1].data_ptr()


def _narrowest(weight: Tensor) -> Tensor:
    """Return the weight in 16 bits where that loses nothing: a checkpoint stored so, run in float32."""
    if weight.dtype is not torch.float32:
        return weight
    for dtype in (torch.bfloat16, torch.float16):
        narrow = weight.to(dtype)
        if torch.equal(narrow.float(), weight):
            return narrow
    return weight


def _panels(weight: Tensor) -> Tensor:
    """Return (N, K) as (N / 32, K, 32); in bfloat16 as (N / 32, K / 2, 32, 2); padded with zeros."""
    pairs = weight.dtype is torch.bfloat16
    outputs, inputs = weight.shape
    padded = torch.nn.functional.pad(weight, (0, inputs % 2 if pairs else 0, 0, -outputs % PANEL))
    if pairs:
        return padded.view(-1, PANEL, padded.shape[1] // 2, 2).transpose(1, 2)
    return padded.view(-1, PANEL, inputs).transpose(1, 2)


def _interleaved(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Let 16 outputs of the gate and 16 of `up` alternate; both halves are padded to whole groups of 16."""
    inner = weight.shape[0] // 2
    halves = torch.nn.functional.pad(weight.detach().view(2, inner, -1), (0, 0, 0, -inner % _LANES))
    mixed = halves.view(2, -1, _LANES, weight.shape[1]).transpose(0, 1).reshape(-1, weight.shape[1])
    if bias is None:
        return mixed, None
    biases = torch.nn.functional.pad(bias.detach().view(2, inner), (0, -inner % _LANES))
    return mixed, biases.view(2, -1, _LANES).transpose(0, 1).reshape(-1)


def _is_rms(norm: Any) -> bool:
    return not isinstance(norm, torch.nn.LayerNorm)


def _rotary_size(stack: _Stack) -> int:
    return 0 if stack.rotary is None else 2 * int(stack.rotary.inv_freq.shape[0])


# ---------------------------------------------------------------------- the families


def _stack_of(model: Any) -> _Stack:
    config = model.config
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise UnsupportedModelError(f"no kernels for {config.model_type}")
    stack = family(model, config)
    if stack.activation not in _ACTIVATIONS:
        raise UnsupportedModelError(f"no kernel for the activation {stack.activation}")
    if stack.rotary is not None and stack.rotary.rope_type not in _FIXED_ROTARY:
        raise UnsupportedModelError(f"no kernel for rotary positions of type {stack.rotary.rope_type}")
    return stack


def _linear(*modules: Any) -> tuple[Tensor, Tensor | None]:
    """Return linear layers as one, their outputs one behind the other."""
    biases = [module.bias for module in modules]
    if all(bias is None for bias in biases):
        return torch.cat([module.weight for module in modules]), None
    filled = [m.bias if m.bias is not None else m.weight.new_zeros(len(m.weight)) for m in modules]
    return torch.cat([module.weight for module in modules]), torch.cat(filled)


def _single(module: Any) -> tuple[Tensor, Tensor | None]:
    return module.weight, module.bias


def _conv1d(module: Any) -> tuple[Tensor, Tensor | None]:
    return module.weight.t(), module.bias


def _gpt_neox(model: Any, config: Any) -> _Stack:
    heads = config.num_attention_heads
    head_size = config.hidden_size // heads

    def by_kind(values: Tensor) -> Tensor:
        """Each head's query, key and value stand together; put all queries first, then keys, then values."""
        return values.view(heads, 3, head_size, -1).transpose(0, 1).reshape(values.shape)

    def block(layer: Any) -> _Block:
        fused = layer.attention.query_key_value
        return _Block(
            norm=layer.input_layernorm,
            mlp_norm=layer.post_attention_layernorm,
            qkv=(by_kind(fused.weight), None if fused.bias is None else by_kind(fused.bias)),
            out=_single(layer.attention.dense),
            up=_single(layer.mlp.dense_h_to_4h),
            down=_single(layer.mlp.dense_4h_to_h),
        )

    base = model.gpt_neox
    return _Stack(
        blocks=[block(layer) for layer in base.layers],
        embedding=base.embed_in.weight,
        head=_single(model.get_output_embeddings()),
        norm=base.final_layer_norm,
        activation=config.hidden_act,
        epsilon=config.layer_norm_eps,
        head_size=head_size,
        heads=heads,
        key_heads=heads,
        inner=config.intermediate_size,
        residual=_PARALLEL if config.use_parallel_residual else _SEQUENTIAL,
        rotary=base.rotary_emb,
    )


def _llama(model: Any, config: Any) -> _Stack:
    def block(layer: Any) -> _Block:
        attention, mlp = layer.self_attn, layer.mlp
        return _Block(
            norm=layer.input_layernorm,
            mlp_norm=layer.post_attention_layernorm,
            qkv=_linear(attention.q_proj, attention.k_proj, attention.v_proj),
            out=_single(attention.o_proj),
            up=_linear(mlp.gate_proj, mlp.up_proj),
            down=_single(mlp.down_proj),
            query_norm=getattr(attention, "q_norm", None),
            key_norm=getattr(attention, "k_norm", None),
        )

    return _Stack(
        blocks=[block(layer) for layer in model.model.layers],
        embedding=model.model.embed_tokens.weight,
        head=_single(model.get_output_embeddings()),
        norm=model.model.norm,
        activation=config.hidden_act,
        epsilon=config.rms_norm_eps,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        heads=config.num_attention_heads,
        key_heads=config.num_key_value_heads,
        inner=config.intermediate_size,
        gated=True,
        rotary=model.model.rotary_emb,
    )


def _phi(model: Any, config: Any) -> _Stack:
    if config.qk_layernorm:
        raise UnsupportedModelError("no kernel for phi with normalised queries")

    def block(layer: Any) -> _Block:
        attention = layer.self_attn
        return _Block(
            norm=layer.input_layernorm,
            mlp_norm=layer.input_layernorm,
            qkv=_linear(attention.q_proj, attention.k_proj, attention.v_proj),
            out=_single(attention.dense),
            up=_single(layer.mlp.fc1),
            down=_single(layer.mlp.fc2),
        )

    return _Stack(
        blocks=[block(layer) for layer in model.model.layers],
        embedding=model.model.embed_tokens.weight,
        head=_single(model.get_output_embeddings()),
        norm=model.model.final_layernorm,
        activation=config.hidden_act,
        epsilon=config.layer_norm_eps,
        head_size=config.hidden_size // config.num_attention_heads,
        heads=config.num_attention_heads,
        key_heads=config.num_key_value_heads,
        inner=config.intermediate_size,
        residual=_PARALLEL_SHARED_NORM,
        rotary=model.model.rotary_emb,
    )


def _gpt2(model: Any, config: Any) -> _Stack:
    if not config.scale_attn_weights or config.scale_attn_by_inverse_layer_idx:
        raise UnsupportedModelError("no kernel for gpt2 with attention scaled by layer")

    def block(layer: Any) -> _Block:
        return _Block(
            norm=layer.ln_1,
            mlp_norm=layer.ln_2,
            qkv=_conv1d(layer.attn.c_attn),
            out=_conv1d(layer.attn.c_proj),
            up=_conv1d(layer.mlp.c_fc),
            down=_conv1d(layer.mlp.c_proj),
        )

    base = model.transformer
    return _Stack(
        blocks=[block(layer) for layer in base.h],
        embedding=base.wte.weight,
        head=_single(model.get_output_embeddings()),
        norm=base.ln_f,
        activation=config.activation_function,
        epsilon=config.layer_norm_epsilon,
        head_size=config.hidden_size // config.num_attention_heads,
        heads=config.num_attention_heads,
        key_heads=config.num_attention_heads,
        inner=config.n_inner or 4 * config.hidden_size,
        positions=base.wpe.weight,
    )


def _opt(model: Any, config: Any) -> _Stack:
    base = model.model.decoder
    if not config.do_layer_norm_before or base.project_in is not None or base.final_layer_norm is None:
        raise UnsupportedModelError("no kernel for opt with projected embeddings or late normalisation")

    def block(layer: Any) -> _Block:
        attention = layer.self_attn
        return _Block(
            norm=layer.self_attn_layer_norm,
            mlp_norm=layer.final_layer_norm,
            qkv=_linear(attention.q_proj, attention.k_proj, attention.v_proj),
            out=_single(attention.out_proj),
            up=_single(layer.fc1),
            down=_single(layer.fc2),
        )

    return _Stack(
        blocks=[block(layer) for layer in base.layers],
        embedding=base.embed_tokens.weight,
        head=_single(model.get_output_embeddings()),
        norm=base.final_layer_norm,
        activation=config.activation_function,
        epsilon=base.final_layer_norm.eps,
        head_size=config.hidden_size // config.num_attention_heads,
        heads=config.num_attention_heads,
        key_heads=config.num_attention_heads,
        inner=config.ffn_dim,
        positions=base.embed_positions.weight[base.embed_positions.offset :],
    )


FAMILIES: dict[str, Callable[[Any, Any], _Stack]] = {
    "gpt_neox": _gpt_neox,
    "llama": _llama,
    "mistral": _llama,
    "qwen2": _llama,
    "qwen3": _llama,
    "phi": _phi,
    "gpt2": _gpt2,
    "opt": _opt,
}
