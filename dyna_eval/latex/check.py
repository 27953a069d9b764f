"""Does a paper still say what the store says? Its tables, prose and macros are computed again and compared.

What changed in form alone passes: spaces, bold face taken away, other rules, rewording. A number that differs
does not, nor bold face on what is not the best, a row that is gone, or a footnote mark that is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from dyna_eval.errors import InputError
from dyna_eval.latex.columns import PaperColumn, PlacedCells, grouped, match_columns, placed
from dyna_eval.latex.computed import ComputedTable, compute_table, counted_notes
from dyna_eval.latex.configurations import contradicts
from dyna_eval.latex.definitions import definitions, expand, known_macros
from dyna_eval.latex.grid import Grid
from dyna_eval.latex.macros import DIGEST, FIGURES, Macro, macros, prefix_of
from dyna_eval.latex.paper import (
    PaperRow,
    PaperTable,
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
from dyna_eval.latex.sentences import OPENING, SUMMARY, WORDS, claims, paragraphs, subsections, supported
from dyna_eval.latex.style import PLAIN, Marked, Origin, Part, end_mark, find_marks
from dyna_eval.latex.text import escape_latex
from dyna_eval.reports.categories import CategorizedReport
from dyna_eval.reports.report import Report
from dyna_eval.wording import count, one_line

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


def check_paper(text: str, recompute: Recompute, others: Sequence[str] = ()) -> Findings:
    """Compare all parts of a paper that this tool wrote with what their sweeps say now.

    `others` are the paper's other files, whose macros it may use.
    """
    return _Check(text, recompute, others).run()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    offset: int
    where: str
    row: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _MacroSet:
    """The macros of one report as they are now; in this paper their names begin with `prefix`."""

    prefix: str
    now: Mapping[str, Macro]

    @classmethod
    def of(cls, report: Report, prefix: str) -> _MacroSet:
        return cls(prefix=prefix, now={macro.name: macro for macro in macros(report)})

    def may_have(self, name: str) -> bool:
        """Whether a macro's name is like those of this set."""
        return name.startswith(self.prefix) and name.endswith(tuple(FIGURES))


