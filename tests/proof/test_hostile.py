"""Hostile text wherever a name, a key, a value or a reason can stand, through every command.

What is shown can act on no terminal, no browser and no Markdown renderer; what is asked for by a
hostile key is that run and no other; what is written as JSON is the text itself.
"""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner, Result

import agentrun
from agentrun.cli import app
from agentrun.core.codec import plain

pytestmark = pytest.mark.long

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
HTML_TAGS = {"html", "head", "meta", "title", "style", "body", "main", "div", "h3", "h4", "p",
             "details", "summary", "pre", "code", "span", "table", "tr", "th", "td", "a", "strong",
             "em", "script", "blockquote", "br", "h5", "img", "ul", "ol", "li", "thead", "tbody",
             "s", "svg", "rect", "line", "text"}  # fmt: skip
MARKDOWN_TAGS = {"h1", "h2", "p", "pre", "code", "details", "summary", "strong", "em",
                 "blockquote", "ul", "li"}  # fmt: skip


class Tags(HTMLParser):
    """The tags of a page, and the attributes of all of them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {(tag, name) for name, _ in attrs}


class Hostile:
    """Runs in which a text stands everywhere, and the command line to look at them."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.shown = 0

    def cli(self, *args: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, ["--dsn", self.dsn, *args], catch_exceptions=False)
        assert result.exit_code == code, (args, result.output, result.stderr)
        self.shown += 1
        return result

    def inert(self, *args: str, code: int = 0) -> str:
        result = self.cli(*args, code=code)
        assert not ACTIVE.search(result.stdout + result.stderr), args
        return result.stdout

    def json(self, *args: str) -> Any:
        out = self.cli(*args).stdout
        assert out.isascii()
        return json.loads(out)

    # -- chapters ------------------------------------------------------------------------------

    def run(self, key: str, text: str) -> None:
        """A run that is held, decided, and fails, with the text at every place."""
        keyed = self.agent(key, text)
        self.inert("ls")
        self.inert("inbox")
        (row,) = [row for row in self.json("inbox", "--json") if row["key"] == key]
        seen = plain(text)  # as SQL sees it: what Postgres cannot hold is escaped
        assert row["args"] == {"what": seen, "more": {seen: [seen]}}
        self.inert("doctor", code=1)  # a run waits
        self.inert(
            "approve", "--by", shell(text), "--reason", shell(text), "--", key, str(row["step"])
        )
        # Each command opens the database and closes it.
        with agentrun.connect(self.dsn), pytest.raises(agentrun.RunFailed):
            keyed.run(text)
        self.read(key, text)

    def agent(self, key: str, text: str) -> Any:
        @agentrun.tool(name=f"tool {text}", approve=True)
        def act(what: str, more: dict[str, Any]) -> Any:
            return {text: what}

        @agentrun.tool(name=f"failing {text}", effect="read")
        def fail(what: str) -> None:
            raise ValueError(text)

        @agentrun.agent(name=f"agent {plain(text)}")
        def hostile(said: str) -> None:
            with agentrun.branch(text):
                act(said, {text: [text]})
            fail(said)

        keyed = hostile.with_options(key=key)
        with agentrun.connect(self.dsn), pytest.raises(agentrun.RunHeld):
            keyed.run(text)
        return keyed

    def read(self, key: str, text: str) -> None:
        for args in (["show"], ["show", "--full"]):
            self.inert(*args, "--", key)
        self.inert("watch", "--", key, code=1)  # the run has failed
        told = self.json("show", "--json", "--", key)
        assert told["key"] == key
        assert told["input"]["said"] == text
        assert self.cli("show", "--json", "--", key[: len(key) // 2 + 2]).exit_code == 0
        lines = self.cli("export", "--jsonl", "--", key).stdout.splitlines()
        assert [json.loads(line)["event"] for line in lines][-1] == "run_failed"
        page = Tags(self.cli("export", "--html", "--", key).stdout)
        assert page.tags <= HTML_TAGS
        assert not {name for _, name in page.attributes if name.startswith("on")}
        assert {tag for tag, name in page.attributes if name == "href"} <= {"a"}
        assert not [name for tag, name in page.attributes if name == "src"]
        markdown = self.cli("export", "--md", "--", key).stdout
        rendered = MarkdownIt("commonmark", {"html": True}).render(markdown)
        assert Tags(rendered).tags <= MARKDOWN_TAGS
        for name in ("openai", "json"):
            json.loads(self.cli("export", f"--{name}", "--", key).stdout)
        quoted = key.replace("'", "''")
        query = f"SELECT key, reason FROM runs WHERE key = '{quoted}'"  # noqa: S608
        (row,) = self.json("sql", query, "--json")
        assert row["key"] == key
        self.inert("sql", query)
        self.inert("sql", f"SELECT 1 AS {identifier(text)}")
        self.inert("show", "--", f"no run {key}"[:1_990], code=4)
        with agentrun.connect(self.dsn) as database:
            assert database.query("keys", prefix=key, limit=9) == [{"key": key}]


def shell(text: str) -> str:
    """A command's argument is UTF-8 without NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "?")


def identifier(text: str) -> str:
    """A column's name for it, as SQL quotes one."""
    return '"' + shell(text)[:40].replace('"', '""') + '"'


def test_hostile_text_is_inert_in_every_command(dsn: str, proof: Any) -> None:
    hostile, every = Hostile(dsn), TEXTS | UNKEYED
    for case in proof.cases("hostile", list(every), share=4):
        with case:
            text = every[case.name]
            key = f"{case.name}: {'' if case.name in UNKEYED else text}"
            before, hostile.shown = hostile.shown, 0
            hostile.run(key, text)
            case.count(commands=hostile.shown, escapes=0)
            hostile.shown += before
