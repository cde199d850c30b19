"""Renders a transcript as HTML, for a notebook, a file or a page.

The markup is plain ``details``, ``summary``, ``blockquote``, ``table`` and ``pre``. An untrusted
notebook or a restrictive site removes styles and classes, and the rest must still be readable. So
a turn is indented by an element, a status is always a word, and a chart is made of characters where
a drawing may be removed. All markup is built by `safe.element`, which escapes all recorded text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import TypeAlias

from agentrun.core.summary import Relatives
from agentrun.core.transcript import Entry, NewMessage, Resume, Step, Transcript
from agentrun.view import phrases
from agentrun.view.blocks import Band, Part, ShownStep, arrange
from agentrun.view.html_items import (
    SUMMARY,
    ItemRenderer,
    make_fold,
    make_table,
    show_failure,
    show_json,
)
from agentrun.view.rich_text import Images
from agentrun.view.safe import Markup, clip, element, join
from agentrun.view.style import CSS
from agentrun.view.timeline import Timeline, read_timeline
from agentrun.view.waterfall import draw_chart, draw_text

__all__ = [
    "CSS",
    "WHOLE",
    "Block",
    "RenderOptions",
    "RunAddress",
    "as_html",
    "ending_html",
    "entry_html",
    "render",
    "render_blocks",
]


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """How much is shown, and what the page around the transcript allows."""

    shown: int  # characters of one value
    image_room: int  # characters of all images together
    # A table of the steps with links. Only for a page of its own, because ids must be unique.
    index: bool = False
    titled: bool = True  # with the key; False for a page that has the key as its own heading
    styled: bool = True  # with the style sheet; False for a page that brings `CSS` itself
    parts_of_page: int | None = None  # parts in one fold; None puts all parts beside each other


# Where a run is shown, by its key. A run without an address is named and not linked.
RunAddress: TypeAlias = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a rendered run. As the run goes on, a block keeps its key and may change."""

    key: str  # unique in its run
    markup: Markup


_IN_NOTEBOOK, _UNLIMITED, WHOLE = (
    RenderOptions(4_000, 80_000),
    RenderOptions(20_000, 4_000_000),
    RenderOptions(20_000, 4_000_000, index=True, parts_of_page=500),
)
_TURN = 400  # bytes that the frame of a turn needs at most
_PAGED = 2_000  # steps; a longer run is shown in folds of `parts_of_page` parts
_CHILDREN = 50  # child runs in the header


def as_html(transcript: Transcript, *, limit: int | None = 200_000) -> str:
    """Render the transcript as one ``div`` element.

    Args:
        transcript: the run to render.
        limit: bytes of HTML. If there are more, entries in the middle are left out, and not
            rendered either. None leaves no entry out and shows more of each value.

    Example:
        >>> Path("ticket-42.html").write_text(agentrun.as_html(agentrun.transcript("ticket-42")))
    """
    return render(transcript, _UNLIMITED if limit is None else _IN_NOTEBOOK, limit)


def render(
    transcript: Transcript,
    look: RenderOptions,
    limit: int | None = None,
    relatives: Relatives | None = None,
    address: RunAddress | None = None,
) -> Markup:
    """The one renderer behind notebook, file and page. ``address`` links the relatives."""
    blocks = render_blocks(transcript, look, limit, relatives, address)
    return element("div", *(block.markup for block in blocks), class_="ar-root")


def render_blocks(
    transcript: Transcript,
    look: RenderOptions,
    limit: int | None = None,
    relatives: Relatives | None = None,
    address: RunAddress | None = None,
) -> list[Block]:
    """What `render` shows, in blocks. The last one is below the entries, and may be empty."""
    items = ItemRenderer(look.shown, look.index, Images(look.image_room))
    parts = arrange(transcript.entries)
    around = join(_relatives(relatives or Relatives(), address))
    before = list(_header(transcript, look, around, read_timeline(transcript)))
    after = _ending(transcript, parts, items)
    if limit is None:
        body = _lay_out(parts, items, look, transcript.started_at)
    else:
        room = limit - sum(_size(block.markup) for block in before) - _size(after) - 400
        body = _fit(parts, items, room, transcript.started_at)
    return [*before, *body, Block("end", after)]


