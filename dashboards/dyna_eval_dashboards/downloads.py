"""What can be downloaded: reports, comparisons and drawings as files, by the ending of their address."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from starlette.responses import Response

from dyna_eval import latex, plots
from dyna_eval.reports.cells import slug
from dyna_eval.reports.report import Report
from dyna_eval.reports.sweep_comparison import SweepComparison
from dyna_eval.tables import comparison as comparison_tables
from dyna_eval.tables import report as tables
from dyna_eval.tables.report_json import to_json


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


REPORTS: Mapping[str, Callable[[Report], str]] = {
    "csv": tables.to_csv,
    "json": lambda report: _json(to_json(report)),
    "tex": latex.to_latex,
    "md": tables.to_markdown,
}
COMPARISONS: Mapping[str, Callable[[SweepComparison], str]] = {
    "csv": comparison_tables.comparison_csv,
    "json": lambda comparison: _json(comparison_tables.comparison_json(comparison, None)),
    "md": comparison_tables.comparison_markdown,
}
WITH_PREFILL = ("csv", "json")
"""Those of REPORTS that read what a report computes only when it is asked for: speedups with the prefill."""
DRAWINGS = ("pdf", "png")
_STEM_CHARACTERS = 80
_KINDS = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "tex": "application/x-tex; charset=utf-8",
    "md": "text/markdown; charset=utf-8",
    "pdf": "application/pdf",
    "png": "image/png",
}


def report_file(report: Report, ending: str) -> Response:
    """Return a report as one of REPORTS."""
    return _attached(REPORTS[ending](report).encode(), f"{_stem(report)}.{ending}")


def comparison_file(comparison: SweepComparison, ending: str) -> Response:
    """Return a comparison as one of COMPARISONS."""
    a, b = comparison.a.report.sweep_id, comparison.b.report.sweep_id
    return _attached(COMPARISONS[ending](comparison).encode(), f"sweeps-{a}-and-{b}.{ending}")


def drawing_file(report: Report, pair: str, ending: str) -> Response:
    """Return the bars of one pair's ablation as one of DRAWINGS."""
    with tempfile.TemporaryDirectory(prefix="dyna-eval-") as folder:
        written = plots.ablation_bars(replace(report, pairs=(pair,)), Path(folder))
        content = next(path for path in written if path.suffix == f".{ending}").read_bytes()
    return _attached(content, f"{_stem(report)}-ablation.{ending}")


def _stem(report: Report) -> str:
    return slug(report.name)[:_STEM_CHARACTERS] or f"sweep-{report.sweep_id}"


def _attached(content: bytes, name: str) -> Response:
    disposition = f"attachment; filename*=UTF-8''{quote(name)}"
    kind = _KINDS[name.rpartition(".")[2]]
    return Response(content, media_type=kind, headers={"content-disposition": disposition})
