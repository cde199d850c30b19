"""Identity: which recorded step corresponds to the step that the code asks for now?

The problem. A resume runs the agent's code again from its first line, and each step that the code
asks for has to be matched with the journal. If the match is wrong, the code gets the result of
another call, or an effect is performed twice. Names and arguments are not enough: a loop may make
the same call several times. Global order is not enough: tasks and threads interleave differently
in each process.

The rule. A *scope* is one line of control in which steps follow each other: the run itself, a task
or thread that the run started (numbered by creation), a `branch`, or the body of a tool. A step is
identified by its position within its scope. The `ident` of a step writes this down as a path::

    3            third step of the run                t2/1      first step of its second task
    3#0          first tool call of model step 3      b:eu/1    first step of branch "eu"
    3#0>1        first step inside that tool's body   3#0.2     that tool call, made once more

Why it holds. Within one scope the code is sequential, so that the same code with the same results
reaches the same positions in the same order, however the scopes interleave.

The fingerprint of a step (a digest of its kind, name and arguments) only *detects divergence*: if
it differs from the recorded one at the same position, the code has changed. It does not identify
a step, with the two exceptions below.

A tool call that a model asked for is identified by (model step, index in the reply) instead of a
position. So parallel tools may finish in any order, and call ids may be empty, repeated or the
same in every turn: an id, or the name and the arguments, only serves to find that pair. If the
code makes the call while it still reads the reply's stream, the rest of the reply is read first.

Two cases in which positions are not reliable, and how they are handled:

* Steps of one scope overlap, for example two model calls in `asyncio.gather` without branches.
  Model calls and `read` steps are then matched by fingerprint among the steps that overlapped,
  the k-th with the k-th of equal ones. Any other effect is refused before it begins, because a
  resume could repeat the wrong one.
* The numbers of tasks and threads have shifted, for example because a library started a thread of
  its own this time. A task is then matched with the recorded task that has the same first step.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha1
from uuid import UUID

from agentrun.core.errors import ConfigError
from agentrun.core.events import Effect, Json, Kind
from agentrun.core.history import History, RecordedStep


def step_key(run_id: UUID, ident: str, divergences: int) -> str:
    """The idempotency key of a step. It depends only on the run and the step.

    After an accepted divergence the same position is another step, so it gets another key.
    """
    place = ident if not divergences else f"{ident}~{divergences}"
    # The same text as str(uuid5(run_id, place)), computed six times faster.
    key = bytearray(sha1(run_id.bytes + place.encode(), usedforsecurity=False).digest()[:16])
    key[6] = key[6] & 0x0F | 0x50
    key[8] = key[8] & 0x3F | 0x80
    hexed = key.hex()
    return f"{hexed[:8]}-{hexed[8:12]}-{hexed[12:16]}-{hexed[16:20]}-{hexed[20:]}"


# -- tool calls of a reply ---------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class RequestedToolCall:
    """One tool call that a model asked for."""

    ident: str
    name: str
    call_id: str
    arguments: Json  # as the model sent them: JSON text, or already decoded
    turn: int | None
    was_made: bool = False  # the code has made this call
    failed: bool = False  # the code was given an error as its result
    key: str | None = None  # the idempotency key of its step
    first: str = ""  # for a repeated call: the ident of the first one


@dataclass(eq=False, slots=True)
class Scope:
    """One line of control of a run. Callers hold the run's lock."""

    own: str = ""  # its last part of the path; for the body of a tool, the whole path
    parent: Scope | None = None
    turn: int | None = None
    fixed_turn: bool = False  # inside `with turn():`
    numbered: bool = False  # a task or thread without a step yet: `own` is its creation number
    has_begun: bool = False  # a step was asked for in this scope or in a scope inside it
    position: int = 0
    children: int = 0
    claimed: set[str] = field(default_factory=set)  # `own` of the children that have begun a step
    # Creation numbers of children that were matched with the recorded task of another number.
    given_up: list[str] = field(default_factory=list)
    uuids: int = 0
    malformed: int = 0  # consecutive replies without a tool call that could be made
    body: bool = False  # inside a tool's body, where a drain must not stop a step half-way
    active: dict[int, Hashable] = field(default_factory=dict)  # steps under way: their performers
    matched: set[str] = field(default_factory=set)  # recorded steps that are already matched
    failed: tuple[str, str] | None = None  # fingerprint and key of the last step, if it failed
    # The tool calls of each reply that this scope received, oldest reply first.
    tool_calls: list[list[RequestedToolCall]] = field(default_factory=list)
    # The same for all replies of the run. Only the scope of the run itself fills this list.
    all_replies: list[list[RequestedToolCall]] = field(default_factory=list)
    branches: dict[str, Scope] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The path of this scope. The path of a task or thread is final from its first step on."""
        return self.own if self.above is None else self.above.path + self.own

    @property
    def above(self) -> Scope | None:
        """The scope whose path is the beginning of this one's; None for the body of a tool.

        The path of a body begins with the ident of its tool call instead.
        """
        return None if self.own.endswith(">") else self.parent

    def mark_begun(self) -> None:
        """Record that a step is asked for in this scope."""
        scope: Scope | None = self
        while scope is not None and not scope.has_begun:
            scope.has_begun = True
            scope = scope.parent

    def child(self) -> Scope:
        """The scope of a new task or thread that this scope starts."""
        self.children += 1
        return Scope(f"t{self.children}/", self, self.turn, body=self.body, numbered=True)

    def branch(self, name: str) -> Scope:
        """The scope of a named sub-conversation. The same name returns the same scope."""
        if name not in self.branches:
            escaped = name.replace("%", "%25").replace("/", "%2F").replace(">", "%3E")
            self.branches[name] = Scope(f"b:{escaped}/", self, self.turn, body=self.body)
        return self.branches[name]

    def body_scope(self, ident: str) -> Scope:
        """The scope of the body of the tool call ``ident``."""
        return Scope(f"{ident}>", self, self.turn, body=True)

    def line(self) -> Iterator[Scope]:
        """This scope and its parents, up to that of the run."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    def replies(self) -> Iterator[list[RequestedToolCall]]:
        """The replies that this scope received, latest first, then those of its parents."""
        for scope in self.line():
            yield from reversed(scope.tool_calls)

    def add_reply(self, asked: list[RequestedToolCall]) -> None:
        """Remember the tool calls of a reply, for this scope and for the whole run."""
        self.tool_calls.append(asked)
        self.top.all_replies.append(asked)

    def all_tool_calls(self) -> Iterator[RequestedToolCall]:
        """The tool calls of all replies of the run, those of the latest reply first."""
        return itertools.chain.from_iterable(reversed(self.top.all_replies))

    @property
    def top(self) -> Scope:
        """The scope of the run itself."""
        return self if self.parent is None else self.parent.top

    def turn_of_new(self, kind: Kind) -> int | None:
        """The turn of a step that is not recorded yet; None: a new one, numbered by the caller.

        A model call begins a new turn, except inside `turn()`.
        """
        if kind == "model":
            return self.turn if self.fixed_turn else None
        return self.current_turn()

    def current_turn(self) -> int | None:
        """The turn of this scope, or of the nearest parent that has one."""
        return next((scope.turn for scope in self.line() if scope.turn is not None), None)


