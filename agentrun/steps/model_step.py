"""A model call as a step: the `core.recorder.ModelStep` that the HTTP transport uses in a run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal
from urllib.parse import urlsplit

from agentrun.core.codec import LIMIT, detach, digest, keyed_digest
from agentrun.core.errors import RunCancelled
from agentrun.core.events import Event, Json, Usage
from agentrun.core.exact import holds_secret
from agentrun.core.flow import Flow, pause
from agentrun.core.history import History, scope_of
from agentrun.core.log import logger
from agentrun.core.recorder import CallFailed, Flaw, ModelReply, ModelRequest, OpenReply
from agentrun.models.rate_limits import blocked_seconds, model_name
from agentrun.models.request import comparable_body
from agentrun.models.retries import LONGEST_WAIT_IN_PLACE, reconnect_wait
from agentrun.models.usage import cost_of_lost_cache
from agentrun.steps import budgets, limits, replay_order
from agentrun.steps.blocking import blocking
from agentrun.steps.execution_point import ExecutionPoint
from agentrun.steps.open_step import open_step
from agentrun.steps.step import ActiveStep, StepRequest
from agentrun.steps.unrecorded_calls import warn_of_unrecorded_calls
from agentrun.steps.waits import wait_until
from agentrun.store.limits import LimitedCall
from agentrun.store.partials import EVERY
from agentrun.store.values import read_exact_bytes, read_payload

# How providers lay out a JSON body. If one of these layouts reproduces a body byte for byte, the
# body is stored as a value, and later requests can refer to its texts. Otherwise the bytes are
# stored too.
_LAYOUTS: dict[str, dict[str, Any]] = {
    "compact": {"separators": (",", ":"), "ensure_ascii": False},
    "compact-ascii": {"separators": (",", ":")},
    "spaced": {"ensure_ascii": False},
    "spaced-ascii": {},
    "indented": {"indent": 2, "ensure_ascii": False},
    "indented-ascii": {"indent": 2},
}


def open_model_step(point: ExecutionPoint, request: ModelRequest) -> Flow[RecordedCall]:
    """Open the step of a model call, which is replayed if it is recorded."""
    if point.run.open_replies:
        point.run.leave_replies(point.scope)
    step_request = StepRequest(
        kind="model",
        name=_name(request),
        effect="read" if request.is_lookup else "idempotent",
        input={"api": request.api, "url": request.url, "body": request.body},
        compared=[request.api, request.canonical],
        read=_as_compared,
        attached=request.attached,
        opens_turn=request.asks_model,
    )
    step = yield from open_step(point, step_request)
    known = point.run.history.steps.get(step.ident)
    call = RecordedCall(point, step, request, retry_at=known.retry_at if known else None)
    if step.outcome is not None:
        with replay_order.decoding(point.run):
            reply: ModelReply = yield blocking(partial(_reply_from_json, point, step.outcome))
        call.reply = reply
        point.run.learn_reply(point.scope, step.ident, step.turn, reply.body)
    else:
        point.scope.turn = step.turn if step.turn is not None else point.scope.turn
        if point.scope.top.all_replies:
            warn_of_unrecorded_calls(point.run, point.scope, request.body)
    return call


def _as_compared(asked: Json) -> Json:
    """The part of a recorded request that is compared with the request made now."""
    return [asked["api"], comparable_body(asked["api"], asked["url"], asked["body"])]


def _name(request: ModelRequest) -> str:
    """The name of the step, by which `spend` finds it: the model, or the stored object."""
    last = urlsplit(request.url).path.rpartition("/")[2]
    if request.asks_model or last in request.api.split("."):
        return request.model or request.api
    return f"{request.api} {last}"


def warn_of_responses(key: str, history: History) -> None:
    """Warn about responses that still run at a provider after their run was cancelled.

    No process executed the run when it was cancelled. Only a process that makes the agent's calls
    has the credentials to cancel a response.
    """
    for known in history.steps.values():
        if known.accepted is not None and known.outcome is None:
            logger.warning(
                "run %r is cancelled, but response %s of step %d is not: no process with the "
                "credentials to cancel it at its provider executed the run",
                key,
                known.accepted,
                known.step,
            )


@dataclass(eq=False)
class RecordedCall:
    """A model call that is a step of a run. Implements `core.recorder.ModelStep`."""

    point: ExecutionPoint
    step: ActiveStep
    request: ModelRequest
    reply: ModelReply | None = None
    cap: int | None = None
    retry_at: datetime | None = None  # when the next attempt may begin, if the last one failed
    retry_reason: str = "the last attempt failed"
    # When a partial reply was published last, by the monotonic clock.
    published_at: float | None = None
    call: LimitedCall | None = None  # the attempt under way, if shared limits had to admit it
    unreachable_since: datetime | None = None  # None: it was reached so far
    unreachable_tries: int = 0  # failed tries to reach it

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

    def wait_to_poll(self, seconds: float, identifier: str) -> Flow[None]:
        if seconds <= LONGEST_WAIT_IN_PLACE:
            yield pause(seconds)
            return
        until = self.step.run.heart.now() + timedelta(seconds=seconds)
        yield from wait_until(self.step, until, "response", f"waits for response {identifier}")

    def check(self) -> None:
        self.step.run.check(self.step.scope)

    def attempt(self) -> Flow[ModelReply | None]:
        try:
            if self.retry_at is not None:
                reason = f"{self.retry_reason}; tries again at {self.retry_at:%F %T} UTC"
                yield from wait_until(self.step, self.retry_at, "time", reason)
            reserved = yield from self._reserve_budget()
            self.call = yield from limits.admit(self.step, self.request)
            late = yield from self.step.attempt(reserved=reserved)
            if late is None:
                return None
            reply: ModelReply = yield blocking(partial(_reply_from_json, self.point, late))
        except BaseException:
            self.step.leave()
            raise
        return reply

    def await_provider(
        self, failure: CallFailed, patience: float
    ) -> Flow[Literal["stands", "anew"] | None]:
        """Wait for a provider that cannot be reached.

        The first failed try is journaled as a failed attempt that sent nothing, so that people see
        why the run waits. Then another attempt begins, and its intent serves all further tries: a
        long wait adds two rows to the journal, not one for each try. If the run has to park, the
        attempt is journaled as failed first, because no attempt may be under way then.

        Returns "anew" if the caller has to begin another attempt, "stands" if the present one may
        try again, and None if ``patience`` seconds have passed.
        """
        run = self.step.run
        if self.unreachable_since is None:
            before = self._unreached_before()
            self.unreachable_since = (before[0].at if before else None) or run.heart.now()
            self.unreachable_tries = len(before)
        left = patience - (run.heart.now() - self.unreachable_since).total_seconds()
        if left <= 0:
            return None
        first = self.unreachable_tries == 0
        wait = min(reconnect_wait(self.unreachable_tries), left)
        self.unreachable_tries += 1
        why = f"{failure.reason}: {failure.detail}" if failure.detail else failure.reason
        reason = f"waits for the provider: {why}, since {self.unreachable_since:%F %T} UTC"
        if first or (wait > LONGEST_WAIT_IN_PLACE and not run.in_place):
            error = {"type": failure.reason, "message": failure.detail, "billed": False}
            self.step.record_failed_attempt(error, wait, reason, "unreached")
            self._close_limited_call(0)
            self._report_to_limits(0, failure.headers, failure.reason)
            self.retry_at, self.retry_reason = run.heart.now() + timedelta(seconds=wait), reason
            logger.warning("%s %s", self.step.request.name, reason)
            return "anew"
        until = run.heart.now() + timedelta(seconds=wait)
        while (left := (until - run.heart.now()).total_seconds()) > 0:
            run.check(self.step.scope)
            yield pause(min(left, 1.0))
        yield from self.step.await_fence()
        return "stands"

    def _unreached_before(self) -> list[Event]:
        """The attempts of this wait for the provider that earlier claims of the run journaled."""
        ends = ("attempt_failed", "step_finished")
        own = [
            one for one in self.step.run.journaled_events(after=0) if one.step == self.step.number
        ]
        tries = [one for one in own if one.event in ends]
        others = [at for at, one in enumerate(tries) if one.status != "unreached"]
        return tries[others[-1] + 1 :] if others else tries

    def publish_partial(self, so_far: Callable[[], Json]) -> None:
        now = time.monotonic()
        if self.published_at is None:
            self.published_at = now
        elif now - self.published_at >= EVERY:
            self.published_at = now
            step = self.step
            step.run.database.partials.publish(
                step.run.run_id,
                step.number,
                step.attempts,
                step.run.heart.worker,
                step.run.tail.epoch,
                so_far(),
            )

    def begin_stream(self, reply: OpenReply) -> None:
        with self.point.run.lock:
            self.point.run.open_replies[self.step.ident] = (self.point.scope, reply)

    def abandon_attempt(self) -> None:
        with self.point.run.lock:
            self.point.run.open_replies.pop(self.step.ident, None)
        self._close_limited_call(None)
        self.step.leave()

    def _close_limited_call(self, used: int | None) -> None:
        """Report to the shared limits that the attempt has ended, with the tokens it used."""
        call, self.call = self.call, None
        if call is not None:
            self.step.run.database.limits.finish_call(call, used)

    def _report_to_limits(self, status: int, headers: Mapping[str, str], reason: str) -> None:
        """Report the provider's state to the shared limits: it concerns all calls to this model."""
        shared, model = self.step.run.database.limits, model_name(self.request)
        worker = self.step.run.heart.worker
        if (seconds := blocked_seconds(status, headers)) > 0:
            shared.hold(model, worker, seconds, f"its provider takes no calls for now ({reason})")
        if status == 0 or status >= 500:
            shared.record_failure(model, worker, reason)
        elif status < 400:
            shared.record_success(model)

    def _reserve_budget(self) -> Flow[Usage | None]:
        if not self.step.run.budgeted or self.request.is_lookup:
            return None
        granted = yield from budgets.reserve(self.step, self.request)
        self.cap = granted.cap
        return granted.usage

    def record_failure(self, failure: CallFailed, retry_in: float) -> None:
        error = {
            "type": failure.reason,
            "message": failure.detail,
            "status": failure.status,
            "billed": failure.billed,
        }
        self.step.record_failed_attempt(error, retry_in, failure.reason)
        self._close_limited_call(None if failure.billed else 0)
        self._report_to_limits(failure.status or 0, failure.headers, failure.reason)
        self.retry_at = self.step.run.heart.now() + timedelta(seconds=retry_in)
        self.retry_reason = failure.reason
        if retry_in > LONGEST_WAIT_IN_PLACE:
            name = self.step.request.name
            logger.warning("%s: %s; tries again in %d seconds", name, failure.reason, retry_in)

    def finish(self, reply: ModelReply) -> None:
        output, raw = _reply_to_json(reply, self.step.run.database.mask_key)
        answered = "abandoned" if reply.ending == "abandoned" else "ok"
        status = answered if reply.answers else "error"
        if (
            reply.began_earlier
        ):  # the reply to the call of an earlier attempt, which was billed for it
            known = self.step.run.history.steps.get(self.step.ident)
            self.step.adopted = known.unanswered if known else None
        self.step.finish(status, output, model=reply.model, usage=self._usage(reply), **raw)
        self.step.run.database.partials.discard(self.step.run.run_id, self.step.number)
        self._close_limited_call(_tokens_used(reply))
        status_told = 0 if reply.flaw else reply.status
        reason = reply.flaw.text if reply.flaw else f"HTTP {reply.status}"
        self._report_to_limits(status_told, _header_dict(reply.headers), reason)
        with self.point.run.lock:
            self.point.run.open_replies.pop(self.step.ident, None)
        self.point.run.learn_reply(self.point.scope, self.step.ident, self.step.turn, reply.body)

    def _usage(self, reply: ModelReply) -> Usage | None:
        """The usage to record for a reply.

        A poll has usage only if it is the first one that sees the end of its response: otherwise
        one response would be counted several times. For other calls it includes what was lost of
        the provider's cache because the run changed hands.
        """
        usage = reply.usage
        if usage is None:
            return None
        if self.request.is_lookup:
            return usage if self._is_first_to_see(reply.body) else None
        before = self._call_before()
        if before is None or before.usage is None:
            return usage
        warm = (before.usage.cached_tokens or 0) + (before.usage.cache_write_tokens or 0)
        lost = min(warm, usage.input_tokens or 0) - (usage.cached_tokens or 0)
        if lost <= 0:
            return usage
        cost = cost_of_lost_cache(self.request, reply.body, lost)
        return replace(usage, cache_lost_tokens=lost, cache_lost=cost)

    def _is_first_to_see(self, body: Json) -> bool:
        """Whether this reply is the first one with the usage of a response that the run began."""
        if not isinstance(body, dict) or body.get("status") in ("queued", "in_progress"):
            return False
        run = self.step.run
        with run.lock:
            outcomes = [k.outcome for k in run.history.steps.values() if k.kind == "model"]
        same = [o for o in outcomes if o is not None and _response_of(o) == body.get("id")]
        return any(o.usage is None and o.effect != "read" for o in same) and not any(
            o.usage is not None for o in same
        )

    def _call_before(self) -> Event | None:
        """The outcome of the previous call to this model in this scope.

        None if this claim of the run made that call: the run has not changed hands since.
        """
        run, scope = self.step.run, scope_of(self.step.ident)
        with run.lock:
            for number in range(self.step.number - 1, 0, -1):
                known = run.history.by_number.get(number)
                if known is None or known.kind != "model" or known.outcome is None:
                    continue
                if known.name == self.step.request.name and scope_of(known.ident) == scope:
                    return known.outcome if known.epoch < run.tail.epoch else None
        return None


