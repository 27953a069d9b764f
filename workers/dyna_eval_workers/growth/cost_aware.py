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
from dyna_eval.methods import MAX_NODES
from dyna_eval_workers.growth import Candidates, GrowthPolicy, Selection, top_nodes
from dyna_eval_workers.tree import ROOT, Tree


@dataclass(kw_only=True, slots=True)
class AcceptanceModel:
    """The probability that the target accepts a proposed token, from the draft's probability q of it.

    A factor w on the odds of q gives the acceptance probability a = wq / (1 - q + wq). The factor is fitted
    to what was accepted so far: logistic regression of log w with a normal prior of variance 1, one Newton
    step per outcome. A greedy target accepts a draft's best token far more often than q, since it takes its
    own best one every time; an overconfident draft's less often.
    """

    log_odds: float = 0.0
    """log w; at first the mean of its prior."""
    precision: float = 1.0
    factor: float = field(init=False)
    """w, the exponential of `log_odds`."""
    _MAX_PROBABILITY: ClassVar[float] = 0.999
    """Cap on q: at q = 1 the odds are infinite, so a rejection could not lower the estimate."""

    def __post_init__(self) -> None:
        self.factor = math.exp(self.log_odds)

    def acceptance(self, probability: float) -> float:
        """Return the acceptance probability of a token to which the draft gives this probability."""
        probability = min(probability, self._MAX_PROBABILITY)
        odds = self.factor * probability
        return odds / (1.0 - probability + odds)

    def learn(self, probability: float, *, accepted: bool) -> None:
        predicted = self.acceptance(probability)
        self.precision += predicted * (1.0 - predicted)
        self.log_odds += (accepted - predicted) / self.precision
        self.factor = math.exp(self.log_odds)


