"""One decoding loop for every method.

A round drafts a tree, verifies it with one target forward, walks it, and compacts both caches. AR is a
tree of one node, linear speculation (Leviathan et al. 2023) a tree of branch 1. A draft token is accepted
where it is the token that the target chooses there, greedily or by sampling: see `sampling`.

Notation: n committed tokens, of which the last, the pending token, is not yet in the target's cache.

    target cache length = n - 1        before and after every round
    draft cache length >= n - 2        it lacks the pending token, and one more after a full acceptance
    emitted = accepted + 1             the bonus token is the target's own; none follows an end token
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from dyna_eval.errors import DecodingError
from dyna_eval.jobs import GenerationSpec
from dyna_eval.measurements import Round
from dyna_eval_workers.drafting import Drafting, PromptLookup
from dyna_eval_workers.growth import Candidates, GrowthPolicy, Selection
from dyna_eval_workers.runner import COMMITTED, Runner
from dyna_eval_workers.sampling import Sampler
from dyna_eval_workers.traces import Trace
from dyna_eval_workers.tree import NOT_FED, ROOT, Tree

_clock = time.perf_counter
_SPARE_ROWS = 320  # cache rows reserved beyond a sequence, so that few methods make the caches grow
_MIN_CAPTURED = 64  # passes of up to so many tokens are captured beforehand for every method,
_MAX_CAPTURED = 256  # and of up to so many for methods with larger trees


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """The continuation of one prompt. Times are seconds; decode excludes prefill, ttft includes it."""

    token_ids: tuple[int, ...]
    prefill_seconds: float
    decode_seconds: float
    ttft_seconds: float
    rounds: tuple[Round, ...]
    traces: tuple[Trace, ...] = ()
    """Of the first `kept_traces` rounds."""


@dataclass(slots=True)
class _DraftedTree:
    """The tree of one round, and what drafting it took; seconds as in `Round`."""

    tree: Tree
    grown: Tree | None = None
    """The tree before reranking, where the policy reranks."""
    verified: Sequence[int] | None = None
    """The nodes of `grown` that are verified."""
    levels: list[tuple[Candidates, Selection]] = field(default_factory=list)
    proposed: int = 0
    """Draft nodes, those that did not join the tree included."""
    capped: bool = False
    steps: int = 0
    """Forward passes of the draft."""
    rows: int = 0
    """Tokens that went through them."""
    forward_seconds: float | None = None
    grow_seconds: float | None = None


@dataclass(slots=True, kw_only=True)
class _Sequence:
    """One prompt being continued: its tokens so far, and what stays the same from round to round."""

    committed: list[int]
    limit: int
    """The length at which the sequence is finished."""
    end_tokens: frozenset[int]
    sampler: Sampler
    drafting: Drafting | None

    @property
    def finished(self) -> bool:
        return len(self.committed) >= self.limit

    @property
    def max_draft_depth(self) -> int:
        """The most draft tokens in a path that could all be emitted: one token is left for the bonus."""
        return self.limit - len(self.committed) - 1

    def extend(self, tokens: list[int]) -> int:
        """Commit what a round emitted, up to the first end token, and return how many tokens that were."""
        end = next((index for index, token in enumerate(tokens) if token in self.end_tokens), None)
        if end is not None:
            tokens = tokens[: end + 1]
            self.limit = len(self.committed) + len(tokens)
        self.committed += tokens
        self.sampler.forget_before(len(self.committed))
        return len(tokens)


class Decoder:
    """A loaded pair, ready to decode one prompt after another. `draft` may be None for methods without one.

    `vocabulary` is the tokenizer's size; `end_tokens` end a text where generation stops at them.
    """

    def __init__(
        self, target: Runner, draft: Runner | None, *, vocabulary: int, end_tokens: Iterable[int]
    ) -> None:
        self.target, self.draft = target, draft
        self.end_tokens = frozenset(end_tokens)
        # Ids beyond the tokenizer (padded vocabularies) or beyond the target are never proposed.
        self._proposable = min(vocabulary, target.vocabulary, draft.vocabulary if draft else vocabulary)

    def prepare(
        self, tokens: int, *, shortest: int = 1, greedy: bool = True, max_rows: int = 0, branch: int = 1
    ) -> None:
        """Make room for sequences of `tokens` tokens, and capture graphs, so that no measured pass has to.

        `shortest`: tokens of the shortest prompt, whose first pass ends with its last token; `max_rows`: the
        largest number of uncommitted cache rows that the method writes in a round; `branch`: the most
        children that it has the draft propose for a node; 0 where it asks no draft, for which nothing is
        captured then. Graphs of passes over `_MAX_CAPTURED` tokens are captured when one is first run.
        """
        for runner in (self.target, self.draft):
            if runner is not None:
                runner.reserve(tokens + max(_SPARE_ROWS, max_rows))
        passes = range(1, min(max(_MIN_CAPTURED, max_rows + 1), _MAX_CAPTURED) + 1)
        steps = range(1, min(max(_MIN_CAPTURED, max_rows // 2), _MAX_CAPTURED) + 1)
        longest = tokens + passes[-1]
        self.target.warm_up(passes, shortest=shortest, longest=longest, greedy=greedy)
        if self.draft is not None and branch:
            self.draft.warm_up(
                steps,
                shortest=shortest,
                longest=longest,
                greedy=greedy,
                proposable=self._proposable,
                branch=branch,
            )

    def decode(
        self,
        prompt: Sequence[int],
        generation: GenerationSpec,
        drafting: Drafting | None,
        *,
        seed: str,
        kept_traces: int = 0,
    ) -> Decoded:
        """Continue a prompt of at least one token by at most `generation.max_new_tokens`.

        The tokens are those the target alone would choose with the same seed, however they are drafted.
        `kept_traces` is the number of first rounds whose draft tree can be built from the result.
        """
        draft = self.draft if isinstance(drafting, GrowthPolicy) else None
        if isinstance(drafting, GrowthPolicy) and draft is None:
            raise DecodingError("a speculative method needs a draft model, and this pair has none")
        if drafting is not None:
            drafting.reset()
        sequence = _Sequence(
            committed=list(prompt),
            limit=len(prompt) + generation.max_new_tokens,
            end_tokens=self.end_tokens if generation.stop_at_eos else frozenset(),
            sampler=Sampler(temperature=generation.temperature, seed=seed, vocabulary=self.target.vocabulary),
            drafting=drafting,
        )
        rows = sequence.limit + (0 if drafting is None else drafting.max_rows)
        self.target.reserve(rows)
        if draft is not None:
            draft.reserve(rows)

        rounds: list[Round] = []
        traces: list[Trace] = []
        started = idle_clock(self.target.device)
        self.target.prefill(sequence.committed[:-1])
        if draft is not None:
            draft.prefill(_in_draft_vocabulary(sequence.committed[:-1], draft))
        prefilled = first = idle_clock(self.target.device)
        while not sequence.finished:
            rounds.append(self._round(sequence, draft, traces if len(rounds) < kept_traces else None))
            if len(rounds) == 1:
                first = _clock()
        ended = idle_clock(self.target.device)

        if self.target.length < len(sequence.committed) - 1:
            raise DecodingError("the target's cache is shorter than its committed tokens")
        return Decoded(
            token_ids=tuple(sequence.committed[len(prompt) :]),
            prefill_seconds=prefilled - started,
            decode_seconds=ended - prefilled,
            ttft_seconds=first - started,
            rounds=tuple(rounds),
            traces=tuple(traces),
        )

    def _round(self, sequence: _Sequence, draft: Runner | None, traces: list[Trace] | None) -> Round:
        """Draft, verify, walk, compact; the sequence grows by what was emitted."""
        drafted = self._draft_tree(sequence, draft)
        tree = drafted.tree
        begun = _clock()
        self.target.extend(tree.token, tree.parent)
        choices = self.target.choose(sequence.sampler)
        verified = _clock()
        path = tree.walk(choices)
        self.target.keep(path)
        if draft is not None:
            draft.keep([tree.row[node] for node in path if tree.row[node] != NOT_FED])
        emitted = sequence.extend([choices[node] for node in path])
        accepted = min(len(path) - 1, emitted)
        if traces is not None and sequence.drafting is not None:
            grown = drafted.grown or tree
            traces.append(Trace(grown, drafted.verified, drafted.levels, choices, path, emitted))
        walked = _clock()
        if sequence.drafting is not None:
            sequence.drafting.learn(tree, path[: accepted + 1])
            drafted.grow_seconds = (drafted.grow_seconds or 0.0) + _clock() - walked
        return Round(
            drafted=drafted.proposed,
            verified=len(tree) - 1,
            depth=tree.levels,
            accepted=accepted,
            emitted=emitted,
            capped=drafted.capped,
            draft_steps=drafted.steps,
            draft_rows=drafted.rows,
            draft_seconds=drafted.forward_seconds,
            grow_seconds=drafted.grow_seconds,
            verify_seconds=verified - begun,
            walk_seconds=walked - verified,
        )

    def _draft_tree(self, sequence: _Sequence, draft: Runner | None) -> _DraftedTree:
        begun = _clock()
        result = _DraftedTree(Tree.with_root(sequence.committed[-1]))
        if isinstance(sequence.drafting, PromptLookup):
            node = ROOT
            for token in sequence.drafting.propose(sequence.committed, sequence.max_draft_depth):
                node = result.tree.add(node, token, 0.0)
            result.proposed = len(result.tree) - 1
            result.grow_seconds = _clock() - begun
        elif sequence.drafting is not None and draft is not None:
            self._grow(draft, sequence, sequence.drafting, result)
            result.grow_seconds = _clock() - begun - (result.forward_seconds or 0.0)
        return result

    def _grow(self, draft: Runner, sequence: _Sequence, policy: GrowthPolicy, result: _DraftedTree) -> None:
        """Grow the tree level by level, one draft forward per level."""
        tree, depth = result.tree, min(policy.depth, sequence.max_draft_depth)
        result.forward_seconds = 0.0
        frontier, written = [ROOT], 0
        for level in range(1, depth + 1):
            begun = _clock()
            branch = min(policy.branch(level), self._proposable)
            if level == 1:
                lacking = _in_draft_vocabulary(sequence.committed[draft.length :], draft)
                draft.extend(lacking, range(COMMITTED, len(lacking) - 1), last_only=True)
                proposed = draft.top_k(branch, sequence.sampler, self._proposable)
                draft.keep(range(len(lacking)))
                result.rows += len(lacking)
            else:
                _feed(draft, tree, frontier, first_row=written)
                proposed = draft.top_k(branch, sequence.sampler, self._proposable)
                written += len(frontier)
                result.rows += len(frontier)
            result.steps += 1
            result.forward_seconds += _clock() - begun
            candidates = _candidates(tree, frontier, *proposed)
            selection = policy.select(candidates, level, tree)
            result.levels.append((candidates, selection))
            result.proposed += len(candidates)
            result.capped = result.capped or selection.capped
            frontier = _add_level(tree, candidates, selection)
            if level == depth or not frontier:
                break
            if len(tree) > policy.max_nodes and not policy.reranks:
                result.capped = True  # the tree is full while nodes are left to expand
                break
        if policy.reranks:
            result.grown, result.verified = tree, policy.rerank(tree)
            result.tree = tree.subset(result.verified)


def idle_clock(device: torch.device) -> float:
    """Return the monotonic time in seconds once the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return _clock()


