"""The dashboard's pages: who may ask, what every answer carries, and what is shown."""

from __future__ import annotations

import csv
import html
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from claims import claim_one, land_one
from dyna_eval_dashboards import app, figures, reports, views
from dyna_eval_dashboards.app import create_app
from dyna_eval_dashboards.explore import Choice, Explored, explore
from dyna_eval_dashboards.export import to_html
from dyna_eval_dashboards.figures import FIGURES, figure_of, figures_of
from dyna_eval_dashboards.pages import asset
from dyna_eval_dashboards.rounds import time_line
from dyna_eval_dashboards.safety import Access
from dyna_eval_dashboards.trees import draw
from dyna_eval_db import actors
from dyna_eval_db.store import Store, SweepState, Whereabouts
from dyna_eval_db.watching import WatchedStore
from measurements import TREE, make_result, make_sample, make_sweep
from served import HOSTILE, client_of, database, fill, hostile_sweep
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from starlette.routing import Route
from starlette.testclient import TestClient

from dyna_eval.commands.comparing import read_side
from dyna_eval.errors import DatabaseError, InputError
from dyna_eval.holder import own_name
from dyna_eval.importers import import_file
from dyna_eval.jobs import Configuration, GenerationSpec, JobState, Method, digest
from dyna_eval.measurements import Environment, sum_rounds
from dyna_eval.reports.cells import Notes, throughput_cell
from dyna_eval.reports.imported import ImportedSweep
from dyna_eval.reports.imported_report import imported_report
from dyna_eval.reports.measured_report import build_report
from dyna_eval.reports.report import Report, RowState
from dyna_eval.reports.sweep_comparison import compare_reports
from dyna_eval.series.costs import PHASE_NAMES
from dyna_eval.series.measured import CUT_OFF
from dyna_eval.tables import report as tables
from dyna_eval.tables.comparison import (
    compared_pairs,
    comparison_csv,
    comparison_json,
    comparison_markdown,
    remarks,
)
from dyna_eval.tables.report_json import to_json
from dyna_eval.time_left import Basis, TimeLeft
from tests.new_databases import open_new
from tests.result_files import baseline, dynatree, linear, write
from tests.unit.report_records import BASELINE, FOUR_STEPS, PRUNED, change_jobs, record, slow_prompt

TOKEN = "a-token-of-some-length"  # noqa: S105  # guards nothing
EXAMPLES = {
    "sweep": "1",
    "job": "1",
    "prompt": "0",
    "place": "0",
    "round": "0",
    "name": "ablation",
    "ending": "csv",
    "version": "1",
    "a": "1",
    "b": "1",
}
"""A value for every part of an address."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = database(tmp_path_factory.mktemp("dashboard"))
    fill(url, hostile_sweep(), failed=True)
    fill(url, replace(hostile_sweep(), digest=digest("again")))
    return url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[TestClient]:
    with client_of(url) as client:
        yield client


def addresses(url: str) -> list[str]:
    """Return an address for every route there is."""
    found = []
    for route in create_app(WatchedStore.open(url), Access.of("127.0.0.1")).routes:
        assert isinstance(route, Route), "nothing is mounted that this walk would miss"
        values = EXAMPLES | ({"ending": "png"} if route.name == "drawing" else {})
        values |= {"name": "style.css"} if route.name == "static" else {}
        found.append(re.sub(r"{(\w+)(?::\w+)?}", lambda part, known=values: known[part[1]], route.path))
    return found


# ------------------------------------------------------------------------ safety


def test_every_route_answers_with_the_headers_that_keep_hostile_text_harmless(
    url: str, client: TestClient
) -> None:
    for address in [*addresses(url), "/nothing", "/sweeps/99", "/jobs/99999999999999999999"]:
        answer = client.get(address)
        assert answer.status_code in (200, 404), (address, answer.text)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self';"), address
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_every_route_refuses_other_names_other_sites_and_writing(url: str, client: TestClient) -> None:
    for address in addresses(url):
        assert client.get(address, headers={"host": "evil.example:8470"}).status_code == 403, address
        assert client.get(address, headers={"origin": "http://evil.example"}).status_code == 403, address
        cross = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
        assert client.get(address, headers=cross).status_code == 403, address
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            assert client.request(method, address).status_code == 405, address
        assert client.get(address, headers={"origin": "http://127.0.0.1:8470"}).status_code == 200, address


def test_every_route_asks_for_the_token_on_other_addresses_than_loopback(url: str) -> None:
    access = Access.of("10.1.2.3", token=TOKEN)
    with client_of(url, access) as client:
        client.base_url = "http://10.1.2.3:8470"
        for address in addresses(url):
            assert client.get(address).status_code == 401, address
            assert client.get(f"{address}?token={TOKEN}x").status_code == 401, address
            bearer = {"authorization": f"Bearer {TOKEN}"}
            assert client.get(address, headers=bearer).status_code == 200, address
        moved = client.get(f"http://10.1.2.3:8470//evil.example/?q=a&token={TOKEN}")
        assert (moved.status_code, moved.headers["location"]) == (303, "/evil.example/?q=a")
        assert "HttpOnly" in moved.headers["set-cookie"]
        assert "SameSite=lax" in moved.headers["set-cookie"]
        assert client.get("/").status_code == 200  # the cookie is enough now


@pytest.mark.parametrize("bind", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_loopback_needs_no_token(bind: str) -> None:
    assert Access.of(bind).token is None


def test_another_address_gets_a_token_that_nobody_can_guess() -> None:
    tokens = {Access.of("10.1.2.3").token for _ in range(20)}
    assert len(tokens) == 20
    assert all(token and len(token) >= 32 for token in tokens)


def test_a_wildcard_address_needs_names_and_a_token_must_not_be_short() -> None:
    with pytest.raises(InputError, match="--allow-host"):
        Access.of("::")
    assert Access.of("::", allowed=("gpu-box",)).knows("gpu-box:8470")
    with pytest.raises(InputError, match="16 characters"):
        Access.of("127.0.0.1", token=TOKEN[:8])


@pytest.mark.parametrize(
    "host", ["", "evil.example", "localhost.evil.example", "[::1", "127.0.0.1@evil.example"]
)
def test_a_name_that_is_not_ours_is_not_taken_for_ours(host: str) -> None:
    assert not Access.of("127.0.0.1").knows(host)


def test_the_store_behind_the_pages_cannot_be_written_to(url: str) -> None:
    store = WatchedStore.open(url)
    with pytest.raises((DatabaseError, OperationalError), match="readonly"), store._read() as session:
        session.execute(text("UPDATE sweep SET name = 'x'"))
        session.commit()


class Elements(HTMLParser):
    """The tags and the attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


