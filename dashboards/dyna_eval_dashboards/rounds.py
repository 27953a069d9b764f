"""The drawing of a sample's rounds: from left to right, each a column as high as it took, in phases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dyna_eval.measurements import Round, Sample, sum_rounds
from dyna_eval.series.costs import PHASES

MAX_ROUNDS = 1_000
"""Rounds that a time line shows."""
_WIDTH, _HEIGHT = 1000.0, 120.0
_FEWEST = 24
"""Columns that a time line has room for at least, so that a few rounds are not drawn as blocks."""
_TIMED = tuple(phase for phase in PHASES if phase != "host")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A piece of the time line, in the units of its drawing."""

    kind: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A round, from top to bottom its phases."""

    number: int
    round: Round
    seconds: float
    bars: tuple[Bar, ...]
    x: float
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLine:
    """Columns from left to right."""

    columns: tuple[Column, ...]
    omitted: int
    longest: float
    """Seconds of the longest round: the height of the drawing."""
    phase_seconds: Mapping[str, float | None]
    """Over all rounds, None where one lacks the phase; `host` is what no phase accounts for."""
    width: float = _WIDTH
    height: float = _HEIGHT


def time_line(sample: Sample, *, most: int = MAX_ROUNDS) -> TimeLine:
    """Return the drawing of a sample's first rounds, and what phases took over all of them."""
    rounds = sample.rounds
    shown = rounds[:most]
    longest = max((_seconds(round_) for round_ in shown), default=0.0)
    step = _WIDTH / max(len(shown), _FEWEST)
    summed = sum_rounds(sample)
    totals: dict[str, float | None] = {
        "draft": summed.draft_seconds,
        "grow": summed.grow_seconds,
        "verify": summed.verify_seconds,
        "walk": summed.walk_seconds,
    }
    totals["host"] = max(0.0, sample.decode_seconds - sum(value or 0.0 for value in totals.values()))
    return TimeLine(
        columns=tuple(
            Column(
                number=number,
                round=round_,
                seconds=_seconds(round_),
                bars=_bars(round_, number * step, step, longest),
                x=round(number * step, 2),
                width=round(step, 2),
            )
            for number, round_ in enumerate(shown)
        ),
        omitted=len(rounds) - len(shown),
        longest=longest,
        phase_seconds=totals,
    )


def _bars(round_: Round, left: float, step: float, longest: float) -> tuple[Bar, ...]:
    bars, top = [], _HEIGHT
    for phase in _TIMED:
        seconds = getattr(round_, f"{phase}_seconds")
        if seconds and longest:
            height = seconds / longest * _HEIGHT
            top -= height
            bars.append(
                Bar(
                    kind=phase,
                    x=round(left + step * 0.08, 2),
                    y=round(top, 2),
                    width=round(step * 0.84, 2),
                    height=round(height, 2),
                )
            )
    return tuple(bars)


def _seconds(round_: Round) -> float:
    return sum(getattr(round_, f"{phase}_seconds") or 0.0 for phase in _TIMED)
