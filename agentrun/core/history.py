"""The steps of a run, computed from the events of its journal.

`History` applies one event after the other. Live and on a resume it sees the same events in the
same order, so that both have the same steps.

A step has a number, which it keeps, and a place in the code, its ident. The events of a step are
found by the number. A resume finds a step by its place: `History.steps` holds exactly the steps
that a resume serves. A step that a divergence sets aside loses its place (see
`core/divergence.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from agentrun.core.events import Effect, Event, Json, Kind

__all__ = ["History", "RecordedStep", "listed_steps", "scope_of"]

_OF_LETTERS = frozenset({"resolved", "received"})  # the `key` of these events is a letter's id


@dataclass(eq=False, slots=True)
class RecordedStep:
    """One step, as the events so far describe it."""

    ident: str
    begun_at: str  # the ident at which the step began; `step_reused` changes only `ident`
    step: int
    turn: int | None
    kind: Kind
    name: str
    effect: Effect
    key: str | None
    fingerprint: str | None
    overlapping: bool
    born: int  # seq of the event that gave the step its ident: its first event, or `step_reused`
    epoch: int  # the epoch of that event, which tells the claim that wrote it
    source: Event | None = None  # the event that holds the input
    attempts: int = 0
    failures: int = 0  # failed attempts that count as retries
    reruns: int = 0  # attempts that the database rolled back
    retry_at: datetime | None = None  # after a failed attempt: when the next may begin
    open: Event | None = None  # the attempt that has an intent and no outcome
    doubtful_attempt: Event | None = None  # the interrupted attempt whose outcome was decided
    asks_person: bool = False  # the run failed by that decision, so a person decides anew
    unanswered: int | None = None  # the first attempt without an answer since the last answered one
    accepted: str | None = None  # the provider's id of a background response, for the open attempt
    request: Event | None = None  # the event that asks a person to decide, while it is undecided
    request_seq: int | None = None  # seq of `request`
    outcome: Event | None = None
    granted: bool = False  # a person approved the call
    approved: Json = None  # arguments that a person edited in the approval
    kept_fingerprints: tuple[str, ...] = ()  # of changed requests that still get this reply
    # The code that executes now has asked for the step. False for the steps of earlier claims, and
    # of earlier attempts of a tool's body, until the code asks for them again.
    on_path: bool = True
    set_aside_at: int = 0  # seq of the divergence that set the step aside

    @property
    def input(self) -> Json:
        """The recorded input: what the code asked for. That of a model call is built each time."""
        return None if self.source is None else self.source.input

    @property
    def order(self) -> tuple[int, int]:
        """Orders steps as they were recorded. Steps that were moved together keep their order."""
        return self.born, self.step


class History:
    """The steps of a run, by ident. Steps that are set aside are in `aside` or in `by_number`."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.steps: dict[str, RecordedStep] = {}
        self.aside: list[RecordedStep] = []  # set aside by a divergence, and may be reused
        self.by_number: dict[int, RecordedStep] = {}
        self.last_step = 0
        self.last_turn = 0
        self.divergences = 0
        self.failed_step: int | None = None
        for event in events:
            self.apply(event, event.seq, event.epoch)
        self.begin_again("")

    def apply(self, event: Event, seq: int, epoch: int) -> None:
        """Apply the next event of the journal. It has, or will get, the number ``seq``."""
        if event.event == "diverged":
            self._apply_divergence(event, seq)
        elif event.event == "step_reused" and event.ident is not None:
            self._apply_reuse(event, event.ident, seq, epoch)
        elif event.event == "request_changed" and event.fingerprint is not None:
            changed = self.by_number[event.step or 0]
            changed.kept_fingerprints = (*changed.kept_fingerprints, event.fingerprint)
        elif event.event == "run_failed":
            self.failed_step = event.step
        elif event.step is not None:
            known = self._step_of(event, seq, epoch)
            if known is not None:
                _apply_to_step(known, event, seq)

    def begin_again(self, prefix: str) -> None:
        """Note that the code whose steps begin with ``prefix`` is executed from its beginning."""
        for known in self.steps.values():
            if known.ident.startswith(prefix):
                known.on_path = False

    def steps_inside(self, known: RecordedStep) -> list[RecordedStep]:
        """The steps inside ``known`` that the same divergence set aside.

        They are the steps of its body, and the tool calls of its reply.
        """
        return [
            other
            for other in self.aside
            if other.set_aside_at == known.set_aside_at
            and other.ident.startswith((f"{known.ident}>", f"{known.ident}#"))
        ]

    def has_model_call(self) -> bool:
        """Whether any model call was recorded, also one that is set aside."""
        return any(known.kind == "model" for known in self.by_number.values())

    def last_step_inside(self, ident: str) -> RecordedStep | None:
        """The latest step in the body of the tool call ``ident``."""
        inside = [known for known in self.steps.values() if scope_of(known.ident) == f"{ident}>"]
        return max(inside, key=lambda known: known.step, default=None)

    def decided_since_reply(self) -> list[RecordedStep]:
        """The steps whose results a decision gave, and which no model has been told of yet."""
        known = [one for one in self.steps.values() if one.outcome is not None]
        replies = [one.outcome.seq for one in known if one.kind == "model" and one.outcome]
        last = max(replies, default=0)
        return [
            one for one in known if one.doubtful_attempt and one.outcome and one.outcome.seq > last
        ]

    def _step_of(self, event: Event, seq: int, epoch: int) -> RecordedStep | None:
        if event.step is not None and event.step > self.last_step:
            self.last_step = event.step
        if event.turn is not None and event.turn > self.last_turn:
            self.last_turn = event.turn
        if event.ident is None or event.kind is None or event.step is None:
            return self.by_number.get(event.step or 0)
        known = self.by_number.get(event.step)
        if known is None:
            known = RecordedStep(
                ident=event.ident,
                begun_at=event.ident,
                step=event.step,
                turn=event.turn,
                kind=event.kind,
                name=event.name or "",
                effect=event.effect or "once",
                key=None if event.event in _OF_LETTERS else event.key,
                fingerprint=event.fingerprint,
                overlapping=event.overlapping,
                born=seq,
                epoch=epoch,
            )
            self.steps[event.ident] = self.by_number[event.step] = known
        return known

    def _apply_divergence(self, event: Event, seq: int) -> None:
        self.divergences += 1
        gone, redone = listed_steps(event, "set_aside"), listed_steps(event, "redo")
        for known in [one for one in self.steps.values() if one.step in gone]:
            del self.steps[known.ident]
            known.set_aside_at = seq
            known.request = None  # if the new path asks for the step, a person is asked again
            if known.step not in redone:
                self.aside.append(known)

    def _apply_reuse(self, event: Event, ident: str, seq: int, epoch: int) -> None:
        moved = listed_steps(event, "steps")
        found = self.by_number[event.step or 0]
        before, at = found.ident, found.set_aside_at
        for known in [one for one in self.aside if one.step in moved and one.set_aside_at == at]:
            self.aside.remove(known)
            known.ident = ident + known.ident.removeprefix(before)
            known.born, known.epoch = seq, epoch
            self.steps[known.ident] = known


