"""Requests about a background response: poll it, stream its events, cancel it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

from agentrun.core.errors import Interrupt, JournalLost, LeaseLost
from agentrun.core.events import Json
from agentrun.core.flow import Flow, Op, pause
from agentrun.core.log import logger
from agentrun.core.parse import parse_json
from agentrun.core.recorder import ModelRequest, ModelStep
from agentrun.models.background_support import mark_unsupported
from agentrun.models.reply import decode_body, is_event_stream
from agentrun.models.response_body import WireBody, read_all, send_request
from agentrun.models.retries import is_retryable_status

__all__ = [
    "BODY_HEADERS",
    "SHORTEST_POLL_WAIT",
    "BackgroundClient",
    "ResponseLost",
    "ResponseState",
]

T = TypeVar("T")

FINISHED = ("completed", "incomplete", "failed", "cancelled")

# Seconds between two polls: a tenth of the call's age, but within these limits.
SHORTEST_POLL_WAIT, LONGEST_POLL_WAIT = 0.2, 60.0
LONGEST_UNREACHABLE_WAIT = 5.0  # between two polls while the provider cannot be reached
# After so many seconds without a readable poll the call is given up.
UNREACHABLE_PATIENCE = 600.0
# Seconds before each try to continue a stream; after the last one the response is polled.
RECONNECT_WAITS = (0.0, 0.5, 2.0)

BODY_HEADERS = frozenset(
    {b"content-encoding", b"content-length", b"content-type", b"transfer-encoding"}
)
HEADERS_NOT_COPIED = BODY_HEADERS | {b"accept-encoding", b"idempotency-key"}


class ResponseLost(Exception):
    """A background response cannot be read.

    ``again``: it will never be readable, so only a new attempt can get an answer. If false, the
    response may still be finished and billed at the provider, and no new attempt is made.
    """

    def __init__(self, message: str, *, again: bool) -> None:
        super().__init__(message)
        self.again = again


@dataclass(frozen=True, slots=True)
class ResponseState:
    """A response as one poll found it: the HTTP response, its bytes, and the parsed body."""

    response: Any
    wire: bytes
    body: dict[str, Json]

    @property
    def status(self) -> str:
        return str(self.body["status"])

    def to_error(self) -> ResponseLost:
        """The error for a response that ended without an answer."""
        error = self.body.get("error")
        message = error.get("message") if isinstance(error, dict) else None
        fate = f"response {self.body.get('id')} was {self.status} at the provider"
        return ResponseLost(f"{fate}: {message}" if message else fate, again=True)


@dataclass(frozen=True, slots=True)
class BackgroundClient:
    """Sends the requests about the background response of one model call."""

    hx: Any
    model_request: ModelRequest
    request: Any  # the agent's HTTP request; the other requests reuse its URL and headers
    send: Callable[[Any], Op[Any]]
    step: ModelStep

    def background_id(self, body: Json) -> str | None:
        """The id of a response that runs in the background; None if this one does not."""
        if not isinstance(body, dict):
            return None
        if body.get("background") is not True:
            mark_unsupported(
                self.model_request, "the provider does not say that it works in the background"
            )
            return None
        identifier = body.get("id")
        going_on = body.get("status") in ("queued", "in_progress")
        return identifier if going_on and isinstance(identifier, str) else None

    def record_id(self, identifier: str) -> Flow[None]:
        """Make the id durable.

        If another worker has taken over the run, that worker does not know this id and would never
        read the response, so the response is cancelled.
        """
        try:
            yield from self.step.accept(identifier)
        except LeaseLost as lost:
            if not isinstance(lost, JournalLost):  # then this worker may record the id again
                yield from self._cancel(identifier)
            raise

    def poll(self, identifier: str, *, once: bool = False) -> Flow[ResponseState]:
        """The response once it is finished; with ``once``, as it is now.

        Raises ResponseLost, and Interrupt when the run may not go on.
        """
        silent = 0.0
        while True:
            self.step.check()
            state = yield from self._poll_once(identifier)
            if not isinstance(state, str):
                if once or state.status in FINISHED:
                    return state
                silent = 0.0
            elif silent >= UNREACHABLE_PATIENCE:
                raise ResponseLost(f"response {identifier} cannot be read: {state}", again=False)
            wait = min(max(SHORTEST_POLL_WAIT, self.step.age / 10), LONGEST_POLL_WAIT)
            if isinstance(state, str):
                wait = min(wait, LONGEST_UNREACHABLE_WAIT)
                yield pause(wait)
                silent += wait
            else:
                yield from self.step.wait_to_poll(wait, identifier)

    def cancel_on_interrupt(self, identifier: str, flow: Flow[T]) -> Flow[T]:
        """Run ``flow``; if the run is cancelled meanwhile, cancel the response too."""
        try:
            return (yield from flow)
        except (Interrupt, asyncio.CancelledError):
            yield from self.cancel_if_unwanted(identifier)
            raise

    def _poll_once(self, identifier: str) -> Flow[ResponseState | str]:
        """Poll once: the response, or a text that says why it could not be read now."""
        try:
            response = yield from self._send_about(identifier)
            wire = b"".join((yield from read_all(WireBody(response.stream))))
            body = parse_json(decode_body(self.hx, response, wire))
        except self.hx.RequestError as error:
            return f"{type(error).__name__}: {error}"
        if response.status_code == 404:
            raise ResponseLost(f"the provider knows no response {identifier}", again=True)
        if response.status_code < 400 and isinstance(body, dict) and "status" in body:
            return ResponseState(response, wire, body)
        why = f"the provider answered {response.status_code}"
        if response.status_code >= 400 and not is_retryable_status(response.status_code, {}):
            raise ResponseLost(f"response {identifier} cannot be read: {why}", again=False)
        return why

    def open_stream(self, identifier: str, after: int) -> Flow[Any | None]:
        """A stream of the events after number ``after``; None if the provider gives none."""
        query = {"stream": "true"} | ({"starting_after": str(after)} if after >= 0 else {})
        for wait in RECONNECT_WAITS:
            yield pause(wait)
            try:
                response = yield from self._send_about(identifier, **query)
            except self.hx.RequestError:
                continue
            if response.status_code < 400 and is_event_stream(response):
                return response
            yield from WireBody(response.stream).close()
            if not is_retryable_status(response.status_code, {}):
                return None
        return None

    def cancel_if_unwanted(self, identifier: str) -> Flow[None]:
        """Cancel the response at the provider if the run no longer wants it."""
        if self.step.unwanted:
            yield from self._cancel(identifier)

    def _cancel(self, identifier: str) -> Flow[None]:
        """Try to cancel the response; a failure is only logged."""
        try:
            response = yield from self._send_about(identifier, method="POST", action="/cancel")
            yield from read_all(WireBody(response.stream))
            why = f"HTTP {response.status_code}" if response.status_code >= 400 else ""
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        if why:
            logger.warning("response %s could not be cancelled: %s", identifier, why)

    def _send_about(
        self, identifier: str, method: str = "GET", action: str = "", **query: str
    ) -> Flow[Any]:
        """Send a request about the response, with the agent's own credentials."""
        url = self.request.url
        url = url.copy_with(path=f"{url.path.rstrip('/')}/{quote(identifier, safe='')}{action}")
        headers = [h for h in self.request.headers.raw if h[0].lower() not in HEADERS_NOT_COPIED]
        request = self.hx.Request(
            method,
            url.copy_merge_params(query),
            headers=[*headers, (b"Accept-Encoding", b"identity")],
            content=b"",
            extensions=self.request.extensions,
        )
        return (yield from send_request(self.send, request, "follow"))
