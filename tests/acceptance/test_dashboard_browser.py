"""The dashboard in a real browser, beside a real sweep."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dyna_eval_db.store import Claim
from workplace import SWEEP, Workplace, wait_until

from dyna_eval.holder import own_name
from dyna_eval.jobs import Configuration, Method
from dyna_eval.reports.measured_report import build_report
from dyna_eval.tables.report_json import to_json
from tests.integration.claims import claim_one, land_one
from tests.integration.measurements import make_result, make_sweep
from tests.new_databases import open_new
from tests.result_files import baseline, dynatree, linear, tree, write
from tests.unit.report_records import BASELINE, record

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = Path("/usr/bin/chromium")
if importlib.util.find_spec("playwright") is None:
    pytest.skip("playwright is not installed", allow_module_level=True)
if not CHROMIUM.exists():
    pytest.skip(
        f"there is no browser at {CHROMIUM}; Debian's package chromium has it", allow_module_level=True
    )

_QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
_QUIET += ["--disable-background-networking", "--disable-component-update"]
_LONGEST_BEAT = 12
"""Seconds within which a page has asked for what is new, however much the last report cost."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright  # noqa: PLC0415  # where it is installed

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_QUIET)
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def closed_pages(browser: Browser) -> Iterator[None]:
    """Close the pages of a test, which would go on asking their server."""
    yield
    for context in browser.contexts:
        context.close()


@contextmanager
def served(workplace: Workplace, **variables: str) -> Iterator[str]:
    """Run `dyna-eval dashboard` on a free port for the time of a block, and hand out its address."""
    process = workplace.start("dashboard", "--port", "0", **variables)
    assert process.stderr is not None
    line = process.stderr.readline()
    told = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert told, line
    try:
        yield told[0]
    finally:
        process.terminate()
        process.communicate(timeout=120)
    assert process.returncode in (0, 130)


class Watched:
    """A page of which every complaint and every request to elsewhere is noted."""

    def __init__(self, browser: Browser, address: str, **options: object) -> None:
        self.page: Page = browser.new_context(**options).new_page()  # type: ignore[arg-type]
        self.page.set_default_timeout(120_000)  # milliseconds; other tests keep this machine busy
        self.complaints: list[str] = []
        self.page.on(
            "console",
            lambda message: (
                self.complaints.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((address, "blob:", "data:"))
                else self.complaints.append(f"asks {request.url}")
            ),
        )


def written_report(
    browser: Browser, workplace: Workplace, *, width: int, height: int, **options: object
) -> Watched:
    """Write page.html, a report of the latest sweep, and open the file in a window of that size."""
    assert workplace.run_here("report", "--html", "page.html").status == 0
    watched = Watched(browser, "file:", viewport={"width": width, "height": height}, **options)
    watched.page.goto((workplace.folder / "page.html").as_uri())
    return watched


@pytest.fixture(scope="module")
def finished(new_workplace: Callable[[], Workplace]) -> Workplace:
    """A sweep that was run to its end."""
    workplace = new_workplace()
    workplace.write("small.yaml", SWEEP)
    workplace.sweep_here("small.yaml")
    return workplace


@pytest.fixture(scope="module")
def site(finished: Workplace) -> Iterator[str]:
    """The address of a dashboard of the finished sweep."""
    with served(finished) as address:
        yield address


