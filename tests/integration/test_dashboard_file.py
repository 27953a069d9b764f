"""The file that `report --html` writes: what it holds of the dashboard, and what it leaves out."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from claims import claim_one, land_one
from dyna_eval_dashboards import export
from dyna_eval_dashboards.export import is_page, to_html
from dyna_eval_dashboards.safety import PLOTLY_STYLES
from dyna_eval_db.watching import WatchedStore
from measurements import make_result, make_sweep
from served import client_of, database, fill, hostile_sweep
from starlette.testclient import TestClient

from dyna_eval.reports.joined_report import joined_report
from dyna_eval.reports.measured_report import build_report
from tests.new_databases import open_new


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a database with a sweep of two rows and two repeats, of which one job failed."""
    url = database(tmp_path_factory.mktemp("file"))
    fill(url, hostile_sweep(), failed=True)
    return url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[TestClient]:
    with client_of(url) as client:
        yield client


def written(url: str, *, prompts: int = 2) -> str:
    store = WatchedStore.open(url)
    file = to_html(build_report(store.record(1), allow_mixed=True), store, prompts=prompts)
    store.close()
    return file


def held_pages(file: str) -> dict[str, str]:
    """Return the pages that a file holds, by their names."""
    return dict(re.findall(r'<article class="page[^"]*" id="([^"]+)"[^>]*>(.*?)</article>', file, re.DOTALL))


def of_kind(pages: dict[str, str], pattern: str) -> dict[str, str]:
    return {name: page for name, page in pages.items() if re.fullmatch(pattern, name)}


JOB, PROMPT, TREE = r"/jobs/\d+", r"/jobs/\d+/prompts/\d+", r"/jobs/\d+/prompts/\d+/trees/\d+"


def test_hostile_text_stays_out_of_its_scripts(url: str) -> None:
    file = written(url)
    assert "alert(1)" in file
    assert "<script>alert" not in file
    assert "<img" not in file.split("<script>")[0]
    assert file.count("</script>") == file.count("<script>") + file.count('<script type="application/json"')
    found = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', file)
    assert [json.loads(figure)["data"] for figure in found]


def test_a_row_that_lacks_a_job_is_counted_apart_from_configurations_without_figures(url: str) -> None:
    """One configuration was merged with another one."""
    page = html.unescape(written(url))
    assert "<summary>Left out: 1 configuration; Left out of rows above: 1 job</summary>" in page
    assert '<p class="quiet">2 prompts, 1 to 2 repeats' in page


def test_its_policy_names_its_own_scripts_and_style_and_nothing_else(url: str) -> None:
    file = written(url)
    policy = html.unescape(file.split('http-equiv="Content-Security-Policy" content="')[1].split('"')[0])
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    digests = {
        kind: {
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            for text in re.findall(rf"<{kind}>(.*?)</{kind}>", file, re.DOTALL)
        }
        for kind in ("script", "style")
    }
    assert len(digests["script"]) == 4
    assert set(allowed["script-src"].split()) == digests["script"]
    assert set(allowed["style-src"].split()) == digests["style"] | set(PLOTLY_STYLES.split())
    assert allowed["default-src"] == "'none'"


def test_it_is_known_as_a_file_of_ours(url: str) -> None:
    assert is_page(written(url).encode())
    assert not is_page(b"<!doctype html><title>of somebody else</title>")


def test_it_shows_of_a_job_a_prompt_and_a_draft_tree_what_the_dashboard_shows(
    url: str, client: TestClient
) -> None:
    """From the summary on; above it the dashboard has links to pages that a file lacks."""
    pages = held_pages(written(url))
    job = next(iter(of_kind(pages, JOB)))
    for address in (job, f"{job}/prompts/0", f"{job}/prompts/1", f"{job}/prompts/0/trees/1"):
        served = client.get(address).text.split("</main>")[0]
        served = re.sub(r'<nav class="paging".*?</nav>', "", served, flags=re.DOTALL)
        held = pages[address].replace('href="#/', 'href="/')
        parts = [page[page.index('<div class="summary">') :].split() for page in (held, served)]
        assert parts[0] == parts[1]
    assert pages[job].count('href="#/jobs') == 2  # of its two prompts


def test_each_of_its_links_leads_to_a_part_of_it(url: str) -> None:
    for prompts, pages in ((0, 3), (1, 9), (2, 15)):
        file = written(url, prompts=prompts).split("<script>")[0]
        links, names = re.findall(r'href="([^"]*)"', file), re.findall(r' id="([^"]+)"', file)
        assert all(link.startswith("#") for link in links)
        assert {link.removeprefix("#") for link in links} <= set(names)
        assert len(names) == len(set(names))
        assert len(held_pages(file)) == pages
        reached = {link.removeprefix("#") for link in links}
        assert set(held_pages(file)) - reached <= {"table"}


def test_it_has_the_first_done_job_of_each_row_with_as_many_prompts_as_asked_for(url: str) -> None:
    for prompts, texts in ((0, 0), (1, 2), (2, 4), (3, 4)):
        pages = held_pages(written(url, prompts=prompts))
        assert len(of_kind(pages, JOB)) == 2
        assert len(of_kind(pages, PROMPT)) == texts
        assert sum("<pre" in page for page in pages.values()) == texts


def test_a_row_without_a_done_job_has_none(tmp_path: Path) -> None:
    url = database(tmp_path)
    with open_new(url) as store:
        sweep_id = store.add_sweep(make_sweep())
        assert not of_kind(held_pages(written(url)), JOB)
        claim = claim_one(store, sweep_id, pair="demo", actor="a", lease_seconds=60)
        assert claim
        land_one(store, claim, make_result(claim.job))
        file = written(url)
        assert list(of_kind(held_pages(file), JOB)) == [f"/jobs/{claim.job_id}"]
        assert file.count(">prompts</a>") == 1


def test_of_joined_sweeps_it_names_all_and_holds_jobs_of_each(tmp_path: Path) -> None:
    url = database(tmp_path)
    for name in ("first", "second"):
        fill(url, make_sweep(name))
    store = WatchedStore.open(url)
    file = to_html(joined_report([store.record(1), store.record(2)], allow_mixed=True), store, prompts=1)
    store.close()
    pages = held_pages(file)
    assert '<span class="k">Sweeps</span> <span class="num">1, 2</span>' in pages["table"]
    assert len(of_kind(pages, JOB)) == 4
    assert '<span class="k">Sweep</span> <span class="num">1</span>' in held_pages(written(url))["table"]


def test_it_says_what_it_leaves_out(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "without their texts" in held_pages(written(url, prompts=0))["table"]
    for name in ("MAX_ROWS", "MAX_SAMPLES", "MAX_ROUNDS", "MAX_TREES"):
        monkeypatch.setattr(export, name, 1)
    pages = held_pages(written(url, prompts=1))
    assert "not of 1 further row" in pages["table"]
    assert "of the first one the texts, at most 1 round, and at most 1 draft tree" in pages["table"]
    [job], [prompt], [_] = (of_kind(pages, kind).values() for kind in (JOB, PROMPT, TREE))
    assert "1 of 2 samples; the dashboard lists all" in job
    assert "2 later rounds are not shown" in prompt
    assert "<summary>The first 1 round as a table</summary>" in prompt
    assert "of 2 stored; the dashboard draws all" in prompt
    assert "texts of prompts without a link" in of_kind(held_pages(written(url, prompts=0)), JOB).popitem()[1]