@pytest.mark.parametrize(
    "address",
    [
        "/",
        "/sweeps/1",
        "/sweeps/1/jobs",
        "/jobs/1",
        "/jobs/2",
        "/jobs/1/prompts/0",
        "/cluster",
        "/compare?a=1&b=2",
        "/?q=<script>",
    ],
)
def test_hostile_text_stays_text(client: TestClient, address: str) -> None:
    """Also in what comes later: pages of reports are asked for when there is something in them."""
    for ready in ("/sweeps/1/report.csv", "/sweeps/2/report.csv", "/compare/1/2.csv"):
        assert client.get(ready).status_code == 200  # which waits for the report, as the page does not
    page = client.get(address).text
    assert "data-pending" not in page
    assert "&lt;script&gt;" in page or address == "/cluster"
    found = Elements()
    found.feed(page)
    assert "img" not in found.tags
    assert all(name != "onerror" for name, _ in found.attributes)
    assert page.count("<script") == page.count('<script src="/static/')
    assert "49</textarea>" not in page
    assert not any(name == "style" for name, _ in found.attributes)  # the policy forbids them
    assert all(not (value or "").startswith(("http:", "https:", "//")) for _, value in found.attributes)


def test_the_text_of_prompts_and_outputs_is_shown_as_it_is(client: TestClient) -> None:
    shown = []

    class Texts(HTMLParser):
        def handle_data(self, data: str) -> None:
            shown.append(data)

    Texts().feed(client.get("/jobs/1/prompts/0").text)
    assert shown.count(f"\n{HOSTILE}") == 2  # browsers drop one line break after <pre>


# ------------------------------------------------------------------------- pages


def test_the_table_has_the_cells_footnotes_and_warnings_of_the_report(tmp_path: Path) -> None:
    url = database(tmp_path)
    fill(url)
    report = build_report(WatchedStore.open(url).record(1), allow_mixed=True)
    with client_of(url) as client:
        client.get("/sweeps/1/report.json")  # which waits for the report, as the page does not
        page = client.get("/sweeps/1").text
        for row in report.rows:
            assert f">{throughput_cell(row)}</td>" in page
        notes = Notes.of(report, "demo")
        assert notes.texts, "the made-up sweep has something to warn about"

        plain = html.unescape(page)
        for words in (*notes.texts, *(caveat.text for _, caveat in report.pair_caveats)):
            assert words in plain
        assert client.get("/sweeps/1/report.csv").text == tables.to_csv(report)
        assert list(csv.DictReader(io.StringIO(client.get("/sweeps/1/report.csv").text)))
        assert json.loads(client.get("/sweeps/1/report.json").text)["sweep"]["id"] == 1
        assert client.get("/sweeps/1/ablation-0.pdf").content.startswith(b"%PDF")
        assert client.get("/sweeps/1/ablation-0.png").content.startswith(b"\x89PNG")
        assert client.get("/sweeps/1/report.tex").text in plain  # what the copy button copies


def test_what_is_left_out_is_listed_with_its_reason(client: TestClient) -> None:
    client.get("/sweeps/1/report.csv")  # which waits for the report
    page = client.get("/sweeps/1").text
    assert "1 of 2 jobs failed: ValueError: &lt;script&gt;" in page
    assert "a threshold of 0 prunes nothing" in page


def test_rows_can_be_filtered_and_sorted_by_listed_columns_alone(tmp_path: Path) -> None:
    url = database(tmp_path)
    fill(url)
    with client_of(url) as client:
        assert "Baseline</th>" not in client.get("/sweeps/1?q=tree").text
        assert "No row matches" in client.get("/sweeps/1?q=nothing").text
        up = client.get("/sweeps/1?sort=label").text
        down = client.get("/sweeps/1?sort=label&order=desc").text
        assert (up.index("+ Tree") < up.index("Baseline")) != (down.index("+ Tree") < down.index("Baseline"))
        assert client.get("/sweeps/1?sort=id;drop&page=x&page=-1").status_code == 200


def test_a_page_past_the_rows_of_a_pair_does_not_deny_that_it_has_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views.cut, "__kwdefaults__", {"size": 1})
    fill(url := database(tmp_path))
    with client_of(url) as client:
        client.get("/sweeps/1/report.csv")  # which waits for the report
        beyond = client.get("/sweeps/1?page=3").text
        assert "No row of this pair on this page." in beyond
        assert "No row matches" not in beyond
        assert "No row matches" in client.get("/sweeps/1?q=nothing").text
        for page, nothing in (("/", "No sweep matches"), ("/sweeps/1/jobs", "No job matches")):
            assert nothing not in client.get(f"{page}?q=e&page=9").text, page
            assert nothing in client.get(f"{page}?q=nothing").text, page


