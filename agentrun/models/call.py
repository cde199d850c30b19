"""One model call of a run, from request to response, written once for sync and async.

::

    open the step ── recorded ──────────────▶ return the recorded reply, and send nothing
        │
        ├─ running at the provider already ─▶ `BackgroundAttempts` (`background.py`)
        ├─ to begin in background mode ─────▶ the same
        ▼
    every other call: `Attempts` (`attempts.py`)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentrun.core.flow import Flow, Op
from agentrun.core.recorder import ModelRequest, ModelStep, Recorder
from agentrun.models.attempts import Attempts, begin_call, repeated_error
from agentrun.models.background import BackgroundAttempts
from agentrun.models.request import read_request
from agentrun.models.response_body import ResponseBody
from agentrun.models.retries import RetryPolicy

__all__ = ["ModelCall"]


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

    def run(self, recorder: Recorder) -> Flow[Any]:
        """The response for the client; raises the exception that the client should get."""
        if not isinstance(self.request.stream, self.hx.ByteStream):
            # An upload stream can be read only once; from memory it can be sent again.
            yield Op(self.request.read, self.request.aread)
        if error := repeated_error(self.hx, self.request):
            raise error
        begin_call()
        request = read_request(self.hx, self.request, sdk=self.sdk)
        assert request is not None, "the transport found that it is a model call"
        step = yield from recorder.open_model_step(request)
        attempts = self._attempts(request, step)
        if step.recorded is not None:
            return attempts.rebuild(step.recorded)
        # The key helps gateways and audits; no provider promises to honour it. A key that the user
        # set is kept. Where the client retries by itself, the client must choose the key.
        if self.policy.ours:
            self.request.headers.setdefault("Idempotency-Key", step.key)
        try:
            return (yield from attempts.run())
        except BaseException:
            step.abandon_attempt()
            raise

    def _attempts(self, request: ModelRequest, step: ModelStep) -> Attempts:
        """The attempts: plain ones, unless the call is, or may be, in the provider's background.

        Any client picks up a response that an earlier process has begun in the background.
        """
        parts = (self.hx, self.request, request, self.send, self.stream, self.policy, step)
        if self.background or step.accepted is not None:
            return BackgroundAttempts(*parts, begins=self.background)
        return Attempts(*parts)
