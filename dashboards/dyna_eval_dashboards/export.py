"""A sweep's page as one file that needs nothing else: style, scripts, and the figures' data are inside it."""

from __future__ import annotations

from dyna_eval.reports.report import Report
from dyna_eval_dashboards import pages, views
from dyna_eval_dashboards.figures import FIGURES, figures_of


def to_html(report: Report) -> str:
    """Return the report as an HTML document that shows the same table and figures as the dashboard."""
    return pages.render(
        "standalone.html",
        report=report,
        cut=views.whole(report),
        titles={name: title for name, (title, _) in FIGURES.items()},
        figures={pair: figures_of(report, pair) for pair in report.pairs},
        standalone=True,
    )


def is_page(content: bytes) -> bool:
    """Whether a file's content is such a document, of any sweep."""
    return content.startswith(b"<!doctype html>") and " · dyna-eval</title>".encode() in content[:2000]
