"""Looking at models and prompts elsewhere than in this process: in one of its own, or on a Ray cluster.

torch, transformers and datasets take some 400 MB, which a controller would keep for as long as it runs.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from dyna_eval_workers.collector import collect_rarely

from dyna_eval.errors import DynaEvalError, first_line, raised_line
from dyna_eval.jobs import ResolvedSweep, SweepSpec
from dyna_eval.sweeps.expansion import resolved

_GRACE_SECONDS = 5.0
_WAIT_SECONDS = 15.0
"""How long the cluster may take to look before it is told that it may wait for a free core."""


def resolve_here(spec: SweepSpec) -> ResolvedSweep:
    """Resolve a sweep on this machine; raises PairError or PromptError as `resolve_sweep` does."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_inspect, args=(sender, spec), daemon=True)
    process.start()
    sender.close()
    try:
        found = receiver.recv()
        process.join()
    except EOFError:
        process.join()
        raise DynaEvalError(f"looking at the models ended with exit status {process.exitcode}") from None
    finally:
        _end(process)
    if isinstance(found, DynaEvalError):
        raise found
    return resolved(spec, *found)


def _end(process: BaseProcess) -> None:
    """End a process that still runs, gently at first: killed, it would leave its libraries' semaphores."""
    process.terminate()
    process.join(_GRACE_SECONDS)
    process.kill()
    process.join()


def _inspect(sender: Connection, spec: SweepSpec) -> None:
    """Send the pairs and prompts of a sweep, or what is wrong with them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits,
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # and so is a terminal that was closed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    collect_rarely()
    from dyna_eval_workers.resolution import inspect_sweep  # noqa: PLC0415 - torch is imported here alone

    try:
        sender.send(inspect_sweep(spec))
    except DynaEvalError as error:
        sender.send(error)


def resolve_on_cluster(
    spec: SweepSpec, tell: Callable[[str], None], *, gpus_per_pair: float | None = None
) -> ResolvedSweep:
    """Resolve a sweep on the cluster that this process is connected to, where its models and files are.

    That takes a core for a moment: one that no other sweep measures on. `tell` is told where it takes long.
    Unless `gpus_per_pair` says so, the sweep is one for GPUs if the cluster has any by now.

    Raises PairError or PromptError as `resolve_sweep` does, DynaEvalError where the cluster cannot look.
    """
    import ray  # noqa: PLC0415 - takes seconds, which `resolve_here` does not need

    on_gpus = bool(gpus_per_pair) or ray.cluster_resources().get("GPU", 0) > 0
    task = ray.remote(max_retries=0)(_resolve)
    try:
        answer = task.remote(spec, "cuda" if on_gpus else "cpu")
        if not ray.wait([answer], timeout=_WAIT_SECONDS)[0]:
            tell(
                "the cluster has not looked at the models yet; it waits for a free core, or still reads them"
            )
        found: ResolvedSweep = ray.get(answer)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DynaEvalError):
            raise error.cause from error
        raise DynaEvalError(f"the cluster cannot look at the models: {first_line(error.cause)}") from error
    except ray.exceptions.RayError as error:
        raise DynaEvalError(f"the cluster cannot look at the models: {raised_line(str(error))}") from error
    return found


def _resolve(spec: SweepSpec, device: str) -> ResolvedSweep:
    from dyna_eval_workers.resolution import resolve_sweep  # noqa: PLC0415 - torch stays out of controllers

    return resolve_sweep(spec, device=device)
