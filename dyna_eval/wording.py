"""Pieces of sentences: text on one line, counted nouns, lists."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence


def one_line(text: str) -> str:
    """Replace control characters, line breaks among them, which could leave a cell or drive a terminal."""
    return " ".join("".join(" " if unicodedata.category(c)[0] == "C" else c for c in text).split())


def machine(facts: Mapping[str, object], unknown: str) -> str:
    """Return an environment's GPU, or its processor with its cores; `unknown` stands for a name it lacks."""
    if gpu := facts.get("gpu"):
        return str(gpu)
    processor, cores = str(facts.get("processor") or unknown), facts.get("cores")
    return f"{processor}, {cores} cores" if cores else processor


def count(number: int, noun: str) -> str:
    """Return `1 prompt`, `1,000 prompts`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def listed(texts: Sequence[str]) -> str:
    """Return `a`, `a and b`, or `a, b and c`; there is at least one."""
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))
