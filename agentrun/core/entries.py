"""The entries of a transcript: messages, steps with their attempts and doubts, resumes and notes.

They are plain frozen values. `core.folding` builds them, and the room `view` renders them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeAlias

from agentrun.core.events import Effect, Json, Kind, Usage, first_name
from agentrun.core.messages import Message
from agentrun.core.sharing import Packed
from agentrun.core.viewable import Viewable

__all__ = [
    "Attempt",
    "AttemptStatus",
    "Decision",
    "Doubt",
    "Entry",
    "Failure",
    "NewMessage",
    "Note",
    "Resume",
    "Step",
    "StepStatus",
]

Ended = Literal["ok", "error", "abandoned", "cancelled"]
AttemptStatus = Ended | Literal["failed", "unreached", "settled", "not_sent", "running", "unknown"]
StepStatus = Ended | Literal["unknown", "open", "running", "in_doubt"]


@dataclass(frozen=True, slots=True)
class Failure:
    """A recorded error: the name of its type, its message, and the traceback if Python raised it.

    The end of a traceback is kept, of up to 4,000 characters, and secrets in it are masked.

    Example:
        >>> failure = agentrun.transcript("ticket-42").error   # None: the run did not fail
    """

    type: str
    message: str
    traceback: str | None = field(default=None, compare=False)
    control_flow: bool = False  # a framework pauses or ends its agent with it: it is no failure

    @property
    def site(self) -> str | None:
        """Where it was raised: the innermost line that is in no library, as ``file:line in name``.

        It is the innermost line of all if every line is in a library, and None without a traceback.

        Example:
            >>> failure = agentrun.transcript("ticket-42").error
            >>> if failure is not None:
            ...     print(failure.site)
        """
        return None if self.traceback is None else _find_site(self.traceback)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a step.

    ``status`` is one of the outcomes of the step (``ok``, ``error``, ``abandoned``, ``cancelled``)
    or one of these:

    * ``failed``: the attempt failed, and another one follows;
    * ``unreached``: nothing was sent, because the provider could not be reached;
    * ``not_sent``: nothing was sent, because the run was stopped first, or because the late answer
      of an earlier attempt arrived;
    * ``running``: the attempt is under way;
    * ``unknown``: the intent has no outcome, and the worker has lost the run;
    * ``settled``: a decision about a doubt closed the attempt.

    Example:
        >>> last = agentrun.transcript("ticket-42").steps[-1].attempts[-1]
        >>> print(last.number, last.status)
        1 ok
    """

    number: int
    worker: str | None
    started_at: datetime | None
    ended_at: datetime | None = None
    status: AttemptStatus = "unknown"
    error: Failure | None = None
    reason: str | None = None
    retry_in: float | None = None  # seconds until the next try
    partial: str | None = None  # text of an interrupted stream, after which the call was repeated


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision about a doubt, an approval or a failed step: what, by whom and why.

    Example:
        >>> for step in agentrun.transcript("ticket-42").steps:
        ...     for decision in step.approvals:
        ...         print(step.name, decision.resolution, decision.decider)
    """

    resolution: str  # events.Resolution
    by: str | None
    reason: str | None
    at: datetime | None
    arguments: Json = None  # arguments that the person edited in an approval
    claimed_by: str | None = None  # who decided, according to the sender
    signed_by: str | None = None  # who signed the decision

    @property
    def decider(self) -> str:
        """Who decided: the signer, or else whom the sender names, or else the database user."""
        return first_name(self.signed_by, self.claimed_by, self.by)


@dataclass(frozen=True, slots=True)
class Doubt:
    """A `once` attempt whose outcome was unknown; ``decision`` is None while it is open.

    Example:
        >>> for step in agentrun.transcript("ticket-42").steps:
        ...     for doubt in step.doubts:
        ...         print(step.name, doubt.since, doubt.decision)
    """

    attempt: int
    since: datetime | None
    decision: Decision | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Step(Viewable):
    """One recorded unit: a model call, a tool call, a function, a wait, a child run.

    Example:
        >>> for step in agentrun.transcript("ticket-42").steps:
        ...     print(step.step, step.kind, step.name, step.status)
    """

    form = "step"

    step: int
    turn: int | None
    kind: Kind | None
    name: str
    status: StepStatus
    effect: Effect | None = None
    idempotency_key: str | None = None
    input: Json = None  # the arguments, or the settings of a model call (see `core.folding`)
    output: Json = None  # the result, or the reply of a model call
    error: Failure | None = None
    attempts: tuple[Attempt, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    approvals: tuple[Decision, ...] = ()
    reopened: tuple[Decision, ...] = ()
    started_at: datetime | None = None
    finished_at: datetime | None = None
    model: str | None = None
    usage: Usage | None = None
    set_aside: bool = False  # by an accepted divergence or a redo: not served on a resume
    possibly_billed: int = 0  # attempts of a model call that were interrupted without an answer
    masked: Json = None  # how much of input and output is masked, by kind; None: nothing
    ident: str = ""  # the place in the code: `core.identity`
    # The input of a model call, whole or as it is stored. Only `request` reads it, and no format
    # repeats it: each request of a conversation has all of the conversation in it.
    recorded_request: Json = field(default=None, repr=False, compare=False)

    @property
    def request(self) -> Json:
        """The exact JSON body of a model call's request; None for other steps.

        It is built anew at each access from what the steps before it hold. `input` has only its
        settings, and the messages that are new in it are entries of the transcript.

        Example:
            >>> for step in agentrun.transcript("ticket-42").steps:
            ...     if step.request is not None:
            ...         print(step.step, len(step.request["messages"]))
        """
        recorded = self.recorded_request
        if isinstance(recorded, Packed):
            recorded = recorded.unpack()
        return recorded.get("body") if isinstance(recorded, dict) else None

    @property
    def reply(self) -> Json:
        """The exact JSON body of the reply to a model call, or its text if it is no JSON.

        A stream is the body that the same call has without streaming. Of a text, the first 64 KiB
        are kept here. None without a reply.

        Example:
            >>> for step in agentrun.transcript("ticket-42").steps:
            ...     if step.kind == "model":
            ...         print(step.step, step.reply)
        """
        if self.kind != "model" or not isinstance(self.output, dict):
            return None
        body = self.output.get("body")
        return self.output.get("text") if body is None else body

    @property
    def failed(self) -> bool:
        """Whether it ended in an error that is not the control flow of a framework.

        Example:
            >>> for step in agentrun.transcript("ticket-42").steps:
            ...     if step.failed:
            ...         print(step.step, step.name, step.error)
        """
        return self.error is not None and not self.error.control_flow

    @property
    def failure_site(self) -> str | None:
        """The line of code that raised the error of this step: see `Failure.site`.

        Example:
            >>> for step in agentrun.transcript("ticket-42").steps:
            ...     if step.error is not None:
            ...         print(step.name, step.failure_site)
        """
        return None if self.error is None else self.error.site

    def __repr__(self) -> str:
        return f"<Step {self.step}: {self.kind} {self.name!r}, {self.status}>"

    @property
    def unpriced(self) -> bool:
        """True for an answered model call whose price is not known.

        A call that ended in an error and reports no tokens counts as free.
        """
        if self.kind != "model" or self.status not in ("ok", "abandoned", "error"):
            return False
        if self.effect == "read" and self.usage is None:  # a lookup of a background response
            return False
        if self.usage is None:
            return self.status != "error"
        return self.usage.cost is None


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message that is new in this model call: part of its request, or its reply.

    Example:
        >>> for entry in agentrun.transcript("ticket-42").entries:
        ...     if isinstance(entry, agentrun.NewMessage):
        ...         print(entry.message.role, entry.message.text)
    """

    step: int
    turn: int | None
    message: Message
    at: datetime | None
    echo: bool = False  # a tool message that only repeats the result of a recorded step


