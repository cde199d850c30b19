"""Interrupts of AG-UI: what a held run asks people, and the answers that clients send.

The id of an interrupt names the AG-UI run that it ended, the journal row of the park, and the step.
An answer becomes the letter that the inbox sends. The letter's id derives from the interrupt, the
actor and the answer: an answer that is sent again is the same letter, and any other one comes
second and is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, unquote
from uuid import UUID, uuid5

from ag_ui.core import Interrupt, ResumeEntry

import agentrun
from agentrun.api.inbox import decide
from agentrun.core.events import Event, Json
from agentrun.core.history import listed_steps
from agentrun.store.opening import default
from agentrun.store.runs import find_run
from agentrun.store.values import read_events

__all__ = [
    "InterruptId",
    "OpenRequests",
    "Refusal",
    "answer_interrupts",
    "clean_text",
    "describe_interrupts",
]

Kind = Literal["approval", "budget", "doubt"]

APPROVAL = {
    "type": "object",
    "properties": {
        "approved": {"type": "boolean"},
        "reason": {"type": "string", "description": "Why, for the record and for the model."},
        "editedArgs": {"type": "object", "description": "All arguments of the call, as changed."},
    },
    "required": ["approved"],
}
BUDGET = {
    "type": "object",
    "properties": {
        "approved": {"type": "boolean", "description": "False ends the run."},
        "reason": {"type": "string", "description": "Why, for the record."},
        "budget": {
            "type": "object",
            "description": "New limits in total, such as usd, tokens, turns or tool_calls.",
            "additionalProperties": {"type": "number"},
        },
    },
    "required": ["approved"],
}
OUTCOMES = ["happened", "not_happened", "unknown"]
DOUBT = {
    "type": "object",
    "properties": {
        "outcome": {"type": "string", "enum": OUTCOMES},
        "result": {"description": "What the call returned, if it happened."},
        "reason": {"type": "string", "description": "How you know, for the record."},
    },
    "required": ["outcome"],
}
SCHEMAS: dict[Kind, dict[str, Any]] = {"approval": APPROVAL, "budget": BUDGET, "doubt": DOUBT}


class Refusal(Exception):
    """A request of a client is refused before any event is sent, with this HTTP status."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True, slots=True)
class InterruptId:
    """The parts of an interrupt's id. Step 0 is the run as a whole."""

    run_id: str  # of the AG-UI run that began the run
    seq: int  # the row of the park
    step: int

    def __str__(self) -> str:
        return f"{quote(self.run_id, safe='')}.{self.seq}.{self.step}"

    @classmethod
    def parse(cls, id_: str) -> InterruptId | None:
        """Read an id; None if it is none of ours."""
        found = re.fullmatch(r"(.+)\.([0-9]{1,9})\.([0-9]{1,9})", id_, re.DOTALL)
        return None if found is None else cls(unquote(found[1]), int(found[2]), int(found[3]))


# -- what a run asks -------------------------------------------------------------------------------


class OpenRequests:
    """The requests to people that are open after the rows of a journal that were added."""

    def __init__(self) -> None:
        self.by_step: dict[int, Event] = {}
        self._inputs: dict[int, Json] = {}

    def add(self, event: Event) -> None:
        """Take the next row."""
        step = event.step or 0
        if event.has_input:
            self._inputs[step] = event.input
        if event.event in ("approval_requested", "in_doubt"):
            self.by_step[step] = event
        elif event.event in ("attempt_started", "resolved", "step_finished"):
            self.by_step.pop(step, None)
        elif event.event == "diverged":
            for gone in listed_steps(event, "set_aside"):
                self.by_step.pop(gone, None)

    def at(self, parked: Event) -> dict[int, Event]:
        """What the row that parks the run asks. A park that no letter ends asks nothing."""
        return {} if parked.parked_for in ("divergence", "review") else self.by_step

    def arguments(self, step: int) -> Json:
        """The arguments of the call that a step asks about."""
        given = self._inputs.get(step)
        return given.get("args", given) if isinstance(given, dict) else given


def kind_of(request: Event, parked: Event) -> Kind:
    """What a request asks for. ``parked`` is the row that parks the run for it."""
    if request.event == "in_doubt":
        return "doubt"
    budget = request.kind == "model" or parked.parked_for == "budget"
    return "budget" if budget else "approval"


def describe_interrupts(
    run_id: str, agent: str, parked: Event, requests: OpenRequests, calls: dict[int, str]
) -> list[Interrupt]:
    """What a park asks, as interrupts. ``calls`` has the AG-UI ids of the tool calls, by step."""
    found = []
    for step, request in sorted(requests.at(parked).items()):
        kind = kind_of(request, parked)
        message = request.reason or parked.reason or ""
        if kind == "approval":
            args = json.dumps(requests.arguments(step), ensure_ascii=False)
            message = f"{agent} asks to call {request.name} with {args}."
        bound = calls.get(step) if kind != "budget" else None
        found.append(
            Interrupt(
                id=str(InterruptId(run_id, parked.seq, step)),
                reason="tool_call" if kind == "approval" and bound else f"agentrun:{kind}",
                message=clean_text(message),
                tool_call_id=bound,
                response_schema=SCHEMAS[kind],
            )
        )
    if found:
        return found
    return [
        Interrupt(
            id=str(InterruptId(run_id, parked.seq, 0)),
            reason=f"agentrun:{parked.parked_for}",
            message=clean_text(parked.reason or ""),
        )
    ]


