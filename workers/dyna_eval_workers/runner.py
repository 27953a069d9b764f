"""Forward passes of one model over one preallocated cache.

A runner keeps the cache of one sequence, one row of keys and values per token: first the committed rows, of
the tokens that are accepted for good, then the uncommitted rows, of the tree's nodes. An uncommitted row
continues another one, its parent, or the committed rows; so a tree is given by its parents alone, and masks
and positions follow from them. Uncommitted rows are counted from 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from dyna_eval_workers.cache import PreallocatedCache
from dyna_eval_workers.placement import layer_devices
from dyna_eval_workers.rounding import ROUNDING_EPS
from dyna_eval_workers.sampling import Sampler

COMMITTED = -1
"""The parent of an uncommitted row that continues the committed ones."""
_WINDOW_IN_ALL_LAYERS = {"mistral", "mixtral", "phi3", "phimoe", "starcoder2"}  # whatever `layer_types` says


class Runner(Protocol):
    """A causal language model and its cache, for one sequence at a time."""

    backend: str
    """What runs the passes, as the environment of a result tells it."""
    fallback: str
    """Why nothing faster runs them; empty where nothing is."""
    bit_exact: bool
    """Whether the logits of a tree's nodes are, to the bit, those of decoding token by token."""
    rounding_eps: float
    """By how much other right passes may differ, in eps of the dtype at the size of the logits."""
    vocabulary: int
    position_limit: int | None
    """Positions that the model has; None where it states no limit."""
    dtype: torch.dtype
    device: torch.device

    @property
    def length(self) -> int:
        """Committed rows."""
        ...

    def reserve(self, capacity: int) -> None:
        """Empty the cache and make room for `capacity` rows."""
        ...

    def warm_up(
        self,
        nodes: Iterable[int],
        *,
        shortest: int,
        longest: int,
        greedy: bool = True,
        proposable: int | None = None,
        branch: int = 1,
    ) -> None:
        """Capture passes of so many nodes each, whose cache ends between `shortest` and `longest` rows.

        With `proposable`, capture top-k over so many ids, for up to `branch` children of a node; otherwise
        the choice. Without `greedy`, a runner that cannot capture sampling captures the passes alone.
        """
        ...

    def prefill(self, tokens: Sequence[int]) -> None:
        """Commit the rows of the first tokens of a sequence."""
        ...

    def extend(self, tokens: Sequence[int], parents: Sequence[int], *, last_only: bool = False) -> None:
        """Run a forward pass over tokens, each of which writes an uncommitted row.

        `parents` are the uncommitted rows that they continue, or COMMITTED. `choose`, `top_k` and `logits`
        are then about these tokens, or with `last_only` about the last one.
        """
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Commit these uncommitted rows, ascending, by moving them together; forget the others."""
        ...

    def choose(self, sampler: Sampler) -> list[int]:
        """Return the sampler's token after every token of the latest `extend`, (tokens,)."""
        ...

    def top_k(
        self, branch: int, sampler: Sampler, proposable: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Return the `branch` best tokens after every token of the latest `extend`, best first.

        With them come their log-probabilities; both are (tokens, branch). Ids from `proposable` on are left
        out. Where the sampler samples, scores are logits / temperature + noise, as in `choose`.
        """
        ...

    def logits(self) -> Tensor:
        """Return the logits of the latest `extend`, (tokens, vocabulary), valid until the next one."""
        ...


def vocabulary_size(config: Any) -> int:
    """Return how many tokens a model has, those beyond its tokenizer included."""
    return int(config.get_text_config().vocab_size)


def position_limit(config: Any) -> int | None:
    """Return the number of positions in which a model can be verified, or None where it states no limit.

    Past `original_max_position_embeddings`, transformers turns *all* tokens of a pass by LongRoPE's long
    frequencies: one deep node of a tree would change its siblings. Up to the length of a sliding window every
    token still sees all before it; past it, rows of the cache would have to be forgotten by their position.
    """
    text = config.get_text_config()
    rotary = getattr(text, "rope_parameters", None) or {}
    kinds = (rotary, *rotary.values())  # some families have a dictionary for each kind of layer
    limits = [getattr(text, "max_position_embeddings", None), _window(text)] + [
        kind.get("original_max_position_embeddings")
        for kind in kinds
        if isinstance(kind, dict) and kind.get("rope_type") == "longrope"
    ]
    return min((int(limit) for limit in limits if limit), default=None)


def _window(text: Any) -> int | None:
    """Return the length of the window in which some layer's attention slides; None where none does."""
    layers = getattr(text, "layer_types", None)
    if layers and "sliding_attention" not in layers and text.model_type not in _WINDOW_IN_ALL_LAYERS:
        return None
    return getattr(text, "sliding_window", None)  # None too where the family has a flag and it is off


class UncommittedRows:
    """The position of every uncommitted row, and which of them it attends to: its ancestors and itself.

    `seen` has an integer for each row, whose bit r says whether it attends to uncommitted row r.
    """

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.seen: list[int] = []

    def add(self, parents: Sequence[int], committed: int) -> None:
        positions, seen = self.positions, self.seen
        for row, parent in enumerate(parents, start=len(positions)):
            if parent == COMMITTED:
                positions.append(committed)
                seen.append(1 << row)
            else:
                positions.append(positions[parent] + 1)
                seen.append(seen[parent] | 1 << row)

    def clear(self) -> None:
        self.positions.clear()
        self.seen.clear()


def unpack(seen: Sequence[int], rows: int) -> NDArray[np.bool_]:
    """Return the mask that `UncommittedRows.seen` packs into bits, (len(seen), rows)."""
    size = -(-rows // 8)
    packed = b"".join(bits.to_bytes(size, "little") for bits in seen)
    matrix = np.frombuffer(packed, dtype=np.uint8).reshape(-1, size)
    return np.unpackbits(matrix, axis=1, count=rows, bitorder="little").view(np.bool_)


class TorchRunner:
    """Runs a transformers model as it is, on any device.

    Every pass gives explicit positions and, where the tokens are not a single continuation of the cache, an
    additive mask in the model's dtype: a boolean mask is silently wrong under eager attention.
    """

    backend = "eager"
    fallback = ""
    bit_exact = False

    def __init__(self, model: Any) -> None:
        self.model = model
        parameter = next(model.parameters())
        self.dtype, self.device = parameter.dtype, parameter.device
        self.rounding_eps = ROUNDING_EPS[self.dtype]
        self.vocabulary = vocabulary_size(model.config)
        self.position_limit = position_limit(model.config)
        self._heads, self._head_size = self._cached_heads()
        self.cache = self._allocate(0)
        self._uncommitted = UncommittedRows()
        self._blocked = torch.finfo(self.dtype).min
        self._logits = torch.zeros(0, self.vocabulary)

    @property
    def length(self) -> int:
        return self.cache.length

    def reserve(self, capacity: int) -> None:
        if self.cache.capacity < capacity:
            self.cache = self._allocate(capacity)
        self.cache.clear()
        self._uncommitted.clear()

    def warm_up(
        self,
        nodes: Iterable[int],
        *,
        shortest: int,
        longest: int,
        greedy: bool = True,
        proposable: int | None = None,
        branch: int = 1,
    ) -> None:
        """Do nothing: passes of every size are run alike."""

    @torch.inference_mode()
    def prefill(self, tokens: Sequence[int]) -> None:
        if tokens:
            self._call(tokens, range(len(tokens)), None, last_only=True)
            self.cache.commit(len(tokens))

    @torch.inference_mode()
    def extend(self, tokens: Sequence[int], parents: Sequence[int], *, last_only: bool = False) -> None:
        first = len(self._uncommitted.positions)
        self._uncommitted.add(parents, self.length)
        seen = unpack(self._uncommitted.seen[first:], len(self._uncommitted.seen))
        self._logits = self._call(
            tokens, self._uncommitted.positions[first:], self._mask(seen), last_only=last_only
        )

    def keep(self, rows: Sequence[int]) -> None:
        count = len(rows)
        first_moved = next((index for index, row in enumerate(rows) if row != index), count)
        if first_moved < count:
            self._move(rows[first_moved:], range(first_moved, count))
        self.cache.commit(count)
        self._uncommitted.clear()

    @torch.inference_mode()
    def choose(self, sampler: Sampler) -> list[int]:
        chosen: list[int] = self._scores(sampler, self.vocabulary).argmax(dim=-1).tolist()
        return chosen

    @torch.inference_mode()
    def top_k(
        self, branch: int, sampler: Sampler, proposable: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        scores = self._scores(sampler, proposable)
        best = scores.float().log_softmax(dim=-1).topk(branch, dim=-1)
        return best.indices.tolist(), best.values.tolist()

    def logits(self) -> Tensor:
        return self._logits

    @torch.inference_mode()
    def _move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy uncommitted rows onto others."""
        moves = torch.tensor([list(sources), list(targets)], device=self.device)
        self.cache.move(*(moves + self.length))

    def _scores(self, sampler: Sampler, tokens: int) -> Tensor:
        """Return the scores of the first `tokens` ids after every token asked about, (asked, tokens)."""
        noise = sampler.noise(
            [position + 1 for position in self._uncommitted.positions[-len(self._logits) :]]
        )
        logits = self._logits[:, :tokens]
        if noise is None:
            return logits
        return logits.float() / sampler.temperature + torch.from_numpy(noise[:, :tokens]).to(self.device)

    def _mask(self, seen: NDArray[np.bool_]) -> Tensor | None:
        """Return the additive mask, (1, 1, tokens, rows), or None for one token that sees every row."""
        if len(seen) == 1 and seen.all():
            return None
        tokens, rows = seen.shape
        mask = torch.zeros(1, 1, tokens, self.length + rows, dtype=self.dtype, device=self.device)
        blocked = torch.from_numpy(~seen).to(self.device)
        mask[0, 0, :, self.length :].masked_fill_(blocked, self._blocked)
        return mask

    def _call(
        self, tokens: Sequence[int], positions: Sequence[int], mask: Tensor | None, *, last_only: bool
    ) -> Tensor:
        output = self.model(
            input_ids=torch.tensor([list(tokens)], device=self.device),
            position_ids=torch.tensor([list(positions)], device=self.device),
            attention_mask=mask,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1 if last_only else 0,
        )
        self.cache.advance(len(tokens))
        result: Tensor = output.logits[0]
        return result

    @torch.inference_mode()
    def _cached_heads(self) -> tuple[int, int]:
        """Return how many heads a layer caches, and their size, as a pass of one token shows them.

        Configurations name them differently, and some families cache other numbers than they name.
        """
        cache = DynamicCache(config=self.model.config)
        token = torch.zeros(1, 1, dtype=torch.int64, device=self.device)
        self.model(input_ids=token, past_key_values=cache, use_cache=True)
        _, heads, _, head_size = cache.layers[0].keys.shape
        return heads, head_size

    def _allocate(self, capacity: int) -> PreallocatedCache:
        config = self.model.config.get_text_config()
        return PreallocatedCache(
            heads=self._heads,
            head_size=self._head_size,
            capacity=capacity,
            dtype=self.dtype,
            devices=layer_devices(self.model, config.num_hidden_layers),
        )