def _in_draft_vocabulary(tokens: Sequence[int], draft: Runner) -> list[int]:
    """Return the tokens with the draft's last id in place of ids that it does not have.

    The target may emit such an id where its vocabulary is padded to a larger size. What the draft reads there
    affects its predictions only.
    """
    return [min(token, draft.vocabulary - 1) for token in tokens]


def _feed(draft: Runner, tree: Tree, nodes: Sequence[int], *, first_row: int) -> None:
    """Run the draft over nodes of one level; children of the root continue the committed rows."""
    draft.extend(
        [tree.token[node] for node in nodes],
        [COMMITTED if tree.parent[node] == ROOT else tree.row[tree.parent[node]] for node in nodes],
    )
    for row, node in enumerate(nodes, start=first_row):
        tree.row[node] = row


def _candidates(
    tree: Tree, frontier: Sequence[int], tokens: list[list[int]], log_probabilities: list[list[float]]
) -> Candidates:
    """Flatten the proposals for every frontier node; both are (len(frontier), branch), best first."""
    found = Candidates([], [], [], [], [])
    for node, its_tokens, values in zip(frontier, tokens, log_probabilities, strict=True):
        count = len(its_tokens)
        joint = tree.log_probability[node]
        found.parent.extend([node] * count)
        found.token.extend(its_tokens)
        found.log_probability.extend([joint + value for value in values])
        found.rank.extend(range(count))
        found.confidence.extend([math.exp(values[0])] * count)
    return found


def _add_level(tree: Tree, candidates: Candidates, selection: Selection) -> list[int]:
    """Add the selected candidates to the tree, and return the nodes to expand."""
    frontier = []
    for index, grows in zip(selection.kept, selection.grows, strict=True):
        node = tree.add(candidates.parent[index], candidates.token[index], candidates.log_probability[index])
        if grows:
            frontier.append(node)
    return frontier
