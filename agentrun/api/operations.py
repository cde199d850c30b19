"""Operations on a run from outside: find it, resume it, send it a signal, cancel it, prune it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from agentrun.api.acting_user import acting_user
from agentrun.api.deterministic import derived
from agentrun.api.handle import Handle
from agentrun.api.redo import redo as set_aside
from agentrun.core.budget import Budget
from agentrun.core.codec import check
from agentrun.core.divergence import Price, find_set_aside, price_of
from agentrun.core.errors import ConfigError, RunPruned
from agentrun.core.events import RunStatus
from agentrun.core.flow import Flow, run_async, run_sync
from agentrun.core.history import History
from agentrun.core.state import ENDED, last_park
from agentrun.core.transcript import Transcript
from agentrun.lifecycle import execute, registry, related_runs
from agentrun.lifecycle.event_loop import run_in_loop
from agentrun.lifecycle.execute import ResumeRequest
from agentrun.lifecycle.live_workers import who_continues
from agentrun.steps.blocking import blocking
from agentrun.steps.divergence_policy import OnDivergence, check_on_divergence
from agentrun.steps.execution_point import ExecutionPoint, current_point
from agentrun.steps.waits import signal_payload
from agentrun.store import retention
from agentrun.store.budgets import raise_budget
from agentrun.store.mail import send_letter
from agentrun.store.opening import default
from agentrun.store.runs import find_run, list_diverged, wake_for_response
from agentrun.store.values import read_events


def response_ended(identifier: str) -> bool:
    """Wake the run that is parked until this response of the Responses API has ended.

    Call it from your webhook, with the id in a payload that the SDK has verified
    (`client.webhooks.unwrap`). Without the webhook the run finds out by itself, a little later.

    Args:
        identifier: the id of the response, as ``"resp_…"``.

    Returns:
        True if a run was woken; False if no run is parked for this response.

    Example:
        >>> event = client.webhooks.unwrap(body, headers)
        >>> agentrun.response_ended(event.data.id)   # False: no run waits for it
        False
    """
    return wake_for_response(default(), identifier)


async def aresponse_ended(identifier: str) -> bool:
    """Like `response_ended`, without blocking the event loop: it writes in a thread.

    Example:
        >>> await agentrun.aresponse_ended("resp_68a1")
    """
    return await asyncio.to_thread(response_ended, identifier)


def get(key: str | UUID) -> Handle[Any]:
    """Return the handle of the run with this key.

    Args:
        key: the run's key, as a string or a UUID.

    Raises:
        RunNotFound: no run has this key.
        RunPruned: a run had this key, and was pruned. It is a RunNotFound, too.

    Example:
        >>> agentrun.get("ticket-42").status()
        'done'
    """
    database = default()
    agent = registry.find_agent(find_run(database, str(key)).agent)
    return Handle(str(key), database, None if agent is None else agent.arguments.result)


def transcript(key: str | UUID) -> Transcript:
    """Return what happened in a run, read from the journal. Nothing is executed.

    Args:
        key: the run's key, as a string or a UUID.

    Raises:
        RunNotFound: no run has this key.

    Example:
        >>> print(agentrun.transcript("ticket-42"))
    """
    return get(key).transcript()


async def atranscript(key: str | UUID) -> Transcript:
    """Like `transcript`, without blocking the event loop: it reads the journal in a thread.

    Example:
        >>> print(await agentrun.atranscript("ticket-42"))
    """
    return await asyncio.to_thread(transcript, key)


def resume(
    key: str,
    *,
    by: str | None = None,
    reason: str | None = None,
    budget: Budget | None = None,
    on_divergence: OnDivergence | None = None,
    redo: int | None = None,
    once: bool = False,
) -> Any:
    """Go on with a run from its last recorded step, in this process; return its result.

    Of a failed run, the error that ended it is set aside by a recorded decision, and the step that
    failed may be attempted again. For a run held in doubt, its tool's ``reconcile`` is called
    once more.

    Args:
        key: the run's key.
        by: the person who resumes it. Default: the user of this process.
        reason: why, for the record.
        budget: new limits, in total, for the run's own budget. Limits that are left out stay as
            they are, and no limit is lowered.
        on_divergence: what the run does when its code asks for something other than what is
            recorded, as in `DurableAgent.with_options`; recorded with ``by`` and ``reason``.
        redo: the number of a recorded step to set aside and do anew, as `redo` does.
        once: with ``redo``: perform a `once` or `transaction` effect again, too.

    Raises:
        RunNotFound: no run has this key.
        ConfigError: no imported file defines the run's agent; ``budget`` is given and the run has
            no budget of its own; or the agent is async and an event loop is running here.
        RunHeld, RunFailed, Diverged: as `DurableAgent.run` does.
        RunError: the run was cancelled, or as `redo` does.
        RunConflict: as `redo` does.

    Example:
        >>> agentrun.resume("ticket-42", reason="the bank is up again")
        'Order 7 is refunded.'
    """
    flow, is_async = _prepare_resume(key, by, reason, budget, on_divergence)
    if is_async and _in_loop():
        flow.close()
        raise ConfigError("an event loop is running here: use `await agentrun.aresume(key)`")
    if redo is not None:
        set_aside(key, redo, by=by, reason=reason, once=once)
    return run_in_loop(run_async(flow)) if is_async else run_sync(flow)


def _in_loop() -> bool:
    """Whether an event loop is running in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def price_of_accepting(key: str) -> Price:
    """What the run may pay and do again if its divergence is accepted.

    The price covers the steps from the diverging one on. For a run that has not diverged, it
    covers all steps. Raises RunNotFound.
    """
    database = default()
    events, _ = read_events(database, find_run(database, key).run_id)
    history, parked = History(events), last_park(events, "divergence")
    ident = parked.output["divergence"].get("ident") if parked is not None else None
    first = history.steps.get(ident or "")
    return price_of(history.steps.values() if first is None else find_set_aside(history, first))


