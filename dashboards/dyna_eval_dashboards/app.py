"""The application: its addresses, and what stands behind each. Every page is made from the store as it is."""

from __future__ import annotations

import contextlib
import gzip
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Container, Hashable
from functools import lru_cache
from typing import Any

from dyna_eval_db.watched import Pulse
from dyna_eval_db.watching import WatchedStore
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from dyna_eval import latex
from dyna_eval.errors import DatabaseError, DynaEvalError, InputError, UnknownSweepError
from dyna_eval.jobs import JobState, SweepState
from dyna_eval.running.lease import LEASE_SECONDS
from dyna_eval.series.parameters import swept
from dyna_eval.tables.report_json import pair_json
from dyna_eval.wording import one_line
from dyna_eval_dashboards import downloads, figures, pages, trees, views
from dyna_eval_dashboards import explore as exploring
from dyna_eval_dashboards.comparing import Comparisons, pulses_text
from dyna_eval_dashboards.reports import Built, Reports
from dyna_eval_dashboards.rounds import time_line
from dyna_eval_dashboards.safety import HEADERS, Access, Guard

_PATIENCE = 0.5
"""Seconds that a page waits for a report before it is shown without one."""
_DOWNLOAD_PATIENCE = 600.0
_MOST_DIGITS = 18
"""Any number of so many digits fits into a column."""
_LAST_PAGE = 10**8
_PAGES_KEPT = 64
_ESTIMATE_SECONDS = 30.0
"""For how long a page may tell the time left of a running sweep: it changes without anything happening."""
_AGE_SECONDS = 10.0
"""For how long a page may tell how old leases and claims are."""
_KEPT_FOR_A_YEAR = {"cache-control": "public, max-age=31536000, immutable"}
_LOOKED_UP_EACH_TIME = {"cache-control": "no-cache"}


