"""Which models can be verified as trees, decided before any timing.

A tree node must attend to its own ancestors only, at the position of its depth. Models whose attention
depends on the distance between cache rows (ALiBi, GPT-Neo's local layers) or has no rows at all (recurrent
layers) cannot do that, and some fail silently. So a configuration is checked first, and a loaded model must
pass a self-test against plain forward passes. A sliding window bounds the positions: see `position_limit`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from dyna_eval.errors import PairError
from dyna_eval_workers.families import FAMILIES
from dyna_eval_workers.rounding import difference_eps, rounding_eps, rounding_noise
from dyna_eval_workers.runner import COMMITTED, Runner, UncommittedRows, position_limit, vocabulary_size
from dyna_eval_workers.sampling import Sampler
from dyna_eval_workers.tree import ROOT, Tree

_ALIBI = {"bloom", "mpt"}
_ATTENTION = {"full_attention", "attention", "sliding_attention"}
_EAGER_ATTENTION = {"gemma2", "gptj"}  # families without sdpa whose own attention takes the mask of a tree
_WIDTHS = 7, 24, 40  # nodes of the passes of the self-test
_PROMPTS = 5, 150  # tokens before the tree; behind so many kernels read rows, mask and tokens in parts
_REACTING = 32  # last tokens of the long prompt that tell how a model reacts to noise
_WIDE = 72  # nodes of the pass after the long prompt: more than any kernel takes at once
_LEVELS, _LEAVES = 2, (3, 4, 5, 6)  # of the tree of 7 nodes
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
    if quantization := getattr(config, "quantization_config", None):
        how = quantization.get("quant_method", "by a method that is not named")
        raise PairError(
            f"{name}: the checkpoint is quantised ({how}), and only models in 16 or 32 bits are measured; "
            "choose such a checkpoint"
        )
    if kind in _ALIBI or getattr(text, "alibi", False):
        raise PairError(
            f"{name}: {kind} uses ALiBi, which cannot be verified as a tree; choose another model"
        )
    if "local" in getattr(text, "attention_layers", ()):  # GPT-Neo's, whatever mask is given
        raise PairError(
            f"{name}: {kind} has local layers, whose window counts rows of the cache, so that no tree can be "
            "verified; choose another model"
        )
    if unequal := getattr(text, "per_layer_attributes", None):
        raise PairError(
            f"{name}: the layers of {kind} differ in {', '.join(sorted(unequal))}, and the engine has one "
            "cache for all of them; choose another model"
        )
    if _caches_unequal_sizes(text):
        raise PairError(
            f"{name}: {kind} caches keys and values of different sizes (latent attention), for which the "
            "engine has no cache; choose another model"
        )
    foreign = set(getattr(text, "layer_types", None) or ()) - _ATTENTION
    if foreign or _is_recurrent(config):
        what = ", ".join(sorted(foreign)) or kind
        raise PairError(f"{name}: recurrent or hybrid layers ({what}) cannot be verified as a tree")
    if attention_of(config) == "sdpa" and not _has_sdpa(config):
        raise PairError(
            f"{name}: transformers has no scaled-dot-product attention (sdpa) for {kind}, with which trees "
            "are verified; choose another model"
        )


def _caches_unequal_sizes(text: Any) -> bool:
    """Whether a head's keys and values differ in size, as configurations with latent attention say."""
    unturned, turned = (getattr(text, f"qk_{part}_head_dim", None) for part in ("nope", "rope"))
    values = getattr(text, "v_head_dim", None)
    return bool(unturned and turned and values and unturned + turned != values)


def attention_of(config: Any) -> str:
    """Return transformers' name of the attention with which a model is loaded."""
    return "eager" if config.model_type in _EAGER_ATTENTION else "sdpa"


def _is_recurrent(config: Any) -> bool:
    return config.model_type not in FAMILIES and bool(getattr(_model_class(config), "_is_stateful", False))


def _has_sdpa(config: Any) -> bool:
    return config.model_type in FAMILIES or bool(getattr(_model_class(config), "_supports_sdpa", False))


def _model_class(config: Any) -> Any:
    """Import a model's class, which takes seconds: the families that we know need not be asked."""
    return AutoModelForCausalLM._model_mapping.get(type(config), None)


