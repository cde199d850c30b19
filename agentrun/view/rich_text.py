"""Renders the text of a message: its Markdown, its code in colours, and the images of a message.

markdown-it-py reads the text, and Pygments the code in it. Neither makes any markup: `element`
builds each tag from their tokens, so that recorded text is escaped at the same one place as
everywhere. HTML in the text stays text. A link leads to the web or to a mail address, or it is
text. An image is shown only if the text holds it (a ``data:`` URI of a type named here, up to
a bound); the address of any other image is text, because loading it would tell others who reads.

Both packages are imported when the first text is rendered, since ``import agentrun`` is to be fast.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from agentrun.core.messages import Image
from agentrun.view.phrases import far_image
from agentrun.view.safe import Markup, break_lines, clip, element, join

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token
    from markdown_it.tree import SyntaxTreeNode

__all__ = ["Images", "render_text"]

_LINE = 100  # characters; a plain text with a longer line is wrapped
_MARKDOWN = 20_000  # characters; a longer text is shown as written
_CODE = 20_000  # characters of one block of code in colours
_IMAGE_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_DATA = re.compile(r"data:(image/[a-z]+);base64,([A-Za-z0-9+/=\s]+)")
_ADDRESS = re.compile(r"(?i)(https?://|mailto:)")
# What may begin Markdown: most texts have none of it, and are not parsed.
_MARKED = re.compile(r"[*_`#\[\]!<>|~]|^\s*(\d+[.)]|[-+=])|    ", re.MULTILINE)
_LEXERS = frozenset({
    "bash", "c", "c++", "console", "cpp", "css", "diff", "docker", "go", "html", "ini", "java",
    "javascript", "js", "json", "jsx", "kotlin", "markdown", "md", "php", "powershell", "py",
    "pycon", "python", "rb", "ruby", "rs", "rust", "scala", "sh", "shell", "sql", "swift", "toml",
    "ts", "tsx", "typescript", "xml", "yaml", "yml",
})  # fmt: skip
# The classes of code, by the beginning of the name of a token of Pygments.
_COLOURS = (
    ("Token.Comment", "c"),
    ("Token.Keyword", "k"),
    ("Token.Operator.Word", "k"),
    ("Token.Literal.String", "s"),
    ("Token.Literal.Number", "n"),
    ("Token.Name.Function", "f"),
    ("Token.Name.Class", "f"),
    ("Token.Name.Tag", "f"),
    ("Token.Name.Decorator", "f"),
    ("Token.Generic.Inserted", "s"),
    ("Token.Generic.Deleted", "d"),
)
_SIMPLE = {
    "paragraph": "p",
    "strong": "strong",
    "em": "em",
    "s": "s",
    "blockquote": "blockquote",
    "bullet_list": "ul",
    "list_item": "li",
    "table": "table",
    "thead": "thead",
    "tbody": "tbody",
    "tr": "tr",
}
_WITH_DIRECTION = frozenset({"paragraph", "blockquote", "list_item", "table"})


class Images:
    """Which images may still be shown. All images of one view share one room of characters."""

    def __init__(self, room: int) -> None:
        self._room = room

    def render(self, address: str, text: str = "") -> Markup:
        """The image if it may be shown, or else what stands in its place."""
        found = _DATA.fullmatch(address)
        if found is None:
            shown = f"{f'{clip(text, 200)}: ' if text else ''}{far_image(address)}"
            return element("em", f"[{shown}]")
        kind, size = found[1], len(found[2])
        if kind not in _IMAGE_TYPES or size > self._room:
            return element("em", f"[{clip(kind, 40)} of {size * 3 // 4:,} bytes, not shown]")
        self._room -= size
        # The address has passed the pattern: it holds nothing but letters, digits and `+/=`.
        return element("img", src="".join(address.split()), alt=clip(text, 200) or kind)

    def render_all(self, images: Iterable[Image]) -> list[Markup]:
        """The images of a message, each in a paragraph."""
        return [element("p", self.render(image.address)) for image in images]


def render_text(text: str, shown: int, images: Images, place: str = "") -> Markup:
    """A text of a message, cut to ``shown`` characters. With its Markdown comes how it is written.

    A text without Markdown keeps its own layout. ``place`` says to the script of a page where it
    finds all of a text that is cut.
    """
    cut = clip(text, shown)
    data = {"data_cut": place} if place and len(text) > shown else {}
    if len(cut) > _MARKDOWN + 100 or not _MARKED.search(cut):
        return _plain(cut, data)
    try:
        formatted = _Renderer(images).render(_parser().parse(text[:shown]))
    except (ValueError, RecursionError):  # beyond what the parser can read
        return _plain(cut, data)
    if len(text) > shown:
        formatted = join([formatted, element("p", cut[shown:].strip())])
    written = element("details", element("summary", "as written"), _plain(cut, data))
    return element("div", formatted, written, class_="ar-md")


def _plain(text: str, data: dict[str, str]) -> Markup:
    """A text in its own layout. A ``pre`` cannot wrap long lines without a style, a ``p`` can."""
    if max(map(len, text.split("\n"))) <= _LINE:
        return element("pre", text, class_="ar-text", dir="auto", **data)
    return element("p", break_lines(text), class_="ar-text", dir="auto", **data)


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": 20}).enable(
        ["table", "strikethrough"]
    )
    # The rules that make markup of HTML and of entities are off: both stay as they are written.
    return parser.disable(["html_block", "html_inline"], ignoreInvalid=True)


class _Renderer:
    """Turns a syntax tree of markdown-it-py into markup. A node that is not known stays text."""

    def __init__(self, images: Images) -> None:
        self._images = images

    def render(self, tokens: Sequence[Token]) -> Markup:
        from markdown_it.tree import SyntaxTreeNode

        return self._children(SyntaxTreeNode(tokens))

    def _children(self, node: SyntaxTreeNode) -> Markup:
        return join(self._node(child) for child in node.children)

    def _node(self, node: SyntaxTreeNode) -> Markup:
        kind = node.type
        if kind in _SIMPLE:
            if kind == "paragraph" and node.hidden:  # in a list without empty lines
                return self._children(node)
            direction = {"dir": "auto"} if kind in _WITH_DIRECTION else {}
            return element(_SIMPLE[kind], self._children(node), **direction)
        special: Callable[[SyntaxTreeNode], Markup] | None = getattr(self, f"_{kind}", None)
        if special is not None:
            return special(node)
        return self._children(node) if node.children else join([node.content])

    def _inline(self, node: SyntaxTreeNode) -> Markup:
        return self._children(node)

    def _softbreak(self, _: SyntaxTreeNode) -> Markup:
        return break_lines("\n")

    _hardbreak = _softbreak

    def _heading(self, node: SyntaxTreeNode) -> Markup:
        # The headings of a text are below those of the page.
        return element("h5", self._children(node), dir="auto")

    def _hr(self, _: SyntaxTreeNode) -> Markup:
        return element("p", "———")

    def _code_inline(self, node: SyntaxTreeNode) -> Markup:
        return element("code", node.content)

    def _code_block(self, node: SyntaxTreeNode) -> Markup:
        return element("pre", element("code", node.content.removesuffix("\n")))

    def _fence(self, node: SyntaxTreeNode) -> Markup:
        language = node.info.split(maxsplit=1)[0] if node.info.strip() else ""
        return element("pre", element("code", *_colour(node.content.removesuffix("\n"), language)))

    def _ordered_list(self, node: SyntaxTreeNode) -> Markup:
        start = node.attrs.get("start")
        first = {"start": str(start)} if isinstance(start, int) else {}
        return element("ol", self._children(node), **first)

    def _cell(self, node: SyntaxTreeNode) -> Markup:
        style = str(node.attrs.get("style", ""))  # such as `text-align:right`, which a CSP refuses
        align = style.removeprefix("text-align:")
        known = {"align": align} if align in ("left", "right", "center") else {}
        return element(node.tag, self._children(node), dir="auto", **known)

    _th = _td = _cell

    def _link(self, node: SyntaxTreeNode) -> Markup:
        address = str(node.attrs.get("href", ""))
        if not _ADDRESS.match(address):
            return join([self._children(node), f" ({address})"])
        away = {"rel": "noopener noreferrer nofollow", "target": "_blank", "title": address}
        return element("a", self._children(node), href=address, **away)

    def _image(self, node: SyntaxTreeNode) -> Markup:
        return self._images.render(str(node.attrs.get("src", "")), node.content)


def _colour(code: str, language: str) -> Iterable[Markup]:
    """The code as pieces in colours, or as one text if its language is not known."""
    if language.lower() not in _LEXERS or len(code) > _CODE:
        return [join([code])]
    from pygments.lexers import get_lexer_by_name

    lexer = get_lexer_by_name(language.lower(), stripnl=False, ensurenl=False)
    return [_piece(str(kind), text) for kind, text in lexer.get_tokens(code)]


def _piece(kind: str, text: str) -> Markup:
    for beginning, colour in _COLOURS:
        if kind.startswith(beginning):
            return element("span", text, class_=f"ar-{colour}")
    return join([text])
