"""The command line as a whole: its options and the environment variables that stand for them."""

from __future__ import annotations

import errno
import io
import signal
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import click
import pytest
from click.testing import CliRunner

from dyna_eval import interrupts
from dyna_eval.cli import cli, run

EXAMPLE = str(Path(__file__).parents[2] / "examples/four-step.yaml")


def options(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Option]]:
    """Yield every option with the words of the command that has it."""
    yield from ((words, option) for option in command.params if isinstance(option, click.Option))
    for name, part in getattr(command, "commands", {}).items():
        yield from options(part, (*words, name))


ALL = [(words, option) for words, option in options(cli, ()) if option.expose_value]


@pytest.mark.parametrize(("words", "option"), ALL, ids=lambda part: str(getattr(part, "opts", part)))
def test_an_option_has_a_variable_named_after_it(words: tuple[str, ...], option: click.Option) -> None:
    named = "_".join(("DYNA_EVAL", *words, max(option.opts, key=len)[2:])).upper().replace("-", "_")
    assert option.envvar in (named, "DYNA_EVAL_DB")
    assert (option.envvar == "DYNA_EVAL_DB") == ("--db" in option.opts)


def test_no_two_options_share_a_variable_but_those_of_the_database() -> None:
    names = [option.envvar for _, option in ALL if option.envvar != "DYNA_EVAL_DB"]
    assert len(names) == len(set(names))


def test_a_variable_does_what_its_option_does_and_the_option_wins() -> None:
    variables = {"DYNA_EVAL_VALIDATE_SET": "measure.repeats=1 prompts.limit=2"}
    by_variable = CliRunner().invoke(cli, ["validate", EXAMPLE], env=variables)
    assert (by_variable.exit_code, by_variable.output) == (
        0,
        f"{EXAMPLE}: four-step: 4 configurations, 4 jobs\n",
    )
    both = CliRunner().invoke(cli, ["validate", EXAMPLE, "--set", "measure.repeats=2"], env=variables)
    assert both.output == f"{EXAMPLE}: four-step: 4 configurations, 8 jobs\n"


@pytest.mark.parametrize(
    ("epoch", "known"), [("1e9", False), ("", False), ("9" * 30, False), ("0", True), ("1700000000", True)]
)
def test_a_time_of_building_that_numpy_cannot_read_is_the_users_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], epoch: str, *, known: bool
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    assert run(["completion", "bash"]) == (0 if known else 2)
    told = f"dyna-eval: SOURCE_DATE_EPOCH is '{epoch}', which is no whole number of seconds since 1970"
    assert capsys.readouterr().err.startswith(told) is not known


@pytest.fixture
def own_signals() -> Iterator[None]:
    """Handlers that a test may set."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    interrupts._heard.clear()
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("own_signals")
def test_a_closed_terminal_interrupts_a_command_once() -> None:
    """Its shell sends SIGHUP, and so does the kernel, while the command puts its jobs back."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    interrupts.hear_interrupts()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGHUP)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT], ids=["nohup", "background of a script"])
def test_a_command_does_not_hear_what_who_started_it_had_ignored(number: signal.Signals) -> None:
    """`nohup` does so with a closed terminal, and a shell without job control with Ctrl-C."""
    signal.signal(number, signal.SIG_IGN)
    interrupts.hear_interrupts()
    signal.raise_signal(number)
    assert signal.getsignal(number) is signal.SIG_IGN
    interrupts.raise_if_interrupted()


@pytest.mark.usefixtures("own_signals")
def test_an_interrupt_that_python_loses_stops_a_loop_at_its_next_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An exception in a callback of the garbage collector is only printed."""
    lost: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: lost.append(unraisable.exc_type))
    interrupts.hear_interrupts()
    interrupts.raise_if_interrupted()
    watched = weakref.WeakSet[object]()
    callback = weakref.ref(watched, lambda _: signal.raise_signal(signal.SIGINT))
    del watched
    assert callback() is None
    assert lost == [KeyboardInterrupt]
    with pytest.raises(KeyboardInterrupt):
        interrupts.raise_if_interrupted()


def test_an_interrupted_command_ends_as_such_where_its_terminal_was_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.EIO, f"{text!r} cannot be written")

    def interrupted(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupted)
    monkeypatch.setattr(sys, "stderr", Closed())
    assert run(["ls"]) == 130


def test_the_commands_are_told_whole_in_a_narrow_terminal_and_in_the_order_of_their_use() -> None:
    told = CliRunner().invoke(cli, ["--help"], terminal_width=80).stdout.partition("Commands:\n")[2]
    names = [line.split()[0] for line in told.splitlines()]
    assert names.index("validate") < names.index("submit") < names.index("status") < names.index("report")
    assert len(names) == len(cli.commands)
    assert "..." not in told
