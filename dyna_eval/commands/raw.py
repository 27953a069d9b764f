"""The options of `report` for what was measured as it is stored, and writing that."""

from __future__ import annotations

import functools
import gzip
import itertools
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from dyna_eval.commands.options import with_options
from dyna_eval.commands.output import not_ours, unwritable
from dyna_eval.errors import InputError
from dyna_eval.whole_file import whole_file

if TYPE_CHECKING:
    from dyna_eval_db.store import Store

    from dyna_eval.records import MeasuredRun, SweepRecord
    from dyna_eval.tables.raw import RawRound, RawSample

_STDOUT = Path("-")
_COMPRESSED = ".gz"
_SAMPLES_AT_ONCE = 2_000
"""Read in one query: all of a sweep's may be millions."""
_ROUNDS_OF_AT_ONCE = 50
"""Samples whose rounds are read in one query."""

_Line = TypeVar("_Line")


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFiles:
    """Where samples go and where rounds do."""

    samples: Path | None
    rounds: Path | None

    @property
    def files(self) -> dict[str, Path | None]:
        """What is written, by option."""
        return {"--samples": self.samples, "--rounds": self.rounds}

    @property
    def on_stdout(self) -> bool:
        return _STDOUT in (self.samples, self.rounds)


def raw_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of raw data; the command gets them as one `raw`, None where none is wanted."""

    @functools.wraps(command)
    def with_raw(*, samples: Path | None, rounds: Path | None, **others: Any) -> Any:
        if samples is not None and samples == rounds:
            raise click.UsageError("--samples and --rounds are files of their own; name two")
        asked = samples is not None or rounds is not None
        return command(raw=RawFiles(samples=samples, rounds=rounds) if asked else None, **others)

    file = click.Path(path_type=Path, dir_okay=False, allow_dash=True)
    of = "as CSV, compressed where the name ends in .gz; - is stdout."
    options = [
        click.option(
            "--samples", type=file, metavar="FILE", help=f"Write every prompt of every job and AR run, {of}"
        ),
        click.option("--rounds", type=file, metavar="FILE", help=f"Write every verification round, {of}"),
    ]
    return with_options(with_raw, options)


def write_raw(raw: RawFiles, store: Store, sweep_id: int) -> None:
    """Write the samples and the rounds of a measured sweep, each file whole or not at all; say so on stderr.

    Raises InputError where nothing was measured yet, where a file of somebody else would be replaced, or
    where one cannot be written.
    """
    from dyna_eval.tables.raw import ROUND_COLUMNS, SAMPLE_COLUMNS

    for path, columns in ((raw.samples, SAMPLE_COLUMNS), (raw.rounds, ROUND_COLUMNS)):
        if path is not None:
            _refuse_others(path, columns)
    record, runs = store.record(sweep_id), store.runs(sweep_id)
    if not runs:
        raise InputError(f"sweep {sweep_id} has no result yet whose samples or rounds could be written")
    if raw.samples is not None:
        _write(raw.samples, SAMPLE_COLUMNS, _samples(store, record, runs))
    if raw.rounds is not None:
        _write(raw.rounds, ROUND_COLUMNS, _rounds(store, _samples(store, record, runs)))


def _samples(store: Store, record: SweepRecord, runs: Iterable[MeasuredRun]) -> Iterator[RawSample]:
    """Read a sweep's samples in the order of its table: by pair, row, repeat and prompt, sentinels last."""
    from dyna_eval.reports.tuning import split_prompts
    from dyna_eval.tables.raw import RawSample

    tuning = split_prompts(record) if record.measure.tune_fraction else {}
    for run in sorted(runs, key=_in_order_of(record)):
        chosen_on, categories = tuning.get(run.prompt_set, ()), record.categories.get(run.prompt_set, {})
        after = -1
        while page := store.run_samples(run, after=after, most=_SAMPLES_AT_ONCE):
            for sample in page:
                after = sample.totals.prompt_index
                yield RawSample(
                    sweep=record.name,
                    run=run,
                    sample=sample,
                    category=categories.get(after),
                    is_tuning=after in chosen_on,
                )


def _in_order_of(record: SweepRecord) -> Callable[[MeasuredRun], tuple[int, ...]]:
    pairs = {pair: place for place, pair in enumerate(record.pairs)}
    rows = {row.label: place for place, row in enumerate(record.configurations)}

    def place(run: MeasuredRun) -> tuple[int, ...]:
        if run.job_id is None:
            return pairs[run.pair], len(rows)  # as they were read: by actor, in the order of its runs
        return pairs[run.pair], rows[run.label], run.repeat or 0, run.job_id

    return place


def _rounds(store: Store, samples: Iterator[RawSample]) -> Iterator[RawRound]:
    from dyna_eval.tables.raw import RawRound

    while some := list(itertools.islice(samples, _ROUNDS_OF_AT_ONCE)):
        rounds = store.rounds([one.sample.id for one in some])
        for one in some:
            for number, round_ in enumerate(rounds.get(one.sample.id, ())):
                yield RawRound(of=one, number=number, round=round_)


# -------------------------------------------------------------------------- files


def _refuse_others(path: Path, columns: Iterable[str]) -> None:
    """Raise InputError where a file stands that does not begin as the one to write: it would be lost."""
    begin = f"{','.join(columns)}\n".encode()
    try:
        if path == _STDOUT or not path.is_file() or not path.stat().st_size:
            return
        with gzip.open(path) if path.suffix == _COMPRESSED else path.open("rb") as stream:
            is_own = stream.read(len(begin)) == begin
    except (EOFError, zlib.error, gzip.BadGzipFile):
        is_own = False
    except OSError as error:
        raise unwritable(path, error) from error
    if not is_own:
        raise not_ours(path)


def _write(path: Path, columns: Mapping[str, Callable[[_Line], object]], lines: Iterable[_Line]) -> None:
    from dyna_eval.tables.formats import write_csv

    cells = ([read(line) for read in columns.values()] for line in lines)
    if path == _STDOUT:
        try:
            write_csv(sys.stdout, columns, cells)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    try:
        with whole_file(path) as stream:
            if path.suffix == _COMPRESSED:
                with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as packed:
                    write_csv(_Encoded(packed), columns, cells)
            else:
                write_csv(_Encoded(stream), columns, cells)
    except OSError as error:
        raise unwritable(path, error) from error
    click.echo(f"wrote {path}", err=True)


class _Encoded:
    """Text on its way into a stream of bytes."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        self._stream.write(text.encode())
