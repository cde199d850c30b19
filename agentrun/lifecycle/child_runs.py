"""An agent that is called inside a run is a child run. Its key derives from the parent's key.

The parent records one step for the child run. After a crash, the resumed step finds the child by
its key, whether the child is done, half-way, or not begun. If the child parks, the parent parks as
well; the child's end sends the parent a letter, which wakes it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from agentrun.core import witness
from agentrun.core.errors import Diverged, RunError, RunFailed, RunHeld
from agentrun.core.flow import Flow
from agentrun.core.identity import step_key
from agentrun.lifecycle import execute
from agentrun.lifecycle.options import Options
from agentrun.lifecycle.registry import RunnableAgent
from agentrun.steps.execution_point import ExecutionPoint
from agentrun.steps.open_step import open_step
from agentrun.steps.refusals import asking_database
from agentrun.steps.step import ActiveStep, StepRequest
from agentrun.steps.waits import await_letter, record_received
from agentrun.store.mail import Letter
from agentrun.values import exceptions
from agentrun.values.arguments import RecordedArguments


def call(agent: RunnableAgent, line: ExecutionPoint, arguments: RecordedArguments) -> Flow[Any]:
    """Execute the child run as a step; return its result, or raise the error it failed with."""
    request = StepRequest(
        kind="child",
        name=agent.name,
        effect="idempotent",
        input={"args": arguments.args},
        compared={"args": arguments.compared},
        aliases=agent.aliases,
        defaults=agent.arguments.defaults,
    )
    step = yield from open_step(line, request)
    return (
        yield from witness.witness_outcome(step.key, _execute_child(agent, line, step, arguments))
    )


def _execute_child(
    agent: RunnableAgent, line: ExecutionPoint, step: ActiveStep, arguments: RecordedArguments
) -> Flow[Any]:
    try:
        if step.outcome is None:
            run, known = line.run, line.run.history.steps.get(step.ident)
            begun_at = known.begun_at if known else step.ident
            key = agent.options.key or child_key(run.key, run.run_id, begun_at, step.key)
            yield from step.attempt(adopts=False)
            yield from _run_until_ended(agent, line, step, key, arguments)
    finally:
        step.leave()
    assert step.outcome is not None
    if step.outcome.status == "error":
        exceptions.throw(step.outcome.output["error"])
    return step.decode_result(agent.arguments.result.decode)


def child_key(parent: str, run_id: UUID, begun_at: str, key: str) -> str:
    """The key of the child run of a step of the run ``parent``.

    It names the place in the code where the step was begun, ``begun_at``. A step that an accepted
    divergence reuses elsewhere keeps this place, and so its child. A new step at the same place
    has another idempotency key, whose beginning is appended: it gets another child.
    """
    first = key == step_key(run_id, begun_at, 0)
    return f"{parent}/{begun_at}" if first else f"{parent}/{begun_at}~{key[:8]}"


def _run_until_ended(
    agent: RunnableAgent,
    line: ExecutionPoint,
    step: ActiveStep,
    key: str,
    arguments: RecordedArguments,
) -> Flow[None]:
    run = line.run
    options = _child_options(agent.options, line)
    while True:
        try:
            with asking_database(run):
                value = yield from execute.start(
                    agent, run.database, key, options, arguments, parent=(line, step.number)
                )
        except (RunHeld, Diverged) as held:
            run.check(step.scope)
            reason = f"waits for its child: {held}" if run.in_place else f"waits for child {key!r}"
            letter = yield from await_letter(
                step, lambda sent: _is_end(sent, step), None, "child", reason
            )
            if letter is not None:
                record_received(step, letter)
        except RunFailed as error:
            step.finish("error", {"error": exceptions.describe(error.__cause__ or error)})
            return
        except RunError as error:
            run.check(step.scope)
            step.finish("error", {"error": exceptions.describe(error)})
            return
        else:
            step.finish("ok", {"result": agent.arguments.result.record(value, agent.name)})
            return


def _child_options(given: Options, line: ExecutionPoint) -> Options:
    """The options of a child run. It waits as its parent does, but in place if no parent can park.

    A parent cannot park while it executes a step's body, because the body would be lost.
    """
    run = line.run
    if given.key is None:  # only this run has the key: a busy child is executed for this run
        given = replace(given, on_busy="wait")
    if line.scope.body or run.in_tool_body:
        return replace(given, in_place=True, on_held="wait")
    if not run.in_place:
        return replace(given, in_place=False, on_held="raise")
    return replace(given, on_held="wait") if run.on_held == "wait" else given


def _is_end(letter: Letter, step: ActiveStep) -> bool:
    return bool(letter.kind == "child" and letter.step == step.number)
