"""Pieces of sentences: text on one line, counted nouns, lists, rates."""

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


def distinct_prompts(distinct: int, prompts: int) -> str:
    return f"only {distinct:,} of {prompts:,} prompts {'is' if distinct == 1 else 'are'} distinct"


def listed(texts: Sequence[str]) -> str:
    """Return `a`, `a and b`, or `a, b and c`; there is at least one."""
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))


def rate_text(tokens_per_second: float) -> str:
    """Return tokens per second with one decimal; with three digits that count where they are below 10."""
    return f"{tokens_per_second:.{rate_decimals(tokens_per_second)}f}"


def rate_decimals(tokens_per_second: float) -> int:
    """Return how many decimals tokens per second are written with, from 1 to 6."""
    if tokens_per_second <= 0.0:
        return 1
    enough = (n for n in range(1, 6) if round(tokens_per_second, n) >= 10.0 ** (2 - n))
    return next(enough, 6)
