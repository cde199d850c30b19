"""A model call under limits that all workers share: it asks before it is made.

A wait of more than a few seconds is the run's own, which need not hold a worker's slot for it; its
place in the line is kept meanwhile, over a crash as well.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from agentrun.core.errors import Parking
from agentrun.core.flow import Flow
from agentrun.core.recorder import ModelRequest
from agentrun.models.rates import expected, model_name
from agentrun.models.retry import BRIEF
from agentrun.runner.context import blocking
from agentrun.runner.waiting import pause
from agentrun.runner.waits import wait_until
from agentrun.store.limits import Call

if TYPE_CHECKING:
    from agentrun.runner.step import Step

__all__ = ["admit"]


def admit(step: Step, request: ModelRequest) -> Flow[Call | None]:
    """Wait until the next attempt of a step may be made; None: nothing limits it.

    Raises Interrupt when the run may not go on here, or has to wait elsewhere.
    """
    limits = step.run.database.limits
    model = model_name(request)
    if not limits.concern(model):
        return None
    tokens = yield blocking(partial(expected, request))
    worker = step.run.heart.worker
    call = Call(step.run.run_id, f"{step.key}/{step.attempts + 1}", worker, model, tokens)
    try:
        while True:
            step.run.check(step.scope)
            wait, why = yield blocking(partial(limits.ask, call))
            if wait <= 0:
                return call
            if wait > BRIEF:
                until = step.run.heart.now() + timedelta(seconds=wait)
                yield from wait_until(step, until, f"{model}: {why}")
            else:
                yield pause(wait)
    except Parking:
        raise
    except BaseException:
        limits.over(call, 0)
        raise
