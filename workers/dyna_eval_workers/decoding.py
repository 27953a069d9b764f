"""One decoding loop for every method.

A round drafts a tree, verifies it with one target forward, walks it, and compacts both caches. AR is a
tree of one node, linear speculation a tree of branch 1.

Notation: n committed tokens, of which the last, the pending token, is not yet in the target's cache.

    target cache length = n - 1        before and after every round
    draft cache length >= n - 2        it lacks the pending token, and one more after a full acceptance
    emitted = accepted + 1             the bonus token is the target's own; none follows an end token
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dyna_eval.errors import DecodingError
from dyna_eval.jobs import GenerationSpec, Round
from dyna_eval_workers.policies import GrowthPolicy
from dyna_eval_workers.runner import Runner
from dyna_eval_workers.sampling import Chooser
from dyna_eval_workers.tree import Tree, walk

_Mark = float | torch.cuda.Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What one prompt was continued with. Times are seconds; decode excludes prefill."""

    token_ids: tuple[int, ...]
    prefill_seconds: float
    decode_seconds: float
    ttft_seconds: float
    rounds: tuple[Round, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drafting:
    """What growing one tree came to: candidates seen, whether the node cap bound, and `fed`, (F,), the
    nodes that went through the draft in the order of their cache rows."""

    drafted: int
    capped: bool
    fed: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class _RoundNotes:
    """One round as noted while the clock runs; marks are read only after the last round."""

    speculates: bool
    drafted: int
    verified: int
    depth: int
    accepted: int
    emitted: int
    capped: bool
    marks: tuple[_Mark, _Mark, _Mark]


@dataclass(slots=True, kw_only=True)
class _Sequence:
    """One prompt being continued: its tokens so far, and what stays the same from round to round."""

    committed: list[int]
    limit: int
    """The length at which the sequence is finished."""
    end_token: int | None
    chooser: Chooser
    policy: GrowthPolicy | None
    tree: Tree

    @property
    def finished(self) -> bool:
        return len(self.committed) >= self.limit

    def extend(self, tokens: list[int]) -> list[int]:
        """Commit what a round emitted, up to an end token, and return that part."""
        if self.end_token is not None and self.end_token in tokens:
            tokens = tokens[: tokens.index(self.end_token) + 1]
            self.limit = len(self.committed) + len(tokens)
        self.committed += tokens
        self.chooser.forget_before(len(self.committed))
        return tokens


class Decoder:
    """A loaded pair, ready to decode one prompt after another. `draft` may be None for AR alone.

    `vocabulary` is the tokenizer's size, `end_of_text` its end token or None.
    """

    def __init__(
        self, target: Runner, draft: Runner | None, *, vocabulary: int, end_of_text: int | None
    ) -> None:
        self.target, self.draft = target, draft
        self._end_of_text = end_of_text
        # Ids beyond the tokenizer (padded vocabularies) or beyond the target are never proposed.
        self._proposable = min(vocabulary, target.vocabulary, draft.vocabulary if draft else vocabulary)
        self._clock = _PhaseClock(target.device)

    @torch.inference_mode()
    def decode(
        self, prompt: Sequence[int], generation: GenerationSpec, policy: GrowthPolicy | None, *, seed: str
    ) -> Decoded:
        """Continue a prompt of at least one token by at most `generation.max_new_tokens`.

        The tokens are those the target alone would choose with the same seed, whatever the policy.
        """
        if policy is not None and self.draft is None:
            raise DecodingError("a speculative method needs a draft model, and this pair has none")
        device = self.target.device
        most_nodes = policy.max_nodes if policy else 0
        sequence = _Sequence(
            committed=list(prompt),
            limit=len(prompt) + generation.max_new_tokens,
            end_token=self._end_of_text if generation.stop_at_eos else None,
            chooser=Chooser(
                temperature=generation.temperature,
                seed=seed,
                vocabulary=self.target.vocabulary,
                device=device,
            ),
            policy=policy,
            tree=Tree.allocate(most_nodes + 1, device),
        )
        runners = [self.target] if policy is None or self.draft is None else [self.target, self.draft]
        for runner in runners:
            runner.reserve(sequence.limit + most_nodes + 1)

        notes: list[_RoundNotes] = []
        started = self._clock.now()
        for runner in runners:
            runner.prefill(sequence.committed[:-1])
        prefilled = first = self._clock.now()
        while not sequence.finished:
            notes.append(self._round(sequence))
            if len(notes) == 1:
                first = time.perf_counter()
        ended = self._clock.now()

        if self.target.cache.length < len(sequence.committed) - 1:
            raise DecodingError("the target's cache is shorter than its committed tokens")
        return Decoded(
            token_ids=tuple(sequence.committed[len(prompt) :]),
            prefill_seconds=prefilled - started,
            decode_seconds=ended - prefilled,
            ttft_seconds=first - started,
            rounds=tuple(self._read(note) for note in notes),
        )

    def _round(self, sequence: _Sequence) -> _RoundNotes:
        """Draft, verify, walk, compact; the sequence grows by what was emitted."""
        tree = sequence.tree
        begun = self._clock.mark()
        tree.plant(sequence.committed[-1])
        drafting = None
        if sequence.policy is not None and self.draft is not None:
            drafting = self._grow(self.draft, sequence, sequence.policy)
        grown = self._clock.mark()
        choices = self._verify(sequence)
        verified = self._clock.mark()

        path = walk(tree, choices)
        tokens: list[int] = choices[path].tolist()
        if tree.is_chain:
            self.target.cache.commit(len(tokens))
        else:
            self.target.cache.keep(path)
        if drafting is not None and self.draft is not None:
            self.draft.cache.keep(torch.isin(drafting.fed, path).nonzero().squeeze(1))
        emitted = sequence.extend(tokens)
        return _RoundNotes(
            speculates=drafting is not None,
            drafted=drafting.drafted if drafting else 0,
            verified=tree.size - 1,
            depth=tree.levels,
            accepted=min(len(tokens) - 1, len(emitted)),
            emitted=len(emitted),
            capped=drafting.capped if drafting else False,
            marks=(begun, grown, verified),
        )

    def _grow(self, draft: Runner, sequence: _Sequence, policy: GrowthPolicy) -> _Drafting:
        """Grow the tree level by level, one draft forward per level."""
        tree, n = sequence.tree, len(sequence.committed)
        logits = self._catch_up(draft, sequence.committed)
        frontier = torch.zeros(1, dtype=torch.long, device=draft.device)
        fed = frontier[:0]
        drafted, capped = 0, False
        # A level deeper than what is left to emit could never be used.
        deepest = min(policy.depth, sequence.limit - n - 1)
        for level in range(1, deepest + 1):
            scores = sequence.chooser.scores(logits[:, : self._proposable], n + level - 1)
            branch = min(policy.branch(level), self._proposable)
            conditional, token = scores.float().log_softmax(dim=-1).topk(branch, dim=-1)
            joint = (tree.log_probability[frontier][:, None] + conditional).flatten()
            selection = policy.select(joint, policy.max_nodes + 1 - tree.size)
            kept = selection.kept
            drafted += joint.shape[0]
            capped = capped or selection.capped
            if kept.shape[0] == 0:
                break
            nodes = tree.add_level(token.flatten()[kept], frontier[kept // branch], joint[kept])
            frontier = nodes[selection.grows]
            if level == deepest or frontier.shape[0] == 0:
                break
            if tree.size > policy.max_nodes:
                capped = True  # full to the last node, with nodes left that would have grown
                break
            fed = torch.cat([fed, frontier])
            alone = fed.shape[0] == level
            visible = None if alone else tree.ancestors[frontier][:, fed]
            logits = draft.forward(tree.token[frontier], tree.depth[frontier] + (n - 1), visible)
        return _Drafting(drafted=drafted, capped=capped, fed=fed)

    def _catch_up(self, draft: Runner, committed: list[int]) -> Tensor:
        """Let the draft read the committed tokens that it lacks; its logits after the last, (1, V)."""
        n = len(committed)
        lacking = torch.tensor(committed[draft.cache.length :], device=draft.device)
        count = lacking.shape[0]
        positions = torch.arange(n - count, n, device=draft.device)
        chain = torch.ones(count, count, dtype=torch.bool, device=draft.device).tril() if count > 1 else None
        logits = draft.forward(lacking, positions, chain)
        draft.cache.commit(count)
        return logits[-1:]

    def _verify(self, sequence: _Sequence) -> Tensor:
        """Return the target's choice after every node, (N,), from one forward pass."""
        tree, n = sequence.tree, len(sequence.committed)
        size = tree.size
        visible = tree.ancestors[:size, :size] if size > 1 else None
        depth = tree.depth[:size]
        logits = self.target.forward(tree.token[:size], depth + (n - 1), visible)
        return sequence.chooser.scores(logits, n, depth).argmax(dim=-1)

    def _read(self, note: _RoundNotes) -> Round:
        begun, grown, verified = note.marks
        return Round(
            drafted=note.drafted,
            verified=note.verified,
            depth=note.depth,
            accepted=note.accepted,
            emitted=note.emitted,
            capped=note.capped,
            draft_seconds=self._clock.between(begun, grown) if note.speculates else None,
            verify_seconds=self._clock.between(grown, verified),
        )


class _PhaseClock:
    """Marks phases without a device synchronisation: CUDA events there, the monotonic clock elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def now(self) -> float:
        """Return the monotonic time in seconds once the device is idle."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def mark(self) -> _Mark:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def between(self, start: _Mark, end: _Mark) -> float:
        """Return seconds between two marks; call it only after the device is idle."""
        if isinstance(start, float) and isinstance(end, float):
            return end - start
        return float(start.elapsed_time(end)) / 1000  # type: ignore[union-attr, arg-type]  # both are events
