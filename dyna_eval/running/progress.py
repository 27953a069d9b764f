"""Live progress of a running sweep on stderr: a bar on a terminal, one line per landed job elsewhere."""

from __future__ import annotations

import contextlib
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dyna_eval.notices import Happening, Notice, Standstill
from dyna_eval.wording import count, one_line


class _Console(Console):
    """stderr, which may be closed while a sweep goes on: rich would end the process."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class ProgressDisplay:
    """A watcher for the controller; use it as a context manager and call it with every notice.

    A sweep does not end because nobody can be told of it: what cannot be written is left out. Of
    `several_pairs` each line names its own.
    """

    def __init__(self, *, total: int, done: int, several_pairs: bool = False, quiet: bool = False) -> None:
        self._several_pairs = several_pairs
        self._console = _Console(stderr=True, quiet=quiet)
        self._total, self._done = total, done
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=total, completed=done)

    def __enter__(self) -> ProgressDisplay:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # a terminal that was closed
            self._bar.stop()

    def __call__(self, notice: Notice | Standstill) -> None:
        with contextlib.suppress(OSError):  # no room on the disk of a log file, say
            self._show(notice)

    def _show(self, notice: Notice | Standstill) -> None:
        if isinstance(notice, Standstill):
            waiting = f"waiting for {notice.waits_for}; {notice.reason}"
            self._line(waiting if notice.reason else f"{notice.waits_for} is back")
            return
        of = f"{notice.pair}, " if self._several_pairs else ""
        what = f"{notice.label} ({of}repeat {notice.repeat + 1})"
        match notice.happening:
            case Happening.STARTED:
                self._bar.update(self._task, description=escape(what))
            case Happening.LANDED:
                self._advance()
                self._line(f"{what} took {notice.seconds or 0:.1f} s")
                if notice.detail:
                    self._line(f"pair {notice.pair} {notice.detail}")
            case Happening.FAILED:
                self._advance()
                self._line(f"{what} failed: {notice.detail}")
                if notice.further:
                    self._advance(notice.further)
                    others = count(notice.further, "further job")
                    self._line(f"{others} of pair {notice.pair} failed with it")
            case Happening.RETRIED:
                self._line(f"{what} is tried again: {notice.detail}")
            case Happening.DISCARDED:
                self._line(f"{what} was discarded: {notice.detail}")

    def extend(self, jobs: int) -> None:
        """Tell that a sweep got more jobs."""
        self._total += jobs
        self._bar.update(self._task, total=self._total)

    def settle(self, *, waiting: int) -> None:
        """Take over from the store how many jobs are left: some may have been cancelled from elsewhere."""
        self._advance(self._total - waiting - self._done)

    def end(self, *, unstored: int) -> None:
        """Tell how many finished jobs the database did not take before the end, if any."""
        if unstored:
            with contextlib.suppress(OSError):
                self._line(f"{count(unstored, 'finished job')} could not be stored, and will run again")

    def _advance(self, jobs: int = 1) -> None:
        self._done += jobs
        self._bar.update(self._task, completed=self._done)

    def _line(self, text: str) -> None:
        self._console.print(
            f"[{self._done}/{self._total}] {one_line(text)}", markup=False, highlight=False, soft_wrap=True
        )
