"""Comparing a sample with what the target alone emits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dyna_eval.jobs import GenerationSpec
from dyna_eval.measurements import Exactness
from dyna_eval_workers.runner import COMMITTED, Runner
from dyna_eval_workers.sampling import Sampler

_TIE_ULP = {torch.float32: 64.0, torch.float16: 2.0, torch.bfloat16: 2.0}
"""Largest margin, in units in the last place (ulp), that rounding may invert: see `_margin_ulp`.

16-bit logits are rounded once more than float32 ones differ between a one-token and a tree-wide forward;
float32 sums over some hundred terms differ by a few dozen ulp.
"""


PEER_TIE_ULP = 16.0
"""The same for loops that are not ours: they round differently, layer after layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenComparison:
    """How a sample differs from its reference; index and margin are None where it does not.

    `margin_ulp` is how far below the target's best score the lower of the two tokens (reference, emitted)
    lies at the first difference, in units in the last place of the model's dtype at the best score; None
    where one text is a prefix of the other.
    """

    exactness: Exactness
    divergence_index: int | None = None
    margin_ulp: float | None = None


def compare_tokens(
    target: Runner,
    *,
    prompt: Sequence[int],
    reference: Sequence[int],
    emitted: Sequence[int],
    generation: GenerationSpec,
    seed: str,
    tie_ulp: float | None = None,
) -> TokenComparison:
    """Compare emitted tokens with the target's own, and tell a numeric tie from a violation.

    A difference is a tie if its margin is at most the dtype's own bound (float32 64 ulp, 16-bit 2 ulp) or
    `tie_ulp`, whichever is larger.
    """
    if tuple(reference) == tuple(emitted):
        return TokenComparison(exactness=Exactness.EXACT)
    index = next((i for i, (r, e) in enumerate(zip(reference, emitted, strict=False)) if r != e), None)
    if index is None:
        return TokenComparison(
            exactness=Exactness.VIOLATION, divergence_index=min(len(reference), len(emitted))
        )
    scores = _scores_at(target, [*prompt, *reference[:index]], generation, seed)
    margin = _margin_ulp(scores, reference[index], emitted[index], target.dtype)
    tie = margin <= max(_TIE_ULP[target.dtype], tie_ulp or 0.0)
    return TokenComparison(
        exactness=Exactness.TIE if tie else Exactness.VIOLATION, divergence_index=index, margin_ulp=margin
    )


def _scores_at(target: Runner, tokens: list[int], generation: GenerationSpec, seed: str) -> torch.Tensor:
    """Return the target's scores for the token after `tokens`, (V,)."""
    target.reserve(len(tokens))
    target.prefill(tokens[:-1])
    target.extend(tokens[-1:], [COMMITTED])
    logits = target.logits()[0].float().cpu()
    sampler = Sampler(temperature=generation.temperature, seed=seed, vocabulary=target.vocabulary)
    noise = sampler.noise([len(tokens)])
    return logits if noise is None else logits / generation.temperature + torch.from_numpy(noise[0])


def _margin_ulp(scores: torch.Tensor, reference: int, emitted: int, dtype: torch.dtype) -> float:
    """Return how far below the best score the lower of two tokens' scores lies.

    In units in the last place of `dtype` at the best score.
    """
    best = float(scores.max())
    ulp = torch.finfo(dtype).eps * 2.0 ** math.floor(math.log2(max(abs(best), 2**-14)))
    return (best - min(float(scores[reference]), float(scores[emitted]))) / ulp
