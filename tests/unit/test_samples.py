"""Samples as columns are the samples, to the last bit, and as bytes too."""

from __future__ import annotations

import io
import math
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_records import sample

from dyna_eval.measurements import Exactness, SampleTotals
from dyna_eval.reports.samples import SampleTable

COUNTS = st.integers(0, 2**53)
SECONDS = st.floats(0, 1e9, allow_nan=False)
BY_TYPE = {"int": COUNTS, "float": SECONDS, "float | None": st.none() | SECONDS}

SAMPLES = st.builds(
    SampleTotals,
    **{field.name: BY_TYPE[str(field.type)] for field in fields(SampleTotals) if str(field.type) in BY_TYPE},
    exactness=st.none() | st.sampled_from(Exactness),
    accepted_by_depth=st.lists(st.integers(1, 10**6), max_size=5).map(tuple),
)


@given(st.lists(SAMPLES, max_size=6))
def test_samples_come_back_as_they_were(samples: list[SampleTotals]) -> None:
    table = SampleTable.of(samples)

    assert len(table) == len(samples)
    assert list(table) == samples
    assert [table[index] for index in range(len(samples))] == samples
    assert table == SampleTable.from_bytes(table.to_bytes()) == tuple(samples)
    assert hash(table) == hash(SampleTable.of(samples))


@given(st.lists(st.lists(SAMPLES, max_size=3), max_size=4))
def test_joined_tables_hold_all_samples_in_their_order(parts: list[list[SampleTotals]]) -> None:
    joined = SampleTable.join([SampleTable.of(part) for part in parts])

    assert list(joined) == [one for part in parts for one in part]


def test_columns_are_fields_and_what_is_unknown_is_not_a_number() -> None:
    table = SampleTable.of([sample(0, tokens=30), sample(1, tokens=60, draft_seconds=None)])

    assert table.column("tokens").tolist() == [30, 60]
    assert table.total("tokens") == 90
    assert math.isnan(table.column("draft_seconds")[1])
    assert table.accepted_by_depth.tolist() == [[10, 20], [10, 20]]


def test_samples_are_picked_by_prompt() -> None:
    table = SampleTable.of([sample(index) for index in (0, 1, 2, 1)])

    assert [one.prompt_index for one in table.on_prompts({1, 7})] == [1, 1]
    assert len(table.on_prompts(())) == 0


def test_exactness_is_counted() -> None:
    outcomes = [Exactness.EXACT, Exactness.TIE, Exactness.EXACT, None]
    table = SampleTable.of([replace(sample(), exactness=one) for one in outcomes])

    assert [table.number_of(one) for one in Exactness] == [2, 1, 0]


def test_a_table_cannot_be_changed() -> None:
    table = SampleTable.of([sample()])

    with pytest.raises(ValueError, match="read-only"):
        table.column("tokens")[0] = 1


def test_bytes_that_hold_objects_are_refused() -> None:
    """NumPy's format can carry pickles, which run code."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        SampleTable.from_bytes(buffer.getvalue())


def test_what_databases_hold_is_read_as_it_was_written() -> None:
    """Rows of a stored table have no names: where their order changes, every database has to be migrated."""
    rows = [*range(6), list(Exactness).index(Exactness.TIE), *range(7, 20), 21, 22]
    stored = io.BytesIO()
    np.save(stored, np.array(rows, dtype=np.float64).reshape(-1, 1))

    assert list(SampleTable.from_bytes(stored.getvalue())) == [
        SampleTotals(
            prompt_index=0,
            prompt_tokens=1,
            tokens=2,
            prefill_seconds=3.0,
            decode_seconds=4.0,
            ttft_seconds=5.0,
            exactness=Exactness.TIE,
            distinct_2=7.0,
            rounds=8,
            drafted_nodes=9,
            verified_nodes=10,
            drafted_levels=11,
            accepted_tokens=12,
            capped_rounds=13,
            draft_steps=14,
            draft_rows=15,
            draft_seconds=16.0,
            grow_seconds=17.0,
            verify_seconds=18.0,
            walk_seconds=19.0,
            accepted_by_depth=(21, 22),
        )
    ]
