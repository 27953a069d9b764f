"""What captions and prose claim about speed, and what of that the rows of a report support."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from dyna_eval.latex.style import find_marks
from dyna_eval.latex.text import escape_latex
from dyna_eval.reports.claims import Claim, claim_between
from dyna_eval.reports.report import Row, baseline_of, best_row

OPENING, SUMMARY = 0, -1
"""Keys of the paragraphs that are about no single step: before the steps, and under other headings."""

_HEADING = re.compile(
    r"\\(?:paragraph|subparagraph|subsubsection)\*?\{(?:\s*Step (\d{1,6})(?!\d))?"
    r"|\\textbf\*?\{\s*(?:Step (\d{1,6})(?!\d)|Taken together)"
)


def paragraphs(prose: str) -> dict[int, str]:
    """Split prose by the step that a paragraph is about, or the keys above."""
    start, key = 0, OPENING
    texts: dict[int, str] = {}
    for heading in _HEADING.finditer(prose):
        texts[key] = texts.get(key, "") + prose[start : heading.start()]
        start, key = heading.start(), int(heading[1] or heading[2] or SUMMARY)
    texts[key] = texts.get(key, "") + prose[start:]
    return texts


def subsections(prose: str) -> Iterator[str]:
    """Split generated prose into its subsections, one per pair."""
    starts = [marked.start for marked in find_marks(prose)]
    for start, stop in pairwise([*starts, len(prose)]):
        yield prose[start:stop]


# ------------------------------------------------------------------------ claims

WORDS = frozenset(
    ("improve", "degrade", "not separable", "faster", "slower", "highest", "nothing is claimed")
)
"""Words of comparison, of whatever they are said."""

_WORD = re.compile(rf"\b({'|'.join(sorted(WORDS))})")
_SUBJECT = re.compile(r"\b[Ss]tep (\d{1,6})\b|\b[Nn]o step is\b|\bThe highest\b|\bNot separable\b")
_SLOWER, _BELOW, _HIGHEST = (
    "slower than the step before it",
    "below the baseline",
    "of the highest throughput",
)
_OWN = {
    _SLOWER: re.compile(r"\bslower than the step before it"),
    _BELOW: re.compile(r"\bfalls below the baseline"),
    _HIGHEST: re.compile(r"\bhas the highest throughput"),
}
"""What sentences of ours say of the step that they begin with."""

_EACH = r"(?:every|each|all)\b(?:\s\S+){0,3}?\s(?:steps?|rows?|configurations?|methods?)\b"
_SWEEPING = re.compile(
    rf"\b{_EACH}(?:\s(?:is|are|was|were|runs?|decodes?|also|thus|measurably|significantly|clearly)){{0,3}}\s"
    r"(improve|faster|degrade|slower)"
    rf"|\b(improve|faster|degrade|slower)\S*(?:\s\S+){{0,3}}?\s(?:on|in|at|for)\s{_EACH}",
    re.IGNORECASE,
)
_HEDGED = re.compile(
    r"\b(?:not|no|nor|never|but|except|only|unless|whether|if|where|that|which|may|might|can|could|would|almost|nearly)\b",
    re.IGNORECASE,
)
_DIRECTIONS = {"improve": "faster", "faster": "faster", "degrade": "slower", "slower": "slower"}
_AGAINST = {
    " than the baseline": re.compile(r"\bbaseline\b"),
    " than the step before it": re.compile(r"\b(?:before|previous|preceding)\b"),
    "": re.compile(""),
}


def claims(text: str, pairs: Sequence[str]) -> set[str]:
    """Return what LaTeX claims: words of comparison, sentences of ours, and what it says of every step.

    A sentence of ours has its step and its pair; one that names none of several pairs is about all of them.
    """
    text = _on_one_line(text)
    found = set(_WORD.findall(text)) | set(_sweeping(text))
    subjects = list(_SUBJECT.finditer(text))
    for subject, stop in zip(subjects, [*(one.start() for one in subjects[1:]), len(text)], strict=False):
        said = text[subject.end() : stop]
        for what, pattern in _OWN.items():
            if pattern.search(said):
                who = f"step {subject[1]}" if subject[1] else "no step"
                found |= {f"{who} is {what}{where}" for where in _where(said, pairs)}
    return found


def _where(said: str, pairs: Sequence[str]) -> list[str]:
    if len(pairs) < 2:
        return [""]
    named = (
        pair
        for pair in sorted(pairs, key=len, reverse=True)
        if f" on {_on_one_line(escape_latex(pair))}" in said
    )
    return [f" on {pair}" for pair in [*named][:1] or pairs]


def _sweeping(text: str) -> Iterator[str]:
    """Yield what is said of every step, in sentences that say it without an exception or a condition."""
    for sentence in re.split(r"(?<=[.;!?])\s", text):
        said = _SWEEPING.search(sentence)
        if said and not _HEDGED.search(sentence):
            direction = _DIRECTIONS[(said[1] or said[2]).casefold()]
            against = next(name for name, pattern in _AGAINST.items() if pattern.search(sentence))
            yield f"every step is {direction}{against}"


def _on_one_line(text: str) -> str:
    return " ".join(re.sub(r"~|\\[ ,]", " ", text).split())


# ----------------------------------------------------------------- what rows support


def supported(rows: Mapping[str, Sequence[Row]]) -> set[str]:
    """Return all that rows, given by their pair, allow a text to claim, as `claims` returns it."""
    several = len(rows) > 1
    found = set[str]()
    for pair, own in rows.items():
        where = f" on {pair}" if several else ""
        previous, base = _against_previous(own), _against_baseline(own)
        found |= {
            f"step {step} is {_SLOWER}{where}" for step, one in previous.items() if one is Claim.DEGRADES
        }
        found |= {f"step {step} is {_BELOW}{where}" for step, one in base.items() if one is Claim.DEGRADES}
        if previous and not {Claim.DEGRADES, Claim.UNKNOWN} & set(previous.values()):
            found.add(f"no step is {_SLOWER}{where}")
        if best := best_row(own):
            found |= {f"step {best.step} is {_HIGHEST}{where}", "highest"}
        for one in (*previous.values(), *base.values(), *_against_fastest(own).values()):
            found |= _ALLOWED[one]
    return found | _of_every_step(list(rows.values()))


_ALLOWED = {
    Claim.IMPROVES: {"improve", "faster", "slower"},
    Claim.DEGRADES: {"degrade", "faster", "slower"},
    Claim.NOT_SEPARABLE: {"not separable"},
    Claim.UNKNOWN: {"nothing is claimed"},
}
"""Words that a claim allows; of two rows one is faster and the other slower, whichever comes first."""


def _of_every_step(groups: Sequence[Sequence[Row]]) -> set[str]:
    found = set()
    for direction, claim in (("faster", Claim.IMPROVES), ("slower", Claim.DEGRADES)):
        for against, compare in (
            ("the step before it", _against_previous),
            ("the baseline", _against_baseline),
        ):
            if all(set(compare(rows).values()) == {claim} for rows in groups):
                found |= {f"every step is {direction} than {against}", f"every step is {direction}"}
    return found


def _against_previous(rows: Sequence[Row]) -> dict[int, Claim]:
    """Compare the rows with the nearest ones before them that have figures, by step."""
    found, previous = dict[int, Claim](), None
    for row in rows:
        if previous is not None:
            found[row.step] = claim_between(row, previous, row.versus_previous)
        previous = row if row.figures else previous
    return found


def _against_baseline(rows: Sequence[Row]) -> dict[int, Claim]:
    base = baseline_of(rows)
    return {
        row.step: claim_between(row, base, row.versus_baseline) for row in rows if base and row is not base
    }


def _against_fastest(rows: Sequence[Row]) -> dict[int, Claim]:
    by_step = {row.step: row for row in rows}
    return {
        row.step: claim_between(row, by_step[row.fastest_before], row.versus_fastest_before)
        for row in rows
        if row.fastest_before in by_step
    }
