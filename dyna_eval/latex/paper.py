"""Reading a paper: the tables, definitions and numbers in LaTeX that others may have edited.

No TeX runs here. Formatting commands are looked through, comments are left out, and macros without arguments
are replaced by their definitions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from dyna_eval.latex.text import read_text


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperCell:
    """LaTeX between two `&`, and how many columns it spans."""

    latex: str
    span: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperRow:
    """`offset` is where the first cell ends."""

    cells: tuple[PaperCell, ...]
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperTable:
    """`rows` by the step, which stands under that title or first; `rest` is what follows the tabular."""

    caption: str
    heads: tuple[PaperCell, ...]
    """A cell per column: the texts over the first row, joined; empty where they do not fit it."""
    rows: tuple[tuple[int, PaperRow], ...]
    rest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    name: str
    value: str
    offset: int


def without_comments(text: str) -> str:
    """Return text with comments blanked, so that offsets stay as they are."""
    return re.sub(
        r"(?<!\\)((?:\\\\)*)%.*", lambda found: found[1] + " " * (len(found[0]) - len(found[1])), text
    )


def inputs(text: str) -> Iterator[tuple[int, str]]:
    """Yield offset and text of every command that reads another file."""
    for found in re.finditer(r"\\(?:input|include|subfile)\b\s*\{[^{}\n]*\}", text):
        yield found.start(), found[0]


# ------------------------------------------------------------------- definitions

_DEFINES = re.compile(
    r"\\(?:(?:new|renew|provide)command\*?\s*(?:\{\s*\\([A-Za-z]+)\s*\}|\\([A-Za-z]+))|def\s*\\([A-Za-z]+))\s*(?=\{)"
)


def definitions(text: str) -> list[Definition]:
    """Return the definitions of macros without arguments, in the order of the text."""
    found = []
    for start in _DEFINES.finditer(text):
        value = _braced(text, start.end())
        if value is not None:
            name = start[1] or start[2] or start[3]
            found.append(Definition(name=name, value=value, offset=start.start()))
    return found


def expand(latex: str, values: Mapping[str, str]) -> str:
    """Replace macros by their definitions, nested ones up to a depth of three."""
    for _ in range(3):
        expanded = re.sub(
            r"\\([A-Za-z]+)(?:\{\}|(?![A-Za-z]))", lambda found: values.get(found[1], found[0]), latex
        )
        if expanded == latex or len(expanded) > 100_000:
            break
        latex = expanded
    return latex


def _braced(text: str, start: int) -> str | None:
    """Return what stands in the braces that open at `start`; None where they never close."""
    if text[start : start + 1] != "{":
        return None
    depth, i = 0, start
    while i < len(text):
        if text[i] == "\\":
            i += 1
        elif text[i] == "{":
            depth += 1
        elif text[i] == "}":
            depth -= 1
            if depth == 0:
                return text[start + 1 : i]
        i += 1
    return None


# ------------------------------------------------------------------------ tables

_TABULAR = re.compile(r"\\begin\{(tabular[*xy]?|tblr|longtable)\}")
_RULES = re.compile(
    r"\\(?:toprule|midrule|bottomrule|hline|addlinespace|cmidrule|specialrule|rowcolor|raggedright|arraybackslash)\b"
    r"(?:\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\})*"
)
_MULTICOLUMN = re.compile(r"^\s*\\multicolumn\s*\{\s*(\d{1,3})\s*\}\s*(?=\{)")


def table_offsets(text: str) -> list[int]:
    """Return where tables begin in a text without comments."""
    return [found.start() for found in _TABULAR.finditer(text)]


def read_table(region: str) -> PaperTable | None:
    """Read the first table of a text without comments; None where there is none."""
    begin = _TABULAR.search(region)
    if begin is None:
        return None
    end = region.find(rf"\end{{{begin[1]}}}", begin.end())
    if end < 0:
        return None
    closing = re.compile(r"\\end\{(?:table|sidewaystable|wraptable)\*?\}").search(region, end)
    rows: list[tuple[int, PaperRow]] = []
    above: list[PaperRow] = []
    for row in _rows(region, _after_preamble(region, begin), end):
        step = re.fullmatch(r"\s*(\d{1,6})\s*", plain(row.cells[_step_column(above, row)].latex))
        if step:
            rows.append((int(step[1]), row))
        elif not rows:
            above.append(row)
    return PaperTable(
        heads=_heads(above, rows[0][1]) if rows and above else (),
        caption=_caption(region[: closing.start() if closing else end]),
        rows=tuple(rows),
        rest=region[end + len(begin[0]) - 2 : closing.start()] if closing else "",
    )


def _after_preamble(region: str, begin: re.Match[str]) -> int:
    """Return where a tabular's cells begin: after its arguments, of which one is in braces, or two."""
    at = begin.end()
    for _ in range(2 if begin[1] in ("tabular*", "tabularx", "tabulary") else 1):
        at += len(placed[0]) if (placed := re.compile(r"\s*\[[^\[\]]*\]").match(region, at)) else 0
        argument = _braced(region, at)
        at += 0 if argument is None else len(argument) + 2
    return at


