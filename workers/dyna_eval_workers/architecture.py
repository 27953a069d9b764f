"""Which models can be verified as trees, decided before any timing.

A tree node must attend to its own ancestors only, at the position of its depth. Models whose attention
depends on the distance between cache rows (ALiBi), forgets old rows (sliding windows) or has no rows
at all (recurrent layers) cannot do that, and some fail silently. So a configuration is checked first,
and a loaded model must pass a self-test against plain forward passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from dyna_eval.errors import PairError
from dyna_eval_workers.families import FAMILIES
from dyna_eval_workers.rounding import ROUNDING_EPS
from dyna_eval_workers.runner import COMMITTED, Runner, UncommittedRows, position_limit, vocabulary_size
from dyna_eval_workers.sampling import Sampler
from dyna_eval_workers.tree import ROOT, Tree

_ALIBI = {"bloom", "mpt"}
_FULL_ATTENTION = {"full_attention", "attention"}
_WIDTHS = 7, 24, 40  # nodes of the passes of the self-test
_RANKED = 4  # tokens that it asks for after each node
_NEAR = 1e-3  # log-probabilities in float32 that differ by less are the same


def check_architecture(config: Any, name: str) -> None:
    """Raise PairError where a model of this configuration cannot be verified as a tree."""
    kind = config.model_type
    text = config.get_text_config()
    if config.is_encoder_decoder or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise PairError(
            f"{name}: {kind!r} is not a causal language model that transformers knows; "
            "choose a decoder-only model"
        )
    if kind in _ALIBI or getattr(text, "alibi", False):
        raise PairError(
            f"{name}: {kind} uses ALiBi, which cannot be verified as a tree; choose another model"
        )
    window, layers = _window(text), set(getattr(text, "layer_types", None) or ())
    if window and window < (position_limit(config) or window + 1):
        raise PairError(
            f"{name}: attention slides over a window of {window} tokens, shorter than the context; "
            "a tree cannot be verified in it; choose a model without a sliding window"
        )
    foreign = layers - _FULL_ATTENTION - {"sliding_attention"}
    if foreign or _is_recurrent(config):
        what = ", ".join(sorted(foreign)) or kind
        raise PairError(f"{name}: recurrent or hybrid layers ({what}) cannot be verified as a tree")
    if not _has_sdpa(config):
        raise PairError(
            f"{name}: transformers has no scaled-dot-product attention (sdpa) for {kind}, with which trees "
            "are verified; choose another model"
        )


def _window(text: Any) -> int | None:
    """Return the length of the window in which some layer's attention slides; None where none does."""
    if "local" in getattr(text, "attention_layers", ()):  # GPT-Neo's word for it
        return int(text.window_size)
    layers = getattr(text, "layer_types", None)
    if layers and "sliding_attention" not in layers:
        return None
    return getattr(text, "sliding_window", None)  # None too where the family has a flag and it is off


def _is_recurrent(config: Any) -> bool:
    return config.model_type not in FAMILIES and bool(getattr(_model_class(config), "_is_stateful", False))


def _has_sdpa(config: Any) -> bool:
    return config.model_type in FAMILIES or bool(getattr(_model_class(config), "_supports_sdpa", False))


def _model_class(config: Any) -> Any:
    """Import a model's class, which takes seconds: the families that we know need not be asked."""
    return AutoModelForCausalLM._model_mapping.get(type(config), None)


@torch.inference_mode()
def plain_logits(model: Any) -> list[Tensor]:
    """Return a model's logits after each path of the self-test's tree, in a plain pass each; 7 times (V,)."""
    prompt, tree = _prompt_and_tree(vocabulary_size(model.config))
    device = next(model.parameters()).device
    found = []
    for node in range(len(tree)):
        path = [node]
        while path[0] != ROOT:
            path.insert(0, tree.parent[path[0]])
        ids = [*prompt[:-1], *(tree.token[passed] for passed in path)]
        logits = model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits
        found.append(logits[0, -1].float())
    return found


