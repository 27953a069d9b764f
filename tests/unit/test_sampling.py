"""Sampling draws from the target's own law, whatever the tree."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from dyna_eval_workers.decoding import Decoder
from dyna_eval_workers.policies import TopBranches
from dyna_eval_workers.runner import Runner
from dyna_eval_workers.sampling import Chooser
from scipy.stats import chisquare
from torch import Tensor

from dyna_eval.jobs import GenerationSpec
from tests.models import tiny_gpt_neox

CPU = torch.device("cpu")


def chooser(temperature: float, seed: str, vocabulary: int = 5) -> Chooser:
    return Chooser(temperature=temperature, seed=seed, vocabulary=vocabulary, device=CPU)


def test_greedy_scores_are_the_logits() -> None:
    logits = torch.tensor([[0.5, 2.0, -1.0]])
    assert torch.equal(chooser(0.0, "s", 3).scores(logits, 7), logits)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
def test_the_argmax_of_the_scores_is_a_draw_from_the_softmax(temperature: float) -> None:
    logits = torch.tensor([1.0, 0.0, -0.5, 2.0, -3.0])
    draws = 4000
    counts = Counter(
        int(chooser(temperature, "law").scores(logits[None], position).argmax()) for position in range(draws)
    )
    expected = (logits / temperature).softmax(-1).double() * draws
    assert chisquare([counts[token] for token in range(5)], expected * (draws / expected.sum())).pvalue > 1e-3


def test_a_node_gets_the_noise_of_its_own_position() -> None:
    """Depth d under position p draws with the noise of position p + d, as AR will when it gets there."""
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    together = chooser(1.0, "s").scores(logits, 10, torch.tensor([0, 1, 1]))
    for node, depth in enumerate((0, 1, 1)):
        alone = chooser(1.0, "s").scores(logits[node : node + 1], 10 + depth)
        assert torch.equal(together[node : node + 1], alone)


def test_noise_that_was_forgotten_comes_back_the_same() -> None:
    noisy = chooser(1.0, "s")
    before = noisy.scores(torch.zeros(1, 5), 3)
    noisy.forget_before(100)
    assert torch.equal(noisy.scores(torch.zeros(1, 5), 3), before)


@torch.inference_mode()
def law_of_two_tokens(target: Runner, prompt: list[int]) -> Tensor:
    """Return the exact probabilities of all pairs of next tokens at temperature 1, (V, V)."""

    def law(tokens: list[int]) -> Tensor:
        logits: Tensor = target.model(torch.tensor([tokens])).logits[0, -1]
        return logits.double().softmax(-1)

    first = law(prompt)
    return torch.stack([first[token] * law([*prompt, token]) for token in range(target.vocabulary)])


@pytest.mark.parametrize("draft_seed", [1, 2], ids=["the target itself", "a stranger"])
def test_two_sampled_tokens_follow_the_targets_law(draft_seed: int) -> None:
    """A chi-square over pairs of tokens decoded by a pruned tree, against the law by enumeration."""
    target, prompt, vocabulary, draws = Runner(tiny_gpt_neox(seed=1, vocabulary=6)), [3, 5, 2], 6, 1500
    draft = Runner(tiny_gpt_neox(seed=draft_seed, vocabulary=vocabulary))
    decoder = Decoder(target, draft, vocabulary=vocabulary, end_of_text=None)
    policy = TopBranches(depth=2, branches=2, root_branches=3, threshold=0.05, max_nodes=9)
    generation = GenerationSpec(max_new_tokens=2, temperature=1.0)
    counts = Counter(
        decoder.decode(prompt, generation, policy, seed=str(seed)).token_ids for seed in range(draws)
    )
    expected = law_of_two_tokens(target, prompt) * draws
    likely = [(first, second) for first in range(6) for second in range(6) if expected[first, second] >= 5]
    rest = draws - sum(float(expected[pair]) for pair in likely)
    observed = [counts[pair] for pair in likely]
    frequencies = [*(float(expected[pair]) for pair in likely), rest]
    assert len(likely) >= 8
    assert chisquare([*observed, draws - sum(observed)], frequencies).pvalue > 1e-3
