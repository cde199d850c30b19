"""The one place where text that a model or a tool wrote is made inert.

Model output attacks a terminal (title, clipboard and hyperlink sequences, text that overwrites
lines, bidirectional controls that reorder them) as well as a browser. Nothing is removed: what
was a control character is shown as a visible one, so a reader sees that it was there.

Terminal: everything printed goes through `visible`. Browser: markup is built by `element` alone,
which escapes every string that is not `Markup` already.
"""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

__all__ = ["Markup", "broken", "clip", "element", "join", "pretty", "visible"]

# Joiners carry meaning in several scripts and in emoji, and reorder nothing.
_HARMLESS_FORMATS = frozenset("\u200c\u200d")

# Everything that could be other than a plain visible character, found at C speed.
_SUSPECT = re.compile(r"[^\x20-\x7e\xa1-\xac\xae-\u05ff\u0900-\u17ff\u3000-\ud7ff]")


def visible(text: str, *, multiline: bool = False) -> str:
    """``text`` with every control, format and undisplayable character made visible.

    Line breaks are kept only if ``multiline``; tabs become spaces. Doing it twice changes
    nothing.
    """
    if multiline:
        text = text.replace("\r\n", "\n")
    return _SUSPECT.sub(lambda found: _shown(found[0], multiline), text)


def _shown(char: str, multiline: bool) -> str:
    code = ord(char)
    if char == "\n":
        return "\n" if multiline else "⏎"
    if char == "\t":
        return "    " if multiline else " "
    if code < 0x20:
        return chr(0x2400 + code)  # U+241B, the picture of ESC, for ESC
    if code == 0x7F:
        return "␡"
    if _plain(char):
        return char
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _plain(char: str) -> bool:
    code = ord(char)
    if code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF:  # noncharacters; XML refuses them
        return False
    harmful = unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    return not harmful or char in _HARMLESS_FORMATS


def clip(text: str, limit: int) -> str:
    """At most ``limit`` characters, saying how many were left out."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… {len(text) - limit:,} more characters"


def pretty(value: Any, *, indent: int | None = None) -> str:
    """A JSON value as people read it; a string stands for itself. Never raises."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent, default=str)
    except (ValueError, TypeError, RecursionError):
        return f"({type(value).__name__} that cannot be shown)"


class Markup(str):
    """HTML that is safe to emit, made by `element`, `join` and `broken` only."""

    __slots__ = ()


def element(tag: str, *children: object, **attributes: str) -> Markup:
    """``<tag attributes>children</tag>``, with all that is not `Markup` made inert.

    Tag and attribute names are ours; `class_` stands for ``class``.
    """
    given = "".join(f' {name.rstrip("_")}="{_escape(value)}"' for name, value in attributes.items())
    return Markup(f"<{tag}{given}>{join(children)}</{tag}>")


def join(children: Iterable[object]) -> Markup:
    """The children one after another, escaped where they are not `Markup`."""
    return Markup(
        "".join(child if isinstance(child, Markup) else _escape(str(child)) for child in children)
    )


def broken(text: str) -> Markup:
    """``text`` made inert, with each line break as a ``br``, which needs no style to hold."""
    return Markup(_escape(text).replace("\n", "<br/>"))


def _escape(text: str) -> str:
    return html.escape(visible(text, multiline=True))
