"""Hostile text wherever a name, a key, a value or a reason can stand, through every command.

What is shown can act on no terminal, no browser and no Markdown renderer; what is asked for by a
hostile key is that run and no other; what is written as JSON is the text itself.
"""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import pytest
from hostile import ACTIVE, TEXTS, UNKEYED
from markdown_it import MarkdownIt
from typer.testing import CliRunner, Result

import agentrun
from agentrun.cli import app
from agentrun.core.codec import plain

pytestmark = pytest.mark.long

HTML_TAGS = {"html", "head", "meta", "title", "style", "body", "main", "div", "h3", "h4", "p",
             "details", "summary", "pre", "code", "span", "table", "tr", "th", "td", "a", "strong",
             "em", "script", "blockquote", "br", "h5", "img", "ul", "ol", "li", "thead", "tbody",
             "s", "svg", "rect", "line", "text"}  # fmt: skip
TABLES = ("inbox", "ls", "sql")  # tab-separated, as the output is no terminal
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
        seen = result.stdout + result.stderr
        if args[0] in TABLES:  # a tab ends a cell, and no cell has one
            assert len({line.count("\t") for line in result.stdout.split("\n") if line}) == 1, args
            seen = seen.replace("\t", "")
        assert not ACTIVE.search(seen), args
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
