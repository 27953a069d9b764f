"""Texts of several columns: what stands between braces is a column's name, and nothing else."""

from __future__ import annotations

import re

import pytest

from dyna_eval.sweeps.templates import columns_of, filled


@pytest.mark.parametrize(
    ("template", "columns", "text"),
    [
        ("Question: {question}\nAnswer:", ("question",), "Question: Why?\nAnswer:"),
        ("{context}: {question} {context}", ("context", "question"), "{0}: Why? {0}"),
        ("{{{question}}} {{question}}", ("question",), "{Why?} {question}"),
        ("{a b.c[0]!r:>9}", ("a b.c[0]!r:>9",), "named so"),
    ],
    ids=["one", "two, one of them twice", "braces", "no attribute, index or format"],
)
def test_a_template_is_its_text_with_the_values_of_its_columns(
    template: str, columns: tuple[str, ...], text: str
) -> None:
    values = {"question": "Why?", "context": "{0}", "a b.c[0]!r:>9": "named so"}
    assert columns_of(template) == columns
    assert filled(template, values) == text


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("no column", "should name a column, as {question}; '{{' and '}}' are braces themselves"),
        ("{{question}}", "should name a column, as {question}; '{{' and '}}' are braces themselves"),
        ("{question", "has a '{' alone; write {column}, or '{{' for a brace"),
        ("{question}}", "has a '}' alone; write {column}, or '}}' for a brace"),
        ("{a{b}", "has a '{' alone; write {column}, or '{{' for a brace"),
        ("{}", "has '{}' without a name; write the column's between the braces"),
        ("{question} { }", "has '{}' without a name; write the column's between the braces"),
    ],
)
def test_what_is_no_template_is_told(template: str, says: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        columns_of(template)
