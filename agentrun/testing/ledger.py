"""The ledger of a double: what the outside world received, did and answered, as JSON lines.

One file, appended to by the double alone and kept on disk, so that it outlives every client and
the double itself. Four kinds of line, tied by the request's id:

``received``             what came in (less credentials)
``effect``               it took effect: an answer was billed, a pick-up booked, a message accepted
``refused``              it had no effect, and why
``delivered, aborted``   how the answer to it ended

An ``effect`` line is flushed to the disk *before* the first byte of the answer leaves: what a
client has seen has always been recorded. ``delivered`` means that every byte was handed to the
operating system while the client was connected; more a server cannot know.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["Entry", "LastEvent", "Ledger", "digest", "fold"]

Outcome = Literal["open", "effect", "refused"]
Ending = Literal["open", "delivered", "aborted"]
LastEvent = Literal["refused", "delivered", "aborted"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One request, with all that the ledger knows about it.

    ``facts`` belong to the effect: model, turn and usage of a bill, the reference of a pick-up.
    ``reason`` says why a request was refused or its answer aborted.
    """

    id: str
    at: float  # unix seconds at which it was received
    method: str
    path: str  # with its query
    headers: Mapping[str, str]
    body: Any
    digest: str
    outcome: Outcome = "open"
    ending: Ending = "open"
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def idempotency_key(self) -> str | None:
        """The ``Idempotency-Key`` header as it was sent."""
        return self.headers.get("idempotency-key")


class Ledger:
    """The writing side; one object a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a+b", buffering=0)
        entries = fold(path.read_text("utf-8").splitlines())
        self._received = len(entries)
        self.effects = [dict(e.facts) for e in entries if e.outcome == "effect"]

    def received(self, request: Mapping[str, Any]) -> str:
        """Note a request and give it an id. Not flushed: its effect, if any, will be."""
        self._received += 1
        request_id = f"r{self._received:06d}"
        self._append("received", request_id, **request)
        return request_id

    def effect(self, request_id: str, facts: Mapping[str, Any]) -> None:
        """Note that the request took effect; on disk when this returns."""
        self._append("effect", request_id, facts=facts)
        os.fsync(self._file.fileno())
        self.effects.append(dict(facts))

    def ended(self, event: LastEvent, request_id: str, reason: str = "") -> None:
        """Note how the request ended; on disk when this returns."""
        self._append(event, request_id, reason=reason)
        os.fsync(self._file.fileno())

    def text(self) -> str:
        """The whole file."""
        return self.path.read_text("utf-8")

    def close(self) -> None:
        """Close the file; nothing can be noted any more."""
        self._file.close()

    def _append(self, event: str, request_id: str, **fields: Any) -> None:
        line = {"event": event, "id": request_id, "at": time.time(), **fields}
        self._file.write(json.dumps(line).encode() + b"\n")


def fold(lines: Iterable[str]) -> list[Entry]:
    """The entries of a ledger, one a request, in the order in which they arrived."""
    entries: dict[str, dict[str, Any]] = {}
    for text in lines:
        line = json.loads(text)
        event, request_id = line.pop("event"), line.pop("id")
        if event == "received":
            entries[request_id] = line
            continue
        entry = entries[request_id]
        if event in ("effect", "refused"):
            entry["outcome"] = event
        else:
            entry["ending"] = event
        entry.update({name: line[name] for name in ("facts", "reason") if name in line})
    return [Entry(id=request_id, **fields) for request_id, fields in entries.items()]


def digest(body: Any) -> str:
    """A short digest of a request body; equal for equal JSON whatever the order of its keys."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
