"""What a forward pass costs on this machine, by the number of tokens that go through it at once."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from scipy.optimize import isotonic_regression

from dyna_eval.measurements import Calibration
from dyna_eval_workers.decoding import Decoder
from dyna_eval_workers.runner import COMMITTED, Runner
from dyna_eval_workers.sampling import Sampler

_CONTEXT = 128  # committed rows before the passes that are timed
_WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 32)
_NODES = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64)
_LARGE_NODES = (128, 256)
_LARGE_WORTH_SECONDS = (
    0.05  # of a pass of 64 nodes, under which the large ones are timed too: a second or two
)
_REPEATS = 5
_SETTLING_SECONDS = 0.005
_BRANCH = 4


def calibrate(decoder: Decoder, *, position_limit: int | None) -> Calibration:
    """Time a draft step and a target step of every size, as decoding does them: pass and choice together.

    Large target steps are timed where that is quick. Seconds are medians, smoothed so that they never fall
    with the size. `position_limit` bounds what the models can hold; None for no limit.
    """
    room = min(_CONTEXT + _NODES[-1], position_limit or _CONTEXT + _NODES[-1])
    greedy = Sampler(temperature=0.0, seed="", vocabulary=decoder.target.vocabulary)
    draft = decoder.draft
    verify = _time(decoder.target, _NODES, room, lambda: decoder.target.choose(greedy))
    large = [size for size in _LARGE_NODES if position_limit is None or _CONTEXT + size <= position_limit]
    if large and verify[-1][1] < _LARGE_WORTH_SECONDS:
        room_for_large = _CONTEXT + large[-1]
        verify += _time(decoder.target, large, room_for_large, lambda: decoder.target.choose(greedy))
    return Calibration(
        draft_seconds=()
        if draft is None
        else _smoothed(_time(draft, _WIDTHS, room, lambda: draft.top_k(_BRANCH, greedy, draft.vocabulary))),
        verify_seconds=_smoothed(verify),
    )


def _time(
    runner: Runner, sizes: Sequence[int], room: int, choose: Callable[[], object]
) -> list[tuple[int, float]]:
    """Return (size, median seconds) of every size that fits in `room` rows after at least one."""
    sizes = [size for size in sizes if size < room] or [1]
    context = room - sizes[-1]
    tokens = [index % runner.vocabulary for index in range(room)]
    runner.reserve(room)
    runner.prefill(tokens[:context])
    measured: list[list[float]] = [[] for _ in sizes]
    for _ in range(_REPEATS):  # size by size within a repeat, so that a disturbance hits all alike
        for size, seconds in zip(sizes, measured, strict=True):
            seconds.append(_settled_seconds(runner, tokens[:size], choose))
    return list(zip(sizes, map(statistics.median, measured), strict=True))


def _smoothed(points: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Return the points with seconds that never fall: that more tokens take less time can only be noise."""
    sizes, seconds = zip(*points, strict=True)
    return tuple(zip(sizes, map(float, isotonic_regression(seconds).x), strict=True))


def _settled_seconds(runner: Runner, tokens: Sequence[int], choose: Callable[[], object]) -> float:
    """Time the last of several passes: decoding repeats passes of about one size.

    After a larger one it takes half a dozen of the smallest until the processor's caches hold what they read.
    A pass longer than 5 ms evicts the caches anyway, so it is timed once.
    """
    until = time.perf_counter() + _SETTLING_SECONDS
    while True:
        spent = _pass_seconds(runner, tokens, choose)
        if time.perf_counter() >= until:
            return spent


def _pass_seconds(runner: Runner, tokens: Sequence[int], choose: Callable[[], object]) -> float:
    """Time a pass of a chain of tokens and the choice after it, and forget the pass."""
    started = time.perf_counter()
    runner.extend(tokens, range(COMMITTED, len(tokens) - 1))
    choose()
    spent = time.perf_counter() - started
    runner.keep([])
    return spent
