"""The Ray actor: one process that holds one loaded pair and runs one job at a time.

Controllers import this module to start actors; torch and the models are imported in an actor's process alone.
"""

from __future__ import annotations

import os

import ray

from dyna_eval.errors import DynaEvalError, ForeignError
from dyna_eval.jobs import Job, PromptSet
from dyna_eval.measurements import Environment, JobResult
from dyna_eval.monitoring import ActorExport
from dyna_eval_workers import collector


@ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups={"heartbeat": 1})
class DecodingActor:
    """Runs jobs for the controller. It has no database credentials and no state that outlives it."""

    def __init__(self, *, name: str, threads: int, gpus: float = 0) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        collector.collect_rarely()
        import torch  # noqa: PLC0415 - here alone, as the module says

        from dyna_eval_workers.memory import memory_told  # noqa: PLC0415
        from dyna_eval_workers.pairs import available_device  # noqa: PLC0415
        from dyna_eval_workers.session import DecodingSession  # noqa: PLC0415

        torch.set_num_threads(threads)
        node = ray.get_runtime_context().get_node_id()
        device = torch.device(available_device())
        self._session = DecodingSession(actor=name, node=node, device=device, gpus=gpus)
        self._memory_told = memory_told
        self._export = ActorExport()

    def run(self, job: Job, prompts: PromptSet) -> JobResult:
        """Run a job as `DecodingSession.run` does.

        Raises what dyna-eval raises itself and MemoryError, and ForeignError for whatever else a library or
        another package raises: the controller may not be able to rebuild that.
        """
        try:
            with self._memory_told():
                result = self._session.run(job, prompts)
        except Exception as error:
            if isinstance(error, MemoryError) or type(error).__module__ == DynaEvalError.__module__:
                raise
            raise ForeignError.of(error) from error
        self._export.finished(job, result, load_seconds=self._session.load_seconds)
        return result

    @ray.method(concurrency_group="heartbeat")  # type: ignore[untyped-decorator]
    def heartbeat(self) -> Environment | None:
        """Answer with `DecodingSession.environment`, also while the other thread decodes: the process is
        neither stopped nor gone."""
        return self._session.environment
