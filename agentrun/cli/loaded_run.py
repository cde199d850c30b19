"""Loads a run that is to be shown or exported, from the database or from an exported file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentrun.cli.inbox_list import pending_decisions
from agentrun.cli.keys import Connect, full_key
from agentrun.core.errors import ConfigError
from agentrun.core.events import Event
from agentrun.core.summary import Relatives
from agentrun.core.transcript import Transcript, fold

__all__ = ["LoadedRun", "load_run", "load_transcript"]


@dataclass(frozen=True)
class LoadedRun:
    """The journal of a run, and the facts that only the database holds."""

    events: list[Event]
    owner_lost: bool = False
    relatives: Relatives | None = None
    decided: list[dict[str, Any]] = field(default_factory=list)
    # The names of the files that are written beside this one, by the keys of their runs.
    files: dict[str, str] = field(default_factory=dict)


def load_run(connect: Connect, key: str) -> LoadedRun:
    """The run that a KEY means, or an exported file. Raises RunNotFound or ConfigError."""
    from agentrun.api.handle import journal_of
    from agentrun.store.runs import find_relatives, find_run

    file = Path(key)
    if file.suffix in _READERS and file.is_file():
        return LoadedRun(_READERS[file.suffix](file))
    with connect() as database:
        key = full_key(database, key)
        events, lost = journal_of(database, key)
        relatives = find_relatives(database, find_run(database, key).run_id)
        return LoadedRun(events, lost, relatives, pending_decisions(database, key))


def load_transcript(connect: Connect, key: str) -> Transcript:
    """The transcript of the run that a KEY means, or of an exported file."""
    found = load_run(connect, key)
    return fold(found.events, owner_lost=found.owner_lost)


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
