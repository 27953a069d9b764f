"""What `--set` changes, as the record of a sweep keeps it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyna_eval.errors import SweepFileError
from dyna_eval.sweeps.overrides import apply_overrides, read_recorded, recorded, recorded_texts
from dyna_eval.yaml_source import read_yaml

TEXT = """\
# --set generation.seed=5
pair: {target: big, draft: small}
generation: {seed: 1}
configs:
  - {label: A, method: ar}
"""
NAMES = st.sampled_from(["pair.target", "generation.seed", "measure.repeats", "configs.0.label", "name"])
VALUES = st.sampled_from(["7", "", "x=y", "'a # b'", "{target: other, draft: small}", "[1, 2]"])
ASSIGNMENTS = st.lists(st.builds("{}={}".format, NAMES, VALUES))


@given(ASSIGNMENTS, st.booleans())
def test_what_was_set_is_read_from_the_record_as_it_was_applied(overrides: Sequence[str], ends: bool) -> None:
    text = TEXT if ends else TEXT.rstrip()
    applied = apply_overrides(read_yaml(text, file="sweep.yaml"), overrides)
    assert read_recorded(recorded(text, overrides), file="stored").value == applied.value


def test_what_was_set_is_recorded_whole_however_long() -> None:
    assignment = f"prompts.data_files=[{', '.join(f'file-{number}' for number in range(500))}]"
    found = read_recorded(recorded(TEXT, [assignment]), file="stored").value
    assert isinstance(found, dict)
    assert len(found["prompts"]["data_files"]) == 500


def test_a_comment_of_the_file_itself_sets_nothing() -> None:
    found = read_recorded(recorded(TEXT, ["name=x"]), file="stored").value
    assert isinstance(found, dict)
    assert (found["generation"], found["name"]) == ({"seed": 1}, "x")


def test_a_comment_that_cannot_be_applied_is_a_mistake() -> None:
    with pytest.raises(SweepFileError, match=r"--set configs\.9\.k=1: the sweep file has no place for 9"):
        read_recorded(recorded(TEXT, ["configs.9.k=1"]), file="stored")


@pytest.mark.parametrize(
    ("assignment", "key", "value"),
    [
        ("pair.target=~me/big", "target", "~me/big"),
        ("pair.0.target='~me/big'", "target", "~me/big"),
        ("pair.target = ~me/big", "target", "~me/big"),
        ("pair={target: ~me/big}", "target", "~me/big"),
        ("prompts.data_files.2=~me/p.jsonl", "data_files", "~me/p.jsonl"),
        ("prompts.data_files=[~me/p.jsonl]", "data_files", "~me/p.jsonl"),
    ],
)
def test_what_was_set_is_found_by_its_key_and_where_it_stands(assignment: str, key: str, value: str) -> None:
    source = recorded(TEXT, ["measure.repeats=2", assignment])
    found = recorded_texts(source)
    assert [written.start for written in found] == sorted(written.start for written in found)
    last = found[-1]
    assert (last.key, last.value, source[last.start : last.end].strip("'")) == (key, value, value)
    assert ("draft", "small") in [(written.key, written.value) for written in found]
