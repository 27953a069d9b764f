"""Whatever a file holds, importing it ends in a whole file or in one line, never in a traceback."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_records import record

from dyna_eval.errors import ImportFileError
from dyna_eval.importers import import_file
from dyna_eval.latex.macros import to_macros
from dyna_eval.latex.prose import to_prose
from dyna_eval.latex.table import to_latex
from dyna_eval.reports.imported import ImportedSweep
from dyna_eval.reports.imported_report import findings, imported_report
from dyna_eval.reports.measured_report import build_report
from dyna_eval.tables.report import to_csv
from dyna_eval.tables.report_json import to_json
from tests.result_files import FOUR_STEPS, dynatree, faster, second_layout, third_layout, vanilla

SCALARS: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
)
JSON = st.recursive(
    SCALARS,
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4)
    ),
    max_leaves=20,
)
VALID: dict[str, str] = {
    "first layout": json.dumps(dynatree(FOUR_STEPS)),
    "second layout": json.dumps(second_layout()),
    "third layout": json.dumps(third_layout()),
    "answers": "\n".join(map(json.dumps, faster(3))),
    "baseline answers": "\n".join(map(json.dumps, vanilla(3))),
    "own": json.dumps(to_json(build_report(record()))),
    "table": 'label,method,tokens_per_s,speedup,source\na,ar,40,1,here\nb,"c, d",80,2,\ne,,,3,\n',
}
"""One valid file of each kind, as text."""

fuzzed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def outcome(folder: Path, content: bytes) -> ImportedSweep | None:
    """Import a file; one that is accepted must also print, since nobody looks at it in between."""
    file = folder / "fuzzed"
    file.write_bytes(content)
    try:
        imported = import_file(file)
    except ImportFileError as error:
        message = str(error)
        assert message
        assert message.isprintable()
        assert len(message) < 1000
        return None
    sweep = ImportedSweep(id=1, name="fuzzed", created_at="2026-01-02T03:04:05Z", files=(imported,))
    report = imported_report(sweep, [sweep], allow_mixed=True)
    json.dumps(to_json(report), allow_nan=False)
    for form in (to_csv, to_latex, to_prose, to_macros):
        form(report)
    findings(sweep, [sweep])
    return sweep


@pytest.mark.parametrize("name", VALID)
def test_the_files_that_are_mutated_here_are_valid(tmp_path: Path, name: str) -> None:
    assert outcome(tmp_path, VALID[name].encode()) is not None


@fuzzed
@given(content=st.binary(max_size=200))
def test_random_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    assert outcome(tmp_path, content) is None


@fuzzed
@given(document=JSON)
def test_random_json_is_refused(tmp_path: Path, document: Any) -> None:
    assert outcome(tmp_path, json.dumps(document).encode()) is None


@fuzzed
@given(rows=st.lists(JSON, max_size=3), info=JSON, key=st.sampled_from(["results", "all_results", "rows"]))
def test_random_values_under_known_keys_are_refused(tmp_path: Path, rows: Any, info: Any, key: str) -> None:
    document = {"benchmark_info": info, "sweep": info, "question_id": 1, "choices": rows, key: rows}
    assert outcome(tmp_path, json.dumps(document).encode()) is None


@fuzzed
@given(name=st.sampled_from(sorted(VALID)), share=st.floats(min_value=0.0, max_value=0.999))
def test_a_file_that_was_cut_off_is_refused_or_has_whole_rows(
    tmp_path: Path, name: str, share: float
) -> None:
    """Only whole lines of an answer file or a table may be missing: who would know that there were more?"""
    text = VALID[name]
    cut = text[: int(len(text) * share)]
    sweep = outcome(tmp_path, cut.encode())
    lines = cut.rstrip("\n").split("\n")
    assert sweep is None or (
        sweep.files[0].source.format in ("spec-bench", "table") and lines[-1] in text.split("\n")
    )


@fuzzed
@given(name=st.sampled_from(sorted(VALID)), place=st.integers(min_value=0), byte=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(tmp_path: Path, name: str, place: int, byte: int) -> None:
    content = bytearray(VALID[name].encode())
    content[place % len(content)] = byte
    outcome(tmp_path, bytes(content))


@fuzzed
@given(cells=st.lists(st.lists(st.text(max_size=6), min_size=3, max_size=5), max_size=3))
def test_random_cells_are_read_or_refused(tmp_path: Path, cells: list[list[str]]) -> None:
    lines = [",".join(line) for line in (["label", "tokens_per_s", "source"], *cells)]
    outcome(tmp_path, "\n".join([*lines, ""]).encode(errors="replace"))


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, item in items for path in paths(item, (*at, key)))]


@fuzzed
@given(data=st.data(), name=st.sampled_from(sorted({*VALID} - {"table"})), value=JSON)
def test_a_changed_value_is_read_or_refused(tmp_path: Path, data: Any, name: str, value: Any) -> None:
    documents = [json.loads(line) for line in VALID[name].split("\n")]
    path = data.draw(st.sampled_from(paths(documents)[1:]))
    changed = copy.deepcopy(documents)
    *way, last = path
    owner: Any = changed
    for key in way:
        owner = owner[key]
    if data.draw(st.booleans()):
        owner[last] = value
    else:
        del owner[last]
    outcome(tmp_path, "\n".join(map(json.dumps, changed)).encode())
