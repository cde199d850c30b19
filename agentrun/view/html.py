"""A transcript as HTML, for a notebook, a file or a page.

Plain ``details``, ``summary``, ``table`` and ``pre``: a notebook that is not trusted, or a site
that allows little, strips styles and classes and what is left must still read well. So nothing
is hidden or shown by style, status is always a word, and the little CSS stays inside the root.
Colours come from the host (``--jp-*``, ``--vscode-*``) and else from the system, light or dark.
All markup is built by `safe.element`, which escapes everything that was recorded.
"""

from __future__ import annotations

from collections.abc import Iterator

from agentrun.core.transcript import Entry, Message, Note, Resume, Said, Step, Transcript
from agentrun.view import words
from agentrun.view.safe import Markup, clip, element, join, pretty

__all__ = ["CSS", "as_html"]

CSS = Markup(
    """
.ar-root{--ar-fg:var(--jp-content-font-color1,var(--vscode-foreground,CanvasText));
--ar-bg:var(--jp-layout-color1,var(--vscode-editor-background,Canvas));
--ar-line:var(--jp-border-color2,var(--vscode-panel-border,rgba(128,128,128,.45)));
--ar-mono:var(--jp-code-font-family,var(--vscode-editor-font-family,ui-monospace,monospace));
color:var(--ar-fg);background:var(--ar-bg);font-size:13px;line-height:1.45;padding:.5em .8em}
.ar-root h3{margin:.2em 0;font-size:1.15em}
.ar-root h4{margin:1em 0 .3em;padding-bottom:.1em;border-bottom:1px solid var(--ar-line)}
.ar-root p{margin:.25em 0}
.ar-root details{margin:.25em 0;padding-left:.6em;border-left:3px solid var(--ar-line);
content-visibility:auto;contain-intrinsic-size:auto 1.6em}
.ar-root summary{cursor:pointer}
.ar-root summary:focus-visible{outline:2px solid currentColor}
.ar-root pre{margin:.3em 0;padding:.3em .5em;white-space:pre-wrap;overflow-wrap:anywhere;
font-family:var(--ar-mono);color:inherit;background:rgba(128,128,128,.1)}
.ar-root table{border-collapse:collapse;margin:.3em 0}
.ar-root th,.ar-root td{text-align:left;vertical-align:top;padding:.1em .7em .1em 0}
.ar-root .ar-user{border-left-color:#2f81c7}
.ar-root .ar-assistant{border-left-color:#2e9e5b}
.ar-root .ar-error{border-left-color:#d1433f}
.ar-root .ar-doubt{border-left-color:#c98a00}
.ar-root .ar-band{margin:.7em 0;padding:.4em .7em;border:1px solid #c98a00;
border-left-width:6px;background:rgba(201,138,0,.13)}
"""
)

_SHOWN = 4_000  # characters of one value in a notebook
_SHOWN_IN_FILE = 20_000
_ROWS = 40  # attempts of one step
_SUMMARY = 160  # characters of a line that can be opened


def as_html(transcript: Transcript, *, limit: int | None = 200_000) -> str:
    """The transcript as one ``div``; of more than ``limit`` bytes the middle is left out.

    ``limit=None`` leaves no entry out and shows more of each value.
    """
    shown = _SHOWN if limit is not None else _SHOWN_IN_FILE
    before = join(
        [
            element("style", CSS),
            element("h3", clip(transcript.key, 200)),
            element("p", clip(words.headline(transcript), 400)),
            _value("input", pretty(transcript.input, indent=2), shown),
        ]
    )
    after = join([_ending(transcript, shown), element("p", words.totals(transcript))])
    entries = list(_entries(transcript.entries, shown))
    if limit is not None:
        entries = _fitted(entries, limit - _size(before) - _size(after) - 400)
    return element("div", before, *entries, after, class_="ar-root")