@dataclass(frozen=True, slots=True)
class Resume:
    """Another claim of the run: what was served from the journal, and what was repeated.

    Example:
        >>> for entry in agentrun.transcript("ticket-42").entries:
        ...     if isinstance(entry, agentrun.Resume):
        ...         print(entry.worker, entry.replayed, entry.saved)
    """

    worker: str | None
    at: datetime | None
    reason: str | None
    replayed: int  # finished steps that are served from the journal
    rerun: int  # open steps that were attempted again
    saved: Decimal  # US dollars of the replayed model calls, which are not paid again
    saved_unpriced: int  # replayed model calls whose price is not known
    in_doubt: int  # doubts raised by this resume


@dataclass(frozen=True, slots=True)
class Note:
    """An event of the run itself: parked, handed back, failed, …

    Example:
        >>> for entry in agentrun.transcript("ticket-42").entries:
        ...     if isinstance(entry, agentrun.Note):
        ...         print(entry.at, entry.text)
    """

    event: str
    at: datetime | None
    text: str
    step: int | None = None


# The lines of a traceback that name a place, and the paths of libraries in it.
_FRAME = re.compile(r'^[ |+-]*File "(.+)", line (\d+), in (.+)$', re.MULTILINE)
_LIBRARY = re.compile(
    r"/(?:site|dist)-packages/|/lib/python\d|^<frozen |"
    r"/agentrun/(?:api|core|integrations|lifecycle|models|steps|store|values)/"
)


def _find_site(traceback: str) -> str | None:
    # The traceback of a cause stands before that of the error.
    frames = _FRAME.findall(traceback.rpartition("Traceback (most recent call last)")[2])
    own = [frame for frame in frames if not _LIBRARY.search(frame[0].replace("\\", "/"))]
    found = (own or frames)[-1:]
    return f"{found[0][0]}:{found[0][1]} in {found[0][2]}" if found else None


Entry: TypeAlias = NewMessage | Step | Resume | Note
