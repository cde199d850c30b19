"""Renders the items of a transcript as HTML: messages, steps, resumes and notes.

Each item is an element of its own. `view.html` puts them together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from agentrun.core.events import Json
from agentrun.core.sharing import Packed, whole
from agentrun.core.transcript import Failure, NewMessage, Note, Step
from agentrun.view import phrases
from agentrun.view.blocks import Band, Interruption, Item, ShownStep
from agentrun.view.rich_text import Images, render_text
from agentrun.view.safe import Markup, clip, element, pretty, utf16_length

__all__ = ["SUMMARY", "ItemRenderer", "make_fold", "make_table", "show_failure", "show_json"]

_ROWS = 40  # attempts of one step
SUMMARY = 160  # characters of the summary of a `details` element


@dataclass(frozen=True, slots=True)
class ItemRenderer:
    """Renders items, with at most ``shown`` characters of each value.

    ``linked`` gives each step an id, ``s`` and its number. It is inside the fold of the step,
    because a browser opens the folds around the target of a link.
    """

    shown: int
    linked: bool
    images: Images
    # The first step that had these tools, by their JSON text.
    shown_tools: dict[str, int] = field(default_factory=dict)

    def render(self, item: Item) -> Markup:
        """One item as one element."""
        match item:
            case NewMessage():
                return self._message(item)
            case ShownStep():
                return self._step(item)
            case Band() | Note():
                return self._interruption(item)

    def text(self, text: str, step: int = 0) -> Markup:
        """A text of a message or a result, with its Markdown. ``step`` is that of the message."""
        cut = f"{step} message {utf16_length(text)}" if self.linked else ""
        return render_text(text, self.shown, self.images, cut)

    def _message(self, entry: NewMessage) -> Markup:
        message = entry.message
        label = f"{message.role} · {message.call_id}" if message.call_id else message.role
        calls = [
            element("p", "asks for ", element("code", clip(call, self.shown)), class_="ar-dim")
            for call in (f"{call.name}({call.arguments})" for call in message.calls[:_ROWS])
        ]
        if (more := len(message.calls) - _ROWS) > 0:
            calls.append(element("p", f"… and asks for {more:,} more", class_="ar-dim"))
        text = [self.text(message.text, entry.step)] if message.text else []
        role = message.role if message.role in ("user", "assistant") else "other"
        opened = {} if message.role in ("system", "developer", "tool") else {"open": "open"}
        return element(
            "details",
            element("summary", element("strong", clip(label, SUMMARY))),
            *text,
            *self.images.render_all(message.images),
            *calls,
            class_=f"ar-{role}",
            **opened,
        )

    def _step(self, item: ShownStep) -> Markup:
        step = item.step
        facts = phrases.facts(step)
        summary = element(
            "summary",
            f"{step.step}. ",
            element("code", clip(phrases.call(step), SUMMARY)),
            *([element("span", f" · {facts}", class_="ar-dim")] if facts else []),
        )
        parts = [*self._values(step), *map(self._interruption, item.inside), *self._outcome(step)]
        parts += [element("p", clip(line, 1_000)) for line in phrases.decision_lines(step)]
        if step.idempotency_key:
            parts.append(element("p", "idempotency key ", element("code", step.idempotency_key)))
        if phrases.is_eventful(step):
            parts.append(_attempts(step))
        if step.reply is not None:
            parts.append(self._value(step, "reply", step.reply))
        of = step.kind if step.kind in ("model", "tool") else "other"
        kind = "error" if step.failed else "doubt" if step.doubts else "step"
        opened = {"open": "open"} if kind != "step" or item.inside else {}
        inside = [element("div", *parts, id=f"s{step.step}")] if self.linked else parts
        return element("details", summary, *inside, class_=f"ar-{kind} ar-of-{of}", **opened)

    def _values(self, step: Step) -> Iterator[Markup]:
        if step.kind != "model":
            yield self._value(step, "arguments", step.input)
            return
        settings = element("pre", clip(show_json(step.input), self.shown), dir="auto")
        said = element("p", "Its messages are shown where they are new, its tools once.")
        yield element("details", element("summary", "request"), settings, said)
        yield from self._tools(step)

    def _tools(self, step: Step) -> Iterator[Markup]:
        """The tools that the model was told of, if no step before has shown the same."""
        tools = _tools_of(step)
        if not tools:
            return
        text = show_json(tools)
        first = self.shown_tools.setdefault(text, step.step)
        if first != step.step:
            yield element("p", f"the same tools as in step {first}", class_="ar-dim")
        else:
            count = len(tools) if isinstance(tools, list) else 1
            yield make_fold(f"tools: {count}", text, self.shown)

    def _value(self, step: Step, label: str, value: object) -> Markup:
        cut = f"{step.step} {label}" if self.linked else ""
        return make_fold(label, show_json(value), self.shown, cut=cut)

    def _outcome(self, step: Step) -> Iterator[Markup]:
        if step.error is not None:
            yield from show_failure(step.error, self.shown)
        elif step.finished_at is not None and step.kind != "model":
            yield self._value(step, "result", step.output)

    def _interruption(self, item: Interruption) -> Markup:
        if isinstance(item, Note):
            return element("p", element("em", clip(phrases.note(item), self.shown)))
        told = element("p", element("strong", phrases.band(item)))
        each = [element("p", clip(line, 500), class_="ar-dim") for line in phrases.band_lines(item)]
        if len(each) == 1:
            return element("div", told, *each, class_="ar-band")
        fold = element("details", element("summary", f"all {len(each)} of them"), *each)
        return element("div", told, fold, class_="ar-band")


def make_fold(label: str, text: str, shown: int, *, open_: bool = False, cut: str = "") -> Markup:
    """A value in a fold, cut to ``shown`` characters. A short one is open.

    ``cut`` says to the script of a page where it finds all of the value.
    """
    opened = {"open": "open"} if open_ or len(text) <= 200 else {}
    place = {"data_cut": f"{cut} {utf16_length(text)}"} if cut and len(text) > shown else {}
    inside = element("pre", clip(text, shown), dir="auto", **place)
    return element("details", element("summary", label), inside, **opened)


def make_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *long: int) -> Markup:
    """A table that scrolls by itself where it is too wide. Only the ``long`` columns may wrap."""
    head = element("tr", *(element("th", name, align="left") for name in columns))
    body = (
        element(
            "tr",
            *(
                element("td", cell, align="left", **({"class_": "ar-long"} if n in long else {}))
                for n, cell in enumerate(row)
            ),
        )
        for row in rows
    )
    return element("div", element("table", head, *body), class_="ar-wide")


def show_failure(failure: Failure, shown: int) -> Iterator[Markup]:
    """An error, the line of code that raised it, and its traceback in a fold."""
    yield make_fold("error", phrases.failure(failure), shown, open_=True)
    if failure.traceback is not None:
        summary = element("summary", f"traceback, from {clip(failure.site or 'a library', 200)}")
        inside = element("pre", clip(failure.traceback, shown), dir="auto")
        yield element("details", summary, inside)


def _tools_of(step: Step) -> Json:
    """The tools in the request of a model call. The conversation beside them is not built."""
    recorded = step.recorded_request
    outline = recorded.outline() if isinstance(recorded, Packed) else recorded
    body = outline.get("body") if isinstance(outline, dict) else None
    return whole(body.get("tools")) if isinstance(body, dict) else None


def show_json(value: object) -> str:
    """A value as readable text of several lines."""
    return pretty(value, indent=2)


def _attempts(step: Step) -> Markup:
    rows: list[list[object]] = [
        [clip(cell or "", 500) for cell in phrases.attempt_cells(attempt)]
        for attempt in step.attempts[-_ROWS:]
    ]
    if (earlier := len(step.attempts) - len(rows)) > 0:
        rows.insert(0, [f"… {earlier} earlier"])
    return make_table(phrases.ATTEMPT_COLUMNS, rows, 3)
