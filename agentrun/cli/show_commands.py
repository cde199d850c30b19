"""`agentrun show`, `inbox`, `watch` and `export`: read journals from the database or from a file.

`show` and `export` accept a JSONL or HTML file of `export` in place of a key, without a database.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from agentrun.api.handle import journal_of
from agentrun.cli import output
from agentrun.core.errors import ConfigError, RunNotFound, RunPruned
from agentrun.core.events import Event
from agentrun.core.state import ENDED
from agentrun.core.transcript import fold
from agentrun.lifecycle.live_workers import who_continues
from agentrun.lifecycle.reply_stream import stream_text
from agentrun.store.database import OpenDatabase
from agentrun.store.inbox import UnreadDecision, list_unread_decisions, list_waiting
from agentrun.store.run_list import list_runs
from agentrun.store.runs import find_run, find_stuck, list_keys
from agentrun.store.watching import watch as pieces
from agentrun.view.safe import visible

if TYPE_CHECKING:
    from rich.console import Console

    from agentrun.view.live import Feed

__all__ = ["EXPORTS", "Connect", "export", "full_key", "inbox", "show", "watch"]

_LAST = "@last"
_CANDIDATES = 10  # keys that are listed when a prefix is ambiguous
_QUIET = 5.0  # seconds without an event after which `watch` explains why the run does not go on

Connect = Callable[[], OpenDatabase]


def full_key(database: OpenDatabase, key: str) -> str:
    """Find the key that ``key`` means. Raises RunNotFound, with the candidates if several match."""
    if key == _LAST:
        newest = list_runs(database, limit=1)
        if not newest:
            raise RunNotFound("there are no runs yet", key=key)
        return newest[0].key
    try:
        return find_run(database, key).key
    except RunPruned:
        raise
    except RunNotFound:
        found = list_keys(database, key, _CANDIDATES + 1)
        if not found:
            raise
    if len(found) > 1:
        more = ", …" if len(found) > _CANDIDATES else ""
        listed = ", ".join(found[:_CANDIDATES])
        raise RunNotFound(f"several runs begin with {key!r}: {listed}{more}", key=key)
    return found[0]


def show(connect: Connect, key: str, *, full: bool, as_json: bool) -> None:
    """Print a transcript."""
    found = _load_run(connect, key)
    transcript = fold(found.events, owner_lost=found.owner_lost)
    if as_json:
        output.emit_json(transcript.to_dict() | {"decided": found.decided})
        return
    from agentrun.view.terminal import print_transcript

    print_transcript(transcript, output.terminal(), full=full)
    for row in found.decided:
        output.emit(f"decided, step {row['step']}, {row['name']}: {row['reason']}")


def inbox(connect: Connect, *, as_json: bool) -> None:
    """Print what waits for a person, and the decisions that no worker has taken up yet."""
    with connect() as database:
        waiting = [asdict(row) for row in list_waiting(database)]
        rows = [*waiting, *_pending_decisions(database, None)]
    if as_json:
        output.emit_rows(rows)
        return
    from agentrun.view.terminal import inbox_table

    output.emit_table(inbox_table(rows)) if rows else output.note("nothing waits")


def _pending_decisions(database: OpenDatabase, key: str | None) -> list[dict[str, Any]]:
    """Decisions that no worker has taken up yet, in the form of inbox rows.

    The reason of a row says which decision it is, and who will take it up.
    """
    decisions = list_unread_decisions(database, key)
    nexts = {name: who_continues(database, name) for name in {one.key for one in decisions}}
    return [
        {
            **asdict(one),
            "waits_for": "decided",
            "since": one.decided_at,
            "reason": f"{_decision_text(one)}, not taken up yet; {nexts[one.key]}",
        }
        for one in decisions
    ]


def _decision_text(one: UnreadDecision) -> str:
    """``reject by ana: too much``"""
    by = one.signed_by or one.claimed_by or one.by
    return f"{one.decision} by {by}" + (f": {one.reason}" if one.reason else "")


@dataclass(frozen=True)
class _LoadedRun:
    """The journal of a run, and the facts that only the database holds."""

    events: list[Event]
    owner_lost: bool = False
    decided: list[dict[str, Any]] = field(default_factory=list)


def _load_run(connect: Connect, key: str) -> _LoadedRun:
    file = Path(key)
    if file.suffix in _READERS and file.is_file():
        return _LoadedRun(_READERS[file.suffix](file))
    with connect() as database:
        key = full_key(database, key)
        return _LoadedRun(*journal_of(database, key), _pending_decisions(database, key))


def _read_lines(file: Path) -> list[Event]:
    from agentrun.view.jsonl import read_jsonl

    return list(read_jsonl(_read_text(file).split("\n")))


def _read_page(file: Path) -> list[Event]:
    from agentrun.view.page import journal_in

    return list(journal_in(_read_text(file)))


def _read_text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None


_READERS = {".jsonl": _read_lines, ".html": _read_page}


# -- export ----------------------------------------------------------------------------------------


def _html(found: _LoadedRun) -> str:
    from agentrun.view.page import as_page

    return as_page(fold(found.events, owner_lost=found.owner_lost), found.events)


def _markdown(found: _LoadedRun) -> str:
    from agentrun.view.markdown import as_markdown

    return as_markdown(fold(found.events, owner_lost=found.owner_lost))


def _jsonl(found: _LoadedRun) -> str:
    from agentrun.view.jsonl import write_jsonl

    return "".join(f"{line}\n" for line in write_jsonl(found.events))


def _openai(found: _LoadedRun) -> str:
    from agentrun.view.chat import as_openai

    return json.dumps(as_openai(found.events), indent=2) + "\n"


def _json(found: _LoadedRun) -> str:
    return fold(found.events, owner_lost=found.owner_lost).to_json() + "\n"


# The key is the name of the option, and also the ending of a file, except for --openai.
EXPORTS: dict[str, Callable[[_LoadedRun], str]] = {
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
    text = EXPORTS[formats[0]](_load_run(connect, key)).encode()
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
    """Print the events of a run while it executes, until it has ended."""
    with connect() as database:
        key = full_key(database, key)
        if text:
            _print_replies(database, key, as_json=as_json)
            return
        printer = _JsonPrinter() if as_json else _LinePrinter(full)
        last_heard, explained = time.monotonic(), ""
        for piece in pieces(database, key):
            if piece:
                printer(piece)
                last_heard = time.monotonic()
            elif time.monotonic() - last_heard > _QUIET:
                last_heard = time.monotonic()
                explained = _explain_silence(database, key, explained)
        status = find_run(database, key).status
    if status in ENDED - {"done"}:
        raise typer.Exit(1)


def _print_replies(database: OpenDatabase, key: str, *, as_json: bool) -> None:
    """Print the text of models while it arrives. Each reply and each attempt begins a new line."""
    begun = False
    for piece in stream_text(database, key):
        if as_json:
            output.emit_json(asdict(piece))
            continue
        if begun and piece.offset == 0:
            typer.echo()
        typer.echo(visible(piece.text, multiline=True), nl=False)
        begun = True
    if begun:
        typer.echo()


class _JsonPrinter:
    """Prints events as lines of JSON; the writer remembers which texts were printed before."""

    def __init__(self) -> None:
        from agentrun.view.jsonl import JsonlWriter

        self._writer = JsonlWriter()

    def __call__(self, piece: list[Event]) -> None:
        for event in piece:
            typer.echo(self._writer.line(event))


class _LinePrinter:
    """Prints events as lines; the feed remembers what was printed before."""

    def __init__(self, full: bool) -> None:
        from agentrun.view.live import Feed

        self._console: Console = output.terminal()
        self._feed: Feed = Feed(width=self._console.width, full=full)

    def __call__(self, piece: list[Event]) -> None:
        from agentrun.view.terminal import print_lines

        print_lines(self._feed.take(piece), self._console)


def _explain_silence(database: OpenDatabase, key: str, explained: str) -> str:
    """Print why the run does not go on, unless ``explained`` says the same; return the reason."""
    from agentrun.cli.doctor_report import explain_stuck

    stuck = find_stuck(database, key)
    why = "" if stuck is None else explain_stuck(stuck)
    if why and why != explained:
        output.note(why)
    return why
