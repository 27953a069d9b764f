"""Writes the reference pages from the code: write_reference.py FOLDER

Every word of the pages is a docstring, a help text or a description of the code; mend it there.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from dyna_eval.cli import cli
from dyna_eval.jobs import Method
from dyna_eval.methods import METHODS
from dyna_eval.sweeps.sections import (
    EngineSection,
    GenerationSection,
    MeasureSection,
    PairSection,
    PromptsSection,
    RowSection,
    Section,
    json_schema,
)

WIDTH = 100
GENERATED = "<!-- Written by scripts/reference from the code; change it there. -->"

Schema = Mapping[str, Any]


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (("cli", commands()), ("sweep-file", sweep_file()), ("methods", methods())):
        text = "\n".join([GENERATED, "", *lines]).rstrip() + "\n"
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


# ----------------------------------------------------------------------- commands


def commands() -> Iterator[str]:
    """One section per command, as `--help` prints it."""
    yield from ["# Commands", ""]
    yield from _command("dyna-eval", cli, None, level=2)


def _command(name: str, command: click.Command, parent: click.Context | None, *, level: int) -> Iterator[str]:
    context = click.Context(
        command, info_name=name, parent=parent, terminal_width=WIDTH, **command.context_settings
    )
    yield from [f"{'#' * level} {context.command_path}", "", inspect.cleandoc(command.help or ""), ""]
    formatter = context.make_formatter()
    command.format_usage(context, formatter)
    command.format_options(context, formatter)
    yield from ["```text", formatter.getvalue().rstrip(), "```", ""]
    if isinstance(command, click.Group):
        for subcommand in command.list_commands(context):
            yield from _command(subcommand, command.commands[subcommand], context, level=3)


# --------------------------------------------------------------------- sweep file


def sweep_file() -> Iterator[str]:
    schema = json_schema()
    yield from ["# The sweep file", "", schema["description"], ""]
    yield from _table(schema)
    sections: dict[str, type[Section] | type[RowSection]] = {
        "pair": PairSection,
        "prompts": PromptsSection,
        "generation": GenerationSection,
        "measure": MeasureSection,
        "engine": EngineSection,
        "configs": RowSection,
    }
    for key, section in sections.items():
        yield from [f"## {key}", "", inspect.getdoc(section) or "", ""]
        yield from _table(section.model_json_schema())
    yield from ["[Parameters of the methods](methods.md)"]


# ------------------------------------------------------------------------ methods


def methods() -> Iterator[str]:
    yield from ["# Methods", "", inspect.getdoc(Method) or "", ""]
    for name, model in METHODS.items():
        yield from [f"## {name}", "", inspect.getdoc(model) or "", ""]
        yield from [f"Draft model: {'needed' if model.needs_draft else 'not used'}.", ""]
        yield from _table(model.model_json_schema())


# ------------------------------------------------------------------------- tables


def _table(schema: Schema) -> Iterator[str]:
    """A table of the keys that a mapping may have."""
    if not schema.get("properties"):
        yield from ["No parameters.", ""]
        return
    yield from ["| key | value | default | |", "|---|---|---|---|"]
    required = schema.get("required", [])
    for name, value in schema["properties"].items():
        default = "required" if name in required else _shown(value.get("default"))
        meaning = _cell(value.get("description", ""))
        yield f"| `{name}` | {_cell(_kind(value))} | {default} | {meaning} |"
    yield ""


def _shown(default: object) -> str:
    if default is None:
        return ""
    return f"`{str(default).lower()}`" if isinstance(default, bool) else f"`{default}`"


def _kind(schema: Schema) -> str:
    """Say in words which values a JSON Schema allows."""
    if "anyOf" in schema:
        kinds = (_kind(option) for option in schema["anyOf"] if option.get("type") != "null")
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = _KINDS[schema.get("type", "")]
    items = f" of {_kind(schema['items'])}" if "type" in schema.get("items", {}) else ""
    bounds = [words.format(schema[key]) for key, words in _BOUNDS.items() if key in schema]
    return ", ".join([kind + items, *bounds])


_KINDS = {
    "": "",
    "array": "list",
    "object": "mapping",
    "boolean": "`true`, `false`",
    "integer": "integer",
    "number": "number",
    "string": "text",
}
_BOUNDS = {
    "minimum": "at least {:,}",
    "exclusiveMinimum": "over {:,}",
    "maximum": "at most {:,}",
    "exclusiveMaximum": "under {:,}",
    "maxLength": "at most {:,} characters",
}


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    main()
