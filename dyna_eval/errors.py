"""Every error that dyna-eval raises on purpose.

DynaEvalError
├── InputError              the user's input is wrong: exit 2, one line, nothing stored
│   ├── SweepFileError      a sweep file, with file and line
│   ├── PolicyError         a growth policy of another package that is not there, or cannot be used
│   ├── PairError           models that cannot be loaded, verified or paired
│   ├── PromptError         a data set without usable prompts
│   ├── DatabaseError       a database that cannot be opened, or whose schema does not fit
│   │   ├── MissingDatabaseError   none is there
│   │   └── DatabaseAwayError      it does not answer, or has no room: waiting may help
│   ├── ImportFileError     a result file of another tool that cannot be imported
│   ├── UnknownSweepError   no sweep, or no job, of that name or number
│   ├── MixedRowsError      rows that must not stand in one table
│   ├── NothingToDrawError  a figure that a sweep holds no data for
│   └── NoPlaceError        a cluster on which no actor has room
├── BackendUnavailableError   passes of ours that a model or a machine does not allow: others take over
│   ├── UnsupportedModelError   a model that our kernels do not know
│   ├── NoKernelsError          kernels that cannot be built or run here
│   │   └── NoFolderError       there is no folder to keep them in
│   └── CaptureError            passes that cannot run as CUDA graphs
├── DecodingError           a job's own fault, such as output that is not the target's: the job fails
├── ForeignError            what a library or another package raised in a job: the job fails
├── InvariantError          a result that contradicts itself: the job fails
├── StuckWorkerError        a worker that does not answer, or takes too long: its job is tried again
└── LeaseLostError          another controller works on this sweep
"""

from __future__ import annotations

from pathlib import Path
from traceback import extract_tb


class DynaEvalError(Exception):
    """Root of the tree; its text is one line: where, what, and what to do."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, cut to 500 characters; its class where it says nothing."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:500]


def raised_line(traceback: str) -> str:
    """Return the line of a printed traceback that names the error, cut to 500 characters.

    It is the first one after the last frame, for what an error says may go on over further lines. A text
    without frames is taken for what the error says.
    """
    lines = [line for line in traceback.splitlines() if line.strip()]
    frames = [number for number, line in enumerate(lines) if line.startswith("  File ")]
    after = lines[frames[-1] + 1 :] if frames else lines
    return next((line for line in after if not line.startswith(" ")), "no reason was given")[:500]


class InputError(DynaEvalError):
    """The user's input is wrong."""


class SweepFileError(InputError):
    """A mistake in a sweep file; prints as `FILE:LINE: what`."""

    def __init__(self, what: str, *, file: str, line: int | None = None) -> None:
        self.what, self.file, self.line = what, file, line
        super().__init__(f"{file}:{line}: {what}" if line else f"{file}: {what}")

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_sweep_file_error, (self.what, self.file, self.line)


def _rebuild_sweep_file_error(what: str, file: str, line: int | None) -> SweepFileError:
    return SweepFileError(what, file=file, line=line)


class PolicyError(InputError):
    """A growth policy that no installed package brings, or that cannot be used as it is."""


class PairError(InputError):
    """A target/draft pair that cannot be loaded, verified as a tree, or used together."""


class PromptError(InputError):
    """A data set that cannot be read or holds no usable prompt."""


class DatabaseError(InputError):
    """A database that cannot be opened, or whose schema this version does not know."""


class MissingDatabaseError(DatabaseError):
    """There is no database at that place."""


class DatabaseAwayError(DatabaseError):
    """A database that does not answer, is locked or is full. The same call may succeed later."""


class ImportFileError(InputError):
    """A result file that is not of a known format, or is damaged; nothing of it is imported."""


class UnknownSweepError(InputError):
    """No sweep, or no job, of that name or number."""


class MixedRowsError(InputError):
    """Rows measured on other prompts, with other settings or in another environment than their neighbours."""


class NothingToDrawError(InputError):
    """A figure that a sweep, as far as it is measured, holds no data for."""


class NoPlaceError(InputError):
    """A Ray cluster without a node on which an actor has room."""


class BackendUnavailableError(DynaEvalError):
    """What shall run a model's forward passes cannot do so here; the text is the reason."""


class UnsupportedModelError(BackendUnavailableError):
    """The model is of no family that our kernels know, or differs from its family."""


class NoKernelsError(BackendUnavailableError):
    """The kernels cannot be built or run on this machine."""


class NoFolderError(NoKernelsError):
    """There is no folder that the kernels can be kept in."""


class CaptureError(BackendUnavailableError):
    """The passes of a model cannot run as CUDA graphs, say as the host decides inside."""


class DecodingError(DynaEvalError):
    """A decoding run that broke one of its invariants; the job fails with this reason."""


class ForeignError(DynaEvalError):
    """What a library or another package raised in a job, as text: the controller may not know its class.

    `name` is the class, the error's text is the first line of what it said, and where it was raised.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        super().__init__(text)

    @classmethod
    def of(cls, error: BaseException) -> ForeignError:
        frames = extract_tb(error.__traceback__)
        place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
        return cls(type(error).__name__, first_line(error) + place)

    def __reduce__(self) -> tuple[object, ...]:
        return ForeignError, (self.name, str(self))


class InvariantError(DynaEvalError):
    """A result that contradicts itself; it is not stored, and its job fails with this reason."""


class StuckWorkerError(DynaEvalError):
    """A worker that neither answers nor dies; its job is taken from it."""


class LeaseLostError(DynaEvalError):
    """Another controller holds the sweep's lease."""
