#!/usr/bin/env python3
"""How long `dyna-eval report` takes over a large sweep, and how much memory.

    python benchmarks/report.py --out benchmarks/report-cpu.json

Fills a new SQLite file with a made-up sweep through the store's own methods, then runs the command on it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from dyna_eval_db.store import Store
from made_up import TOKENS, made_up_result, made_up_samples

from dyna_eval import __version__
from dyna_eval.jobs import (
    Configuration,
    GenerationSpec,
    MeasureSpec,
    Method,
    Pair,
    PairSpec,
    Prompt,
    PromptSet,
    PromptSpec,
    ResolvedSweep,
    Sentinel,
    SweepSpec,
    digest,
    prompt_digest,
)
from dyna_eval.sweep import jobs_for, sweep_digest


def made_up_sweep(configurations: int, repeats: int, prompts: int) -> ResolvedSweep:
    """A sweep of linear speculation with every k from 1 on, behind the baseline."""
    rows = [Configuration(label="Baseline", method=Method.AR, params={})]
    rows += [
        Configuration(label=f"K={k}", method=Method.LINEAR, params={"k": k}) for k in range(1, configurations)
    ]
    spec = SweepSpec(
        name="large",
        pairs=(PairSpec(name="made-up", target="target", draft="draft"),),
        prompts=PromptSpec(dataset="made-up"),
        generation=GenerationSpec(max_new_tokens=TOKENS),
        measure=MeasureSpec(repeats=repeats),
        baseline="Baseline",
        configurations=tuple(rows),
    )
    pair = Pair(
        spec=spec.pairs[0],
        dtype="float32",
        target_digest=digest("target"),
        draft_digest=digest("draft"),
        tokenizer_digest=digest("tokenizer"),
    )
    found = tuple(
        Prompt(index=i, text=f"{i}", token_ids=(i,), digest=prompt_digest(f"{i}", (i,)))
        for i in range(prompts)
    )
    prompt_set = PromptSet(digest=digest([prompt.digest for prompt in found]), prompts=found)
    jobs = jobs_for(spec, (pair,), {pair.spec.name: prompt_set.digest})
    return ResolvedSweep(
        spec=spec,
        digest=sweep_digest(spec, jobs),
        pairs=(pair,),
        prompt_sets={pair.spec.name: prompt_set},
        jobs=jobs,
    )


def fill(store: Store, sweep: ResolvedSweep) -> int:
    """Land a result of every job, and return the number of samples."""
    generator, samples = random.Random(1), 0
    [prompts] = sweep.prompt_sets.values()
    sweep_id = store.add_sweep(sweep)
    own = Sentinel(actor="actor", sequence=0, samples=made_up_samples(prompts, 100.0, generator))
    while claim := store.claim(sweep_id, pair="made-up", actor="actor", lease_seconds=600):
        result = made_up_result(claim.job, prompts, generator)
        store.land(claim, replace(result, sentinels=() if samples else (own,)))
        samples += len(result.samples)
    return samples


def timed_report(database: str, runs: int) -> dict[str, object]:
    """Run the command several times and return its wall seconds and the most memory that it took."""
    command = [Path(sys.executable).with_name("dyna-eval"), "report", "large", "--json", "--db", database]
    seconds, peak, rows = [], 0, 0
    for _ in range(runs):
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603 - our own command
        assert process.stdout is not None  # noqa: S101 - it was asked for
        rows = len(json.loads(process.stdout.read())["rows"])
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit("the report failed")
        seconds.append(round(time.perf_counter() - began, 2))
        peak = max(peak, usage.ru_maxrss * 1024)
    return {"seconds": seconds, "peak_resident_bytes": peak, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configurations", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        database = f"sqlite:///{folder}/large.db"
        began = time.perf_counter()
        with Store.open(database, create=True) as store:
            sweep = made_up_sweep(arguments.configurations, arguments.repeats, arguments.prompts)
            samples = fill(store, sweep)
        filled = time.perf_counter() - began
        measured = {
            "command": "python benchmarks/report.py --out benchmarks/report-cpu.json",
            "date": datetime.now(UTC).date().isoformat(),
            "dyna_eval": __version__,
            "python": platform.python_version(),
            "cores": len(os.sched_getaffinity(0)),
            "samples": samples,
            "jobs": len(sweep.jobs),
            "database_bytes": Path(folder, "large.db").stat().st_size,
            "seconds_to_land": round(filled, 1),
            "report": timed_report(database, arguments.runs),
        }
    arguments.out.write_text(json.dumps(measured, indent=2) + "\n")
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