def entry_html(entry: Entry, shown_tools: dict[str, int] | None = None) -> Markup:
    """One entry by itself, without styles. It is empty if it only repeats a recorded step.

    Entries that are given the same ``shown_tools`` show the same list of tools only once.
    """
    items = _alone(shown_tools)
    match entry:
        case NewMessage(echo=True):
            return Markup("")
        case Step():
            return items.render(ShownStep(entry))
        case Resume():
            return items.render(Band((entry,)))
        case _:
            return items.render(entry)


def ending_html(transcript: Transcript) -> Markup:
    """The result or the error of a run by itself, without styles."""
    return _ending(transcript, (), _alone())


def _alone(shown_tools: dict[str, int] | None = None) -> ItemRenderer:
    """Renders what stands by itself in a notebook."""
    images = Images(_IN_NOTEBOOK.image_room)
    return ItemRenderer(
        _IN_NOTEBOOK.shown, False, images, {} if shown_tools is None else shown_tools
    )


# ---- above the entries -----------------------------------------------------------------------


def _header(
    transcript: Transcript, look: RenderOptions, around: Markup, timeline: Timeline | None
) -> Iterator[Block]:
    yield Block("head", join(_heading(transcript, look, around, timeline)))
    if timeline is not None and len(timeline.bars) > 1:
        yield Block("timeline", _waterfall(timeline, drawn=look.index))
    if look.index:
        yield Block("steps", _index(transcript))


def _heading(
    transcript: Transcript, look: RenderOptions, around: Markup, timeline: Timeline | None
) -> Iterator[Markup]:
    if look.styled:
        yield element("style", CSS)
    if look.titled:
        yield element("h3", clip(transcript.key, 200), dir="auto")
    yield element("p", clip(phrases.headline(transcript), 400))
    yield element("p", phrases.times(transcript, timeline), class_="ar-dim")
    yield element("p", phrases.totals(transcript), class_="ar-dim")
    yield around
    if (found := phrases.first_error(transcript)) is not None:
        step, text = found
        label = "failed" if transcript.error is not None else "first error,"
        place = [] if step is None else [" in ", _step_link(step, linked=look.index)]
        yield element("p", element("strong", label, *place), f": {clip(text, 300)}")
    yield make_fold("input", show_json(transcript.input), look.shown)


def _step_link(step: Step, *, linked: bool) -> str:
    name = f"step {step.step}"
    return element("a", name, href=f"#s{step.step}") if linked else name


def _waterfall(timeline: Timeline, *, drawn: bool) -> Markup:
    """The timeline in block characters, and as a drawing where the page keeps it."""
    text = element("pre", draw_text(timeline), class_="ar-chart")
    if not drawn:
        return element("details", element("summary", "timeline"), text)
    fold = element("details", element("summary", "in characters"), text)
    summary = element("summary", "timeline")
    return element("details", summary, draw_chart(timeline), fold, open="open")


def _relatives(relatives: Relatives, address: RunAddress | None) -> Iterator[Markup]:
    if relatives.parent is not None:
        yield element("p", "child run of ", _run_link(relatives.parent, address))
    if relatives.tree_cost is not None and relatives.children:
        yield element("p", f"{phrases.money(relatives.tree_cost)} with all runs below it")
    rows = [
        (_run_link(child.key, address), clip(child.status, 40), phrases.money(child.cost))
        for child in relatives.children[:_CHILDREN]
    ]
    if rows:
        more = len(relatives.children) - len(rows)
        count = f"child runs: {len(relatives.children)}"
        yield element(
            "details",
            element("summary", count),
            make_table(("child run", "status", "cost"), rows),
            *([element("p", f"… and {more} more")] if more else []),
        )


def _run_link(key: str, address: RunAddress | None) -> Markup:
    shown = element("code", clip(key, 200))
    place = None if address is None else address(key)
    return shown if place is None else element("a", shown, href=place)


def _index(transcript: Transcript) -> Markup:
    """A table with the time and the cost of each step. Each row links to its step."""
    rows = [
        (
            element("a", str(step.step), href=f"#s{step.step}"),
            *(clip(cell, SUMMARY) for cell in cells),
        )
        for step, cells in phrases.step_rows(transcript)
    ]
    summary = element("summary", "steps, with time and cost")
    table = make_table(phrases.STEP_COLUMNS, rows, 1)
    return element("details", summary, table if len(rows) <= _PAGED else element("noscript", table))


# ---- the entries -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Piece:
    part: Part
    markup: Markup


