r"""The prompt of `agentrun sql`, with history and completion.

With prompt_toolkit, where it is installed, else with readline, else as plain lines.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from agentrun.cli.output import complain, note
from agentrun.cli.sql_command import Form, run_query
from agentrun.core.errors import AgentrunError
from agentrun.store.audit import list_names

__all__ = ["run_prompt"]

_WELCOME = (
    r"read-only; end a query with ; and leave with \q or Ctrl-D"
    "\n"
    r"\d lists tables and views, \d NAME the columns of one, \x turns records on and off"
)
_WORDS = re.findall(
    r"\w+",
    "SELECT FROM WHERE GROUP ORDER BY LIMIT JOIN LEFT USING ON AND OR NOT NULL IS IN AS DISTINCT "
    "HAVING UNION WITH CASE WHEN THEN ELSE END COUNT SUM MAX MIN AVG DESC LIKE",
)
_HISTORY = "AGENTRUN_SQL_HISTORY"
_KEPT = 1_000  # lines of history that readline keeps

Ask = Callable[[str], str]


def run_prompt(dsn: str, form: Form) -> None:
    r"""Run queries from the terminal until its end or `\q`; an error ends only its query."""
    note(_WELCOME)
    with _open_prompt(dsn) as ask:
        for query in _read_queries(ask):
            if query == r"\x":
                form = "table" if form == "records" else "records"
                note("records are on" if form == "records" else "records are for wide tables")
                continue
            try:
                run_query(dsn, query, form)
            except AgentrunError as error:
                complain(error)


def _read_queries(ask: Ask) -> Iterator[str]:
    lines: list[str] = []
    while True:
        try:
            lines.append(ask("agentrun> " if not lines else "       -> "))
        except EOFError:
            note("")
            return
        except KeyboardInterrupt:  # as in psql, Ctrl-C discards the lines typed so far
            note("")
            lines = []
            continue
        text = "\n".join(lines).strip()
        if text in (r"\q", "quit", "exit"):
            return
        if not text:
            lines = []
        elif text.endswith(";") or (len(lines) == 1 and text.startswith("\\")):
            yield text
            lines = []


@contextlib.contextmanager
def _open_prompt(dsn: str) -> Iterator[Ask]:
    """A function that asks for one line, with the best means that there are."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield input
        return
    words = [*_names(dsn), *_WORDS]
    try:
        yield _toolkit_prompt(words)
        return
    except ImportError:
        pass
    try:
        with _readline_prompt(words):
            yield input
    except ImportError:
        yield input


def _names(dsn: str) -> list[str]:
    """The relations and columns of the schema; none if they cannot be read."""
    try:
        return list_names(dsn)
    except AgentrunError:
        return []


def _history_file() -> Path:
    """Where history is kept: AGENTRUN_SQL_HISTORY, or a file in the home, for its owner only."""
    file = Path(os.environ.get(_HISTORY) or Path.home() / ".agentrun_sql_history").expanduser()
    with contextlib.suppress(OSError):
        file.touch(mode=0o600)
    return file


def _toolkit_prompt(words: Sequence[str]) -> Ask:
    """A prompt of prompt_toolkit. Raises ImportError where it is not installed."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory

    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(_history_file())),
        completer=WordCompleter(list(words), ignore_case=True),
        complete_while_typing=False,
    )
    return session.prompt


@contextlib.contextmanager
def _readline_prompt(words: Sequence[str]) -> Iterator[None]:
    """Give `input` history and completion. Raises ImportError where there is no readline."""
    import readline

    def complete(begun: str, number: int) -> str | None:
        found = [word for word in words if word.lower().startswith(begun.lower())]
        return found[number] if number < len(found) else None

    file = _history_file()
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(_KEPT)
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            readline.write_history_file(file)
