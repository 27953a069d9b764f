"""The dashboard under odd requests, hostile rows, and a database that goes away or becomes another one."""

from __future__ import annotations

import html
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from claims import claim_one, land_one
from dyna_eval_dashboards.app import create_app
from dyna_eval_dashboards.comparing import Comparisons
from dyna_eval_dashboards.export import to_html
from dyna_eval_dashboards.reports import Reports
from dyna_eval_dashboards.safety import Access
from dyna_eval_dashboards.trees import draw
from dyna_eval_db import engine
from dyna_eval_db.store import Store
from dyna_eval_db.watching import WatchedStore
from measurements import TREE, make_result, make_sentinel, make_sweep
from served import client_of, database, fill
from starlette.testclient import TestClient

from dyna_eval.errors import DatabaseAwayError, InputError, MissingDatabaseError, UnknownSweepError
from dyna_eval.jobs import PromptSet, ResolvedSweep, digest
from dyna_eval.measurements import DraftTree, TreeNode
from dyna_eval.reports.measured_report import build_report
from dyna_eval.reports.sweep_comparison import SweepComparison
from tests.new_databases import open_new
from tests.postgres import Server


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    url = database(tmp_path_factory.mktemp("attacked"))
    fill(url)
    with client_of(url) as client:
        yield client


# ------------------------------------------------------------------------ requests

HUGE = "9" * 5000
"""More digits than Python turns into a number."""


@pytest.mark.parametrize(
    "address",
    [
        *(
            f"/sweeps/{number}"
            for number in ("-1", "0", "1.0", "1e3", "٣", "%00", "%31%00", 2**63, 2**70, HUGE)
        ),
        *(f"/jobs/{number}" for number in ("-1", 2**70, HUGE)),
        f"/jobs/1/prompts/{HUGE}",
        f"/jobs/1/prompts/0/trees/{HUGE}",
        f"/sweeps/1/figures/{HUGE}/ablation",
        f"/sweeps/1/ablation-{HUGE}.png",
        f"/compare/1/{HUGE}.csv",
        f"/compare/{2**63}/1.csv",
        f"/sweeps/{HUGE}/pulse",
        "/sweeps/9/pulse",
        "/static/../app.py",
        "/static/1/..%2fapp.py",
        "/sweeps/1/report.%00",
    ],
)
def test_an_address_of_nothing_is_not_found(client: TestClient, address: str) -> None:
    answer = client.get(address)
    assert answer.status_code == 404
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "query",
    [
        "page=-1",
        "page=0",
        f"page={HUGE}",
        "page=99999999",
        "page=%00",
        "page=٣",
        f"q={'x' * 10_000}",
        "q=%00%ff%ed%a0%80",
        "q=%25_%5C'%22;--",
        "sort=__class__&order=__class__",
        "state=__class__",
        "&&&=&=;&a=1&a=1",
        f"a={2**63}&b={HUGE}",
        "a=-1&b=%00",
        "kind=%00&x=%00&y=%00&row=%00",
    ],
)
def test_a_query_that_makes_no_sense_changes_nothing(client: TestClient, query: str) -> None:
    for path in ("/", "/cluster", "/compare", "/sweeps/1", "/sweeps/1/jobs", "/sweeps/1/explore", "/jobs/1"):
        assert client.get(f"{path}?{query}").status_code == 200, path


@pytest.mark.parametrize(
    "origin", ["http://[", "http://127.0.0.1:8470.evil", "null", "//127.0.0.1:8470/", ""]
)
def test_an_origin_that_is_not_ours_or_none_at_all_is_refused(client: TestClient, origin: str) -> None:
    assert client.get("/", headers={"origin": origin}).status_code == 403


def test_a_part_of_a_file_and_its_head_may_be_asked_for(client: TestClient) -> None:
    whole = client.get("/sweeps/1/report.csv")
    assert client.get("/sweeps/1/report.csv", headers={"range": "bytes=0-9"}).text == whole.text
    head = client.head("/sweeps/1/report.csv")
    assert (head.status_code, head.headers["content-type"]) == (200, whole.headers["content-type"])


def test_a_fault_of_ours_is_told_without_its_details_and_under_the_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: object) -> None:
        raise ZeroDivisionError("of the inside")

    fill(url := database(tmp_path))
    monkeypatch.setattr(WatchedStore, "cluster", fault)
    app = create_app(WatchedStore.open(url), Access.of("127.0.0.1"))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        answer = client.get("/cluster")
    assert answer.status_code == 500
    assert "of the inside" not in answer.text
    assert "a mistake of dyna-eval" in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'self';")


# -------------------------------------------------------------------------- access


EVERYWHERE = "0.0.0.0"  # noqa: S104 - nothing is bound to it


