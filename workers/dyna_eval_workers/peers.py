"""transformers' own decoding loops, measured like ours.

Prefill covers all prompt tokens but the last, apart from decoding, in every model that takes part; `generate`
then gets the whole prompt and caches that hold these rows. It does the rest by itself, with two exceptions:

- Assisted generation takes no filled caches: its first pass of either model would feed the whole prompt.
  A hook on that pass hands over the filled cache and leaves out the tokens that are in it.
- It refuses a draft whose output layer has another size than the target's, as padded vocabularies do. Such a
  draft is resized, with the ids beyond the tokenizer and those that it did not have suppressed.

The static cache is the one that transformers compiles for: every token's forward pass after the first, by
`torch.compile` in transformers' own mode. On a CPU it does so only where it is told to, as here.

Greedy tokens are the target's. Sampled ones follow its distribution, but with torch's random numbers: with
one seed they repeat on one machine, and cannot equal the tokens of our own loop. With scikit-learn installed,
transformers adapts the confidence threshold from round to round.
"""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import CompileConfig, DynamicCache, GenerationConfig, StaticCache
from transformers.utils import logging as transformers_logging

from dyna_eval.errors import DecodingError, first_line
from dyna_eval.jobs import Configuration, GenerationSpec, Method
from dyna_eval.measurements import Round
from dyna_eval_workers.decoding import Decoded, idle_clock
from dyna_eval_workers.memory import ran_out
from dyna_eval_workers.runner import vocabulary_size

_clock = time.perf_counter
_CACHE_STEP = 64  # a static cache has a multiple of so many rows: equal shapes share their compiled code
_COMPILING_TOKENS = 8  # CUDA graphs are recorded at the second pass of a shape and replayed from the third on
_MAX_SHAPES = 64  # that one process compiles; torch's own limit is 8, and then it silently stops compiling