@dataclass(frozen=True, slots=True)
class PlainLogits:
    """A model's logits after nodes of the self-test's tree, (V,), behind a short and a long prompt."""

    short: dict[int, Tensor]
    long: dict[int, Tensor]
    rounding_eps: float
    """By how much other right passes may differ from them: see `rounding`."""


@torch.inference_mode()
def plain_logits(model: Any) -> PlainLogits:
    """Run a model's plain passes: over every path of the tree, and behind the long prompt over the last.

    Both prompts are run again with noise, for how much rounding may do.
    """
    short, long = _prompts(vocabulary_size(model.config), position_limit(model.config))
    tree = _tree_on(short[-1], vocabulary_size(model.config))
    after_short: dict[int, Tensor] = {}
    for leaf in _LEAVES:
        after_short |= _after_path(model, short, tree, leaf)
    reaction = max(_reaction(model, short), _reaction(model, long))
    bound = rounding_eps(next(model.parameters()).dtype, reaction)
    return PlainLogits(after_short, _after_path(model, long, tree, _LEAVES[-1]), bound)


def _after_path(model: Any, prompt: list[int], tree: Tree, leaf: int) -> dict[int, Tensor]:
    """Return the logits after each node on the path from the root, the prompt's last token, to a leaf."""
    path = _path_to(tree, leaf)
    ids = [*prompt[:-1], *(tree.token[node] for node in path)]
    return dict(zip(path, _last_logits(model, ids, len(path)), strict=True))


def _reaction(model: Any, ids: list[int]) -> float:
    """Return by how much noise of the size of rounding moves a model's logits, in eps of its dtype.

    It is the median over the last tokens: one of a mixture of experts may jump to another expert.
    """
    plain = _last_logits(model, ids, _REACTING)
    with rounding_noise(model):
        noisy = _last_logits(model, ids, _REACTING)
    dtype = next(model.parameters()).dtype
    return median(difference_eps(*both, dtype) for both in zip(noisy, plain, strict=True))


def _last_logits(model: Any, ids: list[int], count: int) -> Tensor:
    """Return the logits after each of the last tokens of a plain pass, (count, V), fewer of a short text."""
    device = next(model.parameters()).device
    output = model(input_ids=torch.tensor([ids], device=device), use_cache=False, logits_to_keep=count)
    logits: Tensor = output.logits[0].float()
    return logits


def self_test(runner: Runner, plain: PlainLogits, name: str) -> None:
    """Let a runner verify a tree of 7 nodes in one pass, and compare it with its model's plain passes.

    Again beside more children of the root, since kernels have other code for wider passes, and once more a
    leaf alone, after the path to it was accepted. Then the widest pass and the leaf behind a long prompt.
    What it chooses and ranks must be what its logits say. Raises PairError where two disagree by more than
    rounding, which the runner is told the bound of.
    """
    runner.rounding_eps = plain.rounding_eps
    short, long = _prompts(runner.vocabulary, runner.position_limit)
    tree = _tree_on(short[-1], runner.vocabulary)
    runner.reserve(max(len(short) + max(_WIDTHS), len(long) + _WIDE))
    runner.prefill(short[:-1])
    for width in _WIDTHS:
        _check_tree(runner, tree, width - len(tree), plain.short, name)
        runner.keep([])
    runner.extend(tree.token, tree.parent)
    _check_leaf(runner, tree, 0, plain.short, name)

    runner.reserve(len(long) + _WIDE)
    runner.prefill(long[:-1])
    _check_tree(runner, tree, _WIDE - len(tree), plain.long, name)
    _check_leaf(runner, tree, _WIDE - len(tree), plain.long, name)


def _check_tree(runner: Runner, tree: Tree, more: int, plain: dict[int, Tensor], name: str) -> None:
    """Check a pass over the tree, with `more` children of the root between the root and its nodes."""
    tokens = [tree.token[ROOT], *[1] * more, *tree.token[1:]]
    rows = [_row(node, more) for node in range(len(tree))]
    parents = [COMMITTED, *[ROOT] * more, *(rows[parent] for parent in tree.parent[1:])]
    expected = {rows[node]: logits for node, logits in plain.items()}
    _check_pass(runner, tokens, parents, expected, name, ranks_first=False)


def _check_leaf(runner: Runner, tree: Tree, more: int, plain: dict[int, Tensor], name: str) -> None:
    """Accept the path to the last leaf of a pass that `_check_tree` runs, and check a pass over that leaf."""
    *path, leaf = _path_to(tree, _LEAVES[-1])
    runner.keep([_row(node, more) for node in path])
    _check_pass(runner, [tree.token[leaf]], [COMMITTED], {0: plain[leaf]}, name, ranks_first=True)


