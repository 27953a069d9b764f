"""Distributions of emitted tokens: exactly by enumeration, and from samples by a chi-square test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product

import torch
from dyna_eval_workers.runner import COMMITTED, Runner
from scipy.stats import chisquare

Tokens = tuple[int, ...]
Draw = Callable[[Sequence[float]], int]
"""A draw of an index by probabilities, the only source of chance in what is to be enumerated."""
Model = Callable[[Tokens], Sequence[float]]
"""A model: the probabilities of the next token, (vocabulary,), after some tokens."""


def output_distribution(program: Callable[[Draw], Tokens]) -> dict[Tokens, float]:
    """Return the exact distribution of a program's result: run it once for every outcome of its draws."""
    distribution: dict[Tokens, float] = {}
    waiting: list[list[int]] = [[]]
    while waiting:
        script = waiting.pop()
        taken, chance = 0, 1.0

        def draw(probabilities: Sequence[float], script: list[int] = script) -> int:
            nonlocal taken, chance
            if taken == len(script):
                first, *others = (i for i, probability in enumerate(probabilities) if probability > 0)
                waiting.extend([*script, other] for other in others)
                script.append(first)
            index = script[taken]
            taken, chance = taken + 1, chance * probabilities[index]
            return index

        result = program(draw)
        distribution[result] = distribution.get(result, 0.0) + chance
    return distribution


def target_distribution(target: Model, length: int, vocabulary: int) -> dict[Tokens, float]:
    """Return the probability of every sequence of `length` tokens that the target alone may emit."""
    distribution: dict[Tokens, float] = {}
    for tokens in product(range(vocabulary), repeat=length):
        chance = 1.0
        for place, token in enumerate(tokens):
            chance *= target(tokens[:place])[token]
        distribution[tokens] = chance
    return distribution


def total_variation(one: Mapping[Tokens, float], other: Mapping[Tokens, float]) -> float:
    return sum(abs(one.get(tokens, 0.0) - other.get(tokens, 0.0)) for tokens in {*one, *other}) / 2


def model_after(prompt: Sequence[int], runner: Runner, *, depth: int) -> Model:
    """Return a model at temperature 1 after a prompt, for fewer than `depth` tokens that follow it."""
    known: dict[Tokens, Sequence[float]] = {}
    for length in range(depth):
        for tokens in product(range(runner.vocabulary), repeat=length):
            text = [*prompt, *tokens]
            runner.reserve(len(text))
            runner.prefill(text[:-1])
            runner.extend(text[-1:], [COMMITTED])
            known[tokens] = runner.logits()[0].double().softmax(-1).tolist()
    return known.__getitem__


def chi_square(sample: Iterable[Tokens], distribution: Mapping[Tokens, float]) -> float:
    """Return the p-value of a sample under a distribution; rare outcomes are counted together."""
    counts = Counter(sample)
    draws = counts.total()
    likely = [tokens for tokens, chance in distribution.items() if chance * draws >= 5]
    assert len(likely) >= 8, "too few outcomes to tell distributions apart"
    observed = [counts[tokens] for tokens in likely]
    expected = [distribution[tokens] * draws for tokens in likely]
    observed.append(draws - sum(observed))
    expected.append(draws - sum(expected))
    return float(chisquare(observed, expected).pvalue)


def random_model(seed: int, vocabulary: int, *, depth: int) -> Model:
    """Return a model with a random distribution after every sequence of fewer than `depth` tokens."""
    generator = torch.Generator().manual_seed(seed)
    known = {
        tokens: torch.randn(vocabulary, generator=generator, dtype=torch.float64).softmax(-1).tolist()
        for length in range(depth)
        for tokens in product(range(vocabulary), repeat=length)
    }
    return known.__getitem__
