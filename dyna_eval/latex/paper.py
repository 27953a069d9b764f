"""Reading a paper: the tables and numbers in LaTeX that others may have edited.

No TeX runs here. Formatting commands are looked through and comments are left out; `definitions` replaces
macros.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal

from dyna_eval.latex.definitions import braced
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
    """`rows` by the step, which stands under that title or first.

    `rest` is what follows the tabular, without captions and other tabulars; None where nothing tells its end.
    """

    caption: str
    heads: tuple[PaperCell, ...]
    """A cell per column: the texts over the first row, joined; empty where they do not fit it."""
    rows: tuple[tuple[int, PaperRow], ...]
    rest: str | None


def without_comments(text: str) -> str:
    """Return text with comments blanked, so that offsets stay as they are."""
    return re.sub(
        r"(?<!\\)((?:\\\\)*)%.*", lambda found: found[1] + " " * (len(found[0]) - len(found[1])), text
    )


def inputs(text: str) -> Iterator[tuple[int, str]]:
    """Yield offset and text of every command that reads another file."""
    for found in re.finditer(r"\\(?:input|include|subfile)\b\s*\{[^{}\n]*\}", text):
        yield found.start(), found[0]


# ------------------------------------------------------------------------ tables

_TABULAR = re.compile(r"\\begin\{(tabular[*xy]?|tblr|longtable)\}")
_WHOLE_TABULAR = re.compile(rf"{_TABULAR.pattern}.*?\\end\{{\1\}}", re.DOTALL)
_RULES = re.compile(
    r"\\(?:toprule|midrule|bottomrule|hline|addlinespace|cmidrule|specialrule|rowcolor|raggedright|arraybackslash)\b"
    r"(?:\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\})*"
)
_MULTICOLUMN = re.compile(r"^\s*\\multicolumn\s*\{\s*(\d{1,3})\s*\}\s*(?=\{)")


def table_offsets(text: str) -> list[int]:
    """Return where tables begin in a text without comments."""
    return [found.start() for found in _TABULAR.finditer(text)]


def read_table(region: str, *, is_whole: bool = False) -> PaperTable | None:
    """Read the first table of a text without comments; None where there is none.

    `is_whole` says that the text ends where the table does; otherwise that is found by its environment.
    """
    begin = _TABULAR.search(region)
    if begin is None:
        return None
    ending = rf"\end{{{begin[1]}}}"
    end = region.find(ending, begin.end())
    if end < 0:
        return None
    after = end + len(ending)
    closing = _closing(region, begin.start(), after)
    if is_whole and not _TABULAR.search(region, after):
        closing = len(region)
    captions = list(_captions(region, after if closing is None else closing))
    region = _blank(region, [(found.start, found.end) for found in captions])
    if begin[1] == "longtable":
        region = _blank(region, _on_each_page(region, begin.end(), end))
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
        caption=captions[0].text if captions else "",
        rows=tuple(rows),
        rest=None if closing is None else _WHOLE_TABULAR.sub(" ", region[after:closing]),
    )


_ENVIRONMENT = re.compile(r"\\(begin|end)\s*\{([A-Za-z]+\*?)\}")
_AROUND = re.compile(
    r"(?:(?:sideways|wrap|margin)?(?:table|figure)|center|minipage|threeparttable|adjustbox)\*?"
)
"""Environments in which tables stand."""


def _closing(region: str, begin: int, after: int) -> int | None:
    """Return where the environment ends in which a tabular stands; None where nothing tells that.

    It may have begun before the region, and may go on behind it, below the mark of another tabular.
    """
    opened = list[str]()
    for found in _ENVIRONMENT.finditer(region, 0, begin):
        _open_or_close(opened, found)
    began_here, closing = bool(opened), None
    outermost = next((depth for depth, name in enumerate(opened) if _AROUND.fullmatch(name)), 0)
    for found in _ENVIRONMENT.finditer(region, after):
        was_open = _open_or_close(opened, found)
        if began_here and len(opened) <= outermost:
            return found.start()
        if not was_open and not began_here:
            if not _AROUND.fullmatch(found[2]):
                break
            closing = found.start()
    return after if began_here else closing


def _open_or_close(opened: list[str], found: re.Match[str]) -> bool:
    """Follow a `\\begin` or `\\end`; return False for the end of what was not open."""
    kind, name = found.groups()
    if kind == "begin":
        opened.append(name)
    elif name in opened:
        del opened[len(opened) - 1 - opened[::-1].index(name) :]
    else:
        return False
    return True


def _blank(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """Replace parts of a text by spaces, so that offsets stay as they are."""
    for start, end in spans:
        text = text[:start] + " " * (end - start) + text[end:]
    return text


def _on_each_page(region: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield where a `longtable` has what stands on each of its pages: later heads, and feet."""
    ends = list(_END_OF_HEAD.finditer(region, start, end))
    if ends:
        yield ends[0].start(), ends[-1].end()


