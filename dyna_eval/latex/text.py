"""Text on its way into LaTeX and out of it. What a user wrote is printed as it stands and does nothing."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from dyna_eval.reports import digits
from dyna_eval.reports.cells import Notes
from dyna_eval.wording import one_line

_ESCAPES = {
    **{symbol: f"\\{symbol}" for symbol in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': "''",
    "−": "$-$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "→": r"$\rightarrow$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "δ": r"$\delta$",
    "ε": r"$\varepsilon$",
    "θ": r"$\theta$",
    "λ": r"$\lambda$",
    "μ": r"$\mu$",
    "π": r"$\pi$",
    "σ": r"$\sigma$",
    "τ": r"$\tau$",
}
_MEANINGS = {latex: character for character, latex in _ESCAPES.items()}
_ESCAPED = re.compile("|".join(re.escape(latex) for latex in sorted(_MEANINGS, key=len, reverse=True)))


def escape_latex(text: str) -> str:
    """Return text that LaTeX prints as it stands, on one line; neighbours do not join into other signs."""
    composed = unicodedata.normalize("NFC", one_line(text))
    apart = re.sub(r"([-',])(?=\1)|'(?=\")", "\\g<0>\0", composed)  # `--`, `''` and `,,` are ligatures
    return "".join(_ESCAPES.get(character, character) for character in apart).replace("\0", "{}")


def marked_latex(label: str, marks: Sequence[str]) -> str:
    """Return a row's label with the letters of its footnotes."""
    return escape_latex(label) + (rf"$^{{\mathrm{{{','.join(marks)}}}}}$" if marks else "")


def footnotes(notes: Notes, between: Sequence[str] = (), *, may_break: bool = False) -> list[str]:
    """Return the lines under a table: its lettered notes, some texts of LaTeX, and the general remarks.

    Where they `may_break` over pages, the group in which they stand ends after them.
    """
    texts = [rf"$^{{\mathrm{{{mark}}}}}$\,{escape_latex(text)}." for mark, text in notes.lettered()]
    texts += [*between, *(f"{escape_latex(text)}." for text in notes.general)]
    if not texts:
        return []
    if may_break:
        return [r"  \footnotesize", *(rf"  \noindent {text}\par" for text in texts)]
    opening, closing = r"  \begin{minipage}{0.95\linewidth}\footnotesize", r"  \end{minipage}"
    return [r"  \par\smallskip", opening, *(rf"    {text}\par" for text in texts), closing]


def read_text(latex: str) -> str:
    """Return the text that `escape_latex` made this LaTeX of."""
    parts = re.split(r"(?<=[-',])\{\}(?=[-',])", latex)
    return "".join(_ESCAPED.sub(lambda match: _MEANINGS[match[0]], part) for part in parts)


def number(value: float, decimals: int) -> str:
    """Return a factor as all tables and figures have it."""
    return digits.factor(value, decimals)


def percent(share: float) -> str:
    """Return a share as a percentage, without its sign."""
    return rf"{digits.percent(share).removeprefix('-')}\,\%"
