"""Looking at models and prompts in a process of its own, whose libraries end with it.

torch, transformers and datasets take some 400 MB, which a controller would keep for as long as it runs.
"""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing.connection import Connection

from dyna_eval.errors import DynaEvalError
from dyna_eval.jobs import ResolvedSweep, SweepSpec
from dyna_eval.sweep import resolved


def resolve_apart(spec: SweepSpec) -> ResolvedSweep:
    """Resolve a sweep on this machine; raises PairError or PromptError as `resolve_sweep` does."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_inspect, args=(sender, spec), daemon=True)
    process.start()
    sender.close()
    try:
        found = receiver.recv()
    except EOFError:
        process.join()
        raise DynaEvalError(f"looking at the models ended with exit status {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
    if isinstance(found, DynaEvalError):
        raise found
    return resolved(spec, *found)


def _inspect(sender: Connection, spec: SweepSpec) -> None:
    """Send the pairs and prompts of a sweep, or what is wrong with them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits
    from dyna_eval_workers.resolution import inspect_sweep  # noqa: PLC0415 - torch is imported here alone

    try:
        sender.send(inspect_sweep(spec))
    except DynaEvalError as error:
        sender.send(error)