def test_no_live_part_holds_what_is_typed_into(client: TestClient) -> None:
    """A page that is swapped while somebody types there would lose the text, or miss the change."""

    class Fields(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[bool] = []
            self.found = list[bool]()

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag in ("input", "select", "textarea"):
                self.found.append(any(self.open))
            if tag in ("div", "nav", "section", "form"):
                self.open.append("data-live" in dict(attrs))

        def handle_endtag(self, tag: str) -> None:
            if tag in ("div", "nav", "section", "form"):
                self.open.pop()

    client.get("/sweeps/1/report.csv")  # which waits for the report
    for page in ("/", "/sweeps/1", "/sweeps/1/jobs", "/sweeps/1/explore", "/compare?a=1&b=2"):
        fields = Fields()
        fields.feed(client.get(page).text)
        assert fields.found, page
        assert not any(fields.found), page


def test_the_pulse_changes_when_something_happens_and_not_otherwise(tmp_path: Path) -> None:
    url = database(tmp_path)
    with open_new(url) as store, client_of(url) as client:
        sweep = store.add_sweep(make_sweep())
        watched = WatchedStore.open(url)
        before = watched.pulse(sweep)
        assert watched.pulse(sweep) == before
        assert claim_one(store, sweep, pair="demo", actor="a", lease_seconds=60)
        assert watched.pulse(sweep) != before
        told = client.get("/sweeps/1/pulse").json()
        assert told["pulse"] == watched.pulse(sweep).text
        assert 2.0 <= told["again_seconds"] <= 10.0
        assert "Renewal due in" in client.get("/cluster").text


def pulse_of(client: TestClient, page: str) -> tuple[str, str]:
    """Return the pulse that a page is of, and what its script is told of it now."""
    text = client.get(page).text
    address, seen = (re.search(f'data-{name}="([^"]*)"', text) for name in ("pulse", "seen"))
    assert address
    assert seen
    return seen[1], client.get(address[1]).json()["pulse"]


@pytest.mark.usefixtures("unheld")
def test_a_page_of_ages_is_made_again_while_anything_is_claimed_or_leased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a renewed claim nor a silent actor is an event."""
    monkeypatch.setattr(app, "_AGE_SECONDS", 1e-9)
    url = database(tmp_path)
    with open_new(url) as store, client_of(url) as client:
        sweep_id = store.add_sweep(make_sweep())
        seen, told = pulse_of(client, "/cluster")
        assert seen == told
        claim = claim_one(store, sweep_id, pair="demo", actor="a", lease_seconds=60)
        assert claim
        for silent in (100.0, 300.0):
            assert store.renew_claim(claim, 60, silent_seconds=silent)
            assert f'class="bad">{silent // 60:.0f} min ' in client.get("/cluster").text
            seen, told = pulse_of(client, "/cluster")
            assert seen != told
        land_one(store, claim, make_result(claim.job))
        seen, told = pulse_of(client, "/cluster")
        assert seen == told
        assert store.acquire_lease(sweep_id, own_name(), 60)
        seen, told = pulse_of(client, "/cluster")
        assert seen != told


@pytest.mark.usefixtures("unheld")
def test_the_time_left_is_told_anew_while_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = database(tmp_path)
    with open_new(url) as store, client_of(url) as client:
        sweep_id = store.add_sweep(make_sweep(repeats=1))
        assert store.acquire_lease(sweep_id, own_name(), 60)
        for lands in (True, False):
            claim = claim_one(store, sweep_id, pair="demo", actor="a", lease_seconds=60)
            assert claim
            if lands:
                land_one(store, claim, make_result(claim.job))  # in 12.3 s
        client.get(f"/sweeps/{sweep_id}/report.csv")  # which waits for the report
        pages = ("/", f"/sweeps/{sweep_id}")
        for page in pages:
            assert re.search(r"≈ 1\d s", client.get(page).text), page
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute("UPDATE attempt SET started_at = datetime(started_at, '-8 seconds')")
        connection.close()
        monkeypatch.setattr(app, "_ESTIMATE_SECONDS", 1e-9)
        for page in pages:
            assert re.search(r"≈ [34]\.\d s<", client.get(page).text), page
            seen, told = pulse_of(client, page)
            assert seen != told, page
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute("UPDATE attempt SET started_at = datetime(started_at, '-8 seconds')")
        connection.close()
        for page in pages:
            assert ">longer than expected<" in client.get(page).text, page
        land_one(store, claim, make_result(claim.job))
        for page in pages:
            text = client.get(page).text
            assert "≈" not in text, page
            assert "not known yet" not in text, page


def test_who_watches_the_list_is_served_from_what_was_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(url := database(tmp_path))
    made, read = list[bool](), WatchedStore.sweeps

    def counted(*args: Any, **kwargs: Any) -> Any:
        made.append(True)
        return read(*args, **kwargs)

    monkeypatch.setattr(WatchedStore, "sweeps", counted)
    monkeypatch.setattr(reports, "_BEAT", 60.0)  # longer than this takes, ...
    monkeypatch.setattr(reports, "_SLOWEST_BEAT", 60.0)
    with client_of(url) as client:
        for _ in range(20):
            assert "four-step" in client.get("/").text
            assert client.get("/pulse").json()["again_seconds"] > 2.0  # ... as scripts are told
        assert len(made) == 1
        assert "No sweep matches" in client.get("/?q=nothing").text


def test_a_comparison_is_of_the_pulses_of_its_reports_and_no_later_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = database(tmp_path)
    for name in ("one", "other"):
        fill(url, make_sweep(name))
    with client_of(url) as client, Store.open(url, create=False) as store:
        client.get("/compare/1/2.csv")  # which waits for the comparison
        store.retry(2)  # which is noted, though nothing failed
        old, _ = pulse_of(client, "/compare?a=1&b=2")
        monkeypatch.setattr(reports, "_SLOWEST_BEAT", 0.0)
        new = client.get("/compare/1/2/pulse").json()["pulse"]
        assert old != new
        client.get("/compare/1/2.csv")
        assert pulse_of(client, "/compare?a=1&b=2") == (new, new)


@pytest.mark.usefixtures("unheld")
@pytest.mark.parametrize(
    ("page", "reader"),
    [
        ("/", "sweeps"),
        ("/cluster", "cluster"),
        ("/compare", "names"),
        ("/sweeps/1/jobs", "jobs"),
        ("/jobs/1", "job"),
    ],
)
def test_what_happens_while_a_page_is_made_is_news_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str, reader: str
) -> None:
    """A page's pulse is of no later moment than what it shows, so that it is fetched again."""
    url = database(tmp_path)
    with open_new(url) as store, client_of(url) as client:
        sweep_id, read = store.add_sweep(make_sweep()), getattr(WatchedStore, reader)

        def read_before_a_change(*args: Any, **kwargs: Any) -> Any:
            found = read(*args, **kwargs)
            store.retry(sweep_id)
            return found

        monkeypatch.setattr(WatchedStore, reader, read_before_a_change)
        seen, told = pulse_of(client, page)
        assert seen != told


@pytest.mark.usefixtures("unheld")
def test_time_left_comes_from_calibration_first_and_then_from_what_is_done(tmp_path: Path) -> None:
    url = database(tmp_path)
    fill(url)  # which leaves a calibration of the pair: 1 s for every token
    with Store.open(url, create=False) as store, client_of(url) as client:
        again = store.add_sweep(make_sweep("again"))
        assert store.acquire_lease(again, own_name(), 60)
        watched = WatchedStore.open(url)
        jobs_and_own_runs, prompts, tokens = 4 + 1, 2, 4
        first = watched.outline(again).time_left
        [machine] = first.calibrations if first else ()
        assert re.fullmatch(r"of 20\d\d-\d\d-\d\d on an unknown processor, 2 cores", machine)
        seconds = jobs_and_own_runs * prompts * tokens
        assert first == TimeLeft(seconds=seconds, basis=Basis.CALIBRATION, calibrations=(machine,))
        page = client.get(f"/sweeps/{again}").text
        assert f"from calibration {machine}" in page
        assert "≈ 40 s" in page
        assert "as if every row were as fast as the target alone" in page
        assert "≈ 40 s" in client.get("/").text

        claim = claim_one(store, again, pair="demo", actor="actor-1", lease_seconds=60)
        assert claim
        land_one(store, claim, make_result(claim.job))  # in 12.3 s
        then = watched.outline(again).time_left
        assert then
        assert then.basis is Basis.DONE_JOBS
        assert then.seconds == pytest.approx(3 * 12.3456789 + prompts * tokens, abs=0.5)
        assert "from what done jobs took" in client.get("/").text
        watched.close()


def test_time_left_counts_each_pairs_own_length(tmp_path: Path) -> None:
    """Of a sweep with several generation settings: 4 tokens a prompt here, 20 there, a second each."""
    url = database(tmp_path)
    fill(url)
    both = make_sweep("both", pairs=("demo at 4 new tokens", "demo at 20 new tokens"))
    settings = {
        name: GenerationSpec(max_new_tokens=n) for name, n in zip(both.prompt_sets, (4, 20), strict=True)
    }
    pairs = {
        pair.spec.name: replace(pair, spec=replace(pair.spec, generation=settings[pair.spec.name]))
        for pair in both.pairs
    }
    jobs = (
        replace(job, pair=pairs[job.pair.spec.name], generation=settings[job.pair.spec.name])
        for job in both.jobs
    )
    with Store.open(url, create=False) as store:
        sweep_id = store.add_sweep(replace(both, pairs=tuple(pairs.values()), jobs=tuple(jobs)))
        assert store.acquire_lease(sweep_id, own_name(), 60)
        assert store.record(sweep_id).generations == settings
        watched = WatchedStore.open(url)
        left = watched.outline(sweep_id).time_left
        watched.close()
    jobs_and_own_runs, prompts = 4 + 1, 2
    assert left
    assert left.seconds == jobs_and_own_runs * prompts * (4 + 20)


def test_a_pair_of_which_nothing_is_known_is_named_beside_the_time_left(tmp_path: Path) -> None:
    url = database(tmp_path)
    fill(url)
    both = make_sweep("both", pairs=("demo", "large"))
    strange = replace(both.pairs[1], target_digest=digest("never seen"))
    with Store.open(url, create=False) as store, client_of(url) as client:
        sweep_id = store.add_sweep(replace(both, pairs=(both.pairs[0], strange)))
        assert store.acquire_lease(sweep_id, own_name(), 60)
        page = client.get(f"/sweeps/{sweep_id}").text
        assert "≈ 40 s or more" in page
        assert "as fast as the target alone; not known: large</small>" in page


@pytest.mark.usefixtures("unheld")
def test_time_left_is_not_claimed_before_anything_is_known_nor_without_a_controller(tmp_path: Path) -> None:
    url = database(tmp_path)
    with open_new(url) as store, client_of(url) as client:
        sweep_id = store.add_sweep(make_sweep())
        assert "≈" not in client.get("/").text
        assert store.acquire_lease(sweep_id, own_name(), 60)
        assert "not known yet" in client.get("/").text
        assert "not known yet" in client.get(f"/sweeps/{sweep_id}").text


@pytest.mark.usefixtures("unheld")
def test_the_cluster_page_tells_when_an_actor_was_heard_and_where_it_runs(tmp_path: Path) -> None:
    url = database(tmp_path)
    node = "node-1"
    with open_new(url) as store, client_of(url) as client:
        sweep_id = store.add_sweep(make_sweep())
        claim = claim_one(store, sweep_id, pair="demo", actor="actor-2", lease_seconds=60, node=node)
        assert claim
        page = html.unescape(client.get("/cluster").text)
        assert "not yet</span>" in page
        assert f'title="{node}"' in page
        assert store.renew_claim(claim, 60, silent_seconds=3.0)
        watched = WatchedStore.open(url)
        [actor] = watched.cluster().at_work
        assert (actor.node, actor.pair, actor.job_id) == (node, "demo", claim.job_id)
        assert actor.heard_seconds == pytest.approx(3.0, abs=1.5)
        assert actor.facts == {}
        land_one(store, claim, make_result(claim.job, actor="actor-2"))
        assert claim_one(store, sweep_id, pair="demo", actor="actor-2", lease_seconds=60, node=node)
        [actor] = watched.cluster().at_work
        assert actor.heard_seconds == pytest.approx(0.0, abs=1.5)  # it has just landed a job
        assert actor.facts["cores"] == 2
        assert "schema" in client.get("/cluster").text
        watched.close()


def test_the_cluster_page_has_the_longest_silent_first_and_counts_those_that_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors, "_ACTORS_SHOWN", 2)
    url = database(tmp_path)
    with open_new(url) as store:
        sweep_id = store.add_sweep(make_sweep())
        for actor in ("landed-1", "landed-2", "landed-3"):
            claim = claim_one(store, sweep_id, pair="demo", actor=actor, lease_seconds=60)
            assert claim
            land_one(store, claim, make_result(claim.job, actor=actor))
        other = store.add_sweep(make_sweep("other"))
        for actor, silent in (("a-1", 5.0), ("a-2", None), ("a-3", 500.0)):
            claim = claim_one(store, other, pair="demo", actor=actor, lease_seconds=60)
            assert claim
            assert store.renew_claim(claim, 60, silent_seconds=silent)
        watched = WatchedStore.open(url)
        cluster = watched.cluster()
        watched.close()
        assert [actor.actor for actor in cluster.at_work] == ["a-3", "a-1"]
        assert (cluster.at_work_total, cluster.known_total) == (3, 3)
    with client_of(url) as client:
        assert client.get("/cluster").text.count("and 1 more") == 2


