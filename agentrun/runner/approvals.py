"""Approval: a tool call that waits for a person before its first attempt.

What is approved is this call with these arguments, and no other: the letter names the step, and a
step's arguments are part of its identity. Edited arguments are recorded beside the original ones.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from shlex import quote
from typing import TYPE_CHECKING, Any

from agentrun.core.errors import Parking, ToolFailed
from agentrun.core.events import Event, Json
from agentrun.core.flow import Flow
from agentrun.runner import failures

if TYPE_CHECKING:
    from agentrun.runner.step import Step
    from agentrun.runner.waits import Letter

Approve = bool | Callable[..., bool]


def wanted(approve: Approve, arguments: dict[str, Any]) -> bool:
    """Whether a call with these arguments needs an approval."""
    return approve(**arguments) if callable(approve) else approve


def settle(step: Step) -> Flow[Json]:
    """The arguments that were approved, None for those asked for; else the run is held.

    A rejection is the step's outcome, told to the model.
    """
    known = step.run.history.steps.get(step.ident)
    if known is not None and known.granted:
        return known.approved
    for letter in (yield from step.run.letters(step.ident)):
        if letter["step"] == step.number and decides(letter, step.run.heart.now()):
            return _decided(step, letter)
    reason = (
        f"step {step.number}, {step.wanted.name}, waits for an approval: "
        f"agentrun approve {quote(step.run.key)} {step.number} | "
        f"agentrun reject {quote(step.run.key)} {step.number} --reason WHY"
    )
    step.run.append(step.asks_approval(reason))
    raise step.run.stop(Parking(reason, step=step.number))


def decides(letter: Letter, now: datetime) -> bool:
    """Whether a letter is a decision that still counts ``now``."""
    expires = letter["payload"].get("expires")
    return letter["kind"] in ("approve", "reject") and (
        expires is None or datetime.fromisoformat(expires) > now
    )


def _decided(step: Step, letter: Letter) -> Json:
    step.run.consumed.add(str(letter["id"]))
    by, reason, mail = letter["by"] or "somebody", letter["reason"], str(letter["id"])
    if letter["kind"] == "approve":
        edited = letter["payload"].get("arguments")
        asked = step.wanted.asked["args"]
        output = None if edited is None else {"original": asked, "approved": edited}
        step.run.append(step.resolved("approved", by, reason, mail, output))
        return edited
    text = f"{step.wanted.name} was not approved by {by}" + (f": {reason}" if reason else "")
    error = {"error": failures.describe(ToolFailed(text))}
    events: list[Event] = [step.resolved("rejected", by, reason, mail)]
    step.outcome = step.outcome_event("error", error, by=by)
    step.run.append(*events, step.outcome)
    step.done()
    return None