def _entries(entries: tuple[Entry, ...], shown: int) -> Iterator[Markup]:
    turn = None
    for entry in entries:
        if isinstance(entry, Said | Step) and entry.turn not in (None, turn):
            turn = entry.turn
            yield element("h4", f"turn {turn}")
        yield _entry(entry, shown)


def _entry(entry: Entry, shown: int) -> Markup:
    match entry:
        case Said(echo=True):
            return Markup("")  # the step itself shows it
        case Said():
            return _said(entry.message, shown)
        case Step():
            return _step(entry, shown)
        case Resume():
            return element(
                "div", element("p", element("strong", words.band(entry))), class_="ar-band"
            )
        case Note():
            return element("p", element("em", clip(words.note(entry), shown)))


def _fitted(entries: list[Markup], room: int) -> list[Markup]:
    """Head and tail of the entries that fit, and a line that says what is missing."""
    if sum(map(_size, entries)) <= room:
        return entries
    head, left = _taken(entries, room // 2)
    tail, _ = _taken(entries[: len(head) - 1 if head else None : -1], room // 2 + left)
    missing = len(entries) - len(head) - len(tail)
    told = f"… {missing:,} parts left out here; `agentrun show` prints all of them …"
    return [*head, element("p", element("strong", told)), *reversed(tail)]


def _taken(entries: list[Markup], room: int) -> tuple[list[Markup], int]:
    for number, entry in enumerate(entries):
        if _size(entry) > room:
            return entries[:number], room
        room -= _size(entry)
    return entries, room


def _said(message: Message, shown: int) -> Markup:
    label = f"{message.role} · {message.call_id}" if message.call_id else message.role
    asked = [
        element("p", "asks for ", element("code", clip(f"{call.name}({call.arguments})", shown)))
        for call in message.calls[:_ROWS]
    ]
    text = [element("pre", clip(message.text, shown))] if message.text else []
    role = message.role if message.role in ("user", "assistant") else "other"
    opened = {} if message.role in ("system", "developer", "tool") else {"open": "open"}
    summary = element("summary", element("strong", clip(label, _SUMMARY)))
    return element("details", summary, *text, *asked, class_=f"ar-{role}", **opened)


def _step(step: Step, shown: int) -> Markup:
    called = clip(words.call(step), _SUMMARY)
    summary = element("summary", f"{step.step}. ", element("code", called), _facts(step))
    parts = [_value("request" if step.kind == "model" else "arguments", _json(step.input), shown)]
    if step.error is not None:
        parts.append(_value("error", words.failure(step.error), shown))
    elif step.finished_at is not None and step.kind != "model":
        parts.append(_value("result", _json(step.output), shown))
    parts += [element("p", clip(line, 1_000)) for line in words.doubt_lines(step)]
    if step.idempotency_key:
        parts.append(element("p", "idempotency key ", element("code", step.idempotency_key)))
    if words.eventful(step):
        parts.append(_attempts(step))
    if step.error is not None or step.doubts:
        kind = "error" if step.error is not None else "doubt"
        return element("details", summary, *parts, class_=f"ar-{kind}", open="open")
    return element("details", summary, *parts, class_="ar-step")


def _facts(step: Step) -> str:
    return f" · {facts}" if (facts := words.facts(step)) else ""


def _attempts(step: Step) -> Markup:
    rows = [
        element(
            "tr",
            *(
                element("td", clip(cell or "", 500), align="left")
                for cell in words.attempt_cells(attempt)
            ),
        )
        for attempt in step.attempts[-_ROWS:]
    ]
    if (earlier := len(step.attempts) - len(rows)) > 0:
        rows.insert(0, element("tr", element("td", f"… {earlier} earlier", align="left")))
    head = (element("th", name, align="left") for name in words.ATTEMPT_COLUMNS)
    return element("table", element("tr", *head), *rows)


def _ending(transcript: Transcript, shown: int) -> Markup:
    if transcript.error is not None:
        return _value("error", words.failure(transcript.error), shown, open_=True)
    if transcript.status == "done":
        return _value("result", pretty(transcript.result, indent=2), shown, open_=True)
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
