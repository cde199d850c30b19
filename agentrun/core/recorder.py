"""What the HTTP transport (room `models`) asks of the runner, without knowing it.

The transport finds the recorder of the calling code in `current`, opens a step for each model
call, and either hands out what is recorded or performs attempts and reports how they went.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, Protocol

from agentrun.core.events import Json, Usage
from agentrun.core.flow import Flow

Ending = Literal["complete", "abandoned", "cut"]


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One model call as the provider would see it, without credentials.

    ``canonical`` is the body less the fields that clients randomise (``prompt_cache_key``,
    ``metadata``, ``user``, …): the fingerprint is taken from it.
    """

    api: str  # "chat.completions", "responses", "messages", "embeddings"
    method: str
    url: str  # scheme, host, path and query
    body: Json
    canonical: Json
    stream: bool
    model: str | None = None


@dataclass(frozen=True, slots=True)
class ModelReply:
    """Everything needed to hand a reply out again, byte for byte.

    ``raw`` holds the content-decoded bytes that reached the caller. ``body`` is the same as
    JSON: the parsed body, or for a stream the folded message a plain call would have given.
    ``error`` is the transport error (class name, message) that followed ``raw``, if any.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    raw: bytes
    body: Json
    stream: bool = False
    ending: Ending = "complete"
    error: tuple[str, str] | None = None
    model: str | None = None
    usage: Usage | None = None

    @property
    def held(self) -> bool:
        """Whether a gateway says that an earlier request under the same key began the call."""
        told = [value for name, value in self.headers if name.lower() == "agentrun-answer"]
        return told in (["stored"], ["shared"])


@dataclass(frozen=True, slots=True)
class CallFailed:
    """Why an attempt failed: an HTTP status or the name of a transport error."""

    reason: str
    status: int | None = None
    billed: bool = False  # an answer began to arrive, so it may have been charged
    headers: Mapping[str, str] = field(default_factory=dict)
    detail: Json = field(default=None)


class ModelStep(Protocol):
    """One model call inside a run."""

    @property
    def recorded(self) -> ModelReply | None:
        """The recorded reply: hand it out and send nothing."""

    @property
    def key(self) -> str:
        """The idempotency key to send with every attempt."""

    @property
    def prior_failures(self) -> int:
        """How many attempts have failed already, before a crash too: they count as retries."""

    @property
    def cap(self) -> int | None:
        """The limit that the request must set on its reply, in tokens; None: as it is.

        A budget leaves no more. It is told to the provider only: what the step asks for, and is
        compared by on a resume, is the request as the code made it.
        """

    @property
    def accepted(self) -> str | None:
        """The id under which the provider works on the open attempt: pick it up, send nothing."""

    @property
    def unwanted(self) -> bool:
        """Whether nobody will use what is still to come: the run was cancelled, or the step has
        its outcome."""

    def attempt(self) -> Flow[ModelReply | None]:
        """Make the intent durable; afterwards the request may be sent.

        Returns a reply when an earlier attempt's answer turned up late: adopt it, send nothing.
        Raises Interrupt when the run may not go on here.
        """

    def accept(self, identifier: str) -> Flow[None]:
        """The provider works on this attempt by itself, under this id: durable when this returns.

        Raises Interrupt when the run may not go on here.
        """

    def pick_up(self) -> Flow[None]:
        """Go on with the accepted attempt: the provider may be asked for it.

        Raises Interrupt when the run may not go on here.
        """

    @property
    def age(self) -> float:
        """Seconds since the open attempt began, in whichever process that was."""

    def rest(self, seconds: float, identifier: str) -> Flow[None]:
        """Wait before the next look at what the provider works on by itself, under this id.

        Raises Interrupt when the run may not go on here, or waits elsewhere.
        """

    def check(self) -> None:
        """Raise Interrupt when the run may not go on here."""

    def failed(self, failure: CallFailed, retry_in: float) -> None:
        """This attempt failed and the transport will try again in ``retry_in`` seconds."""

    def tell(self, so_far: Callable[[], Json]) -> None:
        """More of a stream has come; ``so_far`` gives all of it. Never blocks."""

    def left(self) -> None:
        """The calling code was interrupted, and the attempt has no outcome."""

    def finish(self, reply: ModelReply) -> None:
        """The step's outcome; call it before the last bytes are handed on. Never blocks."""


class Recorder(Protocol):
    """Where model calls of the current task or thread are recorded."""

    def open_model_step(self, request: ModelRequest) -> Flow[ModelStep]:
        """Begin or replay the step that this call is. Raises Interrupt on divergence."""


# The recorder of the calling code; None outside a run and while an effect is being performed.
current: ContextVar[Recorder | None] = ContextVar("agentrun_recorder", default=None)

# Where model calls of a run go in place of the provider they are addressed to: a double's base URL,
# as a crash test sets it in the processes it kills. None: as addressed.
stand_in: str | None = None
