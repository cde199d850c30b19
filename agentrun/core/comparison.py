"""Two runs side by side: which of their steps are the same, and where they part.

A step of one run is compared with the step of the other run that has the same identity, that is
the same place in the code (`core.identity`). So nothing is aligned by guess: a step that has no
partner at its place is in one run only. Steps that a divergence or a redo has set aside are on no
path of the code any more, and are not compared.

Two runs of the same agent never agree in times, costs, ids of tool calls and numbers of attempts.
These are shown and do not count as a difference.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Literal

from agentrun.core.differences import (
    are_equal,
    comparable_text,
    compare_arguments,
    compare_fields,
    compare_requests,
    json_diff,
)
from agentrun.core.events import Json
from agentrun.core.messages import Message
from agentrun.core.sharing import Packed, whole
from agentrun.core.transcript import NewMessage, Step, Transcript
from agentrun.core.viewable import Viewable

__all__ = ["ComparedStep", "Comparison", "compare_transcripts"]

Verdict = Literal["same", "differs", "only_a", "only_b"]

_LABELS = ("A", "B")


@dataclass(frozen=True, slots=True)
class ComparedStep:
    """The steps of two runs at one place in the code. One of them is None if it has no partner.

    ``changes`` has a phrase for each difference. ``parts`` has the values that differ, of either
    run, by what they are: arguments, result, reply and the like.

    Example:
        >>> for step in agentrun.compare("ticket-42", "ticket-7").steps:
        ...     print(step.ident, step.verdict, *step.changes)
    """

    ident: str
    a: Step | None
    b: Step | None
    verdict: Verdict
    changes: tuple[str, ...] = ()
    parts: tuple[Json, Json] = (None, None)

    @property
    def diff(self) -> str:
        """The parts that differ as a unified diff of indented JSON; empty for equal steps."""
        return json_diff(*self.parts, _LABELS) if self.verdict == "differs" else ""


@dataclass(frozen=True, slots=True, repr=False)
class Comparison(Viewable):
    """Two runs, compared step by step. It prints as text, and as a table in a notebook.

    ``steps`` has each place in the code once, in the order of run ``a``. ``changes`` has a phrase
    for each difference of the runs as a whole: agent, arguments, status, result, error.

    Example:
        >>> found = agentrun.compare("ticket-42", "ticket-7")
        >>> if not found.same and found.first_difference is not None:
        ...     print(found.first_difference.ident, *found.first_difference.changes)
    """

    form = "comparison"

    a: Transcript
    b: Transcript
    changes: tuple[str, ...]
    steps: tuple[ComparedStep, ...]

    @property
    def same(self) -> bool:
        """True if the runs agree as a whole and in each step."""
        return not self.changes and self.first_difference is None

    @property
    def first_difference(self) -> ComparedStep | None:
        """The first place where the runs differ; None if all steps are the same."""
        return next((step for step in self.steps if step.verdict != "same"), None)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values: both runs with their totals, and each step with its changes.

        Example:
            >>> agentrun.compare("ticket-42", "ticket-42").to_dict()["same"]
            True
        """
        first = self.first_difference
        return {
            "same": self.same,
            "a": _summary(self.a),
            "b": _summary(self.b),
            "changes": list(self.changes),
            "first_difference": None if first is None else first.ident,
            "steps": [_plain_step(step) for step in self.steps],
        }

    def to_json(self) -> str:
        """`to_dict` as ASCII JSON text, which cannot contain terminal escape sequences.

        Example:
            >>> found = agentrun.compare("ticket-42", "ticket-7")
            >>> Path("difference.json").write_text(found.to_json())
        """
        return json.dumps(self.to_dict())

    def __repr__(self) -> str:
        different = sum(step.verdict != "same" for step in self.steps)
        counts = f"{different} of {len(self.steps)} steps differ"
        return f"<Comparison of {self.a.key!r} and {self.b.key!r}: {counts}>"


def compare_transcripts(a: Transcript, b: Transcript) -> Comparison:
    """Compare two runs by the identity of their steps."""
    sides = _steps_by_place(a), _steps_by_place(b)
    messages = _messages_by_step(a), _messages_by_step(b)
    steps = []
    for ident in _order_places(*sides):
        first, second = (side.get(ident) for side in sides)
        if first is None or second is None:
            verdict: Verdict = "only_a" if second is None else "only_b"
            steps.append(ComparedStep(ident, first, second, verdict))
            continue
        found = (side.get(step.step) for side, step in zip(messages, (first, second), strict=True))
        steps.append(_compare_steps(ident, first, second, *(one or ([], []) for one in found)))
    return Comparison(a, b, tuple(_compare_runs(a, b)), tuple(steps))


def _compare_runs(a: Transcript, b: Transcript) -> Iterator[str]:
    yield from compare_fields({"agent": a.agent}, {"agent": b.agent})
    yield from _compare_inputs(a.input, b.input)
    one, other = (
        {"status": run.status, "result": run.result, "error": _error_text(run)} for run in (a, b)
    )
    yield from compare_fields(one, other)