def test_the_node_of_every_attempt_is_shown_that_of_failed_ones_too(tmp_path: Path) -> None:
    url = database(tmp_path)
    with open_new(url) as store, client_of(url) as client:
        sweep_id = store.add_sweep(make_sweep())
        for node in ("node-a", "node-b"):
            claim = claim_one(store, sweep_id, pair="demo", actor=f"on-{node}", lease_seconds=60, node=node)
            assert claim
            here = Environment(digest=digest(node), facts={"gpu": f"the GPU of {node}"})
            where = Whereabouts(host=f"host-of-{node}", environment=here)
            store.fail(claim, error_class="PairError", message="no", final=node == "node-b", where=where)
        assert [attempt.node for attempt in store.attempts(claim.job_id)] == ["node-a", "node-b"]
        page = client.get(f"/jobs/{claim.job_id}").text
        assert store.planned_job(claim.job_id).pair.target_digest in page
        assert 'title="node-a"' in page
        assert 'title="node-b"' in page
        assert "host-of-node-a" in page
        assert "the GPU of node-b" in page


def test_two_sweeps_are_compared_as_the_command_compares_them(tmp_path: Path) -> None:
    url = database(tmp_path)
    fill(url)
    fill(url, make_sweep("other <b>"))
    compared = compare_reports(read_side("1", url), read_side("2", url))
    with client_of(url) as client:
        client.get("/compare/1/2.csv")  # which waits for the comparison
        page = html.unescape(client.get("/compare?a=1&b=2").text)
        [pair] = compared_pairs(compared)
        for row in pair.rows:
            for cell in row.cells:
                assert f">{cell}</" in page
        for text in [*pair.notes.texts, *remarks(compared)]:
            assert text in page
        assert client.get("/compare/1/2.csv").text == comparison_csv(compared)
        assert client.get("/compare/1/2.md").text == comparison_markdown(compared)
        assert client.get("/compare/1/2.json").json() == json.loads(
            json.dumps(comparison_json(compared, None))
        )
        assert "<b>" not in client.get("/compare?a=1&b=2").text.replace("<b>[", "")
        for address in ("/", "/sweeps/1", "/sweeps/1/explore", "/sweeps/1/jobs"):
            assert 'href="/compare' in client.get(address).text, address


def test_comparing_says_what_is_missing_and_what_cannot_be_compared(tmp_path: Path) -> None:
    url = database(tmp_path)
    fill(url)
    other = make_sweep("other")
    renamed = {
        one.label: replace(one, label=f"other {one.label}", method=Method.LINEAR, params={"k": number + 1})
        for number, one in enumerate(other.spec.configurations)
    }
    strange = replace(
        other,
        spec=replace(
            other.spec, configurations=tuple(renamed.values()), baseline=f"other {other.spec.baseline}"
        ),
        jobs=tuple(replace(job, configuration=renamed[job.configuration.label]) for job in other.jobs),
    )
    fill(url, strange)
    with client_of(url) as client:
        assert "Choose two sweeps" in client.get("/compare").text
        assert "Choose two sweeps" in client.get("/compare?a=1").text
        assert "Choose two sweeps" in client.get("/compare?a=1&b=x").text
        assert "the same sweep" in client.get("/compare?a=1&b=1").text
        assert client.get("/compare/1/2.csv").status_code == 400
        assert "have no row in common" in client.get("/compare?a=1&b=2").text
        assert client.get("/compare?a=1&b=99").status_code == 404
        assert client.get("/compare/1/99.csv").status_code == 404
        assert client.get("/compare/1/1.pdf").status_code == 404


