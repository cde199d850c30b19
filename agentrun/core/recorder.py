"""The interface between the HTTP transport (room `models`) and the run (room `steps`).

The two rooms do not import each other. The transport finds the recorder of the calling code in the
context variable `current`. It opens a step for each model call. If the step has a recorded reply,
the transport returns that. Otherwise it performs attempts and reports the result of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, Protocol

from agentrun.core.events import Json, Usage
from agentrun.core.flow import Flow, Op

Ending = Literal["complete", "abandoned", "cut"]


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One model call as the provider would see it, without credentials.

    ``canonical`` is the body without the fields that clients randomise (``prompt_cache_key``,
    ``metadata``, ``user``, …). The fingerprint is computed from it.

    For an upload, ``body`` has a claim check in place of each file, and ``attached`` has the bytes.
    A ``signed`` request must be sent unchanged.
    """

    api: str  # "chat.completions", "images.edits", …: `core.apis`, `agentrun.models.endpoints`
    method: str
    url: str  # scheme, host, path and query
    body: Json
    canonical: Json
    stream: bool
    model: str | None = None
    attached: tuple[bytes, ...] = ()
    signed: bool = False

    @property
    def is_lookup(self) -> bool:
        """Whether the request only looks something up, and so has no effect."""
        return self.method == "GET"

    @property
    def asks_model(self) -> bool:
        """Whether the request may ask a model, and does not only look up or delete something."""
        return self.method not in ("GET", "DELETE")


@dataclass(frozen=True, slots=True)
class Flaw:
    """The reason why a response with a good status is not a usable answer."""

    text: str
    again: bool = True  # another attempt may succeed
    billed: bool = True  # the provider may charge for the response


@dataclass(frozen=True, slots=True)
class ModelReply:
    """Everything that is needed to return a reply again, byte for byte.

    ``raw`` has the content-decoded bytes that reached the caller. ``body`` is the same as JSON: the
    parsed body, or for a stream the message that a call without streaming would have returned.
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
    flaw: Flaw | None = None
    reason: str | None = None  # the phrase beside the status; None: the client's own
    http: str = "HTTP/1.1"

    @property
    def answers(self) -> bool:
        """Whether this is a usable answer: complete, or as much of it as the code has read."""
        return 0 < self.status < 400 and self.ending != "cut" and self.flaw is None

    @property
    def began_earlier(self) -> bool:
        """Whether an earlier request with the same key began the call, according to a gateway."""
        answers = [value for name, value in self.headers if name.lower() == "agentrun-answer"]
        return answers in (["stored"], ["shared"])


@dataclass(frozen=True, slots=True)
class CallFailed:
    """The failure of an attempt: an HTTP status, or the name of a transport error."""

    reason: str
    status: int | None = None
    billed: bool = False  # an answer began to arrive, so the attempt may have been charged
    headers: Mapping[str, str] = field(default_factory=dict)
    detail: Json = field(default=None)


class OpenReply(Protocol):
    """A reply whose stream is being read by the code."""

    def partial_body(self) -> Json:
        """The part that has arrived, as the body of a call without streaming."""
        ...

    def read_rest(self, asks: str) -> Op[None]:
        """The operation that reads the rest, which is then recorded; the code gets it later.

        ``asks`` says in an error who needs the reply.
        """
        ...


class ModelStep(Protocol):
    """One model call inside a run."""

    @property
    def recorded(self) -> ModelReply | None:
        """The recorded reply. If there is one, return it and send nothing."""
        ...

    @property
    def key(self) -> str:
        """The idempotency key to send with every attempt."""
        ...

    @property
    def prior_failures(self) -> int:
        """How many attempts have failed so far, also before a crash. They count as retries."""
        ...

    @property
    def cap(self) -> int | None:
        """The limit in tokens that the sent request must set on its reply, or None.

        A budget requires the limit. Only the provider gets it: the recorded request, which
        a resume compares, stays as the code made it.
        """
        ...

    @property
    def accepted(self) -> str | None:
        """The id of the background response of the open attempt: follow it and send nothing."""
        ...

    @property
    def unwanted(self) -> bool:
        """Whether the rest of the answer is not needed: the run was cancelled, or the step has
        its outcome."""
        ...

    def attempt(self) -> Flow[ModelReply | None]:
        """Make the intent of the next attempt durable. Afterwards the request may be sent.

        Returns a reply if the late answer of an earlier attempt has arrived: then use that and send
        nothing. Raises Interrupt if the run must stop in this process.
        """
        ...

    def accept(self, identifier: str) -> Flow[None]:
        """Record that the provider works on this attempt in the background, under this id.

        The id is durable when this returns. Raises Interrupt if the run must stop in this process.
        """
        ...

    def pick_up(self) -> Flow[None]:
        """Continue the accepted attempt. Afterwards the provider may be asked for its response.

        Raises Interrupt if the run must stop in this process.
        """
        ...

    @property
    def age(self) -> float:
        """Seconds since the open attempt began, possibly in another process."""
        ...

    def wait_to_poll(self, seconds: float, identifier: str) -> Flow[None]:
        """Wait before the next lookup of the background response with this id.

        Raises Interrupt if the run must stop in this process, or parks for the wait.
        """
        ...

    def check(self) -> None:
        """Raise Interrupt if the run must stop in this process."""
        ...

    def record_failure(self, failure: CallFailed, retry_in: float) -> None:
        """Record that this attempt failed, and that another follows in ``retry_in`` seconds."""
        ...

    def await_provider(
        self, failure: CallFailed, patience: float
    ) -> Flow[Literal["stands", "anew"] | None]:
        """Wait until the provider can be reached. Nothing was sent in this attempt.

        Returns "stands" if the request may be sent again under the same intent, "anew" if a new
        attempt is needed, and None after ``patience`` seconds without a connection: then the caller
        records the failure as the outcome. Raises Interrupt if the run must stop in this process,
        or parks for the wait.
        """
        ...

    def publish_partial(self, so_far: Callable[[], Json]) -> None:
        """Publish the part of a stream that has arrived, which ``so_far`` returns. Never blocks."""
        ...

    def begin_stream(self, reply: OpenReply) -> None:
        """Remember that the code reads this reply, until the step has an outcome or is left."""
        ...

    def abandon_attempt(self) -> None:
        """Record that the calling code was interrupted. The attempt keeps no outcome."""
        ...

    def finish(self, reply: ModelReply) -> None:
        """Record the step's outcome. Call this before returning the last bytes. Never blocks."""
        ...


class Recorder(Protocol):
    """Records the model calls of one task or thread."""

    def open_model_step(self, request: ModelRequest) -> Flow[ModelStep]:
        """Begin or replay the step of this call. Raises Interrupt on a divergence."""
        ...

    @property
    def in_step(self) -> bool:
        """Whether the calling code is the body of a step, whose result is recorded."""
        ...


# The recorder of the calling code; None outside a run and while an effect is being performed.
current: ContextVar[Recorder | None] = ContextVar("agentrun_recorder", default=None)

# The base URL of a provider double to which all model calls of runs go. A crash test sets it in the
# processes that it kills. None: calls go to the provider in the request.
stand_in: str | None = None
