"""Does a paper still say what the store says? Its tables, prose and macros are computed again and compared.

What changed in form alone passes: spaces, bold face taken away, other rules, rewording. A number that differs
does not, nor bold face on what is not the best, a row that is gone, or a footnote mark that is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from dyna_eval.errors import InputError
from dyna_eval.latex.categories import category_label, category_table, groups_of
from dyna_eval.latex.columns import PaperColumn, PlacedCells, grouped, match_columns, placed
from dyna_eval.latex.grid import Grid, category_grid, grid
from dyna_eval.latex.macros import DIGEST, FIGURES, macros
from dyna_eval.latex.paper import (
    Definition,
    PaperRow,
    PaperTable,
    definitions,
    expand,
    footnote_marks,
    inputs,
    is_bold,
    numbers,
    plain,
    read_table,
    table_offsets,
    without_comments,
)
from dyna_eval.latex.prose import to_prose
from dyna_eval.latex.style import PLAIN, Marked, Origin, Part, end_mark, find_marks
from dyna_eval.latex.table import table, table_label
from dyna_eval.latex.text import escape_latex
from dyna_eval.reports.categories import CategorizedReport
from dyna_eval.reports.report import Report
from dyna_eval.wording import one_line

Recompute = Callable[[Origin], CategorizedReport | None]
"""From a part's origin to its report as it is now, by category for an origin that names categories.

None where the database does not have the sweep; raises InputError where there is no such report any more.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One place where paper and store disagree. `line` counts from 1."""

    line: int
    where: str
    row: str
    column: str
    in_paper: str
    now: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """Something about one line of the paper, counted from 1."""

    line: int
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    parts: tuple[Part, ...]
    """What was compared."""
    differences: tuple[Difference, ...]
    unchecked: tuple[Remark, ...]
    """Parts that could not be computed again, and why."""
    notes: tuple[Remark, ...]
    """What a reader of the findings should know, and no reason to fail."""

    @property
    def is_empty(self) -> bool:
        """Whether this tool wrote nothing of the paper."""
        return not self.parts and not self.unchecked

    @property
    def agrees(self) -> bool:
        return not self.differences and not self.unchecked


def check_paper(text: str, recompute: Recompute) -> Findings:
    """Compare all parts of a paper that this tool wrote with what their sweeps say now."""
    return _Check(text, recompute).run()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Computed:
    """A table as it would be written now."""

    label: str
    cells: Grid
    printed: PaperTable
    other_groups: tuple[str, ...] = ()
    """Names of groups of columns that stand elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    offset: int
    where: str
    row: str


