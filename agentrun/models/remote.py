"""A response that its provider works on by itself, and the requests about it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

from agentrun.core.errors import Interrupt, JournalLost, LeaseLost
from agentrun.core.events import Json
from agentrun.core.flow import Flow, Op
from agentrun.core.log import logger
from agentrun.core.parse import parsed
from agentrun.core.recorder import ModelRequest, ModelStep
from agentrun.models.body import Source, drained, sent
from agentrun.models.lacking import lacks
from agentrun.models.reply import decoded, is_event_stream
from agentrun.models.retry import pause, retryable_status

__all__ = ["OF_THE_BODY", "SOONEST", "Look", "Lost", "Remote"]

T = TypeVar("T")

FINISHED = ("completed", "incomplete", "failed", "cancelled")

# Seconds between two looks: a tenth of what the call has taken so far, but within these.
SOONEST, LATEST = 0.2, 60.0
SILENT = 5.0  # at most, while the provider is out of reach
PATIENCE = 600.0  # seconds for which the provider may be out of reach before a call is given up
STREAM_AGAIN = (0.0, 0.5, 2.0)  # seconds before each try to stream on; then it is looked at

OF_THE_BODY = frozenset(
    {b"content-encoding", b"content-length", b"content-type", b"transfer-encoding"}
)
NOT_ASKED_AGAIN = OF_THE_BODY | {b"accept-encoding", b"idempotency-key"}


class Lost(Exception):
    """What was under way at the provider is not to be had.

    ``again``: it never will be, so only a new attempt can bring an answer.
    """

    def __init__(self, message: str, *, again: bool) -> None:
        super().__init__(message)
        self.again = again


@dataclass(frozen=True, slots=True)
class Look:
    """The response as it is at one moment: how it was told, and what it says."""

    response: Any
    wire: bytes
    body: dict[str, Json]

    @property
    def status(self) -> str:
        return str(self.body["status"])

    def lost(self) -> Lost:
        """A response that ended without an answer."""
        error = self.body.get("error")
        said = error.get("message") if isinstance(error, dict) else None
        fate = f"response {self.body.get('id')} was {self.status} at the provider"
        return Lost(f"{fate}: {said}" if said else fate, again=True)


@dataclass(frozen=True, slots=True)
class Remote:
    """One call, as the provider works on it by itself."""

    hx: Any
    asked: ModelRequest
    request: Any  # the agent's; others are made in its likeness
    send: Callable[[Any], Op[Any]]
    step: ModelStep

    def under_way(self, body: Json) -> str | None:
        """The id of a response that was begun in the background; None: it is a plain one."""
        if not isinstance(body, dict):
            return None
        if body.get("background") is not True:
            lacks(self.asked, "the provider does not say that it works in the background")
            return None
        identifier = body.get("id")
        going_on = body.get("status") in ("queued", "in_progress")
        return identifier if going_on and isinstance(identifier, str) else None

    def accept(self, identifier: str) -> Flow[None]:
        """Make the id durable. A run that is another's now does not know of it: that is stopped."""
        try:
            yield from self.step.accept(identifier)
        except LeaseLost as lost:
            if not isinstance(lost, JournalLost):  # who lost that records it again
                yield from self._cancel(identifier)
            raise

    def look(self, identifier: str, *, once: bool = False) -> Flow[Look]:
        """The response once it is finished; or ``once``, as it is now.

        Raises Lost, and Interrupt when the run may not go on.
        """
        silent = 0.0
        while True:
            self.step.check()
            told = yield from self._told(identifier)
            if not isinstance(told, str):
                if once or told.status in FINISHED:
                    return told
                silent = 0.0
            elif silent >= PATIENCE:
                raise Lost(f"response {identifier} cannot be read: {told}", again=False)
            wait = min(max(SOONEST, self.step.age / 10), LATEST)
            if isinstance(told, str):
                wait = min(wait, SILENT)
                yield pause(wait)
                silent += wait
            else:
                yield from self.step.rest(wait, identifier)

    def unless_cancelled(self, identifier: str, flow: Flow[T]) -> Flow[T]:
        """Go through with it; should the run be cancelled meanwhile, the response is, too."""
        try:
            return (yield from flow)
        except (Interrupt, asyncio.CancelledError):
            yield from self.withdraw(identifier)
            raise

    def _told(self, identifier: str) -> Flow[Look | str]:
        """One look: the response, or why there is none now."""
        try:
            response = yield from self._asked(identifier)
            wire = b"".join((yield from drained(Source(response.stream))))
            body = parsed(decoded(self.hx, response, wire))
        except self.hx.RequestError as error:
            return f"{type(error).__name__}: {error}"
        if response.status_code == 404:
            raise Lost(f"the provider knows no response {identifier}", again=True)
        if response.status_code < 400 and isinstance(body, dict) and "status" in body:
            return Look(response, wire, body)
        why = f"the provider answered {response.status_code}"
        if response.status_code >= 400 and not retryable_status(response.status_code, {}):
            raise Lost(f"response {identifier} cannot be read: {why}", again=False)
        return why

    def events(self, identifier: str, after: int) -> Flow[Any | None]:
        """A stream of the response's events behind that number; None if it is told no more."""
        query = {"stream": "true"} | ({"starting_after": str(after)} if after >= 0 else {})
        for wait in STREAM_AGAIN:
            yield pause(wait)
            try:
                response = yield from self._asked(identifier, **query)
            except self.hx.RequestError:
                continue
            if response.status_code < 400 and is_event_stream(response):
                return response
            yield from Source(response.stream).close()
            if not retryable_status(response.status_code, {}):
                return None
        return None

    def withdraw(self, identifier: str) -> Flow[None]:
        """Have the provider stop what nobody will use."""
        if self.step.unwanted:
            yield from self._cancel(identifier)

    def _cancel(self, identifier: str) -> Flow[None]:
        """As well as it goes."""
        try:
            response = yield from self._asked(identifier, method="POST", action="/cancel")
            yield from drained(Source(response.stream))
            why = f"HTTP {response.status_code}" if response.status_code >= 400 else ""
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        if why:
            logger.warning("response %s could not be cancelled: %s", identifier, why)

    def _asked(
        self, identifier: str, method: str = "GET", action: str = "", **query: str
    ) -> Flow[Any]:
        """The answer to a request about the response, which has the agent's own credentials."""
        url = self.request.url
        url = url.copy_with(path=f"{url.path.rstrip('/')}/{quote(identifier, safe='')}{action}")
        headers = [h for h in self.request.headers.raw if h[0].lower() not in NOT_ASKED_AGAIN]
        request = self.hx.Request(
            method,
            url.copy_merge_params(query),
            headers=[*headers, (b"Accept-Encoding", b"identity")],
            content=b"",
            extensions=self.request.extensions,
        )
        return (yield from sent(self.send, request, "follow"))
