"""Open a step: find it among the recorded steps, or begin a new one.

One task or thread performs a step at a time. Another one that asks for the same step waits until
the first has recorded the outcome. This happens when a tool timed out and its thread still runs.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from agentrun.core.errors import ConfigError, Refusing
from agentrun.core.flow import Flow, Op, pause
from agentrun.core.history import RecordedStep, scope_of
from agentrun.core.identity import StepLocation, place_call, place_next, step_key
from agentrun.steps import divergence_policy, doubt
from agentrun.steps.execution_point import ExecutionPoint
from agentrun.steps.performer import Performer, is_executing, performer
from agentrun.steps.replay_order import await_turn
from agentrun.steps.run_context import RunContext
from agentrun.steps.step import ActiveStep, StepRequest

_CANCELLED = {"error": {"type": "CancelledError", "message": "cancelled by the agent itself"}}
_STOP_POLL = 0.1  # seconds between checks whether the run was stopped
_JOIN_POLL = 0.02  # seconds between checks of a step that another thread performs


def open_step(point: ExecutionPoint, request: StepRequest) -> Flow[ActiveStep]:
    """Find the recorded step that the code asks for, or begin a new one.

    Raises:
        Diverging: another step is recorded at this place, and the run refuses divergence.
        Refusing: a resume could not tell this step from another one.
        Interrupt: the run may not go on here, or a person has to decide a doubt of the step.
    """
    run = point.run
    with run.lock:
        run.check(point.scope)
        me = performer()
        _release_earlier_steps(point, me)
        step, known = locate_step(point, request, me)
    while not _try_activate(step):
        # The body of an attempt that timed out still performs this step. Its outcome is adopted.
        yield pause(_JOIN_POLL)
        run.check(point.scope)
        known = run.history.steps.get(step.ident)
        if known is not None:
            step.number, step.attempts, step.outcome = known.step, known.attempts, known.outcome
    if step.outcome is not None and step.outcome.status == "cancelled":
        yield from _await_cancellation(point)
    try:
        yield from await_turn(step)
        if known is not None and known.open is not None and request.effect == "once":
            yield from doubt.decide(step, known)
    except BaseException:
        step.leave()
        raise
    return step


def _release_earlier_steps(point: ExecutionPoint, me: Performer) -> None:
    """End the steps of this scope that the calling task or thread has left.

    A task or thread that asks for its next step has left the previous one, also when it was
    cancelled there. The same holds for the steps of tasks and threads that have ended, and of
    branches, when the code that began them asks for a step.
    """
    run = point.run
    for number in [n for n, who in point.scope.active.items() if who == me]:
        del point.scope.active[number]
    for step in list(run.under_way.values()):
        ended = step.performer == me or not is_executing(step.performer)
        if ended and scope_of(step.ident).startswith(point.scope.path):
            del run.under_way[step.ident]
            begun = step.outcome is None and step.attempts > 0
            if step.cancelled and begun and not run.cancelled_from_outside:
                step.finish("cancelled", _CANCELLED)


def _await_cancellation(point: ExecutionPoint) -> Flow[None]:
    """Wait for the cancellation of a step that the agent cancelled in an earlier process.

    The same code cancels the step again, for example by its own timeout. If the run is stopped
    meanwhile, its interrupt ends the wait.
    """

    def never() -> None:
        text = "a step that the agent cancelled was awaited, and is now called in sync code"
        raise point.run.stop(Refusing(text))

    while True:
        yield Op(never, lambda: asyncio.sleep(_STOP_POLL))
        point.run.check(point.scope)


def _try_activate(step: ActiveStep) -> bool:
    """Mark the step as performed here, or hand out its outcome; False if another performs it."""
    run = step.run
    with run.lock:
        run.upcoming.discard(step.ident)
        if step.outcome is not None:
            step.hand_out(step.outcome)
        elif step.ident in run.in_flight():
            return False
        else:
            run.under_way[step.ident] = step
            step.scope.active[step.number] = step.performer
        return True


def locate_step(
    point: ExecutionPoint, request: StepRequest, me: Performer
) -> tuple[ActiveStep, RecordedStep | None]:
    """The step that the code asks for, with its record if any. Callers hold the run's lock."""
    run, scope, history = point.run, point.scope, point.run.history
    # The fingerprint is keyed with the database's secret. Otherwise a reader who sees masked values
    # could guess a secret and check the guess against the fingerprint.
    request = replace(request, secret=run.database.mask_key)
    scope.mark_begun()
    fingerprint = request.fingerprint
    failed, scope.failed = scope.failed, None
    place = _find_location(point, request, fingerprint, me)
    known = place.recorded_step
    if known is not None and not request.matches(known, fingerprint):
        known = divergence_policy.apply_policy(run, request, fingerprint, known)
    if known is None:
        known = divergence_policy.reuse_step(run, request, fingerprint, place.ident)
    if request.kind != "model" and known is not None and known.input is not None:
        # A recorded call keeps its recorded arguments.
        request = replace(request, input=known.input)
    if known is None:
        history.last_step += 1
        number, turn = history.last_step, _turn_of(point, request, place)
        repeats = _repeated_key(request, fingerprint, failed)
    else:
        known.on_path = True
        number, turn, repeats = known.step, known.turn, known.key
    key = repeats or step_key(run.run_id, place.ident, history.divergences)
    if request.call is not None:
        request.call.key = key
    step = ActiveStep(
        run,
        scope,
        request,
        place.ident,
        number,
        turn,
        key,
        fingerprint,
        place.overlapping,
        attempts=known.attempts if known else 0,
        outcome=known.outcome if known else None,
    )
    return step, known


def _repeated_key(
    request: StepRequest, fingerprint: str, failed: tuple[str, str] | None
) -> str | None:
    """The idempotency key of the failed call that this call repeats; None if it repeats none.

    A repeated call is a step of its own, because the error was the outcome of the first one. The
    same key tells the performer of the effect that the two calls are one effect.
    """
    if request.call is not None:
        return request.call.key
    if failed is None or request.kind not in ("tool", "function"):
        return None
    before, key = failed
    return key if before == fingerprint else None


def _turn_of(point: ExecutionPoint, request: StepRequest, place: StepLocation) -> int | None:
    """The turn that a new step belongs to."""
    turn = place.turn
    # a divergence: another step is recorded there
    if place.recorded_step is not None and request.call is None:
        turn = point.scope.turn_of_new(request.kind)
    return turn if turn is not None else _next_turn(point.run, request)


def _find_location(
    point: ExecutionPoint, request: StepRequest, fingerprint: str, me: Performer
) -> StepLocation:
    """The place of the step in the run, and what is recorded there."""
    if request.call is not None:
        return place_call(point.run.history, point.scope, request.call)
    try:
        return place_next(
            point.run.history,
            point.scope,
            request.kind,
            request.name,
            request.effect,
            fingerprint,
            me,
        )
    except ConfigError as error:
        raise point.run.stop(Refusing(str(error))) from None


def _next_turn(run: RunContext, request: StepRequest) -> int | None:
    """Begin a turn if the step is a model call that opens one, else the latest turn."""
    if request.kind != "model" or not request.opens_turn:
        return run.history.last_turn or None
    run.history.last_turn += 1
    return run.history.last_turn
