#!/usr/bin/env python3
"""What decoding holds in memory on a CPU, and whether long texts slow it down.

    python benchmarks/memory.py --out benchmarks/memory-cpu.json

Loads the target of the large demo pair, lets the kernels take its weights layer by layer, and decodes 2,000
tokens. What the process holds beyond what it held before is set against the model as transformers loaded it,
at most while the kernels take it, and against the weights as stored and the cache, at most while it decodes.
The time of a pass is measured at several lengths of text; nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from dyna_eval_workers.enlarged import enlarge
from dyna_eval_workers.environment import capture_environment, peak_memory_bytes, reset_peak_memory
from dyna_eval_workers.memory import free_unreachable
from dyna_eval_workers.model_files import demo_folder
from dyna_eval_workers.native.runner import NativeRunner
from dyna_eval_workers.pairs import inspect_pair
from dyna_eval_workers.runner import COMMITTED
from transformers import GPTNeoXForCausalLM

from dyna_eval.jobs import PairSpec

CPU = torch.device("cpu")
TOKENS = 2_000
LENGTHS = (100, 500, 1_000, 1_500, 2_000)
PASSES = 15


def large_target(dtype: str) -> GPTNeoXForCausalLM:
    """Return the target of the large demo pair, 116 M parameters."""
    model = GPTNeoXForCausalLM.from_pretrained(demo_folder() / "target", dtype=getattr(torch, dtype))
    return enlarge(model, width=2, layers=24).eval()


def resident_bytes() -> int:
    """Return what this process holds once it gave back what it freed."""
    free_unreachable()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def weight_bytes(model: Any, dtype_bytes: int) -> int:
    """Return the bytes of all parameters at the width that the checkpoint stores; tied ones count once."""
    weights: int = sum(parameter.numel() for parameter in model.parameters())
    return weights * dtype_bytes


def cache_bytes(config: Any, tokens: int, dtype_bytes: int) -> int:
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = config.hidden_size // config.num_attention_heads * heads
    return int(2 * config.num_hidden_layers * width * tokens * dtype_bytes)


def decode(runner: NativeRunner, tokens: int) -> None:
    """Let one token after the other go through the model; which ones does not matter here."""
    for index in range(tokens):
        runner.extend([index % 1000 + 5], [COMMITTED])
        runner.keep([0])


def pass_seconds(runner: NativeRunner, length: int) -> float:
    """Return the median time of a pass behind so many committed tokens."""
    decode(runner, length - runner.length)
    seconds = []
    for _ in range(PASSES):
        began = time.perf_counter()
        runner.extend([7], [COMMITTED])
        seconds.append(time.perf_counter() - began)
        runner.keep([])
    return median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    dtype = inspect_pair(
        PairSpec(name="demo-large", target="demo-large", draft=None), device="cpu"
    ).pair.dtype
    warm = NativeRunner(large_target(dtype))  # loads what every process loads once
    warm.reserve(8)
    decode(warm, 4)
    del warm
    before = resident_bytes()

    model = large_target(dtype)
    bytes_each = 2 if dtype != "float32" else 4
    weights, cache = weight_bytes(model, 2), cache_bytes(model.config, TOKENS + 64, bytes_each)
    loaded = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    reset_peak_memory(CPU)
    runner = NativeRunner(model, takes_model=True)
    peak_taking = (peak_memory_bytes(CPU) or 0) - before
    del model
    runner.reserve(TOKENS + 64)
    decode(runner, 1)
    held = resident_bytes() - before
    reset_peak_memory(CPU)
    seconds = {str(length): pass_seconds(runner, length) for length in LENGTHS}
    peak = (peak_memory_bytes(CPU) or 0) - before

    measured = {
        "command": "python benchmarks/memory.py --out benchmarks/memory-cpu.json",
        "date": datetime.now(UTC).date().isoformat(),
        "environment": dict(capture_environment(CPU, runner.backend).facts),
        "dtype": dtype,
        "weight_bytes_as_stored": weights,
        "cache_bytes": cache,
        "peak_bytes_while_taking_the_model": peak_taking,
        "peak_over_the_loaded_model": round(peak_taking / loaded, 3),
        "held_bytes": held,
        "peak_bytes_while_decoding": peak,
        "peak_over_weights_and_cache": round(peak / (weights + cache), 3),
        "pass_milliseconds_by_text_length": {n: round(s * 1e3, 3) for n, s in seconds.items()},
    }
    arguments.out.write_text(json.dumps(measured, indent=2) + "\n")
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
