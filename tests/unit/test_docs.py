"""The documents name what there is."""

from __future__ import annotations

import re
from pathlib import Path

from report_records import record

from dyna_eval.report import build_report, to_json

DOCS = Path(__file__).parents[2] / "docs"

NOT_FIGURES = {
    "pair", "step", "label", "method", "params", "state", "baseline", "prompts", "repeats", "tokens",
    "prompt_set", "env", "mixed", "job_ids", "key", "generation", "imported", "foreign",
}  # fmt: skip


def test_every_figure_of_the_json_report_is_defined() -> None:
    rows = to_json(build_report(record()))["rows"]
    assert isinstance(rows, list)
    lines = (DOCS / "metrics.md").read_text().splitlines()
    named = set(re.findall(r"`([a-z0-9_.]+)", "\n".join(line for line in lines if line.startswith("| `"))))

    for figure in rows[0].keys() - NOT_FIGURES:
        parts = {figure} | {f"...{figure[i:]}" for i in range(len(figure)) if figure[i] == "_"}
        assert named & parts, figure