@pytest.mark.slow
def test_a_page_follows_a_real_sweep_to_its_end_and_then_rests(
    browser: Browser, workplace: Workplace
) -> None:
    workplace.write("small.yaml", SWEEP)
    submit = workplace.start("submit", "small.yaml")
    wait_until(lambda: "small" in workplace.run_here("ls").stdout, submit)
    deadline = time.monotonic() + 600
    with served(workplace) as address:
        watched = Watched(browser, address)
        page = watched.page
        page.goto(f"{address}/sweeps/1")
        states = set()
        while time.monotonic() < deadline:
            states.add(page.locator(".summary .state").inner_text())
            if "done" in states:
                break
            page.wait_for_timeout(200)
        assert {"running", "done"} <= states
        page.wait_for_selector("tbody tr:has-text('Baseline') td:has-text('1.00 ×')")
        assert page.locator(".job.done").count() == page.locator(".job").count() > 0
        page.wait_for_selector(".js-plotly-plot")
        page.evaluate(
            "window.changes = 0; new MutationObserver((all) => { window.changes += all.length; })"
            ".observe(document.querySelector('main'), {subtree: true, childList: true})"
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:  # the last report comes a beat after the state
            page.evaluate("window.changes = 0")
            page.wait_for_timeout(1000 * _LONGEST_BEAT)
            if page.evaluate("window.changes") == 0:
                break
        else:
            pytest.fail("nothing happens any more, and the page moves still")
        assert watched.complaints == []
    _, stderr = submit.communicate()
    assert submit.returncode == 0, stderr


def test_a_live_page_misses_nothing_keeps_the_focus_and_says_what_the_database_lacks(
    browser: Browser, workplace: Workplace
) -> None:
    """By hand instead of by a controller, whose jobs would not wait for the page."""
    database = f"sqlite:///{workplace.database}"
    with open_new(database) as store:
        sweep_id = store.add_sweep(make_sweep("by-hand", repeats=3))
        holder = own_name()
        assert store.acquire_lease(sweep_id, holder, 600)

        def claimed() -> Claim:
            claim = claim_one(store, sweep_id, pair="demo", actor="a", lease_seconds=600)
            assert claim
            return claim

        def land() -> None:
            claim = claimed()
            land_one(store, claim, make_result(claim.job))

        store.fail(claimed(), error_class="ValueError", message="no", final=True)
        land()
        with served(workplace) as address:
            page, listed = (Watched(browser, address).page for _ in range(2))
            listed.goto(address)
            page.goto(f"{address}/sweeps/1")
            page.wait_for_selector(".job.done")
            explored = Watched(browser, address)
            explored.page.goto(f"{address}/sweeps/1/explore?y=throughput&kind=front")
            explored.page.wait_for_selector(".scatterlayer .point")
            explored.page.evaluate("window.stays = true")
            page.keyboard.press("/")
            for number, selector in enumerate(("input", "summary", ".scroll")):
                if selector != "input":
                    page.locator(f"main {selector}").first.focus()
                land()
                page.wait_for_selector(f":nth-match(.job.done, {number + 2})")
                assert page.evaluate("s => document.activeElement.matches(s)", selector), selector
            listed.wait_for_selector(".state.running")
            explored.page.wait_for_selector(":nth-match(.scatterlayer .point, 3)")
            assert explored.page.evaluate("window.stays")  # it was drawn anew, not loaded anew
            assert explored.complaints == []
            store.renew_lease(sweep_id, holder, 0)
            listed.wait_for_selector(".state.interrupted")

            store.close()
            elsewhere = workplace.database.with_suffix(".elsewhere")
            workplace.database.rename(elsewhere)
            page.wait_for_selector(".beat:text('the database does not answer')")
            elsewhere.rename(workplace.database)
            page.wait_for_selector(".beat:empty", state="attached")
            open_new(f"sqlite:///{elsewhere}").close()
            elsewhere.replace(workplace.database)
            page.wait_for_selector(".beat:text('no longer in the database')")


def test_a_link_on_another_site_leads_in_with_its_token_and_a_lost_cookie_is_told(
    browser: Browser, finished: Workplace
) -> None:
    token = "a-token-of-some-length"  # noqa: S105  # guards nothing
    with served(finished, DYNA_EVAL_DASHBOARD_TOKEN=token) as address:

        class Elsewhere(BaseHTTPRequestHandler):
            """Another site: a page with a link, as in a wiki."""

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/html")
                self.end_headers()
                self.wfile.write(f'<a href="{address}/sweeps/1?token={token}">the sweep</a>'.encode())

            def log_message(self, *_: object) -> None:
                """Say nothing on stderr."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as other:
            threading.Thread(target=other.serve_forever).start()
            page = browser.new_context().new_page()
            page.goto(f"http://localhost:{other.server_port}")
            page.get_by_role("link").click()
            page.wait_for_url(f"{address}/sweeps/1")
            page.wait_for_selector("h1:text('small')")
            other.shutdown()
        page.context.clear_cookies()
        page.wait_for_selector(".beat:text('asks for a new token')", timeout=120_000)


def test_figures_downloads_sorting_and_every_page_without_a_complaint(browser: Browser, site: str) -> None:
    watched = Watched(browser, site)
    page = watched.page
    page.goto(site)
    page.get_by_role("link", name="small").click()
    page.wait_for_selector(".js-plotly-plot")
    for plot in page.locator(".plot").all():
        plot.scroll_into_view_if_needed()
        page.wait_for_timeout(300)
    assert page.locator(".js-plotly-plot").count() == 4
    for name, start in (
        ("CSV", b"pair,step"),
        ("JSON", b"{"),
        ("Figure PDF", b"%PDF"),
        ("PNG", b"\x89PNG"),
    ):
        with page.expect_download() as download:
            page.get_by_role("link", name=name, exact=True).click()
        assert Path(download.value.path()).read_bytes().startswith(start)
    page.get_by_role("link", name="Tokens/s").click()
    page.wait_for_selector("th[aria-sort=descending]")
    rates = [float(cell) for cell in page.locator(".ablation tbody td:nth-child(4)").all_inner_texts()]
    assert rates == sorted(rates, reverse=True)
    page.get_by_role("link", name="Explore").click()
    page.wait_for_selector(".js-plotly-plot")
    for kind, shown in (("front", ".js-plotly-plot"), ("heat", "[data-live] .empty:not(.loading)")):
        page.select_option("#kind", kind)
        page.wait_for_url(f"**kind={kind}**")
        page.wait_for_selector(shown)  # this sweep has no two parameters for a heat map
    page.goto(f"{site}/sweeps/1")
    page.locator(".job").first.click()
    page.wait_for_selector("h2 >> text=Attempts")
    page.get_by_role("link", name="0", exact=True).click()
    page.wait_for_selector(".timeline")
    page.get_by_role("link", name="Cluster").click()
    page.wait_for_selector("text=Actors that landed jobs")
    assert watched.complaints == []


@pytest.fixture(scope="module")
def compared(finished: Workplace, new_workplace: Callable[[], Workplace]) -> Workplace:
    """Two finished sweeps; the second stores draft trees and lacks a row of the first."""
    workplace = new_workplace()
    shutil.copy(finished.database, workplace.database)
    kept = SWEEP.replace("warmup: 1}", "warmup: 1, store_trees: 2}").replace("name: small", "name: other")
    workplace.write("other.yaml", kept.replace("  - {label: + Draft model, method: linear, k: 4}\n", ""))
    workplace.sweep_here("other.yaml")
    return workplace


@pytest.fixture(scope="module")
def site_of_two(compared: Workplace) -> Iterator[str]:
    """The address of a dashboard of the two sweeps."""
    with served(compared) as address:
        yield address


def test_a_draft_tree_shows_what_was_accepted_what_was_pruned_and_the_bonus_token(
    browser: Browser, compared: Workplace, site_of_two: str
) -> None:
    with compared.store() as store:
        pruned = [job for job in store.record(2).jobs if job.label == "+ Adaptive pruning"]
        found = [
            (job.id, sample.prompt_index, number, tree)
            for job in pruned
            for sample in store.samples(job.id)
            for number, tree in enumerate(sample.trees)
        ]
    job, prompt, number, tree = max(found, key=lambda one: sum(not node.verified for node in one[3].nodes))
    nodes = tree.nodes[1:]
    gone = [node for node in nodes if not node.verified]
    taken = [node for node in nodes if node.accepted]
    assert gone, "a threshold of 0.05 prunes something of some tree"
    watched = Watched(browser, site_of_two, viewport={"width": 1280, "height": 800})
    page = watched.page
    page.goto(f"{site_of_two}/jobs/{job}/prompts/{prompt}")
    page.get_by_role("link", name=str(number), exact=True).last.click()
    page.wait_for_selector("svg.tree[role=img]")
    drawn = page.locator(".trees svg.tree")
    assert drawn.locator("g.pruned").count() == len(gone)
    assert drawn.locator("path.accepted").count() == drawn.locator("g.accepted").count() == len(taken)
    assert drawn.locator("g.bonus").count() == (tree.bonus is not None)
    assert "bonus" in (drawn.locator("g.bonus text").text_content() or "")

    def paint(selector: str, name: str) -> str:
        return str(drawn.locator(selector).first.evaluate(f"e => getComputedStyle(e).{name}"))

    assert paint("g.pruned text", "fill") == "rgb(87, 96, 106)"  # --quiet, not the ink of the others
    assert paint("path.pruned", "strokeDasharray") != "none"
    if taken:
        assert float(paint("path.accepted", "strokeWidth").removesuffix("px")) >= 3
    words = page.locator(".outline")
    assert not words.locator("li").first.is_visible()
    page.locator(".outline summary").focus()
    page.keyboard.press("Enter")
    assert words.locator("li").first.is_visible()
    assert words.locator("li.pruned").count() == len(gone)
    assert "the bonus token" in words.inner_text()
    label = drawn.get_attribute("aria-label") or ""
    assert label.startswith(f"{len(taken)} of {len(nodes)} draft tokens accepted")
    assert watched.complaints == []


def test_two_sweeps_are_compared_from_the_list_with_downloads_of_what_the_command_prints(
    browser: Browser, compared: Workplace, site_of_two: str
) -> None:
    watched = Watched(browser, site_of_two, viewport={"width": 1280, "height": 800})
    page = watched.page
    page.goto(site_of_two)
    page.get_by_role("link", name="small").click()
    page.get_by_role("navigation", name="Views of this sweep").get_by_role("link", name="Compare").click()
    assert page.locator("#a").input_value() == "1"
    page.select_option("#b", "2")
    page.wait_for_url("**b=2**")
    page.wait_for_selector(".ablation tbody tr >> nth=2")
    assert page.locator(".ablation tbody tr").count() == 3
    assert "only in A: '+ Draft model'" in page.locator("main").inner_text()
    for name, option in (("CSV", "--csv"), ("Markdown", "--markdown"), ("JSON", "--json")):
        with page.expect_download() as download:
            page.get_by_role("link", name=name, exact=True).click()
        printed = compared.run_here("compare", "1", "2", option).stdout
        assert without_origin(Path(download.value.path()).read_text()) == without_origin(printed)
    page.get_by_role("link", name="Swap A and B").click()
    page.wait_for_selector("text=only in B: '+ Draft model'")
    assert watched.complaints == []


def without_origin(text: str) -> str:
    """Return a comparison without the address of its database, which may be written in two ways."""
    return re.sub(r"sqlite:///[^\s\"*]*", "", text)


@pytest.mark.parametrize("width", [360, pytest.param(2560, marks=pytest.mark.slow)])
def test_no_page_is_wider_than_the_window(browser: Browser, site: str, width: int) -> None:
    watched = Watched(browser, site, viewport={"width": width, "height": 900})
    for path in (
        "/",
        "/sweeps/1",
        "/sweeps/1/explore",
        "/sweeps/1/jobs",
        "/jobs/1",
        "/jobs/1/prompts/0",
        "/cluster",
        "/compare",
    ):
        watched.page.goto(site + path)
        watched.page.wait_for_timeout(300)
        assert watched.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
    assert watched.complaints == []


BARS = [baseline(100.0), linear(6, 150.0), linear(8, 140.0), tree(7, 0.0, 50.0), tree(7, 0.1, 160.0)]


@pytest.fixture(scope="module")
def site_of_bars(new_workplace: Callable[[], Workplace]) -> Iterator[str]:
    """The address of a dashboard of five imported rows."""
    workplace = new_workplace()
    assert workplace.run_here("import", write(workplace.folder, "theirs.json", dynatree(BARS))).status == 0
    with served(workplace) as address:
        yield address


@pytest.mark.parametrize("width", [360, pytest.param(1280, marks=pytest.mark.slow)])
def test_the_names_under_the_bars_do_not_run_into_each_other(
    browser: Browser, site_of_bars: str, width: int
) -> None:
    page = Watched(browser, site_of_bars, viewport={"width": width, "height": 900}).page
    page.goto(f"{site_of_bars}/sweeps/1")
    page.wait_for_selector(".xtick text")
    boxes = [tick.bounding_box() for tick in page.locator(".xtick text").all()[: len(BARS)]]
    ends = [(box["x"], box["x"] + box["width"]) for box in boxes if box]
    assert len(ends) == len(BARS)
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(ends))


def test_a_figure_that_an_import_has_no_data_for_says_so_in_its_place(
    browser: Browser, site_of_bars: str
) -> None:
    watched = Watched(browser, site_of_bars, viewport={"width": 360, "height": 900})
    watched.page.goto(f"{site_of_bars}/sweeps/1")
    place = watched.page.locator("figure", has_text="Where the time goes")
    place.scroll_into_view_if_needed()
    said = place.get_by_text("There is nothing to draw: the imported figures have no phase times.")
    said.wait_for()
    assert said.count() == 1
    box, frame = said.bounding_box(), place.bounding_box()
    assert box and frame
    assert box["y"] + box["height"] <= frame["y"] + frame["height"]
    assert watched.complaints == []


@pytest.fixture(scope="module")
def site_of_many_rows(new_workplace: Callable[[], Workplace]) -> Iterator[str]:
    """The address of a dashboard of a hundred imported rows whose phases are known."""
    rows = [Configuration(label=f"K={k}", method=Method.LINEAR, params={"k": k}) for k in range(1, 100)]
    steps = [(BASELINE, 90.0), *((row, 100.0 + number) for number, row in enumerate(rows))]
    workplace = new_workplace()
    report = to_json(build_report(record(steps, prompts=2, repeats=1)))
    assert workplace.run_here("import", write(workplace.folder, "ours.json", report)).status == 0
    with served(workplace) as address:
        yield address


@pytest.mark.parametrize("width", [360, pytest.param(1280, marks=pytest.mark.slow)])
def test_a_hundred_names_beside_the_bars_do_not_lie_on_each_other(
    browser: Browser, site_of_many_rows: str, width: int
) -> None:
    watched = Watched(browser, site_of_many_rows, viewport={"width": width, "height": 900})
    watched.page.goto(f"{site_of_many_rows}/sweeps/1")
    place = watched.page.locator("figure", has_text="Where the time goes")
    place.scroll_into_view_if_needed()
    place.locator(".ytick text").first.wait_for()
    boxes = [box for name in place.locator(".ytick text").all() if (box := name.bounding_box())]
    assert len(boxes) == 100
    letters = 12  # pixels; boxes have room over and under them
    assert all(lower["y"] - upper["y"] > letters + 2 for upper, lower in itertools.pairwise(boxes))
    frame = place.bounding_box()
    assert frame
    assert frame["y"] < boxes[0]["y"]
    assert boxes[-1]["y"] + boxes[-1]["height"] < frame["y"] + frame["height"]
    for other in watched.page.locator("figure").all():
        box = other.bounding_box()
        assert box
        assert box == frame or (box["y"] < frame["y"] and box["height"] < 2 * 330)
    assert watched.complaints == []


@pytest.mark.parametrize(("width", "fewest"), [(360, 10), pytest.param(1280, 40, marks=pytest.mark.slow)])
def test_as_many_values_stand_under_an_explored_figure_as_have_room(
    browser: Browser, site_of_many_rows: str, width: int, fewest: int
) -> None:
    watched = Watched(browser, site_of_many_rows, viewport={"width": width, "height": 900})
    watched.page.goto(f"{site_of_many_rows}/sweeps/1/explore?x=k&y=throughput")
    watched.page.wait_for_selector(".xtick text")
    ticks = watched.page.locator(".xtick text").all()
    boxes = [box for tick in ticks if (box := tick.bounding_box())]
    assert fewest <= len(boxes) < 99
    middles = [box["x"] + box["width"] / 2 for box in boxes]
    room = [right - left for left, right in itertools.pairwise(middles)]
    letters, turned = 12, "rotate(90" in (ticks[-1].get_attribute("transform") or "")
    assert min(room) > (letters if turned else max(box["width"] for box in boxes))
    assert watched.complaints == []


def test_an_explored_figure_has_as_many_values_under_it_as_have_room_when_the_window_changes(
    browser: Browser, site_of_many_rows: str
) -> None:
    watched = Watched(browser, site_of_many_rows, viewport={"width": 1280, "height": 900})
    page = watched.page
    page.goto(f"{site_of_many_rows}/sweeps/1/explore?x=k&y=throughput")
    page.wait_for_selector(".xtick text")
    ticks = page.locator(".xtick text")
    wide = ticks.count()
    page.set_viewport_size({"width": 360, "height": 900})
    ticks.nth(wide - 1).wait_for(state="detached")
    boxes = [box for tick in ticks.all() if (box := tick.bounding_box())]
    middles = [box["x"] + box["width"] / 2 for box in boxes]
    assert len(middles) >= 10
    assert min(right - left for left, right in itertools.pairwise(middles)) > 12  # pixels, of turned letters
    page.set_viewport_size({"width": 1280, "height": 900})
    ticks.nth(wide - 1).wait_for()
    assert watched.complaints == []


@pytest.mark.parametrize("width", [360, pytest.param(2560, marks=pytest.mark.slow)])
def test_a_comparison_and_a_tree_are_not_wider_than_the_window(
    browser: Browser, compared: Workplace, site_of_two: str, width: int
) -> None:
    watched = Watched(browser, site_of_two, viewport={"width": width, "height": 900})
    with compared.store() as store:
        job = next(job.id for job in store.record(2).jobs if job.label == "+ Tree structure")
    for path in ("/compare?a=1&b=2", f"/jobs/{job}/prompts/0/trees/0"):
        watched.page.goto(site_of_two + path)
        watched.page.wait_for_timeout(1000)
        assert watched.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
    assert watched.complaints == []


def test_dark_follows_the_system_and_the_switch(browser: Browser, site: str) -> None:
    watched = Watched(browser, site, color_scheme="dark")
    page = watched.page

    def ground() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    page.goto(site)
    assert ground() == "rgb(20, 23, 26)"
    switch = page.get_by_role("button", name="Theme")
    switch.focus()
    page.keyboard.press("Enter")
    assert (switch.inner_text(), ground()) == ("Theme: light", "rgb(255, 255, 255)")
    page.reload()
    assert ground() == "rgb(255, 255, 255)"  # and it stays chosen
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    assert watched.complaints == []


def test_a_report_is_one_page_that_asks_for_nothing(browser: Browser, finished: Workplace) -> None:
    watched = written_report(browser, finished, width=1400, height=3000)
    watched.page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length === 4")
    assert watched.page.locator(".ablation tbody tr").count() == 4
    assert watched.complaints == []
    assert [path.name for path in finished.folder.glob("*.html")] == ["page.html"]
    assert finished.run_here("report", "--html", "page.html").status == 0  # a page may be written anew
    taken = finished.run_here("report", "--html", "dyna-eval.db")
    assert (taken.status, taken.stdout) == (2, "")
    assert "dyna-eval.db: exists, and is not as dyna-eval wrote it" in taken.stderr
    refused = finished.run_here("report", "--html", "no/such/folder/page.html")
    assert (refused.status, refused.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
def test_the_pages_of_a_report_are_walked_through_to_a_draft_tree_and_back(
    browser: Browser, compared: Workplace, scripts: bool
) -> None:
    assert compared.run_here("report", "other", "--html", "other.html", "--html-prompts", "1").status == 0
    watched = Watched(browser, "file:", viewport={"width": 1400, "height": 900}, java_script_enabled=scripts)
    page = watched.page
    page.goto((compared.folder / "other.html").as_uri())
    shown = page.locator("article:visible")
    heading = shown.locator("h1")
    assert (shown.count(), heading.inner_text()) == (1, "other")
    page.get_by_role("row", name="+ Adaptive pruning").get_by_role("link", name="prompts of job").click()
    assert heading.inner_text().startswith("+ Adaptive pruning job")
    assert shown.locator("tbody th a").count() == 1
    shown.locator("tbody th a").click()
    assert heading.inner_text() == "+ Adaptive pruning prompt 0"
    assert shown.locator("pre.text").count() == 2
    shown.get_by_role("link", name="1", exact=True).click()
    assert heading.inner_text() == "+ Adaptive pruning draft tree of round 1"
    assert shown.locator(".trees svg.tree").is_visible()
    assert shown.count() == 1
    shown.get_by_role("link", name="other").click()
    assert heading.inner_text() == "other"
    for _ in range(2):
        page.go_back()
    assert heading.inner_text() == "+ Adaptive pruning prompt 0"
    assert watched.complaints == []


def test_figures_of_a_report_take_the_theme_that_was_chosen_on_another_of_its_pages(
    browser: Browser, finished: Workplace
) -> None:
    watched = written_report(browser, finished, width=1400, height=3000, color_scheme="light")
    page = watched.page
    drawn = page.locator(".js-plotly-plot")
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length === 4")
    bars = drawn.first.locator(".bars .point path").first
    before, width = bars.evaluate("e => getComputedStyle(e).fill"), drawn.first.bounding_box()
    page.get_by_role("link", name="prompts of job").first.click()
    for _ in range(2):
        page.get_by_role("button", name="Theme").click()  # light, then dark
    page.locator("article:visible .crumbs a").click()
    page.wait_for_function(
        "before => getComputedStyle(document.querySelector('.bars .point path')).fill !== before", arg=before
    )
    assert drawn.first.bounding_box() == width
    assert watched.complaints == []


def test_a_served_page_prints_figures_that_were_not_scrolled_to(browser: Browser, site: str) -> None:
    watched = Watched(browser, site, viewport={"width": 700, "height": 300})
    page = watched.page
    answered: set[str] = set()
    page.on("requestfinished", lambda request: answered.add(request.url))
    page.goto(f"{site}/sweeps/1")
    page.wait_for_selector("[data-figure] >> nth=3", state="attached")
    while sum("/figures/" in address for address in answered) < 4:
        page.wait_for_timeout(100)
    page.wait_for_timeout(300)  # for the last answer to be read
    drawn = page.locator(".js-plotly-plot")
    assert drawn.count() < 4
    page.pdf()
    assert drawn.count() == 4
    assert watched.complaints == []


@pytest.mark.slow
def test_a_report_that_is_printed_has_all_figures_and_columns_in_the_colours_of_paper(
    browser: Browser, finished: Workplace
) -> None:
    watched = written_report(browser, finished, width=700, height=300, color_scheme="light")
    page = watched.page
    for _ in range(2):
        page.get_by_role("button", name="Theme").click()  # light, then dark
    drawn = page.locator(".js-plotly-plot")
    assert drawn.count() < 4  # what was not scrolled to is not drawn
    page.evaluate(
        "addEventListener('beforeprint', () => {"
        " window.fill = getComputedStyle(document.querySelector('.bars .point path')).fill; })"
    )
    page.pdf()
    assert drawn.count() == 4
    assert page.evaluate("window.fill") == "rgb(68, 119, 170)"  # of the light theme, as is the text:
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 36)"
    overhang = "[...document.querySelectorAll('.first .scroll')].map(e => e.scrollWidth - e.clientWidth)"
    assert page.evaluate(overhang) == [0]
    page.emulate_media(media="screen")
    assert page.get_by_role("button", name="Theme: dark").count() == 1
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    assert watched.complaints == []
