"""`agentrun watch`: what a run does, while it does it, in whichever process it executes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from agentrun.cli import output
from agentrun.cli.keys import Connect, full_key
from agentrun.core.events import Event
from agentrun.core.state import ENDED
from agentrun.lifecycle.reply_stream import stream_text
from agentrun.store.partials import partials_of
from agentrun.store.runs import find_run, find_stuck
from agentrun.store.watching import watch as pieces
from agentrun.view.safe import visible

if TYPE_CHECKING:
    from uuid import UUID

    from rich.live import Live

    from agentrun.store.database import OpenDatabase

__all__ = ["watch"]

_QUIET = 5.0  # seconds without an event after which `watch` explains why the run does not go on
_STREAMED = 4  # lines of each reply that is being written
_HELD = 3  # exit code with --exit-status: a person must decide


def watch(
    connect: Connect, key: str, *, full: bool, text: bool, exit_status: bool, as_json: bool
) -> None:
    """Print the events of a run while it executes, until it has ended.

    With ``exit_status`` it also ends as soon as the run waits for a person.
    """
    with connect() as database:
        key = full_key(database, key)
        if text:
            _print_replies(database, key, as_json=as_json)
        else:
            _follow(database, key, full=full, exit_status=exit_status, as_json=as_json)
        run = find_run(database, key)
    if run.status in ENDED - {"done"}:
        raise typer.Exit(1)
    if exit_status and run.status == "held":
        output.note(run.reason or "the run is held")
        raise typer.Exit(_HELD)


def _follow(
    database: OpenDatabase, key: str, *, full: bool, exit_status: bool, as_json: bool
) -> None:
    run_id = find_run(database, key).run_id
    printer = _JsonPrinter() if as_json else _LinePrinter(full)
    last_heard, explained = time.monotonic(), ""
    try:
        for piece in pieces(database, key):
            if piece:
                printer.show(piece)
                last_heard = time.monotonic()
            elif exit_status and find_run(database, key).status == "held":
                return
            elif time.monotonic() - last_heard > _QUIET:
                last_heard = time.monotonic()
                explained = _explain_silence(database, key, explained, printer.note)
            printer.refresh(database, run_id)
    finally:
        printer.close()


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

    def show(self, piece: list[Event]) -> None:
        for event in piece:
            typer.echo(self._writer.line(event))

    def refresh(self, database: OpenDatabase, run_id: UUID) -> None:
        """A line of JSON is never changed."""

    def note(self, text: str) -> None:
        output.note(text)

    def close(self) -> None:
        """There is nothing to take away."""


class _LinePrinter:
    """Prints events as lines; the feed remembers what was printed before.

    In a terminal, lines below them show the replies that are being written, and the state of the
    run. They are written anew at each look, and taken away at the end.
    """

    def __init__(self, full: bool) -> None:
        from agentrun.view.footer import Footer
        from agentrun.view.live import Feed

        self._console = output.terminal()
        self._feed = Feed(width=self._console.width, full=full)
        self._footer = Footer()
        self._live: Live | None = None
        if self._console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()

    def show(self, piece: list[Event]) -> None:
        from agentrun.view.terminal import print_lines

        self._footer.add(piece)
        print_lines(self._feed.take(piece), self._console)

    def refresh(self, database: OpenDatabase, run_id: UUID) -> None:
        """Write the lines at the bottom anew."""
        if self._live is None:
            return
        from agentrun.view.footer import streamed_lines
        from agentrun.view.terminal import as_renderable

        width = self._console.width
        lines = [
            line
            for partial in partials_of(database, run_id)
            for line in streamed_lines(partial.body, width, _STREAMED)
        ]
        lines.append(self._footer.line(datetime.now(UTC), width))
        self._live.update(as_renderable(lines), refresh=True)

    def note(self, text: str) -> None:
        """Write a note above the lines at the bottom."""
        if self._live is not None:
            self._live.stop()
        output.note(text)
        if self._live is not None:
            self._live.start()

    def close(self) -> None:
        """Take the lines at the bottom away."""
        if self._live is not None:
            self._live.stop()


def _explain_silence(
    database: OpenDatabase, key: str, explained: str, note: Callable[[str], None]
) -> str:
    """Print why the run does not go on, unless ``explained`` says the same; return the reason."""
    from agentrun.api.health import explain_stuck

    stuck = find_stuck(database, key)
    why = "" if stuck is None else explain_stuck(stuck)
    if why and why != explained:
        note(why)
    return why
