"""The documents of the repository as the tests read them: fences, inline code and links.

A fence names its language. `sh` is run as a reader would type it, `yaml` is a sweep file or a part of one,
`text` is what a command printed. A comment before a fence, `<!-- not run: WHY -->`, says why the tests do not
run it; its commands are still parsed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]

PAGES_ON_CODE = [
    *(ROOT / name for name in ("ARCHITECTURE.md", "CHANGELOG.md", "benchmarks/README.md")),
    *(ROOT / part / "README.md" for part in ("workers", "db", "dashboards")),
]
"""What is read beside the code: its links are tested, its commands are not."""

_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """A fenced block; `not_run` is why it is not run, None where it is."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def fences(page: Path) -> tuple[Fence, ...]:
    found = []
    before = ""
    for token in _tokens(page):
        if token.type == "fence":
            reason = _NOT_RUN.search(before)
            found.append(
                Fence(
                    page=page,
                    line=_line(token),
                    language=token.info.strip(),
                    text=token.content,
                    not_run=reason[1] if reason else None,
                )
            )
        before = token.content if token.type == "html_block" else ""
    return tuple(found)


def inline_code(page: Path) -> Iterator[tuple[int, str]]:
    """Return what stands between backticks, with its line."""
    for token, part in _inline(page):
        if part.type == "code_inline":
            yield _line(token), part.content


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Return what links and pictures point to, with their lines."""
    for token, part in _inline(page):
        target = part.attrs.get("href") or part.attrs.get("src")
        if target:
            yield _line(token), str(target)


def anchors(page: Path) -> set[str]:
    """Return the names that GitHub gives to a page's headings."""
    tokens = _tokens(page)
    texts = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}


def commands(text: str) -> Iterator[str]:
    """Return the lines of a shell block as commands; continued lines are joined."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            yield line.strip()


@cache
def _tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def _inline(page: Path) -> Iterator[tuple[Token, Token]]:
    for token in _tokens(page):
        for part in token.children or []:
            yield token, part


def _line(token: Token) -> int:
    return token.map[0] + 1 if token.map else 0


QUESTIONS = (
    '{"question_id": 81, "category": "files", "turns": ["def read(path):\\n", "Again."]}\n'
    '{"question_id": 82, "category": "classes", "turns": ["import os\\n"]}\n'
    '{"question_id": 83, "category": "classes", "turns": ["class Queue:\\n", "Now a stack."]}\n'
)
"""A question file as Spec-Bench writes them."""

SWEEP = """\
name: my-sweep
pair: {target: ./my-target, draft: ./my-draft}
prompts: {dataset: json, data_files: question.jsonl, column: turns, category: category}
generation: {max_new_tokens: 8}
measure: {repeats: 2}
configs:
  - {label: Baseline, method: ar}
  - {label: + Draft model, method: linear, k: 4}
  - {label: + Tree structure, method: tree, depth: 3, branch: 2}
  - {label: + Adaptive pruning, method: tree, depth: 3, branch: 2, threshold: 0.1}
  - {label: Sweep, method: tree, depth: [2, 4], branch: [2, 3], threshold: [0.05, 0.2]}
"""
"""What the documents call `my-sweep.yaml`, made small."""


DATA_FILES = (
    "my-chats.jsonl",
    "my-prompts.csv",
    "my-prompts.jsonl",
    "my-prompts.parquet",
    "my-prompts.txt",
    "my-questions.jsonl",
)


def lay_out_checkout(folder: Path) -> None:
    """Put into a folder what of the checkout the documents' commands use."""
    for name in ("examples", "workers"):
        (folder / name).symlink_to(ROOT / name)


def lay_out_own(folder: Path) -> None:
    """Put into a folder the sweep file, pair and data that the documents take for the reader's own."""
    for model in ("target", "draft"):
        (folder / f"my-{model}").symlink_to(ROOT / "workers" / "dyna_eval_workers" / "demo_pair" / model)
    (folder / "my-sweep.yaml").write_text(SWEEP, encoding="utf-8")
    (folder / "question.jsonl").write_text(QUESTIONS, encoding="utf-8")
    (folder / "my-data").mkdir()
    for name in DATA_FILES:
        (folder / name).touch()  # validation asks only whether they are there
