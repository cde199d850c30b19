"""Runs from outside: look at one, resume it, decide about its doubts."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from agentrun.core.budget import Budget
from agentrun.core.codec import check
from agentrun.core.errors import ConfigError, RunError, RunPruned
from agentrun.core.events import Effect, Event, Json, RunStatus
from agentrun.core.flow import Flow, run_async, run_sync
from agentrun.core.identity import History
from agentrun.core.state import ENDED
from agentrun.core.transcript import Transcript
from agentrun.runner import agent as agents
from agentrun.runner import execute
from agentrun.runner.children import open_children
from agentrun.runner.clock import derived
from agentrun.runner.context import Line, current_line
from agentrun.runner.doubt import Happened, NotHappened, Outcome, Unknown
from agentrun.runner.eventloop import run_in_loop
from agentrun.runner.execute import Person
from agentrun.runner.handle import Handle
from agentrun.runner.model_step import awaits, warn_of_responses
from agentrun.runner.waits import signal
from agentrun.store import retention
from agentrun.store.budgets import raise_budget
from agentrun.store.opening import default

_OUTCOMES = {Happened: "happened", NotHappened: "not_happened", Unknown: "unknown"}


@dataclass(frozen=True, slots=True)
class Waiting:
    """One thing that waits for a person, as `agentrun inbox` and the view `inbox` list it."""

    key: str
    agent: str
    step: int | None  # what `approve`, `reject` and `resolve` take; None: the run as a whole
    waits_for: str  # "doubt": resolve it; "decision": approve or reject it, or see the reason
    name: str | None  # the tool
    effect: Effect | None
    attempt: int | None
    args: Json  # its arguments
    idempotency_key: str | None
    reason: str
    since: datetime


def inbox(key: str | None = None) -> list[Waiting]:
    """What waits for a person, longest first: in the run with this key, or in all runs."""
    return [Waiting(**row) for row in default().query("inbox", key=key)]


def response_ended(identifier: str) -> bool:
    """Have the run go on that waits for this response of the Responses API, as a webhook says.

    Call it with the id in a payload that the SDK has verified (`client.webhooks.unwrap`). A run
    that is not told finds out by itself, a little later. False: no run is parked for it.
    """
    return bool(default().query("response_ended", reason=awaits(identifier)))


async def aresponse_ended(identifier: str) -> bool:
    """`response_ended`, awaited."""
    return await asyncio.to_thread(response_ended, identifier)


def get(key: str) -> Handle[Any]:
    """The run with this key. Raises RunNotFound; its RunPruned, if there was such a run."""
    database = default()
    database.find(key)
    return Handle(key, database)


def transcript(key: str) -> Transcript:
    """The transcript of a run, from the journal alone. Raises RunNotFound."""
    return get(key).transcript()


async def atranscript(key: str) -> Transcript:
    """`transcript`, awaited."""
    return await asyncio.to_thread(transcript, key)


def resume(
    key: str, *, by: str | None = None, reason: str | None = None, budget: Budget | None = None
) -> Any:
    """Go on with a run from its last recorded step, here; return its result.

    For a failed run, the error that ended it is set aside by a recorded decision, and its step
    may be attempted again. A run held in doubt asks its tool's ``reconcile`` once more.

    Args:
        key: the run's key.
        by: who asks for it; default: the name of the user of this process.
        reason: why, for the record.
        budget: limits to which the run's own budget is raised first, in all; those it leaves out
            stay as they are, and none is lowered.

    Raises:
        RunNotFound: no run has this key.
        ConfigError: the file that defines its agent is not imported, or the run has no budget.
        RunHeld, RunFailed, Diverged: as `run` does.
    """
    flow, is_async = _resumption(key, by, reason, budget)
    if not is_async:
        return run_sync(flow)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run_in_loop(run_async(flow))
    flow.close()
    raise ConfigError("an event loop is running here: use `await agentrun.aresume(key)`")


async def aresume(
    key: str, *, by: str | None = None, reason: str | None = None, budget: Budget | None = None
) -> Any:
    """`resume`, awaited."""
    return await run_async(_resumption(key, by, reason, budget)[0])


def _resumption(
    key: str, by: str | None, reason: str | None, budget: Budget | None
) -> tuple[Flow[Any], bool]:
    agents.refuse_while_importing(f"run {key!r}")
    database = default()
    run = database.find(key)
    agent = agents.registered(run["agent"])
    by = by or somebody()
    if budget is not None:
        to = ", ".join(f"{limit}={amount:g}" for limit, amount in budget.limits().items())
        told = f"budget raised to {to}"
        reason = f"{reason} ({told})" if reason else told
        run_id = run["run_id"]
        if not raise_budget(database, run_id, budget, run_id=run_id, by=by, reason=reason):
            raise ConfigError(f"run {key!r} has no budget of its own that could be raised")
    person = Person(by, reason)
    return execute.proceed(agent, database, key, agent.options, person), agent.is_async


def resolve(
    key: str, step: int, outcome: Outcome, *, by: str | None = None, reason: str | None = None
) -> UUID:
    """Say what became of a step in doubt. The run goes on when it is next run or resumed.

    Args:
        key: the run's key.
        step: the number that `agentrun show` prints.
        outcome: ``Happened(result)``, ``NotHappened()`` (attempt it again) or ``Unknown()``
            (tell the model so).
        by: who decides; default: the name of the user of this process.
        reason: why, for the record.

    Raises:
        RunNotFound: no run has this key.
        RunError: the run is not in doubt about this step.
    """
    name = _OUTCOMES.get(type(outcome))
    if name is None:
        raise ConfigError("resolve() takes Happened(result), NotHappened() or Unknown()")
    payload: dict[str, Any] = {"outcome": name}
    if isinstance(outcome, Happened):
        check(outcome.result, "result")
        payload["result"] = outcome.result
    database = default()
    run = database.find(key)
    doubts = database.doubts(run["run_id"])
    if step not in doubts:
        steps = ", ".join(map(str, doubts))
        what = f"is in doubt about step {steps}" if doubts else "is not in doubt"
        raise RunError(f"run {key!r} {what}; `agentrun inbox` lists what waits", key=key)
    return database.send_mail(
        key, "resolve", step=step, by=by or somebody(), reason=reason, payload=payload
    )


def approve(
    key: str,
    step: int,
    *,
    by: str | None = None,
    reason: str | None = None,
    arguments: dict[str, Any] | None = None,
    budget: Budget | None = None,
    expires: datetime | None = None,
) -> UUID:
    """Approve a tool call that waits for a person, or raise the budget that a run waits for.

    The run goes on when it is next taken up.

    Args:
        key: the run's key.
        step: the number that `agentrun inbox` prints.
        by: who approves; default: the name of the user of this process.
        reason: why, for the record.
        arguments: edited arguments, to call the tool with instead of those asked for.
        budget: the limits that the run, or the one above it whose budget is used up, may reach
            in all; those it leaves out stay as they are, and none is lowered.
        expires: after this time the approval counts no more.

    Raises:
        RunNotFound: no run has this key.
        RunError: the run does not wait at this step.
    """
    payload: dict[str, Any] = {"arguments": arguments} if arguments is not None else {}
    if budget is not None:
        payload["budget"] = budget.to_json()
    if expires is not None:
        payload["expires"] = expires.isoformat()
    return _decide(key, "approve", step, by, reason, payload)


def reject(key: str, step: int, *, by: str | None = None, reason: str | None = None) -> UUID:
    """Reject a tool call that waits for a person; the model is told so, and why.

    Raises:
        RunNotFound: no run has this key.
        RunError: the run does not wait at this step.
    """
    return _decide(key, "reject", step, by, reason, {})


def _decide(
    key: str, kind: str, step: int, by: str | None, reason: str | None, payload: dict[str, Any]
) -> UUID:
    check(payload, "payload")
    database = default()
    run = database.find(key)
    asks = run["status"] == "held" and run["open_doubt"] == step
    if not asks or step in database.doubts(run["run_id"]):
        raise RunError(
            f"run {key!r} does not wait for a decision about step {step}; "
            "`agentrun inbox` lists what waits",
            key=key,
        )
    return database.send_mail(
        key, kind, step=step, by=by or somebody(), reason=reason, payload=payload
    )


def send(key: str, name: str, payload: Any = None) -> UUID:
    """Send a signal to a run, which `receive(name)` returns there; also before it is asked for.

    Raises:
        RunNotFound: no run has this key.
        ConfigError: the name is empty.
    """
    letter = signal(name, payload)
    check(letter, "payload")
    database = default()
    line = current_line()
    # Inside a run the letter's id derives from the run, so that a resume sends the same one.
    mail_id = None if line is None else derived(line, "send")
    by = somebody() if line is None else line.run.key
    if line is not None:
        run_sync(_flushed(line))
    try:
        return database.send_mail(
            key, "signal", step=None, by=by, reason=None, payload=letter, mail_id=mail_id
        )
    except RunPruned:
        if mail_id is None:
            raise
        return mail_id  # a resume sends it again, and takes the same path as before


async def asend(key: str, name: str, payload: Any = None) -> UUID:
    """`send`, awaited."""
    return await asyncio.to_thread(send, key, name, payload)


def _flushed(line: Line) -> Flow[None]:
    """An effect on another run begins only when all of this one is durable."""
    line.run.check(line.scope)
    yield line.run.flushed()
    yield from line.run.fence()


def cancel(key: str, *, by: str | None = None, reason: str | None = None) -> None:
    """Cancel a run: at once if nobody executes it, else at its next step; its children too.

    Raises:
        RunNotFound: no run has this key.
        RunError: the run has ended already.
    """
    database = default()
    run = database.find(key)
    if run["status"] in ("done", "failed", "cancelled"):
        raise RunError(f"run {key!r} is {run['status']} already", key=key)
    by = by or somebody()
    database.send_mail(key, "cancel", step=None, by=by, reason=reason, payload={})
    why = f"by {by}" + (f": {reason}" if reason else "")
    owned, _ = database.owner_of(run)
    claimed = None if owned else database.claim(run, f"cancelled {why}")
    if claimed is None:
        return  # its owner reads the letter
    tail, events = claimed
    cancelled = Event(event="run_cancelled", by=by, reason=why)
    database.writer.wait(database.writer.append(tail, [cancelled]))
    history = History(events)
    warn_of_responses(key, history)
    for child in open_children(key, history):
        with contextlib.suppress(RunError):
            cancel(child, by=by, reason=f"its parent {key!r} was cancelled")


def prune(
    older_than: timedelta | None = None,
    *,
    forget_keys: timedelta | None = None,
    status: Collection[RunStatus] = ENDED,
    agent: str | None = None,
    dry_run: bool = False,
) -> retention.Pruned:
    """Remove runs that ended long ago, for good; their keys are not executed again.

    A run goes together with its child runs, once all of them have ended so long ago. May be
    called beside workers and beside itself, and again after it was killed.

    Args:
        older_than: how long ago they must have ended.
        forget_keys: free the keys of runs that were pruned longer ago than this: they may name
            new runs, which are executed.
        status: how they must have ended; of a run with children, it alone is asked.
        agent: only runs of this agent; likewise.
        dry_run: change nothing, only count.

    Raises:
        ConfigError: nothing was asked for, an age is negative, or a status is of runs that have
            not ended.
    """
    return retention.prune(
        default(),
        older_than,
        forget_keys=forget_keys,
        status=status,
        agent=agent,
        dry_run=dry_run,
    )


def somebody() -> str:
    """Who acts in this process, for the record."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "somebody"
