"""Laws of emitted tokens: exactly, by enumeration, and from samples, by a chi-square test."""

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
Law = Callable[[Tokens], Sequence[float]]
"""A model's probabilities of the next token after some tokens."""


def law_of(program: Callable[[Draw], Tokens]) -> dict[Tokens, float]:
    """Return the exact law of a program's result: run it once for every way its draws may fall out."""
    law: dict[Tokens, float] = {}
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
        law[result] = law.get(result, 0.0) + chance
    return law


def law_alone(target: Law, length: int, vocabulary: int) -> dict[Tokens, float]:
    """Return what a target alone emits: the probability of every sequence of so many tokens."""
    law: dict[Tokens, float] = {}
    for tokens in product(range(vocabulary), repeat=length):
        chance = 1.0
        for place, token in enumerate(tokens):
            chance *= target(tokens[:place])[token]
        law[tokens] = chance
    return law


def total_variation(one: Mapping[Tokens, float], other: Mapping[Tokens, float]) -> float:
    return sum(abs(one.get(tokens, 0.0) - other.get(tokens, 0.0)) for tokens in {*one, *other}) / 2


def after(prompt: Sequence[int], runner: Runner, *, depth: int) -> Law:
    """Return the law of a model after a prompt, at temperature 1, for fewer than `depth` tokens behind it."""
    known: dict[Tokens, Sequence[float]] = {}
    for length in range(depth):
        for tokens in product(range(runner.vocabulary), repeat=length):
            text = [*prompt, *tokens]
            runner.reserve(len(text))
            runner.prefill(text[:-1])
            runner.extend(text[-1:], [COMMITTED])
            known[tokens] = runner.logits()[0].double().softmax(-1).tolist()
    return known.__getitem__


def chi_square(sample: Iterable[Tokens], law: Mapping[Tokens, float]) -> float:
    """Return how likely a sample as far from the law is (p-value); rare outcomes are counted together."""
    counts = Counter(sample)
    draws = counts.total()
    likely = [tokens for tokens, chance in law.items() if chance * draws >= 5]
    assert len(likely) >= 8, "too few outcomes to tell laws apart"
    observed = [counts[tokens] for tokens in likely]
    expected = [law[tokens] * draws for tokens in likely]
    observed.append(draws - sum(observed))
    expected.append(draws - sum(expected))
    return float(chisquare(observed, expected).pvalue)


def random_law(seed: int, vocabulary: int, *, depth: int) -> Law:
    """Return a law that is another one after every sequence of fewer than `depth` tokens."""
    generator = torch.Generator().manual_seed(seed)
    known = {
        tokens: torch.randn(vocabulary, generator=generator, dtype=torch.float64).softmax(-1).tolist()
        for length in range(depth)
        for tokens in product(range(vocabulary), repeat=length)
    }
    return known.__getitem__
