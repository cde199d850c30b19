"""Redo: set a recorded step aside so that it is performed again. Which steps, and at what price.

The step and the steps inside its body are performed again. The steps that were recorded after it,
in its scope and in the scopes around and inside it, are set aside as well, because they may depend
on its result. The code then asks for steps again, and those that are equal to one that was set
aside are reused with their keys (`core/divergence.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from agentrun.core.divergence import Price, describe_call, diverge, price_of
from agentrun.core.errors import RunError
from agentrun.core.events import Event
from agentrun.core.history import History, RecordedStep, scope_of
from agentrun.core.shell import write_command
from agentrun.core.viewable import Viewable

__all__ = ["Redo", "plan_redo"]

_ONCE = ("once", "transaction")


@dataclass(frozen=True, repr=False)
class Redo(Viewable):
    """The plan to perform a recorded step again, as `redo` returns it. In a notebook it is a table.

    Example:
        >>> print(agentrun.redo("ticket-42", 3, dry_run=True))   # what it pays and does again
    """

    form = "redo"

    key: str  # the key of the run
    step: int
    call: str  # a description of the step
    paid: str  # the cost of model calls that are paid again; "" without any
    again: tuple[str, ...]  # descriptions of the effects that are performed again
    once: tuple[str, ...]  # those in `again` that may be repeated only with explicit consent
    after: Price  # of the steps that were recorded after it
    recorded_step: RecordedStep
    aside: tuple[RecordedStep, ...]  # all steps that are set aside, `redone` included
    redone: tuple[RecordedStep, ...]  # the step and those in its body, which are not reused
    children: tuple[str, ...] = ()  # for each child run among them, what the redo does to it

    @property
    def later(self) -> list[int]:
        """The numbers of the steps that are set aside because they were recorded after it.

        Example:
            >>> print(agentrun.redo("ticket-42", 3, dry_run=True).later)
        """
        return sorted(one.step for one in self.aside if one not in self.redone)

    def __repr__(self) -> str:
        return f"<Redo of step {self.step} of {self.key!r}: {len(self.aside)} steps are set aside>"

    def describe(self) -> str:
        """The plan in sentences, with the names of models and tools as they are recorded.

        Example:
            >>> sentences = agentrun.redo("ticket-42", 3, dry_run=True).describe()
        """
        sentences = [
            f"Step {self.step} of run {self.key!r}, {self.call}, is set aside and performed again."
        ]
        if self.paid:
            sentences.append(f"Paid again: {self.paid}.")
        if self.again:
            sentences.append(f"Performed again: {', '.join(self.again)}.")
        sentences += [f"The {child}." for child in self.children]
        if later := self.later:
            listed = ", ".join(map(str, later[:10])) + (", …" if len(later) > 10 else "")
            sentences.append(f"Set aside with it: step {listed}. {self.after}")
        return " ".join(sentences)

    def event(self, by: str, reason: str | None) -> Event:
        """The decision as a journal event."""
        numbers = [one.step for one in self.redone]
        return diverge(
            self.recorded_step,
            self.aside,
            by=by,
            reason=reason or "a redo was asked for",
            redo=numbers,
        )


def plan_redo(key: str, history: History, step: int) -> Redo:
    """Plan the redo of a step. Nothing is changed yet.

    Raises RunError if the step is not recorded, or its outcome is not what the code gets.
    """
    known = _find_replayable(key, history, step)
    inside = [one for one in history.steps.values() if one.ident.startswith(f"{known.ident}>")]
    redone = [known, *inside]
    aside = [one for one in history.steps.values() if one in redone or _depends(one, known)]
    effects = [one for one in redone if one.kind in ("tool", "function", "child")]
    performed = [one for one in effects if one.effect != "read"]
    return Redo(
        key=key,
        step=step,
        call=f"model {known.name}" if known.kind == "model" else describe_call(known),
        paid=price_of(redone).paid if any(one.kind == "model" for one in redone) else "",
        again=tuple(map(describe_call, performed)),
        once=tuple(describe_call(one) for one in performed if _is_once(one)),
        after=price_of(one for one in aside if one not in redone),
        recorded_step=known,
        aside=tuple(aside),
        redone=tuple(redone),
    )


def _find_replayable(key: str, history: History, step: int) -> RecordedStep:
    """The step, if the code gets its outcome on a resume. Raises RunError otherwise."""
    known = history.by_number.get(step)
    if known is None or history.steps.get(known.ident) is not known:
        gone = "is set aside already" if known is not None else "does not exist"
        raise RunError(
            f"step {step} of run {key!r} {gone}; `{write_command('show', key)}` lists them"
        )
    outer = _outer(history, known)
    if outer is not None:
        raise RunError(
            f"step {step} of run {key!r} stands inside step {outer.step}, {outer.name}, whose "
            f"outcome is recorded: `{write_command('redo', key, outer.step)}` performs both again",
            key=key,
        )
    if known.outcome is None:
        raise RunError(
            f"step {step} of run {key!r} has no outcome: it is attempted again by itself, or "
            "waits for a decision (`agentrun inbox`)",
            key=key,
        )
    return known


def _outer(history: History, known: RecordedStep) -> RecordedStep | None:
    """The outermost step with an outcome that has this step in its body."""
    parts = known.ident.split(">")
    for count in range(1, len(parts)):
        outer = history.steps.get(">".join(parts[:count]))
        if outer is not None and outer.outcome is not None:
            return outer
    return None


def _depends(one: RecordedStep, known: RecordedStep) -> bool:
    """Whether a step may depend on ``known``: it is later, and one scope contains the other."""
    theirs, ours = scope_of(one.ident), scope_of(known.ident)
    joined = theirs.startswith(ours) or ours.startswith(theirs)
    return one.order > known.order and joined


def _is_once(one: RecordedStep) -> bool:
    begun = one.outcome is not None or one.open is not None
    return begun and (one.effect in _ONCE or one.kind == "child")
