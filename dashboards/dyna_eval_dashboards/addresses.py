"""Where pages are: at addresses of the dashboard, or as parts of a file, which have these as their names.

The pages of jobs, prompts and draft trees are of the same templates in both.
"""

from __future__ import annotations

from dataclasses import dataclass

TABLE = "table"
"""What the part of a file is named that stands for the pages of its sweeps."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """What pages link to; None where a file lacks it."""

    held: frozenset[str] | None = None
    """The pages that a file holds, by their addresses; None for the dashboard, which has all."""

    def sweeps(self) -> str | None:
        return self._of("/")

    def sweep(self, sweep_id: int) -> str | None:
        return self._of(f"/sweeps/{sweep_id}") if self.held is None else f"#{TABLE}"

    def jobs(self, sweep_id: int) -> str | None:
        return self._of(f"/sweeps/{sweep_id}/jobs")

    def job(self, job_id: int) -> str | None:
        return self._of(job_page(job_id))

    def sample(self, job_id: int, prompt_index: int) -> str | None:
        return self._of(sample_page(job_id, prompt_index))

    def tree(self, job_id: int, prompt_index: int, number: int) -> str | None:
        return self._of(tree_page(job_id, prompt_index, number))

    def _of(self, page: str) -> str | None:
        if self.held is None:
            return page
        return f"#{page}" if page in self.held else None


def job_page(job_id: int) -> str:
    return f"/jobs/{job_id}"


def sample_page(job_id: int, prompt_index: int) -> str:
    return f"{job_page(job_id)}/prompts/{prompt_index}"


def tree_page(job_id: int, prompt_index: int, number: int) -> str:
    return f"{sample_page(job_id, prompt_index)}/trees/{number}"