class Dashboard:
    """The pages over one open store. Endpoints are plain functions, which Starlette runs in threads."""

    def __init__(self, store: WatchedStore) -> None:
        self.store = store
        self.reports = Reports(store)
        self.comparisons = Comparisons(self.reports)
        self._rendered: OrderedDict[str, tuple[Hashable, Response]] = OrderedDict()

    # ------------------------------------------------------------------- pages

    def _shared(self, request: Request, pulse: Hashable, make: Callable[[], Response]) -> Response:
        """Make a page, or a figure, once for all who watch it, and again for another pulse."""
        address = f"{request.url.path}?{request.url.query}"
        known = self._rendered.get(address)
        if known is not None and known[0] == pulse:
            return known[1]
        answer = make()
        self._rendered[address] = (pulse, answer)
        while len(self._rendered) > _PAGES_KEPT:
            self._rendered.popitem(last=False)
        return answer

    def sweeps(self, request: Request) -> Response:
        pulse = self._pulse_of_list()  # before what it stands for, here and below: no change is missed
        return self._shared(request, pulse, lambda: self._sweeps(request, pulse))

    def _sweeps(self, request: Request, pulse: str) -> Response:
        search = views.searched(request.query_params)
        page = self.store.sweeps(search=search, number=_page(request))
        return _html("sweeps.html", page=page, search=search, pulse=pulse)

    def sweep(self, request: Request) -> Response:
        sweep_id = _number(request, "sweep")
        pulse = self._timed(self.reports.pulse(sweep_id))
        built = self.reports.latest(sweep_id, patience=_PATIENCE)
        seen = self._timed(built.pulse) if built else ""
        return self._shared(request, (pulse, seen), lambda: self._sweep(sweep_id, request, built, seen))

    def _sweep(self, sweep_id: int, request: Request, built: Built | None, seen: str) -> Response:
        outline = self.store.outline(sweep_id)
        wanted = views.Wanted.of(request.query_params, page=_page(request))
        cut = views.cut(built.report, wanted) if built else None
        states = self.store.job_states(cut.job_ids) if cut else {}
        return _html(
            "sweep.html",
            outline=outline,
            built=built,
            cut=cut,
            wanted=wanted,
            states=states,
            figures=figures.FIGURES,
            latex=latex.to_latex(built.report)
            if built and len(built.report.rows) <= figures.MAX_ROWS
            else None,
            pulse=seen,
        )

    def jobs(self, request: Request) -> Response:
        sweep_id = _number(request, "sweep")
        pulse = self.store.pulse(sweep_id)
        outline = self.store.outline(sweep_id)
        search = views.searched(request.query_params)
        named = request.query_params.get("state", "")
        state = JobState(named) if named in set(JobState) else None
        page = self.store.jobs(outline.id, state=state, search=search, number=_page(request))
        return _html(
            "jobs.html",
            outline=outline,
            page=page,
            search=search,
            state=state,
            pulse=pulse.text,
        )

    def job(self, request: Request) -> Response:
        job_id = _number(request, "job")
        pulse = self.store.pulse(self.store.sweep_of(job_id)).text
        job = self.store.job(job_id)
        samples = self.store.samples(job_id, number=_page(request))
        models = pair_json(job.pair)
        return _html("job.html", job=job, page=samples, models=models, pulse=pulse)

    def sample(self, request: Request) -> Response:
        job = self.store.job(_number(request, "job"))
        detail = self.store.sample(job.line.id, _number(request, "prompt"))
        line = time_line(detail.sample)
        return _html("sample.html", job=job, detail=detail, time_line=line)

    def explore(self, request: Request) -> Response:
        """Make the page of figures; while the report is being built it says so, and looks again by itself."""
        sweep_id = _number(request, "sweep")
        built = self.reports.latest(sweep_id, patience=_PATIENCE)
        seen = built.pulse.text if built else ""
        return self._shared(request, seen, lambda: self._explore(sweep_id, request, built, seen))

    def _explore(self, sweep_id: int, request: Request, built: Built | None, seen: str) -> Response:
        outline = self.store.outline(sweep_id)
        rows = built.report.rows if built else ()
        choice = exploring.Choice.of(request.query_params, rows)
        explored = exploring.explore(built.report, choice) if built else None
        return _html(
            "explore.html",
            outline=outline,
            built=built is not None,
            choice=choice,
            kinds=exploring.KINDS,
            metrics=list(exploring.TITLES.items()),
            parameters=[(name, one_line(name)) for name in swept(rows)],
            figure=explored.figure if explored else None,
            notes=explored.notes if explored else (),
            pulse=seen,
        )

    def tree(self, request: Request) -> Response:
        job = self.store.job(_number(request, "job"))
        detail = self.store.sample(job.line.id, _number(request, "prompt"))
        number = _number(request, "round")
        if number >= len(detail.sample.trees):
            raise HTTPException(404, "no draft tree of that round is stored; see measure.store_trees")
        drawing = trees.draw(detail.sample.trees[number])
        return _html("tree.html", job=job, detail=detail, number=number, drawing=drawing)

    def cluster(self, request: Request) -> Response:
        pulse = self._pulse_of_cluster()
        return self._shared(request, pulse, lambda: self._cluster(pulse))

    def _cluster(self, pulse: str) -> Response:
        cluster = self.store.cluster()
        return _html("cluster.html", cluster=cluster, silent_seconds=LEASE_SECONDS, pulse=pulse)

    def compare(self, request: Request) -> Response:
        """Compare the two sweeps that the address names, or ask for them."""
        address, seen = "/pulse", self._pulse_of_list()
        a, b = (_whole(request.query_params.get(letter, "")) for letter in ("a", "b"))
        known = dict(self.store.names())
        known |= {sweep: self.store.outline(sweep).name for sweep in (a, b) if sweep and sweep not in known}
        comparison, message = None, "Choose two sweeps."
        if a is not None and a == b:
            message = "A and B are the same sweep; choose another one."
        elif a is not None and b is not None:
            compared = self.comparisons.latest(a, b, patience=_PATIENCE)
            address, seen = f"/compare/{a}/{b}/pulse", compared.seen if compared else ""
            outcome = compared.outcome if compared else None
            message = str(outcome) if isinstance(outcome, InputError) else ""
            comparison = None if isinstance(outcome, InputError) else outcome
        page = _page(request)
        return _html(
            "compare.html",
            a=a,
            b=b,
            options=[(sweep, f"{sweep}: {name}") for sweep, name in sorted(known.items(), reverse=True)],
            pending=not message and comparison is None,
            message=message,
            pulse=seen,
            pulse_address=address,
            comparison=comparison,
            **(views.compared(comparison, page) if comparison else {}),
        )

    # --------------------------------------------------- what scripts ask for

    def pulse(self, request: Request) -> Response:
        sweep_id = _number(request, "sweep")
        return self._told(self.reports.pulse(sweep_id).text, sweep_id)

    def timed_pulse(self, request: Request) -> Response:
        sweep_id = _number(request, "sweep")
        return self._told(self._timed(self.reports.pulse(sweep_id)), sweep_id)

    def pulse_of_list(self, _request: Request) -> Response:
        return self._told(self._pulse_of_list())

    def pulse_of_cluster(self, _request: Request) -> Response:
        return self._told(self._pulse_of_cluster())

    def pulse_of_two(self, request: Request) -> Response:
        a, b = _number(request, "a"), _number(request, "b")
        return self._told(pulses_text(self.reports.pulse(a), self.reports.pulse(b)), a, b)

    def _told(self, pulse: str, *sweep_ids: int) -> Response:
        again = self.reports.seconds_to_next_pulse(*sweep_ids)
        return JSONResponse({"pulse": pulse, "again_seconds": round(again, 1)})

    def _timed(self, pulse: Pulse) -> str:
        """Return a sweep's pulse as a page has it that tells the time left."""
        return self._ticking(pulse.text, _ESTIMATE_SECONDS, goes_on=pulse.state is SweepState.RUNNING)

    def _pulse_of_list(self) -> str:
        pulse = self.reports.pulse_of_all()
        return self._ticking(pulse.text, _ESTIMATE_SECONDS, goes_on=pulse.working)

    def _pulse_of_cluster(self) -> str:
        pulse = self.reports.pulse_of_all()
        return self._ticking(pulse.text, _AGE_SECONDS, goes_on=pulse.held)

    def _ticking(self, text: str, seconds: float, *, goes_on: bool) -> str:
        """Return a pulse that changes every so many seconds as well, while something goes on."""
        return f"{text}-{self.reports.clock() // seconds:.0f}" if goes_on else text

    def figure(self, request: Request) -> Response:
        """Return a figure's data; 202 without any while the first report is built, which nobody waits for."""
        sweep_id, place = _number(request, "sweep"), _number(request, "place")
        built = self.reports.latest(sweep_id, patience=_PATIENCE)
        if built is None:
            return JSONResponse(None, status_code=202)
        name = request.path_params["name"]
        if name not in figures.FIGURES or place >= len(built.report.pairs):
            raise HTTPException(404, "there is no such figure")
        pair = built.report.pairs[place]
        return self._shared(
            request, built.pulse, lambda: _figure(figures.figure_of(built.report, pair, name))
        )

    # ---------------------------------------------------------------- downloads

    def download(self, request: Request) -> Response:
        ending = request.path_params["ending"]
        built = self._built(request, complete=ending in downloads.WITH_PREFILL)
        return downloads.report_file(built.report, ending)

    def compared(self, request: Request) -> Response:
        a, b = _number(request, "a"), _number(request, "b")
        compared = self.comparisons.latest(a, b, patience=_DOWNLOAD_PATIENCE)
        if compared is None:
            raise HTTPException(503, f"this takes too long; `dyna-eval compare {a} {b}` prints it")
        if isinstance(compared.outcome, InputError):
            raise compared.outcome
        return downloads.comparison_file(compared.outcome, request.path_params["ending"])

    def drawing(self, request: Request) -> Response:
        built = self._built(request)
        place = _number(request, "place")
        if place >= len(built.report.pairs):
            raise HTTPException(404, "there is no such pair")
        return downloads.drawing_file(built.report, built.report.pairs[place], request.path_params["ending"])

    def _built(self, request: Request, *, complete: bool = False) -> Built:
        ask = self.reports.complete if complete else self.reports.latest
        built = ask(_number(request, "sweep"), patience=_DOWNLOAD_PATIENCE)
        if built is None:
            raise HTTPException(503, "the report takes too long; `dyna-eval report` prints it")
        return built