def _row(node: int, more: int) -> int:
    """Return the uncommitted row of a node of the tree, `more` others being between the root and the rest."""
    return node if node == ROOT else node + more


def _check_pass(
    runner: Runner,
    tokens: Sequence[int],
    parents: Sequence[int],
    plain: dict[int, Tensor],
    name: str,
    *,
    ranks_first: bool,
) -> None:
    """Check a pass: its answers, greedy and sampled, and the logits of its tokens of which `plain` is known.

    What is asked first a graph answers together with the pass.
    """
    asked = list(plain)
    rows = UncommittedRows()
    rows.add(parents, runner.length)
    positions = [rows.positions[row] + 1 for row in asked]
    runner.extend(tokens, parents)
    samplers = [Sampler(temperature=t, seed="self-test", vocabulary=runner.vocabulary) for t in (0.0, 1.0)]
    answers = [_answers(runner, sampler, asked, ranks_first=ranks_first) for sampler in samplers]
    logits = runner.logits()[asked].float()
    _compare(logits, plain.values(), runner, name)
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
    """What a runner chose after n tokens, (n,), and its best ones with their log-probabilities, (n, B)."""

    chosen: list[int]
    ranked: list[list[int]]
    log_probabilities: list[list[float]]

    def error(self, scores: Tensor) -> float:
        """Return by how much they are off the scores, (n, vocabulary)."""
        expected = scores.log_softmax(dim=-1)
        chosen = expected.gather(1, torch.tensor(self.chosen)[:, None])
        ranked = expected.gather(1, torch.tensor(self.ranked))
        best = expected.topk(ranked.shape[1], dim=-1).values
        reported = torch.tensor(self.log_probabilities)
        return float(torch.cat([best[:, :1] - chosen, best - ranked, ranked - reported], dim=1).abs().max())


def _answers(runner: Runner, sampler: Sampler, asked: Sequence[int], *, ranks_first: bool) -> _Answers:
    """Ask about the latest pass, and return the answers for some of its tokens."""
    branch = min(_RANKED, runner.vocabulary)
    chosen = [] if ranks_first else runner.choose(sampler)
    ranked, log_probabilities = runner.top_k(branch, sampler, runner.vocabulary)
    chosen = chosen or runner.choose(sampler)
    return _Answers(
        [chosen[token] for token in asked],
        [ranked[token] for token in asked],
        [log_probabilities[token] for token in asked],
    )


def _compare(logits: Tensor, plain: Iterable[Tensor], runner: Runner, name: str) -> None:
    for found, expected in zip(logits, plain, strict=True):
        difference = difference_eps(found, expected, runner.dtype)
        if not difference <= runner.rounding_eps:  # also catches NaN
            unit = torch.finfo(runner.dtype).eps
            remedy = "" if runner.dtype is torch.float32 else "try float32, and if that fails too: "
            raise PairError(
                f"{name}: a tree's logits differ from those of plain passes by {difference * unit:.2g} of "
                f"their size, more than rounding allows ({runner.rounding_eps * unit:.2g}); {remedy}this "
                "architecture is not supported, or its weights are damaged"
            )


def _prompts(vocabulary: int, positions: int | None) -> list[list[int]]:
    """Return the short and the long prompt, as far as positions leave room for a tree; both end alike."""
    generator = torch.Generator().manual_seed(0)
    tokens: list[int] = torch.randint(1, vocabulary, (_PROMPTS[-1],), generator=generator).tolist()
    room = len(tokens) if positions is None else max(1, positions - _LEVELS)
    return [tokens[-min(length, room) :] for length in _PROMPTS]


def _tree_on(root: int, vocabulary: int) -> Tree:
    """Return a tree on a prompt's last token: two children, and two children of each."""
    tree = Tree.with_root(root)
    for parents in ([0, 0], [1, 1, 2, 2]):
        for token, parent in enumerate(parents, start=1):
            tree.add(parent, token % vocabulary, 0.0)
    return tree


def _path_to(tree: Tree, node: int) -> list[int]:
    """Return the nodes from the root to a node."""
    path = [node]
    while path[0] != ROOT:
        path.insert(0, tree.parent[path[0]])
    return path
