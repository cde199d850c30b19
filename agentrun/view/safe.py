"""Makes text of models and tools inert. This is the only module that does so.

Model output can attack a terminal (by sequences that set the title or the clipboard or make
hyperlinks, by text that overwrites lines, and by bidirectional controls that reorder them) and
a browser (by markup). Nothing is removed: a control character becomes a visible one, so a reader
sees that it was there.

Rules: all text that is printed goes through `visible`, and all markup is built by `element`, which
escapes every string that is not already `Markup`.
"""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

__all__ = [
    "Markup",
    "break_lines",
    "clip",
    "element",
    "join",
    "pretty",
    "utf16_length",
    "visible",
]

# Joiners carry meaning in several scripts and in emoji, and reorder nothing.
_HARMLESS_FORMATS = frozenset("\u200c\u200d")

_WITHOUT_CONTENT = frozenset({"br", "img"})  # elements that have no end tag in HTML

# All characters that may need a closer look. A regular expression finds them fast.
_SUSPECT = re.compile(r"[^\x20-\x7e\xa1-\xac\xae-\u05ff\u0900-\u17ff\u3000-\ud7ff]")


def visible(text: str, *, multiline: bool = False) -> str:
    """``text`` with all control, format and undisplayable characters made visible.

    Line breaks are kept only if ``multiline``. Tabs become spaces. Applying this twice has the same
    result as once.
    """
    if multiline:
        text = text.replace("\r\n", "\n")
    return _SUSPECT.sub(lambda found: _make_visible(found[0], multiline), text)


def _make_visible(char: str, multiline: bool) -> str:
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
    """``text`` cut to ``limit`` characters, with a note of how many are left out."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… {len(text) - limit:,} more characters"


def utf16_length(text: str) -> int:
    """How long a browser's script finds the text: it counts units of UTF-16."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def pretty(value: Any, *, indent: int | None = None) -> str:
    """A JSON value as readable text. A string is returned without quotes. Never raises."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent, default=str)
    except (ValueError, TypeError, RecursionError):
        return f"({type(value).__name__} that cannot be shown)"


class Markup(str):
    """HTML that is safe to emit. Only `element`, `join` and `break_lines` make it."""

    __slots__ = ()


def element(tag: str, *children: object, **attributes: str) -> Markup:
    """``<tag attributes>children</tag>``. Children that are not `Markup` are made inert.

    Tag and attribute names must not come from recorded text. `class_` becomes ``class``,
    and `font_size` ``font-size``.
    An element without content, such as ``img``, takes no children.
    """
    markup = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_escape(value)}"'
        for name, value in attributes.items()
    )
    inside = join(children)
    if tag in _WITHOUT_CONTENT:
        return Markup(f"<{tag}{markup}/>")
    return Markup(f"<{tag}{markup}>{inside}</{tag}>")


def join(children: Iterable[object]) -> Markup:
    """The children one after another. Those that are not `Markup` are escaped."""
    return Markup(
        "".join(child if isinstance(child, Markup) else _escape(str(child)) for child in children)
    )


def break_lines(text: str) -> Markup:
    """``text`` made inert, with each line break as a ``br`` element, which needs no style."""
    return Markup(_escape(text).replace("\n", "<br/>"))


def _escape(text: str) -> str:
    return html.escape(visible(text, multiline=True))
