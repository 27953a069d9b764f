"""Templates and the files that pages refer to: style, scripts, and Plotly's own script from its package.

All values are escaped by Jinja unless a template marks them safe, which none does with text of any origin.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dyna_eval import __version__, wording
from dyna_eval.reports import cells
from dyna_eval.series.costs import PHASE_NAMES
from dyna_eval_dashboards.addresses import Addresses

MAX_TEXT = 20_000
"""Characters of a prompt or an output that a page shows."""
ASSETS = ("style.css", "theme.js", "page.js", "figures.js", "icon.svg", "plotly.min.js")


def asset(name: str) -> bytes:
    """Return one of the ASSETS; `plotly.min.js` comes from the plotly package."""
    if name == "plotly.min.js":
        return resources.files("plotly").joinpath("package_data", name).read_bytes()
    return resources.files("dyna_eval_dashboards").joinpath("static", name).read_bytes()


@lru_cache(maxsize=1)
def version() -> str:
    """Return a text that changes with the content of the assets, so that browsers may keep them."""
    found = hashlib.sha256()
    for name in ASSETS:
        found.update(asset(name))
    return found.hexdigest()[:12]


def render(template: str, **values: Any) -> str:
    """Return a page."""
    return _environment().get_template(template).render(**values)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("dyna_eval_dashboards"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": duration,
        "bytes": in_bytes,
        "one_line": wording.one_line,
        "machine": wording.machine,
        "day": lambda moment: moment[:16].replace("T", " "),
        "milliseconds": lambda seconds: f"{seconds * 1000:.2f}",
        "rate": wording.rate_text,
        "script_json": script_json,
    }
    environment.globals |= {
        "cells": cells,
        "count": wording.count,
        "phase_names": PHASE_NAMES,
        "product_version": __version__,
        "with_query": with_query,
        "max_text": MAX_TEXT,
        "at": Addresses(),
        "standalone": False,
        "asset_text": lambda name: Markup(asset(name).decode()),  # noqa: S704  # our own files
        "asset_address": lambda name: f"/static/{version()}/{name}",
    }
    return environment


def script_json(value: object) -> Markup:
    """Return JSON that stays data inside a script element."""
    plain = json.dumps(value, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        plain = plain.replace(character, f"\\u{ord(character):04x}")
    return Markup(plain)  # noqa: S704  # nothing of HTML is left in it


def with_query(given: Mapping[str, str], **changes: object) -> str:
    """Return a query with some values changed; None takes one away."""
    changed = {**given, **changes}
    kept = {name: str(value) for name, value in changed.items() if value not in (None, "")}
    return "?" + urlencode(kept)


def duration(seconds: float | None) -> str:
    """Return a length of time in its two largest units; `--` where it is unknown."""
    if seconds is None:
        return cells.UNKNOWN
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def in_bytes(number: int | None) -> str:
    if number is None:
        return cells.UNKNOWN
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"