def test_one_is_not_counted_as_several(client: TestClient, tmp_path: Path) -> None:
    with open_new(url := database(tmp_path)) as store:
        store.add_sweep(make_sweep())
    with client_of(url) as one:
        assert "1 sweep</span>" in one.get("/").text
    assert "2 sweeps</span>" in client.get("/").text
    assert "2 samples</span>" in client.get("/jobs/1").text


def test_sweeps_are_searched_by_name_and_number_and_paged(tmp_path: Path) -> None:
    url = database(tmp_path)
    with open_new(url) as store:
        for number in range(60):
            store.add_sweep(make_sweep(f"sweep_{number}%"))
    watched = WatchedStore.open(url)
    first, second = watched.sweeps(), watched.sweeps(number=2)
    assert [sweep.id for sweep in (*first.items, *second.items)] == list(range(60, 0, -1))
    assert (first.total, first.last) == (60, 2)
    assert [sweep.name for sweep in watched.sweeps(search="7%").items] == [
        f"sweep_{number}%" for number in (57, 47, 37, 27, 17, 7)
    ]
    assert [sweep.id for sweep in watched.sweeps(search="12").items] == [13, 12]
    assert watched.sweeps(search="_%").total == 0  # no wildcards


def test_an_empty_database_says_how_to_begin(tmp_path: Path) -> None:
    url = database(tmp_path)
    open_new(url).close()
    with client_of(url) as client:
        assert "dyna-eval submit" in client.get("/").text


def test_a_missing_database_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="there is no database"):
        WatchedStore.open(database(tmp_path))


def test_the_seconds_of_a_phase_that_a_round_lacks_are_unknown_as_in_reports() -> None:
    sample = make_sample()
    seconds, summed = time_line(sample).phase_seconds, sum_rounds(sample)
    assert seconds["draft"] is None
    assert (seconds["grow"], seconds["verify"]) == (summed.grow_seconds, summed.verify_seconds)


