"""From a key to a result: create or find the run, claim it, and execute it.

`start` is one flow for `.run()` and `.arun()`. Its steps are:

1. `create` writes the run, or finds it and compares agent and arguments: the same key must mean
   the same run.
2. `proceed` returns the recorded end of a run that has ended. Otherwise it claims the run: the
   claim raises the run's epoch, so that the journal refuses writes of any earlier owner. A run
   with a live owner cannot be claimed; `proceed` waits for it, or raises RunConflict.
3. `execute` replays the journal and executes the agent; `ending.py` journals the end.

A worker claims runs with a query of its own, and calls `execute` directly.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from agentrun.core.codec import check, fingerprint
from agentrun.core.divergence import different_arguments, without_added
from agentrun.core.errors import (
    Interrupt,
    JournalLost,
    LeaseLost,
    Parking,
    RunCancelled,
    RunConflict,
    RunHeld,
    StoreLost,
)
from agentrun.core.events import Event, Json
from agentrun.core.flow import Flow, pause
from agentrun.core.history import History, RecordedStep
from agentrun.core.log import logger
from agentrun.core.pauses import PollSchedule
from agentrun.core.secrets import mask
from agentrun.core.shell import write_command
from agentrun.core.state import divergence_decision, last_park
from agentrun.lifecycle import lost_journal
from agentrun.lifecycle.ending import error_for_caller, finish_run
from agentrun.lifecycle.options import Options
from agentrun.lifecycle.registry import RunnableAgent
from agentrun.lifecycle.related_runs import cancel_if_parent_ended, stop_if_parent_ended
from agentrun.lifecycle.run_ends import held_error, read_end
from agentrun.lifecycle.sigterm import executing, terminable
from agentrun.steps.blocking import blocking
from agentrun.steps.divergence_policy import OnDivergence, read_decisions, resumed_event
from agentrun.steps.execution_point import ExecutionPoint
from agentrun.steps.model_step import open_model_step, warn_of_responses
from agentrun.steps.run_context import RunContext
from agentrun.store.database import OpenDatabase
from agentrun.store.journal import JournalTail
from agentrun.store.liveness import Life
from agentrun.store.mail import has_news
from agentrun.store.opening import know_environment
from agentrun.store.patience import use_patience
from agentrun.store.runs import FoundRun, find_run
from agentrun.store.values import read_events
from agentrun.values.arguments import RecordedArguments
from agentrun.values.tagged_json import TypeMismatch, type_divergence

_LEAVING = 2.0  # seconds that an earlier claim of the same run gets to leave this process


@dataclass(frozen=True)
class ResumeRequest:
    """A person's request that a run goes on, made by `resume`: who, why, and how."""

    by: str
    reason: str | None = None
    on_divergence: OnDivergence | None = None


def start(
    agent: RunnableAgent,
    database: OpenDatabase,
    key: str,
    options: Options,
    arguments: RecordedArguments,
    parent: tuple[ExecutionPoint, int] | None = None,
) -> Flow[Any]:
    """Create or find the run, and execute it to its end; return its result.

    For a child run, ``parent`` is the parent's execution point and the number of its step.
    """
    if not database.executes:
        yield blocking(database.check_privileges)
    yield from create(agent, database, key, options, arguments, parent)
    return (yield from proceed(agent, database, key, options, None, parent and parent[0]))