def self_test(runner: Runner, plain: Sequence[Tensor], name: str) -> None:
    """Let a runner verify a tree of 7 nodes in one pass, and compare it with its model's plain passes.

    Again beside more children of the root, since kernels have other code for wider passes, and once more a
    leaf alone, after the path to it was accepted. What it chooses and ranks must be what its logits say.
    Raises PairError where two disagree by more than rounding.
    """
    prompt, tree = _prompt_and_tree(runner.vocabulary)
    runner.reserve(len(prompt) + max(_WIDTHS))
    runner.prefill(prompt[:-1])
    for width in _WIDTHS:
        more = width - len(tree)
        tokens, parents = [*tree.token, *[1] * more], [*tree.parent, *[ROOT] * more]
        _check_pass(runner, tokens, parents, plain, name, ranks_first=False)
        runner.keep([])
    leaf = len(tree) - 1
    runner.extend(tree.token, tree.parent)
    runner.keep([ROOT, tree.parent[leaf]])
    _check_pass(runner, tree.token[leaf:], [COMMITTED], plain[leaf:], name, ranks_first=True)


def _check_pass(
    runner: Runner,
    tokens: Sequence[int],
    parents: Sequence[int],
    plain: Sequence[Tensor],
    name: str,
    *,
    ranks_first: bool,
) -> None:
    """Check one pass: its answers, greedy and sampled, and the logits of its first tokens, which are `plain`.

    What is asked first a graph answers together with the pass.
    """
    rows = UncommittedRows()
    rows.add(parents, runner.length)
    positions = [position + 1 for position in rows.positions[: len(plain)]]
    runner.extend(tokens, parents)
    samplers = [Sampler(temperature=t, seed="self-test", vocabulary=runner.vocabulary) for t in (0.0, 1.0)]
    answers = [_answers(runner, sampler, ranks_first=ranks_first) for sampler in samplers]
    logits = runner.logits().float()[: len(plain)]
    _compare(logits, plain, runner.dtype, name)
    for sampler, answer in zip(samplers, answers, strict=True):
        noise = sampler.noise(positions)
        scores = logits.cpu()
        if noise is not None:
            scores = scores / sampler.temperature + torch.from_numpy(noise)
        if not answer.error(scores) <= _NEAR:  # also catches NaN
            how = "greedily" if noise is None else "by sampling"
            raise PairError(f"{name}: the tokens that are chosen {how} are not those that its logits say")


@dataclass(frozen=True, slots=True)
class _Answers:
    """What a runner chose after every token, (N,), and its best ones with their log-probabilities, (N, B)."""

    chosen: list[int]
    ranked: list[list[int]]
    log_probabilities: list[list[float]]

    def error(self, scores: Tensor) -> float:
        """Return by how much they are off the scores of the first tokens, (n, vocabulary)."""
        count = len(scores)
        expected = scores.log_softmax(dim=-1)
        chosen = expected.gather(1, torch.tensor(self.chosen[:count])[:, None])
        ranked = expected.gather(1, torch.tensor(self.ranked[:count]))
        best = expected.topk(ranked.shape[1], dim=-1).values
        reported = torch.tensor(self.log_probabilities[:count])
        return float(torch.cat([best[:, :1] - chosen, best - ranked, ranked - reported], dim=1).abs().max())


def _answers(runner: Runner, sampler: Sampler, *, ranks_first: bool) -> _Answers:
    branch = min(_RANKED, runner.vocabulary)
    chosen = [] if ranks_first else runner.choose(sampler)
    ranked, log_probabilities = runner.top_k(branch, sampler, runner.vocabulary)
    return _Answers(chosen or runner.choose(sampler), ranked, log_probabilities)


def _compare(logits: Tensor, plain: Sequence[Tensor], dtype: torch.dtype, name: str) -> None:
    for found, expected in zip(logits, plain, strict=True):
        difference = (found - expected).abs().max()
        allowed = ROUNDING_EPS[dtype] * torch.finfo(dtype).eps * expected.abs().max().clamp(min=1)
        if not difference <= allowed:  # also catches NaN
            raise PairError(
                f"{name}: verifying a tree changes its logits by {difference:.2g}, more than rounding allows "
                f"({allowed:.2g}); this architecture is not supported, or its weights are damaged"
            )


def _prompt_and_tree(vocabulary: int) -> tuple[list[int], Tree]:
    """Return 5 tokens, and a tree on the last of them: two children, and two children of each."""
    generator = torch.Generator().manual_seed(0)
    prompt: list[int] = torch.randint(1, vocabulary, (5,), generator=generator).tolist()
    tree = Tree.with_root(prompt[-1])
    for parents in ([0, 0], [1, 1, 2, 2]):
        for token, parent in enumerate(parents, start=1):
            tree.add(parent, token % vocabulary, 0.0)
    return prompt, tree
