"""Result files in the layouts of other tools, written by the tests, and where real ones may be found."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(os.environ.get("DYNA_EVAL_SHARED", Path(__file__).parents[1].parent / "shared"))
DYNATREE = SHARED / "data" / "dynatree"

Row = dict[str, Any]


def real_file(name: str) -> Path:
    """Return a published result file of DynaTree; the test is skipped where there is none."""
    file = DYNATREE / name
    if not file.is_file():
        pytest.skip(f"{file} is not here; DYNA_EVAL_SHARED names the folder that has data/dynatree")
    return file


def write(folder: Path, name: str, document: object) -> Path:
    file = folder / name
    file.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    return file


# --------------------------------------------------------------------- DynaTree


def baseline(throughput: float = 100.0, **other: Any) -> Row:
    row = {"method": "Baseline (AR)", "config": {}, "throughput_tps": throughput, "speedup": 1.0}
    counts = {
        "total_rounds": 0,
        "total_tokens_generated": 500,
        "acceptance_rate": 0.0,
        "avg_path_length": 0.0,
    }
    return row | counts | other


def tree(depth: int, threshold: float, throughput: float, *, path: float = 4.0, **other: Any) -> Row:
    """A tree whose counts follow from its mean accepted path."""
    return {
        "method": f"Tree (D={depth}, t={threshold})",
        "config": {"tree_depth": depth, "branch_factor": 2, "probability_threshold": threshold},
        "throughput_tps": throughput,
        "total_rounds": round(500 / path),
        "total_tokens_generated": 500,
        "acceptance_rate": path / (depth + 1),
        "avg_path_length": path,
        **other,
    }


def linear(k: int, throughput: float, *, path: float = 4.0, **other: Any) -> Row:
    return {
        "method": f"Linear K={k}",
        "config": {"K": k},
        "throughput_tps": throughput,
        "total_rounds": round(500 / path),
        "total_tokens_generated": 500,
        "acceptance_rate": path / k,
        "tokens_per_round": path,
        **other,
    }


def dynatree(rows: Sequence[Row], *, key: str = "benchmark_info", dataset: str = "A", **info: Any) -> Row:
    """A file of the first layout: `benchmark_info` or `experiment_info` with `results`."""
    models = {"target_model": "/models/big", "draft_model": "/models/small"}
    head = {"dataset": dataset, "num_samples": 10, "max_new_tokens": 500}
    return {key: models | head | info, "results": list(rows), "timestamp": "2026-01-01T00:00:00"}


FOUR_STEPS = [
    baseline(100.0),
    linear(6, 150.0, path=4.25),
    tree(7, 0.0, 50.0, path=5.125),
    tree(7, 0.05, 160.0, path=4.875),
]


def second_layout() -> Row:
    """`experiment_info` with `all_results`: rows with an experiment and standard deviations."""
    rows = [
        baseline(100.0, experiment="main", config={"max_new_tokens": 1500}, throughput_std=1.5),
        linear(8, 150.0, path=6.0, experiment="main", throughput_std=20.0),
        {
            "method": "Phase 3: + History Adjust",
            "experiment": "main",
            "config": {"phase": 3, "max_new_tokens": 1500, "base_depth": 5, "max_depth": 8},
            "throughput_tps": 170.0,
            "throughput_std": 22.0,
            "acceptance_rate": 1.02,
        },
    ]
    return {"experiment_info": {"study": "main", "dataset": "A"}, "all_results": rows}


def third_layout() -> Row:
    """`config_definitions` with rows of a category, a name and parameters."""
    rows = [
        {
            "category": "baseline",
            "config_name": "Baseline (AR)",
            "config_params": {"max_new_tokens": 1500},
            "throughput_tps": 110.0,
            "acceptance_rate": 0.0,
            "total_rounds": 1500,
            "tokens_per_round": 1.0,
        },
        {
            "category": "depth",
            "config_name": "depth_5_8",
            "config_params": {"base_depth": 5, "max_depth": 8, "min_branch": 1, "max_branch": 3},
            "throughput_tps": 220.0,
            "acceptance_rate": 1.038,
            "total_rounds": 208,
            "tokens_per_round": 7.2115,
        },
    ]
    return {"experiment_info": {"num_samples": 10}, "config_definitions": {}, "all_results": rows}


# ------------------------------------------------------------------- Spec-Bench


def answer(
    question: int,
    *,
    model: str = "eagle",
    category: str = "qa",
    tokens: Sequence[int] = (100,),
    seconds: Sequence[float] = (1.0,),
    lengths: Sequence[int] = (2, 3),
    turns: Sequence[str] | None = None,
) -> Row:
    return {
        "question_id": question,
        "category": category,
        "answer_id": f"a{question}",
        "model_id": model,
        "choices": [
            {
                "index": 0,
                "turns": list(turns or ["text"] * len(tokens)),
                "decoding_steps": [len(lengths)] * len(tokens),
                "new_tokens": list(tokens),
                "wall_time": list(seconds),
                "accept_lengths": list(lengths),
            }
        ],
        "tstamp": 1.0,
    }


def write_answers(folder: Path, name: str, answers: Sequence[Row]) -> Path:
    file = folder / name
    file.write_text("".join(json.dumps(one) + "\n" for one in answers), encoding="utf-8")
    return file


def vanilla(questions: int = 8) -> list[Row]:
    """Answers of the target alone: every accepted length is 1. Questions differ in speed."""
    return [
        answer(n, model="vanilla", tokens=[100], seconds=[1.0 + n / 100], lengths=[1] * 100)
        for n in range(questions)
    ]


def faster(questions: int = 8, model: str = "eagle") -> list[Row]:
    """Answers at exactly twice vanilla's speed, question by question."""
    return [
        answer(n, model=model, tokens=[100], seconds=[(1.0 + n / 100) / 2], lengths=[4] * 25)
        for n in range(questions)
    ]
