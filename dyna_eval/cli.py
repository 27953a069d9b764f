"""The `dyna-eval` command. Results go to stdout, progress and mistakes to stderr.

Exit status: 0 done; 1 a job failed or was cancelled, a row regressed, or a check found something; 2 bad input
or usage, told in one line; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import click
from dyna_eval_workers.collector import collect_rarely

from dyna_eval import __version__
from dyna_eval.commands import (
    comparing,
    completion,
    doctor,
    files,
    importing,
    reports,
    running,
    stored,
    upkeep,
    watching,
)
from dyna_eval.errors import DynaEvalError, InputError
from dyna_eval.interrupts import hear_interrupts
from dyna_eval.wording import one_line


def main() -> NoReturn:
    """Run the command line; every expected failure is one line on stderr."""
    _prepare_streams()
    collect_rarely()
    hear_interrupts()
    sys.exit(run(sys.argv[1:]))


def _prepare_streams() -> None:
    """Give the numbers of streams that the caller closed to /dev/null, lest a database file get them.

    What stdout cannot write, such as a label in another alphabet or a file's odd name, is written as escapes.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - open until the process ends
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def run(arguments: list[str]) -> int:
    """Run one command in this process and return its exit status."""
    try:
        status = cli.main(arguments, prog_name="dyna-eval", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except (click.ClickException, DynaEvalError, KeyboardInterrupt, click.Abort) as error:
        message, status = _failure(error)
        _complain(message)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what stdout still holds cannot be written either
        if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
            return 0
        message, status = _system_failure(error)
        _complain(message)
    return status if isinstance(status, int) else 0


def _complain(message: str) -> None:
    with contextlib.suppress(OSError):  # stderr may be a terminal that was closed
        click.echo(f"dyna-eval: {one_line(message)}", err=True)


def _failure(error: BaseException) -> tuple[str, int]:
    """Return what to say about an expected failure, and the exit status."""
    match error:
        case click.ClickException():
            return error.format_message(), error.exit_code
        case InputError():
            return str(error), 2
        case DynaEvalError():
            return str(error), 1
        case _:
            return "interrupted", 130


def _system_failure(error: OSError) -> tuple[str, int]:
    """Return what to say where the system refused what no command expects it to, such as printing."""
    try:
        Path.cwd()
    except OSError:
        return "the current folder is not there any more; go to another one", 2
    what = error.strerror or str(error)
    return f"{error.filename or 'input or output failed'}: {what}", 1


class InOrderOfUse(click.Group):
    """Commands are listed as they are met on the way from a file to a table, not by their first letter."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the commands' names in the order in which they were added."""
        return list(self.commands)


@click.group(
    cls=InOrderOfUse,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
)
@click.version_option(__version__)
def cli() -> None:
    """Run ablations of speculative decoding and report them.

    SWEEP is a sweep's number or name, the latest one of that name; without it, the latest sweep.

    Results go to stdout, progress and mistakes to stderr. Exit status: 0 done; 1 a job failed or was
    cancelled, a row regressed, or a check found something; 2 bad input, told in one line; 130 interrupted.

    Every option can be set by the environment: DYNA_EVAL_DB, and of `submit` DYNA_EVAL_SUBMIT_ADDRESS,
    DYNA_EVAL_SUBMIT_FAIL_FAST=1 and so on.
    """
    _require_readable_epoch()


def _require_readable_epoch() -> None:
    """Raise InputError for a time of building that numpy, or matplotlib, would fail at."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "0")
    try:
        datetime.fromtimestamp(int(epoch), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InputError(
            f"SOURCE_DATE_EPOCH is {epoch!r}, which is no whole number of seconds since 1970; unset it"
        ) from error


for _command in (
    doctor.doctor,
    upkeep.pairs,
    files.validate,
    files.expand,
    running.submit,
    stored.status,
    stored.logs,
    stored.list_sweeps,
    stored.show,
    stored.cancel,
    running.resume,
    running.retry,
    reports.report,
    comparing.compare,
    watching.dashboard,
    importing.import_results,
    upkeep.database,
    completion.completion,
):
    cli.add_command(_command)


def _name_variables(command: click.Command, prefix: str) -> None:
    """Let an environment variable named after it stand for every option: DYNA_EVAL_SUBMIT_FAIL_FAST."""
    for option in command.params:
        if isinstance(option, click.Option) and option.expose_value and option.envvar is None:
            name = max(option.opts, key=len).lstrip("-")
            option.envvar = f"{prefix}_{name}".upper().replace("-", "_")
    if isinstance(command, click.Group):
        for name, part in command.commands.items():
            _name_variables(part, f"{prefix}_{name}")


_name_variables(cli, "DYNA_EVAL")
