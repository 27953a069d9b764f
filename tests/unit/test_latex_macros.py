"""Macros: names that LaTeX takes, that do not meet, and that stay when rows move."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_records import BASELINE, LINEAR, PRUNED, TREE, record

from dyna_eval.latex.macros import FIGURES, letters, macros, to_macros
from dyna_eval.reports.measured_report import build_report


def values(stored_name: str = "four-step") -> dict[str, str]:
    return {macro.name: macro.value for macro in macros(build_report(record(name=stored_name)))}


def test_every_cell_has_a_macro_with_the_digits_of_the_table() -> None:
    found = values()
    assert len(found) == 1 + 4 * len(FIGURES)
    assert found["fourStepDigest"] == "d" * 64
    assert re.fullmatch(r"\d+\.\d", found["fourStepBaselineThroughput"])
    assert re.fullmatch(r"-6\d\.\d", found["fourStepTreeStructureGainOverPrevious"])
    assert found["fourStepTreeStructureNodesInTheory"] == "254"
    assert found["fourStepBaselineNodes"] == "--"
    assert found["fourStepBaselineAcceptanceRate"] == "--"
    assert found["fourStepTreeStructureAcceptanceRate"] == "50.0"
    assert found["fourStepBaselinePrefill"] == "20.0"
    assert found["fourStepBaselineTimeToFirstToken"] == "30.0"
    assert re.fullmatch(r"\d+\.\d", found["fourStepBaselineEndToEnd"])
    assert found["fourStepBaselineSpeedupPrefillIncluded"] == "1.00"
    assert found["fourStepAdaptivePruningExactMatch"] == "100"


def test_the_digest_is_a_comment_and_a_macro() -> None:
    latex = to_macros(build_report(record()))
    assert f"% digest {'d' * 64}\n" in latex
    assert rf"\newcommand{{\fourStepDigest}}{{{'d' * 64}}}" in latex


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("K=6, τ 0.05", "KSixZeroZeroFive"),
        ("Größe", "Groe"),
        ("実験", ""),
        ("a_b", "AB"),
        ("+ Draft", "Draft"),
    ],
)
def test_names_are_letters_with_digits_spelled(text: str, name: str) -> None:
    assert letters(text) == name


def test_a_name_that_begins_with_end_is_changed_since_latex_refuses_it() -> None:
    assert "sweepEnduranceDigest" in values("endurance")
    assert "sweepOneDigest" in values("実験")


LABELS = st.text(st.sampled_from("aA b-_1é実"), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(LABELS, min_size=4, max_size=4, unique=True),
    st.lists(LABELS, min_size=2, max_size=2, unique=True),
)
def test_names_never_meet_and_do_not_depend_on_the_order_of_rows(labels: list[str], pairs: list[str]) -> None:
    rows = [
        (replace(row, label=label), 100.0)
        for row, label in zip((BASELINE, LINEAR, TREE, PRUNED), labels, strict=True)
    ]
    one, other = (
        [
            (macro.name, macro.row and (macro.row.pair, macro.row.label))
            for macro in macros(build_report(stored))
        ]
        for stored in (
            record(tuple(rows), pairs=pairs, prompts=1, repeats=1),
            record(tuple(rows[::-1]), pairs=pairs, prompts=1, repeats=1),
        )
    )
    names = [name for name, _ in one]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[A-Za-z]+", name) for name in names)
    assert set(one) == set(other)