def who_goes_on(key: str) -> str:
    """A text that says who continues a run that can go on now, or how to start a worker for it."""
    return who_continues(default(), key)


def diverged_runs(agent: str | None = None) -> list[str]:
    """The keys of runs that are parked because their code diverged, the longest parked first."""
    return list_diverged(default(), agent)


def resume_diverged(
    agent: str | None = None,
    *,
    on_divergence: OnDivergence | None = None,
    by: str | None = None,
    reason: str | None = None,
) -> list[str]:
    """Queue all runs that are parked because their code diverged, so that workers resume them.

    Args:
        agent: only runs of this agent. Default: of all agents.
        on_divergence: what the runs do on a divergence: "refuse", "keep" or "accept", as in
            `DurableAgent.with_options`. None tries them once more with the code as it is now.
        by: the person who decides. Default: the user of this process.
        reason: why, for the record.

    Returns:
        The keys of the runs, which are due from now on.

    Raises:
        ConfigError: ``on_divergence`` has another value.

    Example::

        agentrun.resume_diverged("support", on_divergence="keep", reason="a friendlier prompt")
    """
    check_on_divergence(on_divergence)
    payload = {} if on_divergence is None else {"on_divergence": on_divergence}
    database, by = default(), by or acting_user()
    keys = diverged_runs(agent)
    for key in keys:
        send_letter(database, key, "resume", by=by, reason=reason, payload=payload)
    return keys


async def aresume(
    key: str,
    *,
    by: str | None = None,
    reason: str | None = None,
    budget: Budget | None = None,
    on_divergence: OnDivergence | None = None,
    redo: int | None = None,
    once: bool = False,
) -> Any:
    """Like `resume`, without blocking the event loop. An async agent executes in the running loop.

    Example:
        >>> answer = await agentrun.aresume("ticket-42")
    """
    flow, _ = _prepare_resume(key, by, reason, budget, on_divergence)
    if redo is not None:
        await asyncio.to_thread(set_aside, key, redo, by=by, reason=reason, once=once)
    return await run_async(flow)


def _prepare_resume(
    key: str,
    by: str | None,
    reason: str | None,
    budget: Budget | None,
    on_divergence: OnDivergence | None,
) -> tuple[Flow[Any], bool]:
    registry.refuse_while_importing(f"run {key!r}")
    database = default()
    run = find_run(database, key)
    agent = registry.registered(run.agent)
    by = by or acting_user()
    if budget is not None:
        to = ", ".join(f"{limit}={amount:g}" for limit, amount in budget.limits().items())
        raised = f"budget raised to {to}"
        reason = f"{reason} ({raised})" if reason else raised
        run_id = run.run_id
        if not raise_budget(database, run_id, budget, run_id=run_id, by=by, reason=reason):
            raise ConfigError(f"run {key!r} has no budget of its own that could be raised")
    check_on_divergence(on_divergence)
    person = ResumeRequest(by, reason, on_divergence)
    return execute.proceed(agent, database, key, agent.options, person), agent.is_async