def clean_text(text: str) -> str:
    """The text with U+FFFD for each lone surrogate, which UTF-8 cannot carry."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# -- answers ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Answer:
    """The letter that an answer becomes."""

    kind: Literal["approve", "reject", "resolve"]
    payload: dict[str, Any]
    reason: str | None


def answer_interrupts(
    key: str, entries: Sequence[tuple[InterruptId, ResumeEntry]], actor: str | None
) -> None:
    """Send the letters of answers to one park of the run ``key``. Raises Refusal.

    All entries are read before the first letter is sent.
    """
    run = find_run(default(), key)
    events = read_events(default(), run.run_id)[0]
    parked, requests = _requests_at(events, entries[0][0].seq)
    letters: list[tuple[InterruptId, ResumeEntry, Event, _Answer | None]] = []
    for id_, entry in entries:
        request = requests.at(parked).get(id_.step)
        if request is None:
            if events[-1].seq == id_.seq:  # parked for a divergence or a review
                raise Refusal(409, "no_answer", f"no answer lets the run go on: {parked.reason}")
            continue
        letters.append((id_, entry, request, _read_answer(entry, kind_of(request, parked))))
    for id_, entry, request, answer in letters:
        _send(key, run.run_id, id_, entry, request, answer, actor)


def _requests_at(events: Iterable[Event], seq: int) -> tuple[Event, OpenRequests]:
    requests = OpenRequests()
    for event in events:
        requests.add(event)
        if event.seq == seq:
            if event.event == "parked" and event.status == "held":
                return event, requests
            break
    raise Refusal(404, "no_interrupt", "no run of this thread has such an interrupt")


def _read_answer(entry: ResumeEntry, kind: Kind) -> _Answer | None:
    """What an entry decides; None for an abandoned doubt, which stays open. Raises Refusal."""
    if entry.status == "cancelled":
        return None if kind == "doubt" else _Answer("reject", {}, "the person left it unanswered")
    given = entry.payload if isinstance(entry.payload, dict) else {}
    reason = given.get("reason")
    if not isinstance(reason, str | None):
        raise _bad_answer(entry, "`reason` is a text")
    if kind == "doubt":
        if given.get("outcome") not in OUTCOMES:
            raise _bad_answer(entry, "`outcome` is happened, not_happened or unknown")
        result = {"result": given.get("result")} if given["outcome"] == "happened" else {}
        return _Answer("resolve", {"outcome": given["outcome"], **result}, reason)
    if not isinstance(given.get("approved"), bool):
        raise _bad_answer(entry, "`approved` is true or false")
    if not given["approved"]:
        return _Answer("reject", {}, reason)
    return _Answer("approve", _read_approval(entry, given, kind), reason)


def _read_approval(entry: ResumeEntry, given: dict[str, Any], kind: Kind) -> dict[str, Any]:
    field = "editedArgs" if kind == "approval" else "budget"
    value = given.get(field)
    if not isinstance(value, dict | None):
        raise _bad_answer(entry, f"`{field}` is an object")
    if value is None:
        return {}
    if kind == "approval":
        return {"arguments": value}
    try:
        return {"budget": agentrun.Budget(**value).to_json()}
    except (TypeError, agentrun.ConfigError) as error:
        raise _bad_answer(entry, f"`budget` cannot be read: {error}") from error


def _bad_answer(entry: ResumeEntry, why: str) -> Refusal:
    return Refusal(400, "bad_answer", f"interrupt {entry.interrupt_id}: {why}")


def _send(
    key: str,
    run_id: UUID,
    id_: InterruptId,
    entry: ResumeEntry,
    request: Event,
    answer: _Answer | None,
    actor: str | None,
) -> None:
    """Send one letter. An abandoned request that somebody has decided needs none."""
    if answer is None or actor is None:
        if entry.status == "cancelled" and not _is_open(key, id_.step, request):
            return
        if actor is None:
            text = "clients may not answer here: give make_app authorize=, or decide in the inbox"
            raise Refusal(403, "no_actor", text)
        raise Refusal(409, "in_doubt", f"step {id_.step} is in doubt: say what became of it")
    content = [str(id_), actor, entry.status, entry.payload]
    mail_id = uuid5(run_id, json.dumps(content, sort_keys=True))
    try:
        decide(
            key, answer.kind, id_.step, answer.payload, by=actor, reason=answer.reason,
            fingerprint=request.fingerprint, mail_id=mail_id,
        )  # fmt: skip
    except agentrun.AlreadyDecided as error:
        if entry.status == "resolved" and not _is_taken_up(run_id, mail_id):
            raise Refusal(409, "already_decided", str(error)) from error
    except agentrun.RunError as error:
        raise Refusal(409, "not_open", str(error)) from error
    except agentrun.ConfigError as error:
        raise _bad_answer(entry, str(error)) from error


def _is_open(key: str, step: int, request: Event) -> bool:
    waiting = agentrun.inbox(key)
    return any((one.step, one.fingerprint) == (step, request.fingerprint) for one in waiting)


def _is_taken_up(run_id: UUID, mail_id: UUID) -> bool:
    """Whether the run has journaled this very letter as a decision."""
    events = read_events(default(), run_id)[0]
    return any(event.event == "resolved" and event.key == str(mail_id) for event in events)
