"""Draws the attempts of a run over time: one lane for each scope, a bar for each attempt.

Times in which the run did nothing are cut out, and the cut says how long they were. A crash is
a line across all lanes. There are two forms of the same chart. The one of block characters is plain
text, and stays readable where a notebook or a mail program removes styles and drawings. The other
is an SVG, for pages that may have one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from agentrun.core.history import scope_of
from agentrun.view import phrases
from agentrun.view.durations import brief
from agentrun.view.safe import Markup, clip, element, visible
from agentrun.view.timeline import Bar, Timeline

__all__ = ["draw_chart", "draw_text"]

_COLUMNS = 60  # characters of the chart's width
_LANES = 24  # lanes that are drawn; the others are counted
_BARS = 1_500  # bars in the drawing
_LABEL = 12  # characters of a lane's name
_WIDTH, _HEIGHT, _LEFT = 800.0, 14.0, 96.0  # of the drawing, of a lane, of the names
_SIGNS = {"model": "█", "tool": "▒"}
_FILLS = {"model": "#3a9d6a", "tool": "#3b82c4"}
_FAILED = "#cf4f4a"


@dataclass(frozen=True, slots=True)
class _Lane:
    """The bars of one scope, or those of them that do not overlap."""

    name: str
    bars: tuple[Bar, ...]


class _Axis:
    """Where a time lies between 0 and 1. A long time without work takes only a short piece."""

    def __init__(self, timeline: Timeline, cut_width: float) -> None:
        # A pause is worth a cut if it is longer than a twentieth of the work.
        least = max(timedelta(seconds=1), timeline.working / 20)
        self.cuts = [period for period in timeline.idle if period[1] - period[0] > least]
        total = timeline.end - timeline.start
        work = total - sum((end - start for start, end in self.cuts), timedelta(0))
        cut = min(cut_width, 0.5 / len(self.cuts)) if self.cuts else 0.0
        scale = (1 - cut * len(self.cuts)) / max(work.total_seconds(), 1e-9)
        self._times, self._places = [timeline.start], [0.0]
        for start, end in self.cuts:
            self._extend(start, (start - self._times[-1]).total_seconds() * scale)
            self._extend(end, cut)
        self._extend(timeline.end, (timeline.end - self._times[-1]).total_seconds() * scale)

    def _extend(self, time: datetime, width: float) -> None:
        self._times.append(time)
        self._places.append(self._places[-1] + width)

    def place(self, time: datetime) -> float:
        """The place of a time, from 0 at the beginning to 1 at the end."""
        after = min(max(bisect_right(self._times, time), 1), len(self._times) - 1)
        before, width = after - 1, (self._times[after] - self._times[after - 1]).total_seconds()
        share = (time - self._times[before]).total_seconds() / width if width else 0.0
        span = self._places[after] - self._places[before]
        return min(1.0, max(0.0, self._places[before] + span * share))


def draw_text(timeline: Timeline) -> str:
    """The chart as lines of block characters, with a legend."""
    axis = _Axis(timeline, 2 / _COLUMNS)
    lanes, more = _lanes(timeline)
    lines = []
    for lane in lanes:
        row = [" "] * _COLUMNS
        for bar in lane.bars:
            first, last = (_column(axis.place(time)) for time in (bar.start, bar.end))
            sign = "×" if _is_failed(bar) else _SIGNS.get(bar.step.kind or "", "░")
            row[first : last + 1] = sign * (last + 1 - first)
        for start, end in axis.cuts:
            first, last = (_column(axis.place(time)) for time in (start, end))
            row[first : last + 1] = "⋯" * (last + 1 - first)
        for crash in timeline.crashes:
            row[_column(axis.place(crash))] = "│"
        lines.append(f"{visible(lane.name):{_LABEL}} {''.join(row).rstrip()}")
    return "\n".join([*lines, *_legend(timeline, axis, more)])


def draw_chart(timeline: Timeline) -> Markup:
    """The chart as an SVG. Each bar is a link to its step."""
    axis = _Axis(timeline, 0.02)
    lanes, more = _lanes(timeline)
    height = _HEIGHT * len(lanes)
    shapes = [*_cut_shapes(axis, height), *_bar_shapes(lanes, axis)]
    for crash in timeline.crashes:
        x = _x(axis.place(crash))
        line = {"x1": x, "x2": x, "y1": "0", "y2": f"{height:.0f}", "stroke": "#c08a1e"}
        title = element("title", f"crash, taken up at {phrases.moment(crash)}")
        shapes.append(element("line", title, **line, stroke_width="2"))
    size = {"viewBox": f"0 0 {_WIDTH:.0f} {max(height, 1):.0f}", "width": f"{_WIDTH:.0f}"}
    label = f"timeline of {len(timeline.bars)} attempts"
    drawing = element("svg", *shapes, role="group", aria_label=label, **size)
    words = (element("p", line, class_="ar-dim") for line in _legend(timeline, axis, more, 2))
    return element("div", drawing, *words)


def _bar_shapes(lanes: Sequence[_Lane], axis: _Axis) -> Iterator[Markup]:
    count = 0
    for row, lane in enumerate(lanes):
        y = row * _HEIGHT
        place = {"x": "0", "y": f"{y + 10:.0f}", "font_size": "10", "fill": "currentColor"}
        yield element("text", lane.name, **place)
        right = -1.0
        for bar in lane.bars:
            start, end = axis.place(bar.start), axis.place(bar.end)
            if end * (_WIDTH - _LEFT) < right or count >= _BARS:  # within a pixel of the one before
                continue
            right, count = end * (_WIDTH - _LEFT) + 0.25, count + 1
            width = max(1.0, (end - start) * (_WIDTH - _LEFT))
            fill = _FAILED if _is_failed(bar) else _FILLS.get(bar.step.kind or "", "#8a8f98")
            box = {"x": _x(start), "y": f"{y + 2:.0f}", "width": f"{width:.1f}", "height": "10"}
            shape = element("rect", _title(bar), **box, fill=fill)
            yield element("a", shape, href=f"#s{bar.step.step}")


def _title(bar: Bar) -> Markup:
    took = brief(bar.end - bar.start)
    name = clip(bar.step.model or bar.step.name, 100)
    parts = f"{bar.step.step}. {name} · attempt {bar.attempt.number} · {bar.attempt.status}"
    return element("title", f"{parts} · {took}")


def _cut_shapes(axis: _Axis, height: float) -> Iterator[Markup]:
    for start, end in axis.cuts:
        first, last = axis.place(start), axis.place(end)
        box = {"x": _x(first), "y": "0", "height": f"{height:.0f}", "fill": "currentColor"}
        box["width"] = f"{(last - first) * (_WIDTH - _LEFT):.1f}"
        title = element("title", f"{brief(end - start)} without work, cut out")
        yield element("rect", title, **box, fill_opacity="0.12")


def _lanes(timeline: Timeline) -> tuple[list[_Lane], int]:
    """The lanes that are drawn, in the order in which their scopes began, and how many are not."""
    scopes: dict[str, list[list[Bar]]] = {}
    for bar in sorted(timeline.bars, key=lambda bar: bar.start):
        rows = scopes.setdefault(scope_of(bar.step.ident), [])
        free = next((row for row in rows if row[-1].end <= bar.start), None)
        if free is not None:
            free.append(bar)
        elif len(rows) < _LANES:
            rows.append([bar])
        else:
            rows[-1].append(bar)
    lanes = [
        _Lane("" if number else clip(scope.rstrip("/>") or "run", _LABEL), tuple(row))
        for scope, rows in scopes.items()
        for number, row in enumerate(rows)
    ]
    return lanes[:_LANES], len(lanes[_LANES:])


def _legend(timeline: Timeline, axis: _Axis, more: int, first: int = 0) -> list[str]:
    """What the chart does not say itself. The signs are explained from the ``first`` on."""
    signs = ["█ model  ▒ tool  ░ other  × failed  │ crash  ⋯ no work, cut out"]
    if first:
        signs = ["green: model, blue: tool, grey: other, red: failed, ochre line: crash"]
    start, end = phrases.moment(timeline.start), phrases.moment(timeline.end)
    cut = sum((stop - begin for begin, stop in axis.cuts), timedelta(0))
    notes = [f"{start} to {end}"]
    if axis.cuts:
        count = len(axis.cuts)
        cuts = "one time" if count == 1 else f"{count} times"
        notes.append(f"{cuts} without work cut out, {brief(cut)} in all")
    if more:
        notes.append(f"{more} more lanes are not drawn")
    return [*signs, *notes]


def _is_failed(bar: Bar) -> bool:
    return bar.attempt.status in ("failed", "error", "cancelled")


def _column(place: float) -> int:
    return min(_COLUMNS - 1, int(place * _COLUMNS))


def _x(place: float) -> str:
    return f"{_LEFT + place * (_WIDTH - _LEFT):.1f}"
