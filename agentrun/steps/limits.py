"""Limits on model calls that all workers share: a call is admitted before it is made.

A wait of more than a few seconds is a wait of the run, which may be parked for it and then holds no
slot of a worker. The call keeps its place in the queue meanwhile, also across a crash.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from agentrun.core.errors import Parking
from agentrun.core.flow import Flow, pause
from agentrun.core.recorder import ModelRequest
from agentrun.models.rate_limits import expected_tokens, model_name
from agentrun.models.retries import LONGEST_WAIT_IN_PLACE
from agentrun.steps.blocking import blocking
from agentrun.steps.waits import wait_until
from agentrun.store.limits import LimitedCall

if TYPE_CHECKING:
    from agentrun.steps.step import ActiveStep

__all__ = ["admit"]


def admit(step: ActiveStep, request: ModelRequest) -> Flow[LimitedCall | None]:
    """Wait until the limits admit the step's next attempt. Returns None if no limit applies.

    Raises Interrupt if the run may not go on here or is parked.
    """
    limits = step.run.database.limits
    model = model_name(request)
    if not limits.applies_to(model):
        return None
    tokens = yield blocking(partial(expected_tokens, request))
    worker = step.run.heart.worker
    call = LimitedCall(step.run.run_id, f"{step.key}/{step.attempts + 1}", worker, model, tokens)
    try:
        while True:
            step.run.check(step.scope)
            wait, why = yield blocking(partial(limits.request_permit, call))
            if wait <= 0:
                return call
            if wait > LONGEST_WAIT_IN_PLACE:
                until = step.run.heart.now() + timedelta(seconds=wait)
                yield from wait_until(step, until, "time", f"{model}: {why}")
            else:
                yield pause(wait)
    except Parking:
        raise
    except BaseException:
        limits.finish_call(call, 0)
        raise
