"""The options of `report` for its web page, and writing it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dyna_eval.commands.options import with_options
from dyna_eval.commands.output import write_own

if TYPE_CHECKING:
    from dyna_eval.reports.report import Report

_PROMPTS = 3
_MAX_PROMPTS = 1_000_000
"""More than a browser could show; a database would refuse to count much further."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebPage:
    """Where the page goes, and how many prompts of each row it shows."""

    path: Path
    prompts: int


def page_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the web page; the command gets them as one `page`, None where none is wanted."""

    @functools.wraps(command)
    def with_page(*, html: Path | None, html_prompts: int | None, **others: Any) -> Any:
        if html is None and html_prompts is not None:
            raise click.UsageError("--html-prompts is about the web page: add --html FILE")
        prompts = _PROMPTS if html_prompts is None else html_prompts
        return command(page=html and WebPage(path=html, prompts=prompts), **others)

    options = [
        click.option(
            "--html",
            metavar="FILE",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Write the table, figures and jobs as one self-contained web page.",
        ),
        click.option(
            "--html-prompts",
            metavar="N",
            type=click.IntRange(0, _MAX_PROMPTS),
            help="Show the texts, rounds and draft trees of each row's first N prompts there."
            f"  [default: {_PROMPTS}]",
        ),
    ]
    return with_options(with_page, options)


def write_page(page: WebPage, built: Report, database: str) -> None:
    """Write a report, and what its jobs decoded, as one web page.

    Raises DatabaseError as the store does, and InputError where the file cannot be written.
    """
    from dyna_eval_dashboards.export import is_page, to_html
    from dyna_eval_db.watching import WatchedStore

    with contextlib.closing(WatchedStore.open(database)) as store:
        html = to_html(built, store, prompts=page.prompts)
    write_own(page.path, html, is_own=is_page)
