"""Renders a transcript as HTML, for a notebook, a file or a page.

The markup is plain ``details``, ``summary``, ``table`` and ``pre``. An untrusted notebook or
a restrictive site removes styles and classes, and the rest must still be readable. So nothing is
hidden or shown by style alone, a status is always a word, and the CSS applies only inside the root
element. Colours come from the host (``--jp-*``, ``--vscode-*``), or else from the system, light or
dark. All markup is built by `safe.element`, which escapes all recorded text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agentrun.core.transcript import Entry, Message, NewMessage, Note, Resume, Step, Transcript
from agentrun.view import phrases
from agentrun.view.safe import Markup, break_lines, clip, element, join, pretty

__all__ = ["CSS", "WHOLE", "RenderOptions", "as_html", "render"]

CSS = Markup(
    """
.ar-root{
--ar-fg:var(--jp-content-font-color1,var(--vscode-foreground,var(--ar-page-fg,CanvasText)));
--ar-bg:var(--jp-layout-color1,var(--vscode-editor-background,var(--ar-page-bg,Canvas)));
--ar-line:var(--jp-border-color2,var(--vscode-panel-border,rgba(128,128,128,.28)));
--ar-mono:var(--jp-code-font-family,var(--vscode-editor-font-family,ui-monospace,monospace));
color:var(--ar-fg);background:var(--ar-bg);font-size:13px;line-height:1.5;padding:.5em .8em;
overflow-wrap:anywhere}
.ar-root h3{margin:.2em 0;font-size:1.25em}
.ar-root h4{margin:1.6em 0 .5em;font-size:.85em;font-weight:600;letter-spacing:.06em;
border-bottom:1px solid var(--ar-line)}
.ar-root p{margin:.3em 0}
.ar-root details{margin:.3em 0;padding:0 0 0 .75em;border-left:2px solid transparent}
.ar-root summary{cursor:pointer;margin-left:-.2em}
.ar-root summary:focus-visible{outline:2px solid currentColor}
.ar-root pre{margin:.35em 0;padding:.45em .7em;white-space:pre-wrap;
font-family:var(--ar-mono);font-size:.92em;line-height:1.45;color:inherit;
background:rgba(128,128,128,.09);border:0;border-radius:4px}
.ar-root pre.ar-text{padding:0;font-family:inherit;font-size:inherit;line-height:inherit;
background:none}
.ar-root p.ar-text{white-space:pre-wrap}
.ar-root.ar-root code{padding:0;font-family:var(--ar-mono);font-size:.92em;color:inherit;
background:none}
.ar-root table{border-collapse:collapse;margin:.4em 0;font-size:.92em}
.ar-root.ar-root th,.ar-root.ar-root td{text-align:left;vertical-align:top;
padding:.15em 1.1em .15em 0;border-bottom:1px solid var(--ar-line)}
.ar-root .ar-dim,.ar-root .ar-other>summary,.ar-root th,.ar-root em{opacity:.72;font-weight:normal}
.ar-root .ar-index{overflow-x:auto}
.ar-root .ar-index td,.ar-root .ar-index th{white-space:nowrap}
.ar-root .ar-index td:nth-child(2){min-width:13em;white-space:normal}
.ar-root .ar-user{border-left-color:#3b82c4}
.ar-root .ar-assistant{border-left-color:#3a9d6a}
.ar-root .ar-error{border-left-color:#cf4f4a}
.ar-root .ar-doubt{border-left-color:#c08a1e}
.ar-root .ar-band{margin:1.2em 0;padding:.35em .9em;border-left:4px solid #c08a1e;
border-radius:3px;background:rgba(192,138,30,.13)}
.ar-root .ar-band strong{font-weight:600}
"""
)


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """How much is shown, and whether there is an index."""

    shown: int  # characters of one value
    # A table of the steps with links. Only for a page of its own, because ids must be unique.
    index: bool = False
    styled: bool = True  # with the style sheet; False for a page that brings `CSS` itself


_IN_NOTEBOOK, _UNLIMITED, WHOLE = (
    RenderOptions(4_000),
    RenderOptions(20_000),
    RenderOptions(20_000, index=True),
)
_ROWS = 40  # attempts of one step
_SUMMARY = 160  # characters of the summary of a `details` element
_LINE = 100  # characters; a text with a longer line is wrapped


def as_html(transcript: Transcript, *, limit: int | None = 200_000) -> str:
    """Render the transcript as one ``div`` element.

    Args:
        transcript: the run to render.
        limit: bytes of HTML. If there are more, entries in the middle are left out. None leaves
            no entry out and shows more of each value.

    Example:
        >>> Path("ticket-42.html").write_text(agentrun.as_html(agentrun.transcript("ticket-42")))
    """
    return render(transcript, _UNLIMITED if limit is None else _IN_NOTEBOOK, limit)


def render(transcript: Transcript, look: RenderOptions, limit: int | None = None) -> Markup:
    """The one renderer behind notebook and page."""
    before = join(
        [
            element("style", CSS) if look.styled else "",
            element("h3", clip(transcript.key, 200)),
            element("p", clip(phrases.headline(transcript), 400)),
            element("p", phrases.totals(transcript), class_="ar-dim"),
            _value("input", pretty(transcript.input, indent=2), look.shown),
            _index(transcript) if look.index else "",
        ]
    )
    after = _ending(transcript, look.shown)
    entries = list(_entries(transcript.entries, look))
    if limit is not None:
        entries = _fit(entries, limit - _size(before) - _size(after) - 400)
    return element("div", before, *entries, after, class_="ar-root")


def _index(transcript: Transcript) -> Markup:
    """A table with the time and the cost of each step. Each row links to its step."""
    head = element("tr", *(element("th", name, align="left") for name in phrases.STEP_COLUMNS))
    rows = [
        element(
            "tr",
            element("td", element("a", str(step.step), href=f"#s{step.step}"), align="left"),
            *(element("td", clip(cell, _SUMMARY), align="left") for cell in cells),
        )
        for step, cells in phrases.step_rows(transcript)
    ]
    summary = element("summary", "steps, with time and cost")
    return element("details", summary, element("table", head, *rows), class_="ar-index")


def _entries(entries: tuple[Entry, ...], look: RenderOptions) -> Iterator[Markup]:
    turn = None
    for entry in entries:
        if isinstance(entry, NewMessage | Step) and entry.turn not in (None, turn):
            turn = entry.turn
            yield element("h4", f"turn {turn}")
        yield _entry(entry, look)


def _entry(entry: Entry, look: RenderOptions) -> Markup:
    match entry:
        case NewMessage(echo=True):
            return Markup("")  # the step itself shows it
        case NewMessage():
            return _message(entry.message, look.shown)
        case Step():
            return _step(entry, look)
        case Resume():
            return element(
                "div", element("p", element("strong", phrases.band(entry))), class_="ar-band"
            )
        case Note():
            return element("p", element("em", clip(phrases.note(entry), look.shown)))


def _fit(entries: list[Markup], room: int) -> list[Markup]:
    """The first and last entries that fit, and between them a line that counts the others."""
    if sum(map(_size, entries)) <= room:
        return entries
    head, left = _take(entries, room // 2)
    tail, _ = _take(entries[: len(head) - 1 if head else None : -1], room // 2 + left)
    missing = len(entries) - len(head) - len(tail)
    notice = f"… {missing:,} parts left out here; `agentrun show` prints all of them …"
    return [*head, element("p", element("strong", notice)), *reversed(tail)]


def _take(entries: list[Markup], room: int) -> tuple[list[Markup], int]:
    for number, entry in enumerate(entries):
        if _size(entry) > room:
            return entries[:number], room
        room -= _size(entry)
    return entries, room


def _message(message: Message, shown: int) -> Markup:
    label = f"{message.role} · {message.call_id}" if message.call_id else message.role
    call = [
        element("p", "asks for ", element("code", clip(call, shown)), class_="ar-dim")
        for call in (f"{call.name}({call.arguments})" for call in message.calls[:_ROWS])
    ]
    text = [_prose(clip(message.text, shown))] if message.text else []
    role = message.role if message.role in ("user", "assistant") else "other"
    opened = {} if message.role in ("system", "developer", "tool") else {"open": "open"}
    summary = element("summary", element("strong", clip(label, _SUMMARY)))
    return element("details", summary, *text, *call, class_=f"ar-{role}", **opened)


def _prose(text: str) -> Markup:
    """A text in its own layout. A ``pre`` cannot wrap long lines without a style, a ``p`` can."""
    if max(map(len, text.split("\n"))) <= _LINE:
        return element("pre", text, class_="ar-text")
    return element("p", break_lines(text), class_="ar-text")


def _step(step: Step, look: RenderOptions) -> Markup:
    shown = look.shown
    called = clip(phrases.call(step), _SUMMARY)
    summary = element("summary", f"{step.step}. ", element("code", called), *_facts(step))
    parts = [_value("request" if step.kind == "model" else "arguments", _json(step.input), shown)]
    if step.error is not None:
        parts.append(_value("error", phrases.failure(step.error), shown))
    elif step.finished_at is not None and step.kind != "model":
        parts.append(_value("result", _json(step.output), shown))
    parts += [element("p", clip(line, 1_000)) for line in phrases.decision_lines(step)]
    if step.idempotency_key:
        parts.append(element("p", "idempotency key ", element("code", step.idempotency_key)))
    if phrases.is_eventful(step):
        parts.append(_attempts(step))
    kind = "error" if step.error is not None else "doubt" if step.doubts else "step"
    attributes = {"class_": f"ar-{kind}"} | ({"id": f"s{step.step}"} if look.index else {})
    opened = {} if kind == "step" else {"open": "open"}
    return element("details", summary, *parts, **attributes, **opened)


def _facts(step: Step) -> list[Markup]:
    facts = phrases.facts(step)
    return [element("span", f" · {facts}", class_="ar-dim")] if facts else []


def _attempts(step: Step) -> Markup:
    rows = [
        element(
            "tr",
            *(
                element("td", clip(cell or "", 500), align="left")
                for cell in phrases.attempt_cells(attempt)
            ),
        )
        for attempt in step.attempts[-_ROWS:]
    ]
    if (earlier := len(step.attempts) - len(rows)) > 0:
        rows.insert(0, element("tr", element("td", f"… {earlier} earlier", align="left")))
    head = (element("th", name, align="left") for name in phrases.ATTEMPT_COLUMNS)
    return element("table", element("tr", *head), *rows)


def _ending(transcript: Transcript, shown: int) -> Markup:
    if transcript.error is not None:
        return _value("error", phrases.failure(transcript.error), shown, open_=True)
    if transcript.status == "done":
        result = transcript.result
        if isinstance(result, str):
            return element(
                "details", element("summary", "result"), _prose(clip(result, shown)), open="open"
            )
        return _value("result", pretty(result, indent=2), shown, open_=True)
    return Markup("")


def _value(label: str, text: str, shown: int, *, open_: bool = False) -> Markup:
    opened = {"open": "open"} if open_ or len(text) <= 200 else {}
    return element(
        "details", element("summary", label), element("pre", clip(text, shown)), **opened
    )


def _json(value: object) -> str:
    return pretty(value, indent=2)


def _size(markup: str) -> int:
    return len(markup.encode())
