"""The Grafana boards as tests read them: their panels, and their queries as Grafana would send them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "dashboards" / "grafana"
BOARDS = sorted(FOLDER.glob("*.json"))


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def panels(board: Any) -> list[Any]:
    """Return a board's panels, those that show data and the rows' titles."""
    return [inner for panel in board["panels"] for inner in (panel, *panel.get("panels", ()))]


def queries(board: Any) -> Iterator[tuple[str, str]]:
    """Give every query with the title of its panel."""
    for panel in panels(board):
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def filled_in(query: str) -> str:
    """Return a query with every variable set to all there is, and rates over half a minute."""
    return re.sub(r"\$(SessionName|Sweep|Pair)", ".*", query.replace("$__rate_interval", "30s"))
