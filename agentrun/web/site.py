"""What all pages share: the database, the runs that are watched, and how a page is found.

The pages are listed as `PageRoute`s. `app` makes the HTML routes, their JSON twins and the OpenAPI
document of the same list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ParamSpec, TypeAlias, TypeVar
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response

from agentrun.core.errors import (
    AgentrunError,
    AlreadyDecided,
    ConfigError,
    RunError,
    RunNotFound,
    StoreError,
)
from agentrun.core.log import logger
from agentrun.store.database import Database, OpenDatabase
from agentrun.store.opening import internals, using
from agentrun.web import threads
from agentrun.web.live import EVERY, LiveRuns
from agentrun.web.page import Page, Refused, refuse, respond
from agentrun.web.threads import ReadingThreads

__all__ = ["Action", "PageRoute", "Site", "endpoint", "key_in", "number_in"]

P = ParamSpec("P")
T = TypeVar("T")

_STATUS: tuple[tuple[type[AgentrunError], int], ...] = (
    (RunNotFound, 404),
    (AlreadyDecided, 409),
    (RunError, 409),
    (StoreError, 503),
    (ConfigError, 400),
)


class Site:
    """The pages of one database, and what they need between requests."""

    def __init__(self, database: Database | None, *, sql: bool = False) -> None:
        self._database = database
        self.sql = sql
        self.live = LiveRuns()
        self._threads = ReadingThreads()
        self._shared: dict[tuple[str, ...], tuple[float, asyncio.Task[Any]]] = {}

    async def open(self) -> OpenDatabase:
        """The database that is shown. Opening the embedded one takes a moment."""
        return await self._threads.call(lambda: internals(self._database))

    async def read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function of the package in a thread, for this database.

        Raises StoreUnavailable if the database does not answer for some seconds.
        """
        database = await self.open()

        def call() -> T:
            with using(database):
                return function(*args, **kwargs)

        return await self._threads.call(call, threads.PATIENCE)

    async def compute(self, function: Callable[[], T]) -> T:
        """Call what may take long and reads nothing in a thread, so that other requests go on."""
        return await self._threads.call(function)

    async def share(self, name: tuple[str, ...], function: Callable[[], T]) -> T:
        """Like `read`, once a second for all who ask for the same thing by the same name."""
        now = asyncio.get_running_loop().time()
        for old, (at, reading) in list(self._shared.items()):
            if at < now - EVERY and reading.done():
                del self._shared[old]
        if name not in self._shared:
            self._shared[name] = now, asyncio.create_task(self.read(function))
        shared: T = await asyncio.shield(self._shared[name][1])
        return shared


MakePage: TypeAlias = "Callable[[Site, Request], Awaitable[Page | Response]]"


@dataclass(frozen=True)
class PageRoute:
    """A page: where it is, what makes it, and what its documentation says."""

    path: str  # without the slash; the empty path is the first page
    make: MakePage
    summary: str
    data: type | None = None  # of the JSON twin; None: it has none
    parameters: Mapping[str, str] = field(default_factory=dict)
    name: str | None = field(default=None, kw_only=True)  # as every page links to it

    @property
    def twin(self) -> str:
        """The path of the JSON twin."""
        return f"/{self.path or 'runs'}.json"


@dataclass(frozen=True)
class Action(PageRoute):
    """What a person does by POST: ``parameters`` are in the URL, and ``fields`` in a form."""

    fields: Mapping[str, str] = field(default_factory=dict)


def endpoint(site: Site, make: MakePage, *, as_json: bool) -> Callable[[Request], Any]:
    """The function that answers requests for a page, or for its JSON twin."""

    async def answer(request: Request) -> Response:
        try:
            made = await make(site, request)
            if isinstance(made, Page):
                return await site.compute(partial(respond, request, made, as_json=as_json))
            return made
        except Refused as refused:
            return refuse(request, refused)
        except AgentrunError as error:
            return refuse(request, _as_refusal(error))

    return answer


def _as_refusal(error: AgentrunError) -> Refused:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 400)
    if status == 503:
        logger.warning("the web pages cannot read the database: %s", error)
    return Refused(status, type(error).__name__, str(error))


def key_in(request: Request) -> str:
    """The run's key in the URL. Raises Refused if there is none.

    A form holds it quoted: a browser changes line breaks in fields, and pages show no control
    characters.
    """
    given = request.query_params
    if not (key := given.get("key", "") or unquote(given.get("quoted", ""))):
        raise Refused(400, "no_key", "name a run: ?key=KEY")
    return key


def number_in(values: Mapping[str, str], name: str, default: int | None = None) -> int:
    """A whole number from 0 among the parameters or the fields. Raises Refused."""
    text = values.get(name, "")
    if not text and default is not None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 18):
        raise Refused(400, "bad_number", f"{name} is a number, such as {name}=4")
    return int(text)