def _response_of(outcome: Event) -> Json:
    """The id of the response in the reply of a model call."""
    output = outcome.output if isinstance(outcome.output, dict) else {}
    body = output.get("body")
    return body.get("id") if isinstance(body, dict) else None


def _tokens_used(reply: ModelReply) -> int | None:
    """The tokens of a reply; None if the reply does not say, and 0 for an error."""
    usage = reply.usage
    if usage is None or usage.input_tokens is None:
        return 0 if reply.status >= 400 else None
    return usage.input_tokens + (usage.output_tokens or 0)


def _header_dict(headers: tuple[tuple[str, str], ...]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers}


def _reply_to_json(reply: ModelReply, key: bytes) -> tuple[Json, dict[str, Any]]:
    """A reply as the value that is stored, and its bytes if the value cannot reproduce them.

    Bytes that hold a secret are stored as exact values, under a name that is a digest keyed with
    the database's ``key``: a plain digest would let a reader check guesses of the secret.
    """
    output: dict[str, Json] = {
        "status": reply.status,
        "headers": [list(pair) for pair in reply.headers],
        "body": reply.body,
        "stream": reply.stream,
        "ending": reply.ending,
    }
    if reply.error is not None:
        output["error"] = list(reply.error)
    if reply.flaw is not None:
        output["flaw"] = {"text": reply.flaw.text, "billed": reply.flaw.billed}
    if (reply.status, reply.reason) != (200, "OK"):
        output["reason"] = reply.reason
    if reply.http != "HTTP/1.1":
        output["http"] = reply.http
    if reply.body is None and reply.raw:
        output["text"] = _shown_text(reply.raw)  # else people could see nothing of it
    layout = None if reply.stream else _layout(reply.body, reply.raw)
    if layout is not None:
        output["layout"] = layout
        return output, {}
    if holds_secret(reply.raw, stream=reply.stream):
        name = keyed_digest(reply.raw, key)
        output["raw"] = {"exact": name, "size": len(reply.raw)}
        return output, {"raw": reply.raw, "raw_name": name}
    output["raw"] = {"payload": digest(reply.raw), "size": len(reply.raw)}
    return output, {"raw": reply.raw}