def _step_column(above: list[PaperRow], row: PaperRow) -> int:
    """Return which cell of a row holds its step: the one under that title, or else the first."""
    titles = [plain(cell.latex).casefold() for line in above[-1:] for cell in line.cells]
    column = titles.index("step") if "step" in titles else 0
    return column if column < len(row.cells) else 0


def _heads(above: list[PaperRow], first: PaperRow) -> tuple[PaperCell, ...]:
    """Join the lines over a row to one title per column; nothing where their columns are not the row's."""
    lines = [[cell.latex for cell in line.cells for _ in range(cell.span)] for line in above]
    if len(lines[-1]) != sum(cell.span for cell in first.cells):
        return ()
    heads, column = list[PaperCell](), 0
    for cell in above[-1].cells:
        texts = [line[column] for line in lines if column < len(line) and line[column]]
        heads.append(PaperCell(latex=" ".join(texts), span=cell.span))
        column += cell.span
    return tuple(heads)


def _caption(region: str) -> str:
    found = re.search(r"\\caption\*?\s*(?:\[[^\]]*\])?\s*(?=\{)", region)
    return (_braced(region, found.end()) or "") if found else ""


def _rows(text: str, start: int, end: int) -> Iterator[PaperRow]:
    """Split a tabular's content at `\\\\` and at `&` outside of braces."""
    cells, opened, depth, i = list[str](), start, 0, start
    row_start = start
    while i < end:
        if text.startswith("\\\\", i) and depth == 0:
            yield _row([*cells, text[opened:i]], row_start)
            cells, opened = [], i + 2
            row_start = opened
            i += 2
            continue
        if text[i] == "\\":
            i += 2
            continue
        if text[i] in "{}":
            depth += 1 if text[i] == "{" else -1
        elif text[i] == "&" and depth == 0:
            cells.append(text[opened:i])
            opened = i + 1
        i += 1
    yield _row([*cells, text[opened:end]], row_start)


def _row(texts: list[str], offset: int) -> PaperRow:
    first = re.sub(r"^\s*(?:\*|\[[^\]]*\])", "", texts[0])  # what may follow the row before: `\\*`, `\\[2pt]`
    cells = [_cell(_RULES.sub(" ", text)) for text in (first, *texts[1:])]
    return PaperRow(cells=tuple(cells), offset=offset + max(0, len(texts[0].rstrip()) - 1))


def _cell(text: str) -> PaperCell:
    found = _MULTICOLUMN.match(text)
    if found is None:
        return PaperCell(latex=text.strip(), span=1)
    template = _braced(text, found.end()) or ""
    inner = _braced(text, found.end() + len(template) + 2)
    return PaperCell(latex=(inner or "").strip(), span=max(1, int(found[1])))


# ------------------------------------------------------------- numbers and words

_UNSEEN = re.compile(
    r"\\(?:label|ref|eqref|autoref|cref|Cref|cite\w*|color|textcolor|cellcolor|vspace|hspace|setlength|fontsize)\*?"
    r"(?:\[[^\[\]]*\])*\{[^{}]*\}"
)
_BOX = re.compile(r"\\(?:parbox|begin\{minipage\})(?:\[[^\[\]]*\])*\{[^{}]*\}")
_FOOTNOTE_MARK = re.compile(r"\$\^\{(?:\\mathrm)?\{?([a-z,]+)\}?\}\$|\\textsuperscript\{([a-z,]+)\}")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?|\d+(?:\.\d+)?")
_BOLD = re.compile(r"\\(?:textbf|mathbf|bm|boldsymbol|bfseries|boldmath)\b")


def numbers(latex: str) -> list[Decimal]:
    """Return the numbers that a reader sees, by value: how they are set apart or grouped does not matter."""
    seen = _BOX.sub(" ", _UNSEEN.sub(" ", _FOOTNOTE_MARK.sub(" ", latex)))
    seen = seen.replace("−", "-").replace("$-$", "-").replace(r"\textminus", "-")
    seen = re.sub(r"(?<=\d)(?:\\[,;!:]|\{,\}|,|~)(?=\d{3}(?!\d))", "", seen)
    seen = re.sub(r"\\[,;!: ]", " ", seen)
    seen = re.sub(r"[{}$]", "", seen)
    return [Decimal(found) for found in _NUMBER.findall(seen)]


def plain(latex: str) -> str:
    """Return about what a reader sees of LaTeX: commands and spacing are gone, footnote marks too."""
    seen = _BOX.sub(" ", _UNSEEN.sub(" ", _FOOTNOTE_MARK.sub("", latex)))
    seen = seen.replace(r"\times", "×").replace(r"\pm", "±").replace(r"\tau", "τ").replace(r"\leq", "≤")
    seen = re.sub(
        r"\\(?:textbf|mathbf|boldmath|bfseries|raggedright|centering|emph|textit|mathrm|num)\b", "", seen
    )
    seen = re.sub(r"\\[,;!: ]|~", " ", read_text(seen))
    return " ".join(re.sub(r"[{}$]", "", seen).split())


def footnote_marks(latex: str) -> set[str]:
    """Return the letters of the footnotes that a cell is marked with."""
    found = (match[1] or match[2] for match in _FOOTNOTE_MARK.finditer(latex))
    return {letter for letters in found for letter in letters.split(",")}


def is_bold(latex: str) -> bool:
    return _BOLD.search(latex) is not None
