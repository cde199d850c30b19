"""A model call as a step: what the HTTP transport reports, journaled."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from agentrun.core.codec import detach, digest
from agentrun.core.errors import RunCancelled
from agentrun.core.events import Event, Json, Usage
from agentrun.core.exact import without_secrets
from agentrun.core.flow import Flow
from agentrun.core.identity import History
from agentrun.core.log import logger
from agentrun.core.recorder import CallFailed, ModelReply, ModelRequest
from agentrun.models.rates import model_name, no_more_for
from agentrun.models.retry import BRIEF
from agentrun.runner import budgets, limits
from agentrun.runner.context import Line, blocking
from agentrun.runner.step import Step, Wanted, open_step
from agentrun.runner.waiting import pause
from agentrun.runner.waits import wait_until
from agentrun.store.limits import Call
from agentrun.store.partials import EVERY

# Ways in which providers lay out a JSON body. A body that one of them reproduces byte for byte is
# stored as a value, so that later requests refer to its texts; any other is kept as bytes too.
_LAYOUTS: dict[str, dict[str, Any]] = {
    "compact": {"separators": (",", ":"), "ensure_ascii": False},
    "compact-ascii": {"separators": (",", ":")},
    "spaced": {"ensure_ascii": False},
    "spaced-ascii": {},
    "indented": {"indent": 2, "ensure_ascii": False},
    "indented-ascii": {"indent": 2},
}


def open_model_step(line: Line, request: ModelRequest) -> Flow[RecordedCall]:
    """Begin or replay the step that a model call is."""
    wanted = Wanted(
        kind="model",
        name=request.model or request.api,
        effect="idempotent",
        asked={"api": request.api, "url": request.url, "body": request.body},
        compared=[request.api, request.canonical],
    )
    step = yield from open_step(line, wanted)
    known = line.run.history.steps.get(step.ident)
    call = RecordedCall(line, step, request, retry_at=known.retry_at if known else None)
    if step.outcome is not None:
        call.reply = yield blocking(partial(_read, line, step.outcome))
        line.run.learn_reply(line.scope, step.ident, step.turn, call.reply.body)
    else:
        line.scope.turn = step.turn if step.turn is not None else line.scope.turn
    return call


def awaits(identifier: str) -> str:
    """What is said of a run that waits for this response; by it, the run is found."""
    return f"waits for response {identifier}"


def warn_of_responses(key: str, history: History) -> None:
    """Say what goes on at a provider for a run that was cancelled while nobody executed it.

    Only who makes the calls has the credentials to cancel it there.
    """
    for known in history.steps.values():
        if known.accepted is not None and known.outcome is None:
            logger.warning(
                "run %r is cancelled, but response %s of step %d is not: nobody who could cancel "
                "it at its provider executed the run",
                key,
                known.accepted,
                known.step,
            )


@dataclass(eq=False)
class RecordedCall:
    """The runner's side of `core.recorder.ModelStep`."""

    line: Line
    step: Step
    request: ModelRequest
    reply: ModelReply | None = None
    cap: int | None = None
    retry_at: datetime | None = None  # the last attempt failed, the next may begin then
    why: str = "the last attempt failed"
    told: float | None = None  # when a partial reply was told last, by the monotonic clock
    call: Call | None = None  # the attempt under way, if a shared limit had to admit it

    @property
    def recorded(self) -> ModelReply | None:
        return self.reply

    @property
    def key(self) -> str:
        return self.step.key

    @property
    def prior_failures(self) -> int:
        known = self.step.run.history.steps.get(self.step.ident)
        return known.failures if known else 0

    @property
    def accepted(self) -> str | None:
        known = self.step.run.history.steps.get(self.step.ident)
        return known.accepted if known else None

    @property
    def unwanted(self) -> bool:
        return self.step.outcome is not None or isinstance(self.step.run.interrupt, RunCancelled)

    def accept(self, identifier: str) -> Flow[None]:
        yield from self.step.accept(identifier)

    def pick_up(self) -> Flow[None]:
        yield from self.step.pick_up()

    @property
    def age(self) -> float:
        began = self.step.started_at
        return (self.step.run.heart.now() - began).total_seconds() if began else 0.0

    def rest(self, seconds: float, identifier: str) -> Flow[None]:
        if seconds <= BRIEF:
            yield pause(seconds)
            return
        until = self.step.run.heart.now() + timedelta(seconds=seconds)
        yield from wait_until(self.step, until, awaits(identifier))

    def check(self) -> None:
        self.step.run.check(self.step.scope)

    def attempt(self) -> Flow[ModelReply | None]:
        try:
            if self.retry_at is not None:
                reason = f"{self.why}; tries again at {self.retry_at:%F %T} UTC"
                yield from wait_until(self.step, self.retry_at, reason)
            reserved = yield from self._reserved()
            self.call = yield from limits.admit(self.step, self.request)
            late = yield from self.step.attempt(reserved=reserved)
            if late is None:
                return None
            reply: ModelReply = yield blocking(partial(_read, self.line, late))
        except BaseException:
            self.step.done()
            raise
        return reply

    def tell(self, so_far: Callable[[], Json]) -> None:
        now = time.monotonic()
        if self.told is None:
            self.told = now
        elif now - self.told >= EVERY:
            self.told = now
            step = self.step
            step.run.database.partials.tell(
                step.run.run_id,
                step.number,
                step.attempts,
                step.run.heart.worker,
                step.run.tail.epoch,
                so_far(),
            )

    def left(self) -> None:
        self._over(None)
        self.step.done()

    def _over(self, used: int | None) -> None:
        """The attempt is over, for the limits that it was made under."""
        call, self.call = self.call, None
        if call is not None:
            self.step.run.database.limits.over(call, used)

    def _heard(self, status: int, headers: Mapping[str, str], reason: str) -> None:
        """What the provider says of itself concerns everybody who asks this model."""
        shared, model = self.step.run.database.limits, model_name(self.request)
        worker = self.step.run.heart.worker
        if (seconds := no_more_for(status, headers)) > 0:
            shared.hold(model, worker, seconds, f"its provider takes no calls for now ({reason})")
        if status == 0 or status >= 500:
            shared.failed(model, worker, reason)
        elif status < 400:
            shared.answered(model)

    def _reserved(self) -> Flow[Usage | None]:
        if not self.step.run.budgeted:
            return None
        granted = yield from budgets.reserve(self.step, self.request)
        self.cap = granted.cap
        return granted.usage

    def failed(self, failure: CallFailed, retry_in: float) -> None:
        error = {
            "type": failure.reason,
            "message": failure.detail,
            "status": failure.status,
            "billed": failure.billed,
        }
        self.step.failed(error, retry_in, failure.reason)
        self._over(None if failure.billed else 0)
        self._heard(failure.status or 0, failure.headers, failure.reason)
        self.retry_at = self.step.run.heart.now() + timedelta(seconds=retry_in)
        self.why = failure.reason
        if retry_in > BRIEF:
            name = self.step.wanted.name
            logger.warning("%s: %s; tries again in %d seconds", name, failure.reason, retry_in)

    def finish(self, reply: ModelReply) -> None:
        output, raw = _written(reply)
        failed = reply.status >= 400 or reply.status == 0 or reply.ending == "cut"
        status = "error" if failed else "abandoned" if reply.ending == "abandoned" else "ok"
        if reply.held:  # the answer to a call that is on the bill of an earlier attempt
            known = self.step.run.history.steps.get(self.step.ident)
            self.step.adopted = known.unanswered if known else None
        self.step.finish(status, output, raw=raw, model=reply.model, usage=reply.usage)
        self.step.run.database.partials.over(self.step.run.run_id, self.step.number)
        self._over(_used(reply))
        self._heard(reply.status, _by_name(reply.headers), f"HTTP {reply.status}")
        self.line.run.learn_reply(self.line.scope, self.step.ident, self.step.turn, reply.body)


