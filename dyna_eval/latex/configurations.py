"""Does a paper's cell still tell its row's configuration? Settings count; their order and wording do not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from dyna_eval.jobs import Method
from dyna_eval.latex.paper import numbers, plain, ungrouped
from dyna_eval.reports.cells import method_name

_NUMBER = r"-?\d+(?:\.\d+)?(?!\.?\w|/)"
_SETTING = re.compile(rf"([^\W\d]\w*)\s*[=≤:]\s*({_NUMBER}|[^\s,;()]+)|\d[^,;]*")
"""A symbol and its value, or numbers without a symbol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """Numbers that stand without a symbol have an empty one."""

    symbol: str
    value: str


def contradicts(paper: str, own: str, others: Sequence[str]) -> bool:
    """Whether a cell tells other settings than its row has, or words that belong to another row or method.

    All are LaTeX, `others` the cells of the other rows. What stands under a symbol that no row has is taken
    for a setting of this row, renamed: its numbers must be those that are left of the row's, in their order.
    """
    if plain(paper) == plain(own):
        return False
    foreign = {word for other in others for word in _words(other)}
    foreign |= {_word(method_name(method)) for method in Method}
    elsewhere = {_word(plain(other)) for other in others} - {_word(plain(own))}
    if _words(paper) & foreign - _words(own) or _word(plain(paper)) in elsewhere:
        return True
    symbols = {setting.symbol for row in (own, *others) for setting in _settings(row)} - {""}
    left, renamed = Counter(_settings(own)), list[_Setting]()
    for setting in _settings(paper):
        if setting.symbol not in symbols:
            renamed.append(setting)
        elif left[setting]:
            left[setting] -= 1
        else:
            return True
    remaining = list[_Setting]()
    for setting in reversed(_settings(own)):
        if left[setting]:
            left[setting] -= 1
            remaining.insert(0, setting)
    return _numbers_of(renamed) != _numbers_of(remaining)


def _settings(latex: str) -> list[_Setting]:
    found = _SETTING.finditer(plain(ungrouped(latex)))
    return [_Setting(symbol=one[1] or "", value=_value(one[2] or one[0])) for one in found]


def _value(text: str) -> str:
    if re.fullmatch(_NUMBER, text):
        return f"{Decimal(text).normalize():f}"
    return text.rstrip(".").casefold()


def _numbers_of(settings: Sequence[_Setting]) -> list[Decimal]:
    return [number for setting in settings for number in numbers(setting.value)]


def _words(latex: str) -> set[str]:
    """Return what stands between commas and is no setting."""
    return {_word(part) for part in re.split("[,;]", _SETTING.sub(" ", plain(ungrouped(latex))))} - {""}


def _word(text: str) -> str:
    """Return a text without its capitals, and without the hyphens or the like that join its words."""
    return " ".join(re.split(r"[\s_-]+", text.casefold())).strip()
