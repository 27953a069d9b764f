"""By how much right passes over the same tokens may differ, for the self-test and for comparing samples.

Sums that are added up in another order are rounded otherwise, layer after layer: transformers' products of
one and of several tokens are different kernels, siblings of a tree stand between the rows of a branch in the
cache, and a peer's loop shapes its passes in its own way. Wide and deep models differ by more: how much more
is found out for each, by its reaction to noise of the size of rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

ROUNDING_EPS = {torch.float32: 64.0, torch.float16: 16.0, torch.bfloat16: 16.0}
"""Largest difference of two logits that is rounding in any model, in eps of the dtype at their size.

Right models 32 wide differ by less than 4 in 16 bits, and by 13 in float32. Small models that ignore
positions or mask differ by 17 and more in bfloat16, so a bound for all dtypes, wide enough for float32's sums
of hundreds of terms, would let them pass.
"""

_PER_REACTION = {torch.float32: 16.0, torch.float16: 2.0, torch.bfloat16: 2.0}
"""The bound over a model's reaction to `rounding_noise`.

Passes of our kernels and of transformers differ by up to 4.4 of it in float32, where a sum of many terms is
rounded often, and by 0.9 in bfloat16, in random models of up to 2,048 hidden values and 24 layers.
"""
_MOST = 1 / 4
"""The bound over the size of the logits is no larger, however a model reacts.

Where models react so much, passes without mask or positions differ by 0.6 and more.
"""

BIT_EXACT_TIE_ULP = {torch.float32: 64.0, torch.float16: 2.0, torch.bfloat16: 2.0}
"""The widest tie of passes that agree to the bit, in units in the last place. They need little room."""

_SMALLEST = 2.0**-14  # below it an ulp shrinks no more


def rounding_eps(dtype: torch.dtype, reaction: float) -> float:
    """Return the largest difference of a model's logits that is still rounding, in eps of the dtype.

    `reaction`: by how much noise of one eps at every module's output changes them, in eps too.
    """
    if not math.isfinite(reaction):
        return ROUNDING_EPS[dtype]
    most: float = _MOST / torch.finfo(dtype).eps
    return max(ROUNDING_EPS[dtype], min(_PER_REACTION[dtype] * reaction, most))


def difference_eps(found: Tensor, expected: Tensor, dtype: torch.dtype) -> float:
    """Return the largest difference of logits, in eps of the dtype at the size of the expected ones."""
    size = expected.abs().max().clamp(min=1)
    return float((found - expected).abs().max() / (torch.finfo(dtype).eps * size))


@contextmanager
def rounding_noise(model: Any) -> Iterator[None]:
    """Add normal noise to the output of every module without parts, in passes within.

    Its deviation is an eps of the output's dtype at the root mean square of the output's rows.
    """
    generators: dict[torch.device, torch.Generator] = {}
    hooks = [
        module.register_forward_hook(partial(_with_noise, generators))
        for module in model.modules()
        if next(module.children(), None) is None
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _with_noise(generators: dict[torch.device, torch.Generator], _: Any, __: Any, output: Any) -> Any:
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return output
    device = output.device
    if device not in generators:
        generators[device] = torch.Generator(device).manual_seed(0)
    noise = torch.randn(output.shape, generator=generators[device], device=device)
    size = output.float().square().mean(dim=-1, keepdim=True).sqrt()
    return (output + torch.finfo(output.dtype).eps * size * noise).to(output.dtype)


def ulp(dtype: torch.dtype, size: float) -> float:
    """Return a unit in the last place of the dtype at numbers of a size."""
    eps: float = torch.finfo(dtype).eps
    return eps * 2.0 ** math.floor(math.log2(max(abs(size), _SMALLEST)))