class _Check:
    """A paper on its way to findings."""

    def __init__(self, text: str, recompute: Recompute) -> None:
        self.text = text
        self.body = without_comments(text)
        self.definitions = definitions(self.body)
        self.macros = {definition.name: definition.value for definition in self.definitions}
        self.recompute = recompute
        self.reports: dict[Origin, CategorizedReport | None] = {}
        self.parts: list[Part] = []
        self.differences: list[Difference] = []
        self.unchecked: list[Remark] = []
        self.notes: list[Remark] = []

    def run(self) -> Findings:
        marks = find_marks(self.text)
        stops = [*(marked.start for marked in marks), len(self.text)][1:]
        for marked, stop in zip(marks, stops, strict=bool(marks)):
            if marked.origin is None:
                self._give_up(marked.start, f"the mark of a {marked.part} cannot be read; write it anew")
            elif marked.part is not Part.MACROS:
                self._check_marked(marked, marked.origin, stop)
        self._check_macros([mark.origin for mark in marks if mark.origin and mark.part is Part.MACROS])
        self._note_unmarked([marked.end for marked in marks if marked.part is Part.TABLE])
        for offset, command in inputs(self.body):
            self.notes.append(
                Remark(line=self._line(offset), what=f"{command} is not followed; check that file by itself")
            )
        return Findings(
            parts=tuple(self.parts),
            differences=tuple(self.differences),
            unchecked=tuple(self.unchecked),
            notes=tuple(self.notes),
        )

    def _note_unmarked(self, marks: Sequence[int]) -> None:
        """Say which tables are not ours, or have lost their mark."""
        tables = table_offsets(self.body)
        ours = {next((offset for offset in tables if offset > mark), -1) for mark in marks}
        others = [str(self._line(offset)) for offset in tables if offset not in ours]
        if others:
            what = f"tables without a mark are not checked; they begin on lines {', '.join(others)}"
            self.notes.append(Remark(line=int(others[0]), what=what))

    # --------------------------------------------------------------- marked parts

    def _check_marked(self, marked: Marked, origin: Origin, stop: int) -> None:
        found = self._found(origin, marked.start)
        if found is None:
            return
        report = found.overall
        if not origin.pairs or any(pair not in report.pairs for pair in origin.pairs):
            self._give_up(
                marked.start, f"sweep {report.name!r} does not have the pairs of this {marked.part}"
            )
        elif marked.part is Part.TABLE:
            self._check_table(marked, found, origin, stop)
        else:
            self._check_prose(marked, report, origin, stop)

    def _found(self, origin: Origin, offset: int) -> CategorizedReport | None:
        by_category = (None,) if origin.categories else ()
        key = replace(origin, part=Part.TABLE, pairs=(), style=PLAIN, sweep="", categories=by_category)
        try:
            if key not in self.reports:
                self.reports[key] = self.recompute(key)
        except InputError as error:
            self._give_up(offset, f"the {origin.part} of sweep {origin.sweep!r} cannot be computed: {error}")
            return None
        if self.reports[key] is None:
            self._give_up(
                offset,
                f"the {origin.part} is of sweep {origin.sweep!r} (digest {origin.digest[:12]}), which is not"
                " in this database; name the one that has it with --db",
            )
        return self.reports[key]

    # --------------------------------------------------------------------- tables

    def _check_table(self, marked: Marked, report: CategorizedReport, origin: Origin, stop: int) -> None:
        try:
            computed = _computed(report, origin)
        except InputError as error:
            self._give_up(marked.start, f"the table cannot be computed: {error}")
            return
        paper, now, cells = read_table(self.body[marked.end : stop]), computed.printed, computed.cells
        if paper is None:
            self._give_up(marked.start, "no table follows this mark")
            return
        self.parts.append(Part.TABLE)
        table_place = _Place(offset=marked.start, where=f"table {computed.label}", row="")
        columns = match_columns(paper, now, cells.heads, self.macros)
        self._check_titles(replace(table_place, row="titles"), columns, computed)
        found = dict(paper.rows)
        for (step, expected), row in zip(now.rows, cells.rows, strict=True):
            place = replace(table_place, row=f"step {step} ({plain(row.cells[1].parts[0])})")
            if step not in found:
                self._differ(place, "all columns", "missing", _shown(expected))
                continue
            place = replace(place, offset=marked.end + found[step].offset)
            theirs = placed(found[step].cells, columns, cells.heads)
            self._check_row(place, theirs, expected, cells)
            self._check_label(place, theirs.by_column.get(_LABELS, ""), expected, now)
        known = {step for step, _ in now.rows}
        for step, paper_row in paper.rows:
            if step not in known or found[step] is not paper_row:
                place = replace(table_place, offset=marked.end + paper_row.offset, row=f"step {step}")
                self._differ(place, "all columns", _shown(paper_row), "no such row")
        self._check_numbers(replace(table_place, row="caption"), paper.caption, now.caption)
        self._check_circumstances(replace(table_place, row="caption"), paper.caption, now.caption)
        self._check_numbers(replace(table_place, row="footnotes"), paper.rest, now.rest)

    def _check_row(self, place: _Place, theirs: PlacedCells, expected: PaperRow, cells: Grid) -> None:
        ours = grouped(expected.cells, cells.heads)
        for column, head in enumerate(cells.heads):
            title = _column_name(cells, column)
            if column not in theirs.by_column:
                self._differ(place, title, "missing", plain(ours[column]))
                continue
            latex = expand(theirs.by_column[column], self.macros)
            if title != "Components" and numbers(latex) != numbers(ours[column]):
                self._differ(place, title, plain(latex), plain(ours[column]))
            elif not head.is_text and is_bold(latex) and not is_bold(ours[column]):
                self._differ(place, title, f"{plain(latex)} in bold", "not the best")
        if theirs.others:
            self._differ(place, "columns of its own", "; ".join(map(plain, theirs.others)), "no such column")

    def _check_titles(self, place: _Place, columns: Sequence[PaperColumn], computed: _Computed) -> None:
        """Rewording a title is fine, giving a column the title of another one is not."""
        ours = [plain(head.latex) for head in computed.printed.heads]
        elsewhere = [
            plain(f"{escape_latex(group)} {head.title}")
            for group in computed.other_groups
            for head in computed.cells.heads
        ]
        taken = {title.casefold() for title in [*ours, *elsewhere]}
        for column in columns:
            if column.title is not None and column.ours is not None:
                if column.title.casefold() in taken:
                    self._differ(
                        place, _column_name(computed.cells, column.ours), column.title, ours[column.ours]
                    )
                else:
                    what = f"{place.where}: column {ours[column.ours]!r} is called {column.title!r} here"
                    self.notes.append(Remark(line=self._line(place.offset), what=what))

    def _check_label(self, place: _Place, label: str, expected: PaperRow, now: PaperTable) -> None:
        """Rewording a label is fine, giving a row the label of another one is not."""
        latex = expand(label, self.macros)
        ours = expected.cells[_LABELS].latex
        theirs, own = plain(latex), plain(ours)
        others = {plain(other.cells[_LABELS].latex) for _, other in now.rows} - {own}
        lost = footnote_marks(ours) - footnote_marks(latex)
        if theirs in others:
            self._differ(place, "Components", theirs, own)
        elif theirs != own:
            what = f"{place.where}, {place.row}: called {theirs!r} here"
            self.notes.append(Remark(line=self._line(place.offset), what=what))
        if lost:
            self._differ(place, "Components", "no footnote mark", f"marked {', '.join(sorted(lost))}")

    # ---------------------------------------------------------------------- prose

    def _check_prose(self, marked: Marked, report: Report, origin: Origin, stop: int) -> None:
        self.parts.append(Part.PROSE)
        closing = self.text.find(end_mark(Part.PROSE), marked.end, stop)
        if closing < 0:
            opening = re.compile(r"\\subsection").search(self.body, marked.end, stop)
            after = opening.end() if opening else marked.end
            ending = re.compile(r"\\(?:sub)*section|\\begin\{(?:table|figure)|\\end\{document").search(
                self.body, after, stop
            )
            closing = ending.start() if ending else stop
        paper = _paragraphs(expand(self.body[marked.end : closing], self.macros))
        whole = to_prose(report)
        own = next(
            text
            for text, pair in zip(_subsections(whole), report.pairs, strict=True)
            if pair == origin.pairs[0]
        )
        now = _paragraphs(without_comments(own))
        for step, text in paper.items():
            place = _Place(
                offset=marked.start,
                where=f"prose on {origin.pairs[0]}",
                row=f"step {step}" if step else "text",
            )
            self._check_numbers(place, text, now.get(step, ""))
            self._check_circumstances(place, text, now.get(step, ""))
            claimed, allowed = _claims(text), _claims(now.get(step, ""))
            if claimed - allowed:
                instead = ", ".join(sorted(allowed - claimed)) or "no such claim"
                self._differ(place, "claim", ", ".join(sorted(claimed - allowed)), instead)

    # --------------------------------------------------------------------- macros

    def _check_macros(self, origins: Sequence[Origin]) -> None:
        """Check every definition of a cell's macro, wherever it stands."""
        marked = {origin.digest: origin for origin in origins}
        digests = [
            definition
            for definition in self.definitions
            if definition.name.endswith(DIGEST) and re.fullmatch("[0-9a-f]{64}", definition.value.strip())
        ]
        for definition in digests:
            told = marked.get(definition.value.strip())
            digest = definition.value.strip()
            origin = told or Origin(
                part=Part.MACROS, sweep=definition.name, digest=digest, pairs=(), made_of=(digest,)
            )
            found = self._found(origin, definition.offset)
            if found is not None:
                self.parts.append(Part.MACROS)
                self._compare_macros(found.overall, definition, digests)

    def _compare_macros(self, report: Report, digest: Definition, digests: Sequence[Definition]) -> None:
        now = {macro.name: macro for macro in macros(report)}
        prefix = digest.name.removesuffix(DIGEST)
        longer = [
            other.name.removesuffix(DIGEST)
            for other in digests
            if len(other.name) > len(digest.name) and other.name.startswith(prefix)
        ]
        for definition in self.definitions:
            name = definition.name
            place = _Place(offset=definition.offset, where=f"macro \\{name}", row="no row")
            macro = now.get(name)
            if macro is not None and macro.row is not None:
                place = replace(place, row=f"step {macro.row.step} ({one_line(macro.row.label)})")
                if numbers(expand(definition.value, self.macros)) != numbers(macro.value):
                    self._differ(place, macro.figure, plain(definition.value), macro.value)
            elif (
                macro is None
                and name.startswith(prefix)
                and name.endswith(tuple(FIGURES))
                and not name.startswith(tuple(longer))
            ):
                self._differ(place, "no column", plain(definition.value), "no such cell")

    # ------------------------------------------------------------------- findings

    def _check_numbers(self, place: _Place, paper: str, now: str) -> None:
        """Every number in the paper's text must be one of the text computed now; leaving some out is fine."""
        said, known = Counter(numbers(expand(paper, self.macros))), Counter(numbers(now))
        for number in said - known:
            expected = ", ".join(f"{other:f}" for other in known - said) or "no such number"
            self._differ(place, "text", f"{number:f}", expected)

    def _check_circumstances(self, place: _Place, paper: str, now: str) -> None:
        """Whoever says a dtype, or that decoding is greedy, must not say another one than is computed now.

        Leaving it out is fine, and where it is not known now nothing is compared.
        """
        said, known = (_circumstances(expand(text, self.macros)) for text in (paper, now))
        if known and said - known:
            self._differ(place, "text", ", ".join(sorted(said - known)), ", ".join(sorted(known)))

    def _differ(self, place: _Place, column: str, in_paper: str, now: str) -> None:
        self.differences.append(
            Difference(
                line=self._line(place.offset),
                where=place.where,
                row=place.row,
                column=column,
                in_paper=in_paper,
                now=now,
            )
        )

    def _give_up(self, offset: int, what: str) -> None:
        self.unchecked.append(Remark(line=self._line(offset), what=what))

    def _line(self, offset: int) -> int:
        return self.text.count("\n", 0, offset) + 1