# ------------------------------------------------------------------- the application


def create_app(store: WatchedStore, access: Access) -> Starlette:
    """Return the dashboard over an open store as an ASGI application, which closes the store at its end."""
    dashboard = Dashboard(store)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        dashboard.comparisons.close()
        dashboard.reports.close()
        store.close()

    return Starlette(
        routes=[
            Route("/", dashboard.sweeps, name="sweeps"),
            Route("/cluster", dashboard.cluster, name="cluster"),
            Route("/cluster/pulse", dashboard.pulse_of_cluster, name="pulse_of_cluster"),
            Route("/compare", dashboard.compare, name="compare"),
            Route(
                "/compare/{a}/{b}.{ending}",
                _only(downloads.COMPARISONS, dashboard.compared),
                name="comparison",
            ),
            Route("/compare/{a}/{b}/pulse", dashboard.pulse_of_two, name="pulse_of_two"),
            Route("/pulse", dashboard.pulse_of_list, name="pulse_of_list"),
            Route("/sweeps/{sweep}", dashboard.sweep, name="sweep"),
            Route("/sweeps/{sweep}/pulse", dashboard.pulse, name="pulse"),
            Route("/sweeps/{sweep}/timed-pulse", dashboard.timed_pulse, name="timed_pulse"),
            Route("/sweeps/{sweep}/jobs", dashboard.jobs, name="jobs"),
            Route("/sweeps/{sweep}/explore", dashboard.explore, name="explore"),
            Route("/sweeps/{sweep}/figures/{place}/{name}", dashboard.figure, name="figure"),
            Route(
                "/sweeps/{sweep}/report.{ending}",
                _only(downloads.REPORTS, dashboard.download),
                name="report",
            ),
            Route(
                "/sweeps/{sweep}/ablation-{place}.{ending}",
                _only(downloads.DRAWINGS, dashboard.drawing),
                name="drawing",
            ),
            Route("/jobs/{job}", dashboard.job, name="job"),
            Route("/jobs/{job}/prompts/{prompt}", dashboard.sample, name="sample"),
            Route("/jobs/{job}/prompts/{prompt}/trees/{round}", dashboard.tree, name="tree"),
            Route("/static/{version}/{name}", _static, name="static"),
        ],
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={HTTPException: _not_found, DynaEvalError: _failure, Exception: _fault},
        lifespan=lifespan,
    )


