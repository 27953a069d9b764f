"""Growth policies: which of the draft's candidates join the tree, and which of them get children.

A policy is asked once per level, and once more when the tree is grown. It only shapes the prediction: the
target decides every token, so any policy is lossless. What a policy learns while it decodes is forgotten at
the next prompt, so a result does not depend on the order of the prompts.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import Any, ClassVar

from dyna_eval.jobs import Configuration, Method, Params
from dyna_eval.measurements import Calibration
from dyna_eval.methods import MOST_NODES
from dyna_eval_workers.tree import ROOT, Tree


@dataclass(frozen=True, slots=True)
class Selection:
    """Which candidates of a level to use.

    kept: indices of those that join the tree, ascending; grows: which of these get children; capped: whether
    the node cap left one out, or will keep one from being verified.
    """

    kept: Sequence[int]
    grows: Sequence[bool]
    capped: bool = False


@dataclass(frozen=True, slots=True)
class Candidates:
    """The draft's proposals for the next level, best first under each parent: parallel lists.

    `log_probability` is joint, of the path from the root; `rank` the place among the parent's proposals, from
    0; `confidence` the draft's probability of the parent's best proposal.
    """

    parent: list[int]
    token: list[int]
    log_probability: list[float]
    rank: list[int]
    confidence: list[float]

    def __len__(self) -> int:
        return len(self.token)


class GrowthPolicy(ABC):
    """How a tree grows. The attributes are the bounds: draft nodes per tree, and levels.

    A policy that `reranks` chooses what to verify from all that grew; its cap stops no growth.
    """

    max_nodes: int
    depth: int
    reranks: ClassVar[bool] = False
    needs_draft: ClassVar[bool] = True
    """Whether a draft model proposes the tokens."""

    @property
    def most_rows(self) -> int:
        """Return how many rows a round may write behind the committed ones, in either cache."""
        return self.max_nodes

    def begin(self) -> None:  # noqa: B027  # most learn nothing
        """Forget what was learnt: a new prompt starts."""

    @abstractmethod
    def branch(self, level: int) -> int:
        """Return how many children to propose for each open node; level 1 is the root's children."""

    @abstractmethod
    def select(self, candidates: Candidates, level: int, tree: Tree) -> Selection:
        """Choose among the candidates of a level."""

    def finish(self, tree: Tree) -> Sequence[int]:
        """Return the nodes to verify, ascending and with their parents."""
        return range(len(tree))

    def learn(self, tree: Tree, path: Sequence[int]) -> None:  # noqa: B027  # most learn nothing
        """Hear which path of a verified tree was accepted, from the root."""


@dataclass(frozen=True, kw_only=True)
class TopBranches(GrowthPolicy):
    """The top `branches` children of every node, pruned by a threshold on the joint probability.

    With `drop_pruned`, a node under the threshold leaves the tree; without, it stays as a leaf (the rule of
    DynaTree's own implementation). A linear chain is the case branch = 1, threshold = 0.
    """

    depth: int
    branches: int
    root_branches: int
    threshold: float
    max_nodes: int
    drop_pruned: bool = True

    def branch(self, level: int) -> int:
        return self.root_branches if level == 1 else self.branches

    def select(self, candidates: Candidates, level: int, tree: Tree) -> Selection:
        joint = candidates.log_probability
        kept: Sequence[int] = range(len(candidates))
        likely = [True] * len(candidates)
        if self.threshold > 0:
            bound = math.log(self.threshold)
            likely = [value >= bound for value in joint]
            if self.drop_pruned:
                kept = [index for index in kept if likely[index]]
        kept, capped = _capped(kept, joint, self.max_nodes + 1 - len(tree))
        return Selection(kept, [likely[index] for index in kept], capped)


def _capped(kept: Sequence[int], joint: Sequence[float], room: int) -> tuple[Sequence[int], bool]:
    """Return the likeliest of these candidates, as many as have room, and whether that left some out."""
    if len(kept) <= room:
        return kept, False
    return best(kept, joint, room), True


