r"""The macros that a paper defines, and LaTeX with them replaced by what they stand for.

Read are \newcommand and its like, \def, \let, and xparse's commands whose arguments are all in braces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_NAME = r"\s*(?:\{\s*\\([A-Za-z]+)\s*\}|\\([A-Za-z]+))\s*"
_DEFINES = re.compile(
    rf"\\(?:(?:new|renew|provide)command|DeclareRobustCommand)\*?{_NAME}(?:\[([1-9])\]\s*)?(?=\{{)"
    rf"|\\(?:New|Renew|Provide|Declare)DocumentCommand{_NAME}\{{((?:\s*m)*)\s*\}}\s*(?=\{{)"
    r"|\\def\s*\\([A-Za-z]+)\s*((?:#[1-9])*)\s*(?=\{)"
    r"|\\let\s*\\([A-Za-z]+)\s*=?\s*(\\[A-Za-z]+)"
)
_COMMAND = re.compile(r"\\([A-Za-z]+)(?:\{\})?")
_LONGEST = 100_000
"""Characters that replacing may come to: a paper may define what has no end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """`value` has `#1` and so on for the arguments."""

    name: str
    value: str
    offset: int
    arguments: int = 0


Macros = Mapping[str, Definition]
"""Definitions by their names, without the backslash."""


def definitions(text: str) -> list[Definition]:
    """Return the definitions in a text without comments, in its order."""
    found = []
    for start in _DEFINES.finditer(text):
        new, bare_new, count, xparse, bare_xparse, kinds, plain, numbered, let, target = start.groups()
        name = new or bare_new or xparse or bare_xparse or plain or let
        value = target or braced(text, start.end())
        arguments = int(count) if count else (kinds or "").count("m") or (numbered or "").count("#")
        if value is not None:
            found.append(Definition(name=name, value=value, offset=start.start(), arguments=arguments))
    return found


def known_macros(own: Iterable[Definition], elsewhere: Iterable[Definition]) -> dict[str, Definition]:
    """Return what a file's macros stand for: by its own definitions, or else by those of other files.

    A macro that other files define differently is left out.
    """
    theirs: dict[str, Definition] = {}
    unlike = set()
    for definition in elsewhere:
        first = theirs.setdefault(definition.name, definition)
        if (first.value, first.arguments) != (definition.value, definition.arguments):
            unlike.add(definition.name)
    ours = {definition.name: definition for definition in own}
    return {name: one for name, one in theirs.items() if name not in unlike} | ours


def expand(latex: str, macros: Macros) -> str:
    """Replace macros by their definitions, nested ones up to a depth of three."""
    for _ in range(3):
        expanded = _expanded(latex, macros)
        if expanded == latex or len(expanded) > _LONGEST:
            break
        latex = expanded
    return latex


def _expanded(latex: str, macros: Macros) -> str:
    parts, at = list[str](), 0
    for found in _COMMAND.finditer(latex):
        macro = macros.get(found[1])
        if macro is None or found.start() < at:
            continue
        values, end = ((), found.end()) if not macro.arguments else _arguments(latex, found, macro.arguments)
        if len(values) == macro.arguments:
            parts += [latex[at : found.start()], _filled(macro.value, values)]
            at = end
    return "".join([*parts, latex[at:]])


def _arguments(latex: str, command: re.Match[str], count: int) -> tuple[tuple[str, ...], int]:
    """Return up to so many arguments in braces after a command, and where they end."""
    values, at = list[str](), command.end(1)
    while len(values) < count:
        at += len(latex[at:]) - len(latex[at:].lstrip())
        value = braced(latex, at)
        if value is None:
            break
        values.append(value)
        at += len(value) + 2
    return tuple(values), at


def _filled(value: str, arguments: tuple[str, ...]) -> str:
    if not arguments or value.count("#") * max(map(len, arguments)) > _LONGEST:
        return value
    return re.sub(
        r"(?<!\\)#([1-9])",
        lambda found: arguments[int(found[1]) - 1] if int(found[1]) <= len(arguments) else found[0],
        value,
    )


def braced(text: str, start: int) -> str | None:
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
