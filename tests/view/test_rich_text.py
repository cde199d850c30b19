"""Markdown, code and images of hostile text: shown, and inert."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from journals import Journal, assistant, user

from agentrun.core.transcript import fold
from agentrun.view.html import as_html
from agentrun.view.layout import as_text
from agentrun.view.markdown import as_markdown
from agentrun.view.rich_text import Images, render_text

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGD4DwABBAEAX+XDSwAAAABJRU5ErkJg"
    "gg=="
)
DATA = f"data:image/png;base64,{PIXEL}"
REPORT = """# Order 7

The parcel is **lost**, *sorry*:

| what | cents |
|:-----|------:|
| cup  |   100 |

1. refund
2. `close` the [ticket](https://example.org/7)

```python
def refund(order: int) -> None: ...  # at once
```
"""


def shown(text: str, room: int = 10_000) -> ET.Element:
    return ET.fromstring(render_text(text, 20_000, Images(room)))


def test_markdown_is_shown_and_beside_it_as_it_is_written() -> None:
    page = shown(REPORT)
    assert page.findtext("h5") == "Order 7"
    assert page.findtext(".//strong") == "lost"
    assert [cell.get("align") for cell in page.findall(".//td")] == ["left", "right"]
    assert page.findtext(".//ol/li") == "refund"
    (link,) = page.findall(".//a")
    assert (link.get("href"), link.get("rel")) == (
        "https://example.org/7",
        "noopener noreferrer nofollow",
    )
    assert page.findtext(".//pre/code/span[@class='ar-k']") == "def"
    (written,) = page.findall("details")
    assert written.findtext("summary") == "as written"
    assert written.findtext("pre") == REPORT
    assert not [part for part in page.iter() if "style" in part.attrib], "a policy refuses it"


def test_text_without_markdown_keeps_its_layout() -> None:
    page = shown("one\n  two")
    assert (page.tag, page.text, page.get("dir")) == ("pre", "one\n  two", "auto")


HOSTILE_MARKDOWN = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "a <b onclick=alert(1)>b</b>",
    "[x](javascript:alert(1))", "[x](JaVaScRiPt:alert(1))", "[x](data:text/html,<script>)",
    "[x](file:///etc/passwd)", "[x](vbscript:x)", "[x](/runs?cancel=7)", "[x](ftp://e/x)",
    "<javascript:alert(1)>", "[x](\x01javascript:x)",
    "[x]: javascript:alert(1)\n\n[x]", "![x](http://evil/p.png)", "![x](//evil/p.png)",
    "![x](data:image/svg+xml;base64,PHN2Zz4=)", "![x](data:text/html;base64,PHN2Zz4=)",
    "[x](http://e/\"onmouseover=alert(1))", "[x](http://e 'a\" onclick=\"alert(1)')",
    "```\"><script>\nx\n```", "```python onload=x\n</code></pre><script>\n```", "&lt;script&gt;",
    "| a |\n|:-:|\n| <script> |", "> <iframe src=x>", "- <svg/onload=alert(1)>", "<!-- <b>",
    "[" * 3_000, "*a " * 3_000, "> " * 3_000, "- " * 3_000, "`a" * 3_000, "|a|b\n|-|-\n" * 500,
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE_MARKDOWN, ids=lambda text: text[:24])
def test_hostile_markdown_makes_only_what_is_named(text: str) -> None:
    page = shown(f"{text}\n\n**b**")
    tags = "a blockquote br code details div em h5 img li ol p pre s span strong summary table"
    assert {part.tag for part in page.iter()} <= {*tags.split(), "tbody", "td", "th", "thead",
                                                  "tr", "ul"}  # fmt: skip
    for part in page.iter():
        assert part.get("href", "http").startswith(("http", "mailto:"))
        assert part.get("src", "data:image/png").startswith("data:image/png")
        names = {"alt", "align", "class", "dir", "href", "rel", "src", "start", "target", "title"}
        assert part.attrib.keys() <= names
    assert page.findtext("details/pre") or page.findtext("details/p")


def test_images_are_shown_up_to_a_bound_and_others_are_named() -> None:
    text = f"![one]({DATA}) ![two]({DATA}) ![far](http://evil/p.png)"
    page = shown(text, room=len(PIXEL))
    assert [image.get("alt") for image in page.findall(".//img")] == ["one"]
    words = "".join(page.itertext())
    assert "[image/png of 72 bytes, not shown]" in words
    assert "[far: image at http://evil/p.png, not loaded]" in words


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": DATA}},
        {"type": "input_image", "image_url": DATA},
        {"type": "image",
         "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
        {"inlineData": {"mimeType": "image/png", "data": PIXEL}},
    ],
    ids=["chat", "responses", "anthropic", "gemini"],
)  # fmt: skip
def test_the_image_of_a_message_is_shown(part: dict[str, object]) -> None:
    j = Journal().claimed("w-1").asks(1, [user([{"type": "text", "text": "see"}, part])])
    page = ET.fromstring(as_html(fold(j.answers(1, assistant("seen")).events)))
    assert [image.get("src") for image in page.findall(".//img")] == [DATA]


def test_an_image_at_an_address_is_named_in_every_viewer() -> None:
    far = {"type": "image_url", "image_url": {"url": "https://evil.example/p.png\x1b"}}
    near = {"type": "image_url", "image_url": {"url": DATA}}
    j = Journal().claimed("w-1").asks(1, [user([{"type": "text", "text": "see"}, far, near])])
    transcript = fold(j.answers(1, assistant("seen")).events)
    told = "[image at https://evil.example/p.png␛, not loaded]"
    html = "".join(ET.fromstring(as_html(transcript)).itertext())
    for shown in (as_text(transcript), as_markdown(transcript), html):
        assert shown.count(told) == 1
        assert PIXEL not in shown


def test_the_parsers_are_loaded_with_the_first_text() -> None:
    code = "import sys, agentrun; assert not {'markdown_it', 'pygments'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
