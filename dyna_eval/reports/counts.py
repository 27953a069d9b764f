"""What the counts of imported rows give away: caps that bound, and prompts that are not what a file says.

Rounds and accepted lengths follow from models, prompts and settings alone, whatever the machine. Equal counts
to nine digits therefore mean equal work, whatever a file claims; unequal ones unequal work.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dyna_eval.jobs import Method, Scalar, canonical_json
from dyna_eval.methods import SYMBOLS
from dyna_eval.reports.imported import Counts, ImportedFile, ImportedRow, ImportedSweep
from dyna_eval.wording import listed

DIGITS = 9
_SHAPE = ("depth", "branch", "k", "root_branch")
_ROWS_NAMED = 6

Signature = tuple[float | None, ...]


def signature(counts: Counts, *, same_configuration: bool) -> Signature | None:
    """Return what must be equal in rows of equal work; None where too little is known to tell.

    Whole counts alone may agree by chance, so a mean to many digits has to be among them. A file's acceptance
    rate is divided by a depth, so that it tells nothing between configurations.
    """
    means = [counts.path_length, counts.tokens_per_round]
    if same_configuration:
        means.append(counts.acceptance_rate)
    if all(mean is None for mean in means) or (counts.rounds is None and not same_configuration):
        return None
    return (counts.rounds, counts.tokens, *(mean if mean is None else _rounded(mean) for mean in means))


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def same_to_nine_digits(a: float, b: float) -> bool:
    """Whether two counts are the same but for the order in which their terms were added up."""
    return math.isclose(a, b, rel_tol=0.5 * 10.0 ** (1 - DIGITS), abs_tol=1e-12)


# ------------------------------------------------------------------ within one file


@dataclass(frozen=True, slots=True, kw_only=True)
class Identical:
    """Rows of one pair whose settings differ, but none of whose counts do."""

    rows: tuple[ImportedRow, ...]
    text: str

    def has(self, row: ImportedRow) -> bool:
        """Whether this very row is one of them; a row of another pair may have its label."""
        return any(own is row for own in self.rows)


def identical_rows(file: ImportedFile) -> list[Identical]:
    """Return the groups of a file's rows that should differ in their counts, and do not."""
    groups: defaultdict[tuple[object, ...], list[ImportedRow]] = defaultdict(list)
    for row in file.rows:
        own = signature(row.counts, same_configuration=False)
        if own is not None and row.method is not Method.AR and row.params:
            groups[row.pair, row.method, own].append(row)
    found = []
    for rows in groups.values():
        differing = _differing(rows)
        if differing:
            found.append(Identical(rows=tuple(rows), text=_identical_text(rows, differing)))
    return found


def _differing(rows: Sequence[ImportedRow]) -> dict[str, list[Scalar]]:
    """Return the settings that differ among rows, each with its values."""
    names = dict.fromkeys(name for row in rows for name in row.params)
    values = {name: list(dict.fromkeys(row.params.get(name) for row in rows)) for name in names}
    return {name: list(own) for name, own in values.items() if len(own) > 1}


def _identical_text(rows: Sequence[ImportedRow], differing: Mapping[str, Sequence[Scalar]]) -> str:
    settings = "; ".join(
        f"{SYMBOLS.get(name, name)} = {listed([_scalar(value) for value in values])}"
        for name, values in differing.items()
    )
    unpruned = rows[0].method is Method.TREE and all(row.params.get("threshold") == 0 for row in rows)
    what = f"rows with {settings}{' without pruning' if unpruned else ''} are identical in every count"
    if unpruned and set(differing) & set(_SHAPE):
        return f"{what}, so a cap on the tree's nodes must have bound that the file does not name"
    if set(differing) & set(_SHAPE):
        return f"{what}: a cap must have bound, or the deeper levels were never reached"
    named = [repr(row.label) for row in rows[:_ROWS_NAMED]]
    return f"{what}, so this setting changed nothing ({', '.join(named)})"


def _scalar(value: Scalar) -> str:
    return "unset" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


# -------------------------------------------------------------------- between files


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """How the rows of one configuration in two files compare."""

    equal: int
    differing: tuple[str, ...]
    """Labels, in the first file, of rows whose counts differ."""

    @property
    def compared(self) -> int:
        return self.equal + len(self.differing)


def shared_counts(left: ImportedFile, right: ImportedFile) -> Shared:
    """Compare the counts of rows that both files have with equal pair, method and settings."""
    others: dict[str, list[Signature]] = defaultdict(list)
    for row in right.rows:
        own = signature(row.counts, same_configuration=True)
        if own is not None and row.method is not Method.AR:
            others[_configuration(row)].append(own)
    equal, differing = 0, []
    for row in left.rows:
        own = signature(row.counts, same_configuration=True)
        candidates = others.get(_configuration(row))
        if own is None or not candidates:
            continue
        if own in candidates:
            equal += 1
        else:
            differing.append(row.label)
    return Shared(equal=equal, differing=tuple(differing))


def _configuration(row: ImportedRow) -> str:
    return canonical_json([row.pair, row.method, {name: row.params[name] for name in sorted(row.params)}])


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """A file whose counts are those of another one that claims other prompts."""

    file: ImportedFile
    like: ImportedFile
    rows: int

    @property
    def short(self) -> str:
        file, like = self.file, self.like
        return (
            f"{like.claims.dataset!r} by the counts of {file.source.file} and {like.source.file},"
            f" not {file.claims.dataset!r}"
        )

    @property
    def text(self) -> str:
        file, like = self.file, self.like
        return (
            f"{file.source.file} says that it ran on {file.claims.dataset!r}, but in all {self.rows} rows"
            f" that it shares with {like.source.file}, on {like.claims.dataset!r}, its counts are the same:"
            " one of the two did not run on what it says"
        )


def doubted_prompts(file: ImportedFile, others: Iterable[ImportedFile]) -> Doubt | None:
    """Return the first other file that shows that one of the two did not run on what it claims."""
    for other in others:
        if None in (file.claims.dataset, other.claims.dataset) or file.claims.dataset == other.claims.dataset:
            continue
        shared = shared_counts(file, other)
        if shared.equal and not shared.differing:
            return Doubt(file=file, like=other, rows=shared.compared)
    return None


def all_files(sweeps: Iterable[ImportedSweep]) -> list[ImportedFile]:
    return [file for sweep in sweeps for file in sweep.files]
