"""What the tuning prompts choose: the row of each pair, and with `--chosen` the row of each entry.

Pure, over two reports of a sweep: one over the tuning prompts, and one over the others, which tells what is
chosen. An entry is one of the sweep file's `configs`, of which lists make several rows.

Both are of the same runs. So a chosen row is free of the luck that it had with prompts, but not of that of
its runs, such as less load than the others had: see `shared_luck`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from dyna_eval.errors import SweepFileError
from dyna_eval.jobs import Configuration
from dyna_eval.records import SweepRecord
from dyna_eval.reports.digits import percent
from dyna_eval.reports.integrity import Caveat, CaveatKind
from dyna_eval.reports.report import Choice, LeftOut, Report, Row, RowState, best_row, best_row_by_pace
from dyna_eval.sweeps.overrides import read_recorded
from dyna_eval.wording import count, rate_text

_NOT_YET = "rows are still to come, or none has the target's output"
_NO_CHOICE = f"no row is chosen on the tuning prompts: {_NOT_YET}; all figures are over the other prompts"

# ------------------------------------------------------------- of each pair one row


def with_choice(report: Report, there: Report) -> Report:
    """Say in a report over the other prompts which row of each pair is chosen; `there` are the tuning ones.

    The choice allows for how fast each actor is: a row on a slower one is not passed over for that.
    """
    chosen, caveats, luck = [], [], {}
    for pair in report.pairs:
        rows = there.rows_of(pair)
        best = best_row_by_pace(rows)
        if best is None or best.figures is None:
            caveats.append((pair, Caveat(_NO_CHOICE)))
            continue
        choice = Choice(
            pair=pair,
            label=best.label,
            tuning_prompts=best.figures.prompts or 0,
            throughput=best.figures.throughput.mean,
        )
        chosen.append(choice)
        luck[pair, best.label] = _contenders(rows)
        unequal = best is not best_row(rows)
        fastest = best_row_by_pace(report.rows_of(pair))
        caveats.append((pair, Caveat(_choice_text(choice, fastest, unequal=unequal))))
    return replace(
        report,
        rows=tuple(_with_luck(row, luck.get((row.pair, row.label), 0)) for row in report.rows),
        chosen=tuple(chosen),
        split=True,
        pair_caveats=(*report.pair_caveats, *caveats),
    )


def _choice_text(choice: Choice, fastest: Row | None, *, unequal: bool) -> str:
    """Say what was chosen; `unequal` where slower actors ran it, so that another has a higher throughput."""
    prompts = count(choice.tuning_prompts, "tuning prompt")
    text = (
        f"'{choice.label}' was chosen on {prompts}, the fastest there ({rate_text(choice.throughput)}"
        f" tokens/s{', on a slower actor than others' if unequal else ''});"
        " all figures are over the other prompts"
    )
    if fastest is not None and fastest.label != choice.label:
        text += f", on which '{fastest.label}' is the fastest"
    return text


def _contenders(rows: Sequence[Row]) -> int:
    """Return how many rows of a pair or an entry could be chosen."""
    return sum(row.figures is not None and row.is_exact and not row.mixed for row in rows)


def _with_luck(row: Row, contenders: int) -> Row:
    """Return a row that was chosen of so many with what must be said of it; any other one as it is."""
    if row.figures is None or contenders < 2:  # one alone was not chosen
        return row
    return replace(row, caveats=(*row.caveats, shared_luck(row, contenders)))


def shared_luck(row: Row, contenders: int) -> Caveat:
    """Say that a row's figures are of the runs that it was chosen by, and how much too high that makes them.

    What differs from run to run moves all prompts of a run alike, so other prompts do not take it away. The
    highest of n equal rows, each the mean of r runs, lies above their mean by the expected maximum of n
    standard normals times the standard deviation of one run, over the root of r (in logarithms).
    Source of the expected maximum: Blom 1958, Statistical estimates and transformed beta-variables.
    """
    repeats = (row.figures.repeats if row.figures else None) or 1
    text = (
        f"chosen and reported in the same {'run' if repeats == 1 else f'{repeats} runs'},"
        " so its figures hold the luck that made it win"
    )
    noise = row.noise.in_block if row.noise else None
    if noise is None:
        return Caveat(f"{text}; so few repeats do not tell how much", CaveatKind.CHOSEN)
    highest = NormalDist().inv_cdf((contenders - 0.375) / (contenders + 0.25))
    excess = math.expm1(highest * math.sqrt(noise.value / repeats))
    size = f"on average {percent(excess)} % too fast for the best of {contenders} equal rows"
    return Caveat(f"{text}: {size}", CaveatKind.CHOSEN)


# ------------------------------------------------------------ of each entry one row


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The rows of a pair that one entry of the sweep file stands for, on the tuning prompts."""

    pair: str
    label: str
    rows: tuple[Row, ...]
    chosen: Row | None
    """The fastest; None while one is to come, or where none has the target's output."""

    @classmethod
    def of(cls, pair: str, label: str, rows: Sequence[Row]) -> Entry:
        chosen = rows[0] if len(rows) == 1 else best_row_by_pace(rows)
        return cls(pair=pair, label=label, rows=tuple(rows), chosen=chosen)

    @property
    def shown(self) -> set[str]:
        """The labels to report: of the chosen row and the baseline, or of all where none is chosen."""
        return {
            row.label for row in self.rows if self.chosen is None or row is self.chosen or row.is_baseline
        }

    @property
    def note(self) -> Caveat:
        """What is to be said of the row that was chosen of several."""
        prompts = [row.figures.prompts or 0 for row in self.rows if row.figures]
        return Caveat(f"best of {len(prompts)} on {count(max(prompts), 'tuning prompt')}")

    def passed_over(self) -> list[LeftOut]:
        """Return what to say of the measured rows that are not shown."""
        shown = self.shown
        return [
            LeftOut(
                label=row.label,
                pair=self.pair,
                state=RowState.NOT_SHOWN,
                reason=f"not the fastest of '{self.label}' on the tuning prompts",
                job_ids=row.job_ids,
            )
            for row in self.rows
            if row.figures and row.label not in shown
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenRows:
    """The rows that a report of the chosen ones shows, and what it says of them."""

    entries: tuple[Entry, ...]
    """Of all pairs, each in the order of the sweep file."""

    @classmethod
    def of(cls, there: Report, record: SweepRecord) -> ChosenRows:
        """Choose by a report over the tuning prompts; `record` has the sweep file."""
        entry_of_row = entries_of(record)
        rows: dict[tuple[str, str], list[Row]] = {}
        for row in there.rows:
            rows.setdefault((row.pair, entry_of_row[row.label]), []).append(row)
        return cls(entries=tuple(Entry.of(pair, label, own) for (pair, label), own in rows.items()))

    @property
    def shown(self) -> dict[str, set[str]]:
        """The labels of rows, by pair."""
        found: dict[str, set[str]] = {}
        for entry in self.entries:
            found.setdefault(entry.pair, set()).update(entry.shown)
        return found

    def told_in(self, report: Report) -> Report:
        """Return a report of these rows that says what each was chosen of, and lists what was passed over.

        The row that is chosen of its whole pair is known there (`with_choice`), with the luck that it shares.
        """
        several = [entry for entry in self.entries if len(entry.rows) > 1]
        of_entry = {(entry.pair, entry.chosen.label): entry for entry in several if entry.chosen}
        of_pair = {(choice.pair, choice.label) for choice in report.chosen}

        def told(row: Row) -> Row:
            place = (row.pair, row.label)
            if place not in of_entry:
                return row
            entry = of_entry[place]
            luck = [caveat for caveat in row.caveats if caveat.kind is CaveatKind.CHOSEN]
            others = [caveat for caveat in row.caveats if caveat.kind is not CaveatKind.CHOSEN]
            noted = replace(row, caveats=(*others, entry.note, *luck))
            return noted if place in of_pair else _with_luck(noted, _contenders(entry.rows))

        undecided = tuple(
            (entry.pair, Caveat(f"no row of '{entry.label}' is chosen: {_NOT_YET}; all of them are shown"))
            for entry in several
            if entry.chosen is None
        )
        passed_over = {(out.pair, out.label): out for entry in several for out in entry.passed_over()}
        left_out = [out for out in report.left_out if (out.pair, out.label) not in passed_over]
        return replace(
            report,
            rows=tuple(map(told, report.rows)),
            left_out=(*left_out, *passed_over.values()),
            pair_caveats=(*report.pair_caveats, *undecided),
        )


# ---------------------------------------------------------- of which entry a row is

_SWEPT = re.compile(r"(.+) \((\w+=[^=]*(?:, \w+=[^=]*)*)\)", re.DOTALL)


def entries_of(record: SweepRecord) -> dict[str, str]:
    """Return, by the label of a row, that of the entry of the sweep file that it was expanded from."""
    written = _written_labels(record.source)
    return {row.label: entry_of(row, written) for row in record.configurations}


def entry_of(configuration: Configuration, written: Collection[str] | None = None) -> str:
    """Return the label of the entry of the sweep file that a row was expanded from: its own, without lists.

    Expanded rows are known by their labels, which name swept parameters: `Sweep (depth=4, branch=2)`.
    `written` are the labels of the file's entries, where they are known: people write such labels, too.
    """
    label = configuration.label
    found = _SWEPT.fullmatch(label)
    names = re.findall(r"(\w+)=", found[2]) if found else []
    if not found or not all(name in configuration.params for name in names):
        return label
    is_written = written is not None and (label in written or found[1] not in written)
    return label if is_written else found[1]


def _written_labels(source: str) -> frozenset[str] | None:
    """Return the labels of a sweep file's entries; None where its text cannot be read."""
    try:
        document = read_recorded(source, file="the stored sweep file")
    except SweepFileError:
        return None
    entries = document.value.get("configs") if isinstance(document.value, dict) else None
    if not isinstance(entries, list):
        return None
    labels = [entry.get("label") for entry in entries if isinstance(entry, dict)]
    return frozenset(label.strip() for label in labels if isinstance(label, str))
