"""The attempts of a model call, written once for sync and async.

::

        ┌────────┐
        ▼        │ wait: failed for now, and attempts are left
    intent durable ── an earlier attempt's reply came late ▶ record and return it
        │
        ▼
      send
        ├─ the whole body is read: record the outcome ─────▶ return the response
        ├─ a good status without an answer: failed, as above (returned once no attempt is left)
        └─ a stream begins: recorded as read (`LiveBody`) ─▶ return the response

A failure before anything was sent (no connection) uses up no attempt: the request is sent again
under the same intent, for minutes if need be.

Only errors of the HTTP library (``RequestError``) are outcomes. After any other exception, a
cancelled task included, the attempt stays open, and the next owner of the run tries again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from agentrun.core.flow import Flow, Op, pause
from agentrun.core.recorder import CallFailed, Flaw, ModelReply, ModelRequest, ModelStep
from agentrun.models.cost_estimate import capped_fields
from agentrun.models.masked_replies import mask_reply, may_hold_masked
from agentrun.models.reply import (
    ENCODING_HEADERS,
    Inflater,
    ReplyBuilder,
    build_whole,
    can_stream,
    decode_body,
    error_name,
    make_failed_reply,
    rebuild_error,
)
from agentrun.models.request import with_fields
from agentrun.models.response_body import (
    STREAM_CUT,
    LiveBody,
    ResponseBody,
    StoredBody,
    WireBody,
    read_all,
    send_request,
)
from agentrun.models.retries import (
    LONGEST_WAIT_IN_PLACE,
    RetryPolicy,
    is_retryable_error,
    is_retryable_status,
    is_unreached,
    should_retry,
)

__all__ = ["AttemptResult", "Attempts", "begin_call", "repeated_error"]

# The body and the final transport error of the last call of this task or thread, by which an SDK's
# own retry of that call is recognised (see `repeated_error`).
_last_error: ContextVar[tuple[bytes, tuple[str, str]] | None] = ContextVar("gave_up", default=None)


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """The result of one attempt; ``reply`` is None while a stream is being read."""

    reply: ModelReply | None
    response: Any = None
    failure: CallFailed | None = None  # set if another attempt may succeed
    headers: Mapping[str, str] = field(default_factory=dict)
    unreached: CallFailed | None = None  # set if the provider was not reached: nothing was sent
    unread: ResponseBody | None = None  # a begun stream; closed if another attempt follows


@dataclass
class Attempts:
    """The attempts of one model call, each answered on the connection that sends its request."""

    hx: Any  # the HTTP module
    request: Any
    model_request: ModelRequest  # the request as it is recorded
    send: Callable[[Any], Op[Any]]  # performs one attempt with a request
    stream: Callable[[ResponseBody], Any]  # makes this transport's byte stream of a body
    policy: RetryPolicy
    step: ModelStep

    @cached_property
    def masks(self) -> bool:
        """Whether the reply may hold arguments that must never be stored."""
        return may_hold_masked(self.model_request)

    def run(self) -> Flow[Any]:
        """Make attempts until one is final; return the response, or raise its transport error."""
        step = self.step
        failures = step.prior_failures
        intent_stands = False  # an open intent under which nothing was sent yet
        while True:
            if (late := (yield from self._begin(intent_stands))) is not None:
                step.finish(late)
                return self.rebuild(late)
            result = yield from self._attempt()
            if result.unreached is not None:
                intent = yield from step.await_provider(result.unreached, self.policy.patience)
                if intent is None:
                    return self._finish(result)
                intent_stands = intent == "stands"
                continue
            intent_stands = False
            if result.failure is None:
                return self._finish(result)
            wait = self._wait_after(failures, result)
            if wait is None:
                return self._finish(result)
            if result.unread is not None:
                yield from result.unread.close()
            step.record_failure(result.failure, wait)
            failures += 1
            if wait <= LONGEST_WAIT_IN_PLACE:
                yield pause(wait)

    def _begin(self, intent_stands: bool) -> Flow[ModelReply | None]:
        """Make the intent durable, if none stands; return an earlier attempt's late reply."""
        return None if intent_stands else (yield from self.step.attempt())

    def _wait_after(self, failures: int, result: AttemptResult) -> float | None:
        """Seconds before the next attempt after this one failed; None if none is left."""
        return self.policy.wait(failures, result.headers)

    def _attempt(self) -> Flow[AttemptResult]:
        try:
            response, source = yield from self._open()
        except self.hx.RequestError as error:
            return self._transport_failure(error, billed=False)
        try:
            if can_stream(self.model_request, response) and not self.masks:
                return (yield from self._start_stream(response, source))
            return (yield from self._read_whole(response, source))
        except self.hx.RequestError as error:
            yield from source.close()
            return self._transport_failure(error, billed=response.status_code < 400)
        except BaseException:
            yield from source.close()
            raise

    def _open(self) -> Flow[tuple[Any, ResponseBody]]:
        """Send the request: the response, and the source of its bytes."""
        limit = self._limit()
        request = with_fields(self.hx, self.request, limit) if limit else self.request
        response = yield from send_request(self.send, request)
        return response, WireBody(response.stream)

    def _limit(self) -> dict[str, Any]:
        """The fields by which a budget limits the reply."""
        return {} if self.step.cap is None else capped_fields(self.model_request, self.step.cap)

    def _start_stream(self, response: Any, source: ResponseBody) -> Flow[AttemptResult]:
        builder = ReplyBuilder(self.model_request, response, stream=True)
        inflate = Inflater(self.hx, response)
        live = LiveBody(self.hx, self.step, source, builder, inflate, lenient=not self.policy.ours)
        yield from live.begin()
        flaw = (yield from live.prime()) if self.policy.ours else None
        # Changed in place: code that holds this response (openai's tests do) must see it closed.
        response.stream = self.stream(live)
        failure = self._failure_of_flaw(flaw, response)
        return AttemptResult(None, response, failure, dict(response.headers), unread=source)

    def _read_whole(self, response: Any, source: ResponseBody) -> Flow[AttemptResult]:
        pieces = yield from read_all(source)
        if self.masks:
            pieces = [self._mask_body(response, b"".join(pieces))]
        reply = self._make_reply(response, b"".join(pieces))
        if "content-encoding" in response.headers and self.policy.ours:
            # A resume has only the decoded bytes. So the client gets those, and fitting headers.
            pieces = [reply.raw]
            for header in ENCODING_HEADERS & set(response.headers):
                del response.headers[header]
        response.stream = self.stream(StoredBody(pieces))
        failure = self._failure_of_flaw(reply.flaw, response)
        if is_retryable_status(reply.status, response.headers):
            failure = CallFailed(
                f"HTTP {reply.status}",
                status=reply.status,
                detail=reply.body,
                headers=dict(response.headers),
            )
        return AttemptResult(reply, response, failure, dict(response.headers))

    def _mask_body(self, response: Any, wire: bytes) -> bytes:
        """The body without arguments that must never be stored; its headers are adapted."""
        try:
            content = decode_body(self.hx, response, wire)
        except self.hx.DecodingError:
            return wire  # `_make_reply` raises the same error
        masked = mask_reply(response.headers.get("content-type", ""), content)
        if masked is content:
            return wire
        for header in ENCODING_HEADERS & set(response.headers):
            del response.headers[header]
        return masked

    def _failure_of_flaw(self, flaw: Flaw | None, response: Any) -> CallFailed | None:
        """The failure for a response with a good status and no answer, if a retry may help."""
        if flaw is None or not should_retry(flaw.again, response.headers):
            return None
        headers = dict(response.headers)
        return CallFailed("NoAnswer", billed=flaw.billed, headers=headers, detail=flaw.text)

    def _make_reply(self, response: Any, wire: bytes) -> ModelReply:
        """The reply in these bytes; raises a transport error if they are not a whole reply.

        Where the client retries by itself, no error is raised: the bytes are recorded and handed on
        unchanged, and the client finds the error.
        """
        try:
            builder = build_whole(
                self.model_request, response, decode_body(self.hx, response, wire)
            )
        except self.hx.DecodingError as error:
            if self.policy.ours:
                raise
            broken = ReplyBuilder(self.model_request, response, stream=False)
            return broken.reply("cut", (error_name(self.hx, error), str(error)))
        if builder.ended or not (self.model_request.stream and builder.stream):
            return builder.reply()
        if self.policy.ours:
            raise self.hx.RemoteProtocolError(STREAM_CUT)
        return builder.reply("cut")

    def _transport_failure(self, error: Exception, *, billed: bool) -> AttemptResult:
        name = error_name(self.hx, error)
        failure = CallFailed(name, billed=billed, detail=str(error))
        reply = make_failed_reply(self.hx, self.model_request, error)
        if self.policy.ours and is_unreached(name, str(error)):
            return AttemptResult(reply, unreached=failure)
        return AttemptResult(reply, None, failure if is_retryable_error(name) else None)

    def _finish(self, result: AttemptResult) -> Any:
        """Record the outcome, then return the response or raise the transport error."""
        if result.reply is not None:
            self.step.finish(result.reply)
            if result.response is None:
                raise self._transport_error(result.reply)
        return self._forbid_sdk_retry(result.response)

    def rebuild(self, reply: ModelReply) -> Any:
        """Make an HTTP response of a recorded reply."""
        if reply.status == 0:
            raise self._transport_error(reply)
        after = rebuild_error(self.hx, reply.error) if reply.error else None
        extensions = {"http_version": reply.http.encode("latin-1")}
        if reply.reason is not None:
            extensions["reason_phrase"] = reply.reason.encode("latin-1")
        response = self.hx.Response(
            reply.status,
            headers=[(k.encode("latin-1"), v.encode("latin-1")) for k, v in reply.headers],
            stream=self.stream(StoredBody([reply.raw], after)),
            extensions=extensions,
        )
        return self._forbid_sdk_retry(response)

    def _transport_error(self, reply: ModelReply) -> Exception:
        """The recorded transport error as an exception."""
        error = reply.error or ("TransportError", "the recorded call has no response")
        if self.policy.ours:
            _last_error.set((self.request.content, error))
        return rebuild_error(self.hx, error)

    def _forbid_sdk_retry(self, response: Any) -> Any:
        """Mark an error response as final, so that the SDK does not retry it once more."""
        if response.status_code >= 400 and self.policy.ours:
            response.headers["x-should-retry"] = "false"
        return response


def repeated_error(hx: Any, request: Any) -> Exception | None:
    """The error that this request already got, if this is an SDK's own retry of it.

    A response can carry ``x-should-retry: false``; a transport error cannot. So an SDK whose
    retries were switched on again (``with_options(max_retries=3)``) sends the request again, and
    gets the same error at once.
    """
    last = _last_error.get()
    if last is None or request.headers.get("x-stainless-retry-count", "0") == "0":
        return None
    body, error = last
    return rebuild_error(hx, error) if body == request.content else None


def begin_call() -> None:
    """Forget the last call's error: the SDK went on to another call."""
    _last_error.set(None)