@dataclass(frozen=True, kw_only=True)
class BestFirst(GrowthPolicy):
    """Expand the `width` likeliest nodes of every level, then verify the `max_nodes` likeliest of all.

    Source: EAGLE-2 (Li et al. 2024), sections 4.1 and 4.2.
    """

    depth: int
    width: int
    max_nodes: int
    reranks: ClassVar[bool] = True

    @property
    def most_rows(self) -> int:
        return max(self.max_nodes, self.depth * self.width)

    def branch(self, level: int) -> int:
        return self.width

    def select(self, candidates: Candidates, level: int, tree: Tree) -> Selection:
        kept = range(len(candidates))
        chosen = set(best(kept, candidates.log_probability, self.width))
        return Selection(kept, [index in chosen for index in kept])

    def finish(self, tree: Tree) -> Sequence[int]:
        return [ROOT, *best(range(1, len(tree)), tree.log_probability, self.max_nodes)]


@dataclass(kw_only=True)
class DynaTree(GrowthPolicy):
    """DynaTree's three phases, each of which can be left out.

    1. Branching: a node whose best proposal is confident gets few children, an unsure one many.
    2. Depth: a path whose joint probability is under `stop_probability` ends; one that is still at least
       `deep_probability` at `depth` goes on, down to `max_depth`.
    3. History: the share of drafted levels that was accepted over the last `history_window` rounds moves both
       confidences by `history_step` per round: more branches where it is under `history_target`, fewer above.
    """

    depth_target: int
    max_depth: int
    branch_min: int
    branch_mid: int
    branch_max: int
    confidence_high: float
    confidence_low: float
    stop_probability: float
    deep_probability: float
    history_window: int
    history_target: float
    history_step: float
    max_nodes: int
    branch_phase: bool
    depth_phase: bool
    history_phase: bool
    _shift: float = 0.0
    _history: deque[float] = field(default_factory=deque)

    @property
    def depth(self) -> int:  # type: ignore[override]  # read-only here
        return self.max_depth if self.depth_phase else self.depth_target

    def begin(self) -> None:
        self._shift = 0.0
        self._history = deque(maxlen=self.history_window)

    def branch(self, level: int) -> int:
        return self.branch_max if self.branch_phase else self.branch_mid

    def select(self, candidates: Candidates, level: int, tree: Tree) -> Selection:
        joint = candidates.log_probability
        kept: Sequence[int] = [
            index
            for index in range(len(candidates))
            if candidates.rank[index] < self._children(candidates.confidence[index])
        ]
        if self.depth_phase and self.stop_probability > 0:
            bound = math.log(self.stop_probability)
            kept = [index for index in kept if joint[index] >= bound]
        kept, capped = _capped(kept, joint, self.max_nodes + 1 - len(tree))
        bound = math.log(self.deep_probability) if self.deep_probability > 0 else -math.inf
        deeper = level < self.depth_target
        return Selection(kept, [deeper or joint[index] >= bound for index in kept], capped)

    def learn(self, tree: Tree, path: Sequence[int]) -> None:
        if not self.history_phase or tree.levels == 0:
            return
        self._history.append((len(path) - 1) / tree.levels)
        behind = sum(self._history) / len(self._history) < self.history_target
        self._shift += self.history_step if behind else -self.history_step
        self._shift = min(max(self._shift, -self.confidence_low), 1.0 - self.confidence_high)

    def _children(self, confidence: float) -> int:
        """A higher shift asks for more confidence before it saves branches."""
        if not self.branch_phase:
            return self.branch_mid
        if confidence >= self.confidence_high + self._shift:
            return self.branch_min
        return self.branch_mid if confidence >= self.confidence_low + self._shift else self.branch_max


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


