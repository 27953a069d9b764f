"""Comparing a sample with what the target alone emits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dyna_eval.jobs import GenerationSpec
from dyna_eval.measurements import Exactness
from dyna_eval_workers.rounding import BIT_EXACT_TIE_ULP, ulp
from dyna_eval_workers.runner import COMMITTED, Runner
from dyna_eval_workers.sampling import Sampler


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenComparison:
    """How a sample differs from its reference; index and margin are None where it does not.

    `margin_ulp` is how far below the target's best score the lower of the two tokens (reference, emitted)
    lies at the first difference, in units in the last place of the model's dtype: see `_Scores.margin_ulp`.
    It is None where one text is a prefix of the other.
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
    by_peer: bool = False,
) -> TokenComparison:
    """Compare emitted tokens with the target's own, and tell a numeric tie from a violation.

    A difference is a tie if rounding may explain its margin: hardly any where our own loop emitted the tokens
    and the target's passes are exact to the bit; `by_peer` says that a loop that is not ours did.
    """
    if tuple(reference) == tuple(emitted):
        return TokenComparison(exactness=Exactness.EXACT)
    index = next((i for i, (r, e) in enumerate(zip(reference, emitted, strict=False)) if r != e), None)
    if index is None:
        return TokenComparison(
            exactness=Exactness.VIOLATION, divergence_index=min(len(reference), len(emitted))
        )
    scores = _scores_at(target, [*prompt, *reference[:index]], generation, seed)
    margin = scores.margin_ulp(reference[index], emitted[index])
    to_the_bit = target.bit_exact and not by_peer
    tie = margin <= (BIT_EXACT_TIE_ULP[target.dtype] if to_the_bit else target.rounding_eps)
    return TokenComparison(
        exactness=Exactness.TIE if tie else Exactness.VIOLATION, divergence_index=index, margin_ulp=margin
    )


@dataclass(frozen=True, slots=True)
class _Scores:
    """Scores at one position, (V,): `scaled`, which is logits / T or greedily the logits; and with noise."""

    scaled: torch.Tensor
    noisy: torch.Tensor
    dtype: torch.dtype

    def margin_ulp(self, reference: int, emitted: int) -> float:
        """Return how far below the best score the lower of two tokens' scores lies.

        In units in the last place of the model's dtype at the largest number there: noise may bring a score
        near 0 whose logit, which was rounded, is large.
        """
        best = float(self.noisy.max())
        size = max(abs(best), *(abs(float(self.scaled[token])) for token in (reference, emitted)))
        lower = min(float(self.noisy[reference]), float(self.noisy[emitted]))
        return (best - lower) / ulp(self.dtype, size)


def _scores_at(target: Runner, tokens: list[int], generation: GenerationSpec, seed: str) -> _Scores:
    """Return the target's scores of the token after `tokens`, (V,)."""
    target.reserve(len(tokens))
    target.prefill(tokens[:-1])
    target.extend(tokens[-1:], [COMMITTED])
    logits = target.logits()[0].float().cpu()
    sampler = Sampler(temperature=generation.temperature, seed=seed, vocabulary=target.vocabulary)
    noise = sampler.noise([len(tokens)])
    if noise is None:
        return _Scores(logits, logits, target.dtype)
    scaled = logits / generation.temperature
    return _Scores(scaled, scaled + torch.from_numpy(noise[0]), target.dtype)
