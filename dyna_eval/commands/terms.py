"""The options of `report` that replace, for one report, what the sweep file says."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from dyna_eval.commands.options import with_options
from dyna_eval.records import Terms


def read_confidence(ctx: click.Context, param: click.Parameter, share: float | None) -> float | None:
    """Refuse what is no confidence, also NaN, which click's own ranges let through."""
    if share is not None and not 0.0 < share < 1.0:
        what = f"{share:g} is no confidence; it is more than 0 and less than 1, as 0.95 is"
        raise click.BadParameter(what, ctx, param)
    return share


def terms_given(terms: Terms) -> dict[str, object]:
    """Return what replaces the sweep file's, by option."""
    return {"--baseline": terms.baseline, "--confidence": terms.confidence, "--chosen": terms.chosen}


def terms_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for other terms than the sweep file's; the command gets them as one `terms`."""

    @functools.wraps(command)
    def with_terms(*, baseline: str | None, confidence: float | None, chosen: bool, **others: Any) -> Any:
        return command(
            terms=Terms(baseline=baseline, confidence=confidence, chosen=chosen),
            **others,
        )

    options = [
        click.option(
            "--baseline",
            metavar="ROW",
            help="Compare with this row (label, configuration or step), not the sweep file's baseline.",
        ),
        click.option(
            "--confidence",
            type=float,
            callback=read_confidence,
            metavar="SHARE",
            help="Of all intervals, as 0.99; unless given, the sweep file's.",
        ),
        click.option(
            "--chosen",
            is_flag=True,
            help="Of each entry of the sweep file, show only the fastest row on the tuning prompts.",
        ),
    ]
    return with_options(with_terms, options)
