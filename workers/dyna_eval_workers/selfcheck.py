"""Checking a pair by hand: does it load, do the tokenizers agree, are a chain and a tree exact on it?"""

from __future__ import annotations

import torch

from dyna_eval.errors import PairError
from dyna_eval.jobs import GenerationSpec, PairSpec
from dyna_eval.measurements import Exactness
from dyna_eval_workers.exactness import compare_tokens
from dyna_eval_workers.growth.trees import TopBranches
from dyna_eval_workers.loading import load_pair
from dyna_eval_workers.pairs import available_device, inspect_pair
from dyna_eval_workers.runner import Runner

_PROMPT = "The quick brown fox jumps over the lazy dog, and then"
_NEW_TOKENS = 32
_CHAIN = TopBranches(depth=4, branches=1, root_branches=1, threshold=0.0, max_nodes=4)
_TREE = TopBranches(depth=3, branches=2, root_branches=2, threshold=0.0, max_nodes=14)


def _rounding(target: Runner) -> str:
    """Say by how much other right passes than the target's may differ, as those of transformers' loops."""
    share = target.rounding_eps * torch.finfo(target.dtype).eps
    return (
        f"rounding: other right passes may differ by {share:.2g} of the largest logit"
        f" ({target.rounding_eps:.0f} eps)"
    )


def check(spec: PairSpec) -> list[str]:
    """Return one line per check passed; raises PairError at the first that is not."""
    device = available_device()
    inspected = inspect_pair(spec, device=device)
    agreed = "configurations supported, tokenizers agree" if spec.draft else "configuration supported"
    limit = inspected.position_limit
    room = "" if limit is None else f", up to {limit:,} tokens with the prompt"
    lines = [f"{spec.name}: {agreed}, runs in {inspected.pair.dtype} on {device}{room}"]
    loaded = load_pair(inspected.pair, torch.device(device))
    lines.append("loaded; a tree is verified in one pass as its paths are in plain ones")
    lines.append(f"backend: {loaded.backend}")
    lines.append(_rounding(loaded.decoder.target))
    if loaded.decoder.draft is None:
        return lines
    prompt = tuple(loaded.tokenizer(_PROMPT)["input_ids"])
    if limit is not None:
        prompt = prompt[: max(1, limit - _NEW_TOKENS)]
    new = _NEW_TOKENS if limit is None else min(_NEW_TOKENS, limit - len(prompt))
    for temperature in (0.0, 1.0):
        generation = GenerationSpec(max_new_tokens=new, temperature=temperature)
        reference = loaded.decoder.decode(prompt, generation, None, seed="0")
        for name, policy in (("linear", _CHAIN), ("tree", _TREE)):
            decoded = loaded.decoder.decode(prompt, generation, policy, seed="0")
            comparison = compare_tokens(
                loaded.decoder.target,
                prompt=prompt,
                reference=reference.token_ids,
                emitted=decoded.token_ids,
                generation=generation,
                seed="0",
            )
            if comparison.exactness is Exactness.VIOLATION:
                raise PairError(
                    f"{spec.name}: {name} speculation at temperature {temperature} is not what the target "
                    f"alone emits, from new token {comparison.divergence_index} on; do not use this pair"
                )
            length = len(decoded.token_ids) / len(decoded.rounds)
            lines.append(
                f"{name}, temperature {temperature}: {comparison.exactness}, {length:.2f} tokens per round"
            )
    return lines
