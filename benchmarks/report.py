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
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from dyna_eval_db.store import Store
from made_up import fill, made_up_sweep

from dyna_eval import __version__


def timed_report(database: str, runs: int) -> dict[str, object]:
    """Run the command several times and return its wall seconds and the most memory that it took."""
    program = str(Path(sys.executable).with_name("dyna-eval"))
    command = [program, "report", "large", "--json", "--db", database]
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