class _Check:
    """A paper on its way to findings."""

    def __init__(self, text: str, recompute: Recompute, others: Sequence[str]) -> None:
        self.text = text
        self.body = without_comments(text)
        self.definitions = definitions(self.body)
        elsewhere = [one for other in others for one in definitions(without_comments(other))]
        self.macros = known_macros(self.definitions, elsewhere)
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
        self._check_macros([mark for mark in marks if mark.part is Part.MACROS])
        self._note_unmarked([marked.end for marked in marks if marked.part is Part.TABLE])
        for offset, command in inputs(self.body):
            self.notes.append(
                Remark(
                    line=self._line(offset),
                    what=f"{command} is not followed; name that file with --check, too",
                )
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
            computed = compute_table(report, origin)
        except InputError as error:
            self._give_up(marked.start, f"the table cannot be computed: {error}")
            return
        end = self._end_of(Part.TABLE, marked.end, stop)
        paper = read_table(self.body[marked.end : stop if end is None else end], is_whole=end is not None)
        now, cells = computed.printed, computed.cells
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
            self._check_row(place, theirs, expected, computed)
            self._check_label(place, theirs.by_column.get(_LABELS, ""), expected, now)
        self._give_up_undefined(table_place, [row for _, row in paper.rows])
        known = {step for step, _ in now.rows}
        for step, paper_row in paper.rows:
            if step not in known or found[step] is not paper_row:
                place = replace(table_place, offset=marked.end + paper_row.offset, row=f"step {step}")
                self._differ(place, "all columns", _shown(paper_row), "no such row")
        caption = replace(table_place, row="caption")
        self._check_numbers(caption, paper.caption, now.caption, computed.counted_steps)
        self._check_circumstances(caption, paper.caption, now.caption)
        self._check_claims(caption, paper.caption, now.caption, computed.claims, origin.pairs)
        if paper.rest is not None:
            footnotes = replace(table_place, row="footnotes")
            self._check_numbers(footnotes, paper.rest, now.rest or "", computed.counted_notes)
        elif numbers(now.rest or ""):
            what = f"the footnotes of {table_place.where} cannot be told from the text below"
            self._give_up(marked.start, f"{what}; put the line '{end_mark(Part.TABLE)}' between them")

    def _end_of(self, part: Part, start: int, stop: int) -> int | None:
        """Return where the line stands that ends a part; None where somebody took it out."""
        found = self.text.find(end_mark(part), start, stop)
        return None if found < 0 else found

    def _check_row(
        self, place: _Place, theirs: PlacedCells, expected: PaperRow, computed: ComputedTable
    ) -> None:
        cells = computed.cells
        ours = grouped(expected.cells, cells.heads)
        for column, head in enumerate(cells.heads):
            title = _column_name(cells, column)
            if column not in theirs.by_column:
                self._differ(place, title, "missing", plain(ours[column]))
                continue
            latex = expand(theirs.by_column[column], self.macros)
            if column == _LABELS or self._undefined(latex):
                continue
            if title == "Configuration":
                self._check_configuration(place, latex, ours[column], computed)
            elif numbers(latex) != numbers(ours[column]):
                self._differ(place, title, plain(latex), plain(ours[column]))
            elif not head.is_text and is_bold(latex) and not is_bold(ours[column]):
                self._differ(place, title, f"{plain(latex)} in bold", "not the best")
        if theirs.others:
            self._differ(place, "columns of its own", "; ".join(map(plain, theirs.others)), "no such column")

    def _undefined(self, latex: str) -> list[str]:
        """Return the macros for figures, by names as this tool gives them, that no file defines."""
        names = re.findall(rf"\\([A-Za-z]+(?:{'|'.join(FIGURES)}))(?![A-Za-z])", latex)
        return [name for name in names if name not in self.macros]

    def _give_up_undefined(self, place: _Place, rows: Sequence[PaperRow]) -> None:
        cells = [cell.latex for row in rows for cell in row.cells]
        names = [name for latex in cells for name in self._undefined(expand(latex, self.macros))]
        if names:
            what = f"{place.where}: {count(len(names), 'cell')} not compared; no file that was named defines"
            self._give_up(
                place.offset,
                f"{what} \\{names[0]}, or several do differently: name the right one with --check",
            )

    def _check_configuration(self, place: _Place, latex: str, own: str, computed: ComputedTable) -> None:
        """Rewording a configuration is fine, giving a row other settings or words of another one is not."""
        others = [row.cells[_CONFIGURATIONS].parts[0] for row in computed.cells.rows]
        if contradicts(latex, own, others):
            self._differ(place, "Configuration", plain(latex), plain(own))
        elif "".join(plain(latex).split()) != "".join(plain(own).split()):
            what = f"{place.where}, {place.row}: its configuration is written {plain(latex)!r} here"
            self.notes.append(Remark(line=self._line(place.offset), what=what))

    def _check_titles(self, place: _Place, columns: Sequence[PaperColumn], computed: ComputedTable) -> None:
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
        closing = self._end_of(Part.PROSE, marked.end, stop)
        if closing is None:
            opening = re.compile(r"\\subsection").search(self.body, marked.end, stop)
            after = opening.end() if opening else marked.end
            ending = re.compile(r"\\(?:sub)*section|\\begin\{(?:table|figure)|\\end\{document").search(
                self.body, after, stop
            )
            closing = ending.start() if ending else stop
        pair = origin.pairs[0]
        own = next(
            text
            for text, other in zip(subsections(to_prose(report)), report.pairs, strict=True)
            if other == pair
        )
        now = paragraphs(without_comments(own))
        place = _Place(offset=marked.start, where=f"prose on {pair}", row="text")
        support = supported({pair: report.rows_of(pair)})
        paper = paragraphs(expand(self.body[marked.end : closing], self.macros))
        general = [" ".join(texts.get(key, "") for key in (OPENING, SUMMARY)) for texts in (paper, now)]
        self._check_numbers(place, general[0], general[1], counted_notes(report, (pair,)))
        self._check_circumstances(place, *general)
        for key, text in paper.items():
            said = now.get(key, "")
            if key == OPENING:
                said = general[1]
            if key in (OPENING, SUMMARY):
                self._check_claims(place, text, said, support, (pair,))
            else:
                step = replace(place, row=f"step {key}")
                self._check_numbers(step, text, said)
                self._check_circumstances(step, text, said)
                self._check_claims(step, text, said, support - WORDS, (pair,))

    # --------------------------------------------------------------------- macros

    def _check_macros(self, marks: Sequence[Marked]) -> None:
        """Check every definition of a cell's macro, wherever it stands.

        Its sweep is known by the macro of a digest, or else by a mark; the terms by a mark alone.
        """
        marked = {(mark.origin.digest, mark.origin.terms): mark for mark in marks if mark.origin}
        digests = {
            definition.name: definition
            for definition in self.definitions
            if definition.name.endswith(DIGEST) and re.fullmatch("[0-9a-f]{64}", definition.value.strip())
        }
        sets = list[_MacroSet]()
        for name, definition in digests.items():
            digest = definition.value.strip()
            own = [(key, mark.start) for key, mark in marked.items() if key[0] == digest]
            above = [(key, start) for key, start in own if start < definition.offset] or own
            mark = marked.pop(max(above, key=lambda one: one[1])[0]) if above else None
            origin = (mark and mark.origin) or Origin(
                part=Part.MACROS, sweep=name, digest=digest, pairs=(), made_of=(digest,)
            )
            found = self._found(origin, definition.offset)
            if found is not None:
                sets.append(_MacroSet.of(found.overall, name.removesuffix(DIGEST)))
        for mark in marked.values():
            sets += self._marked_macros(mark)
        prefixes = {name.removesuffix(DIGEST) for name in digests} | {one.prefix for one in sets}
        known = {name for one in sets for name in one.now}
        for one in sets:
            self.parts.append(Part.MACROS)
            longer = [other for other in prefixes if other.startswith(one.prefix) and other != one.prefix]
            self._compare_macros(one, [*longer], known)

    def _marked_macros(self, mark: Marked) -> Iterator[_MacroSet]:
        """Yield the macros under a mark whose digest no macro has, by the names that they would have now."""
        found = self._found(mark.origin, mark.start) if mark.origin else None
        if found is None:
            return
        checked = _MacroSet.of(found.overall, prefix_of(found.overall))
        if any(checked.may_have(definition.name) for definition in self.definitions):
            yield checked
        else:
            what = f"no macro \\{checked.prefix}... of sweep {found.overall.name!r} is defined in this file"
            self._give_up(mark.start, f"{what}; take the mark out, or write the macros anew")

    def _compare_macros(self, checked: _MacroSet, longer: Sequence[str], known: Set[str]) -> None:
        """Compare the definitions of a set; others with a longer prefix, or a known name, are not of it."""
        for definition in self.definitions:
            name = definition.name
            place = _Place(offset=definition.offset, where=f"macro \\{name}", row="no row")
            macro = checked.now.get(name)
            if macro is not None and macro.row is not None:
                place = replace(place, row=f"step {macro.row.step} ({one_line(macro.row.label)})")
                if numbers(expand(definition.value, self.macros)) != numbers(macro.value):
                    self._differ(place, macro.figure, plain(definition.value), macro.value)
            elif name not in known and checked.may_have(name) and not name.startswith(tuple(longer)):
                self._differ(place, "no column", plain(definition.value), "no such cell")

    # ------------------------------------------------------------------- findings

    def _check_numbers(self, place: _Place, paper: str, now: str, counted: str = "") -> None:
        """Every number in the paper's text must be one of the text computed now; leaving some out is fine.

        A paper may name what the text only counts: `counted`, as it would be with all names.
        """
        said, known = Counter(numbers(expand(paper, self.macros))), Counter(numbers(now))
        for number in said - known - Counter(numbers(counted)):
            expected = ", ".join(f"{other:f}" for other in known - said) or "no such number"
            self._differ(place, "text", f"{number:f}", expected)

    def _check_circumstances(self, place: _Place, paper: str, now: str) -> None:
        """Whoever says a dtype, or that decoding is greedy, must not say another one than is computed now.

        Leaving it out is fine, and where it is not known now nothing is compared.
        """
        said, known = (_circumstances(expand(text, self.macros)) for text in (paper, now))
        if known and said - known:
            self._differ(place, "text", ", ".join(sorted(said - known)), ", ".join(sorted(known)))

    def _check_claims(
        self, place: _Place, paper: str, now: str, support: Set[str], pairs: Sequence[str]
    ) -> None:
        """Every claim in the paper's text must be one of the text computed now, or of what rows support."""
        claimed, said = claims(expand(paper, self.macros), pairs), claims(now, pairs)
        if wrong := claimed - said - support:
            instead = ", ".join(sorted(said - claimed)) or "no such claim"
            self._differ(place, "claim", ", ".join(sorted(wrong)), instead)

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

_CONFIGURATIONS = 2
"""The column of configurations, where there is one."""


def _shown(row: PaperRow) -> str:
    return "; ".join(plain(cell.latex) for cell in row.cells)


def _column_name(cells: Grid, column: int) -> str:
    title, group = plain(cells.heads[column].title), cells.group_of(column)
    return f"{title} on {group}" if group else title


_CIRCUMSTANCE = re.compile(r"\b(b?float(?:16|32|64)|greedy)\b")
"""What the sentence on circumstances says in words; its numbers are compared as all numbers are."""


def _circumstances(text: str) -> set[str]:
    return set(_CIRCUMSTANCE.findall(text))
