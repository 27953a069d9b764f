"""Sampling draws from the target's own distribution, whatever the tree and whatever runs the model."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from dyna_eval_workers.growth.trees import TopBranches
from dyna_eval_workers.runner import COMMITTED
from dyna_eval_workers.sampling import Sampler, gumbel_noise, noise_from_words, random_words
from scipy.stats import binomtest, chisquare, gumbel_r, kstest, pearsonr

from dyna_eval.jobs import GenerationSpec
from tests.distributions import chi_square, model_after, target_distribution
from tests.models import VOCABULARY, tiny_gpt_neox
from tests.runners import RUNNERS, decoder


def sampler(temperature: float, seed: str, vocabulary: int = 5) -> Sampler:
    return Sampler(temperature=temperature, seed=seed, vocabulary=vocabulary)


def scores(sampler: Sampler, logits: torch.Tensor, positions: list[int]) -> torch.Tensor:
    """Return the scores whose argmax is the choice; logits are (positions, V)."""
    noise = sampler.noise(positions)
    return logits if noise is None else logits / sampler.temperature + torch.from_numpy(noise)


def test_greedy_adds_no_noise() -> None:
    assert sampler(0.0, "s", 3).noise([7]) is None


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
def test_the_argmax_of_the_scores_is_a_draw_from_the_softmax(temperature: float) -> None:
    logits = torch.tensor([1.0, 0.0, -0.5, 2.0, -3.0])
    draws = 4000
    chosen = scores(sampler(temperature, "s"), logits.expand(draws, 5), list(range(draws))).argmax(-1)
    counts = Counter(chosen.tolist())
    expected = (logits / temperature).softmax(-1).double() * draws
    assert chisquare([counts[token] for token in range(5)], expected * (draws / expected.sum())).pvalue > 1e-3


def test_the_noise_of_a_position_is_its_own_alone() -> None:
    """Two nodes of one depth get the same noise, as AR will have it when it gets there."""
    together = sampler(1.0, "s").noise([10, 11, 11])
    assert together is not None
    assert np.array_equal(together[1], together[2])
    assert not np.array_equal(together[0], together[1])
    for row, position in enumerate((10, 11, 11)):
        alone = sampler(1.0, "s").noise([position])
        assert alone is not None
        assert np.array_equal(together[row], alone[0])


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0, 0, 0, 0], 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([2**32 - 1] * 4, 2**64 - 1, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            0x299F31D0A4093822,
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_random_words_are_those_of_philox(counter: list[int], key: int, words: list[int]) -> None:
    """The known answers that its authors publish with their library, Random123."""
    arrays = [np.array([word], dtype=np.uint64) for word in counter]
    assert [int(word[0]) for word in random_words(arrays, key)] == words


def test_the_noise_follows_gumbels_distribution_to_its_tails() -> None:
    """The upper one decides what is drawn: of 4 million values, some 190 are over 10, and 9 over 13."""
    noise = np.concatenate([gumbel_noise(7, position, 65536) for position in range(64)]).astype(np.float64)
    assert np.isfinite(noise).all()
    assert kstest(noise[:: len(noise) // 100_000], "gumbel_r").pvalue > 1e-3
    for bound in (-2.0, 5.0, 10.0, 13.0):
        over = int((noise > bound).sum())
        assert binomtest(over, len(noise), gumbel_r.sf(bound)).pvalue > 1e-3, bound


def test_the_noise_of_every_word_is_a_number_and_that_of_small_ones_exact() -> None:
    """Small words are those of likely tokens. Near 2^32, those of the least likely, float32 rounds to 1."""
    words = np.concatenate([np.arange(300), 2 ** np.arange(9, 32), [3 << 30, 2**32 - 1]]).astype(np.uint64)
    uniform = (words.astype(np.float64) + 0.5) / 2**32
    noise = noise_from_words(words)
    np.testing.assert_allclose(noise[:-1], -np.log(-np.log1p(-uniform[:-1])), rtol=0, atol=2e-6)
    assert -3 < noise[-1] < noise[:-1].min()


def test_neither_neighbours_nor_positions_are_correlated() -> None:
    noise = np.stack([gumbel_noise(7, position, 4096) for position in range(256)]).astype(np.float64)
    for one, other in (
        (noise[:, :-1], noise[:, 1:]),
        (noise[:, :-16], noise[:, 16:]),
        (noise[:, :-64], noise[:, 64:]),
        (noise[:-1], noise[1:]),
    ):
        assert pearsonr(one.ravel(), other.ravel()).pvalue > 1e-3


@pytest.mark.parametrize("vocabulary", [1, 63, 64, 65, 4099])
def test_the_noise_of_a_token_does_not_depend_on_how_many_there_are(vocabulary: int) -> None:
    assert np.array_equal(gumbel_noise(5, 9, vocabulary), gumbel_noise(5, 9, 5000)[:vocabulary])


def test_another_seed_has_another_noise() -> None:
    one, other = sampler(1.0, "s").noise([3]), sampler(1.0, "t").noise([3])
    assert one is not None
    assert other is not None
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("temperature", [0.0, 0.6])
@pytest.mark.parametrize("backend", RUNNERS)
def test_a_node_gets_the_noise_of_its_own_position(backend: str, temperature: float) -> None:
    """Depth d under a pending token at p chooses with the noise of position p + d + 1."""
    runner = RUNNERS[backend](tiny_gpt_neox(seed=1))
    runner.reserve(16)
    runner.prefill([3, 5, 2])
    runner.extend([8], [COMMITTED])
    runner.extend([11, 12, 13, 14], [0, 0, 1, 2])
    positions = [5, 5, 6, 6]
    expected = scores(sampler(temperature, "s", VOCABULARY), runner.logits(), positions).argmax(-1)
    assert runner.choose(sampler(temperature, "s", VOCABULARY)) == expected.tolist()
    best, _ = runner.top_k(1, sampler(temperature, "s", VOCABULARY), VOCABULARY)
    assert [token for [token] in best] == expected.tolist()


def test_noise_that_was_forgotten_comes_back_the_same() -> None:
    noisy = sampler(1.0, "s")
    before = noisy.noise([3])
    noisy.forget_before(100)
    after_all = noisy.noise([3])
    assert before is not None
    assert after_all is not None
    assert np.array_equal(before, after_all)


@pytest.mark.parametrize("backend", [pytest.param("eager", marks=pytest.mark.slow), "compile"])
@pytest.mark.parametrize("draft_seed", [1, 8], ids=["the target itself", "a stranger"])
def test_two_sampled_tokens_follow_the_targets_distribution(draft_seed: int, backend: str) -> None:
    """A chi-square over pairs of tokens decoded by a pruned tree, against the enumerated distribution.

    That this test tells a sampler with a fault from a right one is shown in test_output_distribution.
    """
    target, prompt, draws = tiny_gpt_neox(seed=1, vocabulary=6), [3, 5, 2], 1500
    draft = tiny_gpt_neox(seed=draft_seed, vocabulary=6)
    pair = decoder(target, draft, backend=backend, vocabulary=6, end_tokens=())
    policy = TopBranches(depth=2, branches=2, root_branches=3, threshold=0.05, max_nodes=9)
    generation = GenerationSpec(max_new_tokens=2, temperature=1.0)
    sample = [pair.decode(prompt, generation, policy, seed=str(seed)).token_ids for seed in range(draws)]
    distribution = target_distribution(model_after(prompt, RUNNERS["eager"](target), depth=2), 2, 6)
    assert chi_square(sample, distribution) > 1e-3