def _apply_to_step(known: RecordedStep, event: Event, seq: int) -> None:
    if event.has_input and known.source is None:
        known.source = event
    if known.key is None and event.event not in _OF_LETTERS:
        known.key = event.key
    match event.event:
        case "attempt_started":
            known.attempts, known.open = event.attempt or 1, event
            known.unanswered = known.unanswered or known.attempts
            known.outcome, known.request, known.accepted = None, None, None
            known.doubtful_attempt = None
        case "attempt_accepted":
            known.accepted = event.output["response"]
        case "attempt_failed":
            known.attempts, known.open = event.attempt or known.attempts, None
            if event.status != "not_sent" or known.unanswered == known.attempts:
                known.unanswered = None
            known.retry_at = _retry_at(event)
            known.accepted = None
            if event.status == "rolled_back":
                known.reruns += 1
            elif event.status not in ("not_sent", "unreached"):
                known.failures += 1
        case "step_finished":
            known.attempts = max(known.attempts, event.attempt or 1)
            known.open, known.outcome, known.request = None, event, None
            known.unanswered = None
        case "approval_requested" | "in_doubt":
            known.request, known.request_seq = event, seq
        case "resolved":
            known.request = None
            _apply_decision(known, event)


def _apply_decision(known: RecordedStep, event: Event) -> None:
    match event.status:
        case "approved":
            output = event.output if event.has_output else {}
            if "of" not in output:  # with "of" the decision is a larger budget, no approval
                known.granted, known.approved = True, output.get("approved")
        case "happened" | "unknown" | "fail":
            known.doubtful_attempt = known.open
        case "not_happened" | "retry":
            known.open = None
        case "reopened":
            # What a decision said of an attempt is in doubt again: the effect may have taken place.
            known.open, known.doubtful_attempt = known.doubtful_attempt, None
            known.asks_person = known.open is not None
            known.outcome, known.failures, known.reruns = None, 0, 0


def _retry_at(failed: Event) -> datetime | None:
    """When the next attempt may begin. None for an event that has not been stored yet."""
    output = failed.output if isinstance(failed.output, dict) else {}
    seconds = output.get("retry_in")
    if failed.at is None or not isinstance(seconds, int | float):
        return None
    return failed.at + timedelta(seconds=seconds)


def listed_steps(event: Event, name: str) -> set[int]:
    """The step numbers in the output of an event, which lists them as ranges under ``name``."""
    output = event.output if isinstance(event.output, dict) else {}
    return {number for first, last in output.get(name, ()) for number in range(first, last + 1)}


def scope_of(ident: str) -> str:
    """The path of the scope that a step belongs to: its ident without the last position."""
    cut = max(ident.rfind("/"), ident.rfind(">")) + 1
    return ident[:cut]
