"""The web pages as one ASGI application: the list of all pages, their routes, and the guard."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from agentrun.store.database import Database
from agentrun.web import compare_page, decisions, inbox_pages, overviews, run_pages, sql_pages
from agentrun.web.guard import Guard
from agentrun.web.look import CSS
from agentrun.web.openapi import describe_pages
from agentrun.web.page import FOLDER, Refused, json_response, read_form, refuse, render
from agentrun.web.people import Authorize, UrlEntry
from agentrun.web.site import Action, PageRoute, Site, endpoint

__all__ = ["ACTIONS", "PAGES", "WebApp", "make_app"]

PAGES: tuple[PageRoute, ...] = (
    *overviews.PAGES,
    *inbox_pages.PAGES,
    *run_pages.PAGES,
    *decisions.PAGES,
    *compare_page.PAGES,
    *sql_pages.PAGES,
)
ACTIONS: tuple[Action, ...] = decisions.ACTIONS


class WebApp:
    """The application that `agentrun.ui` returns. Mount it, or serve it alone."""

    def __init__(self, site: Site, guard: Guard) -> None:
        self.site = site
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._guard(scope, receive, send)


def make_app(
    database: Database | None,
    *,
    authorize: Authorize | None,
    allow_decisions: bool,
    sql: bool,
    hosts: Iterable[str],
    entry: UrlEntry | None = None,
) -> WebApp:
    """Make the application. ``entry`` lets a person in by a URL, where nothing is around it."""
    site = Site(database, sql=sql)
    pages = Starlette(
        routes=[*_routes(site), *_entry_routes(entry)],
        exception_handlers={HTTPException: _refuse_request, 500: _report_failure},
    )
    named = ((page.path, page.name) for page in PAGES if page.name is not None)
    places = tuple(place for place in named if sql or place[0] != "sql")
    return WebApp(site, Guard.around(pages, hosts, allow_decisions, entry, authorize, places))


def _routes(site: Site) -> list[Route | Mount]:
    routes: list[Route | Mount] = []
    for page in PAGES:
        routes.append(Route(f"/{page.path}", endpoint(site, page.make, as_json=False)))
        if page.data is not None:
            routes.append(Route(page.twin, endpoint(site, page.make, as_json=True)))
    for action in ACTIONS:
        act = endpoint(site, action.make, as_json=False)
        routes.append(Route(f"/{action.path}", act, methods=["POST"]))
        routes.append(Route(f"/{action.path}.json", act, methods=["POST"]))
    routes += [
        Route("/openapi.json", _openapi),
        Route("/static/transcript.css", _transcript_style),
        Mount("/static", StaticFiles(directory=FOLDER / "static")),
    ]
    return routes


async def _refuse_request(request: Request, error: Exception) -> Response:
    """The answer to a request that no page takes."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    return refuse(request, Refused(status, "no_page", "there is no such page"))


async def _report_failure(request: Request, error: Exception) -> Response:
    """The answer after a defect of ours, which Starlette also logs."""
    return refuse(request, Refused(500, "failed", "this page failed: see the log of the server"))


async def _openapi(request: Request) -> Response:
    """The documentation of the JSON twins, for programs."""
    root: str = request.scope.get("root_path", "")
    return json_response(describe_pages(PAGES, ACTIONS, root))


async def _transcript_style(request: Request) -> Response:
    return Response(CSS, media_type="text/css")


# -- entering --------------------------------------------------------------------------------------


def _entry_routes(entry: UrlEntry | None) -> list[Route]:
    if entry is None:
        return []

    async def enter(request: Request) -> Response:
        token = request.query_params.get("token", "")
        if request.method == "POST":
            try:
                token = (await read_form(request)).get("token", "")
            except Refused as refused:
                return HTMLResponse(str(refused), refused.status)
        value = entry.open(token) if token else None
        if value is None:
            text = render(request, "enter.html", wrong=bool(token), entered=False)
            return HTMLResponse(text, 401)
        # A page, and no redirect: a browser sends a cookie that is SameSite=Strict only with
        # requests that our own pages make, and a redirect counts as made by the page before.
        response = HTMLResponse(render(request, "enter.html", wrong=False, entered=True))
        secure = request.url.scheme == "https"
        response.set_cookie(
            entry.cookie, value, httponly=True, samesite="strict", secure=secure, path="/"
        )
        return response

    return [Route("/enter", enter, methods=["GET", "POST"])]