def _only(endings: Container[str], endpoint: Callable[[Request], Response]) -> Callable[[Request], Response]:
    def checked(request: Request) -> Response:
        if request.path_params["ending"] not in endings:
            raise HTTPException(404, "there is no such download")
        return endpoint(request)

    return checked


def _number(request: Request, name: str) -> int:
    number = _whole(request.path_params[name])
    if number is None:
        raise HTTPException(404, "there is nothing of that number")
    return number


def _whole(text: str) -> int | None:
    """Return the number that a part of an address stands for; None where no row can have it."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS else None


def _page(request: Request) -> int:
    return min(max(1, _whole(request.query_params.get("page", "")) or 1), _LAST_PAGE)


def _figure(shown: figures.Shown) -> Response:
    return JSONResponse({"figure": shown.figure, "note": shown.note})


def _html(template: str, *, status: int = 200, **values: Any) -> Response:
    return HTMLResponse(pages.render(template, **values), status_code=status)


def _not_found(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else ""
    message = "there is no such page" if detail == "Not Found" else detail
    return _html("error.html", status=status, code=status, message=message)


def _fault(_request: Request, _error: Exception) -> Response:
    """Answer where no other handler did, outside the guard; the server writes the traceback to stderr."""
    message = "this is a mistake of dyna-eval; what `dyna-eval dashboard` printed in its terminal tells more"
    answer = _html("error.html", status=500, code=500, message=message)
    answer.headers.update(HEADERS)
    return answer


def _failure(_request: Request, error: Exception) -> Response:
    statuses = {UnknownSweepError: 404, DatabaseError: 503}
    status = next((status for kind, status in statuses.items() if isinstance(error, kind)), 400)
    return _html("error.html", status=status, code=status, message=str(error))


# ---------------------------------------------------------------- style and scripts


@lru_cache(maxsize=16)
def _asset(name: str) -> tuple[bytes, bytes, str]:
    """Return a file that pages refer to, the same compressed, and its content type."""
    content = pages.asset(name)
    kind = (
        "text/css"
        if name.endswith(".css")
        else "image/svg+xml"
        if name.endswith(".svg")
        else "text/javascript"
    )
    return content, gzip.compress(content, 5), f"{kind}; charset=utf-8"


def _static(request: Request) -> Response:
    name, version = request.path_params["name"], request.path_params["version"]
    if name not in pages.ASSETS:
        raise HTTPException(404, "there is no such file")
    content, compressed, kind = _asset(name)
    headers = dict(_KEPT_FOR_A_YEAR if version == pages.version() else _LOOKED_UP_EACH_TIME)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(compressed, media_type=kind, headers=headers | {"content-encoding": "gzip"})
    return Response(content, media_type=kind, headers=headers)
