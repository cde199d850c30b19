"""Hand-written journals for tests, as the runner writes them; and their rows in a database."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
from invariants import summarize

from agentrun.core.events import Event, Usage
from agentrun.core.state import park_event

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
COLUMNS = [
    "run_id", "seq", "epoch", "worker", "event", "at", "step", "turn", "kind", "name", "ident",
    "attempt", "effect", "key", "status", "started_at", "model", "by", "reason", "parked_for",
]  # fmt: skip

# Escape sequences (title, clipboard, erase, C1), bidi and zero-width controls, markup of rich
# and of HTML, NUL and a lone surrogate.
HOSTILE = (
    "\x1b]0;pwned\x07\x1b]52;c;cm0gLXJm\x07\x1b[2K\x9b31m\u202egpj.exe\u2066\u200b\x00\ud800\r"
    "[link=http://evil]click[/link][/oops]<script>alert(1)</script><img src=x onerror=alert(1)>"
    "\"' &amp; ]]> --> \ufffe"
)


class Journal:
    """Appends events one second apart, filling in what the writer would."""

    def __init__(self, key: str = "ticket-42", agent: str = "support", args: Any = None) -> None:
        self.run_id = uuid4()
        self.events: list[Event] = []
        self.epoch, self.worker = 0, "caller"
        self.add("created", name=agent, key=key, input={"args": args or {}})

    def add(self, event: Any, **fields: Any) -> Journal:
        seq = len(self.events) + 1
        at = START + timedelta(seconds=seq)
        row = {"run_id": self.run_id, "seq": seq, "epoch": self.epoch, "worker": self.worker}
        self.events.append(Event(event=event, at=at, **{**row, **fields}))
        return self

    def claimed(self, worker: str, reason: str | None = None) -> Journal:
        self.epoch, self.worker = self.epoch + 1, worker
        return self.add("claimed", reason=reason)

    def parks(self, parked_for: Any, reason: str | None = None, step: int | None = None) -> Journal:
        status = park_event(parked_for, "").status
        return self.add("parked", status=status, parked_for=parked_for, reason=reason, step=step)

    def asks(self, step: int, messages: Any, *, attempt: int = 1, **fields: Any) -> Journal:
        """The intent of a model call."""
        body = {"model": "gpt-5-mini", "messages": messages}
        given = {"turn": step, "ident": str(step), "input": {"api": "chat", "body": body}, **fields}
        return self.add(
            "attempt_started", step=step, kind="model", name="chat", attempt=attempt, **given
        )

    def answers(
        self, step: int, message: Any, cost: str | None = "0.0031", **fields: Any
    ) -> Journal:
        """The outcome of a model call; ``message`` is its reply, or a body if it has a `body`."""
        body = message.get("body", {"choices": [{"message": message}]})
        given = {
            "attempt": 1,
            "turn": step,
            "ident": str(step),
            "status": "ok",
            "started_at": self.events[-1].at,
            "model": "gpt-5-mini",
            "usage": Usage(100, 20, 40, 5, Decimal(cost) if cost else None),
            "output": {"status": 200, "headers": {}, "body": body, "ending": "complete"},
            **fields,
        }
        return self.add("step_finished", step=step, kind="model", name="chat", **given)

    def begins(self, step: int, name: str, args: Any, *, attempt: int = 1, **more: Any) -> Journal:
        """The intent of a tool call."""
        given = {"effect": "once", "turn": 1, "ident": f"1#{step}", "key": f"key-{step}", **more}
        return self.add(
            "attempt_started",
            step=step,
            kind="tool",
            name=name,
            attempt=attempt,
            input={"args": args},
            **given,
        )

    def ends(self, step: int, name: str, args: Any, output: Any, **more: Any) -> Journal:
        """The outcome of a tool call."""
        given = {
            "attempt": 1,
            "effect": "once",
            "turn": 1,
            "ident": f"1#{step}",
            "key": f"key-{step}",
            "status": "ok",
            "started_at": self.events[-1].at,
            **more,
        }
        return self.add(
            "step_finished",
            step=step,
            kind="tool",
            name=name,
            input={"args": args},
            output=output,
            **given,
        )


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: Any, *calls: tuple[str, str, str]) -> dict[str, Any]:
    asked = [
        {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
        for id_, name, arguments in calls
    ]
    return {"role": "assistant", "content": text, **({"tool_calls": asked} if asked else {})}


def crashed_and_resumed() -> Journal:
    """Two crashes: one leaves a refund in doubt, one a model call that was in flight."""
    j = Journal(args={"question": "refund order 7"})
    system, question = {"role": "system", "content": "Be kind."}, user("refund order 7")
    refund, args = ("call_1", "refund", '{"order_id":"7"}'), {"order_id": "7"}
    j.claimed("w-1")
    j.asks(1, [system, question]).answers(1, {**assistant(None, refund), "refusal": None})
    j.begins(2, "refund", args)
    j.claimed("w-2", "w-1 is gone")
    j.add("in_doubt", step=2, attempt=1)
    j.parks("doubt", "in doubt: refund", step=2)
    j.claimed("w-3", "resolved")
    j.add("resolved", step=2, attempt=1, status="happened", by="ann", reason="seen at the bank")
    j.ends(2, "refund", args, {"result": {"refunded": True}})
    told = {"role": "tool", "tool_call_id": "call_1", "content": '{"refunded": true}'}
    conversation = [system, question, assistant(None, refund), told]
    j.asks(3, conversation, turn=2)
    error = {"error": {"type": "HTTP 500", "message": "overloaded"}, "retry_in": 2}
    j.add("attempt_failed", step=3, kind="model", name="chat", ident="3", attempt=1, output=error)
    j.asks(3, conversation, attempt=2, turn=2)
    j.claimed("w-4", "w-3 is gone")
    j.asks(3, conversation, attempt=3, turn=2)
    j.answers(3, assistant("Refunded."), cost=None, attempt=3, turn=2)
    return j.add("run_finished", output="Refunded.")


def insert(
    connection: psycopg.Connection[Any], events: Iterable[Event], *, status: str = "done"
) -> UUID:
    """Write a run and its journal as rows, with values as plain ASCII JSON."""
    events = list(events)
    first, last = events[0], events[-1]
    owner = last.worker if status == "running" else None
    parked_for = (last.parked_for or "time") if status in ("waiting", "held") else None
    step = last.step if last.event == "parked" else None
    connection.execute(
        "INSERT INTO agentrun.runs (run_id, key, agent, status, owner, epoch, parked_for,"
        " parked_step) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
        [first.run_id, first.key, first.name, status, owner, last.epoch, parked_for, step],
    )
    for event in events:
        insert_event(connection, event)
    summarize(connection)
    assert first.run_id is not None
    return first.run_id


def insert_event(connection: psycopg.Connection[Any], event: Event, *, codec: int = 0) -> None:
    usage = event.usage or Usage()
    row = {column: getattr(event, column) for column in COLUMNS}
    row |= {
        "batch": uuid4(),
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cost": usage.cost,
        "codec": codec,
        "input": None if event.input is None else json.dumps(event.input),
        "output": None if event.output is None else json.dumps(event.output),
    }
    names, holders = ", ".join(row), ", ".join(["%s"] * len(row))
    connection.execute(
        f"INSERT INTO agentrun.journal ({names}) VALUES ({holders})",  # noqa: S608
        list(row.values()),
    )
