"""Shell completion: the script that a shell reads, and which names fit what was typed."""

from __future__ import annotations

import contextlib

import click
from click.shell_completion import get_completion_class

from dyna_eval.commands.database import DEFAULT_DATABASE
from dyna_eval.errors import DynaEvalError

SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_DYNA_EVAL_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(*, shell: str) -> None:
    """Print the script that completes commands in a shell.

    bash: eval "$(dyna-eval completion bash)" in ~/.bashrc; zsh the same in ~/.zshrc;
    fish: dyna-eval completion fish > ~/.config/fish/completions/dyna-eval.fish
    """
    root = click.get_current_context().find_root()
    make = get_completion_class(shell)
    if make is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    click.echo(make(root.command, {}, "dyna-eval", _VARIABLE).source())


def sweep_names(context: click.Context, _: click.Parameter, typed: str) -> list[str]:
    """Return the sweeps of the command's database that begin with what was typed; none where it has none."""
    from dyna_eval_db.watching import WatchedStore

    address = context.params.get("database") or DEFAULT_DATABASE
    try:
        with contextlib.closing(WatchedStore.open(address)) as store:
            names = [name for _, name in store.names(most=None)]
    except (DynaEvalError, OSError):
        return []  # a shell has no place for errors
    return [name for name in dict.fromkeys(names) if name.startswith(typed)]
