"""Every hostile text in every field, in each value that shows itself, and in each command's output.

A notebook and a terminal take what is printed: no control character of a text may reach them.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hostile import ACTIVE
from hostile_runs import EVERY, KINDS, TAME, key_of
from test_view import Stripped
from typer.testing import CliRunner, Result

import agentrun
from agentrun.cli import app
from agentrun.notebook import follow
from agentrun.view.safe import visible

# What rich and we write to a terminal that has no colours: bold, dim, …; and the lines of `watch`.
_STYLE = re.compile(r"\x1b\[([0-9]|[0-9];[0-9])m")
_MOVES = re.compile(r"\x1b\[(\?25[lh]|1A|2K)|\r")
_ROWS = "SELECT key, agent, reason FROM runs ORDER BY key"
FOLLOWED = ("done", "failed", "resolved")
_STEPS = "SELECT key, name, args, result FROM tool_calls"


@pytest.fixture
def tame(tame_database: str) -> set[str]:
    """The elements and attributes of every value that a harmless text is in."""
    with agentrun.connect(tame_database):
        shown = list(bundles("tame", TAME))
        shown += [one for kind in FOLLOWED for one in followed(key_of(kind, "tame", TAME))]
    return {part for _, page in shown for part in parts_of(page)}


@pytest.fixture
def hostile(hostile_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("AGENTRUN_READER_URL", hostile_database)
    with agentrun.connect(hostile_database):
        yield hostile_database


# -- in a notebook ---------------------------------------------------------------------------------


def values(name: str, text: str) -> Iterator[Any]:
    """All that can be had of the runs of a text."""
    yield agentrun.runs(text=name)
    yield agentrun.sql(_ROWS)
    yield agentrun.sql(_STEPS)
    column = text.encode("utf-8", "replace").decode().replace("\0", "")[:40].replace('"', "")
    yield agentrun.sql(f'SELECT 1 AS "{column}"')
    done = agentrun.transcript(key_of("done", name, text))
    yield agentrun.redo(done.key, 1, once=True, dry_run=True)
    for kind in KINDS:
        key = key_of(kind, name, text)
        transcript = agentrun.transcript(key)
        yield from (agentrun.get(key), agentrun.inbox(key), transcript, transcript.totals)
        yield from (*transcript.steps, *transcript.entries, transcript.error)
        yield from agentrun.runs(root=key)
        compared = agentrun.compare(key, done.key)
        yield from (compared, *compared.steps)


def bundles(name: str, text: str) -> Iterator[tuple[str, str]]:
    """The two forms in which a notebook takes each value, and what `print` and `repr` show."""
    for value in values(name, text):
        if hasattr(value, "_repr_mimebundle_"):
            shown = value._repr_mimebundle_()
            yield shown["text/plain"], shown.get("text/html", "")
        yield repr(value), ""
        yield str(value), ""


def parts_of(page: str) -> set[str]:
    found = Stripped(page)
    return found.tags | {f" {name}" for name in found.attributes}


def test_no_value_that_shows_itself_acts(tame: set[str], hostile: str) -> None:
    for name, text in EVERY.items():
        told = ""
        for shown, page in bundles(name, text):
            assert not ACTIVE.search(shown), (name, shown)
            assert not ACTIVE.search(page), (name, page)
            assert parts_of(page) <= tame, (name, parts_of(page) - tame)
            told += Stripped(page).text
        assert visible(text, multiline=True)[:40] in told, name


def followed(key: str) -> list[tuple[str, str]]:
    """All that a notebook is sent while it follows a run, in both forms."""
    sent: list[tuple[str, str]] = []

    def take(data: Any, **_: Any) -> None:
        sent.append((data["text/plain"], data["text/html"]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("IPython.display.display", take)
        follow(key)
    assert sent
    return sent


def test_a_run_that_is_followed_does_not_act(tame: set[str], hostile: str) -> None:
    for name, text in EVERY.items():
        for kind in FOLLOWED:
            for shown, page in followed(key_of(kind, name, text)):
                assert not ACTIVE.search(shown + page), name
                assert parts_of(page) <= tame, (name, parts_of(page) - tame)


# -- in a terminal ---------------------------------------------------------------------------------


class Commands:
    """The command line in this process, in a terminal or in a pipe."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._runner = CliRunner()

    def __call__(self, *args: str, terminal: bool = False, codes: tuple[int, ...] = (0,)) -> Result:
        env = {"NO_COLOR": "1", "COLUMNS": "100", "PAGER": "cat"}
        env |= {"FORCE_COLOR": "1"} if terminal else {}
        given = ["--dsn", self._dsn, *args]
        result = self._runner.invoke(app, given, env=env, catch_exceptions=False)
        assert result.exit_code in codes, (args, result.output)
        return result


def commands(name: str, text: str) -> Iterator[tuple[list[str], tuple[int, ...]]]:
    """What is asked about the runs of a text, and the exit codes of success."""
    done, failed, doubt = (key_of(kind, name, text) for kind in ("done", "failed", "in doubt"))
    for kind in KINDS:
        yield ["show", "--full", "--", key_of(kind, name, text)], (0,)
    yield from ((["compare", "--", key, done], (1,)) for key in (failed, doubt))
    yield from ((["watch", "--", done], (0,)), (["watch", "--text", "--", failed], (1,)))
    yield ["show", "--errors", "--", failed], (0,)
    yield ["show", "--step", "1", "--", done], (0,)
    yield ["redo", "--once", "--", done, "1"], (1, 2)  # asks before it acts
    yield ["show", "--", f"no {done}"[:1_900]], (4,)


def shared_commands() -> Iterator[list[str]]:
    """What is asked about all runs."""
    yield from (["ls", "--limit", "999"], ["ls", "--tree", "--limit", "999"], ["inbox"])
    yield from (["sql", _ROWS], ["sql", _STEPS])


def test_no_command_acts_on_a_terminal(hostile: str) -> None:
    run = Commands(hostile)
    for name, text in {"": "", **EVERY}.items():
        told = ""
        asked = commands(name, text) if name else ((args, (0,)) for args in shared_commands())
        for args, codes in asked:
            result = run(*args, terminal=True, codes=codes)
            shown = _STYLE.sub("", result.stdout + result.stderr)
            if args[0] == "watch":
                shown = _MOVES.sub("", shown)
            assert not ACTIVE.search(shown), (args, ACTIVE.search(shown))
            told += shown
        start = visible(text)[:20].split(" ")[0]
        assert start in told, name


def test_no_command_writes_a_control_character_to_a_pipe(hostile: str) -> None:
    run = Commands(hostile)
    for name, text in {"": "", **EVERY}.items():
        asked = commands(name, text) if name else ((args, (0,)) for args in shared_commands())
        for args, codes in asked:
            if "--full" in args:  # as without a terminal, and seen there
                continue
            result = run(*args, codes=codes)
            # Tabs part the cells of a line.
            assert not ACTIVE.search((result.stdout + result.stderr).replace("\t", "")), args
    for line in run("ls", "--limit", "999").stdout.splitlines()[1:]:
        assert line.count("\t") == 7
    rows = list(csv.reader(io.StringIO(run("sql", _STEPS, "--csv").stdout)))
    assert {len(row) for row in rows} == {4}
    for args in (["ls", "--limit", "999"], ["inbox"], ["sql", _ROWS], ["sql", _STEPS]):
        found = run(*args, "--json").stdout
        assert found.isascii()
        assert not ACTIVE.search(found)
        assert json.loads(found)
