"""A report as LaTeX: tables, prose, macros, a whole document, and the check of a paper that holds them.

`text` escapes what users wrote; `style` says how a table looks and leaves that in the paper; `grid` computes
its cells, which `table` prints and `check` compares with those that `paper` reads and `columns` matches;
`reports.claims` decides what may be said of two rows, `prose` says it, and `sentences` reads it again.
"""

from dyna_eval.latex.table import to_latex
from dyna_eval.latex.text import escape_latex

__all__ = ["escape_latex", "to_latex"]
