"""The Grafana boards ask for what the code exports, all of it, and are laid out as Grafana wants them."""

from __future__ import annotations

import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from dyna_eval.monitoring import METRICS, Kind, Metric
from tests.boards import BOARDS, FOLDER, filled_in, panels, queries, read

RAYS_TAGS = {"SessionName", "NodeAddress", "le"}


@pytest.fixture(params=BOARDS, ids=lambda file: file.stem)
def board(request: pytest.FixtureRequest) -> Any:
    return read(request.param)


def series(metric: Metric) -> set[str]:
    """Return the names under which Prometheus keeps a metric."""
    name = metric.exported_name
    return (
        {f"{name}_{end}" for end in ("bucket", "sum", "count")} if metric.kind is Kind.HISTOGRAM else {name}
    )


def asked(board: Any) -> list[str]:
    """Return all queries of a board, those of its variables too."""
    variables = [
        variable["definition"] for variable in board["templating"]["list"] if "definition" in variable
    ]
    return [query for _, query in queries(board)] + variables


def test_boards_ask_for_exactly_what_the_code_exports() -> None:
    named = {name for file in BOARDS for query in asked(read(file)) for name in re.findall(r"ray_\w+", query)}

    assert named == {name for metric in METRICS for name in series(metric)}


def test_a_query_filters_and_groups_by_tags_that_its_metric_has(board: Any) -> None:
    tags = {name: {*metric.tags, *RAYS_TAGS} for metric in METRICS for name in series(metric)}
    for query in asked(board):
        filters = re.findall(r"(ray_\w+)\{([^}]*)\}", query)
        for name, filter_ in filters:
            assert set(re.findall(r"(\w+)=", filter_)) <= tags[name], query
        for group in re.findall(r"by \(([^)]*)\)", query):
            assert all(set(group.split(", ")) <= tags[name] for name, _ in filters), query


def test_a_legend_names_tags_that_its_query_keeps(board: Any) -> None:
    for panel in panels(board):
        for target in panel.get("targets", ()):
            kept = {
                tag for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for tag in group.split(", ")
            }
            assert target["legendFormat"]
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) == kept - {"le"}, panel["title"]


def test_every_panel_says_what_it_shows_and_in_which_unit(board: Any) -> None:
    for panel in panels(board):
        if panel["type"] != "row":
            assert panel["description"].endswith("."), panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert panel["targets"], panel["title"]


def test_a_panel_of_a_rate_says_that_it_misses_the_first_job(board: Any) -> None:
    """A counter begins with what its first job added: there is no value before it to tell a rate from."""
    of_rates = [
        panel for panel in panels(board) for target in panel.get("targets", ()) if "rate(" in target["expr"]
    ]
    assert of_rates
    assert all("the first job" in panel["description"] for panel in of_rates)


def test_every_panel_reads_the_data_source_that_the_reader_chose(board: Any) -> None:
    [source] = [variable for variable in board["templating"]["list"] if variable["type"] == "datasource"]
    chosen = {"type": "prometheus", "uid": f"${{{source['name']}}}"}
    for panel in panels(board):
        for part in (panel, *panel.get("targets", ())):
            assert panel["type"] == "row" or part["datasource"] == chosen, panel["title"]


def test_variables_in_queries_are_the_boards_own(board: Any) -> None:
    own = {variable["name"] for variable in board["templating"]["list"]}
    for query in asked(board):
        assert set(re.findall(r"\$(\w+)", query)) <= own | {"__rate_interval"}, query


def test_panels_have_numbers_of_their_own_and_do_not_overlap(board: Any) -> None:
    shown = panels(board)
    assert len({panel["id"] for panel in shown}) == len(shown)
    cells: dict[str, set[tuple[int, int]]] = {}
    for panel in shown:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24, panel["title"]
        columns = range(place["x"], place["x"] + place["w"])
        cells[panel["id"]] = {(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])}
    for one, other in combinations(cells, 2):
        assert not cells[one] & cells[other]


def test_a_board_is_one_that_provisioning_loads(board: Any) -> None:
    """It has a uid, a title and no database id; its schema is Grafana 10's or 11's, which later ones read."""
    assert "id" not in board
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,40}", board["uid"])
    assert board["title"]
    assert 36 <= board["schemaVersion"] <= 41


def test_provisioning_reads_boards_and_the_kind_of_data_source_that_they_need() -> None:
    [provider] = yaml.safe_load((FOLDER / "provisioning/dashboards/dyna-eval.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    [source] = yaml.safe_load((FOLDER / "provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    assert source["type"] == "prometheus"


def test_every_metric_is_explained_in_the_docs() -> None:
    text = (FOLDER.parents[1] / "docs" / "monitoring.md").read_text()
    named = set(re.findall(r"`(ray_dyna_eval_\w+)`", text))

    assert named == {metric.exported_name for metric in METRICS}


def test_promtool_takes_every_query(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    rules = [
        {"record": f"panel:query_{number}", "expr": filled_in(query)}
        for number, (_, query) in enumerate(pair for file in BOARDS for pair in queries(read(file)))
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    checked = subprocess.run(
        ["promtool", "check", "rules", file], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(rules)} rules found" in checked.stdout
