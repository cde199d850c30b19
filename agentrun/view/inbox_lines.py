"""Lists what waits for a person: one block of lines for each item, with commands to copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from agentrun.view.durations import ago
from agentrun.view.layout import TextLine, wrap_text
from agentrun.view.safe import clip, pretty

__all__ = ["inbox_lines"]

_ARGUMENTS = 600  # characters of the arguments that are shown
_INDENT = "  "


def inbox_lines(
    items: Iterable[Mapping[str, Any]], *, width: int, now: datetime
) -> Iterator[TextLine]:
    """The blocks of the inbox, none of their texts wider than ``width``.

    An item has the fields of `store.inbox.Waiting`, and ``commands``. Commands are never wrapped,
    because they are there to be copied.
    """
    for number, item in enumerate(items):
        if number:
            yield TextLine()
        yield _heading(item, now).fit(width)
        yield from _call(item, width)
        for part in wrap_text(str(item.get("reason") or ""), width - len(_INDENT)):
            yield TextLine().add(_INDENT).add(part)
        for command in item.get("commands") or ():
            yield TextLine().add(_INDENT * 2).add(command, "call")


def _heading(item: Mapping[str, Any], now: datetime) -> TextLine:
    line = TextLine().add(str(item["key"]), "key")
    if item.get("step") is not None:
        line.add(f"  step {item['step']}")
    waits_for = str(item["waits_for"])
    style = "in_doubt" if waits_for in ("doubt", "divergence") else "note"
    line.add("  ").add(waits_for, style)
    return line.add(f"  {item['agent']} · {ago(item['since'], now)} ago", "dim")


def _call(item: Mapping[str, Any], width: int) -> Iterator[TextLine]:
    """The call that is asked about, and how much of its arguments is masked."""
    if not item.get("name"):
        return
    args = item.get("args")
    named = args if isinstance(args, dict) else {} if args is None else {"": args}
    parts = [f"{name}={pretty([value])[1:-1]}" if name else pretty(value)
             for name, value in named.items()]  # fmt: skip
    text = f"{item['name']}({', '.join(parts)})"
    for part in wrap_text(clip(text, _ARGUMENTS), width - len(_INDENT)):
        yield TextLine().add(_INDENT).add(part, "call")
    facts = [str(item["effect"]) if item.get("effect") else "",
             f"attempt {item['attempt']}" if item.get("attempt") else "",
             "masked in part" if item.get("masked") else ""]  # fmt: skip
    if shown := " · ".join(fact for fact in facts if fact):
        yield TextLine().add(_INDENT).add(shown, "dim")