@dataclass(frozen=True, slots=True)
class StepLocation:
    """The place of a step in the run, and the step that is recorded at this place."""

    ident: str
    turn: int | None
    overlapping: bool
    recorded_step: RecordedStep | None


def find_call(
    scope: Scope, name: str, call_id: str | None, same: Callable[[Json], bool]
) -> RequestedToolCall | None:
    """Find the model's tool call that the code makes now, and mark it as made.

    The replies that ``scope`` can see are searched, latest first. With a call id, the call is found
    by name and id. Without one (a plain call of the function), the call is found by name and equal
    arguments; ``same`` compares the arguments with recorded ones.

    A call that was made already may be made again. It is then a further step with the same
    idempotency key. This is allowed for the same call id and arguments, and for a plain call
    of the latest reply whose result was an error.

    If no reply that ``scope`` can see has the call id, the whole run is searched.
    """
    for latest, reply in enumerate(scope.replies()):
        of_name = [asked for asked in reply if asked.name == name]
        for asked in of_name:
            if asked.was_made:
                continue
            if asked.call_id == call_id if call_id else same(asked.arguments):
                asked.was_made = True
                return asked
        for asked in reversed(of_name):
            again = asked.call_id == call_id if call_id else asked.failed and latest == 0
            if asked.was_made and again and same(asked.arguments):
                return _repeat_call(reply, asked)
    # A framework may run the model and its tools in sibling tasks. Ids may be the same in every
    # conversation of the run, so the arguments have to be equal as well.
    for asked in scope.all_tool_calls() if call_id else ():
        found = not asked.was_made and (asked.name, asked.call_id) == (name, call_id)
        if found and same(asked.arguments):
            asked.was_made = True
            return asked
    return None


def _repeat_call(reply: list[RequestedToolCall], asked: RequestedToolCall) -> RequestedToolCall:
    first = asked.first or asked.ident
    tries = 2 + sum(other.first == first for other in reply)
    again = replace(asked, ident=f"{first}.{tries}", first=first, failed=False)
    reply.append(again)
    return again


