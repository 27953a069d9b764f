"""Trees that grow as far as pays, by the calibrated cost of both models' passes."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import ClassVar

from dyna_eval.measurements import Calibration
from dyna_eval.methods import MOST_NODES
from dyna_eval_workers.growth import Candidates, GrowthPolicy, Selection, best
from dyna_eval_workers.tree import ROOT, Tree


@dataclass(kw_only=True, slots=True)
class Reliability:
    """How much likelier the target is to take a proposal than the draft says, learnt from what it took.

    A factor w on the odds turns the draft's probability q into the chance a = wq / (1 - q + wq). At first
    w = 1. What is learnt is log w: every outcome is one Newton step of its logistic regression, with a
    standard normal prior. A greedy target takes a draft's best token far more often than q, since it takes
    its own best one every time; a careless draft promises too much.
    """

    log_odds: float = 0.0
    precision: float = 1.0
    factor: float = 1.0
    """w, the exponential of `log_odds`."""
    _MOST: ClassVar[float] = 0.999
    """Cap on q: at q = 1 the odds are infinite, so a rejection could not lower the estimate."""

    def chance(self, probability: float) -> float:
        probability = min(probability, self._MOST)
        odds = self.factor * probability
        return odds / (1.0 - probability + odds)

    def learn(self, probability: float, *, accepted: bool) -> None:
        chance = self.chance(probability)
        self.precision += chance * (1.0 - chance)
        self.log_odds += (accepted - chance) / self.precision
        self.factor = math.exp(self.log_odds)


@dataclass(kw_only=True)
class CostAware(GrowthPolicy):
    """Draft and verify what is worth its time, by the calibrated cost of both models' steps.

    A node whose path has the chance c emits c tokens on average, so a tree S emits 1 + sum(c over S). Tokens
    per second over all rounds are highest where each round makes

        tokens - rate * seconds,    seconds = sum over levels of t_draft(width) + t_verify(|S| + 1)

    as large as it can, with the rate that this leads to (Dinkelbach 1967); the rate is the mean of this
    prompt so far. Two decisions follow:

    - Verify the likeliest nodes, as many as make it largest. A child is never likelier than its parent, so
      these are a tree.
    - Take another draft step on the likeliest leaves, as many as make its worth largest, where that is over
      0. Below a leaf of chance c it brings sum(max(0, c * a - rate * t_node)) over the chances a of a node's
      proposals, of which the latest levels are a sample. Later steps bring less than it, as chances only
      fall along a path: where it does not pay, they seldom do.

    Chances are the draft's probabilities, corrected by how often such proposals were taken in this prompt:
    best proposals and others apart.
    """

    depth: int
    width: int
    max_nodes: int
    calibration: Calibration

    _draft_seconds: list[float] = field(init=False, compare=False)
    """Seconds of a draft step, by its width."""
    _verify_seconds: list[float] = field(init=False, compare=False)
    """Seconds of a target step, by its nodes; the pending token is one of them."""
    _emitted_tokens: float = 0.0
    _spent_seconds: float = 0.0
    _drafting_seconds: float = 0.0
    _best: Reliability = field(default_factory=Reliability)
    _others: Reliability = field(default_factory=Reliability)
    _levels: deque[list[float]] = field(default_factory=deque)
    """The chances of all proposals of one node, for each of the latest levels."""
    _chance: list[float] = field(default_factory=list)
    """The chance of the path of every node of the growing tree, the root's included."""
    _probability: list[float] = field(default_factory=list)
    """A node's own probability under its parent, as the draft says it."""
    _rank: list[int] = field(default_factory=list)
    """A node's place among its parent's proposals, the best at 0."""
    _worth_verifying: int = 0
    """How many of them, besides the root, are worth verifying."""
    _verified: Sequence[int] = ()

    reranks: ClassVar[bool] = True
    _CHILDREN: ClassVar[int] = 4
    """Proposals asked for under each node: the target seldom takes one that the draft ranks lower."""
    _LEVELS: ClassVar[int] = 8
    """Latest levels whose proposals say what the next level will bring: enough to even them out, and few
    enough to follow the text."""

    def __post_init__(self) -> None:
        self._draft_seconds = [0.0, *(self.calibration.draft(count) for count in range(1, self.width + 1))]
        most_grown = min(self.depth * self.width * self._CHILDREN, MOST_NODES)
        most = max(self.max_nodes + self._CHILDREN, most_grown) + 1
        self._verify_seconds = [self.calibration.verify(count) for count in range(most + 1)]
        if self._draft_seconds[1] >= self._verify_seconds[1]:
            self.depth = 0  # not even drafts that are always right would pay

    @property
    def most_rows(self) -> int:
        return max(self.max_nodes, self.depth * self.width)

    def begin(self) -> None:
        self._emitted_tokens = 1.0  # AR's rate, until rounds say more
        self._spent_seconds = self._verify_seconds[1]
        self._best, self._others = Reliability(), Reliability()
        # A prior until levels were seen: proposals of all chances are equally likely.
        self._levels = deque(([0.1], [0.3], [0.5], [0.7], [0.9]), maxlen=self._LEVELS)
        self._plant()

    def branch(self, level: int) -> int:
        return min(self.width, self._CHILDREN)

    def select(self, candidates: Candidates, level: int, tree: Tree) -> Selection:
        width = len(set(candidates.parent))
        self._drafting_seconds += self._draft_seconds[width]  # of the step that was just taken
        own = self._add(candidates, tree)
        rate = self._emitted_tokens / self._spent_seconds
        self._worth_verifying, capped = self._count_worth_verifying(rate)
        grows = [False] * len(own)
        for index in self._worth_growing(own, rate):
            grows[index] = True
        return Selection(range(len(own)), grows, capped)

    def _worth_growing(self, own: list[float], rate: float) -> list[int]:
        """Return which candidates, by their chances, the next step of the draft shall give children."""
        node_cost = self._node_cost(rate)
        likeliest = sorted(range(len(own)), key=own.__getitem__, reverse=True)[: self.width]
        chances = sorted(chain.from_iterable(self._levels))
        sums = list(accumulate(chances, initial=0.0))
        gain, grown, most_gained = 0.0, 0, 0.0
        for count, index in enumerate(likeliest, start=1):
            if own[index] <= node_cost:
                break  # no child of it can be worth its time, nor of those after it
            first = bisect_right(chances, node_cost / own[index])
            children = own[index] * (sums[-1] - sums[first]) - node_cost * (len(chances) - first)
            gain += children / len(self._levels)
            gained = gain - rate * self._draft_seconds[count]
            if gained > most_gained:
                grown, most_gained = count, gained
        return likeliest[:grown]

    def finish(self, tree: Tree) -> Sequence[int]:
        self._verified = [ROOT, *best(range(1, len(tree)), self._chance, self._worth_verifying)]
        return self._verified

    def learn(self, tree: Tree, path: Sequence[int]) -> None:
        for node in range(1, len(tree)):
            if tree.parent[node] in path:
                grown = self._verified[node]
                reliability = self._best if self._rank[grown] == 0 else self._others
                reliability.learn(self._probability[grown], accepted=node in path)
        self._emitted_tokens += len(path)
        self._spent_seconds += self._drafting_seconds + self._verify_seconds[len(tree)]
        self._plant()

    def _plant(self) -> None:
        self._chance, self._probability, self._rank = [1.0], [1.0], [0]
        self._worth_verifying, self._drafting_seconds = 0, 0.0

    def _add(self, candidates: Candidates, tree: Tree) -> list[float]:
        """Note what all candidates promise, and return their chances."""
        first, siblings = candidates.parent[0], []
        own = []
        best_chance, other_chance = self._best.chance, self._others.chance
        for parent, joint, rank in zip(
            candidates.parent, candidates.log_probability, candidates.rank, strict=True
        ):
            probability = math.exp(joint - tree.log_probability[parent])
            taken = other_chance(probability) if rank else best_chance(probability)
            if parent == first:
                siblings.append(taken)
            own.append(self._chance[parent] * taken)
            self._probability.append(probability)
        self._chance += own
        self._rank += candidates.rank
        self._levels.append(siblings)
        return own

    def _node_cost(self, rate: float) -> float:
        """Return the tokens that one more node must emit on average to be worth its time."""
        nodes = self._worth_verifying + 1
        seconds = self._verify_seconds[nodes + self._CHILDREN] - self._verify_seconds[nodes]
        return rate * seconds / self._CHILDREN

    def _count_worth_verifying(self, rate: float) -> tuple[int, bool]:
        """Return how many of the likeliest nodes are worth verifying, and whether the cap leaves out more."""
        verify = self._verify_seconds
        likeliest = sorted(self._chance[1:], reverse=True)
        tokens, nodes, most = 0.0, 0, -rate * verify[1]
        for count, chance in enumerate(likeliest[: len(verify) - 2], start=1):
            tokens += chance
            worth = tokens - rate * verify[count + 1]
            if worth > most:
                if count > self.max_nodes:
                    return nodes, True
                nodes, most = count, worth
        return nodes, False
