"""Which recorded step is the one that the code asks for now?

A *scope* is one line of control: the run itself, a task or thread it started (numbered by
creation), a `branch`, or the body of a tool. Steps of a scope are numbered by position, and
`ident` writes that down as a path::

    3            third step of the run                t2/1      first step of its second task
    3#0          first tool call of model step 3      b:eu/1    first step of branch "eu"
    3#0>1        first step inside that tool's body

Position decides; the fingerprint only *detects divergence*. A tool call is found by the reply
that asked for it: (model step, index in the reply), so that call ids may be empty, repeated or
the same every turn, and parallel tools may finish in any order.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha1
from uuid import UUID

from agentrun.core.codec import fingerprint as fingerprint_of
from agentrun.core.errors import ConfigError, Diverging
from agentrun.core.events import Effect, Event, Json, Kind
from agentrun.core.secrets import redact

_DIFF_LINES = 40
_OF_LETTERS = frozenset({"resolved", "received"})  # their `key` is the id of a letter


@dataclass(eq=False, slots=True)
class Known:
    """One step as the journal knows it."""

    ident: str
    step: int
    turn: int | None
    kind: Kind
    name: str
    effect: Effect
    key: str | None
    fingerprint: str | None
    overlapping: bool
    born: int  # seq of its first event
    epoch: int  # and its epoch: which claim began the step
    asked: Json = None  # what the code asked for, as recorded
    attempts: int = 0
    failures: int = 0  # attempts that failed and were to be retried
    reruns: int = 0  # attempts that the database rolled back
    retry_at: datetime | None = None  # of the last that failed: when the next may begin
    open: Event | None = None  # the attempt with an intent and no outcome
    unanswered: int | None = None  # the first attempt without one since the last that had one
    accepted: str | None = None  # the id under which the provider works on that attempt by itself
    doubted: bool = False  # that attempt was raised as a doubt
    doubted_at: datetime | None = None  # when; None if by this process, just now
    outcome: Event | None = None
    granted: bool = False  # a person approved the call
    approved: Json = None  # edited arguments that a person approved in place of those asked for


class History:
    """The steps of a run, by ident: a fold over its journal."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.steps: dict[str, Known] = {}
        self.by_number: dict[int, Known] = {}
        self.last_step = 0
        self.last_turn = 0
        self.divergences = 0
        self.failed_step: int | None = None
        for event in events:
            self.apply(event, event.seq, event.epoch)

    def apply(self, event: Event, seq: int, epoch: int) -> None:
        """Take in the next event of the journal, which stands or will stand at ``seq``."""
        if event.event == "diverged" and event.ident is not None:
            self._drop_from(event.ident, epoch)
        elif event.event == "run_failed":
            self.failed_step = event.step
        elif event.step is not None:
            known = self._known(event, seq, epoch)
            if known is not None:
                _advance(known, event)

    def last_inside(self, ident: str) -> Known | None:
        """The last step of the body of the tool call ``ident``."""
        inside = [known for known in self.steps.values() if scope_of(known.ident) == f"{ident}>"]
        return max(inside, key=lambda known: known.step, default=None)

    def _known(self, event: Event, seq: int, epoch: int) -> Known | None:
        if event.step is not None and event.step > self.last_step:
            self.last_step = event.step
        if event.turn is not None and event.turn > self.last_turn:
            self.last_turn = event.turn
        if event.ident is None or event.kind is None or event.step is None:
            return self.by_number.get(event.step or 0)
        known = self.steps.get(event.ident)
        if known is None:
            known = Known(
                ident=event.ident,
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

    def _drop_from(self, ident: str, epoch: int) -> None:
        """An accepted divergence: what its scope recorded from here on counts no more.

        But for what this very claim has begun in other tasks: that is of the new path.
        """
        self.divergences += 1
        first = self.steps[ident].born if ident in self.steps else 0
        scope = scope_of(ident)
        for other in [k for k in self.steps.values() if k.born >= first and k.epoch < epoch]:
            if other.ident.startswith(scope):
                del self.steps[other.ident]


def _advance(known: Known, event: Event) -> None:
    if event.has_input and known.asked is None:
        known.asked = event.input
    if known.key is None and event.event not in _OF_LETTERS:
        known.key = event.key
    match event.event:
        case "attempt_started":
            known.attempts, known.open = event.attempt or 1, event
            known.unanswered = known.unanswered or known.attempts
            known.outcome, known.doubted, known.accepted = None, False, None
        case "attempt_accepted":
            known.accepted = event.output["response"]
        case "attempt_failed":
            known.attempts, known.open = event.attempt or known.attempts, None
            known.unanswered = None
            known.retry_at = _retry_at(event)
            known.accepted = None
            if event.status == "rolled_back":
                known.reruns += 1
            else:
                known.failures += 1
        case "step_finished":
            known.attempts = max(known.attempts, event.attempt or 1)
            known.open, known.outcome, known.doubted = None, event, False
            known.unanswered = None
        case "in_doubt":
            known.doubted, known.doubted_at = True, event.at
        case "resolved" if event.status == "approved":
            known.granted = True
            known.approved = event.output["approved"] if event.has_output else None
        case "resolved" if event.status in ("not_happened", "retry"):
            known.open, known.doubted = None, False
        case "resolved" if event.status == "reopened":
            known.open, known.outcome, known.failures, known.reruns = None, None, 0, 0


def _retry_at(failed: Event) -> datetime | None:
    """When the next attempt may begin; None if the event has no time yet: it is of just now."""
    told = failed.output if isinstance(failed.output, dict) else {}
    seconds = told.get("retry_in")
    if failed.at is None or not isinstance(seconds, int | float):
        return None
    return failed.at + timedelta(seconds=seconds)


def scope_of(ident: str) -> str:
    """The path of the scope a step stands in: everything before its own position."""
    cut = max(ident.rfind("/"), ident.rfind(">")) + 1
    return ident[:cut]


def step_key(run_id: UUID, ident: str, divergences: int) -> str:
    """The idempotency key of a step: from the run and the step alone.

    After an accepted divergence the same position is another step, so it gets another key.
    """
    place = ident if not divergences else f"{ident}~{divergences}"
    # What str(uuid5(run_id, place)) is, at a sixth of its price.
    key = bytearray(sha1(run_id.bytes + place.encode(), usedforsecurity=False).digest()[:16])
    key[6] = key[6] & 0x0F | 0x50
    key[8] = key[8] & 0x3F | 0x80
    hexed = key.hex()
    return f"{hexed[:8]}-{hexed[8:12]}-{hexed[12:16]}-{hexed[16:20]}-{hexed[20:]}"


# -- tool calls of a reply ---------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class Asked:
    """One tool call that a model asked for."""

    ident: str
    name: str
    call_id: str
    arguments: Json  # as the model sent them: JSON text, or already decoded
    turn: int | None
    taken: bool = False


@dataclass(eq=False, slots=True)
class Scope:
    """One line of control of a run. Callers hold the run's lock."""

    own: str = ""  # its part of the path; of a body, the whole
    parent: Scope | None = None
    turn: int | None = None
    fixed_turn: bool = False  # inside `with turn():`
    numbered: bool = False  # a task or thread that has begun no step: told apart by its creation
    position: int = 0
    children: int = 0
    claimed: set[str] = field(default_factory=set)  # parts of children that have begun a step
    left: list[str] = field(default_factory=list)  # parts of those that turned out to be others
    uuids: int = 0
    malformed: int = 0  # replies in a row that asked for nothing that could be done
    body: bool = False  # inside a tool's body, where a drain must not stop a step half-way
    active: dict[int, Hashable] = field(default_factory=dict)  # step under way: who performs it
    matched: set[str] = field(default_factory=set)  # recorded steps already used by position
    asked: list[list[Asked]] = field(default_factory=list)  # replies, oldest first
    branches: dict[str, Scope] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Where it stands; that of a task or thread holds from its first step on."""
        return self.own if self.above is None else self.above.path + self.own

    @property
    def above(self) -> Scope | None:
        """The scope whose path this one's begins with. A tool's body has its ident's instead."""
        return None if self.own.endswith(">") else self.parent

    def child(self) -> Scope:
        """The scope of a task or thread started from here."""
        self.children += 1
        return Scope(f"t{self.children}/", self, self.turn, body=self.body, numbered=True)

    def branch(self, name: str) -> Scope:
        """The scope of a named sub-conversation; entering it again goes on in it."""
        if name not in self.branches:
            escaped = name.replace("%", "%25").replace("/", "%2F").replace(">", "%3E")
            self.branches[name] = Scope(f"b:{escaped}/", self, self.turn, body=self.body)
        return self.branches[name]

    def inside(self, ident: str) -> Scope:
        """The scope of a tool's body."""
        return Scope(f"{ident}>", self, self.turn, body=True)

    def replies(self) -> Iterator[list[Asked]]:
        """Replies that this line of control can see, latest first, then its parents'."""
        scope: Scope | None = self
        while scope is not None:
            yield from reversed(scope.asked)
            scope = scope.parent

    def turn_of_new(self, kind: Kind) -> int | None:
        """The turn of a step that is not recorded yet.

        A model call begins a new one, which the caller numbers; not inside `turn()`.
        """
        if kind == "model":
            return self.turn if self.fixed_turn else None
        return self.current_turn()

    def current_turn(self) -> int | None:
        scope: Scope | None = self
        while scope is not None:
            if scope.turn is not None:
                return scope.turn
            scope = scope.parent
        return None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a step stands, and what is recorded there."""

    ident: str
    turn: int | None
    overlapping: bool
    known: Known | None


def find_call(
    scope: Scope, name: str, call_id: str | None, same: Callable[[Json], bool]
) -> Asked | None:
    """The tool call of the latest reply that this call answers; it is then taken.

    By call id where one is given; for a plain call by name and equal arguments (``same`` tells).
    """
    for reply in scope.replies():
        for asked in reply:
            if asked.taken or asked.name != name:
                continue
            if asked.call_id == call_id if call_id else same(asked.arguments):
                asked.taken = True
                return asked
    return None


def place_call(history: History, scope: Scope, asked: Asked) -> Place:
    """The place of a tool call that a reply asked for."""
    return Place(asked.ident, asked.turn, False, history.steps.get(asked.ident))


def place_next(
    history: History,
    scope: Scope,
    kind: Kind,
    name: str,
    effect: Effect,
    fingerprint: str,
    performer: Hashable,
) -> Place:
    """The place of the next step of ``scope``, asked for by ``performer`` (a thread and task).

    Raises:
        ConfigError: steps of one scope overlap, and this one could not be told apart on resume.
    """
    overlapping = any(other != performer for other in scope.active.values())
    interchangeable = kind == "model" or effect == "read"
    if overlapping and not interchangeable:
        raise ConfigError(
            f"{name}: a {effect} step began while another step of the same task or thread was "
            f"under way, so a resume could not tell them apart. Put each sub-conversation in "
            f"`with agentrun.branch(name):`, or use call_tools()."
        )
    _settle(history, scope, (kind, name, fingerprint))
    scope.position += 1
    known = history.steps.get(f"{scope.path}{scope.position}")
    if known is not None and interchangeable:
        known = _interchanged(history, scope, known, fingerprint)
    if known is not None:
        scope.matched.add(known.ident)
        return Place(known.ident, known.turn, known.overlapping, known)
    return Place(f"{scope.path}{scope.position}", scope.turn_of_new(kind), overlapping, None)


def _settle(history: History, scope: Scope, first: tuple[str, str, str]) -> None:
    """Tell the tasks and threads that begin with this step, which may be inside a branch.

    A number is that of its creation. Should that have shifted (a library started a thread of its
    own this time), the recorded sibling that began with this very step is the one meant.
    """
    line = [scope]
    while (above := line[-1].above) is not None:
        line.append(above)
    for parent, one in itertools.pairwise(reversed(line)):
        if one.numbered:
            rest = f"{scope.path.removeprefix(one.path)}1"
            own, one.own = one.own, _claimed(history, parent, one.own, rest, first)
            one.numbered = False
            parent.claimed.add(one.own)
            if own != one.own:
                parent.left.append(own)


def _claimed(
    history: History, parent: Scope, own: str, rest: str, first: tuple[str, str, str]
) -> str:
    """The part of the path of a child of ``parent`` whose first step is ``rest`` of it."""
    path = parent.path

    def recorded(part: str) -> tuple[str, str, str | None] | None:
        known = history.steps.get(f"{path}{part}{rest}")
        return None if known is None else (known.kind, known.name, known.fingerprint)

    if own not in parent.claimed and recorded(own) == first:
        return own
    numbers = {int(found[1]) for ident in history.steps
               if (found := re.match(re.escape(path) + r"t(\d+)/", ident))}  # fmt: skip
    siblings = (f"t{number}/" for number in sorted(numbers))
    unclaimed = [part for part in siblings if part not in parent.claimed]
    for part in unclaimed:
        if recorded(part) == first:
            return part
    if own not in parent.claimed:
        return own
    # A sibling is in its place. What that one left may be free; else, a number above all others.
    free = (part for part in parent.left if part not in parent.claimed and part not in unclaimed)
    above = itertools.count(max([parent.children, *numbers]) + 1)
    fresh = (part for n in above if (part := f"t{n}/") not in parent.claimed)
    return next(itertools.chain(free, fresh))


def _interchanged(history: History, scope: Scope, here: Known, fingerprint: str) -> Known:
    """The recorded step meant, where steps overlapped and may come back in another order.

    Equal ones are matched k-th to k-th: the first one in the group that is not used yet.
    """
    if here.fingerprint == fingerprint and here.ident not in scope.matched:
        return here
    first = last = scope.position
    while _flagged(history, scope, first):
        first -= 1
    while _flagged(history, scope, last + 1):
        last += 1
    for position in range(first, last + 1):
        known = history.steps.get(f"{scope.path}{position}")
        if known and known.fingerprint == fingerprint and known.ident not in scope.matched:
            return known
    return here


def _flagged(history: History, scope: Scope, position: int) -> bool:
    known = history.steps.get(f"{scope.path}{position}")
    return known is not None and known.overlapping


# -- divergence ------------------------------------------------------------------------------------


def check_same(place: Place, kind: Kind, name: str, fingerprint: str, asked: Json) -> None:
    """Refuse, before any effect, what is not what was recorded.

    Raises:
        Diverging: with a diff of what is recorded and what the code asks for.
    """
    known = place.known
    if known is None or (known.kind, known.name, known.fingerprint) == (kind, name, fingerprint):
        return
    diff = difference(
        {"kind": known.kind, "name": known.name, "asks": known.asked},
        {"kind": kind, "name": name, "asks": redact(asked)[0]},
    )
    raise Diverging(
        f"step {known.step} is recorded as {known.kind} {known.name!r}, but the code now asks for "
        f"{kind} {name!r}:\n{diff}",
        diff=diff,
    )


def difference(recorded: Json, asked: Json) -> str:
    """A short unified diff of two values as indented JSON."""
    before, after = (
        json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True).splitlines()
        for value in (recorded, asked)
    )
    lines = list(difflib.unified_diff(before, after, "recorded", "asked now", lineterm="", n=2))
    if len(lines) > _DIFF_LINES:
        lines = [*lines[:_DIFF_LINES], f"… {len(lines) - _DIFF_LINES} more lines"]
    return "\n".join(line if len(line) <= 400 else line[:400] + "…" for line in lines)


def fingerprint_step(kind: Kind, name: str, asked: Json) -> str:
    """The fingerprint of a step: its kind, its name and what it asks for.

    Of that without secrets: it is what a resume reads back.
    """
    if kind == "model":  # a long conversation, whose texts the redactor remembers
        return fingerprint_of([kind, name, redact(asked)[0]])
    return fingerprint_of([kind, name, asked], redact)
