"""What a forward pass costs by its size: measured on a pair, and read between the measurements."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from dyna_eval_workers.calibration import calibrate
from dyna_eval_workers.runner import TorchRunner
from hypothesis import given
from hypothesis import strategies as st

from dyna_eval.jobs import GenerationSpec
from dyna_eval.measurements import Calibration, interpolate
from tests.models import POSITIONS, VOCABULARY, tiny_gpt_neox, tiny_model
from tests.runners import RUNNERS, decoder


@pytest.fixture(scope="module", params=RUNNERS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def sizes(points: Sequence[tuple[int, float]]) -> list[int]:
    return [size for size, _ in points]


# ---------------------------------------------------------------------- measuring


def test_both_models_are_timed_in_ascending_sizes(backend: str) -> None:
    target, draft = tiny_gpt_neox(seed=1), tiny_gpt_neox(seed=2, hidden=16, layers=1)
    measured = calibrate(decoder(target, draft, backend=backend), position_limit=POSITIONS)
    for points in (measured.draft_seconds, measured.verify_seconds):
        assert sizes(points) == sorted(set(sizes(points)))
        assert points[0][0] == 1, "a step of one token is what the target alone takes"
        assert all(seconds > 0 for _, seconds in points)
        assert all(less <= more for (_, less), (_, more) in pairwise(points)), "more tokens take no less time"
    assert measured.draft_seconds[-1][0] < measured.verify_seconds[-1][0] < POSITIONS


@pytest.mark.parametrize(
    ("seconds_per_token", "positions", "largest"),
    [(0.0001, None, 256), (0.0001, 4096, 256), (0.0001, 300, 128), (0.0001, 200, 64), (0.001, None, 64)],
)
def test_large_passes_are_timed_where_they_are_quick_and_fit(
    seconds_per_token: float, positions: int | None, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = decoder(tiny_model("gpt2", seed=1, n_positions=512), None)
    whole, now = TorchRunner.extend, 0.0

    def extend(self: TorchRunner, tokens: Sequence[int], parents: Sequence[int], **options: bool) -> None:
        nonlocal now
        now += seconds_per_token * len(tokens)
        whole(self, tokens, parents, **options)

    monkeypatch.setattr(TorchRunner, "extend", extend)
    monkeypatch.setattr("dyna_eval_workers.calibration.time.perf_counter", lambda: now)
    points = calibrate(pair, position_limit=positions).verify_seconds
    assert sizes(points)[-1] == largest
    assert [seconds for _, seconds in points] == pytest.approx([seconds_per_token * n for n, _ in points])


def test_without_a_draft_only_the_target_is_timed(backend: str) -> None:
    measured = calibrate(decoder(tiny_gpt_neox(seed=1), None, backend=backend), position_limit=POSITIONS)
    assert measured.draft_seconds == ()
    assert measured.verify_seconds


@pytest.mark.parametrize("positions", [None, 1, 2, 5, 40, 150, 4096])
def test_no_more_than_a_model_s_positions_are_used(
    positions: int | None, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learned table of positions is read beyond its end otherwise: an error, or worse."""
    monkeypatch.setattr("dyna_eval_workers.calibration._SETTLING_SECONDS", 0.0)  # one pass is as good as many
    model = tiny_model("gpt2", seed=1, n_positions=positions or 512)
    pair = decoder(model, model, backend=backend)
    reserved: list[int] = []
    monkeypatch.setattr(pair.target, "reserve", _watched(pair.target.reserve, reserved))
    measured = calibrate(pair, position_limit=positions)
    assert all(rows <= (positions or 384) for rows in reserved)
    for points in (measured.draft_seconds, measured.verify_seconds):
        assert sizes(points)[0] == 1
        assert all(size < (positions or 384) for size in sizes(points)[1:])
    if positions is None or positions > 384:
        assert sizes(measured.verify_seconds)[-1] in (64, 256)  # the first on a machine that is very slow
        assert sizes(measured.draft_seconds)[-1] == 32


def _watched(reserve: Any, reserved: list[int]) -> Any:
    def watching(capacity: int) -> None:
        reserved.append(capacity)
        reserve(capacity)

    return watching