def test_what_a_legend_says_is_read_aloud_and_cut_rounds_are_not_called_all(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = client.get("/jobs/1/prompts/0").text
    [legend] = re.findall(r'<div class="legend"[^>]*>', page)
    assert "aria-hidden" not in legend
    assert "<summary>All rounds as a table</summary>" in page
    monkeypatch.setattr(time_line, "__kwdefaults__", {"most": 2})
    assert "<summary>The first 2 rounds as a table</summary>" in client.get("/jobs/1/prompts/0").text
    for address in ("/jobs/1", "/sweeps/1/jobs"):
        assert ">Failed tries</" in client.get(address).text


def test_a_draft_tree_is_drawn_and_told_in_words(client: TestClient) -> None:
    page = html.unescape(client.get("/jobs/1/prompts/0/trees/0").text)
    assert page.count('<circle class="bonus"') == 2  # in the legend and in the tree
    assert "␣a, token 5: accepted, probability 0.700, of the whole path 0.700" in page
    assert "⏎, token 7: pruned, probability 0.333, of the whole path 0.233" in page
    assert "</svg>, token 8: the bonus token" in page
    assert "&lt;/svg&gt;" in client.get("/jobs/1/prompts/0/trees/0").text
    assert "bonus token, the target" not in client.get("/jobs/1/prompts/0/trees/1").text
    assert client.get("/jobs/1/prompts/0/trees/2").status_code == 404


def test_a_trees_drawing_puts_no_two_nodes_on_one_place() -> None:
    drawing = draw(TREE)
    assert len({(node.x, node.y) for node in drawing.nodes}) == len(TREE.nodes) + 1
    assert len(drawing.edges) == len(TREE.nodes)
    assert (drawing.accepted, drawing.pruned) == (1, 1)


def test_phases_have_the_names_that_they_have_in_the_figures_of_a_paper(url: str, client: TestClient) -> None:
    report = build_report(WatchedStore.open(url).record(1), allow_mixed=True)
    shown = figure_of(report, report.pairs[0], "phases")
    assert shown.figure
    assert [trace["name"] for trace in shown.figure["data"]] == list(PHASE_NAMES.values())
    assert "</svg>acceptance and caches" in client.get("/jobs/1/prompts/0").text


def test_a_figure_that_leaves_rows_out_says_so_on_the_page_and_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(url := database(tmp_path))
    with client_of(url) as client:
        client.get("/sweeps/1/report.csv")  # which waits for the report
        for name in FIGURES:
            assert client.get(f"/sweeps/1/figures/0/{name}").json()["note"] == "", name
    for limit in ("MAX_ROWS", "_MOST_PHASES", "_MOST_CURVES"):
        monkeypatch.setattr(figures, limit, 1)
    notes = {
        "ablation": "The first 1 of 2 rows with a result.",
        "speedup": "The first 1 of 2 rows with a speedup and an acceptance length.",
        "phases": "The first 1 of 2 rows whose phases were timed.",
        "depth": "",  # only one row drafts
    }
    with client_of(url) as client:
        client.get("/sweeps/1/report.csv")
        for name, note in notes.items():
            assert client.get(f"/sweeps/1/figures/0/{name}").json()["note"] == note
    watched = WatchedStore.open(url)
    file = to_html(build_report(watched.record(1), allow_mixed=True), watched, prompts=0)
    watched.close()
    for note in filter(None, notes.values()):
        assert f'<p class="quiet">{note}</p></figure>' in file
    drafting = build_report(record([(BASELINE, 90.0), *GRID]))
    shown = figure_of(drafting, drafting.pairs[0], "depth")
    assert shown.note == "The first 1 of 4 rows that draft."


def imported(file: Path) -> Report:
    sweep = ImportedSweep(id=1, name="theirs", created_at="2026-01-02T03:04:05Z", files=(import_file(file),))
    return imported_report(sweep, allow_mixed=True)


def test_a_figure_that_nothing_is_to_come_of_says_what_imported_figures_lack(tmp_path: Path) -> None:
    theirs = imported(write(tmp_path, "theirs.json", dynatree([baseline(), linear(6, 150.0)])))
    for name, lacking in (("phases", "phase times"), ("depth", "acceptance by depth")):
        shown = figure_of(theirs, theirs.pairs[0], name)
        assert shown.figure is None
        assert shown.note == f"There is nothing to draw: the imported figures have no {lacking}."
    assert set(figures_of(theirs, theirs.pairs[0])) == {"ablation", "speedup"}
    ours = imported(write(tmp_path, "ours.json", to_json(build_report(record()))))
    assert figure_of(ours, ours.pairs[0], "phases").figure  # a report of our own tells them


@pytest.mark.parametrize(
    ("state", "yet"), [(JobState.QUEUED, " yet"), (JobState.RUNNING, " yet"), (JobState.FAILED, "")]
)
def test_a_figure_without_data_says_why_and_yet_only_where_rows_are_to_come(
    state: JobState, yet: str
) -> None:
    report = build_report(record(states={row.label: state for row, _ in FOUR_STEPS}))
    shown = figure_of(report, "demo", "ablation")
    assert (shown.figure, shown.note) == (None, f"There is nothing to draw{yet}: there is no finished row.")
    begun = change_jobs(
        record([(BASELINE, 90.0), *chains([4])], states={"K=4": JobState.FAILED}),
        BASELINE.label,
        repeats=[1, 2],
        state=state,
        samples=(),
    )
    shown = figure_of(build_report(begun), "demo", "depth")
    assert (shown.figure, shown.note.startswith(f"There is nothing to draw{yet}: ")) == (None, True)


@pytest.mark.parametrize("rows", [1, 9, 60, 100, 101])
def test_the_figure_of_phases_is_as_high_as_its_rows_need(rows: int) -> None:
    """Its usual height has room for some ten names beside the bars."""
    failed = {f"K={k}": JobState.FAILED for k in (3, 4)}  # which leave no gap
    steps = [(BASELINE, 90.0), *chains(range(1, rows if rows == 1 else rows + 2))]
    shown = figure_of(build_report(record(steps, prompts=2, repeats=1, states=failed)), "demo", "phases")
    assert shown.figure
    lines = list(range(min(rows, 100)))
    assert [list(trace["y"]) for trace in shown.figure["data"]] == [lines] * len(PHASE_NAMES)
    axis, height = shown.figure["layout"]["yaxis"], shown.figure["layout"].get("height")
    assert (list(axis["tickvals"]), len(axis["ticktext"])) == (lines, len(lines))
    assert shown.note == ("The first 100 of 101 rows whose phases were timed." if rows > 100 else "")
    assert height is None if rows < 10 else height > 330 and height / len(lines) >= 16


@pytest.mark.parametrize("name", ["ablation", "speedup", "explored"])
def test_figures_of_few_prompts_show_their_values_and_say_that_intervals_go_on(name: str) -> None:
    """Of two prompts of which one takes 1.5 times as long, the interval's end is 12 times the mean."""
    for prompts, is_cut in ((2, True), (8, False)):
        few = record([(BASELINE, 90.0), *GRID], prompts=prompts, repeats=1)
        report = build_report(slow_prompt(slow_prompt(few, 1.5), 1.5, but=BASELINE.label))
        if name == "explored":
            found = explored(report, x="depth", curve="branch", y="speedup")
            figure, note = found.figure, " ".join(found.notes)
        else:
            shown = figure_of(report, "demo", name)
            figure, note = shown.figure, shown.note
        assert figure
        bars = [trace for trace in figure["data"] if "error_y" in trace]
        values = [float(y) for trace in bars for y in trace["y"]]
        assert (CUT_OFF in note) is is_cut
        ends = figure["layout"]["yaxis"].get("range")
        assert (ends is not None) is is_cut
        if ends:
            assert ends[0] == 0.0 and max(values) < ends[1] < 3.2 * max(values)
        if name == "ablation":
            words = figure["data"][1]
            assert all(("▲" in text) is is_cut for text in words["text"][1:])
            if ends:
                assert max(words["y"]) < ends[1]  # room for what stands over the bars


def test_a_figure_is_not_waited_for_while_the_first_report_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few watchers of a long report would else keep everyone waiting; a known one answers meanwhile."""
    url, free = database(tmp_path), threading.Event()
    free.set()
    fill(url)
    build = reports.build_report

    def held_up(*args: Any, **kwargs: Any) -> Report:
        free.wait(120)
        return build(*args, **kwargs)

    monkeypatch.setattr(reports, "build_report", held_up)
    monkeypatch.setattr(reports, "_SLOWEST_BEAT", 0.0)
    monkeypatch.setattr(app, "_PATIENCE", 0.05)
    with client_of(url) as client, Store.open(url, create=False) as store:
        free.clear()
        early = client.get("/sweeps/1/figures/0/ablation")
        assert (early.status_code, early.json()) == (202, None)
        free.set()
        client.get("/sweeps/1/report.csv")  # which waits for the report
        known = client.get("/sweeps/1/figures/0/ablation")
        assert known.status_code == 200
        free.clear()
        store.retry(1)  # so that a newer one is built
        assert client.get("/sweeps/1/figures/0/ablation").json() == known.json()
        free.set()


@pytest.mark.usefixtures("unheld")
def test_an_explored_figure_is_live_too(tmp_path: Path) -> None:
    url = database(tmp_path)
    with open_new(url) as store, client_of(url) as client:
        sweep_id = store.add_sweep(make_sweep(repeats=1))

        def explored_page() -> str:
            client.get(f"/sweeps/{sweep_id}/report.csv")  # which waits for the report
            seen, told = pulse_of(client, f"/sweeps/{sweep_id}/explore?y=throughput&kind=front")
            assert seen == told != ""
            return client.get(f"/sweeps/{sweep_id}/explore?y=throughput&kind=front").text

        assert '<script type="application/json" id="chosen">null</script>' in explored_page()
        assert "There is nothing to draw" in explored_page()
        claim = claim_one(store, sweep_id, pair="demo", actor="a", lease_seconds=60)
        assert claim
        land_one(store, claim, make_result(claim.job))
        [figure] = re.findall(r'id="chosen">(.*?)</script>', explored_page())
        assert json.loads(figure)["data"]


def test_exploring_takes_any_choice_and_names_no_other_parameter(client: TestClient) -> None:
    for query in (
        "",
        "?kind=heat&x=depth&curve=branch",
        "?kind=front",
        "?x=nothing&y=nothing&row=<b>&kind=7",
    ):
        answer = client.get(f"/sweeps/1/explore{query}")
        assert answer.status_code == 200, query
        assert "<b>" not in answer.text


def trees(*settings: tuple[int, int, float]) -> list[tuple[Configuration, float]]:
    """Return rows of a tree method by depth, branch and speed."""
    return [
        (
            replace(
                PRUNED,
                label=f"{depth}/{branch}/{speed}",
                params={**PRUNED.params, "depth": depth, "branch": branch},
            ),
            speed,
        )
        for depth, branch, speed in settings
    ]


GRID = trees((2, 1, 201.0), (2, 2, 202.0), (10, 1, 301.0), (10, 2, 402.0))


def chains(lengths: Iterable[int]) -> list[tuple[Configuration, float]]:
    rows = [Configuration(label=f"K={k}", method=Method.LINEAR, params={"k": k}) for k in lengths]
    return [(row, 100.0 + number) for number, row in enumerate(rows)]


def explored(report: Report, **query: str) -> Explored:
    return explore(report, Choice.of(query, report.rows))


def with_memory(report: Report, gibibytes: dict[str, int]) -> Report:
    """Return a report whose rows took so much memory; those that are not named took nobody knows how much."""
    sizes = {label: size * 2**30 for label, size in gibibytes.items()}
    rows = tuple(replace(row, peak_memory_bytes=sizes.get(row.label)) for row in report.rows)
    return replace(report, rows=rows)


def test_a_heat_map_has_a_square_for_each_pair_of_values() -> None:
    heat = explored(build_report(record([(BASELINE, 90.0), *GRID])), kind="heat", x="depth", curve="branch")
    assert heat.figure
    [squares] = heat.figure["data"]
    assert set(zip(squares["x"], squares["y"], strict=True)) == {
        ("2", "1"),
        ("10", "1"),
        ("2", "2"),
        ("10", "2"),
    }


def test_curves_hide_no_row_that_differs_in_what_nobody_chose() -> None:
    """All four rows are points, two on each curve, though only the depth is asked for."""
    curves = explored(build_report(record([(BASELINE, 90.0), *GRID])), x="depth", curve="", y="throughput")
    assert curves.figure
    points = {trace["name"]: values_of_x(curves.figure, trace) for trace in curves.figure["data"]}
    assert points == {"B = 1": ["2", "10"], "B = 2": ["2", "10"]}
    assert any("Baseline" not in note and "baseline" in note for note in curves.notes)


def values_of_x(figure: dict[str, Any], trace: dict[str, Any]) -> list[str]:
    """Return the values that a trace's points stand at, or a little beside."""
    axis = figure["layout"]["xaxis"]
    return [axis["ticktext"][axis["tickvals"].index(round(x))] for x in trace["x"]]


def test_points_at_one_name_stand_beside_each_other_whatever_their_values() -> None:
    """Each of two pairs has two trees of one speed; the second's chain failed, so the first's is alone."""
    steps = [(BASELINE, 90.0), *chains([4]), *trees((2, 1, 180.0), (4, 1, 180.0))]
    report = build_report(record(steps, pairs=("greedy", "sampled"), noise=0.0))
    rows = tuple(
        replace(row, figures=None, state=RowState.FAILED) if (row.pair, row.step) == ("sampled", 2) else row
        for row in report.rows
    )
    figure = explored(replace(report, rows=rows), x="method", y="throughput").figure
    assert figure
    assert figure["layout"]["xaxis"]["ticktext"] == ["ar", "linear", "tree"]
    places = {
        trace["name"]: [
            round(float(x), 6) for x, y in zip(trace["x"], trace["y"], strict=True) if y is not None
        ]
        for trace in figure["data"]
    }
    assert places == {"greedy": [-0.06, 1.0, 1.82, 1.94], "sampled": [0.06, 2.06, 2.18]}


def test_many_points_at_one_name_keep_off_the_next_one() -> None:
    steps = [(BASELINE, 90.0), *chains(range(1, 40)), *trees((2, 1, 180.0))]
    figure = explored(build_report(record(steps, prompts=2, repeats=1)), x="method", y="throughput").figure
    assert figure
    [trace] = figure["data"]
    chain = [x for x in trace["x"] if round(x) == 1]
    assert len(chain) == len(set(chain)) == 39
    assert (min(chain), max(chain)) == pytest.approx((0.6, 1.4))


@pytest.mark.parametrize("measure", ["throughput", "acceptance"])
def test_curves_over_numbers_are_moved_a_little_as_a_whole(measure: str) -> None:
    """Their points would else lie on each other: of these two pairs, acceptance is the same everywhere."""
    steps = [(BASELINE, 90.0), *chains([2, 4, 8])]
    for pairs, shifts in ((("one",), [0.0]), (("one", "two"), [-0.03, 0.03])):
        report = build_report(record(steps, pairs=pairs))
        figure = explored(report, x="k", curve="pair", y=measure).figure
        assert figure
        moved = [
            [round(float(x) - place, 6) for place, x in enumerate(trace["x"])] for trace in figure["data"]
        ]
        assert moved == [[shift] * 3 for shift in shifts]
        assert values_of_x(figure, figure["data"][0]) == ["2", "4", "8"]


def test_rows_and_columns_of_panels_are_chosen_and_named() -> None:
    report = build_report(record([(BASELINE, 90.0), *GRID]))
    panels = explored(report, x="depth", curve="", column="branch", y="throughput").figure
    assert panels
    assert {note["text"] for note in panels["layout"]["annotations"]} >= {"B = 1", "B = 2"}
    assert len({trace["xaxis"] for trace in panels["data"]}) == 2


def test_the_front_joins_what_no_other_row_beats_in_memory_and_speed() -> None:
    sizes = {"2/1/201.0": 1, "2/2/202.0": 3, "10/1/301.0": 2, "10/2/402.0": 4}
    report = with_memory(build_report(record([(BASELINE, 90.0), *GRID])), sizes)
    front = explored(report, kind="front", y="throughput").figure
    assert front
    every, best = front["data"]
    assert list(every["x"]) == [1.0, 2.0, 3.0, 4.0]
    assert list(best["x"]) == [1.0, 2.0, 4.0]


def test_each_pair_has_a_front_of_its_own_without_rows_in_doubt() -> None:
    """The small pair is faster in less memory, and no alternative to the large one."""
    stored = record([(BASELINE, 90.0), *GRID], pairs=("small", "large"))
    report = build_report(change_jobs(stored, "10/2/402.0", conditions={"others_share": 0.5}))
    sizes = {"small": 1, "large": 8}
    rows = tuple(replace(row, peak_memory_bytes=2**30 * (sizes[row.pair] + row.step)) for row in report.rows)
    front = explored(replace(report, rows=rows), kind="front", y="throughput")
    assert front.figure
    lines = {trace["name"]: trace for trace in front.figure["data"] if trace["mode"] == "lines+markers"}
    assert {name: list(line["x"]) for name, line in lines.items()} == {
        "small": [2.0, 3.0, 4.0, 5.0],
        "large": [9.0, 10.0, 11.0, 12.0],
    }
    for trace in front.figure["data"]:
        assert all(trace["name"] in hover for hover in trace["hovertext"])
    assert "star" in front.figure["data"][0]["marker"]["symbol"]
    assert "Those with a star are not compared." in front.notes


def test_explored_figures_name_the_rows_without_a_result_and_join_nothing_across_them() -> None:
    some = trees((2, 1, 201.0), (4, 1, 210.0), (10, 1, 301.0), (2, 2, 202.0), (4, 2, 212.0), (10, 2, 402.0))
    report = build_report(record([(BASELINE, 90.0), *some], states={"4/1/210.0": JobState.FAILED}))
    for kind in ("curves", "heat", "front"):
        shown = explored(report, kind=kind, x="depth", curve="branch", y="throughput")
        assert "Not shown are rows without a result: 4/1/210.0 (failed)." in shown.notes, kind
    curves = explored(report, x="depth", curve="branch", y="throughput").figure
    assert curves
    assert {trace["name"]: [y is None for y in trace["y"]] for trace in curves["data"]} == {
        "B = 1": [False, True, False],
        "B = 2": [False, False, False],
    }


def stars(texts: Any) -> list[bool]:
    return [text.endswith("*") for text in texts]


def test_rows_that_load_slowed_have_a_star_in_every_figure_of_times_and_say_why() -> None:
    stored = record([(BASELINE, 90.0), *GRID])
    report = build_report(change_jobs(stored, "10/2/402.0", conditions={"others_share": 0.5}))
    reason = "other processes used up to 50 % of the cores while it was measured"
    last = [False, False, False, False, True]
    found = {name: shown.figure for name, shown in figures_of(report, report.pairs[0]).items()}
    assert found.keys() == FIGURES.keys()
    bars, numbers = found["ablation"]["data"]
    assert stars(numbers["text"]) == last
    assert [f"* {reason}" in text for text in bars["hovertext"]] == last
    [points] = found["speedup"]["data"]
    assert stars(points["text"]) == last
    phases = found["phases"]
    assert stars(phases["layout"]["yaxis"]["ticktext"]) == last
    assert f"* {reason}" in phases["data"][0]["hovertext"][-1]
    assert not any(stars(trace["name"] for trace in found["depth"]["data"]))


@pytest.mark.parametrize(("measure", "is_timed"), [("throughput", True), ("acceptance", False)])
def test_explored_rows_that_load_slowed_have_a_star_where_times_are_shown(
    measure: str, is_timed: bool
) -> None:
    stored = record([(BASELINE, 90.0), *GRID])
    report = build_report(change_jobs(stored, "10/2/402.0", conditions={"others_share": 0.5}))
    said = "* 10/2/402.0: other processes used up to 50 % of the cores while it was measured."
    last = [False, False, False, is_timed]
    heat = explored(report, kind="heat", x="depth", curve="branch", y=measure)
    curves = explored(report, x="depth", curve="branch", y=measure)
    front = explored(with_memory(report, {row.label: 1 for row in report.rows}), kind="front", y=measure)
    assert heat.figure
    assert curves.figure
    assert front.figure
    [squares] = heat.figure["data"]
    assert stars(squares["text"]) == last
    symbols = [symbol for trace in curves.figure["data"] for symbol in trace["marker"]["symbol"]]
    assert [symbol == "star" for symbol in symbols] == last
    assert ("star" in front.figure["data"][0]["marker"]["symbol"]) is is_timed
    for one in (heat, curves, front):
        assert (said in one.notes) is is_timed


def test_a_crowded_heat_map_has_a_star_for_a_square() -> None:
    """It has no room for numbers, at which the star would stand."""
    many = trees(*[(depth, branch, 100.0 + depth) for depth in range(2, 17) for branch in (1, 2)])
    report = build_report(change_jobs(record(many), many[0][0].label, conditions={"others_share": 0.5}))
    heat = explored(report, kind="heat", x="depth", curve="branch", y="throughput").figure
    assert heat
    [squares] = heat["data"]
    assert squares["mode"] == "markers"
    assert list(squares["marker"]["symbol"]).count("star") == 1


def test_explored_speedups_say_where_load_slowed_what_they_are_over() -> None:
    stored = record([(BASELINE, 90.0), *GRID])
    report = build_report(change_jobs(stored, BASELINE.label, conditions={"gpu_heat_share": 0.5}))
    said = "* Baseline (all speedups are over it): heat held the GPU's clocks down for up to 50 % of the time"
    for kind in ("curves", "heat", "front"):
        shown = with_memory(report, {row.label: 1 for row in report.rows if not row.is_baseline})
        notes = explored(shown, kind=kind, x="depth", curve="branch", y="speedup").notes
        assert any(note.startswith(said) for note in notes), kind


def test_methods_of_several_pairs_are_curves_by_pair_unless_asked_otherwise() -> None:
    steps = [(BASELINE, 90.0), (PRUNED, 180.0)]
    report = build_report(record(steps, pairs=("greedy", "sampled")))
    figure = explored(report, y="throughput").figure
    assert figure
    points = [(trace["name"], values_of_x(figure, trace)) for trace in figure["data"]]
    assert points == [("greedy", ["ar", "tree"]), ("sampled", ["ar", "tree"])]
    assert Choice.of({"x": "method"}, report.rows).curve == "pair"
    assert Choice.of({"x": "method", "curve": ""}, report.rows).curve == ""
    assert Choice.of({"x": "method", "row": "pair"}, report.rows).curve == ""
    assert Choice.of({}, build_report(record(steps)).rows).curve == ""
    swept_too = build_report(record([(BASELINE, 90.0), *GRID], pairs=("greedy", "sampled"))).rows
    assert Choice.of({"x": "method"}, swept_too).curve == "pair"


def test_one_parameter_is_not_chosen_twice_and_what_is_asked_for_stays() -> None:
    rows = build_report(record([(BASELINE, 90.0), *GRID])).rows
    assert Choice.of({"x": "depth", "curve": "depth"}, rows).curve == ""
    choice = Choice.of({"curve": "depth"}, rows)
    assert (choice.curve, choice.x) == ("depth", "branch")


def test_what_cannot_be_drawn_says_why() -> None:
    report = build_report(record([(BASELINE, 90.0), *GRID]))
    assert explored(with_memory(report, {}), kind="front").notes == (
        "There is nothing to draw: no row has both a speedup and a peak memory.",
    )
    assert "two different parameters" in explored(report, kind="heat", x="depth", curve="").notes[0]
    alone = build_report(record([(BASELINE, 90.0)]))
    assert explored(alone).figure is None


# ------------------------------------------------------------------------ colours


def _variables() -> dict[str, tuple[str, str]]:
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", asset("style.css").decode())
    return {name: (light, dark) for name, light, dark in found}


def _luminance(colour: str) -> float:
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of WCAG 2.2."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_chips_of_jobs_differ_by_more_than_their_colour() -> None:
    """Each state has a rule of its own beside that of a done job, whose frame is solid."""
    rules = dict(re.findall(r"\.job\.(\w+) { ([^}]+) }", asset("style.css").decode()))
    assert rules.keys() == set(JobState)
    marks = {
        state: re.findall(r"background|dotted|dashed|line-through", rule) for state, rule in rules.items()
    }
    assert marks["done"] == []
    assert len({tuple(mark) for mark in marks.values()}) == len(marks)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_marks_stand_out_as_wcag_aa_asks(theme: int) -> None:
    colours: dict[str, Any] = {name: both[theme] for name, both in _variables().items()}
    for ground in ("paper", "raised"):
        for name in ("ink", "quiet", "link", "good", "bad", "warn", "busy"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
        for name in ("edge", "calm", "alarm", *(f"series-{number}" for number in range(8))):
            assert contrast(colours[name], colours[ground]) >= 3.0, (name, ground)
    assert contrast(colours["paper"], colours["busy"]) >= 4.5  # the number of a running job
    assert contrast(colours["paper"], colours["calm"]) >= 4.5  # the number in a point


def test_a_killed_controller_is_not_called_running(tmp_path: Path) -> None:
    """Its lease still lives, and so does its claim; the commands say the same of it."""
    url = database(tmp_path)
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    holder = own_name().replace(f":{os.getpid()}:", f":{killed.pid}:")
    with open_new(url) as store:
        sweep_id = store.add_sweep(make_sweep())
        assert store.acquire_lease(sweep_id, own_name(), 60)
        claim_one(store, sweep_id, pair="demo", actor="a", lease_seconds=60)
        watched = WatchedStore.open(url)
        assert watched.outline(sweep_id).state == store.sweep_state(sweep_id) == SweepState.RUNNING

        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute("UPDATE controller_lease SET holder = ?", (holder,))
        connection.close()
        assert watched.outline(sweep_id).state == store.sweep_state(sweep_id) == SweepState.INTERRUPTED
        watched.close()
