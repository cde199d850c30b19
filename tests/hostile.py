"""Values that are hard to keep or to show: texts that attack, and any JSON made of any text."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import strategies as st

# What attacks a terminal, a browser, a shell, a database or a renderer of Markdown.
TEXTS = {
    "quotes": "' \" ` '' \"\" ;",
    "SQL": "'; DROP TABLE agentrun.journal; -- $$ $1 %(key)s",
    "LIKE": "%_% \\% [a-z]*",
    "formats": "%s %(a)s {} {0} {0.__class__} ${HOME} %n",
    "shell": "$(touch owned) `touch owned` ; && | > owned",
    "rich markup": "[red]x[/red] [/oops] [link=http://evil]x[/link] [@click=app.quit]x[/] :boom:",
    "HTML": "<script>alert(1)</script><img src=x onerror=alert(1)></pre></details><!-- ]]>",
    "HTML attributes": '" onclick="alert(1)" x=\' autofocus onfocus=\'alert(1)',
    "entities": "&lt;script&gt; &#60;b&#62; &amp;amp;",
    "Markdown": "\n```\n# heading\n![x](http://evil/p.png) [a](http://evil)\n| a |\n\n<b>x</b>",
    "fences": "``` ~~~ ```` \n~~~\n</details>\n`` ` ``",
    "title of the terminal": "\x1b]0;owned\x07 \x1b]2;owned\x1b\\",
    "clipboard": "\x1b]52;c;cm0gLXJm\x07",
    "hyperlink": "\x1b]8;;http://evil\x1b\\x\x1b]8;;\x1b\\",
    "colours and erasing": "\x1b[31m \x1b[2J \x1b[1A\x1b[2K \x1b[6n \x1b(0",
    "C1": "\x9b31m \x9d0;owned\x9c \x90q\x9c \x85",
    "overwriting": "safe\rowned \x08\x08\x08 \x7f \x0c \x0b",
    "turned around": "\u202egpj.exe\u202c \u2066x\u2069 \u200f \u061c",
    "unseen": "a\u200bb\u2060c\ufeffd\u00ade \U000e0041 \ufff9x\ufffb",
    "line ends": "one\ntwo\r\nthree\u2028four\u2029five\x85six",
    "tabs": "one\ttwo\t\tthree",
    "wide and joined": "日本語 👩\u200d👩\u200d👧 e\u0301 \U0001f3f4\U000e0067 ﷽",
    "noncharacters": "\ufffe \uffff \U0001ffff \ufdd0",
    "paths": "../../etc/passwd /dev/null C:\\x \\\\host\\x con.html",
    "options": "--json -h @last --dsn=x",
    "JSON": '{"$ref": "x"} "} ] \\" \\u0000 null NaN',
    "long": "x" * 1_500,
}
# Where a key cannot hold them; everywhere else they can stand.
UNKEYED = {"NUL": "a\0b\0", "lone surrogates": "\ud800 \udfff\ud83d"}
ACTIVE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)

UNITS = [
    "\0",
    "\ud83d",
    "\ude00",
    "😀",
    "␛",
    "␛0000",
    "\\",
    "\\u0000",
    "\\u241b0000",
    '"',
    "é",
    "\x7f",
    "\u202e",  # turns text around
    "\x1b[2J",
    "\r\n",
    "%s%(a)s{0}",
    "'; DROP TABLE agentrun.journal; --",
    "<script>",
    "[/oops]",
    "\n```\n",
]
TEXT = st.text(st.characters(exclude_categories=()), max_size=20) | st.lists(
    st.sampled_from(UNITS), max_size=8
).map("".join)
LARGEST = 10**4300 - 1
SCALAR = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([1e2, -0.0, 5e-324, LARGEST, -LARGEST])
)
JSON = st.recursive(
    SCALAR | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=25,
)


def exactly(value: Any) -> str:
    """A text that differs where ``==`` is blind: 1 and True, -0.0 and 0.0, the order of keys."""
    return repr(value)