def test_seconds_are_those_of_pass_and_choice_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that ticks once per token that goes through a pass, and ten times for a choice.

    The first repeat, a warm-up, takes much longer, and so does one of the others: neither shows.
    """
    pair = decoder(tiny_gpt_neox(seed=1), tiny_gpt_neox(seed=2))
    now, passes = 0.0, 0
    whole_extend, whole_choose, whole_top_k = TorchRunner.extend, TorchRunner.choose, TorchRunner.top_k

    def extend(self: TorchRunner, tokens: Sequence[int], parents: Sequence[int], **options: bool) -> None:
        nonlocal now, passes
        passes += 1
        now += len(tokens) + (1000 if passes % 41 == 1 else 0)
        whole_extend(self, tokens, parents, **options)

    def choose(self: TorchRunner, *arguments: Any) -> Any:
        nonlocal now
        now += 10
        return whole_choose(self, *arguments)

    def top_k(self: TorchRunner, *arguments: Any) -> Any:
        nonlocal now
        now += 10
        return whole_top_k(self, *arguments)

    monkeypatch.setattr(TorchRunner, "extend", extend)
    monkeypatch.setattr(TorchRunner, "choose", choose)
    monkeypatch.setattr(TorchRunner, "top_k", top_k)
    monkeypatch.setattr("dyna_eval_workers.calibration.time.perf_counter", lambda: now)
    measured = calibrate(pair, position_limit=POSITIONS)
    for points in (measured.draft_seconds, measured.verify_seconds):
        assert all(seconds == size + 10 for size, seconds in points)


@pytest.mark.parametrize(("seconds", "passes"), [(0.002, 3), (0.5, 1)])
def test_only_a_short_pass_is_warmed_up(seconds: float, passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long one reads more than caches hold, and a large model's calibration would take twice as long."""
    pair = decoder(tiny_gpt_neox(seed=1), None)
    whole, now, sizes_passed = TorchRunner.extend, 0.0, list[int]()

    def extend(self: TorchRunner, tokens: Sequence[int], parents: Sequence[int], **options: bool) -> None:
        nonlocal now
        now += seconds
        sizes_passed.append(len(tokens))
        whole(self, tokens, parents, **options)

    monkeypatch.setattr(TorchRunner, "extend", extend)
    monkeypatch.setattr("dyna_eval_workers.calibration.time.perf_counter", lambda: now)
    measured = calibrate(pair, position_limit=POSITIONS)
    assert sizes_passed.count(1) == 5 * passes
    assert all(found == pytest.approx(seconds) for _, found in measured.verify_seconds)


def test_a_pair_decodes_after_its_calibration_as_before(backend: str) -> None:
    pair = decoder(tiny_gpt_neox(seed=1), None, backend=backend, vocabulary=VOCABULARY)
    before = pair.decode((17, 5, 250), GenerationSpec(max_new_tokens=12), None, seed="0").token_ids
    calibrate(pair, position_limit=POSITIONS)
    assert pair.decode((17, 5, 250), GenerationSpec(max_new_tokens=12), None, seed="0").token_ids == before


# ------------------------------------------------------------------------ reading

POINTS = ((1, 2.0), (3, 4.0), (8, 9.0))


@pytest.mark.parametrize(
    ("size", "seconds"), [(1, 2.0), (2, 3.0), (3, 4.0), (5.5, 6.5), (8, 9.0), (10, 11.0), (0.5, 2.0)]
)
def test_between_two_sizes_seconds_lie_on_a_line(size: float, seconds: float) -> None:
    """Beyond the last one too; under the first one a step is no cheaper."""
    assert interpolate(POINTS, size) == pytest.approx(seconds)


def test_beyond_the_largest_size_noise_of_the_last_ones_is_evened_out() -> None:
    """Sizes under a quarter of the largest do not count: of few tokens a pass costs what its weights take."""
    points = ((1, 50.0), (16, 50.0), (24, 60.0), (40, 70.0), (56, 88.0), (64, 112.0))
    slope = np.polyfit([16, 24, 40, 56, 64], [50, 60, 70, 88, 112], deg=1)[0]
    assert interpolate(points, 128) == pytest.approx(112 + 64 * slope)
    assert interpolate(points, 64) == 112
    assert interpolate(((1, 1.0), (8, 2.0)), 15) == pytest.approx(3.0)


def test_one_size_alone_stands_for_all() -> None:
    assert [interpolate(((4, 2.5),), size) for size in (1, 4, 100)] == [2.5] * 3


@given(
    seconds=st.lists(st.floats(0, 10), min_size=1, max_size=6),
    gaps=st.lists(st.integers(1, 9), min_size=6, max_size=6),
)
def test_a_measured_size_costs_what_was_measured_and_others_lie_between(
    seconds: list[float], gaps: list[int]
) -> None:
    places = [1 + sum(gaps[:index]) for index in range(len(seconds))]
    points = tuple(zip(places, seconds, strict=True))
    for size, measured in points:
        assert interpolate(points, size) == pytest.approx(measured)
    for (low, low_seconds), (high, high_seconds) in pairwise(points):
        middle = interpolate(points, (low + high) / 2)
        assert middle == pytest.approx((low_seconds + high_seconds) / 2)


def test_draft_and_target_have_costs_of_their_own() -> None:
    measured = Calibration(draft_seconds=((1, 0.5), (2, 1.0)), verify_seconds=POINTS)
    assert (measured.draft(2), measured.verify(2)) == (1.0, 3.0)