def _reply_from_json(point: ExecutionPoint, outcome: Event) -> ModelReply:
    """The reply that `_reply_to_json` stored."""
    output = outcome.output
    layout = output.get("layout")
    if layout is not None:
        raw = _dump(output["body"], layout)
    else:
        raw = _bytes_of(point, output["raw"])
    error, flaw = output.get("error"), output.get("flaw")
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
        flaw=Flaw(flaw["text"], billed=flaw["billed"]) if flaw else None,
        reason=output.get("reason", "OK" if output["status"] == 200 else None),
        http=output.get("http", "HTTP/1.1"),
    )


def _shown_text(raw: bytes) -> str:
    """The text of a reply that is no JSON. The beginning of a long one, which says that it is."""
    text = raw[:LIMIT].decode("utf-8", "replace")
    return text if len(raw) <= LIMIT else f"{text}… (the beginning of {len(raw)} bytes)"


def _bytes_of(point: ExecutionPoint, raw: dict[str, Any]) -> bytes:
    database, run_id = point.run.database, point.run.run_id
    if "exact" in raw:
        return read_exact_bytes(database, run_id, raw["exact"])
    name: str = raw["payload"]
    return detach(read_payload(database, run_id, name), name)


def _layout(body: Json, raw: bytes) -> str | None:
    return next((name for name in _LAYOUTS if body is not None and _dump(body, name) == raw), None)


def _dump(body: Json, layout: str) -> bytes:
    return json.dumps(body, **_LAYOUTS[layout]).encode("utf-8", "surrogatepass")
