"""One model call from request to response, written once for sync and async.

::

    open the step ── recorded ─────────────────────────────▶ return the recorded reply
        │  └─────── running at the provider ───────────────▶ resume it (`background.py`)
        ▼
    intent durable ── an earlier attempt's reply came late ▶ record and return it
        │  ▲
        ▼  │ wait
      send ┘ failed for now, and attempts are left
        │
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
from agentrun.core.recorder import CallFailed, Flaw, ModelReply, ModelRequest, ModelStep, Recorder
from agentrun.models.background import BackgroundMode
from agentrun.models.background_response import BackgroundClient, ResponseLost
from agentrun.models.background_support import can_run_in_background
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
from agentrun.models.request import read_request, with_fields
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

__all__ = ["ModelCall"]

# The body and the final transport error of the last call of this task or thread, by which an SDK's
# own retry of that call is recognised (see `_repeated_error`).
_last_error: ContextVar[tuple[bytes, tuple[str, str]] | None] = ContextVar("gave_up", default=None)


@dataclass(frozen=True, slots=True)
class _AttemptResult:
    """The result of one attempt; ``reply`` is None while a stream is being read."""

    reply: ModelReply | None
    response: Any = None
    failure: CallFailed | None = None  # set if another attempt may succeed
    headers: Mapping[str, str] = field(default_factory=dict)
    unreached: CallFailed | None = None  # set if the provider was not reached: nothing was sent
    unread: ResponseBody | None = None  # a begun stream; closed if another attempt follows


@dataclass(frozen=True)
class ModelCall:
    """One request of the HTTP module ``hx`` that is a model call inside a run."""

    hx: Any
    request: Any
    send: Callable[[Any], Op[Any]]  # performs one attempt with a request
    stream: Callable[[ResponseBody], Any]  # makes this transport's byte stream of a body
    policy: RetryPolicy
    background: bool = False  # use background mode where the provider has it
    sdk: bool = False  # the client is a provider's SDK, whatever its headers say

    @cached_property
    def model_request(self) -> ModelRequest:
        """The request as it is recorded; its body must be in memory."""
        request = read_request(self.hx, self.request, sdk=self.sdk)
        assert request is not None, "the transport found that it is a model call"
        return request

    @cached_property
    def masks(self) -> bool:
        """Whether the reply may hold arguments that must never be stored."""
        return may_hold_masked(self.model_request)

    def run(self, recorder: Recorder) -> Flow[Any]:
        """The response for the client; raises the exception that the client should get."""
        if not isinstance(self.request.stream, self.hx.ByteStream):
            # An upload stream can be read only once; from memory it can be sent again.
            yield Op(self.request.read, self.request.aread)
        if error := _repeated_error(self.hx, self.request):
            raise error
        _last_error.set(None)  # the SDK went on to another call
        step = yield from recorder.open_model_step(self.model_request)
        if step.recorded is not None:
            return self._rebuild(step.recorded)
        # The key helps gateways and audits; no provider promises to honour it. A key that the user
        # set is kept. Where the client retries by itself, the client must choose the key.
        if self.policy.ours:
            self.request.headers.setdefault("Idempotency-Key", step.key)
        try:
            return (yield from self._attempt_until_final(step))
        except BaseException:
            step.abandon_attempt()
            raise

    def _attempt_until_final(self, step: ModelStep) -> Flow[Any]:
        failures = step.prior_failures
        intent_stands = False  # an open intent under which nothing was sent yet
        while True:
            under_way = step.accepted
            if under_way is not None:
                yield from step.pick_up()
            elif not intent_stands and (late := (yield from step.attempt())) is not None:
                step.finish(late)
                return self._rebuild(late)
            result = yield from self._attempt(step, under_way)
            if result.unreached is not None:
                intent = yield from step.await_provider(result.unreached, self.policy.patience)
                if intent is None:
                    return self._finish(step, result)
                intent_stands = intent == "stands"
                continue
            intent_stands = False
            wait = self.policy.wait(failures, result.headers)
            if under_way is not None:  # the resumed response failed: the next attempt is no retry
                wait = 0.0
            if result.failure is None or wait is None:
                return self._finish(step, result)
            if result.unread is not None:
                yield from result.unread.close()
            step.record_failure(result.failure, wait)
            failures += 1
            if wait <= LONGEST_WAIT_IN_PLACE:
                yield pause(wait)

    def _attempt(self, step: ModelStep, under_way: str | None) -> Flow[_AttemptResult]:
        try:
            response, source = yield from self._open(step, under_way)
        except self.hx.RequestError as error:
            return self._transport_failure(error, billed=False)
        except ResponseLost as lost:
            return self._lost_response(lost)
        try:
            if can_stream(self.model_request, response) and not self.masks:
                return (yield from self._start_stream(step, response, source))
            return (yield from self._read_whole(response, source))
        except self.hx.RequestError as error:
            yield from source.close()
            return self._transport_failure(error, billed=response.status_code < 400)
        except ResponseLost as lost:
            yield from source.close()
            return self._lost_response(lost)
        except BaseException:
            yield from source.close()
            raise

    def _open(self, step: ModelStep, under_way: str | None) -> Flow[tuple[Any, ResponseBody]]:
        """Send or resume the request: the response, and the source of its bytes."""
        limit = {} if step.cap is None else capped_fields(self.model_request, step.cap)
        client = BackgroundClient(self.hx, self.model_request, self.request, self.send, step)
        background = BackgroundMode(client, self.stream)
        if under_way is not None:
            return (yield from background.resume(under_way))
        if self.background and can_run_in_background(self.model_request):
            begun = yield from background.begin(limit)
            if begun is not None:
                return begun
        request = with_fields(self.hx, self.request, limit) if limit else self.request
        response = yield from send_request(self.send, request)
        return response, WireBody(response.stream)

    def _start_stream(
        self, step: ModelStep, response: Any, source: ResponseBody
    ) -> Flow[_AttemptResult]:
        builder = ReplyBuilder(self.model_request, response, stream=True)
        inflate = Inflater(self.hx, response)
        live = LiveBody(self.hx, step, source, builder, inflate, lenient=not self.policy.ours)
        flaw = (yield from live.prime()) if self.policy.ours else None
        # Changed in place: code that holds this response (openai's tests do) must see it closed.
        response.stream = self.stream(live)
        failure = self._failure_of_flaw(flaw, response)
        return _AttemptResult(None, response, failure, dict(response.headers), unread=source)

    def _read_whole(self, response: Any, source: ResponseBody) -> Flow[_AttemptResult]:
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
        return _AttemptResult(reply, response, failure, dict(response.headers))

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

    def _transport_failure(self, error: Exception, *, billed: bool) -> _AttemptResult:
        name = error_name(self.hx, error)
        failure = CallFailed(name, billed=billed, detail=str(error))
        reply = make_failed_reply(self.hx, self.model_request, error)
        if self.policy.ours and is_unreached(name, str(error)):
            return _AttemptResult(reply, unreached=failure)
        return _AttemptResult(reply, None, failure if is_retryable_error(name) else None)

    def _lost_response(self, lost: ResponseLost) -> _AttemptResult:
        """The result for a background response that failed, or was unreadable for too long."""
        error = self.hx.ReadError(str(lost))
        failure = CallFailed("ResponseLost", billed=True, detail=str(lost)) if lost.again else None
        return _AttemptResult(make_failed_reply(self.hx, self.model_request, error), None, failure)

    def _finish(self, step: ModelStep, result: _AttemptResult) -> Any:
        """Record the outcome, then return the response or raise the transport error."""
        if result.reply is not None:
            step.finish(result.reply)
            if result.response is None:
                raise self._transport_error(result.reply)
        return self._forbid_sdk_retry(result.response)

    def _rebuild(self, reply: ModelReply) -> Any:
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


def _repeated_error(hx: Any, request: Any) -> Exception | None:
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