@pytest.mark.parametrize("bind", ["", " ", "::0", "0:0:0:0:0:0:0:0", "0", EVERYWHERE, "::"])
def test_an_address_that_is_every_address_needs_names(bind: str) -> None:
    with pytest.raises(InputError, match="--allow-host"):
        Access.of(bind)


@pytest.mark.parametrize(
    "name", ["", "http://gpu-box", "gpu-box/", "gpu-box:8470:1", "[::1", "a b", "me@gpu-box"]
)
def test_a_name_that_no_browser_sends_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="--allow-host"):
        Access.of(EVERYWHERE, allowed=(name,))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1/sweeps/2#",
        "127.0.0.1?",
        "127.0.0.1:80:80",
        "127.0.0.1 ",
        "[::1]x",
        "127.0.0.1\t:80",
        "127.0.0.1,evil",
    ],
)
def test_a_host_that_says_more_than_a_name_is_not_taken_for_ours(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 403


def test_the_token_is_found_among_other_programs_cookies(tmp_path: Path) -> None:
    """Browsers send those of every port of a host, in whatever form they were set."""
    fill(url := database(tmp_path))
    token = "a-token-of-some-length"  # noqa: S105 - guards nothing
    access = Access.of("10.1.2.3", token=token)
    with client_of(url, access) as client:
        client.base_url = "http://10.1.2.3:8470"
        for others in ('a={"x": 1, "y": [2]}', "a", "=", "a=b c", 'a="b; c"'):
            headers = {"cookie": f"{others}; {access.cookie}={token}; {others}"}
            assert client.get("/", headers=headers).status_code == 200, others


def test_two_dashboards_of_one_host_let_a_browser_in_beside_each_other(tmp_path: Path) -> None:
    fill(url := database(tmp_path))
    cookies: dict[str, str] = {}
    for token in ("a-token-of-some-length", "another-token-of-some-length"):
        with client_of(url, Access.of("10.1.2.3", token=token)) as client:
            client.base_url = "http://10.1.2.3:8470"
            cookies |= client.get(f"/?token={token}").cookies
    for token in ("a-token-of-some-length", "another-token-of-some-length"):
        with client_of(url, Access.of("10.1.2.3", token=token)) as client:
            client.base_url = "http://10.1.2.3:8470"
            assert client.get("/").status_code == 401
            client.cookies.update(cookies)
            assert client.get("/").status_code == 200


@pytest.mark.parametrize(
    "token", ["with a space and more", "with&ampersands&more", "mit-ümlauten-und-mehr", "x" * 15]
)
def test_a_token_that_an_address_cannot_hold_is_refused(token: str) -> None:
    with pytest.raises(InputError, match="16 characters or more"):
        Access.of("10.1.2.3", token=token)


# ---------------------------------------------------------------------------- rows

TEXTS = {
    "markup": "</script></title><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}{% raw %}",
    "control": "a\0b\x1b[31mc\rd\x7f\x85e\u2028f\u2029g",
    "surrogates": "a\ud800b\udfffc",
    "right to left": "\u202eabc\u2066def\u200f\u0627\u0644",
    "long": "x" * 100_000,
    "spaces": "\n \t\u3164\u2800",
}


def sweep_of(text: str) -> ResolvedSweep:
    """Return a sweep whose names, labels, prompts and categories are a text."""
    sweep = make_sweep(text[:80])
    rows = {
        row.label: replace(row, label=f"{text}{number}")
        for number, row in enumerate(sweep.spec.configurations)
    }
    prompts = {
        pair: PromptSet(
            digest=found.digest,
            prompts=tuple(replace(prompt, text=text, category=text) for prompt in found.prompts),
        )
        for pair, found in sweep.prompt_sets.items()
    }
    spec = replace(sweep.spec, configurations=tuple(rows.values()), baseline=rows[sweep.spec.baseline].label)
    jobs = tuple(replace(job, configuration=rows[job.configuration.label]) for job in sweep.jobs)
    return replace(sweep, spec=spec, digest=digest("of a text"), prompt_sets=prompts, jobs=jobs)


def run_with(store: Store, text: str) -> int:
    """Run a sweep by hand whose every text is the same, in results, trees, facts and errors too."""
    sweep_id = store.add_sweep(sweep_of(text))
    tree = replace(TREE, nodes=tuple(replace(node, text=text) for node in TREE.nodes), bonus_text=text)
    claims = iter(
        lambda: claim_one(store, sweep_id, pair="demo", actor=text, lease_seconds=60, node=text), None
    )
    for number, claim in enumerate(claims):
        assert claim
        if number == 2:
            store.fail(claim, error_class="ValueError", message=text, final=True)
            continue
        result = make_result(claim.job, actor=text, sentinels=[make_sentinel(text)])
        samples = tuple(replace(sample, text=text, trees=(tree,)) for sample in result.samples)
        environment = replace(result.environment, facts={"gpu": text, "cores": 2})
        land_one(store, claim, replace(result, node=text, samples=samples, environment=environment))
    return sweep_id


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_text_is_stored_and_shown_on_every_page_and_in_a_file_that_stands_alone(
    store: Store, database_url: str, text: str
) -> None:
    run_with(store, text)
    with client_of(database_url) as client:
        for ending in ("csv", "json", "tex", "md"):
            assert client.get(f"/sweeps/1/report.{ending}").status_code == 200
        for address in (
            "/",
            "/sweeps/1",
            "/sweeps/1/explore",
            "/sweeps/1/jobs",
            "/sweeps/1/figures/0/ablation",
            *(f"/jobs/{number}" for number in range(1, 5)),
            "/jobs/1/prompts/0",
            "/jobs/1/prompts/0/trees/0",
            "/cluster",
            "/compare",
        ):
            answer = client.get(address)
            assert answer.status_code == 200, address
            if answer.headers["content-type"].startswith("text/html"):
                assert answer.text.count("<script") == answer.text.count(
                    '<script src="/static/'
                ) + answer.text.count('<script type="application/json"')
                assert "<img" not in answer.text

    watched = WatchedStore.open(database_url)
    file = to_html(build_report(watched.record(1), allow_mixed=True), watched, prompts=2)
    watched.close()
    assert file.encode()
    shown = file.split("<script>")[0]
    assert 'id="/jobs/1/prompts/1/trees/0"' in shown
    assert "<img" not in shown
    assert shown.count("<script") == shown.count('<script type="application/json"')
    assert file.count("<script>") == 4
    assert "{{ 7*7 }}" not in text or "{{ 7*7 }}" in shown


def chain(levels: int) -> DraftTree:
    """Return the draft tree of a round that drafted one long chain, all of which was accepted."""
    nodes = tuple(
        TreeNode(
            token=level, text="a", parent=level - 1, probability=0.5, joint=0.5, verified=True, accepted=True
        )
        for level in range(levels + 1)
    )
    return DraftTree(nodes=nodes, bonus=1, bonus_text="b")


def test_a_chain_of_the_most_tokens_is_drawn_too(tmp_path: Path) -> None:
    drawing = draw(chain(1024))
    assert (len(drawing.nodes), len(drawing.edges), drawing.accepted) == (1026, 1025, 1024)
    url = database(tmp_path)
    with open_new(url) as store, client_of(url) as client:
        sweep_id = store.add_sweep(make_sweep())
        claim = claim_one(store, sweep_id, pair="demo", actor="a", lease_seconds=60)
        assert claim
        result = make_result(claim.job)
        samples = tuple(replace(sample, trees=(chain(1024),)) for sample in result.samples)
        land_one(store, claim, replace(result, samples=samples))
        page = client.get(f"/jobs/{claim.job_id}/prompts/0/trees/0").text
    outline = html.unescape(page.split('<details class="outline">')[1].split("</details>")[0])
    assert outline.count("<li") == outline.count("</li>") == 1026
    assert outline.count("<ul") == outline.count("</ul>") == 1026
    assert re.findall(r": ([a-z ]+)[,<]", outline)[:2] == ["the pending token", "accepted"]


# ------------------------------------------------------------------------ database


@pytest.mark.usefixtures("unheld")
def test_a_database_that_vanishes_is_missed_and_not_made_anew(tmp_path: Path) -> None:
    fill(url := database(tmp_path))
    file = Path(url.removeprefix("sqlite:///"))
    with client_of(url) as client:
        assert client.get("/").status_code == 200
        file.rename(tmp_path / "elsewhere")
        answer = client.get("/")
        assert answer.status_code == 503
        assert f"there is no database at {file}" in html.unescape(answer.text)
        assert not file.exists()
        (tmp_path / "elsewhere").rename(file)
        assert client.get("/").status_code == 200


def test_a_database_that_is_replaced_is_shown_as_it_is_now(tmp_path: Path) -> None:
    fill(url := database(tmp_path))
    (tmp_path / "new").mkdir()
    fill(other := database(tmp_path / "new"), make_sweep("another sweep"))
    with client_of(url) as client:
        assert "four-step" in client.get("/sweeps/1/report.md").text
        before = client.get("/sweeps/1/pulse").json()
        Path(other.removeprefix("sqlite:///")).replace(url.removeprefix("sqlite:///"))
        assert "another sweep" in client.get("/").text
        assert client.app  # the same application
        watched = WatchedStore.open(url)
        assert watched.pulse(1).text != before["pulse"], "a page that was made of the old one must not stay"
        watched.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "UPDATE dyna_eval_schema SET version_num = '9999'; DROP TABLE event",
            "a newer dyna-eval (schema 9999)",
        ),
        ("UPDATE dyna_eval_schema SET version_num = '0001'; DROP TABLE event", "run `dyna-eval db upgrade`"),
        ("DROP TABLE dyna_eval_schema; DROP TABLE event", "belongs to another program"),
    ],
)
def test_a_database_that_is_migrated_meanwhile_is_told_by_its_schema(
    tmp_path: Path, change: str, said: str
) -> None:
    fill(url := database(tmp_path))
    with client_of(url) as client:
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.executescript(f"PRAGMA foreign_keys = OFF; {change}")
        connection.close()
        answer = client.get("/cluster")
        assert answer.status_code == 503
        assert said in html.unescape(answer.text)


