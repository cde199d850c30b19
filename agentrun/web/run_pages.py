"""One run: its transcript that grows while it goes on, its turns, its children and its journal."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from agentrun.api.handle import journal_of
from agentrun.core.state import ENDED
from agentrun.core.transcript import fold
from agentrun.store.inbox import list_waiting
from agentrun.store.opening import default
from agentrun.store.runs import find_relatives, find_run
from agentrun.view.jsonl import write_jsonl
from agentrun.view.markdown import as_markdown
from agentrun.view.page import as_page
from agentrun.view.safe import Markup
from agentrun.web.inbox_pages import cards_of
from agentrun.web.live import messages
from agentrun.web.live_blocks import place_blocks
from agentrun.web.page import Page, Refused
from agentrun.web.run_data import RunData, describe_run, render_run
from agentrun.web.site import PageRoute, Site, key_in, number_in

__all__ = ["PAGES", "EventRow", "JournalData"]

_ROWS = 100  # events on a page of the raw journal


@dataclass(frozen=True)
class EventRow:
    """One event of the journal, as `agentrun export` writes it."""

    seq: int
    event: str
    at: datetime | None
    step: int | None
    fields: dict[str, Any]


@dataclass(frozen=True)
class JournalData:
    """A part of a journal. ``next`` is the ``after`` of the next part, if there is one."""

    key: str
    events: tuple[EventRow, ...]
    next: int | None


async def _run(site: Site, request: Request) -> Page:
    data, html = await site.read(_read_run, key_in(request))
    shown = {
        "key": data.key,
        "status": data.transcript.status,
        "cards": await site.read(cards_of, data.waiting),
        "html": html,
        "live": data.transcript.status not in ENDED,
    }
    return Page("run.html", data, shown)


def _read_run(key: str) -> tuple[RunData, Markup]:
    events, lost = journal_of(default(), key)
    data = describe_run(default(), events, lost)
    return data, place_blocks(render_run(data))


async def _actions(site: Site, request: Request) -> Page:
    """The forms of a run. A page that watches the run asks for them when its status has changed."""
    key = key_in(request)
    cards = await site.read(lambda: cards_of(list_waiting(default(), key)))
    run = await site.read(lambda: find_run(default(), key))
    return Page("actions.html", None, {"key": key, "status": run.status, "cards": cards})


# -- live ------------------------------------------------------------------------------------------


async def _events(site: Site, request: Request) -> Response:
    """The run as server-sent events: the id of each is the seq of the journal."""
    key = key_in(request)
    database = await site.open()
    await site.read(find_run, database, key)
    begun = number_in(request.query_params, "after", 0)
    read = request.headers.get("last-event-id", "")
    after = number_in({"after": read}, "after", begun)

    async def stream() -> AsyncIterator[bytes]:
        async with site.live.watched(database, key) as run:
            async for message in messages(run, after):
                yield message

    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(stream(), headers=headers, media_type="text/event-stream")


# -- the raw journal, and files --------------------------------------------------------------------


async def _journal(site: Site, request: Request) -> Page:
    after = number_in(request.query_params, "after", 0)
    return Page("journal.html", await site.read(_read_journal, key_in(request), after))


def _read_journal(key: str, after: int) -> JournalData:
    events, _ = journal_of(default(), key)
    rest = [event for event in events if event.seq > after]
    shown = rest[:_ROWS]
    rows = tuple(
        EventRow(event.seq, event.event, event.at, event.step, json.loads(line))
        for event, line in zip(shown, write_jsonl(shown), strict=True)
    )
    return JournalData(key, rows, shown[-1].seq if len(rest) > len(shown) else None)


_FORMATS = {
    "html": "text/html; charset=utf-8",
    "jsonl": "application/jsonl",
    "md": "text/markdown; charset=utf-8",
    "json": "application/json",
}


async def _export(site: Site, request: Request) -> Response:
    key, form = key_in(request), request.query_params.get("format", "html")
    if form not in _FORMATS:
        raise Refused(400, "format", f"the formats are {', '.join(_FORMATS)}")
    text = await site.read(_exported, key, form)
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", key)[:80].strip(".") or "run"
    headers = {"content-disposition": f'attachment; filename="{name}.{form}"'}
    return Response(text.encode(), headers=headers, media_type=_FORMATS[form])


def _exported(key: str, form: str) -> str:
    events, lost = journal_of(default(), key)
    match form:
        case "jsonl":
            return "".join(f"{line}\n" for line in write_jsonl(events))
        case "html":
            relatives = find_relatives(default(), find_run(default(), key).run_id)
            return as_page(fold(events, owner_lost=lost), events, relatives)
        case "md":
            return as_markdown(fold(events, owner_lost=lost))
        case _:
            return fold(events, owner_lost=lost).to_json()


_KEY = {"key": "the run's key"}
PAGES = (
    PageRoute(
        "run", _run, "One run: its transcript, its turns, and what it waits for", RunData, _KEY
    ),
    PageRoute(
        "journal",
        _journal,
        f"The raw journal of a run, {_ROWS} events at a time",
        JournalData,
        {**_KEY, "after": "only events after this seq; default: 0"},
    ),
    PageRoute("run/actions", _actions, "The forms of a run, as a part of its page", None, _KEY),
    PageRoute(
        "export",
        _export,
        "A run as a file",
        None,
        {**_KEY, "format": f"one of {', '.join(_FORMATS)}; default: html"},
    ),
    PageRoute(
        "run/events",
        _events,
        "A run as server-sent events, each with the seq of the journal as its id",
        None,
        {
            **_KEY,
            "after": "only what is newer than this seq; the header Last-Event-ID counts first",
        },
    ),
)
