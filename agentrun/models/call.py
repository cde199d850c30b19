"""One model call from request to response, written once for sync and async.

::

    open the step ── recorded ──────────────────────────────▶ hand out again
        │  └─────── under way at the provider ──────────────▶ pick it up (`background.py`)
        ▼
    intent durable ── a late reply turned up ───────────────▶ record, hand out
        │  ▲
        ▼  │ wait
      send ┘ failed, may go away, attempts left
        │
        ├─ whole body read: its outcome is recorded ────────▶ hand on
        └─ a stream begins: recorded on its way (`Live`) ───▶ hand on

Only errors of the HTTP library (``RequestError``) are outcomes. Anything else that comes out of a
transport, a cancelled task included, leaves the attempt open: the next owner tries again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from agentrun.core.flow import Flow, Op
from agentrun.core.recorder import CallFailed, ModelReply, ModelRequest, ModelStep, Recorder
from agentrun.models.background import Background
from agentrun.models.body import NOT_WHOLE, Body, Live, Source, Stored, drained, sent
from agentrun.models.lacking import suits
from agentrun.models.quote import capped
from agentrun.models.remote import Lost, Remote
from agentrun.models.reply import (
    Inflater,
    Tape,
    decoded,
    error_name,
    failed_reply,
    flows,
    rebuilt_error,
    tape_all,
)
from agentrun.models.request import rewritten
from agentrun.models.retry import BRIEF, RetryPolicy, pause, retryable_error, retryable_status

__all__ = ["Call", "repeated_error"]

# The body and the transport error of the last call of this task or thread that gave up, so that
# an SDK's own retry of it is recognised (see `repeated_error`).
_gave_up: ContextVar[tuple[bytes, tuple[str, str]] | None] = ContextVar("gave_up", default=None)


@dataclass(frozen=True, slots=True)
class _Answer:
    """How one attempt went; ``reply`` is None for a stream that is being handed on."""

    reply: ModelReply | None
    response: Any = None
    failure: CallFailed | None = None  # set if another attempt may do better
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """One request of the HTTP module ``hx`` that is a model call inside a run."""

    hx: Any
    asked: ModelRequest
    request: Any
    send: Callable[[Any], Op[Any]]  # performs one attempt with a request
    stream: Callable[[Body], Any]  # a body as the byte stream of this transport
    policy: RetryPolicy
    background: bool = False  # the provider is to finish it whether or not we listen, if it can

    def run(self, recorder: Recorder) -> Flow[Any]:
        """The response to hand to the client; raises what the client is to see."""
        _gave_up.set(None)  # it speaks of the last call only
        step = yield from recorder.open_model_step(self.asked)
        if step.recorded is not None:
            return self._rebuilt(step.recorded)
        # Helps gateways and audits; no provider promises to honour it. The user's own wins, and
        # who retries says what is the same call.
        if self.policy.ours:
            self.request.headers.setdefault("Idempotency-Key", step.key)
        try:
            return (yield from self._until_answered(step))
        except BaseException:
            step.left()
            raise

    def _until_answered(self, step: ModelStep) -> Flow[Any]:
        failures = step.prior_failures
        while True:
            under_way = step.accepted
            if under_way is not None:
                yield from step.pick_up()
            elif (late := (yield from step.attempt())) is not None:
                step.finish(late)
                return self._rebuilt(late)
            answer = yield from self._attempt(step, under_way)
            wait = self.policy.wait(failures, answer.headers)
            if under_way is not None:  # what became of it is known now: no retry, but a beginning
                wait = 0.0
            if answer.failure is None or wait is None:
                return self._final(step, answer)
            step.failed(answer.failure, wait)
            failures += 1
            if wait <= BRIEF:
                yield pause(wait)

    def _attempt(self, step: ModelStep, under_way: str | None) -> Flow[_Answer]:
        try:
            response, source = yield from self._opened(step, under_way)
        except self.hx.RequestError as error:
            return self._lost(error, billed=False)
        except Lost as lost:
            return self._missing(lost)
        try:
            if flows(self.asked, response):
                return (yield from self._live(step, response, source))
            return (yield from self._plain(response, source))
        except self.hx.RequestError as error:
            yield from source.close()
            return self._lost(error, billed=response.status_code < 400)
        except Lost as lost:
            yield from source.close()
            return self._missing(lost)
        except BaseException:
            yield from source.close()
            raise

    def _opened(self, step: ModelStep, under_way: str | None) -> Flow[tuple[Any, Body]]:
        """The response of an attempt, and where its bytes come from."""
        limit = {} if step.cap is None else capped(self.asked, step.cap)
        remote = Remote(self.hx, self.asked, self.request, self.send, step)
        background = Background(remote, self.stream)
        if under_way is not None:
            return (yield from background.resume(under_way))
        if self.background and suits(self.asked):
            begun = yield from background.begin(limit)
            if begun is not None:
                return begun
        request = rewritten(self.hx, self.request, limit) if limit else self.request
        response = yield from sent(self.send, request)
        return response, Source(response.stream)

    def _live(self, step: ModelStep, response: Any, source: Body) -> Flow[_Answer]:
        tape = Tape(self.asked, response, stream=True)
        inflate = Inflater(self.hx, response)
        live = Live(self.hx, step, source, tape, inflate, lenient=not self.policy.ours)
        if self.policy.ours:
            yield from live.prime()
        # In place: whoever holds this response (tests of openai do) must see it closed.
        response.stream = self.stream(live)
        return _Answer(None, response)

    def _plain(self, response: Any, source: Body) -> Flow[_Answer]:
        pieces = yield from drained(source)
        reply = self._whole(response, b"".join(pieces))
        response.stream = self.stream(Stored(pieces))
        failure = None
        if retryable_status(reply.status, response.headers):
            failure = CallFailed(
                f"HTTP {reply.status}",
                status=reply.status,
                detail=reply.body,
                headers=dict(response.headers),
            )
        return _Answer(reply, response, failure, dict(response.headers))

    def _whole(self, response: Any, wire: bytes) -> ModelReply:
        """The reply that these bytes are; raises a transport error if they are none.

        Left to the client, that is for it to find: the bytes are handed on as they came.
        """
        try:
            tape = tape_all(self.asked, response, decoded(self.hx, response, wire))
        except self.hx.DecodingError as error:
            if self.policy.ours:
                raise
            broken = Tape(self.asked, response, stream=False)
            return broken.reply("cut", (error_name(self.hx, error), str(error)))
        if tape.ended or not (self.asked.stream and tape.stream):
            return tape.reply()
        if self.policy.ours:
            raise self.hx.RemoteProtocolError(NOT_WHOLE)
        return tape.reply("cut")

    def _lost(self, error: Exception, *, billed: bool) -> _Answer:
        name = error_name(self.hx, error)
        failure = CallFailed(name, billed=billed, detail=str(error))
        reply = failed_reply(self.hx, self.asked, error)
        return _Answer(reply, None, failure if retryable_error(name) else None)

    def _missing(self, lost: Lost) -> _Answer:
        """What the provider took on will not come, or could not be read for long."""
        error = self.hx.ReadError(str(lost))
        failure = CallFailed("ResponseLost", billed=True, detail=str(lost)) if lost.again else None
        return _Answer(failed_reply(self.hx, self.asked, error), None, failure)

    def _final(self, step: ModelStep, answer: _Answer) -> Any:
        """Record the outcome, then hand it on."""
        if answer.reply is not None:
            step.finish(answer.reply)
            if answer.response is None:
                raise self._refusal(answer.reply)
        return self._told_final(answer.response)

    def _rebuilt(self, reply: ModelReply) -> Any:
        """A recorded reply as the response it was."""
        if reply.status == 0:
            raise self._refusal(reply)
        after = rebuilt_error(self.hx, reply.error) if reply.error else None
        response = self.hx.Response(
            reply.status,
            headers=[(k.encode("latin-1"), v.encode("latin-1")) for k, v in reply.headers],
            stream=self.stream(Stored([reply.raw], after)),
            extensions={"http_version": b"HTTP/1.1"},
        )
        return self._told_final(response)

    def _refusal(self, reply: ModelReply) -> Exception:
        """The recorded transport error, to be raised now."""
        error = reply.error or ("TransportError", "the recorded call has no response")
        if self.policy.ours:
            _gave_up.set((self.request.content, error))
        return rebuilt_error(self.hx, error)

    def _told_final(self, response: Any) -> Any:
        """An error that was retried as often as it may: the SDK must not begin again."""
        if response.status_code >= 400 and self.policy.ours:
            response.headers["x-should-retry"] = "false"
        return response


def repeated_error(hx: Any, request: Any) -> Exception | None:
    """The error that this request has been told already, if an SDK retries on its own.

    A response can carry ``x-should-retry: false``; a transport error cannot, so an SDK whose
    retries were switched on again (``with_options(max_retries=3)``) comes back once more.
    """
    last = _gave_up.get()
    if last is None or request.headers.get("x-stainless-retry-count", "0") == "0":
        return None
    body, error = last
    return rebuilt_error(hx, error) if body == request.content else None