def create(
    agent: RunnableAgent,
    database: OpenDatabase,
    key: str,
    options: Options,
    arguments: RecordedArguments,
    parent: tuple[ExecutionPoint, int] | None = None,
) -> Flow[None]:
    """Create the run, or check that the existing run has the same agent and arguments.

    Raises RunConflict if it has others.
    """
    check(arguments.args, "arguments")
    secret: bytes = yield blocking(lambda: database.mask_key)
    mark = fingerprint(arguments.compared, secret)
    given: dict[str, Json] = {"args": arguments.args}
    if parent is not None:
        given["parent"] = _parent_reference(*parent)
    if options.budget is not None:
        given["budget"] = options.budget.to_json()
    if options.deadline is not None:
        given["deadline"] = options.deadline
    if options.on_divergence is not None:
        given["on_divergence"] = options.on_divergence

    def create_run() -> bool:
        created = database.create(
            key,
            agent.name,
            given,
            mark,
            queue=options.queue,
            priority=options.priority,
            delay=options.delay,
            parent=parent and parent[0].run.run_id,
            budget=options.budget,
        )
        if parent is not None:
            cancel_if_parent_ended(parent[0].run, key)
        return created

    created: bool = yield blocking(create_run)
    if created:
        return
    run: FoundRun = yield blocking(lambda: find_run(database, key))
    if run.agent not in agent.names:
        raise RunConflict(
            f"run {key!r} belongs to agent {run.agent!r}, not {agent.name!r}. If that is a "
            f"former name of the agent: @agentrun.agent(aliases=({run.agent!r},)). Else choose "
            f"another key; `{write_command('resume', key, 'FILE')}` goes on with the run",
            key=key,
        )
    if run.fingerprint != mark:
        events, _ = yield blocking(partial(read_events, database, run.run_id))
        _check_same(agent, key, run.fingerprint, events[0].input["args"], arguments, secret)


def _check_same(
    agent: RunnableAgent,
    key: str,
    mark: str,
    recorded: dict[str, Json],
    arguments: RecordedArguments,
    secret: bytes,
) -> None:
    """Raise RunConflict if the arguments differ from the recorded ones, with fingerprint ``mark``.

    A parameter that was added to the function with a default makes no difference.
    """
    defaults = agent.arguments.defaults
    known = without_added(arguments.compared, recorded, arguments.args, defaults)
    if fingerprint(known, secret) == mark:
        return
    changes = different_arguments(mask(recorded)[0], mask(arguments.args)[0], defaults)
    raise RunConflict(
        f"run {key!r} was started with other arguments"
        f"{': ' if changes else ''}{'; '.join(changes)}. The same key means the same run: "
        f"`{write_command('resume', key, 'FILE')}` goes on with the recorded ones; for the new "
        "ones choose another key",
        key=key,
    )


def _parent_reference(parent: ExecutionPoint, step: int) -> dict[str, Json]:
    """The parent of a child run, as the child's first event records it."""
    above: dict[str, Json] = {"key": parent.run.key, "step": step}
    return {**above, "budgeted": True} if parent.run.budgeted else above


def _has_budget(given: dict[str, Json]) -> bool:
    return "budget" in given or bool(given.get("parent", {}).get("budgeted"))


def proceed(
    agent: RunnableAgent,
    database: OpenDatabase,
    key: str,
    options: Options,
    person: ResumeRequest | None,
    parent: ExecutionPoint | None = None,
) -> Flow[Any]:
    """Execute an existing run, or wait for its owner, until the run is done, failed, or held.

    ``person`` is set if a person resumes the run: only then a failed run is executed again.
    """
    schedule = PollSchedule()
    while True:
        run: FoundRun = yield blocking(partial(find_run, database, key))
        if run.status in ("done", "cancelled") or (run.status == "failed" and not person):
            events, _ = yield blocking(partial(read_events, database, run.run_id, exact=True))
            return read_end(key, events[-1], agent.arguments.result)
        if not person and (yield from _is_undecided(database, run)):
            if options.on_held == "raise":
                raise held_error(key, run.reason, run.parked_step)
            yield pause(schedule.next_pause())
            continue
        claim = _Claim(database, run, person)
        try:
            claimed = yield blocking(claim)
        except BaseException:
            claim.drop()
            raise
        if isinstance(claimed, str) and options.on_busy == "raise":
            raise RunConflict(f"run {key!r} is being executed by {claimed}", key=key)
        if claimed is None or isinstance(claimed, str):
            yield pause(schedule.next_pause())
            continue
        try:
            return (
                yield from execute(agent, database, key, options, claimed, person, parent=parent)
            )
        except LeaseLost:
            person = None  # another worker owns the run now: wait for its end
        except RunHeld as held:
            person = None  # the request is used up: from now on wait like any other caller
            if options.on_held == "raise" or held.step is None:
                raise
            logger.warning("%s", held)  # the only sign in this process that a person has to act