def _used(reply: ModelReply) -> int | None:
    """The tokens of a reply that came; None where it does not say."""
    usage = reply.usage
    if usage is None or usage.input_tokens is None:
        return 0 if reply.status >= 400 else None
    return usage.input_tokens + (usage.output_tokens or 0)


def _by_name(headers: tuple[tuple[str, str], ...]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers}


def _written(reply: ModelReply) -> tuple[Json, bytes | None]:
    """A reply as the value that is stored, and the exact bytes where the value cannot give them."""
    output: dict[str, Json] = {
        "status": reply.status,
        "headers": [list(pair) for pair in reply.headers],
        "body": reply.body,
        "stream": reply.stream,
        "ending": reply.ending,
    }
    if reply.error is not None:
        output["error"] = list(reply.error)
    layout = None if reply.stream else _layout(reply.body, reply.raw)
    if layout is not None:
        output["layout"] = layout
        return output, None
    raw = without_secrets(reply.raw, stream=reply.stream)
    output["raw"] = {"payload": digest(raw), "size": len(raw)}
    return output, raw


def _read(line: Line, outcome: Event) -> ModelReply:
    """The reply that `_written` stored."""
    output = outcome.output
    layout = output.get("layout")
    if layout is not None:
        raw = _dump(output["body"], layout)
    else:
        name = output["raw"]["payload"]
        raw = detach(line.run.database.payload(line.run.run_id, name), name)
    error = output.get("error")
    return ModelReply(
        status=output["status"],
        headers=tuple((name, value) for name, value in output["headers"]),
        raw=raw,
        body=output["body"],
        stream=output["stream"],
        ending=output["ending"],
        error=(error[0], error[1]) if error else None,
        model=outcome.model,
        usage=outcome.usage,
    )


def _layout(body: Json, raw: bytes) -> str | None:
    return next((name for name in _LAYOUTS if body is not None and _dump(body, name) == raw), None)


def _dump(body: Json, layout: str) -> bytes:
    return json.dumps(body, **_LAYOUTS[layout]).encode("utf-8", "surrogatepass")
