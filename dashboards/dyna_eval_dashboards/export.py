"""A sweep's pages as one file that needs nothing else: style, scripts, and the figures' data are inside it.

It holds the page of the sweep and, for each row, those of its first done job: of the job, of its first
prompts, and of their first draft trees. The style sheet shows one at a time, by the fragment of the file's
address, so that links between them need no script.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dyna_eval_db.watched import JobDetail, Page, SampleDetail, SampleLine
from dyna_eval_db.watching import WatchedStore

from dyna_eval.jobs import JobState
from dyna_eval.reports.report import Report, Row
from dyna_eval.tables.report_json import pair_json
from dyna_eval_dashboards import pages, views
from dyna_eval_dashboards.addresses import TABLE, Addresses, job_page, sample_page, tree_page
from dyna_eval_dashboards.figures import FIGURES, figures_of
from dyna_eval_dashboards.rounds import TimeLine, time_line
from dyna_eval_dashboards.safety import PLOTLY_STYLES
from dyna_eval_dashboards.trees import Drawing, draw

MAX_ROWS = 50
"""Rows whose job a file shows."""
MAX_SAMPLES = 50
"""Samples that the table of a job names, unless more prompts are asked for."""
MAX_ROUNDS = 64
"""Rounds of a prompt."""
MAX_TREES = 3
"""Draft trees of a prompt."""
_SCRIPTS = ("theme.js", "plotly.min.js", "page.js", "figures.js")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSample:
    """One prompt of a job, with the drawings of its first draft trees."""

    page: str
    detail: SampleDetail
    time_line: TimeLine
    trees: tuple[tuple[str, Drawing], ...]
    """Each with its page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownJob:
    """A job with some of its samples."""

    page: str
    job: JobDetail
    lines: Page[SampleLine]
    models: dict[str, object]
    samples: tuple[ShownSample, ...]

    def pages(self) -> Iterator[str]:
        yield self.page
        for sample in self.samples:
            yield sample.page
            yield from (page for page, _ in sample.trees)


def to_html(report: Report, store: WatchedStore, *, prompts: int) -> str:
    """Return the report as an HTML document that shows what the dashboard shows of it and of its jobs.

    `prompts` is how many of each job have a page with their texts. Raises DatabaseError as the store does.
    """
    rows = [row for row in report.rows if row.job_ids]
    jobs = [_shown_job(store, job_id, prompts) for job_id in _first_done(store, rows[:MAX_ROWS])]
    return pages.render(
        "standalone.html",
        report=report,
        cut=views.whole(report),
        titles={name: title for name, (title, _) in FIGURES.items()},
        figures={pair: figures_of(report, pair) for pair in report.pairs},
        policy=_policy(),
        scripts=_SCRIPTS,
        table_anchor=TABLE,
        jobs=jobs,
        prompts=prompts,
        max_rows=MAX_ROWS,
        rows_left_out=max(0, len(rows) - MAX_ROWS),
        max_rounds=MAX_ROUNDS,
        max_trees=MAX_TREES,
        at=Addresses(frozenset(page for job in jobs for page in job.pages())),
        standalone=True,
    )


def is_page(content: bytes) -> bool:
    """Whether a file's content is such a document, of any sweep."""
    return content.startswith(b"<!doctype html>") and " · dyna-eval</title>".encode() in content[:4000]


def _first_done(store: WatchedStore, rows: Sequence[Row]) -> list[int]:
    states = store.job_states([job for row in rows for job in row.job_ids])
    done = [[job for job in row.job_ids if states.get(job) is JobState.DONE] for row in rows]
    return [jobs[0] for jobs in done if jobs]


def _shown_job(store: WatchedStore, job_id: int, prompts: int) -> ShownJob:
    job = store.job(job_id)
    lines = store.samples(job_id, size=max(MAX_SAMPLES, prompts))
    return ShownJob(
        page=job_page(job_id),
        job=job,
        lines=lines,
        models=pair_json(job.pair),
        samples=tuple(_shown_sample(store, job_id, line.prompt_index) for line in lines.items[:prompts]),
    )


def _shown_sample(store: WatchedStore, job_id: int, prompt_index: int) -> ShownSample:
    detail = store.sample(job_id, prompt_index)
    return ShownSample(
        page=sample_page(job_id, prompt_index),
        detail=detail,
        time_line=time_line(detail.sample, most=MAX_ROUNDS),
        trees=tuple(
            (tree_page(job_id, prompt_index, number), draw(tree))
            for number, tree in enumerate(detail.sample.trees[:MAX_TREES])
        ),
    )


def _policy() -> str:
    """Return a content security policy under which nothing is loaded, and no script runs but our own."""
    scripts = " ".join(_source(pages.asset(name)) for name in _SCRIPTS)
    style = _source(pages.asset("style.css"))
    return (
        f"default-src 'none'; script-src {scripts}; style-src {style} {PLOTLY_STYLES};"
        " base-uri 'none'; form-action 'none'"
    )


def _source(content: bytes) -> str:
    """Return how a policy names an inline script or style of that content."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"
