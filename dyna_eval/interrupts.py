"""Ctrl-C, and what else asks a command to stop, heard wherever it comes.

Python raises KeyboardInterrupt at the very instruction that runs. Where that is in a callback of the garbage
collector, such as those of SQLAlchemy, the exception is printed and lost, and the command would go on.
"""

from __future__ import annotations

import signal
from typing import NoReturn

_heard: list[int] = []
"""The signals that came, by their numbers."""


def hear_interrupts() -> None:
    """Let SIGTERM, SIGINT and SIGHUP raise KeyboardInterrupt; the latter two unless who started us, such as
    `nohup`, had them ignored."""
    signal.signal(signal.SIGTERM, _interrupt)
    for number, handler in ((signal.SIGINT, _interrupt), (signal.SIGHUP, _hang_up)):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt if a signal came before; a loop that runs for long asks at each turn."""
    if _heard:
        raise KeyboardInterrupt


def _interrupt(number: int, _frame: object) -> NoReturn:
    _heard.append(number)
    raise KeyboardInterrupt


def _hang_up(number: int, frame: object) -> NoReturn:
    """Interrupt once: of a terminal that closes, its shell tells as well as the kernel."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _interrupt(number, frame)
