"""The ledger of a double: JSON lines that record each request, its effect and its answer.

Only the double appends to the file. The file is on disk, so it outlives every client and the double
itself. There are four kinds of lines; the lines of one request share its id:

``received``             the request, without credentials
``effect``               its effect: an answer was billed, a pick-up booked, a mail accepted
``refused``              it had no effect, and the reason
``delivered, aborted``   how its answer ended

An ``effect`` line is flushed to disk *before* the first byte of the answer is sent, so the ledger
holds every effect that a client can have seen. ``delivered`` means that the operating system
accepted every byte while the client was connected. A server cannot know more than that.
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
    """One request, with everything that the ledger records about it.

    ``facts`` describe the effect: model, turn and usage of a bill, or the reference of a pick-up.
    ``reason`` says why the request was refused or its answer was aborted.
    """

    id: str
    at: float  # unix seconds at which it was received
    method: str
    path: str  # with its query
    headers: Mapping[str, str]
    body: Any
    digest: str
    text: str | None = None  # the exact body, if the double keeps texts (`Provider(exact=True)`)
    outcome: Outcome = "open"
    ending: Ending = "open"
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def idempotency_key(self) -> str | None:
        """The ``Idempotency-Key`` header as it was sent."""
        return self.headers.get("idempotency-key")


class Ledger:
    """Appends to the file of one double."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a+b", buffering=0)
        entries = fold(path.read_text("utf-8").splitlines())
        self._received = len(entries)
        self.effects = [dict(e.facts) for e in entries if e.outcome == "effect"]

    def record_request(self, request: Mapping[str, Any]) -> str:
        """Record a request, and return its new id. The line is flushed with that of its effect."""
        self._received += 1
        request_id = f"r{self._received:06d}"
        self._append("received", request_id, **request)
        return request_id

    def record_effect(self, request_id: str, facts: Mapping[str, Any]) -> None:
        """Record the effect of a request; it is on disk when this returns."""
        self._append("effect", request_id, facts=facts)
        os.fsync(self._file.fileno())
        self.effects.append(dict(facts))

    def record_end(self, event: LastEvent, request_id: str, reason: str = "") -> None:
        """Record how the request ended; it is on disk when this returns."""
        self._append(event, request_id, reason=reason)
        os.fsync(self._file.fileno())

    def text(self) -> str:
        """The whole file."""
        return self.path.read_text("utf-8")

    def close(self) -> None:
        """Close the file; nothing can be recorded after that."""
        self._file.close()

    def _append(self, event: str, request_id: str, **fields: Any) -> None:
        line = {"event": event, "id": request_id, "at": time.time(), **fields}
        self._file.write(json.dumps(line).encode() + b"\n")


def fold(lines: Iterable[str]) -> list[Entry]:
    """Read the entries of a ledger, one for each request, in order of arrival."""
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
