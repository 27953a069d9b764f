"""A model that is spread over several GPUs: which of its layers lies on which."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import torch

from dyna_eval.errors import PairError

_LAYER = re.compile(r"\.(\d+)\.")


def spreading(model: str) -> dict[str, Any]:
    """Return the arguments that let `from_pretrained` spread a model over all visible GPUs.

    Raises PairError without accelerate, which moves what flows from one GPU to the next.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise PairError(
            f"{model}: to spread it over several GPUs accelerate is needed;"
            " `pip install '.[multi-gpu]'` in the checkout on every node, or leave out --gpus-per-pair"
        )
    return {"device_map": "balanced"}


def check_spread(loaded: Any, model: str, *, gpus: int) -> None:
    """Raise PairError where parts of a model found no room on the GPUs: the host is far slower."""
    elsewhere = [
        name for name, place in loaded.hf_device_map.items() if str(place) in ("cpu", "disk", "meta")
    ]
    if elsewhere:
        raise PairError(
            f"{model}: {gpus} GPUs have no room for {len(elsewhere)} parts of it, such as {elsewhere[0]};"
            " raise --gpus-per-pair, or choose a smaller dtype"
        )


def is_spread(model: Any) -> bool:
    """Whether the parameters of a model lie on more than one device."""
    return len({parameter.device for parameter in model.parameters()}) > 1


def layer_devices(model: Any, layers: int) -> list[torch.device]:
    """Return where each layer of a causal language model lies, by the number in its parameters' names."""
    found: dict[int, torch.device] = {}
    for name, parameter in model.named_parameters():
        if number := _LAYER.search(name):
            found.setdefault(int(number[1]), parameter.device)
    first = next(model.parameters()).device
    return [found.get(layer, first) for layer in range(layers)]