def _is_undecided(database: OpenDatabase, run: FoundRun) -> Flow[bool]:
    """Whether the run waits for a decision about a step, and nothing new has come."""
    if run.status != "held" or run.parked_step is None:
        return False
    news: bool = yield blocking(partial(has_news, database, run))
    return not news


class _Claim:
    """Claims a run, in a thread; hands it back if the caller was cancelled meanwhile.

    Cancelling the caller does not stop the thread. Without `drop`, the thread would claim a run
    that no code executes, and the run would stay owned as long as this process lives.
    """

    def __init__(self, database: OpenDatabase, run: FoundRun, person: ResumeRequest | None) -> None:
        self._database, self._run, self._person = database, run, person
        self._lock = threading.Lock()
        self._dropped = False
        self._tail: JournalTail | None = None

    def __call__(self) -> tuple[JournalTail, list[Event]] | str | None:
        """The claimed run; or the name of its live owner; or None if another claim was faster."""
        run, database = self._run, self._database
        owned, life = database.owner_of(run)
        if owned:
            return str(run.owner)
        claimed = database.claim(run, _claim_reason(run, life, self._person))
        if claimed is not None:
            with self._lock:
                self._tail = claimed[0]
                if self._dropped:
                    database.hand_back(self._tail)
        return claimed

    def drop(self) -> None:
        """Give the claim up, because its caller no longer waits."""
        with self._lock:
            self._dropped = True
            if self._tail is not None:
                self._database.hand_back(self._tail)


def _claim_reason(run: FoundRun, life: Life | None, person: ResumeRequest | None) -> str:
    if life is not None:
        return takeover_reason(life)
    if person is not None:
        return f"resumed by {person.by}"
    return "first claim" if run.epoch == 0 else f"was {run.status}"


def takeover_reason(life: Life) -> str:
    """The reason for a takeover, as the journal records it."""
    return f"took over from {life.worker}: {life.cause}"


# -- one claim -----------------------------------------------------------------------------------


def execute(
    agent: RunnableAgent,
    database: OpenDatabase,
    key: str,
    options: Options,
    claimed: tuple[JournalTail, list[Event]],
    person: ResumeRequest | None = None,
    *,
    parent: ExecutionPoint | None = None,
) -> Flow[Any]:
    """Execute a claimed run, and journal how it ends.

    ``claimed`` is the journal's tail, for writing, and its events, for the replay. ``parent`` is
    the execution point of a parent that executes its child run itself.
    """
    know_environment()  # a secret may have been set in the environment since `connect`
    tail, events = claimed
    run = RunContext(
        database,
        key,
        agent.name,
        tail,
        events,
        *_divergence_choice(agent, options, events, person, parent),
        options.in_place,
        options.on_held,
        open_model_step=open_model_step,
    )
    run.expires_at = _expires_at(run, events, person)
    run.budgeted = _has_budget(events[0].input)
    run.nested = parent is not None
    run.in_tool_body = parent is not None and (parent.scope.body or parent.run.in_tool_body)
    yield from _enter_process(run)
    if parent is not None:
        parent.run.children.append(run)
    else:
        run.parent = events[0].input.get("parent")
    try:
        executing.add(run)
        with terminable(), use_patience(run.patience):
            if person is not None:
                run.append(*reopening_events(run.history, person))
            elif last_park(events, "divergence"):
                yield from read_decisions(run)
            try:
                yield from _obey_earlier_end(run, tail.epoch)
                if person is None and (kept := last_park(events, "review")):
                    raise run.stop(Parking(kept.reason or "", parked_for="review"))
                arguments = _arguments(run, agent, events[0].input["args"])
                value = yield agent.body(ExecutionPoint(run, run.root), arguments)
            except BaseException as error:
                return (yield from finish_run(run, agent, None, error))
            return (yield from finish_run(run, agent, value, None))
    except (Parking, StoreLost) as away:  # the last event could not be written
        raise error_for_caller(run, away) from None
    except JournalLost as lost:
        raise (yield from lost_journal.restore_and_hold(run, lost)) from None
    finally:
        if run.pid == os.getpid():
            run.hand_back()  # for the case that a second interrupt skipped the last event
            run.stop(Interrupt(f"run {key!r} has ended in this process"))
            database.leave(run.run_id)
            executing.discard(run)
            if parent is not None:
                parent.run.children.remove(run)