@dataclass(kw_only=True)
class PromptLookup:
    """Draft from the text so far: what followed an earlier occurrence of its longest recent n-gram.

    That is the latest occurrence with enough tokens after it: a loop's latest one has hardly any. Where none
    has enough, it is the earliest, which has most.

    The text is kept as a string, a character per token, where a search takes about a nanosecond per token.

    Source: prompt lookup decoding (Saxena 2023).
    """

    k: int
    ngram: int

    _text: str = field(init=False, compare=False, default="")

    needs_draft: ClassVar[bool] = False

    @property
    def most_rows(self) -> int:
        """Return how many rows a round may write behind the committed ones."""
        return self.k

    def begin(self) -> None:
        """Forget the text: a new prompt starts."""
        self._text = ""

    def learn(self, tree: Tree, path: Sequence[int]) -> None:
        """Do nothing: all that counts is the text so far."""

    def propose(self, tokens: Sequence[int], limit: int) -> list[int]:
        """Return at most `k` and at most `limit` tokens to follow a text, which only grows until `begin`."""
        self._text += "".join(map(chr, tokens[len(self._text) :]))  # no vocabulary has a million ids
        wanted = min(self.k, limit)
        last_end = max(len(tokens) - wanted, 0)  # of an occurrence that has enough behind it
        for size in range(min(self.ngram, len(tokens) - 1), 0, -1):
            tail = self._text[-size:]
            start = self._text.rfind(tail, 0, last_end)
            if start < 0:
                start = self._text.find(tail, max(last_end - size, 0), -1)
            if start >= 0:
                return list(tokens[start + size : start + size + wanted])
        return []


Drafting = GrowthPolicy | PromptLookup


def best(nodes: Sequence[int], likelihood: Sequence[float], count: int) -> list[int]:
    """Return the `count` likeliest of ascending nodes, ascending; of equals the first: parents come along."""
    return sorted(sorted(nodes, key=likelihood.__getitem__, reverse=True)[:count])


def drafting_for(configuration: Configuration, calibration: Calibration | None = None) -> Drafting | None:
    """Return how a configuration drafts; None for AR, which does not."""
    make = _DRAFTING.get(configuration.method)
    return None if make is None else make(configuration.params, calibration)


def _linear(params: Params, _: Calibration | None) -> TopBranches:
    k = _integer(params, "k")
    return TopBranches(depth=k, branches=1, root_branches=1, threshold=0.0, max_nodes=k)


def _tree(params: Params, _: Calibration | None) -> TopBranches:
    return TopBranches(
        depth=_integer(params, "depth"),
        branches=_integer(params, "branch"),
        root_branches=_integer(params, "root_branch"),
        threshold=_number(params, "threshold"),
        max_nodes=_integer(params, "max_nodes"),
        drop_pruned=params["prune"] == "node",
    )


def _best_first(params: Params, _: Calibration | None) -> BestFirst:
    return BestFirst(**{name: _integer(params, name) for name in ("depth", "width", "max_nodes")})


def _cost_aware(params: Params, calibration: Calibration | None) -> CostAware:
    if calibration is None:
        raise ValueError("a cost-aware tree needs a calibration")
    bounds: dict[str, Any] = {name: _integer(params, name) for name in ("depth", "width", "max_nodes")}
    return CostAware(**bounds, calibration=calibration)


def _prompt_lookup(params: Params, _: Calibration | None) -> PromptLookup:
    return PromptLookup(k=_integer(params, "k"), ngram=_integer(params, "ngram"))


def _dynatree(params: Params, _: Calibration | None) -> DynaTree:
    counts = ("max_depth", "branch_min", "branch_mid", "branch_max", "history_window", "max_nodes")
    shares = (
        "confidence_high",
        "confidence_low",
        "stop_probability",
        "deep_probability",
        "history_target",
        "history_step",
    )
    phases = ("branch_phase", "depth_phase", "history_phase")
    settings: dict[str, Any] = {name: _integer(params, name) for name in counts}
    settings |= {name: _number(params, name) for name in shares}
    settings |= {name: bool(params[name]) for name in phases}
    return DynaTree(depth_target=_integer(params, "depth"), **settings)


def _integer(params: Params, name: str) -> int:
    value = params[name]
    if not isinstance(value, int):
        raise TypeError(f"parameter {name} must be resolved to an integer, not {value!r}")
    return value


def _number(params: Params, name: str) -> float:
    value = params[name]
    if not isinstance(value, int | float):
        raise TypeError(f"parameter {name} must be resolved to a number, not {value!r}")
    return float(value)


_DRAFTING: dict[Method, Callable[[Params, Calibration | None], Drafting]] = {
    Method.LINEAR: _linear,
    Method.TREE: _tree,
    Method.BEST_FIRST: _best_first,
    Method.DYNATREE: _dynatree,
    Method.COST_AWARE: _cost_aware,
    Method.PROMPT_LOOKUP: _prompt_lookup,
}
