"""Function-preserving enlargement of a GPT-NeoX model: the same tokens at the cost of a larger model.

A benchmark of speculation needs real acceptance, which only trained models have, and real cost, which only
large ones have. So a small trained model is made wide by repeating it side by side, and deep by layers that
add nothing; what it computes stays what it was, up to rounding.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.initialization import no_init_weights

if TYPE_CHECKING:
    from transformers import GPTNeoXForCausalLM  # takes two seconds, which only loading a model need pay


def enlarge(model: GPTNeoXForCausalLM, *, width: int, layers: int) -> GPTNeoXForCausalLM:
    """Return the model `width` times as wide (a power of two) and `layers` layers deep.

    Every hidden value stands `width` times side by side; matrices take the mean of the copies.
    The layers after the model's own compute as the others do, and their results are multiplied by zero.
    """
    config = copy.deepcopy(model.config)
    config.hidden_size *= width
    config.num_attention_heads *= width
    config.intermediate_size *= width
    config.num_hidden_layers = layers
    config.tie_word_embeddings = False  # the embedding repeats values where the head takes their mean
    config._attn_implementation = model.config._attn_implementation
    with no_init_weights():  # to draw them takes longer than all else, and all of them are replaced
        larger = type(model)(config).to(next(model.parameters()).dtype).eval()
    own = model.state_dict()
    with torch.no_grad():
        for name, values in larger.state_dict().items():
            source, idle = _source(name, model.config.num_hidden_layers)
            if idle:
                values.zero_()
            elif name == "gpt_neox.embed_in.weight":
                values.copy_(own[source].repeat(1, width))
            elif name == "lm_head.weight":
                values.copy_(own[source].repeat(1, width) / width)
            else:
                values.copy_(_repeated(own[source], width))
    return larger


def _source(name: str, deepest: int) -> tuple[str, bool]:
    """Return the source weight's name, and whether to zero it so that the added layer is the identity."""
    parts = name.split(".")
    if parts[1] != "layers" or int(parts[2]) < deepest:
        return name, False
    return ".".join([*parts[:2], str(int(parts[2]) % deepest), *parts[3:]]), parts[-2] in (
        "dense",
        "dense_4h_to_h",
    )


def _repeated(values: Tensor, width: int) -> Tensor:
    """Return a vector repeated, or a matrix whose outputs are repeated and whose inputs are averaged."""
    return values.repeat(width) if values.dim() == 1 else values.repeat(width, width) / width
