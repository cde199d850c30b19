"""What a page is: its data, and the HTML and JSON that are made of them.

Templates are Jinja2's, with every value escaped. `_finish` is the one place where recorded text
enters a page: it makes control characters visible (`view.safe`), and Jinja2 escapes the markup.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup as SafeMarkup
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from agentrun.core.transcript import Transcript
from agentrun.view import safe
from agentrun.view.phrases import money
from agentrun.web.people import NOBODY, Person

__all__ = [
    "FOLDER",
    "Page",
    "Refused",
    "fill",
    "json_response",
    "make_address",
    "path_in",
    "person_of",
    "plain",
    "read_form",
    "refuse",
    "render",
    "respond",
    "see_other",
]

FOLDER = Path(__file__).parent
_MOST_BYTES = 1 << 20  # of a form


class Refused(Exception):
    """A request that is answered with an error: its status, a short code and a sentence."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Page:
    """One page: the template, the data of its JSON twin, and what only the HTML needs."""

    template: str
    data: Any  # a frozen dataclass, whose fields the template reads as `data`
    shown: dict[str, Any] = field(default_factory=dict)
    status: int = 200


def respond(request: Request, page: Page, *, as_json: bool) -> Response:
    """The page as HTML, or its data as JSON."""
    if as_json:
        return json_response(plain(page.data), page.status)
    text = render(request, page.template, data=page.data, **page.shown)
    return HTMLResponse(text, page.status)


def refuse(request: Request, refused: Refused) -> Response:
    """The answer to a request that was refused: JSON for programs, a page for people."""
    if path_in(request).endswith(".json"):
        error = {"error": {"code": refused.code, "message": str(refused)}}
        return json_response(error, refused.status)
    text = render(request, "refused.html", code=refused.code, message=str(refused))
    return HTMLResponse(text, refused.status)


def see_other(request: Request, path: str, **parameters: str) -> Response:
    """Lead the browser to another page, after a form."""
    up = "../" * path_in(request).strip("/").count("/")
    return RedirectResponse(up + make_address(path, **parameters), 303)


def path_in(request: Request) -> str:
    """The path below the application, which the routes match too. ``request.url`` is no help: older
    versions of Starlette read it out of the ``Host`` that was sent."""
    path: str = request.scope["path"]
    return path.removeprefix(request.scope.get("root_path", ""))


def person_of(request: Request) -> Person:
    """Who asks, as `Guard` found out."""
    person: Person = request.state.person
    return person


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form, each once. Raises Refused if the body is no form, or too large."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > _MOST_BYTES:
                raise Refused(413, "too_large", f"a form has at most {_MOST_BYTES} bytes")
    except ClientDisconnect:
        raise Refused(400, "cut_off", "the request was cut off") from None
    if not body:
        return {}
    if kind not in ("application/x-www-form-urlencoded", "application/json"):
        raise Refused(415, "content_type", "send a form, or an object of JSON")
    try:
        text = body.decode()
        fields = parse_qsl(text, True) if kind.endswith("form-urlencoded") else _fields(text)
    except ValueError:
        raise Refused(400, "bad_form", "the form cannot be read") from None
    return dict(fields)


def _fields(text: str) -> list[tuple[str, str]]:
    """The members of a JSON object as the fields of a form: an object stays JSON."""
    try:
        given = json.loads(text)
    except RecursionError:
        raise ValueError("too deep") from None
    if not isinstance(given, dict):
        raise ValueError("no object")
    return [
        (name, value if isinstance(value, str) else json.dumps(value))
        for name, value in given.items()
    ]


# -- JSON ------------------------------------------------------------------------------------------


def json_response(value: Any, status: int = 200) -> Response:
    """JSON in ASCII, which holds no control characters and can stand in any page or terminal."""
    return Response(json.dumps(value), status, media_type="application/json")


def plain(value: Any) -> Any:
    """The data of a page as JSON values. Times become ISO 8601, and money decimal text."""
    if isinstance(value, Transcript):
        return value.to_dict()
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not isfinite(value):  # JSON has no NaN
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


# -- HTML ------------------------------------------------------------------------------------------


def render(request: Request, template: str, **values: Any) -> str:
    """Fill a template for a request. Every text that it prints is made inert."""
    path = path_in(request).strip("/")
    person = getattr(request.state, "person", NOBODY)
    return fill(
        template, up="../" * path.count("/"), path=path, person=person, places=_places_in(request),
        **values,
    )  # fmt: skip


def fill(template: str, *, up: str = "", **values: Any) -> str:
    """Fill a template. ``up`` leads from the page to the first page: links are relative, since
    the application does not know where a proxy shows it."""

    def link(path: str, **parameters: object) -> SafeMarkup:
        return SafeMarkup(_escape(up + make_address(path, **parameters)))

    return _templates().get_template(template).render(link=link, **values)


def make_address(path: str, **parameters: object) -> str:
    """The address of a page, from the first page. Parameters without a value are left out."""
    query = urlencode(
        {name: value for name, value in parameters.items() if value not in (None, "")},
        errors="surrogatepass",
    )
    return f"{path or './'}{'?' if query else ''}{query}"


def _places_in(request: Request) -> tuple[tuple[str, str], ...]:
    """The pages that every page links to: path and name. None before a person is let in."""
    # Not of scope["app"]: where the guard refuses, that is the application around.
    return tuple(getattr(request.state, "places", ()))


def _finish(value: Any) -> Any:
    """What a template prints: markup of ours as it is, and any other text made visible."""
    if isinstance(value, safe.Markup):
        return SafeMarkup(value)
    if isinstance(value, SafeMarkup):
        return value
    if isinstance(value, datetime):
        return _moment(value)
    return "" if value is None else safe.visible(str(value), multiline=True)


def _escape(text: str) -> str:
    return str(safe.join([text]))


def _moment(at: datetime | None) -> SafeMarkup:
    """A time as people read it, with its zone, in the element ``time``."""
    if at is None:
        return SafeMarkup("")
    at = at.astimezone(UTC)
    shown = safe.element("time", f"{at:%Y-%m-%d %H:%M:%S} UTC", datetime=at.isoformat())
    return SafeMarkup(shown)


def _span(seconds: float | None) -> str:
    """``41 ms``, ``3.2 s``, ``12 min``, ``3.5 h``, ``2.0 d``."""
    if seconds is None:
        return ""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _dollars(amount: Decimal | None) -> str:
    return "" if amount is None else money(amount)


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _json_text(value: Any) -> str:
    return safe.pretty(value, indent=2)


def _points(turns: Iterable[Any]) -> str:
    """The columns of the chart: turns, tokens in and out, and the cost so far."""
    rows, spent = [], Decimal(0)
    for turn in turns:
        spent += turn.cost
        rows.append((turn.turn, turn.input_tokens, turn.output_tokens, float(spent)))
    return json.dumps(list(map(list, zip(*rows, strict=True))))


_FILTERS: dict[str, Callable[..., Any]] = {
    "clip": safe.clip,
    "count": _count,
    "dollars": _dollars,
    "json": _json_text,
    "points": _points,
    "span": _span,
}


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finish,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    return environment
