"""Texts of prompts from several columns, as `Question: {question}\\nAnswer:`.

Like `str.format`, but between braces stands a column's name and nothing else: no attribute, index or format
of a value can be asked for. `{{` and `}}` are braces themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_BRACES = re.compile(r"\{\{|\}\}|\{(?P<column>[^{}]*)\}|[{}]")


def columns_of(template: str) -> tuple[str, ...]:
    """Return the columns that a template names, each once; ValueError says what is wrong with it."""
    found: dict[str, None] = {}
    for braces in _BRACES.finditer(template):
        if braces["column"] is not None:
            found[braces["column"]] = None
        elif len(braces[0]) == 1:
            raise ValueError(f"has a '{braces[0]}' alone; write {{column}}, or '{braces[0] * 2}' for a brace")
    if not found:
        raise ValueError("should name a column, as {question}; '{{' and '}}' are braces themselves")
    if not all(name.strip() for name in found):
        raise ValueError("has '{}' without a name; write the column's between the braces")
    return tuple(found)


def filled(template: str, values: Mapping[str, str]) -> str:
    """Return a template's text with the values of its columns, in which braces mean nothing."""

    def piece(braces: re.Match[str]) -> str:
        name = braces["column"]
        return braces[0][0] if name is None else values[name]

    return _BRACES.sub(piece, template)
