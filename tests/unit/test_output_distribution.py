"""A round emits tokens with the target's distribution: by enumeration, with wrong samplers for contrast.

Our walk compares the target's choices with the tree's tokens, and needs no draft probabilities. The usual
way is stochastic: siblings are drawn from the draft and accepted by a ratio of probabilities. It is here too,
right and with four faults that it is known for, to show that these tests would notice.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product

import pytest
from dyna_eval_workers.runner import TorchRunner
from dyna_eval_workers.tree import ROOT, Tree

from tests.distributions import (
    Draw,
    Model,
    Tokens,
    chi_square,
    model_after,
    output_distribution,
    random_model,
    target_distribution,
    total_variation,
)
from tests.models import tiny_gpt_neox

PENDING = 9


def continued(draw: Draw, target: Model, tokens: Tokens, length: int) -> Tokens:
    """Let the target go on alone, so that rounds that emit more or fewer tokens can be compared."""
    while len(tokens) < length:
        tokens = (*tokens, draw(target(tokens)))
    return tokens


# ----------------------------------------------------------------------- our walk


def all_trees(*, vocabulary: int, depth: int, most: int) -> list[list[Tokens]]:
    """Return every tree of at most so many draft nodes, each as the paths to its nodes, parents first."""
    paths = [path for length in range(1, depth + 1) for path in product(range(vocabulary), repeat=length)]
    return [
        list(chosen)
        for size in range(most + 1)
        for chosen in combinations(paths, size)
        if all(len(path) == 1 or path[:-1] in chosen for path in chosen)
    ]


def walked(draw: Draw, *, target: Model, paths: Sequence[Tokens], length: int) -> Tokens:
    """Return what a round of our walk emits, and the target after it: it chooses after every node."""
    tree = Tree.with_root(PENDING)
    place: dict[Tokens, int] = {(): ROOT}
    for path in paths:
        place[path] = tree.add(place[path[:-1]], path[-1], 0.0)
    choices = [draw(target(path)) for path in ((), *paths)]
    return continued(draw, target, tuple(choices[node] for node in tree.walk(choices)), length)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("vocabulary", "depth", "most", "trees"), [(3, 2, 4, 101), (2, 3, 5, 92)])
def test_our_walk_emits_the_target_s_distribution_over_every_tree(
    vocabulary: int, depth: int, most: int, trees: int, seed: int
) -> None:
    """As siblings stand at one position, their draws are not independent; but one round sees one of them."""
    target = random_model(seed, vocabulary, depth=depth + 1)
    alone = target_distribution(target, depth + 1, vocabulary)
    family = all_trees(vocabulary=vocabulary, depth=depth, most=most)
    assert len(family) == trees
    for paths in family:
        distribution = output_distribution(partial(walked, target=target, paths=paths, length=depth + 1))
        assert total_variation(distribution, alone) < 1e-6, paths


# --------------------------------------------------- stochastic verification of siblings


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Verification of siblings by rejection sampling, round after round; right as it is, wrong where changed.

    Siblings are drawn from the draft without replacement. One is accepted with probability min(1, p / q);
    after a refusal, p becomes the normalised positive part of p - q, and q what the draft draws the next
    sibling from. Source: SpecInfer (Miao et al. 2024), section 4.3; SpecTr (Sun et al. 2023); without
    replacement, Jeon et al. 2024.
    """

    siblings: int = 3
    renormalises: bool = True
    """Whether q loses the refused sibling."""
    threshold: float = 0.0
    """A sibling of a lower draft probability is dropped after it was drawn."""
    bonus_from_residual: bool = True
    """Whether the token after the last refusal follows what is left of p."""
    draws_siblings: bool = True
    """Whether siblings are drawn; else they are the draft's likeliest tokens."""

    def emit(self, draw: Draw, target: Model, draft: Model, depth: int) -> Tokens:
        """Return the tokens of one round over a tree of so many levels; children are drawn when reached."""
        tokens: Tokens = ()
        while len(tokens) < depth:
            token, accepted = self._after(draw, target(tokens), draft(tokens))
            tokens = (*tokens, token)
            if not accepted:
                return tokens
        return (*tokens, draw(target(tokens)))

    def _after(self, draw: Draw, p: Sequence[float], q: Sequence[float]) -> tuple[int, bool]:
        """Return the token after a node, and whether it is one of the node's children."""
        whole = p
        for token in self._children(draw, q):
            chance = min(1.0, p[token] / q[token])
            if draw([chance, 1.0 - chance]) == 0:
                return token, True
            p = normalised([max(0.0, mine - theirs) for mine, theirs in zip(p, q, strict=True)])
            if self.renormalises:
                q = without(q, token)
        return draw(p if self.bonus_from_residual else whole), False

    def _children(self, draw: Draw, q: Sequence[float]) -> list[int]:
        if not self.draws_siblings:
            return sorted(range(len(q)), key=lambda token: -q[token])[: self.siblings]
        children, left = list[int](), q
        for _ in range(self.siblings):
            children.append(draw(left))
            left = without(left, children[-1])
        return [token for token in children if q[token] >= self.threshold]


def normalised(weights: Sequence[float]) -> list[float]:
    total = sum(weights)
    return [weight / total for weight in weights]


def without(q: Sequence[float], refused: int) -> list[float]:
    return normalised([0.0 if token == refused else chance for token, chance in enumerate(q)])


RIGHT = Verification()
FAULTS = {
    "unchanged q between siblings": Verification(renormalises=False),
    "dropped by a threshold after sampling": Verification(threshold=0.2),
    "bonus from p instead of the residual": Verification(bonus_from_residual=False),
    "the likeliest accepted by p / q": Verification(draws_siblings=False),
}


def distance_to_target(verification: Verification, seed: int) -> float:
    """Return how far a round over two levels of two siblings among four tokens is from the target."""
    target, draft = random_model(seed, 4, depth=3), random_model(100 + seed, 4, depth=2)
    distribution = output_distribution(
        lambda draw: continued(draw, target, verification.emit(draw, target, draft, 2), 3)
    )
    assert sum(distribution.values()) == pytest.approx(1.0)
    return total_variation(distribution, target_distribution(target, 3, 4))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_right_sibling_verification_emits_the_target_s_distribution(seed: int) -> None:
    assert distance_to_target(RIGHT, seed) < 1e-6


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_enumeration_finds_every_fault(fault: str, seed: int) -> None:
    assert distance_to_target(FAULTS[fault], seed) > 0.01


# ------------------------------------------------------------- from samples, as of the decoder


def p_value_of(verification: Verification, *, draws: int = 1500) -> float:
    """Judge pairs of tokens as test_sampling judges the decoder's: the same models, draws and test."""
    prompt = [3, 5, 2]
    target = model_after(prompt, TorchRunner(tiny_gpt_neox(seed=1, vocabulary=6)), depth=3)
    draft = model_after(prompt, TorchRunner(tiny_gpt_neox(seed=8, vocabulary=6)), depth=2)
    generator = random.Random(0)

    def draw(probabilities: Sequence[float]) -> int:
        return generator.choices(range(len(probabilities)), probabilities)[0]

    sample = [continued(draw, target, verification.emit(draw, target, draft, 2), 2)[:2] for _ in range(draws)]
    return chi_square(sample, target_distribution(target, 2, 6))


def test_a_sample_of_right_sibling_verification_is_accepted() -> None:
    assert p_value_of(RIGHT) > 1e-3


@pytest.mark.parametrize("fault", FAULTS)
def test_a_sample_shows_every_fault(fault: str) -> None:
    assert p_value_of(FAULTS[fault]) < 1e-6