_LABELS = 1
"""The column of labels, in every table of ours."""


def _computed(report: CategorizedReport, origin: Origin) -> _Computed:
    """Compute a table anew; raises InputError where it cannot be written any more."""
    if not origin.categories:
        return _Computed(
            label=table_label(report.overall, origin.pairs),
            cells=grid(report.overall, origin.pairs, origin.style),
            printed=_read_own(table(report.overall, origin.pairs, origin.style)),
        )
    pair = origin.pairs[0]
    groups = groups_of(report, pair, origin.categories)
    return _Computed(
        label=category_label(report, pair),
        cells=category_grid(report, pair, groups),
        printed=_read_own(category_table(report, pair, [groups])),
        other_groups=tuple(
            group.name for group in report.groups(pair) if group.category not in origin.categories
        ),
    )


def _read_own(latex: str) -> PaperTable:
    printed = read_table(without_comments(latex))
    assert printed is not None  # noqa: S101 - this tool wrote it
    return printed


def _shown(row: PaperRow) -> str:
    return "; ".join(plain(cell.latex) for cell in row.cells)


def _column_name(cells: Grid, column: int) -> str:
    title, group = plain(cells.heads[column].title), cells.group_of(column)
    return f"{title} on {group}" if group else title


_STEP = re.compile(
    r"\\(?:paragraph|subparagraph|subsubsection|textbf)\*?\{\s*(?:Step (\d{1,6})(?!\d)|Taken together)"
)


def _paragraphs(prose: str) -> dict[int, str]:
    """Split prose by the step that a paragraph is about; 0 has what is before and after."""
    start, step = 0, 0
    texts: dict[int, str] = {}
    for heading in _STEP.finditer(prose):
        texts[step] = texts.get(step, "") + prose[start : heading.start()]
        start, step = heading.start(), int(heading[1] or 0)
    texts[step] = texts.get(step, "") + prose[start:]
    return texts


def _subsections(prose: str) -> Iterator[str]:
    """Split generated prose into its subsections, one per pair."""
    starts = [marked.start for marked in find_marks(prose)]
    for start, stop in zip(starts, [*starts[1:], len(prose)], strict=True):
        yield prose[start:stop]


_CLAIM = re.compile(r"\b(improve|degrade|not separable|faster|slower|highest|nothing is claimed)")


_CIRCUMSTANCE = re.compile(r"\b(b?float(?:16|32|64)|greedy)\b")
"""What the sentence on circumstances says in words; its numbers are compared as all numbers are."""


def _circumstances(text: str) -> set[str]:
    return set(_CIRCUMSTANCE.findall(text))


def _claims(text: str) -> set[str]:
    return set(_CLAIM.findall(" ".join(text.split())))
