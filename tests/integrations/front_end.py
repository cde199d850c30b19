"""A front end of AG-UI: a real HTTP client that comes back until a run has ended.

It takes each event as the package `ag-ui-protocol` reads it, and checks the order of the events by
the rules of the protocol.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from ag_ui.core import Event
from pydantic import BaseModel, TypeAdapter

EVENT: TypeAdapter[Any] = TypeAdapter(Event)
PATIENCE = 90.0  # seconds that a run may take
WITHOUT_LIMIT = 1 << 40

Sent = tuple[str, dict[str, Any]]  # the id of an event, and the event


def read_event(text: str) -> dict[str, Any]:
    """One event, which has the fields of its type and no others."""
    event = EVENT.validate_json(text)
    refuse_other_fields(event)
    found: dict[str, Any] = json.loads(text)
    assert json.loads(event.model_dump_json(by_alias=True)) == found
    return found


def refuse_other_fields(value: Any) -> None:
    if isinstance(value, BaseModel):
        assert not value.model_extra, value
        for name in type(value).model_fields:
            refuse_other_fields(getattr(value, name))
    elif isinstance(value, list):
        for one in value:
            refuse_other_fields(one)


class Verifier:
    """The rules of the order of events: of runs, steps, messages and tool calls."""

    def __init__(self) -> None:
        self.run: str | None = None
        self.ended = False
        self.open: set[tuple[str, str]] = set()  # steps, messages and calls
        self.calls: list[str] = []  # of this run
        self.answered: set[str] = set()

    def take(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "RUN_STARTED":
            assert self.run is None
            self.run, self.ended, self.calls = event["runId"], False, []
            return
        assert self.run is not None, f"{kind} outside a run"
        if kind == "RUN_FINISHED":
            assert event["runId"] == self.run
            assert not self.open, f"open at the end: {self.open}"
            pending = event.get("outcome", {}).get("pendingToolCallIds", [])
            if event.get("outcome", {}).get("type") == "success":
                assert pending == [call for call in self.calls if call not in self.answered]
            self.run, self.ended = None, True
        elif kind == "RUN_ERROR":
            self.run, self.ended = None, True
            self.open.clear()
        elif kind == "TOOL_CALL_RESULT":
            assert event["toolCallId"] not in self.answered, "a second result"
            self.answered.add(event["toolCallId"])
        else:
            self._span(kind, event)

    def _span(self, kind: str, event: dict[str, Any]) -> None:
        for family, field in (
            ("STEP", "stepName"),
            ("TEXT_MESSAGE", "messageId"),
            ("TOOL_CALL", "toolCallId"),
        ):
            if kind.startswith(f"{family}_") and field in event:
                item, what = (family, event[field]), kind.removeprefix(f"{family}_")
                if what in ("START", "STARTED"):
                    assert item not in self.open, f"{item} is open"
                    self.open.add(item)
                    if family == "TOOL_CALL":
                        self.calls.append(event[field])
                    return
                assert item in self.open, f"{kind} of {item}, which is not open"
                if what in ("END", "FINISHED"):
                    self.open.remove(item)
                return
        assert kind == "MESSAGES_SNAPSHOT", kind


def verify(events: list[dict[str, Any]]) -> None:
    """Check the order of the events of runs that follow each other."""
    verifier = Verifier()
    for event in events:
        verifier.take(event)
    assert verifier.ended


class FrontEnd:
    """A client. ``cut(number)`` is how many bytes of connection ``number`` it reads at most."""

    def __init__(
        self,
        url: str,
        thread: str = "t",
        *,
        user: str = "ana",
        cut: Callable[[int], int] = lambda number: WITHOUT_LIMIT,
        each: bool = False,
        between: Callable[[], object] = lambda: None,
        patience: float = PATIENCE,
    ) -> None:
        self.url, self.thread, self.user = url, thread, user
        self._cut, self._each, self._between = cut, each, between
        self._patience = patience
        self.connections = 0
        self.sent: list[Sent] = []  # all events of all runs, in order

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for _, event in self.sent]

    def body(self, run: str, text: str = "go", **more: Any) -> dict[str, Any]:
        messages = [{"id": "u1", "role": "user", "content": text}]
        return {"threadId": self.thread, "runId": run, "messages": messages, **more}

    def run(self, run: str, text: str = "go", **more: Any) -> list[dict[str, Any]]:
        """The events of one AG-UI run, read in as many connections as it takes."""
        body, last, found = self.body(run, text, **more), None, []
        verifier = Verifier()
        self._deadline = time.monotonic() + self._patience
        while not verifier.ended:
            for id_, event in self._connect(body, last):
                verifier.take(event)
                self.sent.append((id_, event))
                found.append(event)
                last = id_
            self._between()
            assert time.monotonic() < self._deadline, f"run {run} has no end: {found[-3:]}"
        return found

    def _connect(self, body: dict[str, Any], last: str | None) -> Iterator[Sent]:
        """What one connection brings, up to where it is cut."""
        self.connections += 1
        rest, buffer = self._cut(self.connections), b""
        try:
            with self.post(body, last) as response:
                if response.status_code != 200:
                    response.read()
                    raise AssertionError(f"{response.status_code}: {response.text}")
                assert response.headers["content-type"].startswith("text/event-stream")
                for piece in response.iter_raw():
                    assert time.monotonic() < self._deadline, f"silent after {self.sent[-1:]}"
                    buffer += piece[:rest]
                    rest -= len(piece)
                    while b"\n\n" in buffer:
                        frame, _, buffer = buffer.partition(b"\n\n")
                        if (sent := read_frame(frame.decode())) is not None:
                            yield sent
                            if self._each:
                                return
                    if rest <= 0:
                        return
        except httpx.TransportError:  # the server was killed
            time.sleep(0.05)

    def post(self, body: Any, last: str | None = None, **headers: str) -> Any:
        """A request, as a context manager of its response."""
        sent = {"x-user": self.user, **({} if last is None else {"last-event-id": last}), **headers}
        return httpx.stream("POST", self.url, json=body, headers=sent, timeout=30)

    def refusal(self, body: Any, last: str | None = None, **headers: str) -> tuple[int, str]:
        """The status and the message of a request that is refused."""
        with self.post(body, last, **headers) as response:
            response.read()
            return response.status_code, response.json()["error"]["message"]

    def converse(self, run: str, answer: Any = None) -> list[dict[str, Any]]:
        """A run and those that go on with it: each interrupt is answered so."""
        events = self.run(run)
        for number in range(2, 20):
            outcome = events[-1].get("outcome", {})
            if outcome.get("type") != "interrupt":
                return self.events
            events = self.run(f"{run}-{number}", resume=answers(events, answer))
        raise AssertionError("the run asks for ever")


def answers(events: list[dict[str, Any]], payload: Any = None) -> list[dict[str, Any]]:
    """The entries of `resume` that answer all interrupts at the end of a run."""
    payload = {"approved": True} if payload is None else payload
    return [
        {"interruptId": one["id"], "status": "resolved", "payload": payload}
        for one in events[-1]["outcome"]["interrupts"]
    ]


def abandon(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    interrupts = events[-1]["outcome"]["interrupts"]
    return [{"interruptId": one["id"], "status": "cancelled"} for one in interrupts]


def read_frame(frame: str) -> Sent | None:
    """The event of one frame; None for a comment."""
    lines = [line for line in frame.split("\n") if not line.startswith(":")]
    if not lines:
        return None
    (id_line, data) = lines
    assert id_line.startswith("id: ")
    assert data.startswith("data: ")
    return id_line[4:], read_event(data[6:])


def joined(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events with adjacent pieces of a text joined, and without the names of the run."""
    found: list[dict[str, Any]] = []
    for event in events:
        text = json.dumps(event)
        text = re.sub(r"((?:msg|call)_)[0-9a-f]{12}_", r"\1RUN_", text)
        event = json.loads(text)
        last = found[-1] if found else {}
        same = event["type"] == last.get("type") == "TEXT_MESSAGE_CONTENT"
        if same and event["messageId"] == last["messageId"]:
            last["delta"] += event["delta"]
        else:
            found.append(event)
    return found


def comparable(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`joined`, without what differs between two durable runs.

    That is their ids and row numbers, and the order in which tools end that run side by side.
    """
    found: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for event in joined(events):
        if event["type"] == "TOOL_CALL_RESULT":
            results.append(event)
            continue
        found += [*sorted(results, key=lambda one: str(one["toolCallId"])), event]
        results = []
    for event in found:
        for field in ("threadId", "runId"):
            event.pop(field, None)
        for interrupt in event.get("outcome", {}).get("interrupts", ()):
            interrupt["id"] = interrupt["id"].rpartition(".")[2]
    return found
