"""Options that several commands share."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click
from click.core import ParameterSource

from dyna_eval.commands.completion import sweep_names
from dyna_eval.jobs import MAX_CONFIGURATIONS


def as_typed(*words: object) -> str:
    """Return a command of ours as one types it after the present one: with the `--db` of that, if it has one.

    No password is in it: `without_password` refuses it there.
    """
    context = click.get_current_context(silent=True)
    database: list[str] = []
    if context is not None and context.get_parameter_source("database") is ParameterSource.COMMANDLINE:
        database = ["--db", context.params["database"]]
    return shlex.join(["dyna-eval", *map(str, words), *database])


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else on stdout.")
which_sweep = click.argument("sweep", required=False, shell_complete=sweep_names)

overrides_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting, as generation.seed=1."
)
limit_option = click.option(
    "--max-configurations",
    type=click.IntRange(min=1),
    default=MAX_CONFIGURATIONS,
    show_default=True,
    help="Refuse a file that expands to more.",
)


insecure_option = click.option(
    "--insecure", is_flag=True, help="Join a cluster that asks for no token, where anyone can run anything."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """Where and how jobs run, as the command line says it."""

    address: str
    cpus_per_pair: int | None
    gpus_per_pair: float | None
    """Whole GPUs, or a share of one."""
    insecure: bool
    fail_fast: bool
    detach: bool

    def as_options(self) -> list[str]:
        """Return the options that say the same of where and how, but for the address."""
        options = [] if self.cpus_per_pair is None else ["--cpus-per-pair", str(self.cpus_per_pair)]
        if self.gpus_per_pair is not None:
            whole = self.gpus_per_pair >= 1
            options += ["--gpus-per-pair" if whole else "--gpu-fraction", f"{self.gpus_per_pair:g}"]
        options += ["--insecure"] if self.insecure else []
        return options + (["--fail-fast"] if self.fail_fast else [])

    def command(self, name: str, sweep_id: int) -> str:
        """Return the command of that name which goes on with a sweep in the same place, as one types it."""
        place = [] if self.address == "local" else ["--address", self.address]
        return as_typed(name, sweep_id, *place, *self.as_options())


_LEAST_SHARE = 0.01


def _share_of_a_gpu(context: click.Context, parameter: click.Parameter, share: float | None) -> float | None:
    """Refuse what is no share, also NaN, which click's own ranges let through."""
    if share is not None and not _LEAST_SHARE <= share < 1.0:
        what = f"{share:g} is no share of a GPU; it is at least {_LEAST_SHARE} and less than 1"
        raise click.BadParameter(what, context, parameter)
    return share


def execution_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of every command that runs jobs; the command gets them as one `execution`."""

    @functools.wraps(command)
    def with_execution(
        *,
        address: str,
        cpus_per_pair: int | None,
        gpus_per_pair: int | None,
        gpu_fraction: float | None,
        insecure: bool,
        fail_fast: bool,
        detach: bool,
        **others: Any,
    ) -> Any:
        if detach and address == "local":
            raise click.BadParameter(
                "a cluster that starts here ends here; name one with --address", param_hint="--detach"
            )
        if gpus_per_pair is not None and gpu_fraction is not None:
            raise click.BadParameter("a pair has whole GPUs or a share of one", param_hint="--gpu-fraction")
        execution = Execution(
            address=address,
            cpus_per_pair=cpus_per_pair,
            gpus_per_pair=gpus_per_pair or gpu_fraction,
            insecure=insecure,
            fail_fast=fail_fast,
            detach=detach,
        )
        return command(execution=execution, **others)

    options = [
        click.option(
            "--address",
            default="local",
            show_default=True,
            help="Ray cluster: local starts one here, auto or HOST:PORT joins a running one.",
        ),
        click.option(
            "--cpus-per-pair", type=click.IntRange(min=1), help="Cores for each pair on a node without GPUs."
        ),
        click.option(
            "--gpus-per-pair",
            type=click.IntRange(min=1, max=1024),
            help="Whole GPUs for each pair, over which its target is spread; unless given, one.",
        ),
        click.option(
            "--gpu-fraction",
            type=float,
            callback=_share_of_a_gpu,
            metavar="SHARE",
            help="Let pairs share a GPU, as 0.5 does; timings are then marked as not comparable.",
        ),
        insecure_option,
        click.option("--fail-fast", is_flag=True, help="Start no further job once one has failed."),
        click.option("--detach", is_flag=True, help="Hand the sweep to the cluster's head, and return."),
    ]
    return with_options(with_execution, options)


def form_options(**helps: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add a flag for each form that a command prints; it gets the one that was given, or None, as `form`."""

    def with_flags(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_form(**given: Any) -> Any:
            forms = [name for name in helps if given.pop(name)]
            if len(forms) > 1:
                raise click.UsageError(f"--{forms[0]} and --{forms[1]} are two forms; name one of them")
            return command(form=forms[0] if forms else None, **given)

        flags = [click.option(f"--{name}", is_flag=True, help=text) for name, text in helps.items()]
        return with_options(with_form, flags)

    return with_flags


def with_options(command: Callable[..., Any], options: Sequence[Callable[..., Any]]) -> Callable[..., Any]:
    """Add options to a command, in the order in which its help is to list them."""
    for option in reversed(options):
        command = option(command)
    return command