class PeerDecoder:
    """transformers models, ready to decode one prompt after another. `draft` may be None for `hf_generate`.

    The two are different objects, used by nothing else meanwhile. `vocabulary` is the tokenizer's size; at
    `end_tokens` a text ends where generation stops at them.
    """

    def __init__(self, target: Any, draft: Any | None, *, vocabulary: int, end_tokens: Iterable[int]) -> None:
        self.target, self.draft = target, draft
        self.device: torch.device = next(target.parameters()).device
        self._end_tokens = sorted(end_tokens)
        self._never_drafted = [] if draft is None else _match_output_layers(target, draft, vocabulary)
        self._static: Any | None = None
        self._static_rows = 0
        self._drafting: dict[str, Any] = {}
        """By parameters: the schedule `heuristic` carries its number of draft tokens to the next prompt."""

    def warm_up(self, configuration: Configuration, *, tokens: int) -> None:
        """Make the static cache for sequences of up to `tokens` tokens, prompt included, and compile for it.

        Other configurations need nothing. `decode` calls this itself, before its clock starts, where the
        cache is too small. Raises DecodingError where torch cannot compile, and as it is what says that
        memory ran out or the device failed.
        """
        if not _is_static(configuration) or self._static_rows >= tokens:
            return
        rows = -(-tokens // _CACHE_STEP) * _CACHE_STEP
        self._static, self._static_rows = StaticCache(config=self.target.config, max_cache_len=rows), rows
        try:
            self.decode((0,), GenerationSpec(max_new_tokens=_COMPILING_TOKENS), configuration, seed="")
        except Exception as error:
            self._static, self._static_rows = None, 0
            if ran_out(error) or _is_of_the_device(error):
                raise  # the machine's fault, not the configuration's
            raise DecodingError(
                f"hf_generate: torch cannot compile for the static cache here ({first_line(error)}); "
                "install a C++ compiler, or choose cache: dynamic"
            ) from error

    def reset(self) -> None:
        """Let the schedule `heuristic` begin anew, as with the first prompt."""
        self._drafting.clear()

    @torch.inference_mode()
    def decode(
        self, prompt: Sequence[int], generation: GenerationSpec, configuration: Configuration, *, seed: str
    ) -> Decoded:
        """Continue a prompt of at least one token by at most `generation.max_new_tokens`.

        A round is one emission of the loop. All draft tokens of a round are one chain that the target sees;
        phases of a round cannot be seen, so their seconds are None.
        """
        draft = self.draft if configuration.method is Method.HF_ASSISTED else None
        if configuration.method is Method.HF_ASSISTED and draft is None:
            raise DecodingError("a speculative method needs a draft model, and this pair has none")
        self.warm_up(configuration, tokens=len(prompt) + generation.max_new_tokens)
        ids = torch.tensor([list(prompt)], device=self.device)
        listener = _Listener()
        with ExitStack() as stack:
            stack.enter_context(self._configured(configuration))
            stack.enter_context(_seeded(seed, self.device))
            cache = self._empty_cache(self.target, configuration)
            started = idle_clock(self.device)
            _prefill(self.target, cache, ids)
            if draft is not None:
                draft_cache = self._empty_cache(draft, configuration)
                _prefill(draft, draft_cache, ids)
                stack.enter_context(_going_on_from(self.target, cache, ids.shape[1] - 1))
                stack.enter_context(_going_on_from(draft, draft_cache, ids.shape[1] - 1))
                stack.enter_context(draft.register_forward_pre_hook(listener.count, with_kwargs=True))
            prefilled = idle_clock(self.device)
            sequence = self.target.generate(
                ids,
                past_key_values=cache,
                generation_config=self._generation_config(generation, configuration),
                assistant_model=draft,
                streamer=listener,
            )
            ended = idle_clock(self.device)
        return Decoded(
            token_ids=tuple(sequence[0, len(prompt) :].tolist()),
            prefill_seconds=prefilled - started,
            decode_seconds=ended - prefilled,
            ttft_seconds=listener.first - started,
            rounds=tuple(listener.rounds),
        )

    def _generation_config(self, generation: GenerationSpec, configuration: Configuration) -> Any:
        """Return what `generate` is to do. It may emit an end token, also where it must not stop there."""
        config = GenerationConfig(
            max_new_tokens=generation.max_new_tokens,
            do_sample=False,
            eos_token_id=(self._end_tokens or None) if generation.stop_at_eos else None,
        )
        if generation.temperature > 0:  # top_k is 50 unless it is told otherwise
            config.update(do_sample=True, temperature=generation.temperature, top_k=0)
        if _is_static(configuration):
            # Left to itself, torch compiles the second size of cache with variable shapes, which are slower.
            config.compile_config = CompileConfig(dynamic=False)
            config.compile_config._compile_all_devices = True
        return config

    @contextmanager
    def _configured(self, configuration: Configuration) -> Iterator[None]:
        """Give the models neutral generation configs, and keep the loop's chatter away.

        `generate` fills in from the target's config what it is not told, and reads the draft's for how to
        draft. All that is changed for the process is put back.
        """
        lent = {self.target: GenerationConfig()}
        if self.draft is not None:
            lent[self.draft] = self._drafting_config(configuration)
        own = {model: model.generation_config for model in lent}
        verbosity = transformers_logging.get_verbosity()
        parallelism = os.environ.get("TOKENIZERS_PARALLELISM")
        transformers_logging.set_verbosity_error()
        limits = torch._dynamo.config.patch(recompile_limit=_MAX_SHAPES, fail_on_recompile_limit_hit=True)
        try:
            with warnings.catch_warnings(), limits:
                warnings.simplefilter("ignore")
                for model, config in lent.items():
                    model.generation_config = config
                yield
        finally:
            for model, config in own.items():
                model.generation_config = config
            transformers_logging.set_verbosity(verbosity)
            os.environ.pop("TOKENIZERS_PARALLELISM", None)  # which compiling sets
            if parallelism is not None:
                os.environ["TOKENIZERS_PARALLELISM"] = parallelism

    def _drafting_config(self, configuration: Configuration) -> Any:
        params = configuration.params
        if configuration.method is not Method.HF_ASSISTED:
            return GenerationConfig()
        return self._drafting.setdefault(
            str(sorted(params.items())),
            GenerationConfig(
                num_assistant_tokens=params["num_assistant_tokens"],
                num_assistant_tokens_schedule=params["schedule"],
                assistant_confidence_threshold=params["confidence_threshold"],
                suppress_tokens=self._never_drafted or None,
            ),
        )

    def _empty_cache(self, model: Any, configuration: Configuration) -> Any:
        if _is_static(configuration) and self._static is not None:
            self._static.reset()
            return self._static
        return DynamicCache(config=model.config)


class _Listener:
    """Hears what a loop emits, as its streamer, and what goes through the draft, as a hook of it."""

    def __init__(self) -> None:
        self.rounds: list[Round] = []
        self.first = 0.0
        """When the first tokens came, on the clock of this module."""
        self._prompt_heard = False
        self._steps = self._rows = 0

    def put(self, tokens: Tensor) -> None:
        """Take what the loop emitted: the prompt first, then the tokens of one round after another."""
        if not self._prompt_heard:
            self._prompt_heard = True
            return
        if not self.rounds:
            self.first = _clock()
        emitted = tokens.numel()
        self.rounds.append(
            Round(
                drafted=self._steps,
                verified=self._steps,
                depth=self._steps,
                accepted=emitted - 1,
                emitted=emitted,
                capped=False,
                draft_steps=self._steps,
                draft_rows=self._rows,
                draft_seconds=None,
                grow_seconds=None,
                verify_seconds=None,
                walk_seconds=None,
            )
        )
        self._steps = self._rows = 0

    def end(self) -> None:
        """Nothing follows; part of what transformers calls on a streamer."""

    def count(self, _draft: Any, _positional: Any, arguments: dict[str, Any]) -> None:
        """Count a forward pass of the draft, which proposes one token, and the tokens that go into it."""
        self._steps += 1
        self._rows += arguments["input_ids"].shape[1]


def _is_of_the_device(error: BaseException | None) -> bool:
    """Whether an error of CUDA is behind an error, after which every further call in the process may fail."""
    while error is not None and not isinstance(error, torch.AcceleratorError):
        error = error.__cause__ or error.__context__
    return error is not None


def _is_static(configuration: Configuration) -> bool:
    return configuration.method is Method.HF_GENERATE and configuration.params["cache"] == "static"


def _prefill(model: Any, cache: Any, prompt: Tensor) -> None:
    """Put all tokens of a prompt but the last into an empty cache; prompt is (1, tokens)."""
    if prompt.shape[1] > 1:
        model(input_ids=prompt[:, :-1], past_key_values=cache, use_cache=True, logits_to_keep=1)


@contextmanager
def _going_on_from(model: Any, cache: Any, rows: int) -> Iterator[None]:
    """Let the model's next forward pass use a cache, and leave out the first tokens, which are its rows."""

    def go_on(_model: Any, positional: Any, arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        hook.remove()
        lacking = {
            name: arguments[name][:, rows:]
            for name in ("input_ids", "position_ids")
            if arguments.get(name) is not None
        }
        return positional, arguments | lacking | {"past_key_values": cache}

    hook = model.register_forward_pre_hook(go_on, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _seeded(seed: str, device: torch.device) -> Iterator[None]:
    """Seed torch's random numbers, and put back their state."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8]))
        yield


def _match_output_layers(target: Any, draft: Any, vocabulary: int) -> list[int]:
    """Give the draft as many output rows as the target has; return the ids that it must not propose then.

    They are those beyond the tokenizer, and those that the draft had no row for.
    """
    rows, own = (vocabulary_size(model.config) for model in (target, draft))
    if own == rows:
        return []
    with _seeded("", next(draft.parameters()).device):  # new rows are drawn, and never proposed
        draft.resize_token_embeddings(rows, mean_resizing=False)
    return list(range(min(vocabulary, own), rows))