def _compare_steps(
    ident: str, a: Step, b: Step, heard: _StepMessages, other: _StepMessages
) -> ComparedStep:
    changes = [*compare_fields(_description(a), _description(b))]
    parts: tuple[dict[str, Json], dict[str, Json]] = ({}, {})

    def note(name: str, one: Json, two: Json, phrases: Iterable[str]) -> None:
        changes.extend(phrases)
        parts[0][name], parts[1][name] = one, two

    if a.kind == "model" and b.kind == "model":
        one, two = _body(a), _body(b)
        if not are_equal(one, two):
            note("settings", *(differ := compare_requests(one, two))[1], differ[0])
        for name, these, those in zip(("request", "reply"), heard, other, strict=True):
            if phrases := list(_compare_messages(name, these, those)):
                note(name, _plain_messages(these), _plain_messages(those), phrases)
    else:
        if not are_equal(a.input, b.input):
            note("arguments", a.input, b.input, _compare_inputs(a.input, b.input))
        if not are_equal(a.output, b.output):
            results = compare_fields({"result": a.output}, {"result": b.output})
            note("result", a.output, b.output, results)
    if (error := _error_text(a)) != _error_text(b):
        errors = compare_fields({"error": error}, {"error": _error_text(b)})
        note("error", error, _error_text(b), errors)
    verdict: Verdict = "differs" if changes else "same"
    return ComparedStep(ident, a, b, verdict, tuple(changes), parts)


def _description(step: Step) -> dict[str, Json]:
    """What a step is and how it ended. The name of a model call is that of its API."""
    return {"kind": step.kind, "name": step.name, "effect": step.effect, "status": step.status}


def _compare_inputs(a: Json, b: Json) -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        return compare_arguments(a, b)
    return list(compare_fields({"arguments": a}, {"arguments": b}))


def _body(step: Step) -> dict[str, Json]:
    """The settings and the tools in the request of a model call, without its conversation."""
    body = step.input.get("body") if isinstance(step.input, dict) else None
    tools = _tools(step)
    return (body if isinstance(body, dict) else {}) | ({} if tools is None else {"tools": tools})


def _tools(step: Step) -> Json:
    """The definitions of tools in a request. The conversation beside them is not built."""
    recorded = step.recorded_request
    outline = recorded.outline() if isinstance(recorded, Packed) else recorded
    body = outline.get("body") if isinstance(outline, dict) else None
    return whole(body.get("tools")) if isinstance(body, dict) else None


def _error_text(ended: Step | Transcript) -> str | None:
    return None if ended.error is None else f"{ended.error.type}: {ended.error.message}"


# -- places ----------------------------------------------------------------------------------------


def _steps_by_place(run: Transcript) -> dict[str, Step]:
    """The steps on the path of the code, by ident. No step is lost if two have the same one."""
    places: dict[str, Step] = {}
    for step in run.steps:
        if not step.set_aside:
            ident = step.ident or f"step {step.step}"
            places[ident if ident not in places else f"{ident} (step {step.step})"] = step
    return places


def _order_places(a: dict[str, Step], b: dict[str, Step]) -> Iterator[str]:
    """Each place once: those of ``a`` in their order, and those of ``b`` only before the next
    place that both runs have."""
    extra: dict[str | None, list[str]] = {}
    waiting: list[str] = []
    for ident in b:
        if ident in a:
            extra[ident], waiting = waiting, []
        else:
            waiting.append(ident)
    for ident in a:
        yield from extra.get(ident, ())
        yield ident
    yield from waiting


# -- messages --------------------------------------------------------------------------------------

_StepMessages = tuple[list[Message], list[Message]]  # new in the request, and in the reply


def _messages_by_step(run: Transcript) -> dict[int, _StepMessages]:
    """The messages that are new at each model call.

    Earlier messages belong to earlier calls, and the result of a recorded step to that step. So a
    difference is listed once, and not again at each later call of the conversation.
    """
    found: dict[int, _StepMessages] = {}
    begun: set[int] = set()
    for entry in run.entries:
        if isinstance(entry, Step):
            begun.add(entry.step)
        elif isinstance(entry, NewMessage) and not entry.echo:
            request, reply = found.setdefault(entry.step, ([], []))
            (reply if entry.step in begun else request).append(entry.message)
    return found


def _compare_messages(name: str, a: list[Message], b: list[Message]) -> Iterator[str]:
    if len(a) != len(b):
        yield f"the {name} has {_count(b)} instead of {_count(a)}"
    for number, (one, other) in enumerate(zip(a, b, strict=False), 1):
        if _comparable(one) != _comparable(other):
            yield f"new message {number} of the {name} ({other.role}) differs"


def _count(messages: list[Message]) -> str:
    return f"{len(messages)} new message{'' if len(messages) == 1 else 's'}"


def _comparable(message: Message) -> tuple[object, ...]:
    """The content of a message without the ids of calls, which differ from run to run."""
    calls = tuple((call.name, comparable_text(call.arguments)) for call in message.calls)
    return message.role, message.text, message.name, calls


def _plain_messages(messages: list[Message]) -> Json:
    return [
        {"role": message.role, "text": message.text}
        | ({"calls": [f"{c.name}({c.arguments})" for c in message.calls]} if message.calls else {})
        for message in messages
    ]


# -- as JSON ---------------------------------------------------------------------------------------


def _summary(run: Transcript) -> dict[str, Any]:
    totals = {
        name: str(amount) if isinstance(amount, Decimal) else amount
        for name, amount in asdict(run.totals).items()
    }
    return {
        "key": run.key,
        "agent": run.agent,
        "status": run.status,
        "started_at": run.started_at and run.started_at.isoformat(),
        "finished_at": run.finished_at and run.finished_at.isoformat(),
        "turns": run.turns,
        "totals": totals,
        "steps_set_aside": sum(step.set_aside for step in run.steps),
    }


def _plain_step(step: ComparedStep) -> dict[str, Any]:
    return {
        "ident": step.ident,
        "a": step.a and step.a.step,
        "b": step.b and step.b.step,
        "verdict": step.verdict,
        "changes": list(step.changes),
        "diff": step.diff,
    }
