"""What a machine has for decoding, and what to do about what it lacks."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import transformers

from dyna_eval.errors import NoFolderError, NoKernelsError, PairError
from dyna_eval.jobs import DEMO, PairSpec
from dyna_eval.notices import Finding
from dyna_eval_workers.conditions import Watch, gpu_others
from dyna_eval_workers.loading import load_pair
from dyna_eval_workers.native import kernels
from dyna_eval_workers.pairs import available_device, inspect_pair, multiplies_bfloat16
from dyna_eval_workers.selfcheck import check

_LOOK_SECONDS = 1.0
_BUSY_SHARE = 0.1
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def diagnose() -> Iterator[Finding]:
    """Yield one finding after the other; the last one takes some seconds."""
    device = available_device()
    yield Finding(
        what="libraries",
        told=f"torch {torch.__version__}, transformers {transformers.__version__}",
    )
    yield _gpu() if device == "cuda" else _processor()
    if device == "cpu":
        yield _kernels()
        yield from _pages()
    else:
        yield _gpu_kernels(_fallback_of_packaged_pair(device))
    yield _others(device)
    if device == "cuda":
        yield _others_on_gpus([torch.device("cuda", index) for index in range(torch.cuda.device_count())])
    yield _packaged_pair()


def _gpu() -> Finding:
    properties = torch.cuda.get_device_properties(0)
    memory = properties.total_memory / 2**30
    told = f"{torch.cuda.device_count()} x {properties.name}, {memory:.0f} GiB each, for one actor each"
    return Finding(what="GPU", told=told)


def _processor() -> Finding:
    multiplies = "multiplies bfloat16 natively" if multiplies_bfloat16() else "has no native bfloat16"
    return Finding(
        what="processor",
        told=f"{len(os.sched_getaffinity(0))} cores, {multiplies}; no GPU, so one actor has all cores",
    )


def _kernels() -> Finding:
    try:
        kernels()
    except NoKernelsError as reason:
        remedy = "install g++ 12 or later"
        if isinstance(reason, NoFolderError):
            remedy = "let XDG_CACHE_HOME name one that you may write"
        slower = "models run in transformers' code, several times slower"
        return Finding(what="kernels", told=str(reason), advice=f"{slower}; {remedy}")
    return Finding(what="kernels", told="built for this processor")


def _fallback_of_packaged_pair(device: str) -> str:
    pair = inspect_pair(PairSpec(name=DEMO, target=DEMO, draft=None), device=device).pair
    return load_pair(pair, torch.device(device)).decoder.target.fallback


def _gpu_kernels(fallback: str) -> Finding:
    if not fallback:
        return Finding(what="kernels", told="built for this GPU")
    return Finding(
        what="kernels",
        told=fallback,
        advice="models run in transformers' code, half as fast; install Triton and a C compiler (gcc)",
    )


def _pages() -> Iterator[Finding]:
    """Yield whether the kernels' weights lie in huge pages; nothing where the system has no such setting."""
    try:
        setting = _HUGE_PAGES.read_text()
    except OSError:
        return
    if "[never]" in setting:
        yield Finding(
            what="memory",
            told="the system gives no huge pages",
            advice=f"the kernels read weights more slowly; as root, write madvise into {_HUGE_PAGES}",
        )
    else:
        yield Finding(what="memory", told="huge pages for the kernels' weights")


def _others(device: str) -> Finding:
    watch = Watch(torch.device(device))
    time.sleep(_LOOK_SECONDS)
    share = watch.conditions().get("others_share")
    if isinstance(share, float) and share > _BUSY_SHARE:
        return Finding(
            what="load",
            told=f"other processes use {share * 100:.0f} % of the cores",
            advice="timings will be disturbed; end what else is running, or measure later",
        )
    return Finding(what="load", told="the machine is quiet" if device == "cpu" else "the cores are quiet")


def _others_on_gpus(devices: Sequence[torch.device]) -> Finding:
    """Say who else has the GPUs open, of which this process has opened the first one."""
    found = [gpu_others(device, own_is_there=not index) for index, device in enumerate(devices)]
    if found[0] is None:
        told = "not known: the driver's tool does not list this process, as in a container"
        return Finding(what="GPU load", told=told)
    used = [
        f"others have GPU {index} open ({others.processes} of them, with {others.mebibytes / 1024:.1f} GiB)"
        for index, others in enumerate(found)
        if others is not None and others.processes
    ]
    if not used:
        return Finding(what="GPU load", told="no other process has a GPU open")
    advice = "timings will be disturbed; end them, measure later, or choose GPUs by CUDA_VISIBLE_DEVICES"
    return Finding(what="GPU load", told=", ".join(used), advice=advice)


def _packaged_pair() -> Finding:
    try:
        check(PairSpec(name=DEMO, target=DEMO, draft=DEMO))
    except PairError as error:
        return Finding(what="exactness", told=str(error), advice="do not measure here", fatal=True)
    return Finding(what="exactness", told="the packaged pair decodes as its target alone does")