_END_OF_HEAD = re.compile(r"\\end(?:firsthead|head|foot|lastfoot)(?![A-Za-z])")


def _after_preamble(region: str, begin: re.Match[str]) -> int:
    """Return where a tabular's cells begin: after its arguments, of which one is in braces, or two."""
    at = begin.end()
    for _ in range(2 if begin[1] in ("tabular*", "tabularx", "tabulary") else 1):
        at += len(placed[0]) if (placed := re.compile(r"\s*\[[^\[\]]*\]").match(region, at)) else 0
        argument = braced(region, at)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Caption:
    text: str
    start: int
    end: int


_CAPTION = re.compile(r"\\caption(?:of\s*\{table\})?\*?\s*(?:\[[^\]]*\])?\s*(?=\{)")


def _captions(region: str, stop: int) -> Iterator[_Caption]:
    for found in _CAPTION.finditer(region, 0, stop):
        text = braced(region, found.end())
        if text is not None:
            yield _Caption(text=text, start=found.start(), end=found.end() + len(text) + 2)


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
    template = braced(text, found.end()) or ""
    inner = braced(text, found.end() + len(template) + 2)
    return PaperCell(latex=(inner or "").strip(), span=max(1, int(found[1])))


# ------------------------------------------------------------- numbers and words

_UNSEEN = re.compile(
    r"\\(?:setlength|addtolength|fontsize|rule|fcolorbox|resizebox)\*?(?:\[[^\[\]]*\])*\{[^{}]*\}\s*\{[^{}]*\}"
    r"|\\(?:label|ref|eqref|autoref|cref|Cref|cite\w*|color|textcolor|cellcolor|colorbox|vspace|hspace|scalebox"
    r"|raisebox|[hv]?phantom|captionsetup)\*?(?:\[[^\[\]]*\])*\{[^{}]*\}"
)
_OPTIONS = re.compile(r"(\\(?:num|SI|qty|makebox|framebox))\s*\[[^\[\]]*\]")
_BOX = re.compile(r"\\(?:parbox|begin\{minipage\})(?:\[[^\[\]]*\])*\{[^{}]*\}")
_FOOTNOTE_MARK = re.compile(r"\$\^\{(?:\\mathrm)?\{?([a-z,]+)\}?\}\$|\\textsuperscript\{([a-z,]+)\}")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?|\d+(?:\.\d+)?")
_BOLD = re.compile(
    r"\\(?:textbf|mathbf|symbf|bm|pmb|boldsymbol|bfseries|bf|boldmath)(?![A-Za-z])|\\fontseries\{b[a-z]*\}"
)
_FONT = re.compile(
    r"\\(?:textbf|mathbf|boldmath|bfseries|bf|raggedright|centering|emph|textit|mathrm|text|num)(?![A-Za-z])"
)


def ungrouped(latex: str) -> str:
    r"""Return LaTeX with the digits of a number side by side: `1\,024` and `1{,}024` are `1024`."""
    return re.sub(r"(?<=\d)(?:\\[,;!:]|\{,\}|,|~)(?=\d{3}(?!\d))", "", latex)


def numbers(latex: str) -> list[Decimal]:
    """Return the numbers that a reader sees, by value: how they are set apart or grouped does not matter."""
    seen = _OPTIONS.sub(r"\1", _BOX.sub(" ", _UNSEEN.sub(" ", _FOOTNOTE_MARK.sub(" ", latex))))
    seen = seen.replace("−", "-").replace("$-$", "-").replace(r"\textminus", "-")
    seen = re.sub(r"\\[,;!: ]", " ", ungrouped(seen))
    seen = re.sub(r"--+", " ", seen)  # of a range
    seen = re.sub(
        r"(-?)\\[A-Za-z]+\*?\s*", lambda found: found[1] or " ", seen
    )  # a command, or its minus sign
    seen = re.sub(r"[{}$]", "", seen)
    return [Decimal(found) for found in _NUMBER.findall(seen)]


def plain(latex: str) -> str:
    """Return about what a reader sees of LaTeX: commands and spacing are gone, footnote marks too."""
    seen = _OPTIONS.sub(r"\1", _BOX.sub(" ", _UNSEEN.sub(" ", _FOOTNOTE_MARK.sub("", latex))))
    seen = seen.replace(r"\times", "×").replace(r"\pm", "±").replace(r"\tau", "τ").replace(r"\leq", "≤")
    seen = re.sub(r"\\[,;!: ]|~", " ", read_text(_FONT.sub("", seen)))
    return " ".join(re.sub(r"[{}$]", "", seen).split())


def footnote_marks(latex: str) -> set[str]:
    """Return the letters of the footnotes that a cell is marked with."""
    found = (match[1] or match[2] for match in _FOOTNOTE_MARK.finditer(latex))
    return {letter for letters in found for letter in letters.split(",")}


def is_bold(latex: str) -> bool:
    return _BOLD.search(latex) is not None
