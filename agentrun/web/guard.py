"""Checks every request before a page sees it, and sets the headers of every response.

Every program and every web page on this machine can reach a port of its loopback interface. Three
checks keep web pages out, and a fourth names the person:

* ``Host`` must be a name of this application. It gives away a page that had its own name resolve to
  this machine (DNS rebinding).
* ``Origin`` and ``Sec-Fetch-Site``, which a browser sets and a page cannot forge, must not be those
  of another site. A request that changes something must have one of them.
* Only GET and HEAD read, and they change nothing. Only POST changes something, and only if
  decisions are allowed.
* The person is known by the cookie of an `UrlEntry`, or by ``authorize`` of the application around.

The content security policy lets a browser run the scripts of this application and nothing else. So
markup that was not escaped by mistake could neither run nor load anything.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentrun.web.page import Refused, path_in, refuse
from agentrun.web.people import NOBODY, Authorize, Person, UrlEntry

__all__ = ["POLICY", "Guard"]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    # Not no-referrer: with that, a browser sends `Origin: null` with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_READ = ("GET", "HEAD")
# The whole header: what a lenient parser would skip could stand for something else elsewhere.
_HOST = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]+)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Guard:
    """The checks, around the application. Exactly one of ``entry`` and ``authorize`` may be set."""

    app: ASGIApp
    hosts: frozenset[str]
    allow_decisions: bool
    entry: UrlEntry | None = None
    authorize: Authorize | None = None
    places: tuple[tuple[str, str], ...] = ()  # what the pages link to: path and name

    @classmethod
    def around(
        cls,
        app: ASGIApp,
        hosts: Iterable[str],
        allow_decisions: bool,
        entry: UrlEntry | None,
        authorize: Authorize | None,
        places: tuple[tuple[str, str], ...] = (),
    ) -> Guard:
        names = frozenset(host.lower().rstrip(".") for host in hosts)
        return cls(app, names, allow_decisions, entry, authorize, places)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        request = Request(scope, receive)
        try:
            person = await self._check(request)
        except Refused as refused:
            # The state is that of the application around, which may mean others by a person.
            apart = Request({**scope, "state": {}}, receive)
            await refuse(apart, refused)(scope, receive, send_guarded)
            return
        scope = {**scope, "state": {"person": person, "places": self.places}}
        await self.app(scope, receive, send_guarded)

    async def _check(self, request: Request) -> Person:
        """The person who asks. Raises Refused."""
        self._check_host(request.headers.get("host"))
        _check_site(request)
        path, reads = path_in(request), request.method in _READ
        # What a browser needs before it has a cookie.
        enters = self.entry is not None and (
            path == "/enter" or (reads and path.startswith("/static/"))
        )
        if not reads and not enters:
            if request.method != "POST":
                raise Refused(405, "method", "these pages take GET, and POST for decisions")
            if not self.allow_decisions:
                raise Refused(403, "read_only", _READ_ONLY)
        person = NOBODY if enters else await self._identify(request)
        if request.method == "POST" and not enters and not (person.may_decide and person.name):
            raise Refused(403, "may_not_decide", f"{person.name or 'this person'} may only read")
        return person if self.allow_decisions else replace(person, may_decide=False)

    def _check_host(self, host: str | None) -> None:
        name = _host_of(host)
        if name is None:
            raise Refused(400, "host", "a request needs a Host header: a name, and a port if any")
        if name in self.hosts or name == "localhost":
            return
        try:
            local = ip_address(name).is_loopback
        except ValueError:
            local = False
        if not local:
            raise Refused(
                403,
                "host",
                f"this server does not go by the name {name}: start it with --trusted-host {name}, "
                f"or give agentrun.ui() hosts=[{name!r}]",
            )

    async def _identify(self, request: Request) -> Person:
        if self.entry is not None:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() == "bearer" and self.entry.is_lasting(token.strip()):
                return self.entry.person
            if self.entry.knows(request.cookies.get(self.entry.cookie, "")):
                return self.entry.person
            raise Refused(401, "enter", "open the URL that `agentrun ui` printed when it started")
        if self.authorize is None:
            return NOBODY
        person = self.authorize(request)
        if inspect.isawaitable(person):
            person = await person
        if person is None:
            raise Refused(403, "not_allowed", "you may not see these runs")
        return person


_READ_ONLY = (
    "these pages only read: start them with --allow-decisions, or mount them with "
    "agentrun.ui(allow_decisions=True)"
)


def _check_site(request: Request) -> None:
    """Raise Refused for a request that a page of another site made."""
    headers = request.headers
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is not None and not _is_own(origin, headers.get("host")):
        raise Refused(403, "origin", f"pages of {origin} may not ask this server")
    reads = request.method in _READ
    if site in ("cross-site", "same-site"):
        # A link on another site may lead here. Its request is a navigation, and reads.
        if not reads or headers.get("sec-fetch-mode") != "navigate":
            raise Refused(403, "origin", "pages of other sites may not ask this server")
    elif not reads and site != "same-origin" and origin is None:
        raise Refused(
            403, "origin", "a request that changes something needs the header Origin, of this site"
        )


def _is_own(origin: str, host: str | None) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == (host or "").lower()


def _host_of(host: str | None) -> str | None:
    found = _HOST.fullmatch(host or "")
    return None if found is None else found[1].strip("[]").rstrip(".").lower()
