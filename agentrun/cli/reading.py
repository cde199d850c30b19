"""`agentrun show`, `watch` and `export`: a run's journal, from the database or from a file.

Whatever `export` wrote as JSONL or HTML can stand where a key is expected, and needs no database.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from agentrun.cli import output
from agentrun.core.errors import ConfigError, RunNotFound, RunPruned
from agentrun.core.events import Event
from agentrun.core.state import ENDED
from agentrun.core.transcript import fold
from agentrun.runner.streaming import streamed
from agentrun.store.database import Database
from agentrun.store.watching import watch as pieces
from agentrun.view.safe import visible

if TYPE_CHECKING:
    from rich.console import Console

    from agentrun.view.live import Feed

__all__ = ["EXPORTS", "Connect", "export", "full_key", "show", "watch"]

_LAST = "@last"
_CANDIDATES = 10  # keys that are listed when a prefix is ambiguous
_QUIET = 5.0  # seconds without an event, after which `watch` asks whether any can come

Connect = Callable[[], Database]


def full_key(database: Database, key: str) -> str:
    """The key that is meant. Raises RunNotFound, listing the candidates if there are several."""
    if key == _LAST:
        newest = database.query("runs", status=None, limit=1)
        if not newest:
            raise RunNotFound("there are no runs yet", key=key)
        return str(newest[0]["key"])
    try:
        return str(database.find(key)["key"])
    except RunPruned:
        raise
    except RunNotFound:
        found = [row["key"] for row in database.query("keys", prefix=key, limit=_CANDIDATES + 1)]
        if not found:
            raise
    if len(found) > 1:
        more = ", …" if len(found) > _CANDIDATES else ""
        listed = ", ".join(found[:_CANDIDATES])
        raise RunNotFound(f"several runs begin with {key!r}: {listed}{more}", key=key)
    return str(found[0])


def show(connect: Connect, key: str, *, full: bool, as_json: bool) -> None:
    """Print a transcript."""
    transcript = fold(_journal(connect, key))
    if as_json:
        output.emit_json(transcript.to_dict())
        return
    from agentrun.view.terminal import print_transcript

    print_transcript(transcript, output.terminal(), full=full)


def _journal(connect: Connect, key: str) -> list[Event]:
    file = Path(key)
    if file.suffix in _READERS and file.is_file():
        return _READERS[file.suffix](file)
    with connect() as database:
        run = database.find(full_key(database, key))
        return database.events(run["run_id"])[0]


def _read_lines(file: Path) -> list[Event]:
    from agentrun.view.jsonl import read_jsonl

    return list(read_jsonl(_text(file).split("\n")))


def _read_page(file: Path) -> list[Event]:
    from agentrun.view.page import journal_in

    return list(journal_in(_text(file)))


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None


_READERS = {".jsonl": _read_lines, ".html": _read_page}


# -- export ----------------------------------------------------------------------------------------


def _html(journal: list[Event]) -> str:
    from agentrun.view.page import as_page

    return as_page(fold(journal), journal)


def _markdown(journal: list[Event]) -> str:
    from agentrun.view.markdown import as_markdown

    return as_markdown(fold(journal))


def _jsonl(journal: list[Event]) -> str:
    from agentrun.view.jsonl import write_jsonl

    return "".join(f"{line}\n" for line in write_jsonl(journal))


def _openai(journal: list[Event]) -> str:
    from agentrun.view.chat import as_openai

    return json.dumps(as_openai(journal), indent=2) + "\n"


def _json(journal: list[Event]) -> str:
    return fold(journal).to_json() + "\n"


# By the name of the option, which is the ending of its file as well; --openai is asked for.
EXPORTS: dict[str, Callable[[list[Event]], str]] = {
    "html": _html,
    "md": _markdown,
    "jsonl": _jsonl,
    "openai": _openai,
    "json": _json,
}


def export(connect: Connect, key: str, formats: list[str], file: Path | None) -> None:
    """Write a run in one format to a file, or to stdout."""
    if not formats and file is not None:
        formats = [ending for ending in (file.suffix.removeprefix("."),) if ending in EXPORTS]
    if len(formats) != 1:
        options = ", ".join(f"--{name}" for name in EXPORTS)
        raise ConfigError(f"say one of {options}, or give -o a file that ends in .html, .md, …")
    text = EXPORTS[formats[0]](_journal(connect, key)).encode()
    if file is None:
        typer.echo(text, nl=False)  # as bytes: UTF-8 whatever the terminal is set to
        return
    try:
        file.write_bytes(text)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error}") from None
    output.note(f"wrote {file} ({len(text):,} bytes)")


# -- watch -----------------------------------------------------------------------------------------


def watch(connect: Connect, key: str, *, full: bool, text: bool, as_json: bool) -> None:
    """Print what a run does, as it does it, until it has ended."""
    with connect() as database:
        key = full_key(database, key)
        if text:
            _written(database, key, as_json=as_json)
            return
        printer = _events if as_json else _Lines(full)
        last_heard, told = time.monotonic(), ""
        for piece in pieces(database, key):
            if piece:
                printer(piece)
                last_heard = time.monotonic()
            elif time.monotonic() - last_heard > _QUIET:
                last_heard = time.monotonic()
                told = _tell_why(database, key, told)
        status = database.find(key)["status"]
    if status in ENDED - {"done"}:
        raise typer.Exit(1)


def _written(database: Database, key: str, *, as_json: bool) -> None:
    """Print what models write, as they write it; each reply, and each new try, on its own line."""
    begun = False
    for piece in streamed(database, key):
        if as_json:
            output.emit_json(asdict(piece))
            continue
        if begun and piece.offset == 0:
            typer.echo()
        typer.echo(visible(piece.text, multiline=True), nl=False)
        begun = True
    if begun:
        typer.echo()


def _events(piece: list[Event]) -> None:
    from agentrun.view.jsonl import write_jsonl

    for line in write_jsonl(piece):
        typer.echo(line)


class _Lines:
    """Prints lines as they come; knows what it printed."""

    def __init__(self, full: bool) -> None:
        from agentrun.view.live import Feed

        self._console: Console = output.terminal()
        self._feed: Feed = Feed(width=self._console.width, full=full)

    def __call__(self, piece: list[Event]) -> None:
        from agentrun.view.terminal import print_lines

        print_lines(self._feed.take(piece), self._console)


def _tell_why(database: Database, key: str, told: str) -> str:
    """Say why nothing comes, if that is known and was not said yet."""
    from agentrun.cli.health import way_on

    why = next(map(way_on, database.query("stuck", key=key, limit=1)), "")
    if why and why != told:
        output.note(why)
    return why
