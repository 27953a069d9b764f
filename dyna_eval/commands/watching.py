"""The command that serves the web dashboard."""

from __future__ import annotations

import contextlib
import html
import tempfile
import webbrowser
from pathlib import Path

import click

from dyna_eval.commands.database import database_option
from dyna_eval.errors import InputError

_REDIRECT = """\
<!doctype html>
<meta charset="utf-8">
<title>dyna-eval</title>
<meta http-equiv="refresh" content="0; url={address}">
<p><a href="{address}">The dashboard</a></p>
"""


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8470, show_default=True, help="0 takes a free one."
)
@click.option(
    "--allow-host", "allowed", multiple=True, metavar="NAME", help="A further name that browsers may use."
)
@click.option(
    "--token",
    envvar="DYNA_EVAL_DASHBOARD_TOKEN",
    help="Asked of every browser: 16 characters or more of A-Za-z0-9-._~; made up for other addresses than"
    " loopback. Best set by DYNA_EVAL_DASHBOARD_TOKEN, for others can read a command line.",
)
@click.option("--open", "open_browser", is_flag=True, help="Open the page in a browser.")
@database_option
def dashboard(
    *, host: str, port: int, allowed: tuple[str, ...], token: str | None, open_browser: bool, database: str
) -> None:
    """Show sweeps live in a browser, read-only.

    It needs no internet. It listens on this machine alone unless --host says otherwise; then browsers need
    the printed address with its token.
    """
    from dyna_eval_dashboards.server import serve

    def ready(address: str) -> None:
        click.echo(f"dashboard at {address}", err=True)
        if open_browser:
            _open(address, files)

    files = contextlib.ExitStack()
    try:
        with files:
            serve(database, bind=host, port=port, allowed=allowed, token=token, ready=ready)
    except (OSError, UnicodeError) as error:  # UnicodeError: no name of the internet is written so
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot listen on {host} port {port}: {reason}; choose another --port or --host"
        ) from error


def _open(address: str, files: contextlib.ExitStack) -> None:
    """Open an address in a browser; one with a token by a file that leads there, for others can read a
    command line. `files` removes it at the end."""
    if "?token=" not in address:
        click.launch(address)
        return
    try:
        file = tempfile.NamedTemporaryFile(  # noqa: SIM115  # `files` closes it; its mode is 0600
            "w", prefix="dyna-eval-", suffix=".html", encoding="utf-8"
        )
        files.enter_context(file)
        file.write(_REDIRECT.format(address=html.escape(address)))
        file.flush()
    except OSError as error:
        click.echo(f"dyna-eval: no browser was opened: {error}; open the address yourself", err=True)
        return
    if click.launch(file.name):  # which knows no other way than xdg-open for a file
        webbrowser.open(Path(file.name).as_uri())