def place_call(history: History, scope: Scope, asked: RequestedToolCall) -> StepLocation:
    """The place of a tool call that a model asked for."""
    return StepLocation(asked.ident, asked.turn, False, history.steps.get(asked.ident))


def place_next(
    history: History,
    scope: Scope,
    kind: Kind,
    name: str,
    effect: Effect,
    fingerprint: str,
    performer: Hashable,
) -> StepLocation:
    """The place of the next step of ``scope``, asked for by ``performer`` (a thread and task).

    Raises:
        ConfigError: steps of one scope overlap, and a resume could not distinguish this one from
            the others.
    """
    overlapping = any(other != performer for other in scope.active.values())
    interchangeable = kind == "model" or effect == "read"
    if overlapping and not interchangeable:
        raise ConfigError(
            f"{name}: a {effect} step began while another step of the same branch was under way, "
            f"so a resume could not distinguish them. Put each sub-conversation in a "
            f"`with agentrun.branch(name):` of its own, or use call_tools()."
        )
    _identify_tasks(history, scope, (kind, name, fingerprint))
    scope.position += 1
    known = history.steps.get(f"{scope.path}{scope.position}")
    if known is not None and interchangeable:
        known = _match_overlapping(history, scope, known, fingerprint)
    if known is not None:
        scope.matched.add(known.ident)
        return StepLocation(known.ident, known.turn, known.overlapping, known)
    return StepLocation(f"{scope.path}{scope.position}", scope.turn_of_new(kind), overlapping, None)


def _identify_tasks(history: History, scope: Scope, first: tuple[str, str, str]) -> None:
    """Choose the final path of each task or thread around ``scope`` that has no step yet.

    The number of a task or thread is its creation number. If the numbers have shifted, for example
    because a library started a thread of its own this time, the task gets the number of the
    recorded task that has this same first step (``first``: kind, name and fingerprint).
    """
    line = [scope]
    while (above := line[-1].above) is not None:
        line.append(above)
    for parent, one in itertools.pairwise(reversed(line)):
        if one.numbered:
            rest = f"{scope.path.removeprefix(one.path)}1"
            own, one.own = one.own, _path_part(history, parent, one.own, rest, first)
            one.numbered = False
            parent.claimed.add(one.own)
            if own != one.own:
                parent.given_up.append(own)


def _path_part(
    history: History, parent: Scope, own: str, rest: str, first: tuple[str, str, str]
) -> str:
    """The last part of the path of a child of ``parent``: `own` of its scope.

    ``own`` is the part by its creation number. ``rest`` is the path from the child to its
    first step.
    """
    path = parent.path

    def first_step_of(part: str) -> tuple[str, str, str | None] | None:
        known = history.steps.get(f"{path}{part}{rest}")
        return None if known is None else (known.kind, known.name, known.fingerprint)

    if own not in parent.claimed and first_step_of(own) == first:
        return own
    numbers = {int(found[1]) for ident in history.steps
               if (found := re.match(re.escape(path) + r"t(\d+)/", ident))}  # fmt: skip
    siblings = (f"t{number}/" for number in sorted(numbers))
    unclaimed = [part for part in siblings if part not in parent.claimed]
    for part in unclaimed:
        if first_step_of(part) == first:
            return part
    if own not in parent.claimed:
        return own
    # A sibling has taken this number. Use a number that such a sibling has given up, or else one
    # that is higher than all recorded ones.
    free = (
        part for part in parent.given_up if part not in parent.claimed and part not in unclaimed
    )
    above = itertools.count(max([parent.children, *numbers]) + 1)
    fresh = (part for n in above if (part := f"t{n}/") not in parent.claimed)
    return next(itertools.chain(free, fresh))


def _match_overlapping(
    history: History, scope: Scope, here: RecordedStep, fingerprint: str
) -> RecordedStep:
    """The recorded step for this request, among steps that overlapped.

    Such steps may be asked for in another order on a resume. The first unmatched step of the
    group with an equal fingerprint is taken, so the k-th of equal requests gets the k-th record.
    """
    if here.fingerprint == fingerprint and here.ident not in scope.matched:
        return here
    first = last = scope.position
    while _is_overlapping(history, scope, first):
        first -= 1
    while _is_overlapping(history, scope, last + 1):
        last += 1
    for position in range(first, last + 1):
        known = history.steps.get(f"{scope.path}{position}")
        if known and known.fingerprint == fingerprint and known.ident not in scope.matched:
            return known
    return here


def _is_overlapping(history: History, scope: Scope, position: int) -> bool:
    known = history.steps.get(f"{scope.path}{position}")
    return known is not None and known.overlapping