def _lay_out(
    parts: Sequence[Part], items: ItemRenderer, look: RenderOptions, start: datetime | None
) -> Iterator[Block]:
    """All parts. Those of a very long run are in folds, of which a browser reads only the first.

    The others are in ``noscript`` elements: a browser without scripts shows them as they are, and
    with scripts the one of the page reads such a fold when it is needed.
    """
    pieces = [_Piece(part, items.render(part.item)) for part in parts]
    steps = sum(isinstance(part.item, ShownStep) for part in parts)
    if look.parts_of_page is None or steps <= _PAGED:
        yield from _turns(pieces, start)
        return
    for first in range(0, len(pieces), look.parts_of_page):
        page = pieces[first : first + look.parts_of_page]
        earlier = pieces[first - 1].part.turn if first else None
        opened = {} if first else {"open": "open"}
        summary = element("summary", element("strong", _name_page(page)))
        turns = join(block.markup for block in _turns(page, start, earlier))
        inside = element("noscript", turns) if first else turns
        fold = element("details", summary, inside, class_="ar-page", **opened)
        yield Block(f"page-{first}", fold)


def _name_page(page: list[_Piece]) -> str:
    """Which steps are in a fold: ``steps 501–1000``."""
    numbers = [p.part.item.step.step for p in page if isinstance(p.part.item, ShownStep)]
    return f"steps {min(numbers):,}–{max(numbers):,}" if numbers else "notes"


def _fit(
    parts: list[Part], items: ItemRenderer, room: int, start: datetime | None
) -> Iterator[Block]:
    """The first and last parts that fit, and between them a line that counts the others.

    Nothing is rendered that is not shown, but for one part at each end.
    """
    head, used = _take(parts, items, room // 2)
    rest = parts[len(head) :]
    tail, _ = _take(rest[::-1], items, room - used)
    tail.reverse()
    yield from _turns(head, start)
    if missing := len(rest) - len(tail):
        notice = f"… {missing:,} parts left out here; `agentrun show` prints all of them …"
        yield Block("gap", element("p", element("strong", notice)))
    yield from _turns(tail, start, head[-1].part.turn if head else None, "tail-")


def _take(parts: list[Part], items: ItemRenderer, room: int) -> tuple[list[_Piece], int]:
    """The pieces that fit into the room, and the bytes they need with the frames of their turns."""
    pieces: list[_Piece] = []
    used, turn = 0, None
    for part in parts:
        markup = items.render(part.item)
        needed = _size(markup) + (_TURN if not pieces or part.turn != turn else 0)
        if used + needed > room:
            break
        used, turn = used + needed, part.turn
        pieces.append(_Piece(part, markup))
    return pieces, used


def _turns(
    pieces: Sequence[_Piece], start: datetime | None, earlier: int | None = None, name: str = ""
) -> Iterator[Block]:
    """The pieces of each turn in a block. ``earlier`` is the turn that these pieces go on with.

    The keys begin with ``name``.
    """
    before = 0
    for turn, group in groupby(pieces, key=lambda piece: piece.part.turn):
        markups = [(piece.part, piece.markup) for piece in group]
        if turn is None:
            yield Block(f"{name}after-{before}", join(markup for _, markup in markups))
            continue
        before = turn
        title = f"turn {turn}, continued" if turn == earlier else f"turn {turn}"
        facts = phrases.turn_facts((part for part, _ in markups), start)
        summary = element(
            "summary",
            element("strong", title),
            *([element("span", f" · {facts}", class_="ar-dim")] if facts else []),
        )
        inside = element("blockquote", *(markup for _, markup in markups))
        fold = element("details", summary, inside, class_="ar-turn", open="open")
        yield Block(f"{name}turn-{turn}", fold)


# ---- below the entries -----------------------------------------------------------------------


def _ending(transcript: Transcript, parts: Sequence[Part], items: ItemRenderer) -> Markup:
    if transcript.error is not None:
        return join(show_failure(transcript.error, items.shown))
    if transcript.status != "done":
        return Markup("")
    result = transcript.result
    if not isinstance(result, str):
        return make_fold("result", show_json(result), items.shown, open_=True)
    if result and result == _last_answer(parts):
        return element("p", element("strong", "result"), ": the last message above")
    return element("details", element("summary", "result"), items.text(result), open="open")


def _last_answer(parts: Sequence[Part]) -> str | None:
    """The text of the last message, if the model wrote it."""
    messages = (part.item.message for part in reversed(parts) if isinstance(part.item, NewMessage))
    last = next(messages, None)
    return last.text if last is not None and last.role == "assistant" else None


def _size(markup: str) -> int:
    return len(markup.encode())
