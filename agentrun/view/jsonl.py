"""The journal of a run as a file: one event per line, which can be read without loss.

A line is a JSON object with the fields of `Event`, except those that have their default. Times are
in ISO 8601, money and ids are text, and reading restores their types. So the transcript
``fold(read_jsonl(lines))`` is equal to that of the journal in the database.

Each model request repeats its conversation. A line has only what is new in it, and references to
earlier lines for the rest, like the rows of the database (`core.sharing`). So the file grows with
the text of the conversation and not with its square. With ``whole`` each line has all of its
request, for programs that read a line alone. `read_jsonl` reads both forms.

The exact bytes of a streamed reply stay in the database under their digest. The file has their
content as JSON.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from agentrun.core.codec import Undecodable, dumps, loads
from agentrun.core.errors import ConfigError
from agentrun.core.events import Event, Json, Usage
from agentrun.core.places import Places
from agentrun.core.sharing import Shared

__all__ = ["JsonlWriter", "read_jsonl", "write_jsonl"]

# Two lone surrogates, which JSON text would join to one character.
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")

# How types that JSON does not have are written and read. Other values are written unchanged.
_WRITE: dict[type, Callable[[Any], Json]] = {
    datetime: datetime.isoformat,
    Decimal: str,
    UUID: str,
    bytes: lambda raw: b64encode(raw).decode("ascii"),
}
_READ: dict[str, Callable[[Any], object]] = {
    "run_id": UUID,
    "at": datetime.fromisoformat,
    "started_at": datetime.fromisoformat,
    "wake_at": datetime.fromisoformat,
    "raw": b64decode,
    "usage": lambda usage: _usage(usage),
    "masked": lambda masked: _masked(masked),
}
_DEFAULTS = {field.name: field.default for field in fields(Event)}
_NUMBERS = frozenset({"seq", "epoch", "step", "turn", "attempt"})
_VALUES = ("input", "output")
# Limits for an untrusted file: references may expand to this many characters and items, and to this
# many more for each character of the file. A few references may stand for a long conversation.
_ALLOWED = 10_000_000
_RATIO = 1_000


class JsonlWriter:
    """Writes the lines of one journal, whose events come piece by piece and in order."""

    def __init__(self, *, whole: bool = False, keep_places: bool = False) -> None:
        self._shared = None if whole else Shared()
        self._places = Places(self._shared) if keep_places and self._shared is not None else None
        self._lines = 0

    def line(self, event: Event) -> str:
        """The line of the next event: ASCII text without a line break."""
        row = self._row(event)
        self._lines += 1
        return _line(row)

    def find_parts(self) -> dict[str, list[int | str]]:
        """Where the parts stand that lines refer to, by their names: see `Places.find`.

        There are none without ``keep_places``, which keeps all values.
        """
        return {} if self._places is None else self._places.find()

    def _row(self, event: Event) -> dict[str, Json]:
        row = {
            name: _plain(value)
            for name, default in _DEFAULTS.items()
            if name not in _VALUES
            and not name.startswith("has_")
            and (value := getattr(event, name)) != default
        }
        has_input = (
            event.has_input or event.input is not None
        )  # a JSON null is not the same as none
        if self._shared is not None and event.kind == "model" and has_input:
            row["input"], row["shared"] = _pack(event, self._shared), True
            self._keep("input", row["input"], whole=False)
        elif has_input:
            row["input"] = event.input
            self._learn("input", event.input)
        if event.has_output or event.output is not None:
            row["output"] = event.output
            self._learn("output", event.output)
        return row

    def _learn(self, field: str, value: Json) -> None:
        """Let later lines refer to the parts of a value, which its own line has whole."""
        if self._shared is not None:
            self._keep(field, self._shared.pack(value), whole=True)

    def _keep(self, field: str, packed: Json, *, whole: bool) -> None:
        if self._places is not None:
            self._places.add(self._lines, field, packed, whole=whole)


def write_jsonl(events: Iterable[Event], *, whole: bool = False) -> Iterator[str]:
    """The lines of a journal. With ``whole``, no line has references to earlier ones."""
    writer = JsonlWriter(whole=whole)
    for event in events:
        yield writer.line(event)


def read_jsonl(lines: Iterable[str]) -> Iterator[Event]:
    """The events that `write_jsonl` wrote. Empty lines and unknown fields are skipped.

    Raises ConfigError, with the number of the line, for a line that is not an event.
    """
    shared = Shared()
    shared.allow(_ALLOWED)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        shared.allow(_RATIO * len(line))
        try:
            yield _event(_object(line), shared)
        except RecursionError:
            raise ConfigError(f"line {number} is nested too deeply") from None
        except (ValueError, TypeError, AttributeError, ArithmeticError, Undecodable) as error:
            raise ConfigError(
                f"line {number} is not an event of an agentrun journal: {error}"
            ) from None


# -- writing ---------------------------------------------------------------------------------------


def _pack(event: Event, shared: Shared) -> Json:
    """The input with references. One that was read has them already, by the same names."""
    if event.packed is not None:
        with suppress(Undecodable):  # the file begins after a row that it refers to
            return shared.receive(event.packed.stored).stored
    return shared.pack(event.input)


def _plain(value: object) -> Json:
    if isinstance(value, Usage):
        used = {field.name: getattr(value, field.name) for field in fields(Usage)}
        return {name: _plain(item) for name, item in used.items() if item is not None}
    write = _WRITE.get(type(value))
    return value if write is None else write(value)


def _line(row: dict[str, Json]) -> str:
    if _PAIR.search(json.dumps(row, ensure_ascii=False)):
        return dumps({**row, "escaped": True})[0]  # plain JSON would change the value
    return json.dumps(row, allow_nan=False, separators=(",", ":"))


# -- reading ---------------------------------------------------------------------------------------


def _object(line: str) -> dict[str, Json]:
    row = loads(line, escaped=False)
    if isinstance(row, dict) and row.get("escaped") is True:
        row = loads(line, escaped=True)
    if not isinstance(row, dict) or not isinstance(row.get("event"), str):
        raise ValueError("an object with the field `event` is expected")
    return row


def _event(row: dict[str, Json], shared: Shared) -> Event:
    known = {
        name: _field(name, value)
        for name, value in row.items()
        if name in _DEFAULTS and name not in _VALUES
    }
    values = {name: row[name] for name in _VALUES if name in row}
    event = Event(**known, **values, has_input="input" in row, has_output="output" in row)
    if row.get("shared") is True:
        event.keep_packed(shared.receive(event.input))
    elif "input" in values and event.kind != "model":  # no reference points to a whole request
        shared.learn(values["input"])
    if "output" in values:
        shared.learn(values["output"])
    return event


def _field(name: str, value: Json) -> Any:
    """The value of a field. The file is not trusted, so a value of another type is refused."""
    if read := _READ.get(name):
        return read(value)
    expected = int if name in _NUMBERS else bool if name == "overlapping" else str
    if type(value) is not expected:
        raise ValueError(f"`{name}` is {value!r:.40}, not {expected.__name__}")
    return value


def _masked(value: Json) -> Json:
    if not isinstance(value, dict) or not value.keys() <= {"input", "output"}:
        raise ValueError(f"`masked` is {value!r:.40}")
    return value


def _usage(row: dict[str, Json]) -> Usage:
    known = {field.name for field in fields(Usage)}
    used = {name: value for name, value in row.items() if name in known}
    for name, value in used.items():
        if type(value) is not (str if name in ("cost", "priced_by") else int):
            raise ValueError(f"`usage.{name}` is {value!r:.40}")
    return Usage(**{**used, "cost": Decimal(used["cost"]) if "cost" in used else None})