@dataclass(kw_only=True)
class CostAware(GrowthPolicy):
    """Draft and verify as long as the expected tokens are worth the time, by calibrated costs of both models.

    Let p be the acceptance probability of a node's path: the product of those of its nodes. A tree S emits
    1 + sum(p over S) tokens on average. Tokens per second over all rounds are highest where each round
    maximises

        tokens - rate * seconds,    seconds = sum over levels of t_draft(width) + t_verify(|S| + 1)

    at the rate that this leads to (Dinkelbach 1967); the rate is the mean of this prompt so far. Two
    decisions follow:

    - Verify the nodes with the largest p, as many as maximise it. No child's p exceeds its parent's, so they
      form a tree.
    - Expand the leaves with the largest p by another draft step, as many as maximise what it gains, if that
      is positive. A leaf gains sum(max(0, p * a - rate * t_node)) over the acceptance probabilities a of its
      children, estimated by those of the latest levels. Later steps gain less, as p only falls along a path:
      where this one does not pay, they seldom do.

    Acceptance probabilities are the draft's probabilities, corrected by what was accepted in this prompt: one
    correction for the best child of a node, one for the others.
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
    _best_child: AcceptanceModel = field(init=False, compare=False)
    _other_children: AcceptanceModel = field(init=False, compare=False)
    _levels: deque[list[float]] = field(default_factory=deque)
    """The acceptance probabilities of all children of one node, for each of the latest levels."""
    _path_acceptance: list[float] = field(default_factory=list)
    """Of every node of the growing tree the acceptance probability of its path; the root's is 1."""
    _probability: list[float] = field(default_factory=list)
    """Of every node the draft's probability, given its parent."""
    _rank: list[int] = field(default_factory=list)
    """Of every node the rank among its siblings, from 0."""
    _worth_verifying: int = 0
    """How many nodes, besides the root, are worth verifying."""
    _verified: Sequence[int] = ()

    reranks: ClassVar[bool] = True
    _BEST_CHILD_LOG_ODDS: ClassVar[float] = 1.0
    """Prior mean: on the demo pair they settle at 1.6 greedily, and at 0.7 with temperature 1."""
    _CHILDREN: ClassVar[int] = 4
    """Proposals for each node: the target seldom accepts one that the draft ranks lower."""
    _LEVELS: ClassVar[int] = 8
    """Latest levels that predict the next one: enough to even out noise, few enough to follow the text."""

    def __post_init__(self) -> None:
        self._draft_seconds = [0.0, *(self.calibration.draft(count) for count in range(1, self.width + 1))]
        max_grown = min(self.depth * self.width * self._CHILDREN, MAX_NODES)
        max_pass = max(self.max_nodes + self._CHILDREN, max_grown) + 1
        self._verify_seconds = [self.calibration.verify(count) for count in range(max_pass + 1)]
        if self._draft_seconds[1] >= self._verify_seconds[1]:
            self.depth = 0  # drafting would not pay even if all were accepted

    @property
    def max_rows(self) -> int:
        return max(self.max_nodes, self.depth * self.width)

    def reset(self) -> None:
        self._emitted_tokens = 1.0  # AR's rate, until rounds say more
        self._spent_seconds = self._verify_seconds[1]
        self._best_child = AcceptanceModel(log_odds=self._BEST_CHILD_LOG_ODDS)
        self._other_children = AcceptanceModel()
        # A prior until there were levels: acceptance probabilities are uniform.
        self._levels = deque(([0.1], [0.3], [0.5], [0.7], [0.9]), maxlen=self._LEVELS)
        self._start_tree()

    def branch(self, level: int) -> int:
        return min(self.width, self._CHILDREN)

    def select(self, candidates: Candidates, level: int, tree: Tree) -> Selection:
        width = len(set(candidates.parent))
        self._drafting_seconds += self._draft_seconds[width]  # of the step that was just taken
        acceptance = self._add(candidates, tree)
        rate = self._emitted_tokens / self._spent_seconds
        self._worth_verifying, capped = self._count_worth_verifying(rate)
        grows = [False] * len(candidates)
        for index in self._worth_expanding(acceptance, rate):
            grows[index] = True
        return Selection(range(len(candidates)), grows, capped)

    def _worth_expanding(self, acceptance: list[float], rate: float) -> list[int]:
        """Return the candidates that the next draft step expands, by the acceptance of their paths."""
        node_cost = self._node_cost(rate)
        likeliest = sorted(range(len(acceptance)), key=acceptance.__getitem__, reverse=True)[: self.width]
        expected = sorted(chain.from_iterable(self._levels))  # acceptance probabilities of children
        sums = list(accumulate(expected, initial=0.0))
        gain, expanded, best_gain = 0.0, 0, 0.0
        for count, index in enumerate(likeliest, start=1):
            if acceptance[index] <= node_cost:
                break  # no child of it can be worth its time, nor of those after it
            first = bisect_right(expected, node_cost / acceptance[index])
            children = acceptance[index] * (sums[-1] - sums[first]) - node_cost * (len(expected) - first)
            gain += children / len(self._levels)
            net_gain = gain - rate * self._draft_seconds[count]
            if net_gain > best_gain:
                expanded, best_gain = count, net_gain
        return likeliest[:expanded]

    def rerank(self, tree: Tree) -> Sequence[int]:
        self._verified = [ROOT, *top_nodes(range(1, len(tree)), self._path_acceptance, self._worth_verifying)]
        return self._verified

    def learn(self, tree: Tree, path: Sequence[int]) -> None:
        for node in range(1, len(tree)):
            if tree.parent[node] in path:
                grown = self._verified[node]
                model = self._best_child if self._rank[grown] == 0 else self._other_children
                model.learn(self._probability[grown], accepted=node in path)
        self._emitted_tokens += len(path)
        self._spent_seconds += self._drafting_seconds + self._verify_seconds[len(tree)]
        self._start_tree()

    def _start_tree(self) -> None:
        self._path_acceptance, self._probability, self._rank = [1.0], [1.0], [0]
        self._worth_verifying, self._drafting_seconds = 0, 0.0

    def _add(self, candidates: Candidates, tree: Tree) -> list[float]:
        """Record all candidates, and return the acceptance probabilities of their paths."""
        first, siblings = candidates.parent[0], []
        acceptance = []
        best_child, other_children = self._best_child.acceptance, self._other_children.acceptance
        for parent, joint, rank in zip(
            candidates.parent, candidates.log_probability, candidates.rank, strict=True
        ):
            probability = math.exp(joint - tree.log_probability[parent])
            own = other_children(probability) if rank else best_child(probability)
            if parent == first:
                siblings.append(own)
            acceptance.append(self._path_acceptance[parent] * own)
            self._probability.append(probability)
        self._path_acceptance += acceptance
        self._rank += candidates.rank
        self._levels.append(siblings)
        return acceptance

    def _node_cost(self, rate: float) -> float:
        """Return the tokens that one more node must emit on average to be worth its time."""
        nodes = self._worth_verifying + 1
        seconds = self._verify_seconds[nodes + self._CHILDREN] - self._verify_seconds[nodes]
        return rate * seconds / self._CHILDREN

    def _count_worth_verifying(self, rate: float) -> tuple[int, bool]:
        """Return how many of the likeliest nodes are worth verifying, and whether the cap leaves out more."""
        verify = self._verify_seconds
        likeliest = sorted(self._path_acceptance[1:], reverse=True)
        tokens, nodes, best_value = 0.0, 0, -rate * verify[1]
        for count, acceptance in enumerate(likeliest[: len(verify) - 2], start=1):
            tokens += acceptance
            value = tokens - rate * verify[count + 1]
            if value > best_value:
                if count > self.max_nodes:
                    return nodes, True
                nodes, best_value = count, value
        return nodes, False