def _obey_earlier_end(run: RunContext, epoch: int) -> Flow[None]:
    """Stop the run before its first step, if it was cancelled or has expired before this claim."""
    if epoch > 1:  # a cancellation may have come just before the run was parked
        yield blocking(run.database.obey_cancellations)
        if isinstance(run.interrupt, RunCancelled):
            warn_of_responses(run.key, run.history)
    if run.parent is not None and not run.history.last_step:
        yield blocking(partial(stop_if_parent_ended, run, run.parent["key"]))
    run.check(run.root)


def _arguments(run: RunContext, agent: RunnableAgent, stored: dict[str, Json]) -> dict[str, Any]:
    """The recorded arguments as typed values. Raises Diverging if they no longer fit the agent."""
    try:
        return agent.arguments.restore(stored)
    except TypeMismatch as changed:
        raise run.stop(
            type_divergence(f"the run of agent {agent.name!r}", "input", changed)
        ) from None


def _expires_at(
    run: RunContext, events: list[Event], person: ResumeRequest | None
) -> datetime | None:
    """The time of the run's deadline: counted from its submission, or from its last resume."""
    seconds = events[0].input.get("deadline")
    if seconds is None:
        return None
    begun = [event.at for event in events if event.event in ("created", "resumed") and event.at]
    return (run.heart.now() if person else begun[-1]) + timedelta(seconds=seconds)


def _divergence_choice(
    agent: RunnableAgent,
    options: Options,
    events: list[Event],
    person: ResumeRequest | None,
    parent: ExecutionPoint | None,
) -> tuple[str, str]:
    """What the run does on a divergence, and who chose it.

    The first choice that exists counts: of the person who resumes the run now, of this call's
    options, of a recorded decision, of the options at creation, of the agent, of the parent run.
    """
    if person is not None and person.on_divergence is not None:
        return person.on_divergence, person.by
    if options.on_divergence is not None:
        return options.on_divergence, "on_divergence"
    if (decided := divergence_decision(events)) is not None:
        return decided
    given = events[0].input.get("on_divergence")
    if given is None and agent.on_divergence == "refuse" and parent is not None:
        return parent.run.on_divergence, parent.run.diverged_by
    return given or agent.on_divergence, "on_divergence"


def _enter_process(run: RunContext) -> Flow[None]:
    """Wait until an earlier claim of the run, which has lost its lease, has left this process.

    If a step of the earlier claim takes longer than `_LEAVING`, the run is handed back, so that
    another process can execute it.
    """
    schedule, waited = PollSchedule(), 0.0
    try:
        while not run.database.enter(run.run_id, run):
            if waited >= _LEAVING:
                reason = "a step of an earlier claim is still under way in this process"
                later = run.heart.now() + timedelta(seconds=_LEAVING)
                yield run.end(Event(event="handed_back", reason=reason, wake_at=later))
                raise LeaseLost(f"run {run.key!r} was handed back: {reason}")
            rest = schedule.next_pause()
            yield pause(rest)
            waited += rest
    except BaseException:
        run.hand_back()
        raise


def reopening_events(history: History, person: ResumeRequest) -> list[Event]:
    """The events by which a failed run goes on: the step whose error ended the run is set aside.

    If that step is a tool whose body failed in an inner step, the inner step is set aside, too. If
    the run failed right after a person had said what became of a call, the code could not use that
    result, and the person is asked again.
    """
    events = [resumed_event(person.by, person.reason, person.on_divergence)]
    failed = history.by_number.get(history.failed_step or 0)
    if failed is None:
        events += [_reopened(one, person) for one in history.decided_since_reply()]
    while failed is not None and failed.outcome is not None and failed.outcome.status == "error":
        events.append(_reopened(failed, person))
        failed = history.last_step_inside(failed.ident)
    return events


def _reopened(known: RecordedStep, person: ResumeRequest) -> Event:
    return Event(
        event="resolved",
        step=known.step,
        status="reopened",
        by=person.by,
        kind=known.kind,
        ident=known.ident,
        name=known.name,
        reason=person.reason,
    )