def test_a_locked_database_is_waited_for_a_moment_and_then_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "WATCHING_BUSY_SECONDS", 0.2)
    fill(url := database(tmp_path))
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    with client_of(url) as client:
        connection.execute("BEGIN EXCLUSIVE")
        answer = client.get("/")
        assert answer.status_code == 503
        assert "database is locked" in answer.text
        connection.execute("ROLLBACK")
        assert client.get("/").status_code == 200
    connection.close()


def test_connections_that_are_used_up_are_a_database_that_does_not_answer(
    postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres_server.empty()
    fill(postgres_server.url)
    watched = WatchedStore.open(postgres_server.url)
    held = [watched._engine.connect() for _ in range(15)]
    monkeypatch.setattr(watched._engine.pool, "_timeout", 0.1)
    with pytest.raises(DatabaseAwayError, match="connection"):
        watched.pulse(1)
    for connection in held:
        connection.close()
    assert watched.pulse(1)
    watched.close()


def test_a_sweep_that_is_deleted_is_not_found_any_more(tmp_path: Path) -> None:
    fill(url := database(tmp_path))
    with client_of(url) as client:
        assert client.get("/sweeps/1/report.csv").status_code == 200
        assert client.get("/sweeps/1").status_code == 200
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            for table in (
                "round",
                "draft_tree",
                "sample",
                "sentinel",
                "result",
                "attempt",
                "event",
                "job",
                "sweep",
            ):
                connection.execute(f"DELETE FROM {table}")  # noqa: S608  # names of ours
        connection.close()
        watched = WatchedStore.open(url)
        with pytest.raises(UnknownSweepError):
            watched.pulse(1)
        watched.close()
        assert client.get("/sweeps/1/jobs").status_code == 404
        assert client.get("/jobs/1").status_code == 404
        assert "No sweep yet" in client.get("/").text


def test_a_missing_database_stays_missing_for_all_who_ask_at_once(tmp_path: Path) -> None:
    fill(url := database(tmp_path))
    watched = WatchedStore.open(url)
    file = Path(url.removeprefix("sqlite:///"))
    file.unlink()
    missed = []

    def ask() -> None:
        try:
            watched.names()
        except MissingDatabaseError:
            missed.append(True)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(missed) == 20
    assert not file.exists()


def test_numbers_and_texts_that_no_column_takes_find_nothing(store: Store, database_url: str) -> None:
    sweep_id = store.add_sweep(make_sweep())
    claim = claim_one(store, sweep_id, pair="demo", actor="a", lease_seconds=60)
    assert claim
    land_one(store, claim, make_result(claim.job))
    with client_of(database_url) as client:
        largest = 10**18 - 1
        for address in (
            f"/sweeps/{largest}",
            f"/jobs/{largest}",
            f"/jobs/1/prompts/{largest}",
            "/jobs/1/prompts/2147483648",
        ):
            assert client.get(address).status_code == 404, address
        for query in ("q=%00", "q=%ed%a0%80", "page=99999999"):
            for path in ("/", "/sweeps/1/jobs", "/jobs/1"):
                assert client.get(f"{path}?{query}").status_code == 200, (path, query)


# --------------------------------------------------------------------- comparisons


def test_who_waits_for_a_comparison_that_is_replaced_gets_the_newer_one(tmp_path: Path) -> None:
    url, now, free = database(tmp_path), [0.0], threading.Event()
    fill(url)
    fill(url, make_sweep("other"))
    reports = Reports(WatchedStore.open(url), clock=lambda: now[0])
    comparisons = Comparisons(reports)
    comparisons._pool.submit(free.wait, 60)  # another one is being computed
    found: list[SweepComparison | None] = []
    waiting = threading.Thread(target=lambda: found.append(comparisons.latest(1, 2, patience=60)))
    waiting.start()
    while not comparisons._known:
        time.sleep(0.01)
    with Store.open(url, create=False) as store:
        store.retry(1)  # which is noted, though nothing failed
    now[0] += 60
    assert comparisons.latest(1, 2, patience=0.5) is None  # of newer reports
    free.set()
    waiting.join(60)
    assert [one is not None for one in found] == [True]
    comparisons.close()
    reports.close()
    reports.store.close()