def send(key: str, name: str, payload: Any = None) -> UUID:
    """Send a signal to a run. ``receive(name)`` in the run returns its payload.

    The signal may come before the run calls `receive`: it waits there. Sent from inside another
    run, it is sent once, also if that run is resumed.

    Args:
        key: the key of the run that receives the signal.
        name: the name of the signal.
        payload: any JSON value.

    Returns:
        The id of the letter that carries the signal.

    Raises:
        RunNotFound: no run has this key.
        ConfigError: the name is empty, is not a string, or holds a credential.

    Example:
        >>> agentrun.send("ticket-42", "customer replied", {"text": "yes, please"})
    """
    return run_sync(_send(key, name, payload))


async def asend(key: str, name: str, payload: Any = None) -> UUID:
    """Like `send`, without blocking the event loop: it writes in a thread.

    Example:
        >>> await agentrun.asend("ticket-42", "customer replied", {"text": "yes, please"})
    """
    return await run_async(_send(key, name, payload))


def _send(key: str, name: str, payload: Any) -> Flow[UUID]:
    letter = signal_payload(name, payload)
    check(letter, "payload")
    database, line = default(), current_point()
    by = acting_user() if line is None else line.run.key
    # Inside a run the letter's id derives from the place in the run, so that a resume sends the
    # same one. It is derived here: a thread that only sends would be a place of its own.
    mail_id = None if line is None else derived(line, "send")
    if line is not None:
        yield from _make_durable(line)
    sending = partial(send_letter, database, key, "signal", by=by, payload=letter, mail_id=mail_id)
    try:
        sent: UUID = yield blocking(sending)
    except RunPruned:
        if mail_id is None:
            raise
        # This run has perhaps sent the letter before, and the receiver was pruned since. A resume
        # must take the same path as the first execution, so it gets the same id.
        return mail_id
    return sent


def _make_durable(line: ExecutionPoint) -> Flow[None]:
    """Wait until all events of this run are durable, before it has an effect on another run."""
    line.run.check(line.scope)
    yield line.run.flushed()
    yield from line.run.fence()


def cancel(key: str, *, by: str | None = None, reason: str | None = None) -> None:
    """Cancel a run and its child runs, for good.

    If a process executes the run, the run ends at its next step. Otherwise it ends at once.

    Args:
        key: the run's key.
        by: the person who cancels it. Default: the user of this process.
        reason: why, for the record.

    Raises:
        RunNotFound: no run has this key.
        RunError: the run has ended already.

    Example:
        >>> agentrun.cancel("ticket-42", reason="the customer withdrew the request")
    """
    related_runs.cancel(default(), key, by=by or acting_user(), reason=reason)


def prune(
    older_than: timedelta | None = None,
    *,
    forget_keys: timedelta | None = None,
    status: Collection[RunStatus] = ENDED,
    agent: str | None = None,
    dry_run: bool = False,
) -> retention.Pruned:
    """Remove runs that ended long ago, for good. A pruned key is not executed again.

    A run is removed together with its child runs, once all of them ended long enough ago. It is
    safe to call while workers run, from several processes, and again after a crash.

    Args:
        older_than: remove runs that ended longer ago than this.
        forget_keys: free the keys of runs that were pruned longer ago than this. A freed key may
            name a new run, which is executed.
        status: remove only runs that ended like this: "done", "failed", "cancelled". Of a run
            with children, only its own status counts. Default: all three.
        agent: remove only runs of this agent. Of a run with children, only its own agent counts.
        dry_run: change nothing; only count.

    Returns:
        How many runs, keys and bytes were removed, or would be.

    Raises:
        ConfigError: neither age is given, an age is negative, or a status is not of ended runs.

    Example:
        >>> agentrun.prune(timedelta(days=90), status=["done"], dry_run=True)
    """
    return retention.prune(
        default(),
        older_than,
        forget_keys=forget_keys,
        status=status,
        agent=agent,
        dry_run=dry_run,
    )
