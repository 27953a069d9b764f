"""Tiny random models of real architectures, for tests of exactness."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

VOCABULARY = 300
POSITIONS = 128
END = "<|end|>"

_ROTARY = {
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
}
SUPPORTED: dict[str, dict[str, Any]] = {
    "gpt_neox": {"intermediate_size": 64, "num_attention_heads": 4, "max_position_embeddings": POSITIONS},
    "llama": _ROTARY,
    "gpt2": {"n_head": 4, "n_positions": POSITIONS},
    "opt": {
        "ffn_dim": 64,
        "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
        "word_embed_proj_dim": 32,
    },
    "phi": _ROTARY,
    "mistral": _ROTARY | {"sliding_window": None},
    "qwen2": _ROTARY,
    "qwen3": _ROTARY | {"head_dim": 8},
}
"""Architectures that decode exactly, by `model_type`, with what their tiny configuration needs."""

FURTHER: dict[str, dict[str, Any]] = {
    "phi3": _ROTARY,
    "seed_oss": _ROTARY | {"head_dim": 8, "attention_out_bias": True},
    "gemma": _ROTARY | {"head_dim": 8},
    "gemma2": _ROTARY
    | {
        "head_dim": 8,
        "query_pre_attn_scalar": 24,
        "sliding_window": POSITIONS,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 5.0,
    },
    "gemma3_text": _ROTARY
    | {
        "head_dim": 8,
        "query_pre_attn_scalar": 24,
        "sliding_window": POSITIONS,
        "sliding_window_pattern": 2,
    },
    "ernie4_5": _ROTARY | {"head_dim": 8},
    "helium": _ROTARY | {"head_dim": 8},
    "glm": _ROTARY | {"head_dim": 8},
    "glm4": _ROTARY | {"head_dim": 8},
    "olmo2": _ROTARY,
    "olmo3": _ROTARY | {"num_hidden_layers": 4, "sliding_window": POSITIONS},
    "exaone4": _ROTARY | {"sliding_window": POSITIONS, "sliding_window_pattern": 2},
    "smollm3": _ROTARY | {"no_rope_layers": [1, 0]},
    "granite": _ROTARY
    | {
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.25,
        "residual_multiplier": 0.7,
        "logits_scaling": 0.7,
    },
    "ministral": _ROTARY | {"head_dim": 8, "sliding_window": POSITIONS},
    "starcoder2": _ROTARY | {"sliding_window": None},
    "stablelm": _ROTARY,
}
"""Others that our kernels know: most of what is tested does not depend on which of them a model is."""


def tiny_gpt_neox(*, seed: int, hidden: int = 32, layers: int = 2, vocabulary: int = VOCABULARY) -> Any:
    torch.manual_seed(seed)
    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=POSITIONS,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _sharpened(GPTNeoXForCausalLM(config))


def tiny_llama(*, seed: int, hidden: int = 32, layers: int = 2) -> Any:
    """Grouped-query attention: 4 query heads share 2 key/value heads."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=POSITIONS,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _sharpened(LlamaForCausalLM(config))


def tiny_model(kind: str, *, seed: int, **changes: Any) -> Any:
    """Return a random model of any architecture, 32 wide and 2 layers deep."""
    torch.manual_seed(seed)
    return _sharpened(AutoModelForCausalLM.from_config(tiny_config(kind, **changes)))


def near(model: Any, *, noise: float) -> Any:
    """Return a copy whose weights are off by a share of their spread: a draft that is right now and then."""
    torch.manual_seed(0)
    draft = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in draft.parameters():
            if parameter.dim() > 1:
                parameter.add_(noise * parameter.std() * torch.randn_like(parameter))
    return draft


def tiny_config(kind: str, **changes: Any) -> Any:
    """Return the configuration of a tiny model of an architecture, supported or not."""
    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    return AutoConfig.for_model(kind, **(common | (SUPPORTED | FURTHER).get(kind, {}) | changes))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of 256 bytes and an end token, numbered 0."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {END: 0} | {letter: index + 1 for index, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END)


def save_model(model: Any, folder: Path) -> Path:
    """Write a model and the byte tokenizer as `save_pretrained` does, and return the folder."""
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def _sharpened(model: Any) -> Any:
    """Scale the random weights up, so that the model prefers some tokens over others."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return model.eval()
