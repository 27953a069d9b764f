#!/usr/bin/env python3
"""What other busy processes on the same cores do to a pass of the CPU kernels.

    python benchmarks/contention.py --out benchmarks/contention-cpu.json

Times passes of the demo pair's target on one thread and on as many as there are cores, beside none to three
processes that only loop, at the priority of any process (niceness 0) and at that which Ray gives workers by
itself (15). Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from dyna_eval_workers.environment import capture_environment
from dyna_eval_workers.model_files import demo_folder
from dyna_eval_workers.native.runner import NativeRunner
from dyna_eval_workers.runner import COMMITTED
from transformers import GPTNeoXForCausalLM

NICENESS = (0, 15)
BUSY = (0, 1, 2, 3)
TOKENS = (1, 32)
CONTEXT = 200
SECONDS = 2.0


def loop_for_ever() -> None:
    while True:
        pass


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep so many processes busy for the time of a block, at the priority of any process."""
    looping = [multiprocessing.Process(target=loop_for_ever, daemon=True) for _ in range(processes)]
    for process in looping:
        process.start()
    try:
        yield
    finally:
        for process in looping:
            process.kill()
            process.join()


def pass_seconds(runner: NativeRunner, tokens: int) -> float:
    """Return the mean time of a pass over a chain of tokens behind the context, over some seconds."""
    chain = [COMMITTED, *range(tokens - 1)]
    began, passes = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        runner.extend(list(range(5, 5 + tokens)), chain)
        runner.keep([])
        passes += 1
    return (time.perf_counter() - began) / passes


def measure(niceness: int, answers: Any) -> None:
    """Time all passes in this process, and put a row for each into a queue."""
    os.nice(niceness)
    model = GPTNeoXForCausalLM.from_pretrained(demo_folder() / "target", dtype=torch.float32).eval()
    for threads in sorted({1, torch.get_num_threads()}):
        runner = NativeRunner(model, threads=threads)
        runner.reserve(CONTEXT + max(TOKENS))
        runner.prefill(list(range(5, 5 + CONTEXT)))
        for tokens in TOKENS:
            answers.put(
                {"threads": threads, "tokens": tokens, "milliseconds": pass_seconds(runner, tokens) * 1e3}
            )
    answers.put(None)


def rows(niceness: int, processes: int) -> Iterator[dict[str, Any]]:
    """Measure in a process of its own, whose threads are no heirs of ours."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    child = context.Process(target=measure, args=(niceness, answers))
    with busy(processes):
        child.start()
        while (row := answers.get(timeout=300)) is not None:
            yield {"niceness": niceness, "busy": processes} | row
    child.join()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    settings = parser.parse_args()
    found = []
    for niceness in NICENESS:
        for processes in BUSY:
            for row in rows(niceness, processes):
                found.append(row)
                print("  ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
    if settings.out:
        facts = capture_environment(torch.device("cpu"), NativeRunner.backend).facts
        told = {"date": datetime.now(UTC).date().isoformat(), "environment": dict(facts), "rows": found}
        settings.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
