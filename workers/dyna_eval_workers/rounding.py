"""By how much right passes over the same tokens may differ, for the self-test and for comparing samples.

Sums that are added up in another order are rounded otherwise, layer after layer: transformers' products of
one and of several tokens are different kernels, siblings of a tree stand between the rows of a branch in the
cache, and a peer's loop shapes its passes in its own way.
"""

from __future__ import annotations

import math

import torch

ROUNDING_EPS = {torch.float32: 64.0, torch.float16: 16.0, torch.bfloat16: 16.0}
"""Largest difference of two logits that is still rounding, in eps of the dtype at their size.

Right models differ by less than 4 in 16 bits, and by 13 in float32. Small models that ignore positions or
mask differ by 17 and more in bfloat16, so a bound for all dtypes, wide enough for float32's sums of hundreds
of terms, would let them pass.
"""

_BIT_EXACT_TIE_ULP = {torch.float32: 64.0, torch.float16: 2.0, torch.bfloat16: 2.0}
_SMALLEST = 2.0**-14  # below it an ulp shrinks no more


def tie_bound(dtype: torch.dtype, *, bit_exact: bool) -> float:
    """Return the largest margin, in units in the last place (ulp), that is a numeric tie and no violation.

    `bit_exact`: whether what is compared comes of passes that agree to the bit. They need little room.
    """
    return (_BIT_EXACT_TIE_ULP if bit_exact else ROUNDING_EPS)[dtype]


def ulp(dtype: torch.dtype, size: float) -> float:
    """Return a unit in the last place of the dtype at numbers of a size."""
    eps: float = torch.finfo(dtype).eps
    return eps * 2.0 ** math.floor(math.log2(max(abs(size), _SMALLEST)))
